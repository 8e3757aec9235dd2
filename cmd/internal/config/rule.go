package config

import (
	"crypto/tls"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/krb5"
)

// What a rule does.
const (
	ActionAllow = "allow"
	ActionDeny  = "deny"
	ActionWarn  = "warn"
)

// Whether a login was bound to its TLS connection.
const (
	BindingUsed = "used"
	BindingNone = "none"
)

// Whether a client has a certificate that client_ca vouches for.
const (
	CertificateValid = "valid"
	CertificateNone  = "none"
)

// Rule is one line of a policy. It matches when all of its conditions hold; one
// that is absent always does, and a list holds when one of its entries does. A
// condition on what a client is only known to be after its login (users,
// groups, realms, enctypes, channel_binding) refuses after the proof; all others
// decide what CAPA says.
type Rule struct {
	Action string `mapstructure:"action"` // allow, deny, or warn: allow and say so in the log
	Text   string `mapstructure:"text"`   // deny: what the client is told, "Passwords are retired, see https://..."; with a condition on users it also tells who guesses a password that it was right

	Listeners      []string       `mapstructure:"listeners"`       // names
	Networks       []netip.Prefix `mapstructure:"networks"`        // of clients
	TLS            []string       `mapstructure:"tls"`             // none, "1.2", "1.3"
	Certificate    string         `mapstructure:"certificate"`     // of the client: valid or none; one that client_ca does not vouch for, or that may have been revoked, is none
	Mechanisms     []string       `mapstructure:"mechanisms"`      // of the policy's offers
	Users          []string       `mapstructure:"users"`           // who proved himself
	Groups         []string       `mapstructure:"groups"`          // that the chain's verifiers have him in
	Realms         []string       `mapstructure:"realms"`          // of the ticket's client
	Enctypes       []string       `mapstructure:"enctypes"`        // of the ticket
	ChannelBinding string         `mapstructure:"channel_binding"` // used or none
	Times          []string       `mapstructure:"times"`           // "mon-fri 08:00-18:00", days or hours alone; the server's local time
	Sunset         Sunset         `mapstructure:"sunset"`          // deny: when the rule comes into force; at once when absent

	As []string `mapstructure:"as"` // in act only, where it must be: users that the login may act for, "*" for anybody
}

// Sunset puts a rule into force by plan. Dates are "2027-03-01", or
// "2027-03-01 08:00", in the server's local time.
type Sunset struct {
	Date      string   `mapstructure:"date"`       // from when on everybody is refused
	Brownouts []string `mapstructure:"brownouts"`  // windows before it in which everybody is: "mon 10:00-10:10"
	ShareFrom string   `mapstructure:"share_from"` // from when on a share of the users is, which grows evenly to all of them at date; nobody's when absent
}

// Rules are the rules of the policy with number i.
func (c *Config) Rules(i int) []*authn.Rule {
	return c.buildRules(fmt.Sprintf("policies[%d].rules", i), c.Policies[i].Rules)
}

// Act says who may act for whom by the policy with number i.
func (c *Config) Act(i int) []*authn.Rule {
	return c.buildRules(fmt.Sprintf("policies[%d].act", i), c.Policies[i].Act)
}

func (c *Config) buildRules(key string, rules []Rule) []*authn.Rule {
	var built []*authn.Rule
	for i, r := range rules {
		built = append(built, r.build(fmt.Sprintf("%s:%d", c.file, c.line(fmt.Sprintf("%s[%d]", key, i)))))
	}
	return built
}

// build makes what the policy asks of a rule that was validated.
func (r Rule) build(source string) *authn.Rule {
	b := &authn.Rule{
		Source: source, Action: actions[r.Action], Text: r.Text,
		Listeners: r.Listeners, Networks: r.Networks, Mechanisms: r.Mechanisms,
		Users: r.Users, Groups: r.Groups, Realms: r.Realms, As: r.As,
		Times: windows(r.Times), Sunset: r.Sunset.build(),
	}
	for _, v := range r.TLS {
		b.TLS = append(b.TLS, tlsVersions[v])
	}
	for _, name := range r.Enctypes {
		n, _ := krb5.ParseEnctype(name)
		b.Enctypes = append(b.Enctypes, krb5.EnctypeName(n))
	}
	switch r.ChannelBinding {
	case BindingUsed:
		b.Binding = authn.Present
	case BindingNone:
		b.Binding = authn.Absent
	}
	switch r.Certificate {
	case CertificateValid:
		b.Certificate = authn.Present
	case CertificateNone:
		b.Certificate = authn.Absent
	}
	return b
}

