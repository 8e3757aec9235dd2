package file

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/go-crypt/crypt/algorithm"
	"github.com/go-crypt/crypt/algorithm/argon2"
	"github.com/go-crypt/crypt/algorithm/bcrypt"
	"github.com/go-crypt/crypt/algorithm/pbkdf2"
	"github.com/go-crypt/crypt/algorithm/scrypt"
	"github.com/go-crypt/crypt/algorithm/shacrypt"

	"github.com/kpopd/kpopd/authn"
)

// matcher is the part of go-crypt's Digest that we use, and what it costs.
type matcher interface {
	MatchBytesAdvanced(password []byte) (bool, error)
	memory() int64 // octets while it is computed
}

// computed is a hash that go-crypt computes.
type computed struct {
	algorithm.Digest
	octets int64
}

func (c computed) memory() int64 { return c.octets }

var (
	errNoHash     = errors.New("no password hash: put * for a user without a password, or a hash made with kpopd passwd")
	errShadow     = errors.New("hash x says that the hash is in a shadow file: name that file instead")
	errUnmarked   = errors.New("neither {SCHEME} nor $id$ begins the hash (DES and clear text are not taken): make a hash with kpopd passwd")
	errBroken     = errors.New("hash is damaged: make a new one with kpopd passwd")
	errCost       = errors.New("hash would cost more time or memory than a login may: make a new one with kpopd passwd")
	errAllowNets  = errors.New("allow_nets is not obeyed here, so the user would get in from anywhere: remove it, or the user")
	errLoginDelay = errors.New("login_delay= must be a number with a unit: 90s, 15m, 0s for none")
	errMaildrop   = errors.New("maildrop= must be a relative path that stays below the root")
)

// format is a kind of hash, known by how it begins.
type format struct {
	prefix string
	scheme []string // names that Dovecot puts before it in braces, besides CRYPT
	shape  *regexp.Regexp
	decode func(string) (algorithm.Digest, error)
	class  int      // submatch of shape that holds what the cost depends on
	max    []uint64 // bounds of the numbers in it, in order
}

// The bounds keep a typing error or a hostile line from making each login cost
// minutes or gigabytes; they are far above what anyone uses.
var formats = []format{
	{prefix: "$6$", scheme: []string{"SHA512-CRYPT"}, shape: shape(`(rounds=([1-9][0-9]{0,8})\$)?[^$:]{0,16}\$[./0-9A-Za-z]{86}`), decode: shacrypt.Decode, class: 1, max: []uint64{5_000_000}},
	{prefix: "$5$", scheme: []string{"SHA256-CRYPT"}, shape: shape(`(rounds=([1-9][0-9]{0,8})\$)?[^$:]{0,16}\$[./0-9A-Za-z]{43}`), decode: shacrypt.Decode, class: 1, max: []uint64{5_000_000}},
	{prefix: "$y$", shape: shape(`(j[./0-9A-D][./0-9A-T])\$[./0-9A-Za-z]{1,86}\$[./0-9A-Za-z]{43}`), decode: scrypt.Decode, class: 1},
	{prefix: "$2b$", scheme: []string{"BLF-CRYPT"}, shape: shape(`(0[4-9]|[1-9][0-9])\$[./0-9A-Za-z]{53}`), decode: bcrypt.Decode, class: 1, max: []uint64{16}},
	{prefix: "$2y$", scheme: []string{"BLF-CRYPT"}, shape: shape(`(0[4-9]|[1-9][0-9])\$[./0-9A-Za-z]{53}`), decode: bcrypt.Decode, class: 1, max: []uint64{16}},
	{prefix: "$2a$", scheme: []string{"BLF-CRYPT"}, shape: shape(`(0[4-9]|[1-9][0-9])\$[./0-9A-Za-z]{53}`), decode: bcrypt.Decode, class: 1, max: []uint64{16}},
	{prefix: "$argon2id$", scheme: []string{"ARGON2ID"}, shape: argonShape, decode: argon2.Decode, class: 1, max: argonMax},
	{prefix: "$argon2i$", scheme: []string{"ARGON2I"}, shape: argonShape, decode: argon2.Decode, class: 1, max: argonMax},
	{prefix: "$scrypt$", shape: shape(`(ln=[1-9][0-9]?,r=[1-9][0-9]?,p=[1-9][0-9]?)\$[+/0-9A-Za-z]{1,86}\$[+/0-9A-Za-z]{22,128}`), decode: scrypt.Decode, class: 1, max: []uint64{18, 8, 4}},
	{prefix: "$pbkdf2-sha256$", shape: pbkdf2Shape, decode: pbkdf2.Decode, class: 1, max: []uint64{10_000_000}},
	{prefix: "$pbkdf2-sha512$", shape: pbkdf2Shape, decode: pbkdf2.Decode, class: 1, max: []uint64{10_000_000}},
	{prefix: "$pbkdf2$", shape: pbkdf2Shape, decode: pbkdf2.Decode, class: 1, max: []uint64{10_000_000}},
}

