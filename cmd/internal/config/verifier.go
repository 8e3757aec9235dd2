package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/kpopd/kpopd/authn/file"
)

// guard refuses a list that could not know whom a step of its chain lets in, and
// settings of a step that mean nothing to it.
func (p *problems) guard(at string, s Step, v Verifier, x Chain) {
	if s.Timeout != 0 || s.OnReject != "" || s.OnUnavailable != "" {
		p.add(at, "a list of type %s has the last word on every login of the chain; timeout, on_reject and on_unavailable have no effect", v.Type)
	}
	if len(v.Groups) == 0 {
		return
	}
	for _, other := range x.Steps {
		i := slices.IndexFunc(p.c.Verifiers, func(v Verifier) bool { return v.Name == other.Use })
		switch {
		case i < 0 || p.c.Verifiers[i].isGuard() || p.c.Verifiers[i].knowsGroups():
		case p.c.Verifiers[i].Type == VerifierRemote:
			p.add(at, "a list with groups belongs into the file of the helper that %q asks, where it is known who knows groups", other.Use)
		default:
			p.add(at, "verifier %q knows no groups, so that %q could not tell who is on its list; "+
				"use one of %s, or another chain", other.Use, v.Name, byGroup.what)
		}
	}
}

func (v *Verifier) isGuard() bool { return v.Type == VerifierAllow || v.Type == VerifierDeny }

func (v *Verifier) hasList() bool { return v.List != "" || len(v.Groups)+len(v.Networks) > 0 }

func (v *Verifier) knowsGroups() bool {
	return v.Type == VerifierFile && v.Users != "" ||
		v.Type == VerifierLDAP && (v.Attributes.Groups != "" || v.GroupFilter != "")
}

func (p *problems) verifier(at string, v Verifier) {
	used := slices.ContainsFunc(p.c.Chains, func(x Chain) bool {
		return slices.ContainsFunc(x.Steps, func(s Step) bool { return s.Use == v.Name })
	})
	p.cached(at, v)
	if !used && v.Name != p.c.Kerberos.Remote {
		p.add(at, "no chain uses verifier %q; remove it or name it in a step", v.Name)
	}
	takes, known := verifierKeys[v.Type]
	switch {
	case v.Type == "":
		p.add(at+".type", "missing; write one of %s", strings.Join(verifierTypes(), ", "))
		return
	case !known:
		p.oneOf(at+".type", v.Type, verifierTypes()...)
		return
	}
	for _, key := range v.keys() {
		if !slices.Contains(takes, key) {
			p.add(at+"."+key, "is no key of type %s, which takes %s", v.Type, strings.Join(takes, ", "))
		}
	}
	switch v.Type {
	case VerifierAllow, VerifierDeny:
		if !v.hasList() {
			p.add(at, "the list is empty; set list, groups or networks")
		}
	case VerifierFile:
		if v.Users == "" && v.Digests == "" {
			p.add(at+".users", "missing; name the users file, a digests file, or both")
		}
		if v.DigestsKey != "" && v.Digests == "" {
			p.add(at+".digests_key", "opens nothing without digests; name the digests file")
		}
		p.oneOf(at+".rehash", v.Rehash, file.Schemes()...)
		if v.Rehash != "" && v.Users == "" {
			p.add(at+".rehash", "has no hashes without users; name the users file")
		}
	case VerifierLDAP:
		p.ldap(at, &v)
	case VerifierPrincipal:
		if len(v.LocalRealms)+len(v.Rules) == 0 && v.Map == "" && v.K5Login == "" {
			p.add(at, "maps nobody; set local_realms, map, k5login or rules")
		}
		if len(v.Rules) > 0 && len(v.LocalRealms)+len(v.RuleRealms) == 0 {
			p.add(at+".rules", "no principal is asked about them; set local_realms or rule_realms")
		}
		if len(v.Rules) == 0 && len(v.RuleRealms) > 0 {
			p.add(at+".rule_realms", "has no effect without rules")
		}
	case VerifierOIDC:
		p.oidc(at, &v)
	case VerifierRemote:
		p.remote(at, v)
	case VerifierKrb5pw:
		p.krb5pw(at, v)
	case VerifierCheckpassword:
		p.need(at+".program", v.Program, "the program, by its absolute path")
		if v.AtOnce < 0 {
			p.add(at+".at_once", "%d is out of range; at least 1, or zero for the default", v.AtOnce)
		}
	case VerifierCertificate:
		if v.Map == "" && len(v.CertificateRules) == 0 {
			p.add(at, "maps nobody; set map or certificate_rules")
		}
		for i, r := range v.CertificateRules {
			x := r.Rule()
			if _, err := x.Compile(); err != nil {
				p.add(fmt.Sprintf("%s.certificate_rules[%d]", at, i), "%w", err)
			}
		}
	}
}

// verifierKeys are the keys of each type, besides name and type.
var verifierKeys = map[string][]string{
	VerifierAllow: {"list", "groups", "networks"},
	VerifierDeny:  {"list", "groups", "networks"},
	VerifierFile:  {"users", "digests", "digests_key", "rehash", "cache", "cache_refused", "cache_entries"},
	VerifierLDAP: {
		"urls", "ca", "cert", "key", "timeout", "retry", "connections", "bind", "bind_dn", "bind_password",
		"bind_principal", "bind_keytab", "bind_krb5_conf",
		"dn", "base", "filter", "principal_filter", "fold_case", "attributes", "group_base", "group_filter",
		"cache", "cache_refused", "cache_entries",
	},
	VerifierPrincipal:     {"local_realms", "map", "k5login", "rules", "rule_realms", "mail_domains", "fold_case"},
	VerifierOIDC:          oidcKeys(),
	VerifierKrb5pw:        {"realm", "kdcs", "service", "mail_domains", "domain", "fold_case", "cache", "cache_refused", "cache_entries"},
	VerifierCheckpassword: {"program", "args", "at_once", "cache", "cache_refused", "cache_entries"},
	VerifierCertificate:   {"map", "certificate_rules"},
	VerifierRemote:        {"socket", "judges"}, // a cache is for the helper, which knows when its files change
}

func verifierTypes() []string { return slices.Sorted(maps.Keys(verifierKeys)) }

// keys are those that are set, besides name and type.
func (v Verifier) keys() []string {
	var set []string
	x := reflect.ValueOf(v)
	for _, f := range reflect.VisibleFields(x.Type()) {
		if key := f.Tag.Get("mapstructure"); key != "name" && key != "type" && key != squash && !x.FieldByIndex(f.Index).IsZero() {
			set = append(set, key)
		}
	}
	return set
}

func (p *problems) krb5pw(at string, v Verifier) {
	p.need(at+".realm", v.Realm, "the realm whose users' passwords are checked")
	if len(v.KDCs) == 0 {
		p.add(at+".kdcs", "missing; list the realm's KDCs, host or host:port")
	}
	if p.c.Kerberos.Keytab == "" {
		p.add(at, "needs a keytab, with which to tell a false KDC; set kerberos.keytab")
	}
	if v.Domain != "" && v.MailDomains != nil {
		p.add(at+".mail_domains", "has no effect beside domain, which is the only one")
	}
	if v.Domain != "" {
		return
	}
	for _, other := range p.c.Verifiers {
		if other.Type == VerifierKrb5pw && other.Domain == "" && other.Realm < v.Realm {
			p.add(at+".domain", "missing; alice of realm %s and alice of realm %s would have one maildrop: say how the logins of one of them end", v.Realm, other.Realm)
			return
		}
	}
}
