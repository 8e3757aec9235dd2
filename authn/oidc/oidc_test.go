package oidc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/authntest"
	"github.com/kpopd/kpopd/authn/oidc/oidctest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const issuer = "https://sso.campus.example"

// keyOf is one key for each algorithm, shared: RSA keys take their time.
var keyOf = sync.OnceValue(func() map[string]*oidctest.Key {
	keys := map[string]*oidctest.Key{}
	for _, alg := range Algorithms() {
		keys[alg] = oidctest.NewKey("key-"+alg, alg)
	}
	return keys
})

func allKeys() []*oidctest.Key {
	var keys []*oidctest.Key
	for _, alg := range Algorithms() {
		keys = append(keys, keyOf()[alg])
	}
	return keys
}

func write(t testing.TB, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// options are for tokens of the test's issuer and a key set in a file.
func options(t testing.TB, change func(*Options)) Options {
	t.Helper()
	o := Options{
		Issuer: issuer, Audiences: []string{"kpopd", "pop"}, Scopes: []string{"mail"}, User: "preferred_username",
		Leeway: time.Hour, // nobody's clock and no slow machine makes a difference
		Keys:   write(t, "keys.json", oidctest.Set(allKeys()...)),
	}
	if change != nil {
		change(&o)
	}
	return o
}

func open(t testing.TB, o Options) *Verifier {
	t.Helper()
	v, err := New("sso", o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeIdle(v) })
	return v
}

// atURL are options for the keys that i publishes.
func atURL(t testing.TB, i *oidctest.Issuer) Options {
	t.Helper()
	return options(t, func(o *Options) {
		o.Keys, o.CA = i.URL+oidctest.KeysPath, write(t, "ca.pem", i.CA())
		o.Cache = filepath.Join(t.TempDir(), "cache.json")
	})
}

// asking are options for introspection by i.
func asking(t testing.TB, i *oidctest.Issuer) Options {
	t.Helper()
	return options(t, func(o *Options) {
		o.Keys, o.CA = "", write(t, "ca.pem", i.CA())
		o.Introspection, o.ClientID, o.ClientSecret = i.URL+oidctest.IntrospectionPath, i.Client, write(t, "secret", []byte(i.Secret+"\n"))
	})
}

func verify(ctx context.Context, v *Verifier, login, token string) (*authn.Identity, error) {
	return v.VerifyToken(ctx, &authn.TokenRequest{Transport: &authn.Transport{}, Login: login, Token: authn.Password(token)})
}

// wantKind wants a refusal of a kind.
func wantKind(t *testing.T, id *authn.Identity, err error, want authn.Kind) {
	t.Helper()
	if err == nil || id != nil || authn.KindOf(err) != want {
		t.Errorf("got %+v, %v, want %v", id, err, want)
	}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	for _, alg := range Algorithms() {
		t.Run(alg, func(t *testing.T) {
			t.Parallel()
			v := open(t, options(t, func(o *Options) { o.Algorithms = []string{alg} }))
			token := keyOf()[alg].Sign(oidctest.Claims(issuer, nil))
			authntest.RunTokenVerifier(t, v, authntest.Account{Login: "alice", Password: token})
		})
	}
	t.Run("introspection", func(t *testing.T) {
		t.Parallel()
		i := oidctest.Start(t)
		i.Know("opaque+token/of~40.octets_and-more==", oidctest.Claims(issuer, nil))
		authntest.RunTokenVerifier(t, open(t, asking(t, i)), authntest.Account{Login: "alice", Password: "opaque+token/of~40.octets_and-more=="})
	})
}

