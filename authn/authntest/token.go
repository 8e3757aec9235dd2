package authntest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/kpopd/kpopd/authn"
)

// RunTokenVerifier checks what every verifier of tokens keeps to. a.Password is
// a token that v takes for a.Login, and for no other login.
func RunTokenVerifier(t *testing.T, v authn.TokenVerifier, a Account) {
	t.Helper()
	verify := func(ctx context.Context, login, token string) (*authn.Identity, error) {
		return v.VerifyToken(ctx, &authn.TokenRequest{Transport: &authn.Transport{}, Login: login, Token: authn.Password(token)})
	}
	for _, login := range []string{"", a.Login} {
		t.Run("right token for "+login, func(t *testing.T) {
			id, err := verify(t.Context(), login, a.Password)
			if err != nil || id == nil || id.User != a.Login {
				t.Fatalf("got %+v, %v", id, err)
			}
			id.User = "somebody else"
			again, err := verify(t.Context(), login, a.Password)
			if err != nil || again.User != a.Login {
				t.Errorf("two logins share an identity: %+v, %v", again, err)
			}
		})
	}
	refusals := []authn.Kind{authn.Rejected, authn.UnknownUser, authn.Decline}
	for _, tt := range []struct {
		name, login, token string
		want               []authn.Kind
	}{
		{"no token", a.Login, "", refusals},
		{"token without its last octet", a.Login, a.Password[:len(a.Password)-1], refusals},
		{"token without its first octet", a.Login, a.Password[1:], refusals},
		{"token with something behind it", a.Login, a.Password + "A", refusals},
		{"token twice", a.Login, a.Password + a.Password, refusals},
		{"something else", a.Login, "x", refusals},
		{"dots", a.Login, "..", refusals},
		{"something long", a.Login, strings.Repeat("x.", 10_000), refusals},
		{"another user's login", "no-such-user", a.Password, []authn.Kind{authn.Denied}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id, err := verify(t.Context(), tt.login, tt.token)
			if err == nil || id != nil || !slices.Contains(tt.want, authn.KindOf(err)) {
				t.Errorf("got %+v, %v, want a refusal of kind %v", id, err, tt.want)
			}
			var e *authn.Error
			if !errors.As(err, &e) || e.Step == "" {
				t.Errorf("%v is not an authn.Error that names its step", err)
			}
			if len(tt.token) > 10 && strings.Contains(err.Error(), tt.token[len(tt.token)-10:]) {
				t.Errorf("the error tells the token: %v", err)
			}
		})
	}
	t.Run("no time left", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		id, err := verify(ctx, a.Login, a.Password)
		if err != nil && authn.KindOf(err) != authn.Unavailable {
			t.Errorf("got %+v, %v", id, err)
		}
	})
}
