// Package principal says which maildrops a Kerberos principal may open.
//
// # Design notes
//
// Only the name and the realm of the ticket count. Whose login a principal is
// gets decided in this order, and the first that has a say decides alone:
//
//  1. the map file: a principal in it has the logins of its lines, no others;
//  2. .k5login in the home of the user who is asked for, where that is
//     configured: when the file is there, who is not in it stays out;
//  3. the rules, in the syntax of MIT's auth_to_local. As there, a list of
//     rules without DEFAULT does away with the default;
//  4. the default: a principal of one component in a local realm is the login
//     of that name.
//
// Components are compared one by one: "a/b" of one component and "a", "b" of two
// are different names that look the same once joined. A rule does join them, so
// none is asked about a component that is no login by itself, or has an at-sign:
// s/@.*// would make alice of "alice@x".
//
// A refusal is [authn.Denied]: the ticket was right.
package principal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/kpopd/kpopd/authn"
)

// Options say how principals become logins.
type Options struct {
	LocalRealms []string // whose principals of one component are logins of that name
	Map         string   // path of the map file; "" for none
	K5Login     string   // path of a user's .k5login with %u for the login, "/home/%u/.k5login"; "" for none
	Rules       []string // values of auth_to_local: "RULE:…" or "DEFAULT"; empty means DEFAULT
	RuleRealms  []string // whose principals the rules are asked about; LocalRealms when empty
	MailDomains []string // "alice@" any of these, as a client may ask, means alice
	FoldCase    bool     // principals and logins differ in nothing but case: Active Directory
}

// Mapper is an [authn.PrincipalMapper].
type Mapper struct {
	name  string
	o     Options
	rules []rule
	users userFinder
	// the map file: Principal.String() to logins, the first of them for
	// clients that ask for none
	byPrincipal map[string][]string
}

var _ authn.PrincipalMapper = (*Mapper)(nil)

// New reads the map file and the rules. name is the chain step's.
func New(name string, o Options) (*Mapper, error) {
	m := &Mapper{name: name, o: o, users: systemUser}
	if len(o.Rules) == 0 {
		o.Rules = []string{ruleDefault}
	}
	if len(o.RuleRealms) == 0 {
		m.o.RuleRealms = o.LocalRealms
	}
	for _, s := range o.Rules {
		r, err := parseRule(s)
		if err != nil {
			return nil, fmt.Errorf("rule %q: %w", s, err)
		}
		m.rules = append(m.rules, r)
	}
	if o.K5Login != "" && (!strings.HasPrefix(o.K5Login, "/") || strings.Count(o.K5Login, "%u") != 1) {
		return nil, fmt.Errorf("k5login %q: an absolute path with %%u in it once is needed", o.K5Login)
	}
	var err error
	if m.byPrincipal, err = m.load(); err != nil {
		return nil, err
	}
	return m, nil
}

// Name implements [authn.Verifier].
func (m *Mapper) Name() string { return m.name }

// MapPrincipal implements [authn.PrincipalMapper]. authzid may be a login, or
// a login with the ticket's realm or a mail domain behind an at-sign.
func (m *Mapper) MapPrincipal(ctx context.Context, p *authn.Principal, authzid string) (*authn.Identity, error) {
	want, err := m.wanted(ctx, p, authzid)
	if err != nil {
		return nil, m.denied(p, authzid, err)
	}
	user, err := m.find(ctx, p, want)
	var unusable *unusableError
	switch {
	case errors.As(err, &unusable):
		return nil, &authn.Error{Kind: authn.Unavailable, Step: m.name, Err: err}
	case err != nil:
		return nil, m.denied(p, authzid, err)
	}
	return &authn.Identity{User: user, Authn: p.String(), Expires: p.Expires}, nil
}

// wanted lists the logins that authzid may mean, what it says word for word
// first. It is empty when the client asked for none.
func (m *Mapper) wanted(ctx context.Context, p *authn.Principal, authzid string) ([]string, error) {
	if authzid == "" {
		return nil, nil
	}
	login, err := authn.CanonicalLogin(ctx, authzid)
	if err != nil {
		return nil, err
	}
	login = m.fold(login)
	want := []string{login}
	if i := strings.LastIndexByte(login, '@'); i > 0 {
		domain := login[i+1:]
		same := func(d string) bool { return strings.EqualFold(d, domain) }
		if same(p.Realm) || slices.ContainsFunc(m.o.MailDomains, same) {
			if local, err := authn.CanonicalLogin(ctx, login[:i]); err == nil {
				want = append(want, local)
			}
		}
	}
	return want, nil
}

