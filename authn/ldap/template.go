package ldap

import (
	"errors"
	"fmt"
	"strings"

	"github.com/go-ldap/ldap/v3"
)

// template is text with places: %u a login, %n what it has before its last
// at-sign, %d what it has after that, %D a DN, %p a principal, %% a percent sign.
// What is put in is escaped, and not looked at again.
type template []piece

// piece is text, or a place when verb is not zero.
type piece struct {
	text string
	verb byte
}

// filling is what goes into the places.
type filling struct{ login, dn, principal string }

// parseTemplate takes a template whose places must be among verbs, at least one
// of them.
func parseTemplate(s, verbs string) (template, error) {
	var t template
	places := 0
	for s != "" {
		text, rest, found := strings.Cut(s, "%")
		if text != "" {
			t = append(t, piece{text: text})
		}
		if !found {
			break
		}
		if rest == "" {
			return nil, errors.New("ends with a single %")
		}
		switch v := rest[0]; {
		case v == '%':
			t = append(t, piece{text: "%"})
		case strings.IndexByte(verbs, v) >= 0:
			t = append(t, piece{verb: v})
			places++
		default:
			return nil, fmt.Errorf("%%%c has no meaning here; %s have", v, verbList(verbs))
		}
		s = rest[1:]
	}
	if places == 0 {
		return nil, fmt.Errorf("is the same for everyone; put one of %s into it", verbList(verbs))
	}
	return t, nil
}

func verbList(verbs string) string {
	return "%" + strings.Join(strings.Split(verbs, ""), ", %")
}

// dn puts in values escaped as RFC 4514 section 2.4 asks.
func (t template) dn(v filling) string { return t.expand(v, ldap.EscapeDN) }

// filter puts in values escaped as RFC 4515 section 3 asks.
func (t template) filter(v filling) string { return t.expand(v, ldap.EscapeFilter) }

func (t template) expand(v filling, escape func(string) string) string {
	var b strings.Builder
	for _, p := range t {
		if p.verb == 0 {
			b.WriteString(p.text)
		} else {
			b.WriteString(escape(v.of(p.verb)))
		}
	}
	return b.String()
}

func (v filling) of(verb byte) string {
	at := strings.LastIndexByte(v.login, '@')
	switch verb {
	case 'n':
		if at >= 0 {
			return v.login[:at]
		}
		return v.login
	case 'd':
		if at >= 0 {
			return v.login[at+1:]
		}
		return ""
	case 'D':
		return v.dn
	case 'p':
		return v.principal
	}
	return v.login
}

// parseFilter is parseTemplate for a filter, which must be one with anything in
// its places.
func parseFilter(s, verbs string) (template, error) {
	t, err := parseTemplate(s, verbs)
	if err != nil {
		return nil, err
	}
	if _, err := ldap.CompileFilter(t.filter(filling{"a@b", "cn=a", "a@B"})); err != nil {
		return nil, fmt.Errorf("is no filter: %w", err)
	}
	return t, nil
}

// parseDNTemplate is parseTemplate for a DN.
func parseDNTemplate(s string) (template, error) {
	t, err := parseTemplate(s, "und")
	if err != nil {
		return nil, err
	}
	if _, err := ldap.ParseDN(t.dn(filling{login: "a@b"})); err != nil {
		return nil, fmt.Errorf("is no DN: %w", err)
	}
	return t, nil
}