// claimed are changes of the claims of a good token, and of what is asked of it.
var claimed = []struct {
	name    string
	changes map[string]any
	options func(*Options)
	login   string
	user    string
	want    authn.Kind
}{
	{"good", nil, nil, "alice", "alice", 0},
	{"no login asked for", nil, nil, "", "alice", 0},
	{"somebody else", nil, nil, "bob", "", authn.Denied},
	{"one of two audiences", map[string]any{"aud": []string{"other", "pop"}}, nil, "", "alice", 0},
	{"another audience", map[string]any{"aud": "kpopd2"}, nil, "", "", authn.Rejected},
	{"audience with ours in it", map[string]any{"aud": "kpopd pop"}, nil, "", "", authn.Rejected},
	{"no audience", map[string]any{"aud": nil}, nil, "", "", authn.Rejected},
	{"audience that is a number", map[string]any{"aud": 7}, nil, "", "", authn.Rejected},
	{"name in capitals", map[string]any{"aud": nil, "AUD": "kpopd"}, nil, "", "", authn.Rejected},
	{"ran out", map[string]any{"exp": ago(2 * time.Hour)}, nil, "", "", authn.Expired},
	{"ran out within the leeway", map[string]any{"exp": ago(30 * time.Minute)}, nil, "", "alice", 0},
	{"ran out, more leeway", map[string]any{"exp": ago(2 * time.Hour)}, func(o *Options) { o.Leeway = 3 * time.Hour }, "", "alice", 0},
	{"end with a fraction", map[string]any{"exp": float64(ago(-time.Hour)) + 0.5}, nil, "", "alice", 0},
	{"end in quotes", map[string]any{"exp": fmt.Sprint(ago(-time.Hour))}, nil, "", "", authn.Rejected},
	{"end that no clock shows", map[string]any{"exp": 1e300}, nil, "", "", authn.Rejected},
	{"end before all time", map[string]any{"exp": -1}, nil, "", "", authn.Rejected},
	{"end is null", map[string]any{"exp": null{}}, nil, "", "", authn.Rejected},
	{"not good yet", map[string]any{"nbf": ago(-2 * time.Hour)}, nil, "", "", authn.Rejected},
	{"not good yet within the leeway", map[string]any{"nbf": ago(-30 * time.Minute)}, nil, "", "alice", 0},
	{"no beginning", map[string]any{"nbf": nil}, nil, "", "alice", 0},
	{"beginning is no date", map[string]any{"nbf": "now"}, nil, "", "", authn.Rejected},
	{"scope as a list", map[string]any{"scope": []string{"openid", "mail"}}, nil, "", "alice", 0},
	{"scp as a text", map[string]any{"scope": nil, "scp": "x mail"}, nil, "", "alice", 0},
	{"scp as a list", map[string]any{"scope": nil, "scp": []string{"mail"}}, nil, "", "alice", 0},
	{"scope is missing", map[string]any{"scope": "openid mail.send"}, nil, "", "", authn.Rejected},
	{"no scope", map[string]any{"scope": nil}, nil, "", "", authn.Rejected},
	{"no scope is needed", map[string]any{"scope": nil}, func(o *Options) { o.Scopes = nil }, "", "alice", 0},
	{"no name", map[string]any{"preferred_username": nil}, nil, "", "", authn.UnknownUser},
	{"name that is a list", map[string]any{"preferred_username": []string{"alice"}}, nil, "", "", authn.UnknownUser},
	{"name that is a path", map[string]any{"preferred_username": "../alice"}, nil, "", "", authn.UnknownUser},
	{"name in another form of Unicode", map[string]any{"preferred_username": "u\u0308mit"}, nil, "ümit", "ümit", 0},
	{"case counts", map[string]any{"preferred_username": "Alice"}, nil, "alice", "", authn.Denied},
	{"case does not count", map[string]any{"preferred_username": "Alice"}, fold, "aLICE", "alice", 0},
	{"address", nil, byMail, "alice@campus.example", "alice@campus.example", 0},
	{"address is not its local part", nil, byMail, "alice", "", authn.Denied},
	{"address without its domain", nil, stripped, "alice", "alice", 0},
	{"address in capitals without its domain", map[string]any{"email": "alice@Campus.Example"}, stripped, "alice@CAMPUS.example", "alice", 0},
	{"address of another domain", map[string]any{"email": "alice@evil.example"}, stripped, "alice", "", authn.UnknownUser},
	{"address of a subdomain", map[string]any{"email": "alice@x.campus.example"}, stripped, "alice", "", authn.UnknownUser},
	{"address of two domains", map[string]any{"email": "alice@evil.example@campus.example"}, stripped, "", "", authn.UnknownUser},
	{"domain alone", map[string]any{"email": "@campus.example"}, stripped, "", "", authn.UnknownUser},
	{"login of another domain", nil, stripped, "alice@evil.example", "", authn.Denied},
	{"address not verified", map[string]any{"email_verified": false}, stripped, "alice", "", authn.Rejected},
	{"address verified in quotes", map[string]any{"email_verified": "true"}, stripped, "alice", "alice", 0},
	{"nothing said of the address", map[string]any{"email_verified": nil}, stripped, "alice", "alice", 0},
}

// null is a claim that is there and says nothing.
type null struct{}

func (null) MarshalJSON() ([]byte, error) { return []byte("null"), nil }

func ago(d time.Duration) int64 { return time.Now().Add(-d).Unix() }
func fold(o *Options)           { o.FoldCase = true }
func byMail(o *Options)         { o.User = "email" }

