package app

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/access"
	"github.com/kpopd/kpopd/authn/cache"
	"github.com/kpopd/kpopd/authn/checkpassword"
	"github.com/kpopd/kpopd/authn/external"
	"github.com/kpopd/kpopd/authn/file"
	"github.com/kpopd/kpopd/authn/krb5"
	"github.com/kpopd/kpopd/authn/krb5pw"
	"github.com/kpopd/kpopd/authn/ldap"
	"github.com/kpopd/kpopd/authn/oidc"
	"github.com/kpopd/kpopd/authn/principal"
	"github.com/kpopd/kpopd/cmd/internal/config"
)

const maxMisnamed = 20 // told at once

var errNoKeytab = errors.New("the keytab could not be opened")

func (a *assembly) buildChains(old *parts) error {
	var errs []error
	asked := map[string]authn.Verifier{} // a verifier, or the cache in front of it
	for i, v := range a.cfg.Verifiers {
		key := fmt.Sprintf("verifiers[%d]", i)
		built, err := a.openVerifier(v, old)
		switch {
		case errors.Is(err, errNoKeytab): // told at its own key
		case err != nil:
			errs = append(errs, a.problems(key, err))
		}
		if f, ok := built.(file.Verifier); ok {
			a.files = append(a.files, &fileVerifier{f, key})
		}
		if err := a.checkNames(built); err != nil {
			errs = append(errs, a.problems(fmt.Sprintf("verifiers[%d]", i), err))
		}
		a.verifiers[v.Name] = built
		if c, ok := built.(io.Closer); ok && v.Type != config.VerifierRemote { // whose connection may outlive a reload
			a.closers = append(a.closers, c)
		}
		if asked[v.Name], err = a.cached(built, v); err != nil {
			errs = append(errs, a.cfg.Problem(fmt.Sprintf("verifiers[%d].cache", i), err))
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	for _, c := range a.cfg.Chains {
		var chain authn.Chain
		for _, s := range c.Steps {
			chain = append(chain, authn.Step{
				Verifier: asked[s.Use], Timeout: s.Timeout,
				OnReject: next(s.OnReject), OnUnavailable: next(s.OnUnavailable),
			})
		}
		a.chains[c.Name] = chain
	}
	return nil
}

// checkNames refuses users of a verifier's files whom nobody could log in as.
func (a *assembly) checkNames(v authn.Verifier) error {
	names := a.cfg.LoginNames()
	f, ok := v.(interface{ Logins() []string })
	if !ok || names == nil {
		return nil
	}
	_, list := v.(*access.List) // which may not keep the case
	var errs []error
	for _, login := range f.Logins() {
		switch canonical, err := names.Prepare(login); {
		case len(errs) == maxMisnamed:
			return errors.Join(errs...)
		case err != nil:
			errs = append(errs, fmt.Errorf("nobody can log in as %q, of which names make no login; rename or remove it", login))
		case canonical != login && !(list && strings.EqualFold(canonical, login)):
			errs = append(errs, fmt.Errorf("nobody can log in as %q, which names make %q; write it so", login, canonical))
		}
	}
	return errors.Join(errs...)
}

// problems is a problem for each error of err, so that each says where it is: at
// the key of its own that it names, if it does.
func (a *assembly) problems(key string, err error) error {
	list, ok := err.(interface{ Unwrap() []error })
	if !ok {
		var option *ldap.OptionError
		if errors.As(err, &option) {
			return a.cfg.Problem(key+"."+option.Option, option.Err)
		}
		return a.cfg.Problem(key, err)
	}
	var errs []error
	for _, e := range list.Unwrap() {
		errs = append(errs, a.problems(key, e))
	}
	return errors.Join(errs...)
}

func next(word string) authn.Next {
	if word == config.NextReturn {
		return authn.Return
	}
	return authn.Continue
}

// cached puts a cache in front of a verifier where one is configured. It is a new
// one after each reload, and empty when a file changed.
func (a *assembly) cached(v authn.Verifier, c config.Verifier) (authn.Verifier, error) {
	if !c.Cached.On() || v == nil {
		return v, nil
	}
	p, ok := v.(authn.PasswordVerifier)
	if !ok {
		return nil, errors.New("is for passwords, and this verifier judges none")
	}
	x, err := cache.New(p, cache.Options{Accepted: c.Accepted, Refused: c.Refused, Entries: c.Entries})
	if err != nil {
		return nil, err
	}
	for _, w := range a.watched {
		if w.name == c.Name {
			w.changed = x.Empty
		}
	}
	return x.Verifier(), nil
}

func (a *assembly) openVerifier(v config.Verifier, old *parts) (authn.Verifier, error) {
	switch v.Type {
	case config.VerifierFile:
		w, err := watch(v, func() (file.Verifier, error) {
			built, err := file.Open(v.Name, file.Options{
				Users: v.Users, Digests: v.Digests, Key: v.DigestsKey, Budget: a.parts.hashes,
				Rehash: v.Rehash, Rehashed: a.rehashed(v),
			})
			if err != nil {
				return nil, err
			}
			if err := a.checkNames(built); err != nil {
				_ = built.Close() // nothing has been written
				return nil, err
			}
			return built, nil
		})
		if err != nil {
			return nil, err
		}
		a.watched = append(a.watched, w)
		return w.verifier(), nil
	case config.VerifierAllow, config.VerifierDeny:
		return access.Open(v.Name, access.Options{
			Allow: v.Type == config.VerifierAllow, Users: v.List, Groups: v.Groups, Networks: v.Networks,
		})
	case config.VerifierLDAP:
		return ldap.Open(v.Name, ldapOptions(v, a.log))
	case config.VerifierOIDC:
		return oidc.New(v.Name, oidc.Options{
			Issuer: v.Issuer, Audiences: v.Audiences, Scopes: v.Scopes, User: v.UserClaim,
			Domains: v.MailDomains, FoldCase: v.FoldCase, Leeway: v.Leeway,
			Keys: v.Keys, Cache: v.KeyCache, Algorithms: v.Algorithms,
			Introspection: v.Introspection, ClientID: v.ClientID, ClientSecret: v.ClientSecret,
			CA: v.CA, Timeout: v.Timeout, Log: a.log,
		})
	case config.VerifierPrincipal:
		return principal.New(v.Name, principal.Options{
			LocalRealms: v.LocalRealms, Map: v.Map, K5Login: v.K5Login, Rules: v.Rules,
			RuleRealms: v.RuleRealms, MailDomains: v.MailDomains, FoldCase: v.FoldCase,
		})
	case config.VerifierKrb5pw:
		if a.acceptor == nil {
			return nil, errNoKeytab
		}
		p, err := krb5.NewPasswords(krb5.PasswordOptions{
			Realm: v.Realm, KDCs: v.KDCs, Service: v.Service,
			Keytab: a.acceptor.Keytab, Enctypes: a.acceptor.Enctypes, Skew: a.acceptor.Skew,
		})
		if err != nil {
			return nil, err
		}
		return krb5pw.New(v.Name, p, krb5pw.Options{MailDomains: v.MailDomains, Domain: v.Domain, FoldCase: v.FoldCase})
	case config.VerifierCheckpassword:
		return checkpassword.New(v.Name, checkpassword.Options{Program: v.Program, Args: v.Args, AtOnce: v.AtOnce})
	case config.VerifierCertificate:
		o := external.Options{Map: v.Map}
		for _, r := range v.CertificateRules {
			o.Rules = append(o.Rules, r.Rule())
		}
		return external.NewMapper(v.Name, o)
	case config.VerifierRemote:
		return a.helperClient(v, old).Verifier(), nil
	default:
		return nil, fmt.Errorf("type %q is not known", v.Type)
	}
}

func (a *assembly) rehashed(v config.Verifier) func(string, error) {
	return func(login string, err error) {
		if err != nil {
			a.log.Warn("password not re-hashed", "verifier", v.Name, "login", login, "err", err)
			return
		}
		a.log.Info("password re-hashed", "verifier", v.Name, "login", login, "scheme", v.Rehash)
	}
}

func ldapOptions(v config.Verifier, log *slog.Logger) ldap.Options {
	o := ldap.Options{
		URLs: v.URLs, CA: v.CA, Cert: v.Cert, Key: v.Key, Timeout: v.Timeout, Retry: v.Retry, Connections: v.Connections,
		Bind: v.Bind, BindDN: v.BindDN, BindPassword: v.BindPassword,
		BindPrincipal: v.BindPrincipal, BindKeytab: v.BindKeytab, BindKrb5Conf: v.BindKrb5Conf,
		DN: v.DN, Base: v.Base, Filter: v.Filter, PrincipalFilter: v.PrincipalFilter, FoldCase: v.FoldCase,
		GroupBase: v.GroupBase, GroupFilter: v.GroupFilter, Log: log,
	}
	x := v.Attributes
	o.Attributes = ldap.Attributes{
		User: x.User, Aliases: x.Aliases, Groups: x.Groups, MailHost: x.MailHost, Maildrop: x.Maildrop,
		Mechanisms: x.Mechanisms, Disabled: x.Disabled, Principals: x.Principals,
	}
	for _, s := range x.Secrets {
		o.Attributes.Secrets = append(o.Attributes.Secrets, ldap.SecretAttribute(s))
	}
	return o
}
