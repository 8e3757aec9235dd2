package scram

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"strconv"

	"github.com/xdg-go/stringprep"

	"github.com/kpopd/kpopd/authn"
)

const (
	// MinIterations is the least that RFC 7677 section 4 has for SHA-256, and
	// RFC 5802 section 5.1 for SHA-1.
	MinIterations = 4096
	// DefaultIterations cost the server nothing and the client about 10 ms of a
	// core at each login. Cyrus SASL refuses to compute more than 65,536.
	DefaultIterations = 50_000
	// MaxIterations keep a typing error from having clients compute for minutes.
	MaxIterations = 10_000_000

	saltSize = 16 // octets of salts that we make
	// MaxSalt is the octets of the longest salt that we take.
	MaxSalt = 64
)

// hasher is a hash function under the name of the mechanism that uses it.
type hasher struct {
	scheme string
	new    func() hash.Hash
	size   int
}

var hashers = [...]hasher{
	{"SCRAM-SHA-256", sha256.New, sha256.Size},
	{"SCRAM-SHA-1", sha1.New, sha1.Size},
}

// hashOf is nil when there is none.
func hashOf(scheme string) *hasher {
	for i := range hashers {
		if hashers[i].scheme == scheme {
			return &hashers[i]
		}
	}
	return nil
}

func (h *hasher) mac(key, message []byte) []byte {
	m := hmac.New(h.new, key)
	m.Write(message)
	return m.Sum(nil)
}

func (h *hasher) sum(b []byte) []byte {
	d := h.new()
	d.Write(b)
	return d.Sum(nil)
}

// Schemes of keys, the best first: the mechanisms that they are for.
func Schemes() []string {
	names := make([]string, len(hashers))
	for i, h := range hashers {
		names[i] = h.scheme
	}
	return names
}

// Keys are what a server stores of a password (RFC 5802 section 3).
type Keys struct {
	Scheme     string // of [Schemes]
	Iterations int
	Salt       []byte
	Stored     authn.Password
	Server     authn.Password
}

// Make computes keys of a password with a new salt of 16 octets.
//
// A password that SASLprep, which clients of RFC 5802 apply, would change is
// refused: they would come with another one.
func Make(scheme string, password authn.Password, iterations int) (*Keys, error) {
	h := hashOf(scheme)
	switch {
	case h == nil:
		return nil, fmt.Errorf("no scheme %q: there are %v", scheme, Schemes())
	case len(password) == 0 || len(password) > authn.MaxPassword:
		return nil, fmt.Errorf("password has %d octets, 1 to %d are taken", len(password), authn.MaxPassword)
	case iterations < MinIterations || iterations > MaxIterations:
		return nil, fmt.Errorf("%d iterations, %d to %d are taken", iterations, MinIterations, MaxIterations)
	}
	p := authn.PreparePassword(password)
	defer p.Wipe()
	if q, err := stringprep.SASLprep.Prepare(string(p)); err != nil || q != string(p) {
		return nil, errors.New("clients would prepare this password in different ways (SASLprep, RFC 4013): choose one of plain letters, digits and signs")
	}
	salt := make([]byte, saltSize)
	_, _ = rand.Read(salt)
	return derive(h, string(p), salt, iterations)
}

// derive computes keys as RFC 5802 section 3 does.
func derive(h *hasher, password string, salt []byte, iterations int) (*Keys, error) {
	salted, err := pbkdf2.Key(h.new, password, salt, iterations, h.size)
	if err != nil {
		return nil, fmt.Errorf("make keys of %s: %w", h.scheme, err)
	}
	defer clear(salted)
	client := h.mac(salted, []byte("Client Key"))
	defer clear(client)
	return &Keys{
		Scheme: h.scheme, Iterations: iterations, Salt: salt,
		Stored: h.sum(client), Server: h.mac(salted, []byte("Server Key")),
	}, nil
}

var errKeys = errors.New("keys are written SCHEME$iterations:salt$StoredKey:ServerKey (RFC 5803), in base64")

