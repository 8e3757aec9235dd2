package config

import (
	"strings"
	"testing"
	"time"
)

const helperFile = `auth: {socket: run/socket, clients: [kpopd, "990"], chain: all}
chains:
  - {name: all, steps: [{use: local}, {use: tickets}]}
verifiers:
  - {name: local, type: file, users: users, cache: 30s, cache_refused: 5s, cache_entries: 500}
  - {name: tickets, type: principal, local_realms: [Demo.TEST]}
kerberos: {keytab: pop.keytab, replay_cache: replay}
`

const frontFile = `listeners:
  - {name: pop3, address: ":110", tls: starttls, policy: internet}
  - {name: kpop, address: ":1109", protocol: kpop, policy: campus}
certificates:
  - {name: mail, cert: mail.crt, key: mail.key}
policies:
  - {name: internet, offers: [GSSAPI, CRAM-MD5, PLAIN], chain: all}
  - {name: campus, offers: [KPOP], chain: all}
chains:
  - {name: all, steps: [{use: helper}]}
verifiers:
  - {name: helper, type: remote, socket: run/socket, judges: [passwords, secrets, principals, tickets]}
kerberos: {remote: helper}
maildrops: {root: mail}
`

func TestHelper(t *testing.T) {
	t.Parallel()
	h, err := Parse("/etc/kpopd/auth.yaml", []byte(helperFile))
	if err != nil {
		t.Fatal(err)
	}
	f, err := Parse("/etc/kpopd/kpopd.yaml", []byte(frontFile))
	if err != nil {
		t.Fatal(err)
	}
	if !h.IsHelper() || f.IsHelper() || !h.Kerberos.Enabled() || !f.Kerberos.Enabled() {
		t.Error("the two are taken for each other")
	}
	if h.Auth.Socket != "/etc/kpopd/run/socket" || f.Verifiers[0].Socket != h.Auth.Socket {
		t.Errorf("sockets %s and %s", h.Auth.Socket, f.Verifiers[0].Socket)
	}
	if c := h.Verifiers[0].Cached; c != (Cached{30 * time.Second, 5 * time.Second, 500}) {
		t.Errorf("cache %+v", c)
	}
}

