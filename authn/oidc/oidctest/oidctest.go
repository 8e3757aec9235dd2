// Package oidctest is an issuer of tokens for tests: keys of each kind, tokens
// signed with them by the standard library alone, and a server that publishes the
// keys and answers questions about tokens.
package oidctest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"
)

// Key is a signing key of an issuer.
type Key struct {
	ID     string
	Alg    string // RS256, PS256, ES256 or EdDSA
	signer crypto.Signer
}

// NewKey makes a key. It panics when alg is none of those.
func NewKey(id, alg string) *Key {
	var s crypto.Signer
	var err error
	switch alg {
	case "RS256", "PS256":
		s, err = rsa.GenerateKey(rand.Reader, 2048)
	case "ES256":
		s, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "EdDSA":
		_, s, err = ed25519.GenerateKey(rand.Reader)
	default:
		panic("no algorithm " + alg)
	}
	if err != nil {
		panic(err)
	}
	return &Key{id, alg, s}
}

// Private is the key of the standard library.
func (k *Key) Private() crypto.Signer { return k.signer }

// JWK is the public key (RFC 7517).
func (k *Key) JWK() map[string]any {
	m := map[string]any{"kid": k.ID, "alg": k.Alg, "use": "sig"}
	switch p := k.signer.Public().(type) {
	case *rsa.PublicKey:
		m["kty"], m["n"], m["e"] = "RSA", encode(p.N.Bytes()), encode(big.NewInt(int64(p.E)).Bytes())
	case *ecdsa.PublicKey:
		point, err := p.Bytes() // 4, x, y
		if err != nil {
			panic(err)
		}
		m["kty"], m["crv"], m["x"], m["y"] = "EC", "P-256", encode(point[1:33]), encode(point[33:])
	case ed25519.PublicKey:
		m["kty"], m["crv"], m["x"] = "OKP", "Ed25519", encode(p)
	}
	return m
}

// Set is a JWK Set of keys.
func Set(keys ...*Key) []byte {
	set := make([]any, len(keys))
	for i, k := range keys {
		set[i] = k.JWK()
	}
	return marshal(map[string]any{"keys": set})
}

// Sign makes a JWT with the key's own header.
func (k *Key) Sign(claims map[string]any) string {
	return k.SignAs(map[string]any{"alg": k.Alg, "kid": k.ID, "typ": "at+jwt"}, marshal(claims))
}

// SignAs makes a JWS of any header and payload. The signature is good for the
// key's algorithm, whatever the header says.
func (k *Key) SignAs(header map[string]any, payload []byte) string {
	input := encode(marshal(header)) + "." + encode(payload)
	return input + "." + encode(k.sign([]byte(input)))
}

func (k *Key) sign(input []byte) []byte {
	digest := sha256.Sum256(input)
	var sig []byte
	var err error
	switch s := k.signer.(type) {
	case *rsa.PrivateKey:
		var o crypto.SignerOpts = crypto.SHA256
		if k.Alg == "PS256" {
			o = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}
		}
		sig, err = s.Sign(rand.Reader, digest[:], o)
	case *ecdsa.PrivateKey:
		var x, y *big.Int
		if x, y, err = ecdsa.Sign(rand.Reader, s, digest[:]); err == nil {
			sig = append(x.FillBytes(make([]byte, 32)), y.FillBytes(make([]byte, 32))...)
		}
	case ed25519.PrivateKey:
		sig = ed25519.Sign(s, input)
	}
	if err != nil {
		panic(err)
	}
	return sig
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func marshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// Issuer is a server of an issuer: KeysPath and IntrospectionPath on loopback,
// with TLS.
type Issuer struct {
	*httptest.Server
	Client, Secret string // who may ask about tokens

	mu     sync.Mutex // guards what follows
	keys   []*Key
	tokens map[string]map[string]any
	fault  http.HandlerFunc
	asked  map[string]int
}

// Paths of the server.
const (
	KeysPath          = "/keys"
	IntrospectionPath = "/introspect"
)

// Start serves an issuer until the test ends.
func Start(t testing.TB, keys ...*Key) *Issuer {
	t.Helper()
	i := &Issuer{Client: "kpopd", Secret: "s€cret:+%", keys: keys, tokens: map[string]map[string]any{}, asked: map[string]int{}}
	i.Server = httptest.NewUnstartedServer(i)
	i.Config.ErrorLog = log.New(io.Discard, "", 0) // of clients who do not trust us
	i.StartTLS()
	t.Cleanup(i.Close)
	return i
}

// CA is what to verify the server with, in PEM.
func (i *Issuer) CA() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.Certificate().Raw})
}

// Publish makes keys the ones that are published.
func (i *Issuer) Publish(keys ...*Key) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = keys
}

// Know makes a token active, with these claims.
func (i *Issuer) Know(token string, claims map[string]any) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.tokens[token] = claims
}

// Fail lets h answer everything; nil ends that.
func (i *Issuer) Fail(h http.HandlerFunc) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.fault = h
}

// Asked is how often a path was asked for.
func (i *Issuer) Asked(path string) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.asked[path]
}

func (i *Issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	i.asked[r.URL.Path]++
	fault := i.fault
	i.mu.Unlock()
	switch {
	case fault != nil:
		fault(w, r)
	case r.URL.Path == KeysPath && r.Method == http.MethodGet:
		i.mu.Lock()
		defer i.mu.Unlock()
		_, _ = w.Write(Set(i.keys...))
	case r.URL.Path == IntrospectionPath && r.Method == http.MethodPost:
		i.introspect(w, r)
	default:
		http.NotFound(w, r)
	}
}

func (i *Issuer) introspect(w http.ResponseWriter, r *http.Request) {
	user, password, _ := r.BasicAuth()
	user, err1 := url.QueryUnescape(user) // RFC 6749 section 2.3.1
	password, err2 := url.QueryUnescape(password)
	if err1 != nil || err2 != nil || user != i.Client || password != i.Secret {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	answer := map[string]any{"active": false}
	if claims, ok := i.tokens[r.PostFormValue("token")]; ok {
		answer = map[string]any{"active": true}
		maps.Copy(answer, claims)
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(marshal(answer))
}

// Claims are those of an access token for alice, good for an hour, with changes:
// a nil takes a claim away.
func Claims(issuer string, changes map[string]any) map[string]any {
	now := time.Now()
	c := map[string]any{
		"iss": issuer, "sub": "248289761001", "aud": "kpopd", "scope": "openid mail",
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix(),
		"preferred_username": "alice", "email": "alice@campus.example", "email_verified": true,
	}
	for k, v := range changes {
		if c[k] = v; v == nil {
			delete(c, k)
		}
	}
	return c
}
