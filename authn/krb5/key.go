package krb5

import (
	"bytes"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"

	"github.com/jcmturner/gokrb5/v8/crypto"
	"github.com/jcmturner/gokrb5/v8/crypto/etype"
	"github.com/jcmturner/gokrb5/v8/types"
)

// Key is a key of a known enctype and of the right length. The zero value is
// no key. It does not print.
type Key struct {
	profile profile
	secret  func() []byte // fmt shows fields that are not exported, even behind a pointer, but no closure
}

var (
	errShort     = errors.New("ciphertext is too short for its enctype")
	errIntegrity = errors.New("decrypt integrity check failed")
	errNoKey     = errors.New("no key")
)

// NewKey makes a random key.
func NewKey(enctype int32) (Key, error) {
	p, ok := profileOf(enctype)
	if !ok {
		return Key{}, fmt.Errorf("make a key: %s is not known", EnctypeName(enctype))
	}
	v := make([]byte, p.key)
	rand.Read(v) // never fails
	return Key{p, func() []byte { return v }}, nil
}

// KeyFrom takes a key that was made elsewhere; value is copied.
func KeyFrom(enctype int32, value []byte) (Key, error) {
	p, ok := profileOf(enctype)
	switch {
	case !ok:
		return Key{}, fmt.Errorf("%s is not known", EnctypeName(enctype))
	case len(value) != p.key:
		return Key{}, fmt.Errorf("a key of %s has %d octets, not %d", p.name, p.key, len(value))
	}
	v := bytes.Clone(value)
	return Key{p, func() []byte { return v }}, nil
}

// IsZero reports whether k is no key.
func (k Key) IsZero() bool { return k.secret == nil }

// Enctype is 0 for no key.
func (k Key) Enctype() int32 { return k.profile.id }

// ChecksumSize is the length of a Checksum in octets.
func (k Key) ChecksumSize() int { return k.profile.checksum }

func (Key) String() string   { return "***" }
func (Key) GoString() string { return "***" }

// Format implements [fmt.Formatter], so that no verb prints the key.
func (Key) Format(s fmt.State, _ rune) { s.Write([]byte("***")) }

// MarshalText implements [encoding.TextMarshaler] for JSON and slog.
func (Key) MarshalText() ([]byte, error) { return []byte("***"), nil }

// Encrypt encrypts plain for a key usage (RFC 4120 section 7.5.1, RFC 4121
// section 2).
func (k Key) Encrypt(usage uint32, plain []byte) (_ []byte, err error) {
	defer caught(&err)
	e, err := k.engine()
	if err != nil {
		return nil, err
	}
	_, b, err := e.EncryptMessage(k.secret(), plain, usage)
	return b, err
}

// Decrypt checks and decrypts. Its errors tell nothing of the octets.
func (k Key) Decrypt(usage uint32, cipher []byte) (_ []byte, err error) {
	defer caught(&err)
	e, err := k.engine()
	if err != nil {
		return nil, err
	}
	if len(cipher) < k.profile.overhead {
		return nil, errShort
	}
	b, err := e.DecryptMessage(k.secret(), cipher, usage)
	if err != nil {
		return nil, errIntegrity
	}
	return b, nil
}

// Checksum is the keyed checksum of data.
func (k Key) Checksum(usage uint32, data []byte) (_ []byte, err error) {
	defer caught(&err)
	e, err := k.engine()
	if err != nil {
		return nil, err
	}
	return e.GetChecksumHash(k.secret(), data, usage)
}

// VerifyChecksum reports whether sum is the checksum of data.
func (k Key) VerifyChecksum(usage uint32, data, sum []byte) bool {
	want, err := k.Checksum(usage, data)
	return err == nil && len(want) > 0 && subtle.ConstantTimeCompare(want, sum) == 1
}

func (k Key) engine() (etype.EType, error) {
	if k.IsZero() {
		return nil, errNoKey
	}
	return crypto.GetEtype(k.profile.id)
}

// wire is the key as messages have it, the zero value for no key.
func (k Key) wire() types.EncryptionKey {
	if k.IsZero() {
		return types.EncryptionKey{}
	}
	return types.EncryptionKey{KeyType: k.profile.id, KeyValue: k.secret()}
}

// caught makes an error of a panic in gokrb5, which has some for messages that
// it does not expect.
func caught(err *error) {
	if v := recover(); v != nil {
		*err = fmt.Errorf("panic: %v", v)
	}
}

// read runs a decoder of gokrb5 on a stranger's octets.
func read(decode func() error) (err error) {
	defer caught(&err)
	return decode()
}
