package app

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-sasl"

	"github.com/kpopd/kpopd/authn/ldap"
	"github.com/kpopd/kpopd/authn/ldap/ldaptest"
	"github.com/kpopd/kpopd/cmd/internal/config"
	"github.com/kpopd/kpopd/krb5test"
	"github.com/kpopd/kpopd/maildrop/maildir"
	"github.com/kpopd/kpopd/pop3/client"
)

const corporate = `listeners:
  - {name: inside, address: "127.0.0.1:0", policy: inside}
policies:
  - {name: inside, chain: staff, offers: [PLAIN, USER], plain: trusted, trusted: [127.0.0.0/8]}
chains:
  - {name: staff, steps: [{use: corp, timeout: 20s}, {use: gone}]}
verifiers:
  - {name: gone, type: deny, groups: [suspended], list: gone}
  - name: corp
    type: ldap
    urls: ["URL1", "URL2"]
    ca: ca.crt
    timeout: 10s
    retry: 1ms
    bind: simple
    bind_dn: cn=kpopd,ou=services,dc=example,dc=test
    bind_password: password
    base: ou=people,dc=example,dc=test
    filter: (&(objectClass=person)(|(uid=%u)(mail=%u)))
    group_base: ou=groups,dc=example,dc=test
    attributes: {user: uid, groups: memberOf, mail_host: mailHost, maildrop: popMaildrop, mechanisms: popMechanism, disabled: popDisabled}
maildrops: {root: mail, create: true}
limits: {failures: 100}
`

// directory starts two servers and makes the folder of a kpopd that asks them.
func directory(t *testing.T) (d *ldaptest.Directory, path string) {
	t.Helper()
	krb5test.Need(t, "slapd")
	dir, err := os.MkdirTemp("", "ldap") // t.TempDir is too long for a unix socket
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	d, err = ldaptest.Start(ctx, dir, ldaptest.Options{Servers: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
		os.RemoveAll(dir)
	})
	text := strings.NewReplacer("URL1", d.Servers[0].LDAPS, "URL2", d.Servers[1].LDAP, "ca.crt", d.CA).Replace(corporate)
	path = folder(t, text)
	if err := errors.Join(
		os.WriteFile(filepath.Join(filepath.Dir(path), "password"), []byte("pw-kpopd\n"), 0o600),
		os.WriteFile(filepath.Join(filepath.Dir(path), "gone"), []byte("user63\n"), 0o600),
		os.Mkdir(filepath.Join(filepath.Dir(path), "mail", "a"), 0o700),
		maildir.Make(filepath.Join(filepath.Dir(path), "mail", "a", "alice")),
	); err != nil {
		t.Fatal(err)
	}
	return d, path
}

// code is the response code of a refusal, "" for none, "OK" for a login.
func code(t *testing.T, err error) string {
	t.Helper()
	var refused *client.ServerError
	switch {
	case err == nil:
		return "OK"
	case errors.As(err, &refused):
		return refused.Code
	}
	t.Fatal(err)
	return ""
}

// Users of a directory log in through a listener, and hear why not.
func TestDirectory(t *testing.T) {
	t.Parallel()
	_, path := directory(t)
	s, log := serve(t, path)
	for _, tt := range []struct{ login, password, want string }{
		{"alice", "pw-alice", "OK"},
		{"Alice@EXAMPLE.test", "pw-alice", "OK"},
		{"grace", "pw-grace", "OK"},
		{"alice", "pw-wrong", "AUTH"},
		{"nobody", "pw-nobody", "AUTH"},
		{"locked", "pw-locked", "AUTH"},
		{"expired", "pw-expired", "AUTH"},
		{"mustchange", "pw-mustchange", "AUTH"},
		{"disabled", "pw-disabled", "AUTH"},
		{"bob", "pw-bob", "AUTH"},                    // GSSAPI and PLAIN only
		{"user62", "pw-user62", "AUTH"},              // of a group that is denied
		{"user63@example.test", "pw-user63", "AUTH"}, // on the list that denies
		{"astray", "pw-astray", "SYS/TEMP"},
	} {
		c := dial(t, s)
		if got := code(t, c.UserPass(t.Context(), tt.login, tt.password)); got != tt.want {
			t.Errorf("%s %s: got %s, want %s", tt.login, tt.password, got, tt.want)
		}
		if tt.want == "OK" {
			if err := c.Quit(t.Context()); err != nil {
				t.Error(err)
			}
		}
	}
	if got := code(t, dial(t, s).Auth(t.Context(), sasl.NewPlainClient("", "bob", "pw-bob"))); got != "OK" {
		t.Errorf("bob with PLAIN: got %s", got)
	}
	if err := s.Reload(t.Context()); err != nil {
		t.Error(err)
	}
	if got := code(t, dial(t, s).UserPass(t.Context(), "alice", "pw-alice")); got != "OK" {
		t.Errorf("after a reload: got %s", got)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(path), "gone"), []byte("user61\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Reload(t.Context()); err != nil {
		t.Error(err)
	}
	for login, want := range map[string]string{"user61": "AUTH", "user63": "OK"} {
		if got := code(t, dial(t, s).UserPass(t.Context(), login, "pw-"+login)); got != want {
			t.Errorf("%s with the list of a reload: got %s, want %s", login, got, want)
		}
	}
	s.Shutdown(nil) // and with it the log
	if _, err := os.Stat(filepath.Join(filepath.Dir(path), "mail", "a", "alice", "new")); err != nil {
		t.Error("the maildrop of the entry was not opened:", err)
	}
	for _, want := range []string{
		`login=Alice@EXAMPLE.test user=alice step=corp`,
		`note="password expired, 9`,
		`kind=denied .*locked by the password policy`,
		`kind=expired .*password expired`,
		`kind=expired .*password must be changed`,
		`kind=denied .*disabled in the directory`,
		`kind=denied .*bob may not log in with USER`,
		`kind=denied .*group suspended is on the list`,
		`kind=denied .*login=user63@example.test .*user63 is on the list`,
		`level=WARN msg=login kind=unavailable .*not a path below the root of the store`,
	} {
		if !matches(log.String(), want) {
			t.Errorf("the log has no %s:\n%s", want, log)
		}
	}
	if strings.Contains(log.String(), "pw-") {
		t.Errorf("a password is in the log:\n%s", log)
	}
}

