package app

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/cram"
	"github.com/kpopd/kpopd/authn/external"
	"github.com/kpopd/kpopd/authn/file"
	"github.com/kpopd/kpopd/authn/gssapi"
	"github.com/kpopd/kpopd/authn/oauthbearer"
	"github.com/kpopd/kpopd/authn/plain"
	"github.com/kpopd/kpopd/authn/scram"
	"github.com/kpopd/kpopd/cmd/internal/config"
	"github.com/kpopd/kpopd/kpop"
)

func (a *assembly) buildPolicies() error {
	var errs []error
	for i, x := range a.cfg.Policies {
		p := &authn.Policy{
			Name: x.Name, BeforeTLS: a.beforeTLS(x), Trusted: x.Trusted, Names: a.cfg.LoginNames(), Trace: a.trace,
			Rules: a.cfg.Rules(i), Act: a.cfg.Act(i), Users: a.chains[x.Chain],
		}
		if !a.cfg.Throttle.Off {
			p.Throttle = a.parts.throttle
		}
		if x.Plain == config.PlainTrusted {
			p.Plain = authn.PlainTrusted
		}
		for j, name := range x.Offers {
			m, err := a.mechanism(name, x)
			if err != nil {
				errs = append(errs, a.cfg.Problem(fmt.Sprintf("policies[%d].offers[%d]", i, j), err))
				continue
			}
			p.Offers = append(p.Offers, m)
		}
		a.policies[x.Name] = p
	}
	for _, x := range a.cfg.Policies {
		a.policies[x.Name].Shadow = a.policies[x.Shadow]
	}
	return errors.Join(errs...)
}

// checkRules refuses a listener on which the rules of its policy leave nobody a
// way in, whatever his network and the time.
func (a *assembly) checkRules() error {
	var errs []error
	for i, l := range a.cfg.Listeners {
		if p := a.policies[l.Policy]; !slices.ContainsFunc(stages(l, p, a.stamp()), func(s stage) bool { return s.offers(p) }) {
			errs = append(errs, a.cfg.Problem(fmt.Sprintf("listeners[%d].policy", i),
				fmt.Errorf("the rules of policy %q leave nothing that a client of this listener could ever use; remove the listener, or one of the rules", l.Policy)))
		}
	}
	return errors.Join(errs...)
}

// beforeTLS takes from a policy what cannot succeed before TLS: what must be
// bound to it.
func (a *assembly) beforeTLS(x config.Policy) []string {
	if a.cfg.GSSAPI.ChannelBinding != "require" {
		return x.BeforeTLS
	}
	names := x.BeforeTLS
	if names == nil {
		names = x.Offers
	}
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == "GSSAPI" })
}

// mechanism builds what a policy offers, and refuses what no verifier of its
// chain could judge.
func (a *assembly) mechanism(name string, x config.Policy) (m authn.Mechanism, err error) {
	chain := a.chains[x.Chain]
	can := false
	switch name {
	case "PLAIN":
		m, can = plain.PLAIN(chain), authn.Can[authn.PasswordVerifier](chain)
	case "LOGIN":
		m, can = plain.LOGIN(chain), authn.Can[authn.PasswordVerifier](chain)
	case "USER":
		m, can = plain.USER(chain, !x.APOPWithPassword), authn.Can[authn.PasswordVerifier](chain)
	case "APOP":
		m, can = plain.APOP(chain), authn.Can[authn.SecretSource](chain)
	case "CRAM-MD5":
		m, can = cram.New(chain, a.hostname()), authn.Can[authn.SecretSource](chain)
	case "SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-1":
		can = authn.Can[authn.SecretSource](chain)
		m, err = scram.New(name, a.scram(chain, x))
	case oauthbearer.OAUTHBEARER:
		m, can = oauthbearer.Bearer(chain, a.hints()), authn.Can[authn.TokenVerifier](chain)
	case oauthbearer.XOAUTH2:
		m, can = oauthbearer.Legacy(chain, a.hints()), authn.Can[authn.TokenVerifier](chain)
	case "GSSAPI":
		m, can = a.gssapi(chain), authn.Can[authn.PrincipalMapper](chain)
	case gssapi.NameSPNEGO:
		m, can = gssapi.Negotiated(a.gssapi(chain)), authn.Can[authn.PrincipalMapper](chain)
	case external.Name:
		m, can = external.New(chain), authn.Can[authn.CertificateMapper](chain)
	case "KPOP":
		m, can = kpop.Mechanism(chain), authn.Can[authn.PrincipalMapper](chain)
	}
	if !can {
		return nil, fmt.Errorf("no verifier of chain %q can judge %s", x.Chain, name)
	}
	return m, err
}

func (a *assembly) scram(chain authn.Chain, x config.Policy) scram.Options {
	o := scram.Options{Chain: chain, Offers: x.Offers, SaltKey: a.salts, Iterations: a.cfg.SCRAM.Iterations}
	switch a.cfg.SCRAM.ChannelBinding {
	case "off":
		o.Binding = scram.BindingOff
	case "require":
		o.Binding = scram.BindingRequired
	}
	return o
}

func (a *assembly) hints() oauthbearer.Hints {
	return oauthbearer.Hints{Scope: a.cfg.OAuth.Scope, Config: a.cfg.OAuth.Config}
}

func (a *assembly) gssapi(chain authn.Chain) *gssapi.Mechanism {
	m := &gssapi.Mechanism{Acceptor: a.tickets, Chain: chain}
	switch a.cfg.GSSAPI.ChannelBinding {
	case "off":
		m.Binding = gssapi.BindingOff
	case "require":
		m.Binding = gssapi.BindingRequired
	}
	for _, l := range a.cfg.GSSAPI.Layers {
		switch l {
		case "none":
			m.Layers |= gssapi.None
		case "integrity":
			m.Layers |= gssapi.Integrity
		case "privacy":
			m.Layers |= gssapi.Privacy
		}
	}
	return m
}

// opensNothing reports whether a mechanism that needs stored secrets has none in
// all the files of a chain, and the chain has nothing else to ask.
func (a *assembly) opensNothing(c authn.Chain, name string) bool {
	scheme := strings.TrimSuffix(name, "-PLUS")
	if !slices.Contains(file.SecretSchemes(), scheme) && !slices.Contains(scram.Schemes(), scheme) {
		return false
	}
	return !slices.ContainsFunc(c, func(s authn.Step) bool {
		if _, ok := s.Verifier.(authn.SecretSource); !ok {
			return false
		}
		f, ok := s.Verifier.(file.Verifier)
		return !ok || f.Has(scheme)
	})
}
