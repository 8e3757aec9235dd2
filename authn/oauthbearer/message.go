package oauthbearer

import (
	"bytes"
	"errors"
	"strings"
	"unicode/utf8"
)

// message is what a client sends.
type message struct {
	login string // "" when the client leaves it to the token
	token []byte // part of the response; empty when there is none, or none of scheme Bearer
}

// kvsep ends a pair, and stands alone at the end.
const kvsep = "\x01"

// parseBearer reads a client-resp of RFC 7628 section 3.1:
//
//	gs2-header kvsep *kvpair kvsep
func parseBearer(b []byte) (message, error) {
	header, pairs, ok := bytes.Cut(b, []byte(kvsep))
	if !ok {
		return message{}, errors.New("no ^A")
	}
	login, err := parseHeader(header)
	if err != nil {
		return message{}, err
	}
	kv, err := value(pairs, "auth")
	if err != nil {
		return message{}, err
	}
	token, err := bearer(kv["auth"])
	return message{login, token}, err
}

// parseHeader reads a gs2-header (RFC 5801 section 4): flag "," [authzid] ",".
func parseHeader(b []byte) (login string, err error) {
	flag, rest, one := bytes.Cut(b, []byte{','})
	authzid, rest, two := bytes.Cut(rest, []byte{','})
	switch {
	case !one || !two || len(rest) > 0:
		return "", errors.New("not two commas in the GS2 header")
	case bytes.HasPrefix(flag, []byte("p=")):
		// "n" and "y" are all that the mechanism has (RFC 7628 section 3.1)
		return "", errors.New("channel binding, which the mechanism does not have")
	case string(flag) != "n" && string(flag) != "y":
		return "", errors.New("no flag of channel binding")
	case len(authzid) == 0:
		return "", nil
	}
	name, ok := bytes.CutPrefix(authzid, []byte("a="))
	if !ok || len(name) == 0 {
		return "", errors.New("no a= before the name")
	}
	return unescape(name)
}

// unescape reads a saslname (RFC 5801 section 4): =2C is a comma, =3D an equals
// sign, and neither stands there otherwise.
func unescape(b []byte) (string, error) {
	s := string(b)
	plain := strings.NewReplacer("=2C", "", "=3D", "").Replace(s)
	if strings.Contains(plain, "=") || strings.Contains(s, "\x00") || !utf8.ValidString(s) {
		return "", errors.New("name is no saslname")
	}
	return strings.NewReplacer("=2C", ",", "=3D", "=").Replace(s), nil
}

// parseLegacy reads XOAUTH2: "user=" name ^A "auth=Bearer " token ^A ^A.
func parseLegacy(b []byte) (message, error) {
	kv, err := value(b, "user", "auth")
	if err != nil {
		return message{}, err
	}
	login := kv["user"]
	if len(login) == 0 || !utf8.Valid(login) || bytes.IndexByte(login, 0) >= 0 {
		return message{}, errors.New("no user name")
	}
	token, err := bearer(kv["auth"])
	return message{string(login), token}, err
}

// value reads *kvpair kvsep. Keys other than known ones are left alone, as RFC
// 7628 section 3.1 has it; a known one may not come twice.
func value(b []byte, known ...string) (map[string][]byte, error) {
	kv := make(map[string][]byte, len(known))
	for !bytes.Equal(b, []byte(kvsep)) {
		pair, rest, ended := bytes.Cut(b, []byte(kvsep))
		key, v, ok := bytes.Cut(pair, []byte{'='})
		if !ended || !ok || !isKey(key) {
			return nil, errors.New("not pairs that end in ^A, and ^A")
		}
		for _, k := range known {
			if k != string(key) {
				continue
			}
			if _, twice := kv[k]; twice {
				return nil, errors.New(k + " comes twice")
			}
			kv[k] = v
		}
		b = rest
	}
	if _, ok := kv["auth"]; !ok {
		return nil, errors.New("no auth")
	}
	return kv, nil
}

// isKey: key = 1*(ALPHA)
func isKey(b []byte) bool {
	for _, c := range b {
		if c |= 0x20; c < 'a' || c > 'z' {
			return false
		}
	}
	return len(b) > 0
}

const scheme = "bearer"

// bearer is the token of the value of auth, nil when that is empty or of another
// scheme. The name of a scheme is of any case (RFC 9110 section 11.1).
func bearer(auth []byte) ([]byte, error) {
	name, token, _ := bytes.Cut(auth, []byte{' '})
	if !strings.EqualFold(string(name), scheme) {
		return nil, nil
	}
	if token = bytes.Trim(token, " "); !isToken(token) {
		return nil, errors.New("token is no b64token")
	}
	return token, nil
}

// isToken: b64token = 1*( ALPHA / DIGIT / "-" / "." / "_" / "~" / "+" / "/" )
// *"=" (RFC 6750 section 2.1). None at all is for the caller to judge.
func isToken(b []byte) bool {
	for _, c := range bytes.TrimRight(b, "=") {
		switch l := c | 0x20; {
		case 'a' <= l && l <= 'z', '0' <= c && c <= '9':
		case strings.IndexByte("-._~+/", c) >= 0:
		default:
			return false
		}
	}
	return true
}
