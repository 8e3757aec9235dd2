package config

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/external"
	"github.com/kpopd/kpopd/authn/file"
	"github.com/kpopd/kpopd/authn/krb5"
	"github.com/kpopd/kpopd/authn/scram"
)

// mechanism is what validation needs to know of a mechanism.
type mechanism struct {
	name      string
	plaintext bool // shows the server a password
	kerberos  bool // needs the keytab
	scram     bool
	bound     bool // to TLS
	token     bool // shows the server a token, so never in the clear
	judge     judge
}

// judge is a verifier that can judge a mechanism.
type judge struct {
	what string
	is   func(Verifier) bool
}

var (
	byHash = judge{"type krb5pw, checkpassword, ldap, or file with users", func(v Verifier) bool {
		return v.Type == VerifierFile && v.Users != "" || v.Type == VerifierKrb5pw || v.Type == VerifierCheckpassword || v.Type == VerifierLDAP
	}}
	byCert   = judge{"type certificate", func(v Verifier) bool { return v.Type == VerifierCertificate }}
	byTicket = judge{"type principal, or ldap with principal_filter", func(v Verifier) bool {
		return v.Type == VerifierPrincipal || v.Type == VerifierLDAP && v.PrincipalFilter != ""
	}}
	byGroup = judge{"type file with users, or ldap with attributes.groups or group_filter", func(v Verifier) bool { return v.knowsGroups() }}
	byToken = judge{"type oidc", func(v Verifier) bool { return v.Type == VerifierOIDC }}
)

func bySecret(scheme string) judge {
	return judge{"type file with digests, or ldap with attributes.secrets for it", func(v Verifier) bool {
		return v.Type == VerifierFile && v.Digests != "" || v.Type == VerifierLDAP && v.hasSecret(scheme)
	}}
}

var mechanisms = []mechanism{
	{name: "KPOP", kerberos: true, judge: byTicket},
	{name: "GSSAPI", kerberos: true, judge: byTicket},
	{name: "SCRAM-SHA-256-PLUS", scram: true, bound: true, judge: bySecret("SCRAM-SHA-256")},
	{name: "SCRAM-SHA-256", scram: true, judge: bySecret("SCRAM-SHA-256")},
	{name: "SCRAM-SHA-1-PLUS", scram: true, bound: true, judge: bySecret("SCRAM-SHA-1")},
	{name: "SCRAM-SHA-1", scram: true, judge: bySecret("SCRAM-SHA-1")},
	{name: "OAUTHBEARER", token: true, judge: byToken},
	{name: "XOAUTH2", token: true, judge: byToken},
	{name: "EXTERNAL", judge: byCert},
	{name: "CRAM-MD5", judge: bySecret("CRAM-MD5")},
	{name: "APOP", judge: bySecret("APOP")},
	{name: "PLAIN", plaintext: true, judge: byHash},
	{name: "LOGIN", plaintext: true, judge: byHash},
	{name: "USER", plaintext: true, judge: byHash},
}

// secretSchemes are the mechanisms that compare with a stored secret.
func secretSchemes() []string { return []string{"APOP", "CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256"} }

func mechanismNamed(name string) (mechanism, bool) {
	i := slices.IndexFunc(mechanisms, func(m mechanism) bool { return m.name == name })
	if i < 0 {
		return mechanism{}, false
	}
	return mechanisms[i], true
}

func mechanismNames() []string {
	names := make([]string, len(mechanisms))
	for i, m := range mechanisms {
		names[i] = m.name
	}
	return names
}