func stripped(o *Options) { o.User, o.Domains = "email", []string{"other.example", "campus.example"} }

func TestRule164Claims(t *testing.T) {
	t.Parallel()
	i := oidctest.Start(t)
	key := keyOf()["EdDSA"]
	for n, tt := range claimed {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			change := tt.options
			if change == nil {
				change = func(*Options) {}
			}
			check := func(id *authn.Identity, err error) {
				t.Helper()
				if tt.user == "" {
					wantKind(t, id, err, tt.want)
				} else if err != nil || id.User != tt.user {
					t.Errorf("got %+v, %v", id, err)
				}
			}
			claims := oidctest.Claims(issuer, tt.changes)
			o := options(t, change)
			check(verify(t.Context(), open(t, o), tt.login, key.Sign(claims)))

			o = asking(t, i)
			change(&o)
			token := fmt.Sprint("token-", n)
			i.Know(token, claims)
			check(verify(t.Context(), open(t, o), tt.login, token))
		})
	}
}

// A login comes in the spelling that the site's names give it, a claim in the
// issuer's: who asks for himself in either is himself.
func TestNamesOfTheSite(t *testing.T) {
	t.Parallel()
	v, key := open(t, options(t, nil)), keyOf()["EdDSA"]
	token := key.Sign(oidctest.Claims(issuer, map[string]any{"preferred_username": "Alice"}))
	ctx := authn.WithPolicy(t.Context(), &authn.Policy{Names: &authn.Names{FoldCase: true}})
	if id, err := verify(ctx, v, "alice", token); err != nil || id.User != "Alice" {
		t.Errorf("got %+v, %v", id, err)
	}
	id, err := verify(ctx, v, "bob", token)
	wantKind(t, id, err, authn.Denied)
	id, err = verify(t.Context(), v, "alice", token)
	wantKind(t, id, err, authn.Denied)
}

func TestRule164IssuerAndEnd(t *testing.T) {
	t.Parallel()
	i := oidctest.Start(t)
	key := keyOf()["EdDSA"]
	byKey, byAsking := open(t, options(t, nil)), open(t, asking(t, i))
	for _, tt := range []struct {
		name             string
		changes          map[string]any
		bySignature, ask authn.Kind
	}{
		// a signed one may be for the next step; who asked has asked the wrong one
		{"another issuer", map[string]any{"iss": issuer + "/"}, authn.Decline, authn.Rejected},
		{"no issuer", map[string]any{"iss": nil}, authn.Decline, authn.Rejected},
	} {
		claims := oidctest.Claims(issuer, tt.changes)
		i.Know(tt.name, claims)
		id, err := verify(t.Context(), byKey, "alice", key.Sign(claims))
		wantKind(t, id, err, tt.bySignature)
		id, err = verify(t.Context(), byAsking, "alice", tt.name)
		wantKind(t, id, err, tt.ask)
	}
	// a signed token cannot be withdrawn, one that is asked about can
	endless := oidctest.Claims(issuer, map[string]any{"exp": nil})
	i.Know("endless", endless)
	id, err := verify(t.Context(), byKey, "alice", key.Sign(endless))
	wantKind(t, id, err, authn.Rejected)
	if id, err := verify(t.Context(), byAsking, "alice", "endless"); err != nil || !id.Expires.IsZero() {
		t.Errorf("got %+v, %v", id, err)
	}
}

