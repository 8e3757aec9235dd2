package principal

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/sitefile"
)

const (
	maxMap    = 16 << 20 // octets
	maxErrors = 20       // told at once
)

func (m *Mapper) load() (map[string][]string, error) {
	if m.o.Map == "" {
		return nil, nil
	}
	b, err := sitefile.Read(m.o.Map, maxMap, sitefile.OthersWritable)
	if err != nil {
		return nil, err
	}
	return m.parse(m.o.Map, b)
}

// parse reads lines of a principal and its logins with commas between. A
// principal may stand on several lines. The login "-" is none: who has no other
// opens nothing.
func (m *Mapper) parse(path string, b []byte) (map[string][]string, error) {
	t := make(map[string][]string)
	var errs []error
	n := 0
	for line := range bytes.Lines(b) {
		n++
		s := strings.TrimSpace(string(line))
		if s == "" || s[0] == '#' {
			continue
		}
		p, ls, err := m.parseLine(s)
		if err != nil {
			if errs = append(errs, fmt.Errorf("%s:%d: %w", path, n, err)); len(errs) == maxErrors {
				break
			}
			continue
		}
		k := m.fold(p.String())
		t[k] = append(t[k], ls...)
	}
	return t, errors.Join(errs...)
}

func (m *Mapper) parseLine(s string) (*authn.Principal, []string, error) {
	name, rest, err := sitefile.Word(s)
	if err != nil {
		return nil, nil, err
	}
	p, err := parsePrincipal(name)
	if err != nil {
		return nil, nil, err
	}
	rest = strings.TrimSpace(rest)
	if rest == "" {
		return nil, nil, errors.New("no login after the principal")
	}
	var ls []string
	for l := range strings.SplitSeq(rest, ",") {
		l = strings.TrimSpace(l)
		if l == "-" {
			continue
		}
		login, err := authn.PrepareLogin(l)
		if err != nil {
			return nil, nil, fmt.Errorf("%q is no login", l)
		}
		ls = append(ls, m.fold(login))
	}
	return p, ls, nil
}

// parsePrincipal reads a name as Kerberos writes it: a backslash makes the
// next character ordinary, but n, t, b and 0 stand for line feed, tab,
// backspace and NUL. The realm must be there.
func parsePrincipal(s string) (*authn.Principal, error) {
	if !utf8.ValidString(s) {
		return nil, errors.New("principal is no UTF-8")
	}
	var parts []string // components, then the realm
	var b []byte
	realm := false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\':
			if i++; i == len(s) {
				return nil, errors.New("backslash at the end of the principal")
			}
			b = append(b, unescape(s[i]))
		case c == '/' && !realm, c == '@' && !realm:
			parts, b = append(parts, string(b)), nil
			realm = c == '@'
		case c == '@':
			return nil, fmt.Errorf("two @ in %q", s)
		default:
			b = append(b, c)
		}
	}
	if !realm || len(b) == 0 || slices.Contains(parts, "") {
		return nil, fmt.Errorf("%q is no principal: write name@REALM", s)
	}
	return &authn.Principal{Components: parts, Realm: string(b)}, nil
}

func unescape(c byte) byte {
	switch c {
	case 'n':
		return '\n'
	case 't':
		return '\t'
	case 'b':
		return '\b'
	case '0':
		return 0
	}
	return c
}