func (c *Config) validate() error {
	p := &problems{c: c}
	if c.IsHelper() {
		p.helper()
	} else if len(c.Listeners) == 0 {
		p.add("listeners", "nothing to listen on; name at least one listener")
	}
	unique(p, "listeners", c.Listeners, func(l Listener) string { return l.Name })
	unique(p, "certificates", c.Certificates, func(x Certificate) string { return x.Name })
	unique(p, "policies", c.Policies, func(x Policy) string { return x.Name })
	unique(p, "chains", c.Chains, func(x Chain) string { return x.Name })
	unique(p, "verifiers", c.Verifiers, func(x Verifier) string { return x.Name })
	for i, l := range c.Listeners {
		p.listener(fmt.Sprintf("listeners[%d]", i), l)
	}
	for i, x := range c.Certificates {
		at := fmt.Sprintf("certificates[%d]", i)
		p.need(at+".cert", x.Cert, "the PEM file of the certificate chain")
		p.need(at+".key", x.Key, "the PEM file of its key")
	}
	for i, x := range c.Policies {
		p.policy(fmt.Sprintf("policies[%d]", i), x)
	}
	for i, x := range c.Chains {
		p.chain(fmt.Sprintf("chains[%d]", i), x)
	}
	for i, x := range c.Verifiers {
		p.verifier(fmt.Sprintf("verifiers[%d]", i), x)
	}
	p.names(c.Names)
	p.kerberos(c.Kerberos)
	p.scram(c.SCRAM)
	p.oauth(c.OAuth)
	p.rest()
	return p.err()
}

// unique wants every element of a list to have a name of its own.
func unique[T any](p *problems, list string, all []T, name func(T) string) {
	first := map[string]int{}
	for i, x := range all {
		key, n := fmt.Sprintf("%s[%d].name", list, i), name(x)
		if n == "" {
			p.add(key, "missing; give it a name")
			continue
		}
		if j, taken := first[n]; taken {
			p.add(key, "%q is already the name of %s[%d]; choose another", n, list, j)
			continue
		}
		first[n] = i
	}
}

// refer wants name to be one of a list.
func refer[T any](p *problems, key, what, value string, all []T, name func(T) string) (x T, ok bool) {
	if value == "" {
		p.add(key, "missing; name a %s", what)
		return x, false
	}
	names := make([]string, len(all))
	for i, x := range all {
		if names[i] = name(x); names[i] == value {
			return x, true
		}
	}
	p.add(key, "no %s is named %q%s", what, value, suggest(value, names))
	return x, false
}

func (p *problems) need(key, value, what string) {
	if value == "" {
		p.add(key, "missing; name %s", what)
	}
}

// oneOf wants value to be one of words, or empty.
func (p *problems) oneOf(key, value string, words ...string) {
	if value != "" && !slices.Contains(words, value) {
		p.add(key, "%q is not known; write %s%s", value, strings.Join(words, ", "), suggest(value, words))
	}
}

func (p *problems) listener(at string, l Listener) {
	p.oneOf(at+".protocol", l.Protocol, ProtocolPOP3, ProtocolKPOP)
	p.oneOf(at+".tls", l.TLS, TLSNone, TLSStart, TLSImplicit)
	p.address(at+".address", l.Address)
	for j, other := range p.c.Listeners {
		if other.Name != l.Name && overlap(l.Address, other.Address) {
			p.add(at+".address", "%s takes what listeners[%d] listens on, %s; choose another", l.Address, j, other.Address)
			break
		}
	}
	if l.UsesTLS() && len(p.c.Certificates) == 0 {
		p.add(at+".tls", "%s needs a certificate; add one to certificates", l.TLS)
	}
	if l.Certificate != "" {
		refer(p, at+".certificate", "certificate", l.Certificate, p.c.Certificates, func(x Certificate) string { return x.Name })
	}
	p.clientCA(at, l)
	x, ok := refer(p, at+".policy", "policy", l.Policy, p.c.Policies, func(x Policy) string { return x.Name })
	if ok {
		p.listenerPolicy(at, l, x)
	}
}

func (p *problems) clientCA(at string, l Listener) {
	if l.ClientCRL != "" && l.ClientCA == "" {
		p.add(at+".client_crl", "revokes nothing without client_ca; name the authorities that the list is of")
	}
	if l.ClientCA == "" {
		return
	}
	switch {
	case l.KPOP():
		p.add(at+".client_ca", "a kpop listener takes tickets alone; remove it")
	case !l.UsesTLS():
		p.add(at+".client_ca", "certificates come in TLS, which the listener never has; set tls: starttls or implicit")
	case !p.c.usesCertificates(l.Policy):
		p.add(at+".client_ca", "asks every client for a certificate that is of no use, as policy %q does not offer EXTERNAL", l.Policy)
	}
}

