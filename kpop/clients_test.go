package kpop

import (
	"net"
	"strings"
	"testing"

	"github.com/kpopd/kpopd/authn/krb5"
	"github.com/kpopd/kpopd/kpop/kpoptest"
)

// TestRealLibraries has krb5_sendauth of MIT and Heimdal shake hands with the
// acceptor, with tickets of each KDC.
func TestRealLibraries(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		versions []string
		options  string
		commands []string
		status   int
		out, err string // in what the client shows
	}{
		{"mutual authentication", nil, "", []string{"CAPA", "USER alice", "PASS krb_ticket", "STAT", "RETR 1", "QUIT"}, 0, "S: Subject: a ticket\nS: \nS: ..one dot\n", ""},
		{"none, and commands before the greeting, as Heimdal's push", nil, "-n -e", []string{"USER alice", "PASS hej", "STAT", "QUIT"}, 0, "S: +OK 1 ", ""},
		{"subkey", nil, "-k", []string{"USER alice", "PASS x", "QUIT"}, 0, "", ""},
		{"checksum over data", nil, "-c data", []string{"USER alice", "PASS x", "QUIT"}, 0, "", ""},
		{"Rule189 application version of Eudora", nil, "-v justjunk", nil, 2, "", "krb5_sendauth: "},
		{"Rule189 application version of Eudora, configured", []string{"KPOPV1.0", "justjunk"}, "-v justjunk", []string{"USER alice", "PASS x", "QUIT"}, 0, "", ""},
		{"Rule189 any application version", []string{"*"}, "-v x", []string{"QUIT"}, 0, "", ""},
		{"Rule193 ticket for another service", nil, "-s host", nil, 2, "", "server's error 35: This ticket is for host/localhost@EXAMPLE.TEST"},
		{"Rule195 another user's maildrop", nil, "", []string{"USER bob", "PASS krb_ticket", "QUIT"}, 3, "S: -ERR [AUTH] alice@EXAMPLE.TEST may not read bob\n", ""},
	}
	for _, enctype := range krb5.DefaultEnctypes() {
		for _, lib := range []kpoptest.Library{kpoptest.MIT, kpoptest.Heimdal} {
			t.Run(string(lib)+" "+krb5.EnctypeName(enctype), func(t *testing.T) {
				t.Parallel()
				r := newRealm(t, enctype)
				program := kpoptest.Client(t, lib)
				for _, tt := range tests {
					t.Run(tt.name, func(t *testing.T) {
						s := serve(t, r.acceptor, tt.versions...)
						_, port, _ := net.SplitHostPort(s.addr.String())
						args := append(strings.Fields(tt.options), "localhost", port)
						got := kpoptest.Run(t, r.env, program, append(args, tt.commands...)...)
						if got.Status != tt.status || !strings.Contains(got.Output, tt.out) || !strings.Contains(got.Errors, tt.err) {
							t.Errorf("%s", got)
						}
					})
				}
			})
		}
	}
}
