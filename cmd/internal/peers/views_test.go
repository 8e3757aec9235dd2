package peers

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// viewsConfiguration has every view. Passwords are those of [users].
var viewsConfiguration = strings.NewReplacer("LAYERS", "none").Replace(configuration) + `
views:
  folders: "+"
  recent: 720h
  envelopes: true
  hosts:
    - {user: bob, domains: [physics.example.org]}
`

// startViews has mail in alice's folder, in her inbox long ago, and in bob's
// maildrop for the people of a domain.
func startViews(t *testing.T, mail []message) *server {
	t.Helper()
	srv := startWith(t, inProcess.realm(t).keytab, viewsConfiguration)
	srv.deliver(t, "alice/.Lists.kpopd", mail)
	srv.deliver(t, "alice", nil)
	old := filepath.Join(srv.dir, "mail", "alice", "new", "1000000000.old")
	if err := os.WriteFile(old, []byte("Subject: old\n\nold\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return srv
}

// These put the folder where their users write the login name, whatever that
// becomes in the mechanism: the name given to USER and APOP, the authcid and no
// authzid of PLAIN and LOGIN, the user of CRAM-MD5.
func TestClientsOpenFolders(t *testing.T) {
	t.Parallel()
	for _, c := range []client{
		fetchmail("USER", "pop3s", "protocol pop3 auth password", "ssl"),
		curl("PLAIN", "pop3s", "pop3s", "--login-options", "AUTH=PLAIN", "-u", "USER:PASSWORD"),
		curl("PLAIN with authzid", "pop3s", "pop3s", "--login-options", "AUTH=PLAIN", "--sasl-authzid", "USER", "-u", "alice:PASSWORD"),
		curl("LOGIN", "pop3s", "pop3s", "--login-options", "AUTH=LOGIN", "-u", "USER:PASSWORD"),
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.need(t)
			mail := carried(c.maxLine, c.rare...)
			srv := startViews(t, mail)
			begin := func(user, password string) *session {
				s := srv.session(t, c.door, nil)
				s.user, s.password = user, password
				return s
			}
			wantMail(begin("alice+Lists.kpopd", "pw-alice"), c, mail)
			srv.line(t, "user=alice step=local view=folder:Lists.kpopd ")
			wantRefusal(begin("alice+Nowhere", "pw-alice"), c, "[SYS/PERM]")
			wantRefusal(begin("alice+Lists.kpopd", "pw-wrong"), c, "[AUTH]")
		})
	}
}

// Tickets open folders too: the name given to USER on a KPOP connection, and the
// authzid of GSSAPI.
func TestTicketsOpenFolders(t *testing.T) {
	t.Parallel()
	for _, c := range []client{
		fetchmailKPOP("KPOP", "sslproto ''"),
		curl("GSSAPI with authzid", "pop3", "pop3", "--login-options", "AUTH=GSSAPI", "--sasl-authzid", "USER", "-u", ":"),
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.need(t, ticketPrograms...)
			r := inProcess.realm(t)
			mail := carried(c.maxLine, c.rare...)
			srv := startViews(t, mail)
			v := &visits{client: c, realm: r, srv: srv, mail: mail}
			s := v.begin(t, "alice", nil)
			s.user = "alice+Lists/kpopd"
			wantMail(s, c, mail)
			srv.line(t, "view=folder:Lists/kpopd ")
		})
	}
}

// fetchmail takes from *ENV for whom a message is and who has sent it, and nothing
// from what its sender wrote.
func TestFetchmailSDPS(t *testing.T) {
	t.Parallel()
	c := fetchmail("SDPS", "pop3s", "", "")
	c.trial = "fetchmail -V | grep -q +SDPS"
	c.need(t)
	srv := startViews(t, nil)
	box := filepath.Join("mail", "bob", "new")
	srv.deliver(t, "bob", nil)
	for i, head := range []string{
		"Return-Path: <sender@example.net>\nX-Original-To: alice@physics.example.org\nDelivered-To: bob@localhost\nReceived: from x by y\nDelivered-To: forged@physics.example.org\n",
		"Return-Path: <>\nDelivered-To: carol@physics.example.org\nReceived: from x by y\n",
	} {
		srv.write(t, filepath.Join(box, fmt.Sprintf("170000000%d.M1P1.host", i)), head+"From: liar@example.net\nTo: crowd@example.net\nSubject: x\n\nbody\n")
	}
	collect := func(user string) (shown, got string) {
		s := srv.session(t, "pop3s", nil)
		rc := s.write("fetchmailrc", fmt.Sprintf(`set no syslog
set no bouncemail
set postmaster nobody
poll localhost protocol sdps auth password service %s no dns timeout 20 localdomains physics.example.org
	user %q password "pw-bob" is * here
	ssl sslcertck sslcertfile %q
	keep fetchall no rewrite
	mda "echo %%F %%T >>'%s/got'; cat >/dev/null"
`, s.port(), user, s.ca, s.home))
		shown = s.run("fetchmail", "-v", "-v", "--nodetach", "-f", rc, "-i", s.home+"/ids", "--pidfile", s.home+"/pid")
		return shown, string(s.read("got"))
	}
	for user, want := range map[string]string{
		"bob":                       "sender@example.net alice@physics.example.org\n<> carol@physics.example.org\n",
		"carol+bob":                 "<> carol@physics.example.org\n",
		"alice@physics.example.org": "sender@example.net alice@physics.example.org\n",
		"recent:bob":                "",
	} {
		shown, got := collect(user)
		if got != want {
			t.Errorf("as %s it has\n%s, want\n%s\n%s", user, cmp.Or(got, "nothing"), want, shown)
		}
	}
	srv.line(t, "user=bob step=local view=recipient:carol ")
}