// usesCertificates reports whether a policy or its shadow looks at client
// certificates. One that is not there is told elsewhere.
func (c *Config) usesCertificates(name string) bool {
	i := slices.IndexFunc(c.Policies, func(x Policy) bool { return x.Name == name })
	if i < 0 {
		return true
	}
	looks := func(r Rule) bool { return r.Certificate != "" }
	return slices.ContainsFunc(c.Policies, func(x Policy) bool {
		return (x.Name == name || x.Name == c.Policies[i].Shadow) &&
			(slices.Contains(x.Offers, "EXTERNAL") || slices.ContainsFunc(x.Rules, looks) || slices.ContainsFunc(x.Act, looks))
	})
}

// overlap reports whether two sockets cannot be open at the same time: their
// ports are the same, and so are their hosts, or one of them is all addresses.
func overlap(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	if errA != nil || errB != nil || portA != portB || portA == "0" {
		return false
	}
	return hostA == hostB || isAll(hostA, hostB) || isAll(hostB, hostA)
}

// isAll reports whether host is all addresses of the family of other.
func isAll(host, other string) bool {
	ip, err := netip.ParseAddr(other)
	return host == "" || host == "::" || host == "0.0.0.0" && (err != nil || ip.Is4())
}

// address wants host:port. A host that is a name is looked up when the socket
// is opened.
func (p *problems) address(key, address string) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		p.add(key, "%q is no address; write host:port or :port", address)
		return
	}
	if port == "" { // the system would choose one
		p.add(key, "%q has no port; write host:port or :port", address)
	} else if _, err := net.LookupPort("tcp", port); err != nil {
		p.add(key, "%q is no port; write a number from 1 to 65535", port)
	}
	if strings.Trim(host, "0123456789.") == "" && host != "" {
		if _, err := netip.ParseAddr(host); err != nil {
			p.add(key, "%q is no IP address", host)
		}
	}
}

// listenerPolicy refuses a policy that offers what the listener can never do.
func (p *problems) listenerPolicy(at string, l Listener, x Policy) {
	if l.KPOP() {
		if l.TLS == TLSImplicit {
			p.add(at+".tls", "a kpop client speaks before any TLS could begin; write starttls or none")
		}
		if !slices.Contains(x.Offers, "KPOP") {
			p.add(at+".policy", "policy %q does not offer KPOP, the only mechanism of a kpop listener", x.Name)
		}
		return
	}
	usable := 0
	for _, name := range x.Offers {
		m, _ := mechanismNamed(name)
		switch {
		case name == "KPOP":
		case name == "EXTERNAL" && l.ClientCA == "":
			// the policy may be for other listeners too
		case !l.UsesTLS() && x.BeforeTLS != nil && !slices.Contains(x.BeforeTLS, name):
			// the policy may be for other listeners too
		case m.bound && !l.UsesTLS():
			p.add(at+".policy", "policy %q offers %s, which is bound to TLS, and the listener never has TLS; "+
				"set tls: starttls or implicit", x.Name, name)
		case m.token && !l.UsesTLS():
			p.add(at+".policy", "policy %q offers %s, which shows a token, and the listener never has TLS; "+
				"set tls: starttls or implicit", x.Name, name)
		case name == "GSSAPI" && !l.UsesTLS() && p.c.GSSAPI.ChannelBinding == "require":
			p.add(at+".policy", "policy %q offers GSSAPI, which gssapi.channel_binding binds to TLS, and the listener never has TLS", x.Name)
		case m.plaintext && !l.UsesTLS() && x.Plain != PlainTrusted:
			p.add(at+".policy", "policy %q offers %s, which shows a password, and the listener never has TLS; "+
				"set tls: starttls or implicit, or plain: trusted in the policy", x.Name, name)
		default:
			usable++
		}
	}
	if usable == 0 {
		p.add(at+".policy", "policy %q offers nothing that a client of this listener could use", x.Name)
	}
}

