package peers

import (
	"strings"
	"testing"
)

// ruled lets alice act for a role mailbox, and closes CRAM-MD5 and APOP to
// clients, one before the login and one after it.
const ruled = `
policies:
  - name: internet
    offers: [GSSAPI, CRAM-MD5, APOP, PLAIN, LOGIN, USER]
    chain: all
    rules:
      - {mechanisms: [CRAM-MD5], action: deny, text: "CRAM-MD5 was retired, see https://help.example"}
      - {mechanisms: [APOP], users: [carol], action: deny, text: "APOP was retired, see https://help.example"}
    act:
      - {users: [alice], as: [support], action: allow}
`

// Real clients act for another, and show their user the site's own words.
func TestPolicyClients(t *testing.T) {
	t.Parallel()
	acting := curl("PLAIN for another", "pop3s", "pop3s", "--sasl-ir", "--sasl-authzid", "support", "--login-options", "AUTH=PLAIN", "-u", "USER:PASSWORD")
	foreign := curl("PLAIN for somebody", "pop3s", "pop3s", "--sasl-ir", "--sasl-authzid", "bob", "--login-options", "AUTH=PLAIN", "-u", "USER:PASSWORD")
	apop := curl("APOP", "pop3", "pop3", "--login-options", "AUTH=+APOP", "-u", "USER:PASSWORD")
	fetch := fetchmail("APOP", "pop3", "protocol apop", "sslproto ''")

	serve := func(t *testing.T, c client) *server {
		t.Helper()
		c.need(t)
		srv := start(t, inProcess.realm(t).keytab, "")
		text := strings.Replace(configuration, "LAYERS", "none", 1)
		old := "policies:\n  - {name: internet, offers: [GSSAPI, CRAM-MD5, APOP, PLAIN, LOGIN, USER], chain: all}\n"
		if !strings.Contains(text, old) {
			t.Fatal("the configuration has no such policy")
		}
		srv.write(t, "kpopd.yaml", strings.Replace(text, old, strings.TrimPrefix(ruled, "\n"), 1))
		srv.write(t, "users", users+"support:*\n")
		srv.reload(t)
		return srv
	}
	begin := func(t *testing.T, srv *server, c client, user string) *session {
		t.Helper()
		s := srv.session(t, c.door, nil)
		s.user, s.password = user, "pw-"+user
		return s
	}
	t.Run(acting.name, func(t *testing.T) {
		t.Parallel()
		srv := serve(t, acting)
		mail := carried(acting.maxLine, acting.rare...)
		srv.deliver(t, "support", mail)
		wantMail(begin(t, srv, acting, "alice"), acting, mail)
		srv.line(t, "login=alice user=support")
		wantRefusal(begin(t, srv, acting, "bob"), acting, "[AUTH]")
		wantRefusal(begin(t, srv, foreign, "alice"), foreign, "[AUTH]")
	})
	for _, c := range []client{apop, fetch} {
		t.Run(c.name+" retired", func(t *testing.T) {
			t.Parallel()
			srv := serve(t, c)
			srv.deliver(t, "carol", carried(c.maxLine, c.rare...))
			wantRefusal(begin(t, srv, c, "carol"), c, "APOP was retired, see https://help.example")
		})
	}
}
