package oidc

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/go-jose/go-jose/v4"
)

// Algorithms are the algorithms of signatures that exist here (RFC 7518 section
// 3, RFC 8037).
func Algorithms() []string { return []string{"RS256", "PS256", "ES256", "EdDSA"} }

// Bounds of a key set.
const (
	maxKeys   = 200
	minRSA    = 2048 // bits (RFC 7518 section 3.3)
	maxRSA    = 8192 // bits: a signature of that size takes a quarter of a millisecond
	maxKeySet = 1 << 20
)

// key is one public key of an issuer.
type key struct {
	id     string
	alg    string // the one that it is for, "" when it does not say
	public any
}

// parseKeys reads a JWK Set (RFC 7517 section 5). Keys of another kind or use are
// left alone, as that section has it; a set without a single key that can be used
// is an error.
func parseKeys(b []byte) ([]key, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(b, &set); err != nil {
		return nil, errors.New("no key set") // the error of the package quotes the input
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("a set of %d keys, at most %d are taken", len(set.Keys), maxKeys)
	}
	var keys []key
	for _, raw := range set.Keys {
		var k jose.JSONWebKey
		if k.UnmarshalJSON(raw) != nil || k.Use != "" && k.Use != "sig" || !isStrong(k.Key) {
			continue
		}
		keys = append(keys, key{k.KeyID, k.Algorithm, k.Key})
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("none of %d keys in the set is a public one for signatures that are taken", len(set.Keys))
	}
	return keys, nil
}

func isStrong(public any) bool {
	switch k := public.(type) {
	case *rsa.PublicKey:
		n := k.N.BitLen()
		return n >= minRSA && n <= maxRSA
	case *ecdsa.PublicKey:
		return k.Curve == elliptic.P256()
	case ed25519.PublicKey:
		return len(k) == ed25519.PublicKeySize
	}
	return false
}

// isFor reports whether a key is of the kind that alg has.
func (k *key) isFor(alg string) bool {
	if k.alg != "" && k.alg != alg {
		return false
	}
	switch k.public.(type) {
	case *rsa.PublicKey:
		return alg == "RS256" || alg == "PS256"
	case *ecdsa.PublicKey:
		return alg == "ES256"
	case ed25519.PublicKey:
		return alg == "EdDSA"
	}
	return false
}

// maxTried bounds the signatures that a token without a key id costs.
const maxTried = 8

// fit are the keys that a token may be signed with. A token that names none is
// tried with all of its algorithm.
func fit(keys []key, id, alg string) []any {
	var found []any
	for i := range keys {
		k := &keys[i]
		if k.isFor(alg) && (id == "" || k.id == id) && len(found) < maxTried {
			found = append(found, k.public)
		}
	}
	return found
}
