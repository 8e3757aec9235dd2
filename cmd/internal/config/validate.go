package config

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/external"
	"github.com/kpopd/kpopd/authn/krb5"
	"github.com/kpopd/kpopd/authn/scram"
)

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
	p.names()
	p.views(c.Views)
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
		case m.tls:
			p.add(key, "%s is there inside TLS only; remove it", name)
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

// Rule is r as the mapper takes it.
func (r CertificateRule) Rule() external.Rule {
	return external.Rule{From: r.From, Match: r.Match, Login: r.Login, Issuer: r.Issuer}
}

// names validates names, and views as far as they have to do with those.
func (p *problems) names() {
	r := p.c.LoginNames()
	if r == nil {
		return
	}
	err := r.Check()
	if err == nil {
		return
	}
	key := "names"
	without := *r
	if without.Views = (authn.Views{}); without.Check() == nil {
		key = "views"
	}
	p.add(key, "%w", err)
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
	if d := c.Limits.DeadPeer; d < 8*time.Second || d > 12*time.Hour {
		p.add("limits.dead_peer", "%v is out of range; from 8s to 12h", d)
	}
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
	p.maildrops(c.Maildrops)
	p.oneOf("maildrops.takeover", c.Maildrops.Takeover, TakeoverNever, TakeoverDeadPeer, TakeoverSameAddress)
	p.uniqueIDs(c.Maildrops)
	p.retention(c.Maildrops)
	p.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	p.oneOf("log.format", c.Log.Format, "text", "json")
}

func (p *problems) maildrops(m Maildrops) {
	p.oneOf("maildrops.type", m.Type, StoreMaildir, StoreMbox)
	if !p.c.IsHelper() {
		p.need("maildrops.root", m.Root, "the directory that holds the maildrops")
	}
	// each key and whether it is set
	of := map[string]map[string]bool{
		StoreMaildir: {
			"create": m.Create, "trust_sizes": m.TrustSizes, "cache_memory": m.CacheMemory != Default().Maildrops.CacheMemory, "scan_wait": m.ScanWait != Default().Maildrops.ScanWait,
			"deleted": m.Deleted == DeletedTrash, "trash_days": m.TrashDays != Default().Maildrops.TrashDays,
			"expire_arrived": m.ExpireArrived != 0, "expire_retrieved": m.ExpireRetrieved != 0, "expire_at_quit": m.ExpireAtQuit,
		},
		StoreMbox: {"state": m.State != "", "locks": len(m.Locks) > 0, "lock_wait": m.LockWait != 0},
	}
	for kind, keys := range of {
		for key, set := range keys {
			if set && kind != cmp.Or(m.Type, StoreMaildir) {
				p.add("maildrops."+key, "has no effect without type: %s", kind)
			}
		}
	}
	if m.Type != StoreMbox {
		if m.CacheMemory < 0 {
			p.add("maildrops.cache_memory", "%d is out of range; zero means that nothing is kept", m.CacheMemory)
		}
		if m.ScanWait <= 0 {
			p.add("maildrops.scan_wait", "%v is out of range; it must be more than zero", m.ScanWait)
		}
		return
	}
	p.need("maildrops.state", m.State, "a directory of the server's own, for indexes, journals and session locks")
	for i, way := range m.Locks {
		key := fmt.Sprintf("maildrops.locks[%d]", i)
		p.oneOf(key, cmp.Or(way, `""`), "fcntl", "dotlock")
		if slices.Index(m.Locks, way) < i {
			p.add(key, "%s is taken twice", way)
		}
	}
	if m.LockWait < 0 || m.LockWait > time.Minute {
		p.add("maildrops.lock_wait", "%v is out of range; up to 1m, as clients do not wait for longer", m.LockWait)
	}
}

// maxDays is a hundred years.
const maxDays = 36500

func (p *problems) retention(m Maildrops) {
	p.oneOf("maildrops.deleted", m.Deleted, DeletedUnlink, DeletedTrash)
	if m.TrashDays < 1 || m.TrashDays > maxDays {
		p.add("maildrops.trash_days", "%d is out of range; write for how many days, 1 to %d", m.TrashDays, maxDays)
	}
	for _, x := range []struct {
		key  string
		days int
	}{{"maildrops.expire_arrived", m.ExpireArrived}, {"maildrops.expire_retrieved", m.ExpireRetrieved}} {
		if x.days < 0 || x.days > maxDays {
			p.add(x.key, "%d is out of range; write after how many days, 1 to %d, or 0 for never", x.days, maxDays)
		}
	}
	if m.ExpireArrived > 0 && m.ExpireRetrieved >= m.ExpireArrived {
		p.add("maildrops.expire_retrieved", "%d days are no less than expire_arrived, so that it has no effect; remove one of them", m.ExpireRetrieved)
	}
	if m.ExpireAtQuit && m.ExpireRetrieved > 0 {
		p.add("maildrops.expire_retrieved", "expire_at_quit removes what was retrieved before; remove one of them")
	}
	if m.ExpireNever && m.Expires() {
		p.add("maildrops.expire_never", "messages expire, and this tells clients that they do not; remove it")
	}
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