func TestHelperProblems(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, file, old, new, want string }{
		{"listener in a helper", helperFile, "chains:", "maildrops: {root: x}\nchains:", `k.yaml:2: maildrops: belongs into the file of kpopd serve; a file with auth is for kpopd auth`},
		{"throttle in a helper", helperFile, "chains:", "throttle: {half_life: 1h}\nchains:", `k.yaml:2: throttle: belongs into the file of kpopd serve; a file with auth is for kpopd auth`},
		{"client certificates in a helper", helperFile, "type: principal, local_realms: [Demo.TEST]", "type: certificate, map: x", `k.yaml:6: verifiers[1].type: a helper judges no client certificates; put the verifier into the file of kpopd serve`},
		{"no socket", helperFile, "socket: run/socket, ", "", `k.yaml:1: auth.socket: missing; name the path of the socket`},
		{"no clients", helperFile, `clients: [kpopd, "990"], `, "", `k.yaml:1: auth.clients: missing; list the users that may ask`},
		{"no chain", helperFile, "chain: all}", "chain: al}", `k.yaml:1: auth.chain: no chain is named "al"; did you mean "all"?`},
		{"helper of a helper", helperFile, "type: principal, local_realms: [Demo.TEST]", "type: remote, socket: s, judges: [principals]", `k.yaml:6: verifiers[1].type: a helper does not ask another`},
		{"tokens of a helper", helperFile, "type: principal, local_realms: [Demo.TEST]", "type: oidc", `k.yaml:6: verifiers[1].type: a helper judges no tokens; put the verifier into the file of kpopd serve`},
		{"tokens that the front leaves to a helper", frontFile, "offers: [GSSAPI, ", "offers: [OAUTHBEARER, GSSAPI, ", `k.yaml:7: policies[0].offers[0]: no step of chain "all" can judge OAUTHBEARER; add a verifier of type oidc`},
		{"tickets of a helper", helperFile, "keytab: pop.keytab, replay_cache: replay", "remote: local", `k.yaml:7: kerberos.remote: a helper does not ask another; set kerberos.keytab`},
		{"no socket to ask", frontFile, "socket: run/socket, ", "", `k.yaml:12: verifiers[0].socket: missing; name the socket of the helper`},
		{"judges nothing", frontFile, ", judges: [passwords, secrets, principals, tickets]", "", `k.yaml:12: verifiers[0].judges: missing; list what the helper judges`},
		{"judges what nobody knows", frontFile, "[passwords, ", "[password, ", `k.yaml:12: verifiers[0].judges[0]: "password" is not known; write passwords, secrets, principals, tickets, users; did you mean "passwords"?`},
		{"judges no passwords", frontFile, "[passwords, ", "[", `k.yaml:7: policies[0].offers[2]: no step of chain "all" can judge PLAIN`},
		{"judges no secrets", frontFile, "secrets, ", "", `k.yaml:7: policies[0].offers[1]: no step of chain "all" can judge CRAM-MD5`},
		{"judges no principals", frontFile, "principals, ", "", `k.yaml:8: policies[1].offers[0]: no step of chain "all" can judge KPOP`},
		{"groups that the helper is not asked about", frontFile, "{name: internet, ", "{name: internet, rules: [{groups: [staff], action: deny}], ", `k.yaml:7: policies[0].rules[0].groups: no step of chain "all" knows groups; add a verifier of type file with users, or ldap with attributes.groups or group_filter, or users to what a remote one judges`},
		{"list of groups in the front", strings.Replace(frontFile, "kerberos:", "  - {name: list, type: deny, groups: [x]}\nkerberos:", 1), "{use: helper}]", "{use: helper}, {use: list}]", `k.yaml:10: chains[0].steps[1]: a list with groups belongs into the file of the helper that "helper" asks`},
		{"takes no tickets", frontFile, ", tickets]", "]", `k.yaml:13: kerberos.remote: verifier "helper" does not judge tickets; add tickets to its judges`},
		{"tickets that nobody asks for", frontFile, "kerberos: {remote: helper}", "kerberos: {keytab: x}", `k.yaml:12: verifiers[0].judges: has tickets, and nobody asks it for them; set kerberos.remote: helper`},
		{"keytab and helper", frontFile, "{remote: helper}", "{remote: helper, keytab: x}", `k.yaml:13: kerberos.remote: has no use with a keytab; remove one of the two`},
		{"remote of another type", frontFile, "kerberos: {remote: helper}", "  - {name: local, type: file, users: u}\nkerberos: {remote: local}", `k.yaml:14: kerberos.remote: verifier "local" is of type file, and one of type remote is needed`},
		{"hosts of the helper's keytab", frontFile, "{remote: helper}", "{remote: helper, hosts: [a]}", `k.yaml:13: kerberos.hosts: belongs into the file of the helper`},
		{"keys of another type", frontFile, "type: remote, ", "type: remote, users: x, ", `k.yaml:12: verifiers[0].users: is no key of type remote, which takes socket, judges`},
		{"socket of a file", helperFile, "users: users, ", "users: users, socket: x, ", `k.yaml:5: verifiers[0].socket: is no key of type file`},
		{"remembered for too long", helperFile, "cache: 30s", "cache: 2m", `k.yaml:5: verifiers[0].cache: 2m0s is out of range; 1m0s is the most`},
		{"remembered for less than nothing", helperFile, "cache_refused: 5s", "cache_refused: -1s", `k.yaml:5: verifiers[0].cache_refused: -1s is out of range`},
		{"room for nothing", helperFile, "cache: 30s, cache_refused: 5s, ", "", `k.yaml:5: verifiers[0].cache_entries: has no effect without cache or cache_refused`},
		{"cache in the front", frontFile, "type: remote, ", "type: remote, cache: 5s, ", `k.yaml:12: verifiers[0].cache: is no key of type remote`},
		{"cache of secrets", helperFile, "users: users, ", "digests: d, ", `k.yaml:5: verifiers[0].cache: is for passwords, and this verifier judges none`},
		{"cache of principals", helperFile, "type: principal, ", "type: principal, cache: 5s, ", `k.yaml:6: verifiers[1].cache: is no key of type principal`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if !strings.Contains(c.file, c.old) {
				t.Fatalf("%q is not in the good file", c.old)
			}
			_, err := Parse("k.yaml", []byte(strings.Replace(c.file, c.old, c.new, 1)))
			if err == nil {
				t.Fatal("accepted")
			}
			if !strings.Contains("\n"+err.Error(), "\n"+c.want) {
				t.Errorf("got:\n%v\nwant a line that begins with:\n%s", err, c.want)
			}
		})
	}
}
