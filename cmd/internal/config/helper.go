package config

import (
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/kpopd/kpopd/authn/cache"
)

// Auth makes a file that of a helper, for kpopd auth: a process under a uid of
// its own that has keytab, password hashes and secrets, and judges for kpopd
// serve. It has chains, verifiers, kerberos and log besides.
type Auth struct {
	Socket  string   `mapstructure:"socket"`  // path; its folder must be closed to everybody but the two
	Clients []string `mapstructure:"clients"` // users, by name or uid, whose processes may ask
	Chain   string   `mapstructure:"chain"`   // name of the chain that judges; none when there is only a keytab
}

// VerifierRemote is the kind of verifier that asks a helper.
const VerifierRemote = "remote"

// Remote are the keys of a verifier of type remote.
type Remote struct {
	Socket string   `mapstructure:"socket"` // remote: path of the helper's socket
	Judges []string `mapstructure:"judges"` // remote: what the helper judges: passwords, secrets, principals, tickets; users: their groups, and those whom others act for
}

// Cached are the keys of a verifier of passwords whose answers are remembered.
type Cached struct {
	Accepted time.Duration `mapstructure:"cache"`         // how long a yes is remembered; not at all when zero, 1m at most
	Refused  time.Duration `mapstructure:"cache_refused"` // how long a no is remembered; not at all when zero, 1m at most
	Entries  int           `mapstructure:"cache_entries"` // answers remembered at once; 10,000 when zero
}

// On reports whether anything is remembered.
func (c Cached) On() bool { return c.Accepted > 0 || c.Refused > 0 }

// What a helper can judge.
const (
	judgesPasswords  = "passwords"
	judgesSecrets    = "secrets"
	judgesPrincipals = "principals"
	judgesTickets    = "tickets"
	judgesUsers      = "users"
)

// remoteProofs say what a helper must judge for a mechanism. KPOP, GSSAPI and
// GSS-SPNEGO need a ticket taken too, which kerberos says by whom. A mechanism without a row
// is none that a helper can judge.
var remoteProofs = map[string]string{
	"KPOP": judgesPrincipals, "GSSAPI": judgesPrincipals, "GSS-SPNEGO": judgesPrincipals,
	"SCRAM-SHA-256-PLUS": judgesSecrets, "SCRAM-SHA-256": judgesSecrets, "SCRAM-SHA-1-PLUS": judgesSecrets, "SCRAM-SHA-1": judgesSecrets,
	"CRAM-MD5": judgesSecrets, "APOP": judgesSecrets,
	"PLAIN": judgesPasswords, "LOGIN": judgesPasswords, "USER": judgesPasswords,
}

// asks reports whether v asks a helper that judges a sort of proof.
func (v Verifier) asks(proof string) bool {
	return v.Type == VerifierRemote && proof != "" && slices.Contains(v.Judges, proof)
}

// IsHelper reports whether the file is one for kpopd auth.
func (c *Config) IsHelper() bool {
	return c.Auth.Socket != "" || c.Auth.Chain != "" || len(c.Auth.Clients) > 0
}

// Enabled reports whether tickets are taken, here or by a helper.
func (k *Kerberos) Enabled() bool { return k.Keytab != "" || k.Remote != "" }

