package scram

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxMessage is the length of the longest message that is read, in octets: a
// login of 255 octets that are all escaped, a nonce and a binding have room in
// it several times.
const maxMessage = 4 << 10

var errExtension = errors.New("mandatory extension") // m=, RFC 5802 section 5.1

// clientFirst is client-first-message (RFC 5802 section 7).
type clientFirst struct {
	flag    byte   // of the GS2 header: n, y or p
	binding string // type that p= names
	header  string // GS2 header as sent
	authzid string // "" when there is none
	user    string
	nonce   string
	bare    string // client-first-message-bare as sent
}

func parseFirst(b []byte) (m clientFirst, err error) {
	s, err := message(b)
	if err != nil {
		return clientFirst{}, err
	}
	flag, rest, _ := strings.Cut(s, ",")
	authzid, bare, ok := strings.Cut(rest, ",")
	if !ok {
		return clientFirst{}, errors.New("no GS2 header")
	}
	m.header, m.bare = s[:len(s)-len(bare)], bare
	if err := m.setFlag(flag); err != nil {
		return clientFirst{}, err
	}
	// Deviation: RFC 5802 section 7 has no empty name, and GNU SASL sends "a=" for
	// a user who asked to act for nobody.
	if authzid != "" && authzid != "a=" {
		if m.authzid, err = name(authzid, "a="); err != nil {
			return clientFirst{}, err
		}
	}
	attrs := strings.Split(bare, ",")
	switch {
	case strings.HasPrefix(bare, "m="):
		return clientFirst{}, errExtension
	case len(attrs) < 2:
		return clientFirst{}, errors.New("less than a name and a nonce")
	}
	if m.user, err = name(attrs[0], "n="); err != nil {
		return clientFirst{}, err
	}
	if m.nonce, err = nonce(attrs[1]); err != nil {
		return clientFirst{}, err
	}
	return m, extensions(attrs[2:])
}

func (m *clientFirst) setFlag(s string) error {
	kind, bound := strings.CutPrefix(s, "p=")
	switch {
	case s == "n", s == "y":
		m.flag = s[0]
	case bound && kind != "" && strings.Trim(kind, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-") == "":
		m.flag, m.binding = 'p', kind
	default:
		return errors.New("the GS2 header begins with neither n nor y nor p=")
	}
	return nil
}

// clientFinal is client-final-message (RFC 5802 section 7).
type clientFinal struct {
	binding      []byte // GS2 header and channel binding
	nonce        string
	proof        []byte
	withoutProof string // client-final-message-without-proof as sent
}

func parseFinal(b []byte) (m clientFinal, err error) {
	s, err := message(b)
	if err != nil {
		return clientFinal{}, err
	}
	attrs := strings.Split(s, ",")
	last := len(attrs) - 1
	if last < 2 {
		return clientFinal{}, errors.New("less than a binding, a nonce and a proof")
	}
	if m.binding, err = octets(attrs[0], "c="); err != nil {
		return clientFinal{}, err
	}
	if m.nonce, err = nonce(attrs[1]); err != nil {
		return clientFinal{}, err
	}
	if m.proof, err = octets(attrs[last], "p="); err != nil {
		return clientFinal{}, err
	}
	m.withoutProof = s[:len(s)-len(attrs[last])-1]
	return m, extensions(attrs[2:last])
}

// message refuses what no message holds. A control character could stand in an
// extension, of which there is none, and nowhere else.
func message(b []byte) (string, error) {
	if len(b) > maxMessage {
		return "", fmt.Errorf("message of %d octets", len(b))
	}
	s := string(b)
	if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7F }) {
		return "", errors.New("not UTF-8, or a control character in it")
	}
	return s, nil
}

// name takes a saslname, in which =2C and =3D stand for a comma and an equals
// sign and no other "=" is.
func name(attr, key string) (string, error) {
	s, ok := strings.CutPrefix(attr, key)
	if !ok || s == "" {
		return "", fmt.Errorf("no name where %s belongs", key)
	}
	decoded := nameEscapes.Replace(s)
	if strings.Count(s, "=") != strings.Count(s, "=2C")+strings.Count(s, "=3D") {
		return "", errors.New("a name with an equals sign that is no escape")
	}
	return decoded, nil
}

var nameEscapes = strings.NewReplacer("=2C", ",", "=3D", "=")

func nonce(attr string) (string, error) {
	s, ok := strings.CutPrefix(attr, "r=")
	if !ok || s == "" || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", errors.New("no nonce where r= belongs")
	}
	return s, nil
}

func octets(attr, key string) ([]byte, error) {
	s, ok := strings.CutPrefix(attr, key)
	if !ok {
		return nil, fmt.Errorf("no octets where %s belongs", key)
	}
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) == 0 {
		return nil, fmt.Errorf("no base64 behind %s", key)
	}
	return b, nil
}

// extensions are attributes that we may ignore: none that has a meaning already,
// and none that "MUST cause authentication failure when the attribute is parsed
// by the other end" (m, RFC 5802 section 5.1).
func extensions(attrs []string) error {
	for _, a := range attrs {
		switch {
		case strings.HasPrefix(a, "m="):
			return errExtension
		case len(a) < 3 || a[1] != '=' || !letter(a[0]) || strings.IndexByte("acinprsve", a[0]) >= 0:
			return errors.New("not an extension where one belongs")
		}
	}
	return nil
}

func letter(c byte) bool { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }
