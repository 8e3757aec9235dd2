// Package authntest has what tests of mechanisms and verifiers share: a fake
// verifier, the rules that all verifiers keep, the rules that all mechanisms
// keep.
package authntest

import (
	"context"
	"crypto/x509"
	"errors"
	"maps"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/kpopd/kpopd/authn"
)

// Fake is a verifier of every sort. Its zero value knows nobody.
type Fake struct {
	Step         string                                        // its name, "fake" when empty
	Passwords    map[string]string                             // login to password
	Secrets      map[string]map[string]string                  // scheme to login to secret
	Principals   map[string][]string                           // Principal.String() to logins, the first for clients that ask for none
	Certificates map[string]string                             // common name to login
	Tokens       map[string]string                             // token to login
	Attrs        map[string]string                             // of every identity
	Err          error                                         // answer to everything when not nil
	Hook         func(context.Context, *authn.PasswordRequest) // runs before a password is judged
	Asked        atomic.Int64                                  // how often it was asked
}

var (
	_ authn.PasswordVerifier  = (*Fake)(nil)
	_ authn.SecretSource      = (*Fake)(nil)
	_ authn.PrincipalMapper   = (*Fake)(nil)
	_ authn.CertificateMapper = (*Fake)(nil)
	_ authn.TokenVerifier     = (*Fake)(nil)
)

// Name implements [authn.Verifier].
func (f *Fake) Name() string {
	if f.Step == "" {
		return "fake"
	}
	return f.Step
}

// Chain is a chain of f alone.
func (f *Fake) Chain() authn.Chain { return authn.Chain{{Verifier: f}} }

func (f *Fake) identity(user string) *authn.Identity {
	return &authn.Identity{User: user, Attrs: maps.Clone(f.Attrs)}
}

func (f *Fake) fail(kind authn.Kind) error { return &authn.Error{Kind: kind, Step: f.Name()} }

// VerifyPassword implements [authn.PasswordVerifier].
func (f *Fake) VerifyPassword(ctx context.Context, r *authn.PasswordRequest) (*authn.Identity, error) {
	f.Asked.Add(1)
	if f.Hook != nil {
		f.Hook(ctx, r)
	}
	p, ok := f.Passwords[r.Login]
	switch {
	case f.Err != nil:
		return nil, f.Err
	case !ok:
		return nil, f.fail(authn.UnknownUser)
	case p != string(r.Password):
		return nil, f.fail(authn.Rejected)
	}
	return f.identity(r.Login), nil
}

// Secret implements [authn.SecretSource].
func (f *Fake) Secret(_ context.Context, login, scheme string) (authn.Password, *authn.Identity, error) {
	f.Asked.Add(1)
	s, ok := f.Secrets[scheme][login]
	switch {
	case f.Err != nil:
		return nil, nil, f.Err
	case !ok:
		return nil, nil, f.fail(authn.UnknownUser)
	}
	return authn.Password(s), f.identity(login), nil
}

// MapPrincipal implements [authn.PrincipalMapper].
func (f *Fake) MapPrincipal(_ context.Context, p *authn.Principal, authzid string) (*authn.Identity, error) {
	f.Asked.Add(1)
	if f.Err != nil {
		return nil, f.Err
	}
	logins := f.Principals[p.String()]
	if authzid == "" && len(logins) > 0 {
		authzid = logins[0]
	}
	if !slices.Contains(logins, authzid) {
		return nil, f.fail(authn.Denied)
	}
	id := f.identity(authzid)
	id.Authn, id.Expires = p.String(), p.Expires
	return id, nil
}

// VerifyToken implements [authn.TokenVerifier].
func (f *Fake) VerifyToken(_ context.Context, r *authn.TokenRequest) (*authn.Identity, error) {
	f.Asked.Add(1)
	login, ok := f.Tokens[string(r.Token)]
	switch {
	case f.Err != nil:
		return nil, f.Err
	case !ok:
		return nil, f.fail(authn.Rejected)
	case r.Login != "" && r.Login != login:
		return nil, f.fail(authn.Denied)
	}
	return f.identity(login), nil
}

// MapCertificate implements [authn.CertificateMapper].
func (f *Fake) MapCertificate(_ context.Context, chain []*x509.Certificate) (*authn.Identity, error) {
	f.Asked.Add(1)
	login, ok := f.Certificates[chain[0].Subject.CommonName]
	switch {
	case f.Err != nil:
		return nil, f.Err
	case !ok:
		return nil, f.fail(authn.UnknownUser)
	}
	return f.identity(login), nil
}

// Account is a user that a verifier under test knows.
type Account struct{ Login, Password string }

// RunVerifier checks what every verifier of passwords keeps to. a is a user
// that v lets in.
func RunVerifier(t *testing.T, v authn.PasswordVerifier, a Account) {
	t.Helper()
	verify := func(ctx context.Context, login, password string) (*authn.Identity, error) {
		return v.VerifyPassword(ctx, &authn.PasswordRequest{Transport: &authn.Transport{}, Login: login, Password: authn.Password(password)})
	}
	t.Run("right password", func(t *testing.T) {
		id, err := verify(t.Context(), a.Login, a.Password)
		if err != nil || id == nil || id.User == "" {
			t.Fatalf("got %+v, %v", id, err)
		}
		if id.Attrs != nil {
			id.Attrs["spoiled"] = "yes"
		}
		id.User = "somebody else"
		again, err := verify(t.Context(), a.Login, a.Password)
		if err != nil || again.User == id.User || again.Attrs["spoiled"] != "" {
			t.Errorf("two logins share an identity: %+v, %v", again, err)
		}
	})
	for _, tt := range []struct {
		name, login, password string
		want                  []authn.Kind
	}{
		{"wrong password", a.Login, a.Password + "x", []authn.Kind{authn.Rejected}},
		{"empty password", a.Login, "", []authn.Kind{authn.Rejected}},
		{"password without its last octet", a.Login, a.Password[:len(a.Password)-1], []authn.Kind{authn.Rejected}},
		{"password of 1,025 octets", a.Login, string(make([]byte, authn.MaxPassword+1)), []authn.Kind{authn.Rejected}},
		{"unknown user", "no-such-user", a.Password, []authn.Kind{authn.UnknownUser, authn.Rejected}},
		{"empty login", "", a.Password, []authn.Kind{authn.UnknownUser, authn.Rejected}},
		{"login that matches everything", "*", a.Password, []authn.Kind{authn.UnknownUser, authn.Rejected}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id, err := verify(t.Context(), tt.login, tt.password)
			if err == nil || id != nil || !slices.Contains(tt.want, authn.KindOf(err)) {
				t.Errorf("got %+v, %v, want a refusal of kind %v", id, err, tt.want)
			}
			var e *authn.Error
			if !errors.As(err, &e) || e.Step == "" {
				t.Errorf("%v is not an authn.Error that names its step", err)
			}
		})
	}
	t.Run("no time left", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		// an answer that needed no waiting is as good as an outage; a
		// refusal would be a lie
		id, err := verify(ctx, a.Login, a.Password)
		if err != nil && authn.KindOf(err) != authn.Unavailable {
			t.Errorf("got %+v, %v", id, err)
		}
	})
}
