package ldap

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/ldap/ldaptest"
	"github.com/kpopd/kpopd/krb5test"
)

// patience is how long a test waits for what should happen at once.
const patience = time.Minute

func TestMain(m *testing.M) {
	code := m.Run()
	stop()
	if err := goleak.Find(); err != nil && code == 0 {
		println(err.Error())
		code = 1
	}
	os.Exit(code)
}

// start runs servers until the test ends.
func start(t testing.TB, o ldaptest.Options) *ldaptest.Directory {
	t.Helper()
	krb5test.Need(t, "slapd")
	d, err := startIn(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
		os.RemoveAll(d.Dir)
	})
	return d
}

func startIn(o ldaptest.Options) (*ldaptest.Directory, error) {
	dir, err := os.MkdirTemp("", "ldap") // t.TempDir is too long for a unix socket
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return ldaptest.Start(ctx, dir, o)
}

// one is a server that tests share which do it no harm.
var one = sync.OnceValues(func() (*ldaptest.Directory, error) { return startIn(ldaptest.Options{}) })

var used sync.Once // one was called

func shared(t testing.TB) *ldaptest.Directory {
	t.Helper()
	krb5test.Need(t, "slapd")
	used.Do(func() {})
	d, err := one()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func stop() {
	called := true
	used.Do(func() { called = false })
	if !called {
		return
	}
	if d, err := one(); err == nil {
		d.Stop()
		os.RemoveAll(d.Dir)
	}
}

// options find people of d by a search on its servers, as the service account.
func options(t testing.TB, d *ldaptest.Directory, urls ...string) Options {
	t.Helper()
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("pw-kpopd\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if urls == nil {
		urls = []string{d.Servers[0].LDAPS}
	}
	return Options{
		URLs: urls, CA: d.CA, Timeout: patience,
		Bind: BindSimple, BindDN: ldaptest.Service, BindPassword: password,
		Base: ldaptest.Base, Filter: "(&(objectClass=person)(|(uid=%u)(mail=%u)))",
		PrincipalFilter: "(&(objectClass=person)(krbPrincipalName=%p))",
		GroupBase:       ldaptest.Groups,
		Attributes: Attributes{
			User: "uid", Aliases: "mailLocalAddress", Groups: "memberOf", MailHost: "mailHost", Maildrop: "popMaildrop",
			Mechanisms: "popMechanism", Disabled: "popDisabled", Principals: "krbPrincipalName",
			Secrets: []SecretAttribute{{"CRAM-MD5", "popDigestSecret"}},
		},
	}
}

// open opens a verifier until the test ends.
func open(t testing.TB, o Options) Verifier {
	t.Helper()
	v, err := Open("dir", o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return v
}

func verify(ctx context.Context, v authn.PasswordVerifier, login, password string) (*authn.Identity, error) {
	return v.VerifyPassword(ctx, &authn.PasswordRequest{Login: login, Password: authn.Password(password)})
}
