package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/access"
	"github.com/kpopd/kpopd/authn/cache"
	"github.com/kpopd/kpopd/authn/checkpassword"
	"github.com/kpopd/kpopd/authn/cram"
	"github.com/kpopd/kpopd/authn/external"
	"github.com/kpopd/kpopd/authn/file"
	"github.com/kpopd/kpopd/authn/gssapi"
	"github.com/kpopd/kpopd/authn/krb5"
	"github.com/kpopd/kpopd/authn/krb5pw"
	"github.com/kpopd/kpopd/authn/ldap"
	"github.com/kpopd/kpopd/authn/oauthbearer"
	"github.com/kpopd/kpopd/authn/oidc"
	"github.com/kpopd/kpopd/authn/plain"
	"github.com/kpopd/kpopd/authn/principal"
	"github.com/kpopd/kpopd/authn/remote"
	"github.com/kpopd/kpopd/authn/scram"
	"github.com/kpopd/kpopd/authn/throttle"
	"github.com/kpopd/kpopd/cmd/internal/certs"
	"github.com/kpopd/kpopd/cmd/internal/config"
	"github.com/kpopd/kpopd/kpop"
	"github.com/kpopd/kpopd/maildrop"
	"github.com/kpopd/kpopd/maildrop/maildir"
	"github.com/kpopd/kpopd/pop3"
)

// certificateInterval is how often changed certificate files are looked for.
const certificateInterval = time.Minute

// assembly is a configuration made into working parts. It is only read once
// it is complete; sessions keep the one that they began with.
type assembly struct {
	cfg       *config.Config
	parts     *parts
	log       *slog.Logger
	trace     *authn.Trace
	verifiers map[string]authn.Verifier
	files     []*fileVerifier
	chains    map[string]authn.Chain
	salts     authn.Password // key for them; nil without SCRAM
	acceptor  *krb5.Acceptor // nil without a keytab
	tickets   kpop.Tickets   // acceptor or a helper; nil without Kerberos
	policies  map[string]*authn.Policy
	doors     []*door     // as in cfg.Listeners
	closers   []io.Closer // verifiers that keep connections or write files; sessions go on with them
	watched   []*watched

	stop context.CancelFunc // of the background
	wg   sync.WaitGroup
}

// fileVerifier is a verifier of files and where it stands in the configuration.
type fileVerifier struct {
	file.Verifier
	key string
}

// parts outlive a reload as long as the configuration names the same ones:
// replay cache, old keys of the keytab, store (whose listings stay warm), and what
// is known of those who guess.
type parts struct {
	replay     krb5.ReplayCache
	replayPath string
	keytab     *krb5.Keytab
	keytabPath string
	store      maildrop.Store
	maildrops  config.Maildrops
	throttle   *throttle.Throttle // counts what it counted, under new options
	logins     *pop3.Logins       // for LOGIN-DELAY
	hashes     *file.Budget
	hashing    file.BudgetOptions
	helpers    map[string]*remote.Client // by name of the verifier
	helperKeys map[string]string         // what they were made of
}

// assemble builds everything that cfg names, with parts of old where they
// fit. The error holds one problem for each thing that cannot work.
func assemble(cfg *config.Config, old *parts, log *slog.Logger, trace *authn.Trace) (*assembly, error) {
	a := newAssembly(cfg, log, trace)
	kerberos := a.openKerberos(old) // before the chains, in which some want the keytab
	a.boundCosts(old)
	err := errors.Join(a.checkCertificates(), a.openSaltKey(), a.buildChains(old), kerberos, a.openStore(old))
	if err == nil {
		a.chooseTickets()
		err = errors.Join(a.buildPolicies(), a.buildDoors())
	}
	if err == nil {
		err = a.checkRules()
	}
	if err != nil {
		return nil, errors.Join(err, a.parts.close(old))
	}
	return a, nil
}

func newAssembly(cfg *config.Config, log *slog.Logger, trace *authn.Trace) *assembly {
	return &assembly{
		cfg: cfg, parts: &parts{}, log: log, trace: trace,
		verifiers: map[string]authn.Verifier{}, chains: map[string]authn.Chain{}, policies: map[string]*authn.Policy{},
	}
}

// close frees what next does not use.
func (p *parts) close(next *parts) error {
	err := p.closeHelpers(next)
	if c, ok := p.replay.(io.Closer); ok && p.replay != next.replay {
		err = errors.Join(err, c.Close())
	}
	return err
}

// chooseTickets has tickets taken by the keytab that is here, or by the helper
// that has it.
func (a *assembly) chooseTickets() {
	if c := a.parts.helpers[a.cfg.Kerberos.Remote]; c != nil {
		a.tickets = c
	}
	if a.acceptor != nil {
		a.tickets = a.acceptor
	}
}