// Parse reads what [Keys.Text] writes, and what PostgreSQL and RFC 5803 write.
// Its errors hold nothing of the text.
func Parse(text []byte) (*Keys, error) {
	f := bytes.Split(text, []byte("$"))
	if len(f) != 3 {
		return nil, errKeys
	}
	h := hashOf(string(f[0]))
	iterations, salt, ok1 := bytes.Cut(f[1], []byte(":"))
	stored, server, ok2 := bytes.Cut(f[2], []byte(":"))
	if h == nil || !ok1 || !ok2 {
		return nil, errKeys
	}
	k := &Keys{Scheme: h.scheme}
	var err error
	if k.Iterations, err = strconv.Atoi(string(iterations)); err != nil || strconv.Itoa(k.Iterations) != string(iterations) {
		return nil, errKeys
	}
	if k.Iterations < MinIterations || k.Iterations > MaxIterations {
		return nil, fmt.Errorf("%d iterations, %d to %d are taken", k.Iterations, MinIterations, MaxIterations)
	}
	if k.Salt, err = decode(salt, 8, MaxSalt); err != nil {
		return nil, err
	}
	if k.Stored, err = decode(stored, h.size, h.size); err != nil {
		return nil, err
	}
	if k.Server, err = decode(server, h.size, h.size); err != nil {
		k.Wipe()
		return nil, err
	}
	return k, nil
}

func decode(b []byte, least, most int) ([]byte, error) {
	out := make([]byte, base64.StdEncoding.DecodedLen(len(b)))
	n, err := base64.StdEncoding.Strict().Decode(out, b)
	if err != nil || n < least || n > most || bytes.ContainsAny(b, "\r\n") {
		clear(out)
		return nil, errKeys
	}
	return out[:n:n], nil
}

// Text is the keys as RFC 5803 section 2 writes them. The caller wipes it.
func (k *Keys) Text() authn.Password {
	b := make([]byte, 0, 256)
	b = append(b, k.Scheme+"$"+strconv.Itoa(k.Iterations)+":"...)
	b = base64.StdEncoding.AppendEncode(b, k.Salt)
	b = append(b, '$')
	b = base64.StdEncoding.AppendEncode(b, k.Stored)
	b = append(b, ':')
	return base64.StdEncoding.AppendEncode(b, k.Server)
}

// Match reports whether the keys were made of password.
func (k *Keys) Match(password authn.Password) (bool, error) {
	p := authn.PreparePassword(password)
	defer p.Wipe()
	again, err := derive(hashOf(k.Scheme), string(p), k.Salt, k.Iterations)
	if err != nil {
		return false, err
	}
	defer again.Wipe()
	return hmac.Equal(again.Stored, k.Stored), nil
}

// Shape is what the keys show to whoever asks to log in.
func (k *Keys) Shape() Shape { return Shape{k.Iterations, len(k.Salt)} }

// Wipe overwrites what is secret.
func (k *Keys) Wipe() {
	k.Stored.Wipe()
	k.Server.Wipe()
}

// prove checks the proof of a message, which it overwrites.
func (k *Keys) prove(h *hasher, message, proof []byte) bool {
	signature := h.mac(k.Stored, message)
	if len(proof) != len(signature) {
		return false
	}
	for i := range proof {
		proof[i] ^= signature[i]
	}
	return hmac.Equal(h.sum(proof), k.Stored) // what the proof became is the ClientKey
}

// Shape is what keys of one scheme have in common: nobody's must be like most
// people's.
type Shape struct {
	Iterations int
	Salt       int // octets
}

// Surveyor is a verifier that knows the shape that most of its keys of a scheme
// have; ok is false when it has none.
type Surveyor interface {
	authn.Verifier
	KeyShape(scheme string) (s Shape, ok bool)
}

// Survey is the shape that the first Surveyor of a chain with keys of a scheme
// knows; ok is false when there is none.
func Survey(c authn.Chain, scheme string) (s Shape, ok bool) {
	for _, step := range c {
		if v, is := step.Verifier.(Surveyor); is {
			if s, ok = v.KeyShape(scheme); ok {
				return s, true
			}
		}
	}
	return Shape{}, false
}

// nobody makes the keys of a name that nobody has. No proof fits them: it would
// have to hash to zeros.
func (m *mechanism) nobody(login string) *Keys {
	shape := m.shape()
	salt, err := hkdf.Key(sha256.New, m.SaltKey, nil, "kpopd SCRAM salt\x00"+m.base+"\x00"+login, shape.Salt)
	if err != nil {
		panic(err) // the length is bounded
	}
	return &Keys{
		Scheme: m.base, Iterations: shape.Iterations, Salt: salt,
		Stored: make(authn.Password, m.h.size), Server: make(authn.Password, m.h.size),
	}
}

func (m *mechanism) shape() Shape {
	if s, ok := Survey(m.Chain, m.base); ok {
		return s
	}
	if m.Iterations > 0 {
		return Shape{m.Iterations, saltSize}
	}
	return Shape{DefaultIterations, saltSize}
}
