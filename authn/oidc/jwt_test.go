package oidc

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/oidc/oidctest"
)

func encode(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

func payload(t testing.TB) []byte {
	t.Helper()
	b, err := json.Marshal(oidctest.Claims(issuer, nil))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// hs256 is a token whose shared secret is something that everybody knows.
func hs256(t *testing.T, secret []byte) string {
	t.Helper()
	input := encode(`{"alg":"HS256","kid":"key-RS256"}`) + "." + encode(string(payload(t)))
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(input))
	return input + "." + encode(string(mac.Sum(nil)))
}

// S-19: the name of a key is looked up among the keys of the issuer, and is no
// path to others that lie beside them.
func TestS19_KeyNamesAreNoPaths(t *testing.T) {
	t.Parallel()
	o := options(t, nil)
	stranger := oidctest.NewKey("planted", "ES256")
	planted := filepath.Join(filepath.Dir(o.Keys), "planted.json")
	if err := os.WriteFile(planted, oidctest.Set(stranger), 0o600); err != nil {
		t.Fatal(err)
	}
	v := open(t, o)
	for _, kid := range []string{
		"planted", "planted.json", "./planted.json", "../" + filepath.Base(filepath.Dir(planted)) + "/planted.json", planted,
		"file://" + planted, "keys.json", o.Keys, "planted.json\x00", "..", "/", "",
	} {
		token := stranger.SignAs(map[string]any{"alg": "ES256", "kid": kid}, payload(t))
		id, err := verify(t.Context(), v, "alice", token)
		wantKind(t, id, err, authn.Rejected)
	}
	// the plant is one that would grow where it is named
	o.Keys = planted
	if id, err := verify(t.Context(), open(t, o), "alice", stranger.SignAs(map[string]any{"alg": "ES256", "kid": "planted"}, payload(t))); err != nil || id.User != "alice" {
		t.Errorf("got %+v, %v", id, err)
	}
}

// Forgeries that have worked somewhere (RFC 8725), and what only looks like a
// token.
func TestRule164Forgeries(t *testing.T) {
	t.Parallel()
	v := open(t, options(t, nil))
	rs, es, ed := keyOf()["RS256"], keyOf()["ES256"], keyOf()["EdDSA"]
	p := payload(t)
	der, err := x509.MarshalPKIXPublicKey(rs.Private().Public())
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	stranger := oidctest.NewKey("key-EdDSA", "EdDSA")
	own := stranger.JWK()
	good := ed.Sign(oidctest.Claims(issuer, nil))
	parts := strings.Split(good, ".")
	headed := func(k *oidctest.Key, more map[string]any) string {
		h := map[string]any{"alg": k.Alg, "kid": k.ID}
		maps.Copy(h, more)
		return k.SignAs(h, p)
	}
	for _, tt := range []struct {
		name, token string
		want        authn.Kind
	}{
		{"no signature", encode(`{"alg":"none"}`) + "." + parts[1] + ".", authn.Decline},
		{"none with a signature", headed(ed, map[string]any{"alg": "none"}), authn.Rejected},
		{"None", headed(ed, map[string]any{"alg": "None"}), authn.Rejected},
		{"no algorithm", ed.SignAs(map[string]any{"kid": ed.ID}, p), authn.Rejected},
		{"algorithm in capitals alone", headed(ed, map[string]any{"alg": nil, "ALG": "EdDSA"}), authn.Rejected},
		{"the public key as a shared secret", hs256(t, public), authn.Rejected},
		{"an empty shared secret", hs256(t, nil), authn.Rejected},
		{"RS512", headed(rs, map[string]any{"alg": "RS512"}), authn.Rejected},
		{"PS256 with the key for RS256", headed(rs, map[string]any{"alg": "PS256"}), authn.Rejected},
		{"the algorithm of another key", headed(es, map[string]any{"alg": "RS256"}), authn.Rejected},
		{"another one's key with our id", stranger.Sign(oidctest.Claims(issuer, nil)), authn.Rejected},
		{"the key in the token", headed(stranger, map[string]any{"jwk": own}), authn.Rejected},
		{"the key at a URL", headed(stranger, map[string]any{"jku": "https://evil.example/keys"}), authn.Rejected},
		{"key id that is no text", headed(stranger, map[string]any{"kid": []int{1}}), authn.Rejected},
		{"key that there is not", headed(ed, map[string]any{"kid": "x"}), authn.Rejected},
		{"critical header", headed(ed, map[string]any{"crit": []string{"b64"}, "b64": true}), authn.Rejected},
		{"payload not encoded", headed(ed, map[string]any{"crit": []string{"b64"}, "b64": false}), authn.Rejected},
		{"signature of another token", parts[0] + "." + encode(strings.Replace(string(p), "alice", "carol", 1)) + "." + parts[2], authn.Rejected},
		{"signature cut short", good[:len(good)-6], authn.Rejected},
		{"padding", good + "=", authn.Decline},
		{"line end inside", good[:20] + "\n" + good[20:], authn.Decline},
		{"alphabet of base64", parts[0] + "." + parts[1] + ".+/" + parts[2], authn.Decline},
		{"encrypted", "a.b.c.d.e", authn.Decline},
		{"JWS as JSON", `{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`, authn.Decline},
		{"payload is no object", ed.SignAs(map[string]any{"alg": "EdDSA", "kid": ed.ID}, []byte(`"`+issuer+`"`)), authn.Decline},
		{"payload is null", ed.SignAs(map[string]any{"alg": "EdDSA", "kid": ed.ID}, []byte("null")), authn.Decline},
		{"two payloads", ed.SignAs(map[string]any{"alg": "EdDSA", "kid": ed.ID}, []byte(string(p)+string(p))), authn.Decline},
	} {
		id, err := verify(t.Context(), v, "alice", tt.token)
		if err == nil || id != nil || authn.KindOf(err) != tt.want {
			t.Errorf("%s: got %+v, %v, want %v", tt.name, id, err, tt.want)
		}
	}
	if _, err := verify(t.Context(), v, "alice", good); err != nil {
		t.Errorf("the good one: %v", err)
	}
}

func TestAlgorithmsAreThoseOfTheOptions(t *testing.T) {
	t.Parallel()
	v := open(t, options(t, func(o *Options) { o.Algorithms = []string{"ES256", "PS256"} }))
	for _, alg := range Algorithms() {
		id, err := verify(t.Context(), v, "alice", keyOf()[alg].Sign(oidctest.Claims(issuer, nil)))
		if alg == "ES256" || alg == "PS256" {
			if err != nil {
				t.Errorf("%s: %v", alg, err)
			}
			continue
		}
		wantKind(t, id, err, authn.Rejected)
	}
}

// A token without a key id is tried with all keys of its kind; a key without an
// algorithm is good for those of its kind.
func TestKeysWithoutNames(t *testing.T) {
	t.Parallel()
	set := map[string][]any{"keys": nil}
	for _, k := range []*oidctest.Key{oidctest.NewKey("", "EdDSA"), oidctest.NewKey("", "ES256"), keyOf()["EdDSA"], keyOf()["PS256"]} {
		jwk := k.JWK()
		delete(jwk, "alg")
		set["keys"] = append(set["keys"], jwk)
	}
	b, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	v := open(t, options(t, func(o *Options) { o.Keys = write(t, "keys", b) }))
	for _, alg := range []string{"EdDSA", "PS256"} {
		if _, err := verify(t.Context(), v, "alice", keyOf()[alg].SignAs(map[string]any{"alg": alg}, payload(t))); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
	}
}

func TestKeySets(t *testing.T) {
	t.Parallel()
	weak := `{"kty":"RSA","n":"` + encode("\xC0"+strings.Repeat("x", 127)) + `","e":"AQAB"}` // 1024 bits
	good, err := json.Marshal(keyOf()["EdDSA"].JWK())
	if err != nil {
		t.Fatal(err)
	}
	private := strings.Replace(string(good), `"kty"`, `"d":"`+encode(strings.Repeat("x", 32))+`","kty"`, 1)
	for _, tt := range []struct {
		name, set string
		keys      int
	}{
		{"one", `{"keys":[` + string(good) + `]}`, 1},
		{"and others that are left alone", `{"keys":[{"kty":"oct","k":"c2VjcmV0"},{"kty":"new"},7,` + weak + `,` + string(good) + `]}`, 1},
		{"for encryption", `{"keys":[` + strings.Replace(string(good), `"sig"`, `"enc"`, 1) + `]}`, 0},
		{"shared secret", `{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}`, 0},
		{"private", `{"keys":[` + private + `]}`, 0},
		{"weak", `{"keys":[` + weak + `]}`, 0},
		{"none", `{"keys":[]}`, 0},
		{"no list", `{"keys":7}`, 0},
		{"no set", `[]`, 0},
		{"too many", `{"keys":[` + strings.Repeat(string(good)+",", maxKeys) + string(good) + `]}`, 0},
	} {
		keys, err := parseKeys([]byte(tt.set))
		if len(keys) != tt.keys || (err == nil) != (tt.keys > 0) {
			t.Errorf("%s: %d keys, %v", tt.name, len(keys), err)
		}
	}
}

// A token that is changed anywhere is refused; so is one that is not changed but
// not ours.
func FuzzToken(f *testing.F) {
	v := open(f, options(f, nil))
	var tokens []string
	for _, k := range allKeys() {
		tokens = append(tokens, k.Sign(oidctest.Claims(issuer, nil)))
	}
	f.Add(0, 0, 1, byte('.'))
	f.Add(1, 40, 0, byte('A'))
	f.Add(2, 1<<20, 3, byte('='))
	f.Fuzz(func(t *testing.T, which, at, cut int, insert byte) {
		if which < 0 || at < 0 || cut < 0 {
			return
		}
		token := tokens[which%len(tokens)]
		at %= len(token) + 1
		changed := token[:at] + string([]byte{insert}) + token[min(at+cut%8, len(token)):]
		id, err := verify(t.Context(), v, "alice", changed)
		if (err == nil) != (changed == token) {
			t.Errorf("%d octets at %d became %q: %+v, %v", cut%8, at, insert, id, err)
		}
		if err != nil && authn.KindOf(err) != authn.Rejected && authn.KindOf(err) != authn.Decline {
			t.Errorf("kind of %v", err)
		}
	})
}

// Whatever an issuer signs, whom it lets in is alice of that issuer, for us.
func FuzzPayload(f *testing.F) {
	v := open(f, options(f, nil))
	key := keyOf()["EdDSA"]
	f.Add(payload(f))
	f.Add([]byte(`{"iss":"` + issuer + `","aud":["kpopd"],"scp":["mail"],"exp":4e9,"preferred_username":"a"}`))
	f.Add([]byte(`{"iss":"` + issuer + `","aud":"kpopd","exp":"x","exp":1e400,"preferred_username":{}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		id, err := verify(t.Context(), v, "", key.SignAs(map[string]any{"alg": "EdDSA", "kid": key.ID}, b))
		if err != nil {
			if k := authn.KindOf(err); k == authn.Internal || k == authn.Unavailable {
				t.Errorf("%q: %v", b, err)
			}
			return
		}
		var c map[string]any
		if err := json.Unmarshal(b, &c); err != nil {
			t.Fatalf("%q was taken", b)
		}
		login, err := authn.PrepareLogin(c["preferred_username"].(string))
		if c["iss"] != issuer || c["exp"] == nil || err != nil || id.User != login {
			t.Errorf("%q let %+v in", b, id)
		}
	})
}

// What is read of a set are public keys that a token can be checked with.
func FuzzKeySet(f *testing.F) {
	f.Add(oidctest.Set(allKeys()...))
	f.Add([]byte(`{"keys":[{"kty":"oct","k":"c2VjcmV0"},{"kty":"RSA","n":"AQ","e":"AQAB"},{"kty":"EC","crv":"P-256","x":"","y":""}]}`))
	token := keyOf()["RS256"].Sign(oidctest.Claims(issuer, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		keys, err := parseKeys(b)
		if (err == nil) == (len(keys) == 0) {
			t.Fatalf("%d keys and %v", len(keys), err)
		}
		for i := range keys {
			k := &keys[i]
			if !isStrong(k.public) {
				t.Errorf("%q has %T", b, k.public)
			}
			for _, alg := range Algorithms() {
				if k.isFor(alg) {
					_, _ = payloadOf(token, "RS256", []any{k.public}) // must not panic
				}
			}
		}
	})
}

func BenchmarkVerifyToken(b *testing.B) {
	v := open(b, options(b, nil))
	for _, alg := range Algorithms() {
		b.Run(alg, func(b *testing.B) {
			r := &authn.TokenRequest{Login: "alice", Token: authn.Password(keyOf()[alg].Sign(oidctest.Claims(issuer, nil)))}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := v.VerifyToken(b.Context(), r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