// boundCosts makes what bounds the costs of logins.
func (a *assembly) boundCosts(old *parts) {
	l := a.cfg.Limits
	o := file.BudgetOptions{Hashes: l.Hashes, Memory: int64(l.HashMemory) << 20, Wait: l.HashWait}
	a.parts.hashes, a.parts.hashing = old.hashes, o
	if old.hashes == nil || old.hashing != o {
		a.parts.hashes = file.NewBudget(o)
	}
	a.parts.throttle, a.parts.logins = old.throttle, old.logins
	if old.throttle == nil {
		a.parts.throttle, a.parts.logins = throttle.New(throttle.Options{}), &pop3.Logins{}
	}
}

// loginDelay is nil where users need not wait.
func (a *assembly) loginDelay() *pop3.LoginDelay {
	l := a.cfg.Limits
	switch {
	case l.LoginDelayMax > 0:
		return &pop3.LoginDelay{Longest: l.LoginDelayMax, Of: a.loginDelayOf, Logins: a.parts.logins}
	case l.LoginDelay > 0:
		return &pop3.LoginDelay{Longest: l.LoginDelay, Logins: a.parts.logins}
	}
	return nil
}

// loginDelayOf is a user's own delay. One that no verifier should have let
// through is told, and is taken for the longest.
func (a *assembly) loginDelayOf(id *authn.Identity) time.Duration {
	text, ok := id.Attrs[authn.AttrLoginDelay]
	if !ok {
		return a.cfg.Limits.LoginDelay
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		a.log.Warn("login delay of a user is no duration", "user", bounded(id.User, maxName), "step", id.Step, "err", bounded(err.Error(), maxError))
		return a.cfg.Limits.LoginDelayMax
	}
	return d
}

// throttling are the options of the throttle: what is zero in the configuration
// does not exist.
func throttling(t config.Throttle) throttle.Options {
	never := func(n int) int {
		if n == 0 {
			return -1
		}
		return n
	}
	return throttle.Options{
		Address: never(t.AddressFailures), Network: never(t.NetworkFailures), User: never(t.UserFailures),
		HalfLife: t.HalfLife, MaxDelay: t.MaxDelay, MaxWait: t.MaxWait,
		Rate: float64(never(t.AddressRate)), Burst: 10 * t.AddressRate, Exempt: t.Exempt, Size: t.Entries,
	}
}

// checkCertificates tells of each certificate that cannot be used, once and not
// for every listener.
func (a *assembly) checkCertificates() error {
	var errs []error
	for i, c := range a.cfg.Certificates {
		if _, err := certs.New([]certs.File{{Cert: c.Cert, Key: c.Key}}, certs.Clients{}); err != nil {
			errs = append(errs, a.cfg.Problem(fmt.Sprintf("certificates[%d]", i), err))
		}
	}
	return errors.Join(errs...)
}

func (a *assembly) openStore(old *parts) error {
	m := a.cfg.Maildrops
	a.parts.maildrops = m
	if old.store != nil && old.maildrops == m {
		a.parts.store = old.store
		return nil
	}
	store, err := maildir.New(m.Root, maildir.Options{
		Layout: m.Layout, Create: m.Create, Owner: m.Owner, TrustSizes: m.TrustSizes, CacheMessages: m.Cache,
	})
	if err != nil {
		return a.cfg.Problem("maildrops.root", err)
	}
	a.parts.store = store
	return nil
}

func (a *assembly) openKerberos(old *parts) error {
	k := a.cfg.Kerberos
	if k.Keytab == "" {
		return nil
	}
	keytab, err := krb5.OpenKeytab(k.Keytab)
	if err != nil {
		return a.cfg.Problem("kerberos.keytab", err)
	}
	a.parts.keytab, a.parts.keytabPath = keytab, k.Keytab
	if err := a.openReplay(old); err != nil {
		return a.cfg.Problem("kerberos.replay_cache", err)
	}
	a.acceptor = &krb5.Acceptor{
		Keytab: keytab, Services: k.Services, Hosts: k.Hosts, Enctypes: k.EnctypeNumbers(),
		Skew: k.ClockSkew, Replay: a.parts.replay, CheckAddresses: k.CheckAddresses,
	}
	if len(a.acceptor.Usable()) == 0 {
		return a.cfg.Problem("kerberos.keytab", fmt.Errorf("no ticket could be taken: %s has keys for %s; "+
			"add one for pop/HOST, or change services, hosts or enctypes", k.Keytab, nameList(keytab.Services())))
	}
	if old.keytab != nil && old.keytabPath == k.Keytab {
		keytab.Keep(old.keytab)
	}
	return nil
}

func nameList(names []string) string {
	if len(names) == 0 {
		return "nobody"
	}
	return strings.Join(names, ", ")
}