// find returns the first login of want that p has, or p's own login when want
// is empty.
func (m *Mapper) find(ctx context.Context, p *authn.Principal, want []string) (string, error) {
	if mapped, ok := m.byPrincipal[m.fold(p.String())]; ok {
		return choose(ctx, mapped, want)
	}
	own, ruleErr := m.own(ctx, p)
	if want == nil && own != "" {
		want = []string{own}
	}
	for _, login := range want {
		listed, there, err := m.k5login(p, login)
		switch {
		case err != nil:
			return "", err
		case listed || !there && login == own:
			return login, nil
		}
	}
	if ruleErr != nil {
		return "", ruleErr
	}
	return "", errNotOwn
}

var (
	errNotMapped = errors.New("not among the logins of the map file")
	errNotOwn    = errors.New("not the login of this principal")
)

func choose(ctx context.Context, mapped, want []string) (string, error) {
	if want == nil && len(mapped) > 0 {
		return mapped[0], nil
	}
	for _, login := range want {
		if slices.ContainsFunc(mapped, func(l string) bool { return authn.SameLogin(ctx, l, login) }) {
			return login, nil
		}
	}
	return "", errNotMapped
}

// own is the login that rules and default give p.
func (m *Mapper) own(ctx context.Context, p *authn.Principal) (string, error) {
	if len(p.Components) == 0 {
		return "", errors.New("principal without a name")
	}
	for _, c := range p.Components {
		if _, err := authn.PrepareLogin(c); err != nil || strings.Contains(c, "@") {
			return "", fmt.Errorf("%.128q in the principal reads like more than one word", c)
		}
	}
	for _, r := range m.rules {
		login, ok := "", false
		if r.isDefault() {
			login, ok = m.byDefault(p)
		} else if m.in(m.o.RuleRealms, p.Realm) {
			login, ok = r.apply(p)
		}
		if !ok {
			continue
		}
		login, err := authn.CanonicalLogin(ctx, login)
		if err != nil {
			return "", err
		}
		return m.fold(login), nil
	}
	return "", errors.New("no rule gives this principal a login")
}

// byDefault: "alice/admin" is not alice.
func (m *Mapper) byDefault(p *authn.Principal) (string, bool) {
	if len(p.Components) != 1 || !m.in(m.o.LocalRealms, p.Realm) {
		return "", false
	}
	return p.Components[0], true
}

func (m *Mapper) in(realms []string, realm string) bool {
	return slices.ContainsFunc(realms, func(r string) bool {
		return r == realm || m.o.FoldCase && strings.EqualFold(r, realm)
	})
}

func (m *Mapper) fold(s string) string {
	if m.o.FoldCase {
		return strings.ToLower(s)
	}
	return s
}

// denied says to the client who may not read what: the one text that tells a
// user of the wrong ticket what to do. The client knows both names already.
func (m *Mapper) denied(p *authn.Principal, authzid string, why error) error {
	text := ascii(p.String()) + " has no mailbox here"
	if authzid != "" {
		text = ascii(p.String()) + " may not read " + ascii(authzid)
	}
	return &authn.Error{Kind: authn.Denied, Step: m.name, Text: text, Err: fmt.Errorf("%s as %.128q: %w", p, authzid, why)}
}

const maxShown = 128 // octets of a name that a client is shown

// ascii makes s fit for a line of the protocol.
func ascii(s string) string {
	b := make([]byte, 0, maxShown+16)
	for _, r := range s {
		if len(b) > maxShown {
			return string(b) + "..."
		}
		switch {
		case ' ' < r && r < 0x7F:
			b = append(b, byte(r))
		case r == ' ':
			b = append(b, ' ')
		default:
			b = fmt.Appendf(b, "\\u{%x}", r)
		}
	}
	return string(b)
}