func (p *problems) policy(at string, x Policy) {
	if len(p.c.policyListeners(x.Name)) == 0 {
		p.add(at, "no listener uses policy %q; remove it or name it in a listener", x.Name)
	}
	p.oneOf(at+".plain", x.Plain, PlainTLS, PlainTrusted)
	if x.Plain == PlainTrusted && len(x.Trusted) == 0 {
		p.add(at+".trusted", "plain: trusted needs the networks that are trusted")
	}
	if x.Plain != PlainTrusted && len(x.Trusted) > 0 {
		p.add(at+".trusted", "has no effect without plain: trusted")
	}
	if len(x.Offers) == 0 {
		p.add(at+".offers", "offers nothing; list mechanisms, of %s", strings.Join(mechanismNames(), ", "))
	}
	chain, ok := refer(p, at+".chain", "chain", x.Chain, p.c.Chains, func(x Chain) string { return x.Name })
	for i, name := range x.Offers {
		key := fmt.Sprintf("%s.offers[%d]", at, i)
		m, known := mechanismNamed(name)
		switch {
		case !known:
			p.add(key, "no mechanism is named %q%s", name, suggest(name, mechanismNames()))
		case slices.Index(x.Offers, name) < i:
			p.add(key, "%s is offered twice", name)
		case name == "EXTERNAL" && !slices.ContainsFunc(p.c.policyListeners(x.Name), func(l Listener) bool { return l.ClientCA != "" }):
			p.add(key, "EXTERNAL needs a client certificate, and no listener of policy %q asks for one; set client_ca in a listener", x.Name)
		case m.kerberos && !p.c.Kerberos.Enabled():
			p.add(key, "%s needs a keytab; set kerberos.keytab", name)
		case m.bound && p.c.SCRAM.ChannelBinding == "off":
			p.add(key, "%s is channel binding, which scram.channel_binding: off forbids; take one of them out", name)
		case m.scram && !m.bound && p.c.SCRAM.ChannelBinding == "require":
			p.add(key, "%s lets nobody in, as scram.channel_binding: require wants %s-PLUS; offer that instead", name, name)
		case ok && !p.c.judges(chain, m):
			p.add(key, "no step of chain %q can judge %s; add a verifier of %s", chain.Name, name, m.judge.what)
		}
	}
	p.rules(at, x)
	for i, name := range x.BeforeTLS {
		key := fmt.Sprintf("%s.before_tls[%d]", at, i)
		m, _ := mechanismNamed(name)
		switch {
		case !slices.Contains(x.Offers, name):
			p.add(key, "%s is not in the policy's offers%s", name, suggest(name, x.Offers))
		case m.bound:
			p.add(key, "%s is bound to TLS, so it is never possible before", name)
		case m.token:
			p.add(key, "%s shows a token; it is never possible before TLS", name)
		case name == "EXTERNAL":
			p.add(key, "EXTERNAL needs the certificate that TLS brings, so it is never possible before; remove it")
		case m.plaintext && x.Plain != PlainTrusted:
			p.add(key, "%s shows a password; it is possible before TLS with plain: trusted only", name)
		}
	}
}

// findsGroups reports whether a chain has a step that knows the groups of users.
func (c *Config) findsGroups(x Chain) bool {
	return slices.ContainsFunc(x.Steps, func(s Step) bool {
		return slices.ContainsFunc(c.Verifiers, func(v Verifier) bool { return v.Name == s.Use && (byGroup.is(v) || v.asks(judgesUsers)) })
	})
}

// judges reports whether a chain has a step that can judge a mechanism.
func (c *Config) judges(x Chain, m mechanism) bool {
	return slices.ContainsFunc(x.Steps, func(s Step) bool {
		return slices.ContainsFunc(c.Verifiers, func(v Verifier) bool { return v.Name == s.Use && (m.judge.is(v) || v.asks(remoteProofs[m.name])) })
	})
}

