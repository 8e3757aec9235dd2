package app

import (
	"crypto/tls"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/emersion/go-sasl"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/file"
	"github.com/kpopd/kpopd/authn/scram"
	"github.com/kpopd/kpopd/cmd/internal/certs"
	"github.com/kpopd/kpopd/krb5test"
	"github.com/kpopd/kpopd/maildrop/maildir"
	"github.com/kpopd/kpopd/pop3/client"
)

// example is a file of configs with the paths of a test in place of its own, and
// alice in its users file. more are other texts to replace, in pairs.
func example(t *testing.T, name string, more ...string) (path string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "..", "configs", name))
	if err != nil {
		t.Fatal(err)
	}
	path = folder(t, "")
	dir := filepath.Dir(path)
	pairs := append([]string{
		"/etc/kpopd", dir, "/var/lib/kpopd", dir, "/var/mail/kpopd", filepath.Join(dir, "mail"),
		`":110"`, `"127.0.0.1:0"`, `":995"`, `"127.0.0.1:0"`,
	}, more...)
	ca, err := certs.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := ca.Issue("localhost")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(
		os.WriteFile(path, []byte(strings.NewReplacer(pairs...).Replace(string(text))), 0o600),
		os.WriteFile(filepath.Join(dir, "mail.crt"), cert, 0o600), os.WriteFile(filepath.Join(dir, "mail.key"), key, 0o600),
	); err != nil {
		t.Fatal(err)
	}
	return path
}

// overTLS is dial with STLS.
func overTLS(t *testing.T, s *Server) *client.Client {
	t.Helper()
	c := dial(t, s)
	if err := c.StartTLS(t.Context(), &tls.Config{InsecureSkipVerify: true}); err != nil {
		t.Fatal(err)
	}
	return c
}

// The example for auditing lets everybody in as before, warns of those who use
// what should go, and tells whom the stricter policy would lock out.
func TestExampleAuditing(t *testing.T) {
	t.Parallel()
	path := example(t, "auditing.yaml", "10.0.0.0/8", "127.0.0.0/8")
	if err := file.SetSecret(filepath.Join(filepath.Dir(path), "digests"), "", "alice", "APOP", authn.Password("s3cret")); err != nil {
		t.Fatal(err)
	}
	s, log := serve(t, path)
	for how, in := range map[string]func() (*client.Client, error){
		"a password in the clear": func() (*client.Client, error) {
			c := dial(t, s)
			return c, c.UserPass(t.Context(), "alice", password)
		},
		"APOP": func() (*client.Client, error) {
			c := dial(t, s)
			return c, c.Apop(t.Context(), "alice", "s3cret")
		},
		"a password inside TLS": func() (*client.Client, error) {
			c := overTLS(t, s)
			return c, c.Auth(t.Context(), sasl.NewPlainClient("", "alice", password))
		},
	} {
		c, err := in()
		if err != nil {
			t.Errorf("%s: %v", how, err)
			continue
		}
		if err := c.Quit(t.Context()); err != nil {
			t.Error(err)
		}
	}
	s.Shutdown(nil)
	for _, want := range []string{
		`kind=accepted .*mechanism=USER .*tls=none rule=\S*k.yaml:\d+ action=warn shadow=strict shadow_action=deny`,
		`kind=accepted .*mechanism=APOP .*tls=none rule=\S*k.yaml:\d+ action=warn shadow=strict shadow_action=deny`,
		`kind=accepted .*mechanism=PLAIN .*tls="TLS 1.3" cipher=\S+ sni="" duration=`,
	} {
		if !logHas(log.String(), want) {
			t.Errorf("the log has no %s:\n%s", want, log)
		}
	}
}

