package krb5pw_test

import (
	"errors"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/authntest"
	"github.com/kpopd/kpopd/authn/krb5"
	"github.com/kpopd/kpopd/authn/krb5pw"
	"github.com/kpopd/kpopd/krb5test"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// verifier asks a KDC of its own, in which alice's password is pw-alice.
func verifier(t testing.TB, o krb5pw.Options) *krb5pw.Verifier {
	t.Helper()
	k := krb5test.NewKDC("EXAMPLE.TEST")
	for _, user := range []string{"alice", "alice/admin", "Bob", "bob", "älice"} {
		k.AddUser(user, "pw-"+user)
	}
	k.AddService("pop/localhost")
	if err := k.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	kt, err := krb5.ParseKeytab(k.Keytab("pop/localhost"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := krb5.NewPasswords(krb5.PasswordOptions{Realm: "EXAMPLE.TEST", KDCs: []string{k.Addr()}, Keytab: kt})
	if err != nil {
		t.Fatal(err)
	}
	v, err := krb5pw.New("campus", p, o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestDomain(t *testing.T) {
	t.Parallel()
	for domain, ok := range map[string]bool{"": true, "partner.example": true, "a@b": false, "../x": false, "ＰＡ": false} {
		if _, err := krb5pw.New("x", nil, krb5pw.Options{Domain: domain}); (err == nil) != ok {
			t.Errorf("%q: %v", domain, err)
		}
	}
}

func TestVerifier(t *testing.T) {
	t.Parallel()
	authntest.RunVerifier(t, verifier(t, krb5pw.Options{}), authntest.Account{Login: "alice", Password: "pw-alice"})
}

func TestLogins(t *testing.T) {
	t.Parallel()
	exact := verifier(t, krb5pw.Options{MailDomains: []string{"example.org"}})
	foreign := verifier(t, krb5pw.Options{Domain: "partner.example", FoldCase: true})
	folded := verifier(t, krb5pw.Options{FoldCase: true})
	for _, tt := range []struct {
		name            string
		v               *krb5pw.Verifier
		login, password string
		user            string // "" for one that nobody has
	}{
		{"plain", exact, "alice", "pw-alice", "alice"},
		{"letters that are not ASCII", exact, "älice", "pw-älice", "älice"},
		{"mail domain", exact, "alice@example.org", "pw-alice", "alice"},
		{"mail domain in another case", exact, "alice@Example.ORG", "pw-alice", "alice"},
		{"realm", exact, "alice@EXAMPLE.TEST", "pw-alice", "alice"},
		{"realm in lower case", exact, "alice@example.test", "pw-alice", "alice"},
		{"other realm", exact, "alice@OTHER.TEST", "pw-alice", ""},
		{"other domain before ours", exact, "alice@evil.test@example.org", "pw-alice", ""},
		{"nobody in our domain", exact, "@example.org", "pw-alice", ""},
		{"two components", exact, "alice/admin", "pw-alice/admin", ""},
		{"case kept", exact, "Bob", "pw-Bob", "Bob"},
		{"case that nobody has", exact, "ALICE", "pw-alice", ""},
		{"case folded", folded, "ALICE", "pw-alice", "alice"},
		{"case folded, with realm", folded, "Alice@Example.Test", "pw-alice", "alice"},
		{"one that folding hides", folded, "Bob", "pw-bob", "bob"},
		{"domain of its own", foreign, "alice@partner.example", "pw-alice", "alice@partner.example"},
		{"domain of its own in another case", foreign, "Alice@Partner.Example", "pw-alice", "alice@partner.example"},
		{"without the domain", foreign, "alice", "pw-alice", ""},
		{"realm in place of the domain", foreign, "alice@EXAMPLE.TEST", "pw-alice", ""},
		{"NUL", exact, "alice\x00x", "pw-alice", ""},
		{"path", exact, "../alice", "pw-alice", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			id, err := tt.v.VerifyPassword(t.Context(), &authn.PasswordRequest{
				Transport: &authn.Transport{}, Login: tt.login, Password: authn.Password(tt.password),
			})
			if tt.user == "" {
				if authn.KindOf(err) != authn.UnknownUser || id != nil {
					t.Errorf("got %+v, %v", id, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			name, _, _ := strings.Cut(tt.user, "@")
			if id.User != tt.user || id.Authn != name+"@EXAMPLE.TEST" || !id.Expires.IsZero() {
				t.Errorf("got %+v", id)
			}
		})
	}
}

// The error of a refusal names the step and the KDC, and no password.
func TestErrorText(t *testing.T) {
	t.Parallel()
	v := verifier(t, krb5pw.Options{})
	_, err := v.VerifyPassword(t.Context(), &authn.PasswordRequest{Login: "alice", Password: authn.Password("pw-wrong")})
	var e *authn.Error
	if !errors.As(err, &e) || e.Step != "campus" || e.Kind != authn.Rejected {
		t.Fatalf("got %#v", err)
	}
	if s := err.Error(); !strings.Contains(s, "KDC 127.0.0.1:") || !strings.Contains(s, "wrong password (KRB-ERROR 24") || strings.Contains(s, "pw-") {
		t.Errorf("got %q", s)
	}
}