// chain finds a chain by its name.
func (c *Config) chain(name string) (Chain, bool) {
	i := slices.IndexFunc(c.Chains, func(x Chain) bool { return x.Name == name })
	if i < 0 {
		return Chain{}, false
	}
	return c.Chains[i], true
}

func (p *problems) chain(at string, x Chain) {
	if x.Name != p.c.Auth.Chain && !slices.ContainsFunc(p.c.Policies, func(y Policy) bool { return y.Chain == x.Name }) {
		p.add(at, "no policy uses chain %q; remove it or name it in a policy", x.Name)
	}
	if len(x.Steps) == 0 {
		p.add(at+".steps", "has no steps; add one with use: and the name of a verifier")
	}
	for i, s := range x.Steps {
		key := fmt.Sprintf("%s.steps[%d]", at, i)
		v, ok := refer(p, key+".use", "verifier", s.Use, p.c.Verifiers, func(v Verifier) string { return v.Name })
		if ok && v.isGuard() {
			p.guard(key, s, v, x)
		}
		p.oneOf(key+".on_reject", s.OnReject, NextContinue, NextReturn)
		p.oneOf(key+".on_unavailable", s.OnUnavailable, NextContinue, NextReturn)
		p.notNegative(key+".timeout", s.Timeout)
	}
}

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

// Rule is r as the mapper takes it.
func (r CertificateRule) Rule() external.Rule {
	return external.Rule{From: r.From, Match: r.Match, Login: r.Login, Issuer: r.Issuer}
}

// Rules is n as a policy takes it, nil when every spelling is a user of its own.
func (n Names) Rules() *authn.Names {
	if !n.FoldCase && n.DefaultDomain == "" && len(n.StripDomains) == 0 {
		return nil
	}
	return &authn.Names{FoldCase: n.FoldCase, DefaultDomain: n.DefaultDomain, StripDomains: n.StripDomains}
}

func (p *problems) names(n Names) {
	if r := n.Rules(); r != nil {
		if err := r.Check(); err != nil {
			p.add("names", "%w", err)
		}
	}
}

// EnctypeNumbers is Enctypes as numbers of RFC 3961.
func (k *Kerberos) EnctypeNumbers() []int32 {
	var ns []int32
	for _, name := range k.Enctypes {
		if n, err := krb5.ParseEnctype(name); err == nil { // it was validated
			ns = append(ns, n)
		}
	}
	return ns
}

func (p *problems) kerberos(k Kerberos) {
	for i, name := range k.Enctypes {
		if _, err := krb5.ParseEnctype(name); err != nil {
			p.add(fmt.Sprintf("kerberos.enctypes[%d]", i), "%w", err)
		}
	}
	p.notNegative("kerberos.keytab_reload", k.KeytabReload)
	if k.ClockSkew <= 0 || k.ClockSkew > time.Hour {
		p.add("kerberos.clock_skew", "%v is out of range; 5m is usual, 1h the most", k.ClockSkew)
	}
	if k.Keytab != "" && k.ReplayCache == "" {
		p.add("kerberos.replay_cache", "missing; name a file that outlives a restart, or write memory")
	}
	p.kerberosRemote(k)
	if !k.Enabled() && slices.ContainsFunc(p.c.Listeners, Listener.KPOP) {
		p.add("kerberos.keytab", "missing; a kpop listener needs the service's keytab")
	}
}

// OffersSCRAM reports whether a policy does.
func (c *Config) OffersSCRAM() bool {
	return slices.ContainsFunc(c.Policies, func(x Policy) bool {
		return slices.ContainsFunc(x.Offers, func(name string) bool {
			m, _ := mechanismNamed(name)
			return m.scram
		})
	})
}

