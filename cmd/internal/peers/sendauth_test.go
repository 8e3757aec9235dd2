package peers

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kpopd/kpopd/kpop/kpoptest"
	"github.com/kpopd/kpopd/krb5test"
)

// TestSendauth runs the handshake of both Kerberos libraries in the ways in
// which KPOP clients have used it.
func TestSendauth(t *testing.T) {
	t.Parallel()
	for _, lib := range []kpoptest.Library{kpoptest.MIT, kpoptest.Heimdal} {
		t.Run(string(lib), func(t *testing.T) {
			program := kpoptest.Client(t, lib)
			for _, c := range []client{
				sendauth("mutual", program, ""),
				sendauth("not mutual", program, "", "-n"),
				sendauth("commands before the greeting, as Heimdal's push", program, "", "-n", "-e"),
				sendauth("commands before the greeting, mutual", program, "", "-e"),
				sendauth("subkey", program, "", "-k"),
				sendauth("checksum over data", program, "", "-c", "some data"),
				sendauth("version of Eudora", program, "", "-n", "-v", "justjunk"),
				sendauth("service pop3, as Emacs", program, "pop3/localhost"),
			} {
				for _, kdc := range kdcs {
					t.Run(c.name+", "+kdc.name+" KDC", func(t *testing.T) {
						t.Parallel()
						c.need(t, ticketPrograms...)
						testKerberos(t, kdc.realm(t), c)
					})
				}
			}
		})
	}
}

// TestServiceKeys shows tickets whose key is the point.
func TestServiceKeys(t *testing.T) {
	t.Parallel()
	program := kpoptest.Client(t, kpoptest.MIT)
	for _, kdc := range kdcs {
		for _, c := range []struct{ name, service, shown string }{
			{"a ticket encrypted with rc4 is refused", "pop/rc4", "The ticket is encrypted with arcfour-hmac, which is not taken here"},
			{"a key for another service is refused", "host/localhost", "This ticket is for host/localhost@EXAMPLE.TEST, and a ticket for pop/HOST is needed"},
		} {
			t.Run(kdc.name+" KDC, "+c.name, func(t *testing.T) {
				t.Parallel()
				krb5test.Need(t, ticketPrograms...)
				r := kdc.realm(t)
				srv := start(t, r.keytab, "")
				srv.deliver(t, "alice", messages[:1])
				s := srv.session(t, "kpop", nil)
				s.user = "alice"
				r.login(s, "alice", "pw-alice", c.service)
				wantRefusal(s, sendauth("", program, c.service), c.shown)
			})
		}
		t.Run(kdc.name+" KDC, an old ticket opens the mail after the key has changed", func(t *testing.T) {
			t.Parallel()
			krb5test.Need(t, ticketPrograms...)
			testRotation(t, kdc.realm(t), program)
		})
	}
}

func testRotation(t *testing.T, r *realm, program string) {
	const service = "pop/rotated"
	c := sendauth("", program, service)
	keytab := func() string {
		path := filepath.Join(t.TempDir(), "keytab")
		if err := r.rotate(service, path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	srv := start(t, keytab(), "")
	srv.deliver(t, "alice", messages[:1])
	begin := func() *session {
		s := srv.session(t, "kpop", nil)
		s.user = "alice"
		r.login(s, "alice", "pw-alice", service)
		return s
	}
	old := begin()
	key, err := os.ReadFile(keytab())
	if err != nil {
		t.Fatal(err)
	}
	srv.write(t, "keytab", string(key)) // MIT's is without the old key
	srv.reload(t)
	for name, s := range map[string]*session{"new": begin(), "old": old} {
		if _, mail := c.fetch(s); string(mail) != messages[0].wire() {
			t.Errorf("the %s ticket gets %q", name, mail)
		}
	}
}

// sendauth is krb5_sendauth() of a real library in a program that shows the
// lines as they come, dots stuffed. service is "" for the usual one.
func sendauth(name, program, service string, flags ...string) client {
	const longest = 65_000
	if service != "" {
		flags = append(flags, "-p", service+"@EXAMPLE.TEST")
	}
	return client{
		name: name, door: "kpop", service: service,
		maxLine: longest, form: message.wire, names: true,
		fetch: func(s *session) (string, []byte) {
			s.t.Helper()
			argv := append(append([]string{program}, flags...), "localhost", s.port(), "USER "+s.user, "PASS "+s.user)
			for i := range carried(longest) {
				argv = append(argv, fmt.Sprintf("RETR %d", i+1))
			}
			shown := s.run(append(argv, "QUIT")...)
			return shown, unstuff(said(shown))
		},
	}
}

// said is what the server said to RETR in a program's report of the
// conversation.
func said(shown string) string {
	var b strings.Builder
	asked := false
	for line := range strings.Lines(shown) {
		if command, ok := strings.CutPrefix(line, "C: "); ok {
			asked = strings.HasPrefix(command, "RETR")
		} else if text, ok := strings.CutPrefix(line, "S: "); ok && asked {
			b.WriteString(strings.TrimSuffix(text, "\n") + "\r\n")
		}
	}
	return b.String()
}