// The example of a small site lets in with keys for SCRAM in the clear, and with
// the password inside TLS only.
func TestExampleSmallSite(t *testing.T) {
	t.Parallel()
	path := example(t, "scram.yaml", "192.0.2.10:1110", "127.0.0.1:0", "credential:digests.key", "digests.key")
	in := func(name string) string { return filepath.Join(filepath.Dir(path), name) }
	keys, err := scram.Make("SCRAM-SHA-256", authn.Password(password), 5000)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Check(path); err == nil || !strings.Contains(err.Error(), "; make it with kpopd passwd key "+in("salt.key")) {
		t.Errorf("without its key: %v", err)
	}
	if err := errors.Join(
		file.MakeKeyFile(in("digests.key")), file.MakeKeyFile(in("salt.key")),
		file.SetSecret(in("digests"), "", "alice", "SCRAM-SHA-256", keys.Text()),
	); err != nil {
		t.Fatal(err)
	}
	s, log := serve(t, path)
	clear := dial(t, s)
	var refused *client.ServerError
	if err := clear.Auth(t.Context(), sasl.NewPlainClient("", "alice", password)); !errors.As(err, &refused) {
		t.Errorf("PLAIN in the clear: %v", err)
	}
	if err := clear.Auth(t.Context(), newScramClient(t, "alice", clear, "")); err != nil {
		t.Errorf("SCRAM in the clear: %v", err)
	}
	if err := clear.Quit(t.Context()); err != nil {
		t.Error(err)
	}
	inside := overTLS(t, s)
	if err := inside.Auth(t.Context(), sasl.NewPlainClient("", "alice", password)); err != nil {
		t.Errorf("PLAIN inside TLS: %v", err)
	}
	if err := inside.Quit(t.Context()); err != nil {
		t.Error(err)
	}
	s.Shutdown(nil)
	if !logHas(log.String(), `msg="password re-hashed" verifier=users login=alice scheme=yescrypt`) {
		t.Errorf("the hash was not made anew:\n%s", log)
	}
}

// The example of a campus with a directory, at slapd and a KDC: a password inside
// TLS and a ticket open one maildrop, whoever is suspended stays outside.
func TestExampleCampus(t *testing.T) {
	t.Parallel()
	d, _ := directory(t)
	path := example(
		t, "campus-ldap.yaml", "10.1.2.3:1109", "127.0.0.1:0",
		"ldaps://ldap1.campus.example", d.Servers[0].LDAPS, "ldaps://ldap2.campus.example", d.Servers[1].LDAPS,
		"dc=campus,dc=example", "dc=example,dc=test", "mail.campus.example", "localhost",
		"posixAccount", "person", "nsAccountLock", "popDisabled", "mailAlternateAddress", "mailLocalAddress",
	)
	in := func(name string) string { return filepath.Join(filepath.Dir(path), name) }
	ca, err := os.ReadFile(d.CA)
	if err != nil {
		t.Fatal(err)
	}
	kdc := krb5test.NewKDC("EXAMPLE.TEST")
	kdc.AddUser("alice", "pw-alice")
	kdc.AddService(service)
	t.Cleanup(func() { kdc.Close() })
	if err := errors.Join(
		kdc.Listen("127.0.0.1:0"), kdc.WriteKeytab(in("keytab"), service),
		os.WriteFile(in("ldap-ca.pem"), ca, 0o600), os.WriteFile(in("ldap-password"), []byte("pw-kpopd\n"), 0o600),
		os.WriteFile(in("suspended"), []byte("user61\n"), 0o600),
		os.MkdirAll(in("mail/a/alice"), 0o700), maildir.Make(in("mail/a/alice/Maildir")),
	); err != nil {
		t.Fatal(err)
	}
	s, log := serve(t, path)
	for login, want := range map[string]string{
		"alice": "+OK", "alice@example.test": "+OK", "user61": "AUTH", "user62": "AUTH", "disabled": "AUTH", "nobody": "AUTH",
	} {
		user, _, _ := strings.Cut(login, "@")
		c := overTLS(t, s)
		if got := codeOf(t, c.Auth(t.Context(), sasl.NewPlainClient("", login, "pw-"+user))); got != want {
			t.Errorf("%s: %s, want %s", login, got, want)
		}
		if err := c.Quit(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if err := show(t.Context(), s, 2, initiate(t, login(t, kdc, "EXAMPLE.TEST"))); err != nil {
		t.Errorf("with a ticket: %v", err)
	}
	s.Shutdown(nil)
	if !logHas(log.String(), `kind=accepted .*mechanism=KPOP login=alice user=alice step=directory principal=alice@EXAMPLE.TEST`) {
		t.Errorf("the log does not tell of the ticket:\n%s", log)
	}
}
