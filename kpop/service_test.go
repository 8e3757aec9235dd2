package kpop

import (
	"io"
	"net"
	"testing"

	"github.com/kpopd/kpopd/authn/krb5"
)

// TestRule120ServiceName: tickets are for the service "pop"; "pop3", which some
// sites have, is taken too. A ticket for another service of the host is
// refused, though the keytab has its key.
func TestRule120ServiceName(t *testing.T) {
	t.Parallel()
	for service, want := range map[string]bool{
		"pop/localhost": true, "pop3/localhost": true, "imap/localhost": false, "host/localhost": false, "POP/localhost": false, "pop": false,
	} {
		t.Run(service, func(t *testing.T) {
			t.Parallel()
			s := newSiteOf(t, 18, service)
			in := s.initiate(t, krb5.InitOptions{})
			_, _, _, err := accept(t, &Acceptor{Krb5: s.acceptor}, func(client net.Conn) {
				_, _ = io.WriteString(client, opened(in.APReq))
				_ = client.(*net.TCPConn).CloseWrite() // or the server waits for it after a refusal
			})
			if (err == nil) != want {
				t.Errorf("accepted: %t, %v", err == nil, err)
			}
		})
	}
}