func (a *assembly) openReplay(old *parts) error {
	path := a.cfg.Kerberos.ReplayCache
	a.parts.replayPath = path
	if old.replay != nil && old.replayPath == path {
		a.parts.replay = old.replay
		return nil
	}
	if path == config.ReplayMemory {
		a.parts.replay = &krb5.MemoryReplay{}
		return nil
	}
	cache, err := krb5.OpenFileReplay(path)
	if err != nil {
		return err
	}
	a.parts.replay = cache
	return nil
}

func (a *assembly) openSaltKey() error {
	if !a.cfg.OffersSCRAM() {
		return nil
	}
	keys, err := file.OpenKeys(a.cfg.SCRAM.SaltKey)
	if err == nil {
		a.salts, err = keys.Salt()
	}
	if err != nil {
		return a.cfg.Problem("scram.salt_key", err)
	}
	return nil
}

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

const maxMisnamed = 20 // told at once

// checkNames refuses users of a verifier's files whom nobody could log in as.
func (a *assembly) checkNames(v authn.Verifier) error {
	names := a.cfg.Names.Rules()
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

var errNoKeytab = errors.New("the keytab could not be opened")

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

func (a *assembly) buildPolicies() error {
	var errs []error
	for i, x := range a.cfg.Policies {
		p := &authn.Policy{
			Name: x.Name, BeforeTLS: a.beforeTLS(x), Trusted: x.Trusted, Names: a.cfg.Names.Rules(), Trace: a.trace,
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

func (a *assembly) gssapi(chain authn.Chain) authn.Mechanism {
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

// hostname stands in challenges and timestamps. A machine without a name is
// localhost.
func (a *assembly) hostname() string {
	if h := a.cfg.POP3.Hostname; h != "" {
		return h
	}
	h, err := os.Hostname()
	if err != nil {
		return "localhost"
	}
	return h
}

func (a *assembly) buildDoors() error {
	var errs []error
	for i, l := range a.cfg.Listeners {
		d := &door{name: l.Name, policy: a.policies[l.Policy], log: a.log}
		if l.UsesTLS() {
			s, err := certs.New(a.certificates(l), certs.Clients{CA: l.ClientCA, CRL: l.ClientCRL})
			if err != nil {
				key := "client_ca" // the certificates have been looked at before
				if _, err := certs.New(a.certificates(l), certs.Clients{CA: l.ClientCA}); err == nil {
					key = "client_crl"
				}
				errs = append(errs, a.cfg.Problem(fmt.Sprintf("listeners[%d].%s", i, key), err))
				continue
			}
			d.certs, d.implicit = s, l.TLS == config.TLSImplicit
		}
		if l.KPOP() {
			d.kpop = &kpop.Acceptor{
				Krb5: a.tickets, Versions: a.cfg.KPOP.AppVersions, Timeout: a.cfg.KPOP.HandshakeTimeout, Trace: a.trace,
			}
		}
		d.server = a.server(d)
		a.doors = append(a.doors, d)
	}
	return errors.Join(errs...)
}

// certificates are all there are, the one that the listener names first.
func (a *assembly) certificates(l config.Listener) []certs.File {
	var files []certs.File
	for _, c := range a.cfg.Certificates {
		f := certs.File{Cert: c.Cert, Key: c.Key}
		if c.Name == l.Certificate {
			files = slices.Insert(files, 0, f)
		} else {
			files = append(files, f)
		}
	}
	return files
}

func (a *assembly) server(d *door) *pop3.Server {
	l := a.cfg.Limits
	s := &pop3.Server{
		Backend:  &backend{Policy: d.policy, store: a.parts.store},
		Hostname: a.hostname(), Log: a.log, LoginsTraced: true, LenientUTF8: a.cfg.POP3.LenientUTF8,
		LoginTimeout: l.LoginTimeout, IdleTimeout: l.IdleTimeout, WriteTimeout: l.WriteTimeout,
		DrainTimeout: l.DrainTimeout, MaxFailures: l.Failures, MaxAttempts: l.Attempts, LoginDelay: a.loginDelay(),
	}
	if d.certs != nil && !d.implicit {
		s.StartTLS = d.startTLS
	}
	return s
}

// background looks for changed files until quit is called.
func (a *assembly) background() {
	ctx, cancel := context.WithCancel(context.Background())
	a.stop = cancel
	for _, d := range a.doors {
		if d.certs != nil {
			a.wg.Go(func() { d.certs.Watch(ctx, certificateInterval, a.log) }) // ended by quit
		}
	}
	a.wg.Go(func() { a.watchCertificates(ctx) }) // ended by quit
	a.wg.Go(func() { a.warnHelpers(ctx) })       // ended by quit
	a.wg.Go(func() { a.watchFiles(ctx) })        // ended by quit
	if every := a.cfg.Kerberos.KeytabReload; a.acceptor != nil && every > 0 {
		a.wg.Go(func() { a.watchKeytab(ctx, every) }) // ended by quit
	}
}

func (a *assembly) quit() {
	if a.stop != nil {
		a.stop()
		a.wg.Wait()
	}
	for _, c := range a.closers {
		if err := c.Close(); err != nil {
			a.log.Warn("verifier not closed", "err", err)
		}
	}
}

func (a *assembly) watchKeytab(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	broken := false // a lasting fault is told once
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !a.parts.keytab.Changed() {
			continue
		}
		err := a.parts.keytab.Reload()
		switch {
		case err == nil:
			a.log.Info("keytab reloaded", "keytab", a.parts.keytabPath, "services", a.parts.keytab.Services())
		case !broken:
			a.log.Error("keytab not reloaded, old keys stay", "keytab", a.parts.keytabPath, "err", err)
		}
		broken = err != nil
	}
}

// warnings are what works and should be mended: settings, and files that they
// name.
func (a *assembly) warnings() []*config.Problem {
	all := a.cfg.Warnings()
	for _, f := range a.files {
		for _, w := range f.Warnings() {
			all = append(all, a.cfg.Problem(f.key, w))
		}
	}
	for i, x := range a.cfg.Policies {
		for j, name := range x.Offers {
			if a.opensNothing(a.chains[x.Chain], name) {
				all = append(all, a.cfg.Problem(fmt.Sprintf("policies[%d].offers[%d]", i, j),
					fmt.Errorf("nobody has a secret for %s, so that it lets nobody in: make one with kpopd passwd, or do not offer it", name)))
			}
		}
	}
	return all
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

// warn tells what the owner of the configuration should know about.
func (a *assembly) warn() {
	for _, w := range a.warnings() {
		a.log.Warn("configuration", "key", w.Key, "line", w.Line, "warning", w.Err.Error())
	}
	a.warnCertificates()
}

func (a *assembly) warnCertificates() {
	for _, w := range a.certificateWarnings(time.Now()) {
		a.log.Warn("certificate", "key", w.Key, "line", w.Line, "warning", w.Err.Error())
	}
}

// watchCertificates warns every day, as a server may run for longer than its
// certificates.
func (a *assembly) watchCertificates(ctx context.Context) {
	tick := time.NewTicker(24 * time.Hour)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			a.warnCertificates()
		}
	}
}

// runsOutSoon is how long before its end a certificate is warned about. Who
// renews by a program does so a month before.
const runsOutSoon = 14 * 24 * time.Hour

// certificateWarnings are about the certificates that listeners show: dates,
// and keys that everybody may read.
func (a *assembly) certificateWarnings(now time.Time) []*config.Problem {
	list := a.clientWarnings(now)
	i := slices.IndexFunc(a.doors, func(d *door) bool { return d.certs != nil })
	if i < 0 {
		return list
	}
	// every store has all certificates, the one that its listener names first
	leaves, files := a.doors[i].certs.Leaves(), a.certificates(a.cfg.Listeners[i])
	for i, c := range a.cfg.Certificates {
		leaf := leaves[slices.Index(files, certs.File{Cert: c.Cert, Key: c.Key})]
		add := func(key, format string, args ...any) {
			list = append(list, a.cfg.Problem(fmt.Sprintf("certificates[%d].%s", i, key), fmt.Errorf(format, args...)))
		}
		switch {
		case now.After(leaf.NotAfter):
			add("cert", "ran out on %s; clients refuse it: renew it", leaf.NotAfter.Format(time.DateOnly))
		case now.Before(leaf.NotBefore):
			add("cert", "is valid from %s on only; clients refuse it: check the clock", leaf.NotBefore.Format(time.DateOnly))
		case leaf.NotAfter.Sub(now) < runsOutSoon:
			add("cert", "runs out on %s; renew it", leaf.NotAfter.Format(time.DateOnly))
		}
		if st, err := os.Stat(c.Key); err == nil && st.Mode()&0o007 != 0 {
			add("key", "%s is open to everybody (mode %04o): chmod 600 it", c.Key, st.Mode().Perm())
		}
	}
	return list
}

// clientWarnings are about the authorities of client certificates.
func (a *assembly) clientWarnings(now time.Time) []*config.Problem {
	var list []*config.Problem
	for i, d := range a.doors {
		if d.certs == nil {
			continue
		}
		ca, crl := d.certs.ClientsWarnings(now, runsOutSoon)
		for _, err := range ca {
			list = append(list, a.cfg.Problem(fmt.Sprintf("listeners[%d].client_ca", i), err))
		}
		for _, err := range crl {
			list = append(list, a.cfg.Problem(fmt.Sprintf("listeners[%d].client_crl", i), err))
		}
	}
	return list
}