var (
	argonShape  = shape(`v=19\$(m=[1-9][0-9]{0,6},t=[1-9][0-9]{0,2},p=[1-9][0-9]{0,2})\$[+/0-9A-Za-z]{11,86}\$[+/0-9A-Za-z]{16,86}`)
	argonMax    = []uint64{1 << 18, 100, 16} // KiB, passes, lanes
	pbkdf2Shape = shape(`([1-9][0-9]{0,7})\$[./0-9A-Za-z]{1,86}\$[./0-9A-Za-z]{22,128}`)
	digits      = regexp.MustCompile(`[0-9]+`)
	schemeName  = regexp.MustCompile(`^\{([A-Z0-9.-]{1,24})\}`)
	idName      = regexp.MustCompile(`^\$([a-z0-9-]{1,16})\$`)
)

func shape(s string) *regexp.Regexp { return regexp.MustCompile(`^` + s + `$`) }

// parseField takes the second field of a users line. class is the same for
// hashes that cost the same.
func parseField(s string) (h matcher, class string, locked bool, err error) {
	switch {
	case s == "":
		return nil, "", false, errNoHash
	case s == "x":
		return nil, "", false, errShadow
	case strings.Trim(s, "*!") == "":
		return nil, "", false, nil
	case s[0] == '!': // what usermod -L does to a hash
		s, locked = strings.TrimLeft(s, "!"), true
	}
	h, class, err = parseHash(s)
	return h, class, locked, err
}

func parseHash(s string) (matcher, string, error) {
	scheme := ""
	if m := schemeName.FindStringSubmatch(strings.ToUpper(s)); m != nil {
		scheme, s = m[1], s[len(m[0]):]
	}
	switch scheme {
	case "SSHA256":
		return parseSalted(s, scheme, sha256.Size)
	case "SSHA512":
		return parseSalted(s, scheme, sha512.Size)
	}
	for _, f := range formats {
		if rest, ok := strings.CutPrefix(s, f.prefix); ok && (scheme == "" || scheme == "CRYPT" || slices.Contains(f.scheme, scheme)) {
			return f.parse(s, rest)
		}
	}
	if m := idName.FindStringSubmatch(s); m != nil && scheme == "" {
		return nil, "", fmt.Errorf("hashes of kind $%s$ are not taken: make a new one with kpopd passwd", m[1])
	}
	if scheme != "" {
		return nil, "", fmt.Errorf("hashes of scheme {%s} are not taken, or it is not what follows: make a new one with kpopd passwd", scheme)
	}
	return nil, "", errUnmarked
}

func (f *format) parse(s, rest string) (matcher, string, error) {
	m := f.shape.FindStringSubmatch(rest)
	if m == nil {
		return nil, "", errBroken
	}
	for i, n := range digits.FindAllString(m[f.class], -1) {
		if v, err := strconv.ParseUint(n, 10, 32); i < len(f.max) && (err != nil || v > f.max[i]) {
			return nil, "", errCost
		}
	}
	d, err := f.decode(s)
	if err != nil {
		return nil, "", errBroken // go-crypt's text may quote the hash
	}
	return computed{d, memoryOf(f.prefix, m[f.class])}, f.prefix + m[f.class], nil
}