// helper validates what is particular to the file of a helper.
func (p *problems) helper() {
	c := p.c
	for key, there := range map[string]bool{
		"listeners": len(c.Listeners) > 0, "certificates": len(c.Certificates) > 0, "policies": len(c.Policies) > 0,
		"maildrops": !reflect.DeepEqual(c.Maildrops, Default().Maildrops), "throttle": !reflect.DeepEqual(c.Throttle, Default().Throttle),
		"views": !reflect.DeepEqual(c.Views, Views{}),
	} {
		if there {
			p.add(key, "belongs into the file of kpopd serve; a file with auth is for kpopd auth")
		}
	}
	p.need("auth.socket", c.Auth.Socket, "the path of the socket")
	if len(c.Auth.Clients) == 0 {
		p.add("auth.clients", "missing; list the users that may ask, such as the one that kpopd serve runs as")
	}
	if c.Auth.Chain != "" || c.Kerberos.Keytab == "" {
		refer(p, "auth.chain", "chain", c.Auth.Chain, c.Chains, func(x Chain) string { return x.Name })
	}
	if c.Kerberos.Remote != "" {
		p.add("kerberos.remote", "a helper does not ask another; set kerberos.keytab")
	}
	for i, v := range c.Verifiers {
		switch v.Type {
		case VerifierRemote:
			p.add(fmt.Sprintf("verifiers[%d].type", i), "a helper does not ask another; write what it has itself")
		case VerifierOIDC:
			p.add(fmt.Sprintf("verifiers[%d].type", i), "a helper judges no tokens; put the verifier into the file of kpopd serve")
		case VerifierCertificate:
			p.add(fmt.Sprintf("verifiers[%d].type", i), "a helper judges no client certificates; put the verifier into the file of kpopd serve")
		}
	}
}

// remote validates the keys of a verifier that asks a helper.
func (p *problems) remote(at string, v Verifier) {
	p.need(at+".socket", v.Socket, "the socket of the helper")
	known := []string{judgesPasswords, judgesSecrets, judgesPrincipals, judgesTickets, judgesUsers}
	if len(v.Judges) == 0 {
		p.add(at+".judges", "missing; list what the helper judges, of passwords, secrets, principals, tickets and users")
	}
	for i, j := range v.Judges {
		p.oneOf(fmt.Sprintf("%s.judges[%d]", at, i), j, known...)
	}
	if slices.Contains(v.Judges, judgesTickets) && p.c.Kerberos.Remote != v.Name {
		p.add(at+".judges", "has tickets, and nobody asks it for them; set kerberos.remote: %s", v.Name)
	}
}

// cached validates how long answers are remembered.
func (p *problems) cached(at string, v Verifier) {
	for key, d := range map[string]time.Duration{"cache": v.Cached.Accepted, "cache_refused": v.Cached.Refused} {
		if d < 0 || d > cache.Max {
			p.add(at+"."+key, "%v is out of range; %v is the most, as long an old password may still be good", d, cache.Max)
		}
	}
	if v.Cached.Entries < 0 {
		p.add(at+".cache_entries", "%d is out of range; zero means %d", v.Cached.Entries, cache.DefaultEntries)
	}
	switch {
	case v.Cached.Entries != 0 && !v.Cached.On():
		p.add(at+".cache_entries", "has no effect without cache or cache_refused")
	case v.Cached.On() && v.Type == VerifierFile && v.Users == "":
		p.add(at+".cache", "is for passwords, and this verifier judges none")
	}
}

// kerberosRemote validates the helper that takes tickets.
func (p *problems) kerberosRemote(k Kerberos) {
	if k.Remote == "" {
		return
	}
	if k.Keytab != "" {
		p.add("kerberos.remote", "has no use with a keytab; remove one of the two")
	}
	v, ok := refer(p, "kerberos.remote", "verifier", k.Remote, p.c.Verifiers, func(v Verifier) string { return v.Name })
	switch {
	case !ok:
	case v.Type != VerifierRemote:
		p.add("kerberos.remote", "verifier %q is of type %s, and one of type remote is needed", k.Remote, v.Type)
	case !slices.Contains(v.Judges, judgesTickets):
		p.add("kerberos.remote", "verifier %q does not judge tickets; add tickets to its judges", k.Remote)
	}
	for key, there := range map[string]bool{
		"services": k.Services != nil, "hosts": k.Hosts != nil, "enctypes": k.Enctypes != nil, "check_addresses": k.CheckAddresses,
		"replay_cache": k.ReplayCache != ReplayMemory,
	} {
		if there {
			p.add("kerberos."+key, "belongs into the file of the helper, which has the keytab")
		}
	}
}