// matches reports whether a line has the parts of want in order, with .* between.
func matches(text, want string) bool {
	for line := range strings.Lines(text) {
		found := true
		for part := range strings.SplitSeq(want, ".*") {
			_, line, found = strings.Cut(line, part)
			if !found {
				break
			}
		}
		if found {
			return true
		}
	}
	return false
}

// An outage is never told as a wrong password, and over as soon as the directory
// is back.
func TestDirectoryOutage(t *testing.T) {
	t.Parallel()
	d, path := directory(t)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	quick := strings.Replace(string(text), "    timeout: 10s\n", "    timeout: 1s\n", 1)
	if err := os.WriteFile(path, []byte(quick), 0o600); err != nil {
		t.Fatal(err)
	}
	s, log := serve(t, path)
	expect := func(when, want string) {
		t.Helper()
		for end := time.Now().Add(time.Minute); ; {
			c := dial(t, s)
			got := code(t, c.UserPass(t.Context(), "user00", "pw-user00"))
			if got == "OK" {
				if err := c.Quit(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if got == want {
				return
			}
			// a directory that comes back may need longer than an answer may
			if want != "OK" || got != "SYS/TEMP" || time.Now().After(end) {
				t.Fatalf("%s: got %s, want %s", when, got, want)
			}
		}
	}
	each := func(f func(*ldaptest.Server) error) {
		t.Helper()
		if err := errors.Join(f(d.Servers[0]), f(d.Servers[1])); err != nil {
			t.Fatal(err)
		}
	}
	expect("well", "OK")
	if err := d.Servers[0].Hang(); err != nil {
		t.Fatal(err)
	}
	expect("the first hangs", "OK")
	if err := d.Servers[1].Hang(); err != nil {
		t.Fatal(err)
	}
	expect("both hang", "SYS/TEMP")
	each((*ldaptest.Server).Resume)
	expect("both go on", "OK")
	if err := d.Servers[0].Kill(); err != nil {
		t.Fatal(err)
	}
	expect("the first is dead", "OK")
	if err := d.Servers[1].Hang(); err != nil {
		t.Fatal(err)
	}
	// the one that is left dies while a login waits for it
	c := dial(t, s)
	if _, err := c.Cmd(t.Context(), "USER user01"); err != nil {
		t.Fatal(err)
	}
	if err := c.Send(t.Context(), "PASS pw-user01"); err != nil {
		t.Fatal(err)
	}
	if err := d.Servers[1].Kill(); err != nil {
		t.Fatal(err)
	}
	_, err = c.Reply(t.Context())
	if got := code(t, err); got != "SYS/TEMP" {
		t.Errorf("killed in mid-login: got %s", got)
	}
	expect("both are dead", "SYS/TEMP")
	each(func(s *ldaptest.Server) error { return s.Start(t.Context()) })
	expect("both are back", "OK")
	s.Shutdown(nil) // and with it the log
	for _, want := range []string{
		`level=WARN msg="directory server failed" verifier=corp server=` + d.Servers[0].LDAPS,
		`level=WARN msg="directory server failed" verifier=corp server=` + d.Servers[1].LDAP,
		`level=INFO msg="directory server is back" verifier=corp server=` + d.Servers[0].LDAPS,
	} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log has no %s:\n%s", want, log)
		}
	}
}

// What a directory cannot be asked is refused at its key.
func TestDirectoryRefused(t *testing.T) {
	t.Parallel()
	text := strings.NewReplacer("URL1", "ldaps://a.example", "URL2", "ldap://b.example", "ca: ca.crt", "", ", list: gone", "").Replace(corporate)
	for _, tt := range []struct{ old, new, want string }{
		{"filter: (&(objectClass=person)(|(uid=%u)(mail=%u)))", "filter: (uid=%u", `k.yaml:19: verifiers[1].filter: "(uid=%u" is no filter: `},
		{"ldap://b.example", "http://b.example", "k.yaml:11: verifiers[1].urls[1]: "},
		{"ou=groups,dc", "groups,dc", "k.yaml:20: verifiers[1].group_base: "},
		{"", "", "k.yaml:17: verifiers[1].bind_password: open "},
	} {
		s, err := Start(t.Context(), folder(t, strings.Replace(text, tt.old, tt.new, 1)), &syncBuffer{})
		if err == nil {
			s.Shutdown(nil)
			t.Fatal("started")
		}
		if !strings.Contains(err.Error(), tt.want) {
			t.Errorf("got %v, want %s", err, tt.want)
		}
	}
}

// The directories of the examples can be asked.
func TestExampleDirectories(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../../configs/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("pw"), 0o600); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range files {
		cfg, err := config.Load(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range cfg.Verifiers {
			if v.Type != config.VerifierLDAP {
				continue
			}
			n++
			v.CA, v.Cert, v.Key = "", "", ""
			if v.BindPassword != "" {
				v.BindPassword = password
			}
			x, err := ldap.Open(v.Name, ldapOptions(v, nil))
			if err != nil {
				t.Errorf("%s: %v", f, err)
				continue
			}
			x.Close()
		}
	}
	if n < 2 {
		t.Errorf("%d examples of a directory", n)
	}
}
