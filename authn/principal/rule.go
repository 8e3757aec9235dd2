package principal

import (
	"errors"
	"regexp"
	"strconv"
	"strings"

	"github.com/kpopd/kpopd/authn"
)

const ruleDefault = "DEFAULT"

// rule is one value of MIT's auth_to_local: RULE:[n:string](regexp)s/re/text/g.
// Expressions are Go's, which run in linear time. As there, one in parentheses
// must match all of the selection string, text is taken literally and there may
// be several substitutions.
type rule struct {
	components int
	selection  string // with $0 for the realm and $1… for components
	match      *regexp.Regexp
	subst      []substitution
}

type substitution struct {
	re  *regexp.Regexp
	by  string
	all bool
}

func (r *rule) isDefault() bool { return r.components == 0 }

// parseRule returns the zero rule for DEFAULT.
func parseRule(s string) (rule, error) {
	if s == ruleDefault {
		return rule{}, nil
	}
	body, ok := strings.CutPrefix(s, "RULE:")
	if !ok {
		return rule{}, errors.New("neither RULE: nor DEFAULT")
	}
	r, rest, err := parseSelection(body)
	if err != nil {
		return rule{}, err
	}
	if strings.HasPrefix(rest, "(") {
		if r.match, rest, err = parseMatch(rest); err != nil {
			return rule{}, err
		}
	}
	for rest = strings.TrimSpace(rest); rest != ""; rest = strings.TrimSpace(rest) {
		var sub substitution
		if sub, rest, err = parseSubstitution(rest); err != nil {
			return rule{}, err
		}
		r.subst = append(r.subst, sub)
	}
	return r, nil
}

func parseSelection(s string) (r rule, rest string, err error) {
	in, rest, ok := strings.Cut(s, "]")
	n, selection, ok2 := strings.Cut(in, ":")
	if !ok || !ok2 || !strings.HasPrefix(n, "[") || selection == "" {
		return rule{}, "", errors.New("no [n:string]")
	}
	r.components, err = strconv.Atoi(n[1:])
	if err != nil || r.components < 1 || r.components > 9 {
		return rule{}, "", errors.New("the number of components is not 1 to 9")
	}
	r.selection = selection
	for i := 0; i < len(selection); i++ {
		if selection[i] != '$' {
			continue
		}
		if i++; i == len(selection) || selection[i] < '0' || selection[i] > byte('0'+r.components) {
			return rule{}, "", errors.New("$ without the number of a component after it")
		}
	}
	return r, rest, nil
}

// parseMatch takes the expression up to the parenthesis that closes it.
func parseMatch(s string) (*regexp.Regexp, string, error) {
	depth := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '(':
			depth++
		case ')':
			depth--
		}
		if depth == 0 && i < len(s) {
			re, err := compile(s[1:i])
			if err != nil {
				return nil, "", err
			}
			re, err = compile(`\A(?:` + re.String() + `)\z`)
			return re, s[i+1:], err
		}
	}
	return nil, "", errors.New("no parenthesis at the end of the expression")
}

func parseSubstitution(s string) (substitution, string, error) {
	f := strings.SplitN(s, "/", 4)
	if len(f) != 4 || f[0] != "s" {
		return substitution{}, "", errors.New("not a substitution s/expression/text/")
	}
	re, err := compile(f[1])
	if err != nil {
		return substitution{}, "", err
	}
	rest, all := strings.CutPrefix(f[3], "g")
	return substitution{re, f[2], all}, rest, nil
}

// compile asks for the longest match, as POSIX expressions have it.
func compile(s string) (*regexp.Regexp, error) {
	re, err := regexp.Compile(s)
	if err == nil {
		re.Longest()
	}
	return re, err
}

// apply returns what the rule makes of p, or false when it is not about p.
func (r *rule) apply(p *authn.Principal) (string, bool) {
	if len(p.Components) != r.components {
		return "", false
	}
	s := r.expand(p)
	if r.match != nil && !r.match.MatchString(s) {
		return "", false
	}
	for _, sub := range r.subst {
		s = sub.apply(s)
	}
	return s, true
}

func (r *rule) expand(p *authn.Principal) string {
	var b strings.Builder
	for i := 0; i < len(r.selection); i++ {
		c := r.selection[i]
		if c != '$' {
			b.WriteByte(c)
			continue
		}
		i++
		if n := r.selection[i] - '0'; n == 0 {
			b.WriteString(p.Realm)
		} else {
			b.WriteString(p.Components[n-1])
		}
	}
	return b.String()
}

func (s *substitution) apply(in string) string {
	if s.all {
		return s.re.ReplaceAllLiteralString(in, s.by)
	}
	at := s.re.FindStringIndex(in)
	if at == nil {
		return in
	}
	return in[:at[0]] + s.by + in[at[1]:]
}