func TestIdentity(t *testing.T) {
	t.Parallel()
	v := open(t, options(t, stripped))
	claims := oidctest.Claims(issuer, nil)
	id, err := verify(t.Context(), v, "", keyOf()["ES256"].Sign(claims))
	if err != nil || id.User != "alice" || id.Authn != "alice@campus.example" || id.Expires.Unix() != claims["exp"].(int64) {
		t.Errorf("got %+v, %v", id, err)
	}
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	v := open(t, options(t, func(o *Options) { o.Leeway = 0 }))
	if v.o.Leeway != DefaultLeeway || v.o.Timeout != DefaultTimeout || v.web.Timeout != DefaultTimeout || len(v.o.Algorithms) != len(Algorithms()) {
		t.Errorf("got %+v", v.o)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	i := oidctest.Start(t)
	good := atURL(t, i)
	open(t, good)
	for _, tt := range []struct {
		name   string
		change func(o *Options)
		want   string
	}{
		{"nobody to ask", func(o *Options) { o.Keys = "" }, "either a key set or introspection"},
		{"two to ask", func(o *Options) { o.Introspection = "https://a/" }, "either a key set or introspection"},
		{"no user", func(o *Options) { o.User = "" }, "no claim names the user"},
		{"no issuer", func(o *Options) { o.Issuer = "" }, "an issuer is needed"},
		{"no audience", func(o *Options) { o.Audiences = nil }, "an audience is needed"},
		{"no cache", func(o *Options) { o.Cache = "" }, "a file is needed"},
		{"cache in no folder", func(o *Options) { o.Cache = "/nonexistent/x" }, "cache of the key set"},
		{"none", func(o *Options) { o.Algorithms = []string{"none"} }, `algorithm "none" is not taken`},
		{"HS256", func(o *Options) { o.Algorithms = []string{"RS256", "HS256"} }, `algorithm "HS256" is not taken`},
		{"no https", func(o *Options) { o.Keys = "http://sso.campus.example/keys" }, "is not https"},
		{"a password in the URL", func(o *Options) { o.Keys = "https://u:secret@sso.campus.example/keys" }, "xxxxx"},
		{"no file", func(o *Options) { o.Keys = "/nonexistent/keys" }, "no such file"},
		{"file without keys", func(o *Options) { o.Keys = write(t, "keys", []byte(`{"keys":[]}`)) }, "none of 0 keys"},
		{"file that is no set", func(o *Options) { o.Keys = write(t, "keys", []byte("secret")) }, "no key set"},
		{"file that everybody may write", func(o *Options) { o.Keys = withMode(t, write(t, "keys", oidctest.Set(allKeys()...)), 0o666) }, "chmod 0664 it"},
		{"folder", func(o *Options) { o.Keys = t.TempDir() }, "not a regular file"},
		{"no CA", func(o *Options) { o.CA = write(t, "ca", []byte("x")) }, "no PEM certificate"},
		{"no client", func(o *Options) { *o = asking(t, i); o.ClientID = "" }, "needs a client id"},
		{"introspection of no URL", func(o *Options) { *o = asking(t, i); o.Introspection = "/introspect" }, "is not https://host/path"},
		{"secret that everybody may read", func(o *Options) { *o = asking(t, i); withMode(t, o.ClientSecret, 0o644) }, "chmod 0640 it"},
		{"empty secret", func(o *Options) { *o = asking(t, i); o.ClientSecret = write(t, "s", []byte("\n")) }, "is empty"},
	} {
		o := good
		tt.change(&o)
		_, err := New("sso", o)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "secret@") {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

func withMode(t *testing.T, path string, mode os.FileMode) string {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestURLs(t *testing.T) {
	t.Parallel()
	for u, ok := range map[string]bool{
		"https://sso.example/keys": true, "http://127.0.0.1:8080/keys": true, "http://[::1]/": true, "http://localhost/": true,
		"http://127.0.0.1.evil.example/": false, "http://10.0.0.1/": false, "ftp://a/": false, "https:///x": false,
		"https://a/#b": false, "https://u@a/": false, "x": false, "": false, "https://a:b:c/": false,
	} {
		if err := CheckURL(u); (err == nil) != ok {
			t.Errorf("%q: %v", u, err)
		}
	}
}

// A token that is declined goes to the next step, whose answer counts.
func TestTwoIssuersInOneChain(t *testing.T) {
	t.Parallel()
	other := "https://other.example"
	chain := authn.Chain{
		{Verifier: open(t, options(t, nil))},
		{Verifier: open(t, options(t, func(o *Options) { o.Issuer = other }))},
	}
	for _, iss := range []string{issuer, other} {
		token := authn.Password(keyOf()["EdDSA"].Sign(oidctest.Claims(iss, nil)))
		if id, err := chain.VerifyToken(t.Context(), &authn.TokenRequest{Token: token}); err != nil || id.User != "alice" {
			t.Errorf("%s: %+v, %v", iss, id, err)
		}
	}
	_, err := chain.VerifyToken(t.Context(), &authn.TokenRequest{Token: authn.Password("opaque")})
	if authn.KindOf(err) != authn.UnknownUser {
		t.Errorf("got %v", err)
	}
}

func TestErrorsTellNoToken(t *testing.T) {
	t.Parallel()
	i := oidctest.Start(t)
	i.Close()
	byAsking := open(t, asking(t, i))
	_, err := verify(t.Context(), byAsking, "alice", "secret-token")
	if err == nil || strings.Contains(err.Error(), "secret-token") || strings.Contains(err.Error(), i.Secret) {
		t.Errorf("got %v", err)
	}
	var e *authn.Error
	if !errors.As(err, &e) || e.Text != "" {
		t.Errorf("the client is told %+v", e)
	}
}