func (s Sunset) build() *authn.Sunset {
	if s.Date == "" {
		return nil
	}
	b := &authn.Sunset{Brownouts: windows(s.Brownouts)}
	b.Date, _ = parseDate(s.Date)
	b.ShareFrom, _ = parseDate(s.ShareFrom)
	return b
}

var (
	actions     = map[string]authn.Action{ActionAllow: authn.Allow, ActionDeny: authn.Deny, ActionWarn: authn.Warn}
	tlsVersions = map[string]uint16{TLSNone: 0, "1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}
)

func windows(texts []string) []authn.Window {
	var ws []authn.Window
	for _, s := range texts {
		w, _ := authn.ParseWindow(s)
		ws = append(ws, w)
	}
	return ws
}

// parseDate reads a day or a minute; "" is no date.
func parseDate(s string) (time.Time, error) {
	for _, layout := range []string{time.DateOnly, time.DateOnly + " 15:04"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no date; write it as 2027-03-01 or 2027-03-01 08:00", s)
}

// policyListeners are those that the policy judges, as a shadow too.
func (c *Config) policyListeners(name string) []Listener {
	var ls []Listener
	for _, l := range c.Listeners {
		shadowed := slices.ContainsFunc(c.Policies, func(x Policy) bool { return x.Name == l.Policy && x.Shadow == name })
		if l.Policy == name || shadowed {
			ls = append(ls, l)
		}
	}
	return ls
}

func (p *problems) rules(at string, x Policy) {
	for i, r := range x.Rules {
		key := fmt.Sprintf("%s.rules[%d]", at, i)
		p.rule(key, x, r)
		if len(r.As) > 0 {
			p.add(key+".as", "says for whom a login may act; that belongs into act, not into rules")
		}
		p.reached(key, at+".rules", x.Rules[:i], r)
	}
	for i, r := range x.Act {
		key := fmt.Sprintf("%s.act[%d]", at, i)
		p.rule(key, x, r)
		if len(r.As) == 0 {
			p.add(key+".as", "missing; list the users that the login may act for, or [\"*\"] for anybody")
		}
		for j, user := range r.As {
			if user != "*" {
				p.login(fmt.Sprintf("%s.as[%d]", key, j), user)
			}
		}
		p.reached(key, at+".act", x.Act[:i], r)
	}
	if len(x.Act) > 0 && !slices.ContainsFunc(x.Offers, NamesAnother) {
		p.add(at+".act", "has no effect: no client of the mechanisms offered can ask to act for another; PLAIN and GSSAPI can")
	}
	if x.Shadow == x.Name && x.Name != "" {
		p.add(at+".shadow", "is the policy itself; name another one")
	} else if x.Shadow != "" {
		refer(p, at+".shadow", "policy", x.Shadow, p.c.Policies, func(y Policy) string { return y.Name })
	}
}

// NamesAnother reports whether a client of a mechanism can ask to act for
// another.
func NamesAnother(mech string) bool {
	return !slices.Contains([]string{"USER", "APOP", "LOGIN", "CRAM-MD5", "GSS-SPNEGO"}, mech)
}

// binds reports whether a mechanism can be bound to TLS.
func (c *Config) binds(mech string) bool {
	return (mech == "GSSAPI" || mech == "GSS-SPNEGO") && c.GSSAPI.ChannelBinding != "off" || strings.HasSuffix(mech, "-PLUS")
}

// rule refuses conditions that cannot be read, and those that can never hold.
func (p *problems) rule(at string, x Policy, r Rule) {
	if r.Action == "" {
		p.add(at+".action", "missing; write allow, deny or warn")
	}
	p.oneOf(at+".action", r.Action, ActionAllow, ActionDeny, ActionWarn)
	p.ruleText(at+".text", r)
	p.ruleConnection(at, x, r)
	for i, name := range r.Mechanisms {
		if !slices.Contains(x.Offers, name) {
			p.add(fmt.Sprintf("%s.mechanisms[%d]", at, i), "%s is not in the policy's offers%s", name, suggest(name, x.Offers))
		}
	}
	for i, user := range r.Users {
		p.login(fmt.Sprintf("%s.users[%d]", at, i), user)
	}
	if chain, ok := p.c.chain(x.Chain); ok && len(r.Groups) > 0 && !p.c.findsGroups(chain) {
		p.add(at+".groups", "no step of chain %q knows groups; add a verifier of %s, or users to what a remote one judges", x.Chain, byGroup.what)
	}
	p.ruleTicket(at, x, r)
	for i, s := range r.Times {
		p.window(fmt.Sprintf("%s.times[%d]", at, i), s)
	}
	p.sunset(at+".sunset", r)
}

// maxRuleText keeps a refusal within the line of RFC 2449 section 4.
const maxRuleText = 400

func (p *problems) ruleText(key string, r Rule) {
	plain := strings.Trim(r.Text, " ") == r.Text && !strings.HasPrefix(r.Text, "[")
	for _, c := range []byte(r.Text) {
		plain = plain && ' ' <= c && c < 0x7F
	}
	switch {
	case r.Text == "":
	case r.Action != ActionDeny:
		p.add(key, "has no effect: only who is denied is told; remove it")
	case !plain || len(r.Text) > maxRuleText:
		p.add(key, "cannot be sent; write one line of ASCII, %d characters at most, that does not begin with a bracket", maxRuleText)
	}
}

func (p *problems) ruleConnection(at string, x Policy, r Rule) {
	judged := p.c.policyListeners(x.Name)
	for i, name := range r.Listeners {
		key := fmt.Sprintf("%s.listeners[%d]", at, i)
		l, ok := refer(p, key, "listener", name, p.c.Listeners, func(l Listener) string { return l.Name })
		if ok && !slices.ContainsFunc(judged, func(x Listener) bool { return x.Name == l.Name }) {
			p.add(key, "listener %q has policy %q, so the rule never meets it", name, l.Policy)
		}
	}
	judged = slices.DeleteFunc(judged, func(l Listener) bool { return len(r.Listeners) > 0 && !slices.Contains(r.Listeners, l.Name) })
	for i, v := range r.TLS {
		key := fmt.Sprintf("%s.tls[%d]", at, i)
		can := func(l Listener) bool { return l.UsesTLS() }
		if v == TLSNone {
			can = func(l Listener) bool { return l.TLS != TLSImplicit }
		}
		switch _, known := tlsVersions[v]; {
		case !known:
			p.add(key, "%q is not known; write none, \"1.2\" or \"1.3\": older versions are not spoken", v)
		case len(judged) > 0 && !slices.ContainsFunc(judged, can):
			p.add(key, "no connection that the rule meets is ever like that; remove it")
		}
	}
	p.oneOf(at+".certificate", r.Certificate, CertificateValid, CertificateNone)
	if r.Certificate != "" && !slices.ContainsFunc(judged, func(l Listener) bool { return l.ClientCA != "" }) {
		p.add(at+".certificate", "no listener that the rule meets asks for one; set client_ca in a listener")
	}
}

// ruleTicket refuses conditions on tickets and bindings that no mechanism
// brings.
func (p *problems) ruleTicket(at string, x Policy, r Rule) {
	mechs := r.Mechanisms
	if len(mechs) == 0 {
		mechs = x.Offers
	}
	ticket := slices.ContainsFunc(mechs, func(name string) bool { m, _ := mechanismNamed(name); return m.kerberos })
	if len(r.Realms) > 0 && !ticket {
		p.add(at+".realms", "never hold: no mechanism that the rule meets brings a ticket")
	}
	if len(r.Enctypes) > 0 && !ticket {
		p.add(at+".enctypes", "never hold: no mechanism that the rule meets brings a ticket")
	}
	taken := p.c.Kerberos.EnctypeNumbers()
	if len(taken) == 0 {
		taken = krb5.DefaultEnctypes()
	}
	for i, name := range r.Enctypes {
		key := fmt.Sprintf("%s.enctypes[%d]", at, i)
		n, err := krb5.ParseEnctype(name)
		switch {
		case err != nil:
			p.add(key, "%w", err)
		case !slices.Contains(taken, n):
			p.add(key, "tickets of %s are not taken at all; remove it, or add it to kerberos.enctypes", name)
		}
	}
	p.oneOf(at+".channel_binding", r.ChannelBinding, BindingUsed, BindingNone)
	if r.ChannelBinding == BindingUsed && !slices.ContainsFunc(mechs, p.c.binds) {
		p.add(at+".channel_binding", "never holds: no mechanism that the rule meets can be bound to TLS")
	}
}

func (p *problems) window(key, s string) {
	if _, err := authn.ParseWindow(s); err != nil {
		p.add(key, "%w", err)
	}
}

func (p *problems) sunset(at string, r Rule) {
	s := r.Sunset
	if s.Date == "" {
		if p.c.lines[at] > 0 {
			p.add(at+".date", "missing; write from when on everybody is refused")
		}
		return
	}
	if r.Action != ActionDeny {
		p.add(at, "has no effect: only a rule with action: deny has a sunset")
	}
	date, err := parseDate(s.Date)
	if err != nil {
		p.add(at+".date", "%w", err)
	}
	for i, w := range s.Brownouts {
		p.window(fmt.Sprintf("%s.brownouts[%d]", at, i), w)
	}
	if s.ShareFrom == "" {
		return
	}
	from, fromErr := parseDate(s.ShareFrom)
	switch {
	case fromErr != nil:
		p.add(at+".share_from", "%w", fromErr)
	case err == nil && !from.Before(date):
		p.add(at+".share_from", "is not before date, when everybody is refused; choose an earlier one")
	}
}

// login wants a name as it is once a client has logged in.
func (p *problems) login(key, user string) {
	if u, err := p.c.LoginNames().Prepare(user); err != nil || u != user {
		p.add(key, "%q is no login in canonical form, so nobody ever has it", user)
	}
}

// reached refuses a rule behind one that matches whatever it would match.
func (p *problems) reached(key, list string, before []Rule, r Rule) {
	for j, b := range before {
		if b.covers(r) {
			p.add(key, "is never reached: %s[%d] in line %d matches all that it would; move it up or remove it",
				list, j, p.c.line(fmt.Sprintf("%s[%d]", list, j)))
			return
		}
	}
}

// covers reports whether r matches whenever b does. Where that takes
// arithmetic (hours that overlap), it is not seen.
func (r Rule) covers(b Rule) bool {
	networks := len(r.Networks) == 0 || len(b.Networks) > 0 && !slices.ContainsFunc(b.Networks, func(n netip.Prefix) bool {
		return !slices.ContainsFunc(r.Networks, func(m netip.Prefix) bool { return m.Bits() <= n.Bits() && m.Contains(n.Addr()) })
	})
	return networks && r.Sunset.Date == "" && (r.ChannelBinding == "" || r.ChannelBinding == b.ChannelBinding) &&
		(r.Certificate == "" || r.Certificate == b.Certificate) &&
		holdsFor(r.Listeners, b.Listeners) && holdsFor(r.TLS, b.TLS) && holdsFor(r.Mechanisms, b.Mechanisms) &&
		holdsFor(r.Users, b.Users) && holdsFor(r.Groups, b.Groups) && holdsFor(r.Realms, b.Realms) &&
		holdsFor(r.Enctypes, b.Enctypes) && holdsFor(r.Times, b.Times) &&
		(slices.Contains(r.As, "*") || holdsFor(r.As, b.As))
}

// holdsFor reports whether a list holds whenever another does.
func holdsFor(a, b []string) bool {
	return len(a) == 0 || len(b) > 0 && !slices.ContainsFunc(b, func(s string) bool { return !slices.Contains(a, s) })
}
