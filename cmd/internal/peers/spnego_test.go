package peers

import (
	"strings"
	"testing"
)

// negotiating is what a site writes for clients that can do GSS-SPNEGO only.
// Cyrus SASL's bind to TLS 1.3 by tls-unique, which it does not have, and without
// the name of the binding: they get in where bindings are not looked at.
const negotiating = `
listeners:
  - {name: pop3, address: "127.0.0.1:0", tls: starttls, policy: old}
  - {name: pop3s, address: "127.0.0.1:0", tls: implicit, policy: old}
certificates:
  - {name: localhost, cert: cert.pem, key: key.pem}
policies:
  - {name: old, offers: [GSS-SPNEGO], chain: all}
chains:
  - {name: all, steps: [{use: tickets}]}
verifiers:
  - {name: tickets, type: principal, local_realms: [EXAMPLE.TEST]}
kerberos: {keytab: keytab, replay_cache: replay}
gssapi: {channel_binding: "off"}
pop3: {hostname: localhost}
maildrops: {root: mail}
log: {level: debug}
`

// Cyrus SASL with MIT's library negotiates Kerberos inside TLS, and has the layer
// that it asked for. Its strength is counted with that of TLS, 128 here.
func TestNegotiation(t *testing.T) {
	t.Parallel()
	for _, kdc := range kdcs {
		for _, way := range []struct {
			name    string
			layered bool
			client
		}{
			{"POP3S, no layer", false, pop3testAt("pop3s", "GSS-SPNEGO", "GSS-SPNEGO", "-s", "-l", "0")},
			{"POP3S, integrity", true, pop3testAt("pop3s", "GSS-SPNEGO", "GSS-SPNEGO", "-s", "-l", "129")},
			{"POP3S, privacy", true, pop3testAt("pop3s", "GSS-SPNEGO", "GSS-SPNEGO", "-s", "-l", "512")},
			{"STLS, privacy", true, pop3testAt("pop3", "GSS-SPNEGO", "GSS-SPNEGO", "-t", "", "-l", "512")},
		} {
			t.Run(kdc.name+", "+way.name, func(t *testing.T) {
				t.Parallel()
				c := way.client
				c.need(t, ticketPrograms...)
				r := kdc.realm(t)
				srv := startWith(t, r.keytab, negotiating)
				mail := carried(c.maxLine, c.rare...)
				srv.deliver(t, "alice", mail)
				begin := func(principal string) *session {
					s := srv.session(t, c.door, nil)
					s.user, s.password = "alice", "none"
					r.login(s, principal, "pw-alice", "pop/localhost")
					return s
				}
				wantMail(begin("alice"), c, mail)
				if line := srv.line(t, loggedIn); !strings.Contains(line, " mechanism=GSS-SPNEGO ") || strings.Contains(line, " layer=true ") != way.layered {
					t.Errorf("the log says %s", line)
				}
				wantRefusal(begin("alice@OTHER.TEST"), c, "alice@OTHER.TEST has no mailbox here")
			})
		}
	}
}
