package authn

import (
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/secure/precis"
)

// MaxLogin is the length of the longest login name, in octets: what RFC 4616
// section 2 asks a server to take at least.
const MaxLogin = 255

// MaxPassword is the length of the longest password, in octets. Longer ones
// are refused before anything hashes them.
const MaxPassword = 1024

var errLogin = errors.New("not a login name")

// PrepareLogin returns the canonical form of a login name that a client sent:
// RFC 8265's UsernameCasePreserved, in place of the SASLprep that RFC 4616,
// RFC 5034 and RFC 6856 name, which it replaces (RFC 8265 section 6). Case is
// kept: "Alice" and "alice" are two users unless [Names] say otherwise.
//
// It refuses whatever should meet no verifier, lock, path or query: letters,
// digits and "._+@-" are taken and nothing else, a name does not begin with a
// dot or a hyphen, and ".." is nowhere in it. All mechanisms go through it by
// [CanonicalLogin], so that a name is judged once and the same way.
func PrepareLogin(login string) (string, error) {
	if len(login) == 0 || len(login) > MaxLogin || !utf8.ValidString(login) {
		return "", errLogin
	}
	if !isASCII(login) {
		var err error
		if login, err = precis.UsernameCasePreserved.String(login); err != nil || len(login) > MaxLogin {
			return "", errLogin
		}
	}
	if login[0] == '.' || login[0] == '-' || strings.Contains(login, "..") {
		return "", errLogin
	}
	for _, r := range login {
		if !loginRune(r) {
			return "", errLogin
		}
	}
	return login, nil
}

func loginRune(r rune) bool {
	switch {
	case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
		return true
	case r < utf8.RuneSelf:
		return strings.ContainsRune("._+@-", r)
	}
	return unicode.In(r, unicode.L, unicode.M, unicode.Nd)
}

// PreparePassword returns a copy of a password in the form that verifiers
// compare: RFC 8265's OpaqueString, which leaves ASCII as it is.
//
// Deviation: what that profile refuses (control characters, octets that are no
// UTF-8) is passed on unchanged where RFC 4616 section 2 would fail it. Old
// hashes were made of such octets, and a hash that does not match them refuses
// as well.
func PreparePassword(p []byte) Password {
	if !isASCII(p) && utf8.Valid(p) {
		if q, err := precis.OpaqueString.Bytes(p); err == nil {
			return q
		}
	}
	return append(Password{}, p...)
}

func isASCII[T string | []byte](s T) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
