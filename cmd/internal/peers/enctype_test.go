package peers

import (
	"strings"
	"testing"

	"github.com/kpopd/kpopd/kpop/kpoptest"
)

// TestSessionKeys has the KDC make session keys of what enctype the client asks
// for: each enctype has tokens of its own size.
func TestSessionKeys(t *testing.T) {
	t.Parallel()
	clients := []client{
		curl("GSSAPI", "pop3", "pop3", "--login-options", "AUTH=GSSAPI", "-u", ":"),
		pop3test("GSSAPI with integrity", "integrity", "1"),
		inc("GSSAPI with privacy", "privacy"),
		sendauth("KPOP, MIT library", kpoptest.Client(t, kpoptest.MIT), ""),
		sendauth("KPOP, Heimdal library", kpoptest.Client(t, kpoptest.Heimdal), ""),
	}
	for _, kdc := range kdcs {
		for _, enctype := range []string{
			"aes256-cts-hmac-sha384-192", "aes128-cts-hmac-sha256-128", "aes256-cts-hmac-sha1-96", "aes128-cts-hmac-sha1-96", "arcfour-hmac",
		} {
			for _, c := range clients {
				t.Run(kdc.name+" KDC, "+enctype+", "+c.name, func(t *testing.T) {
					t.Parallel()
					c.need(t, ticketPrograms...)
					testSessionKey(t, kdc.realm(t), enctype, c)
				})
			}
		}
	}
}

func testSessionKey(t *testing.T, r *realm, enctype string, c client) {
	srv := start(t, r.keytab, c.layers)
	mail := carried(c.maxLine, c.rare...)
	srv.deliver(t, "alice", mail)
	s := srv.session(t, c.door, nil)
	s.user, s.password = "alice", "none"
	r.login(s, "alice", "pw-alice", "pop/localhost", "-e", enctype)
	if enctype == "arcfour-hmac" {
		wantRefusal(s, c, "The session is encrypted with arcfour-hmac, which is not taken here")
		return
	}
	wantMail(s, c, mail)
	if want := " session_enctype=" + enctype + " "; !strings.Contains(srv.line(t, loggedIn), want) {
		t.Errorf("the log does not tell%s", want)
	}
}