func (p *problems) scram(s SCRAM) {
	p.oneOf("scram.channel_binding", s.ChannelBinding, "off", "allow", "require")
	if s.Iterations != 0 && (s.Iterations < scram.MinIterations || s.Iterations > scram.MaxIterations) {
		p.add("scram.iterations", "%d is out of range; %d to %d are taken", s.Iterations, scram.MinIterations, scram.MaxIterations)
	}
	if s.SaltKey == "" && p.c.OffersSCRAM() {
		p.add("scram.salt_key", "missing; make a key file with kpopd passwd key FILE, the same for all servers of one name")
	}
	for _, v := range p.c.Verifiers {
		if s.SaltKey != "" && v.DigestsKey == s.SaltKey {
			p.add("scram.salt_key", "verifier %q seals with the same key, and with another one after kpopd passwd rotate all salts would change; make another file", v.Name)
		}
	}
}

var hostname = regexp.MustCompile(`^[A-Za-z0-9._-]{0,255}$`)

func (p *problems) rest() {
	c := p.c
	positive := func(key string, d time.Duration) {
		if d <= 0 {
			p.add(key, "%v is out of range; it must be more than zero", d)
		}
	}
	positive("kpop.handshake_timeout", c.KPOP.HandshakeTimeout)
	positive("limits.login_timeout", c.Limits.LoginTimeout)
	positive("limits.idle_timeout", c.Limits.IdleTimeout)
	positive("limits.write_timeout", c.Limits.WriteTimeout)
	positive("limits.drain_timeout", c.Limits.DrainTimeout)
	for key, n := range map[string]int{
		"limits.connections": c.Limits.Connections,
		"limits.per_address": c.Limits.PerAddress,
		"limits.pre_auth":    c.Limits.PreAuth,
	} {
		if n < 0 {
			p.add(key, "%d is out of range; zero means no limit of its own", n)
		}
	}
	if c.Limits.Failures < 1 {
		p.add("limits.failures", "%d is out of range; at least 1", c.Limits.Failures)
	}
	if c.Limits.Attempts < 1 {
		p.add("limits.attempts", "%d is out of range; at least 1", c.Limits.Attempts)
	}
	for key, d := range map[string]time.Duration{"limits.login_delay": c.Limits.LoginDelay, "limits.login_delay_max": c.Limits.LoginDelayMax} {
		if d < 0 || d > 24*time.Hour || d%time.Second != 0 {
			p.add(key, "%v is out of range; whole seconds up to 24h, zero for none", d)
		}
	}
	if most := c.Limits.LoginDelayMax; most > 0 && most < c.Limits.LoginDelay {
		p.add("limits.login_delay_max", "%v is less than login_delay, %v, which users have who have none of their own", most, c.Limits.LoginDelay)
	}
	if c.Limits.Hashes < 0 {
		p.add("limits.hashes", "%d is out of range; zero means the number of processors", c.Limits.Hashes)
	}
	if c.Limits.HashMemory < 1 {
		p.add("limits.hash_memory", "%d is out of range; at least 1, in MiB", c.Limits.HashMemory)
	}
	positive("limits.hash_wait", c.Limits.HashWait)
	p.throttle(c.Throttle)
	if h := c.POP3.Hostname; !hostname.MatchString(h) {
		// it stands between "@" and ">" in the APOP timestamp
		p.add("pop3.hostname", "%q is no name of a host; letters, digits, dots and hyphens make one", h)
	}
	for i, l := range c.GSSAPI.Layers {
		p.oneOf(fmt.Sprintf("gssapi.layers[%d]", i), l, "none", "integrity", "privacy")
	}
	p.oneOf("gssapi.channel_binding", c.GSSAPI.ChannelBinding, "off", "allow", "require")
	p.oneOf("maildrops.type", c.Maildrops.Type, StoreMaildir)
	if !c.IsHelper() {
		p.need("maildrops.root", c.Maildrops.Root, "the directory that holds the maildrops")
	}
	p.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	p.oneOf("log.format", c.Log.Format, "text", "json")
}

