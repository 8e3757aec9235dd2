package krb5

import (
	"crypto/pbkdf2"
	"encoding/binary"
	"fmt"

	"github.com/jcmturner/gokrb5/v8/crypto"

	"github.com/kpopd/kpopd/authn"
)

// hint is how a KDC wants a key to be made of a password: an entry of
// ETYPE-INFO2 (RFC 4120 section 5.2.7.5).
type hint struct {
	enctype int32
	salt    string
	params  string // octets of s2kparams; "" for the enctype's default
}

// Iterations of PBKDF2. The defaults are also the least that is taken: a false
// KDC would ask for one, and try passwords on what it gets. The most keeps it
// from making us compute for hours.
const (
	iterationsSHA1 = 4096  // RFC 3962 section 4
	iterationsSHA2 = 32768 // RFC 8009 section 4
	maxIterations  = 1 << 18
)

// stringToKey makes a key of a password (RFC 3962 section 4, RFC 8009 section
// 4, RFC 4757 section 2). The copies that it takes are of strings and inside
// HMAC, and the garbage collector's: only the caller's own can be wiped.
func stringToKey(password authn.Password, h hint) (_ Key, err error) {
	defer caught(&err)
	p, ok := profileOf(h.enctype)
	if !ok {
		return Key{}, fmt.Errorf("key of a password: %s is not known", EnctypeName(h.enctype))
	}
	e, err := crypto.GetEtype(p.id)
	if err != nil {
		return Key{}, err
	}
	if p.id == RC4 {
		b, err := e.StringToKey(string(password), "", "")
		if err != nil {
			return Key{}, err
		}
		return KeyFrom(p.id, b)
	}
	n, salt := iterationsSHA1, h.salt
	if p.id == AES128SHA2 || p.id == AES256SHA2 {
		n, salt = iterationsSHA2, p.name+"\x00"+salt // RFC 8009 section 4
	}
	if n, err = iterations(h.params, n); err != nil {
		return Key{}, err
	}
	// not gokrb5's: it has the wrong length for enctype 20
	b, err := pbkdf2.Key(e.GetHashFunc(), string(password), []byte(salt), n, p.key)
	if err != nil {
		return Key{}, err
	}
	defer clear(b)
	if b, err = e.DeriveKey(b, []byte("kerberos")); err != nil {
		return Key{}, err
	}
	return KeyFrom(p.id, b)
}

func iterations(params string, least int) (int, error) {
	switch len(params) {
	case 0:
		return least, nil
	case 4:
	default:
		return 0, fmt.Errorf("parameters of %d octets for the key of a password", len(params))
	}
	n := binary.BigEndian.Uint32([]byte(params))
	if n < uint32(least) || n > maxIterations { // 0 stands for 2^32
		return 0, fmt.Errorf("the KDC asks for %d iterations, and from %d to %d are taken", n, least, maxIterations)
	}
	return int(n), nil
}
