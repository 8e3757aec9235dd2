package external

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/kpopd/kpopd/authn"
)

// What of a certificate a rule or a line of the map file goes by.
const (
	FromCN          = "cn"     // the common names of the subject
	FromDN          = "dn"     // the whole subject, as [DN] writes it
	FromEmail       = "email"  // e-mail addresses among the alternative names
	FromUPN         = "upn"    // Microsoft's user principal names among them
	fromFingerprint = "sha256" // of the certificate; in the map file only
)

// Rule makes a login of one sort of name in a certificate.
type Rule struct {
	From   string // cn, dn, email or upn
	Match  string // regular expression that must match all of the name
	Login  string // what becomes of it, with $1 for what the first group matched; the whole name when empty
	Issuer string // the rule is for certificates of this issuer, as [DN] writes it; of any when empty
}

// Options say to whom certificates belong.
type Options struct {
	Map   string // path of the map file; "" for none
	Rules []Rule // asked in order when the map file does not know the certificate; the first that matches decides
}

// Mapper is an [authn.CertificateMapper].
type Mapper struct {
	name  string
	rules []rule
	byKey map[string]string // the map file: "upn:alice@EXAMPLE" to a login, or to "-"
}

var _ authn.CertificateMapper = (*Mapper)(nil)

type rule struct {
	Rule
	re *regexp.Regexp
}

// NewMapper reads the map file and the rules. name is the chain step's.
func NewMapper(name string, o Options) (*Mapper, error) {
	m := &Mapper{name: name}
	for i, r := range o.Rules {
		re, err := r.Compile()
		if err != nil {
			return nil, fmt.Errorf("rule %d: %w", i+1, err)
		}
		m.rules = append(m.rules, rule{r, re})
	}
	var err error
	m.byKey, err = load(o.Map)
	return m, err
}

// Compile returns the expression, or says what is wrong with the rule.
func (r *Rule) Compile() (*regexp.Regexp, error) {
	if !slices.Contains([]string{FromCN, FromDN, FromEmail, FromUPN}, r.From) {
		return nil, fmt.Errorf("from %q is not known; write cn, dn, email or upn", r.From)
	}
	if r.Match == "" {
		return nil, errors.New("match is missing; write an expression for the names that the rule is for")
	}
	if _, err := regexp.Compile(r.Match); err != nil { // by itself: "a)(b" is none
		return nil, fmt.Errorf("match: %w", err)
	}
	re, err := regexp.Compile(`\A(?:` + r.Match + `)\z`)
	if err != nil {
		return nil, fmt.Errorf("match: %w", err)
	}
	for _, ref := range reference.FindAllStringSubmatch(r.Login, -1) {
		if name := ref[1] + ref[2]; re.SubexpIndex(name) < 0 && !numbered(name, re.NumSubexp()) {
			return nil, fmt.Errorf("login %q: match has no group for %s", r.Login, ref[0])
		}
	}
	if strings.Contains(reference.ReplaceAllString(r.Login, ""), "$") {
		return nil, fmt.Errorf("login %q: a $ names no group", r.Login)
	}
	return re, nil
}

// reference is how [regexp.Regexp.Expand] reads a template.
var reference = regexp.MustCompile(`\$(?:\{(\w+)\}|([\pL\p{Nd}_]+))`)

func numbered(name string, groups int) bool {
	n, err := strconv.Atoi(name)
	return err == nil && n <= groups && strconv.Itoa(n) == name
}

// Name implements [authn.Verifier].
func (m *Mapper) Name() string { return m.name }

// MapCertificate implements [authn.CertificateMapper].
func (m *Mapper) MapCertificate(_ context.Context, chain []*x509.Certificate) (*authn.Identity, error) {
	if len(chain) == 0 {
		return nil, m.fail(authn.Internal, errors.New("a certificate that nobody vouches for"))
	}
	leaf := chain[0]
	n, err := namesOf(leaf)
	if err != nil {
		return nil, m.fail(authn.Denied, err)
	}
	login, err := m.find(n)
	if err != nil {
		return nil, err
	}
	return &authn.Identity{User: login, Authn: n.dn, Expires: leaf.NotAfter}, nil
}

// find asks the map file, then the rules.
func (m *Mapper) find(n *names) (string, error) {
	for _, keys := range n.keys() {
		login, err := m.agreed(keys, func(key string) (string, bool) {
			login, ok := m.byKey[key]
			return login, ok
		})
		switch {
		case err != nil:
			return "", err
		case login == nobody:
			return "", m.fail(authn.Denied, fmt.Errorf("%s is no one's by the map file", n.dn))
		case login != "":
			return login, nil
		}
	}
	for _, r := range m.rules {
		if r.Issuer != "" && r.Issuer != n.issuer {
			continue
		}
		login, err := m.agreed(n.of(r.From), r.apply)
		if err != nil || login != "" {
			return login, err
		}
	}
	return "", m.fail(authn.UnknownUser, fmt.Errorf("nobody has %s", n.dn))
}

// agreed is the login that values lead to, "" when they lead to none. Two logins
// are not one: which of them a certificate opens must not be left to the order
// in which it names them.
func (m *Mapper) agreed(values []string, lookUp func(string) (string, bool)) (string, error) {
	found := ""
	for _, v := range values {
		login, ok := lookUp(v)
		if !ok {
			continue
		}
		if login != nobody {
			var err error
			if login, err = authn.PrepareLogin(login); err != nil {
				return "", m.fail(authn.UnknownUser, fmt.Errorf("%.128q becomes something that is no login", v))
			}
		}
		if found != "" && login != found {
			return "", m.fail(authn.Denied, fmt.Errorf("names lead to %s and to %s", found, login))
		}
		found = login
	}
	return found, nil
}

func (r *rule) apply(name string) (string, bool) {
	at := r.re.FindStringSubmatchIndex(name)
	switch {
	case at == nil:
		return "", false
	case r.Login == "":
		return name, true
	}
	return string(r.re.ExpandString(nil, r.Login, name, at)), true
}

func (m *Mapper) fail(kind authn.Kind, err error) error {
	return &authn.Error{Kind: kind, Step: m.name, Err: err}
}
