package beneath

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// Layout is a template that was taken apart once, so that nothing in a user's
// name is ever read as a template.
type Layout []part

type part struct {
	literal string
	value   string // "user", "local", "domain", or "" for a literal
	first   int    // octets of the value; 0 for all
}

// ParseLayout takes a template apart: {user}, {local} and {domain} (before and
// after the last "@"), and {user:2} for the first two octets of such a value.
func ParseLayout(text string) (Layout, error) {
	var l Layout
	for text != "" {
		literal, rest, found := strings.Cut(text, "{")
		if literal != "" {
			l = append(l, part{literal: literal})
		}
		if !found {
			break
		}
		field, after, closed := strings.Cut(rest, "}")
		if !closed {
			return nil, errors.New("a { without a }")
		}
		p, err := parseField(field)
		if err != nil {
			return nil, err
		}
		l = append(l, p)
		text = after
	}
	path, err := l.Expand("user@domain")
	if err == nil && !filepath.IsLocal(path) {
		err = errors.New("leads out of the mail root")
	}
	return l, err
}

func parseField(field string) (part, error) {
	value, number, cut := strings.Cut(field, ":")
	p := part{value: value}
	switch value {
	case "user", "local", "domain":
	default:
		return p, fmt.Errorf("unknown {%s}: there are {user}, {local} and {domain}", field)
	}
	if cut {
		n, err := strconv.Atoi(number)
		if err != nil || n < 1 {
			return p, fmt.Errorf("{%s}: not a number of octets", field)
		}
		p.first = n
	}
	return p, nil
}

// Expand puts a user into the template. The result may still lead out of the
// mail root: [Layout.Locate] refuses that.
func (l Layout) Expand(user string) (string, error) {
	if err := checkUser(user); err != nil {
		return "", err
	}
	local, domain := user, ""
	if i := strings.LastIndexByte(user, '@'); i >= 0 {
		local, domain = user[:i], user[i+1:]
	}
	values := map[string]string{"user": user, "local": local, "domain": domain}
	var b strings.Builder
	for _, p := range l {
		v := p.literal
		if p.value != "" {
			if v = values[p.value]; v == "" || v[0] == '.' {
				return "", fmt.Errorf("user %q has no {%s} fit for a directory", user, p.value)
			}
			if p.first > 0 {
				v = v[:min(p.first, len(v))]
			}
		}
		b.WriteString(v)
	}
	return b.String(), nil
}

// checkUser refuses what must not become part of a path, whoever checked the
// name before.
func checkUser(user string) error {
	switch {
	case user == "":
		return errors.New("no user")
	case len(user) > 255:
		return errors.New("user name of more than 255 octets")
	case user[0] == '.', strings.Contains(user, ".."), strings.Contains(user, "/"),
		strings.ContainsFunc(user, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return fmt.Errorf("user %q cannot name a directory", user)
	}
	return nil
}