func (p *problems) throttle(t Throttle) {
	for key, n := range map[string]int{
		"throttle.address_failures": t.AddressFailures,
		"throttle.network_failures": t.NetworkFailures,
		"throttle.user_failures":    t.UserFailures,
		"throttle.address_rate":     t.AddressRate,
	} {
		if n < 0 {
			p.add(key, "%d is out of range; zero means no such limit", n)
		}
	}
	if t.HalfLife < time.Second {
		p.add("throttle.half_life", "%v is out of range; 1s at least, 10m is usual", t.HalfLife)
	}
	if t.MaxDelay < time.Second || t.MaxDelay > time.Hour {
		p.add("throttle.max_delay", "%v is out of range; 1s to 1h: a longer one would lock users out", t.MaxDelay)
	}
	if t.MaxWait <= 0 || t.MaxWait >= p.c.Limits.LoginTimeout {
		p.add("throttle.max_wait", "%v is out of range; more than zero and less than limits.login_timeout, %v", t.MaxWait, p.c.Limits.LoginTimeout)
	}
	if t.Entries < 1024 {
		p.add("throttle.entries", "%d is out of range; at least 1024", t.Entries)
	}
}

func (p *problems) notNegative(key string, d time.Duration) {
	if d < 0 {
		p.add(key, "%v is out of range; it must not be negative", d)
	}
}

// KPOP reports whether clients begin with a ticket.
func (l Listener) KPOP() bool { return l.Protocol == ProtocolKPOP }

// UsesTLS reports whether a client can have TLS.
func (l Listener) UsesTLS() bool { return l.TLS == TLSStart || l.TLS == TLSImplicit }

// inTheClear reports whether the listener speaks KPOP to more than this
// machine: what follows the ticket is not encrypted.
func (l Listener) inTheClear() bool {
	host, _, _ := net.SplitHostPort(l.Address)
	a, err := netip.ParseAddr(host)
	return l.KPOP() && host != "localhost" && (err != nil || !a.IsLoopback())
}

// Warnings are settings that work and that their owner should know about.
func (c *Config) Warnings() []*Problem {
	p := &problems{c: c}
	for i, l := range c.Listeners {
		if l.inTheClear() {
			p.add(fmt.Sprintf("listeners[%d].address", i), "KPOP proves who the client is and encrypts nothing: "+
				"mail on %s can be read and changed on its way; keep it to trusted networks", l.Address)
		}
	}
	for i, x := range c.Policies {
		if x.Plain == PlainTrusted {
			p.add(fmt.Sprintf("policies[%d].plain", i), "passwords from the trusted networks travel in the clear")
		}
		if x.APOPWithPassword {
			p.add(fmt.Sprintf("policies[%d].apop_with_password", i), "users with an APOP secret may log in with a password too, against RFC 1939 section 7")
		}
	}
	for i, v := range c.Verifiers {
		if v.anyService() {
			p.add(fmt.Sprintf("verifiers[%d].introspection", i), "a token that the issuer made for any service opens mail; set audiences or scopes")
		}
	}
	if c.Throttle.Off {
		p.add("throttle.off", "nobody who guesses passwords is slowed down")
	}
	if c.Kerberos.Keytab != "" && c.Kerberos.ReplayCache == ReplayMemory {
		p.add("kerberos.replay_cache", "kept in memory: for %v after a restart a ticket seen on the wire can be replayed; name a file", 2*c.Kerberos.ClockSkew)
	}
	if i := slices.Index(c.Kerberos.EnctypeNumbers(), krb5.RC4); i >= 0 {
		p.add(fmt.Sprintf("kerberos.enctypes[%d]", i), "RC4 is weak: a ticket can be broken to find the service's password")
	}
	if c.Limits.IdleTimeout < 10*time.Minute {
		p.add("limits.idle_timeout", "%v is less than the 10 min of RFC 1939 section 3", c.Limits.IdleTimeout)
	}
	return p.list
}

// StepsFor lists the steps of a policy's chain that can judge a mechanism.
func (c *Config) StepsFor(x Policy, mech string) []Step {
	chain, _ := c.chain(x.Chain)
	m, _ := mechanismNamed(mech)
	return slices.DeleteFunc(slices.Clone(chain.Steps), func(s Step) bool {
		return !c.judges(Chain{Steps: []Step{s}}, m)
	})
}