// salted is a SHA-2 of password and salt with the salt behind it, as LDAP
// servers and Dovecot have it. It is cheap to compute, for the thief too: we
// read it and do not make it.
type salted struct {
	sum  func([]byte) []byte
	hash []byte
	salt []byte
}

func parseSalted(s, scheme string, size int) (matcher, string, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) < size+4 || len(b) > size+64 {
		return nil, "", errBroken
	}
	h := &salted{hash: b[:size], salt: b[size:]}
	if size == sha256.Size {
		h.sum = func(b []byte) []byte { s := sha256.Sum256(b); return s[:] }
	} else {
		h.sum = func(b []byte) []byte { s := sha512.Sum512(b); return s[:] }
	}
	return h, scheme, nil
}

func (*salted) memory() int64 { return leastMemory }

func (s *salted) MatchBytesAdvanced(password []byte) (bool, error) {
	b := append(slices.Grow(authn.Password(nil), len(password)+len(s.salt)), password...)
	b = append(b, s.salt...)
	defer b.Wipe()
	return subtle.ConstantTimeCompare(s.sum(b), s.hash) == 1, nil
}

// Schemes of [MakeHash], the best first.
func Schemes() []string { return []string{"yescrypt", "argon2id", "bcrypt", "sha512"} }

// Parameters are those of the hashes that [MakeHash] makes, in words. A mailbox is
// polled every few minutes and each poll computes a hash, so none is set to what a
// web login could pay.
func Parameters(scheme string) string {
	return map[string]string{
		"yescrypt": "N=4096 r=32 (16 MiB)",
		"argon2id": "19 MiB, 2 passes, 1 lane",
		"bcrypt":   "cost 10",
		"sha512":   "100,000 rounds",
	}[scheme]
}

// MakeHash makes a hash of password for the users file with [Parameters].
func MakeHash(scheme string, password authn.Password) (string, error) {
	if n := len(password); n == 0 || n > authn.MaxPassword {
		return "", fmt.Errorf("password has %d octets, 1 to %d are taken", n, authn.MaxPassword)
	}
	p := authn.PreparePassword(password)
	defer p.Wipe()
	h, err := hasher(scheme, len(p))
	if err != nil {
		return "", err
	}
	d, err := h.Hash(string(p))
	if err != nil {
		return "", fmt.Errorf("make %s hash: %w", scheme, err)
	}
	return d.Encode(), nil
}

const maxBcrypt = 72 // octets of a password that bcrypt looks at

func hasher(scheme string, octets int) (algorithm.Hash, error) {
	switch scheme {
	case "yescrypt":
		return scrypt.NewYescrypt(scrypt.WithLN(12), scrypt.WithR(32), scrypt.WithP(1))
	case "argon2id":
		return argon2.New(argon2.WithVariantID(), argon2.WithM(19<<10), argon2.WithT(2), argon2.WithP(1))
	case "bcrypt":
		if octets > maxBcrypt {
			return nil, fmt.Errorf("bcrypt looks at %d octets of a password only: take another scheme", maxBcrypt)
		}
		return bcrypt.New(bcrypt.WithVariant(bcrypt.VariantStandard), bcrypt.WithCost(10))
	case "sha512":
		return shacrypt.New(shacrypt.WithSHA512(), shacrypt.WithRounds(100_000))
	}
	return nil, fmt.Errorf("no scheme %q: there are %s", scheme, strings.Join(Schemes(), ", "))
}

// Fits reports whether password opens login in the users file at path.
func Fits(path, login string, password authn.Password) (bool, error) {
	us, err := loadUsers(path)
	if err != nil {
		return false, err
	}
	u := us.byLogin[login]
	if u.hash == nil {
		return false, nil
	}
	p := authn.PreparePassword(password)
	defer p.Wipe()
	return u.hash.MatchBytesAdvanced(p)
}
