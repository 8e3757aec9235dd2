package config

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const good = `listeners:
  - {name: pop3, address: ":110", tls: starttls, policy: internet}
  - {name: kpop, address: ":1109", protocol: kpop, policy: campus}
certificates:
  - {name: mail, cert: mail.crt, key: /etc/mail.key}
policies:
  - {name: internet, offers: [GSSAPI, CRAM-MD5, PLAIN], chain: staff}
  - {name: campus, offers: [KPOP], chain: staff}
chains:
  - name: staff
    steps:
      - {use: local, timeout: 3s, on_reject: continue}
      - {use: tickets}
verifiers:
  - {name: local, type: file, users: users, digests: digests}
  - {name: tickets, type: principal, local_realms: [Demo.TEST]}
kerberos: {keytab: pop.keytab, replay_cache: replay}
maildrops: {root: mail}
limits: {idle_timeout: 15m}
`

func TestParse(t *testing.T) {
	t.Parallel()
	c, err := Parse("/etc/kpopd/kpopd.yaml", []byte(good))
	if err != nil {
		t.Fatal(err)
	}
	want := Default().Limits
	want.IdleTimeout = 15 * time.Minute
	if diff := cmp.Diff(want, c.Limits); diff != "" {
		t.Error("limits (-want +got):", diff)
	}
	for what, pair := range map[string][2]any{
		"case of a realm":      {"Demo.TEST", c.Verifiers[1].LocalRealms[0]},
		"relative certificate": {"/etc/kpopd/mail.crt", c.Certificates[0].Cert},
		"absolute key":         {"/etc/mail.key", c.Certificates[0].Key},
		"relative keytab":      {"/etc/kpopd/pop.keytab", c.Kerberos.Keytab},
		"duration":             {3 * time.Second, c.Chains[0].Steps[0].Timeout},
		"absent before_tls":    {true, c.Policies[0].BeforeTLS == nil},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: got %v, want %v", what, pair[1], pair[0])
		}
	}
}

// A list that is there and empty says more than one that is absent.
func TestEmptyBeforeTLS(t *testing.T) {
	t.Parallel()
	c, err := Parse("x.yaml", []byte(strings.Replace(good, "[GSSAPI, CRAM-MD5, PLAIN],", "[GSSAPI], before_tls: [],", 1)))
	if err != nil {
		t.Fatal(err)
	}
	if b := c.Policies[0].BeforeTLS; b == nil || len(b) != 0 {
		t.Errorf("before_tls: [] is %#v", b)
	}
}

func TestProblems(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, old, new, want string }{
		{"misspelt key", "address: \":110\"", "addres: \":110\"", `k.yaml:2: listeners[0].addres: unknown key; did you mean "address"?`},
		{"key in another case", "address: \":110\"", "Address: \":110\"", `k.yaml:2: listeners[0].Address: unknown key; did you mean "address"?`},
		{"unknown section", "maildrops:", "mailbox:", `k.yaml:18: mailbox: unknown key`},
		{"key given twice", "tls: starttls,", "tls: starttls, tls: none,", `k.yaml:2: listeners[0].tls: the key is already set in line 2`},
		{"list that is none", "limits: {", "chains: {name: x}\nlimits: {", `k.yaml:19: chains: the key is already set in line 9`},
		{"scalar for a section", "limits: {idle_timeout: 15m}", "limits: 3", `k.yaml:19: limits: must be a set of keys`},
		{"policy that is not there", "policy: campus", "policy: campas", `k.yaml:3: listeners[1].policy: no policy is named "campas"; did you mean "campus"?`},
		{"policy nobody uses", "policy: internet", "policy: campus", `k.yaml:7: policies[0]: no listener uses policy "internet"; remove it or name it in a listener`},
		{"two of a name", "name: campus", "name: internet", `k.yaml:8: policies[1].name: "internet" is already the name of policies[0]; choose another`},
		{"duration without unit", "timeout: 3s", "timeout: 3", `k.yaml:12: chains[0].steps[0].timeout: "3" is no duration; write a number with a unit: 90s, 10m, 1h30m`},
		{"starttls without certificate", "  - {name: mail, cert: mail.crt, key: /etc/mail.key}", "  []", `k.yaml:2: listeners[0].tls: starttls needs a certificate; add one to certificates`},
		{"password in the clear", "tls: starttls, ", "", `k.yaml:2: listeners[0].policy: policy "internet" offers PLAIN, which shows a password, and the listener never has TLS; set tls: starttls or implicit, or plain: trusted in the policy`},
		{"trusted nobody", "CRAM-MD5, PLAIN],", "CRAM-MD5, PLAIN], plain: trusted,", `k.yaml:7: policies[0].trusted: plain: trusted needs the networks that are trusted`},
		{"bad network", "CRAM-MD5, PLAIN],", "CRAM-MD5, PLAIN], plain: trusted, trusted: [10.0.0.0],", `k.yaml:7: policies[0].trusted[0]: "10.0.0.0" is no network; write it as 10.0.0.0/8, 192.0.2.7/32 or 2001:db8::/32`},
		{"network that begins inside", "CRAM-MD5, PLAIN],", "CRAM-MD5, PLAIN], plain: trusted, trusted: [10.1.2.3/8],", `k.yaml:7: policies[0].trusted[0]: "10.1.2.3/8" begins inside the network; write 10.0.0.0/8, or 10.1.2.3/32 for that address alone`},
		{"network that no address is in", "CRAM-MD5, PLAIN],", "CRAM-MD5, PLAIN], plain: trusted, trusted: [\"::ffff:10.0.0.0/104\"],", `k.yaml:7: policies[0].trusted[0]: "::ffff:10.0.0.0/104" is an IPv4 network in the clothes of IPv6`},
		{"mechanism nobody judges", "      - {use: local, timeout: 3s, on_reject: continue}\n", "", `k.yaml:7: policies[0].offers[1]: no step of chain "staff" can judge CRAM-MD5; add a verifier of type file with digests`},
		{"unknown mechanism", "CRAM-MD5", "CRAMMD5", `k.yaml:7: policies[0].offers[1]: no mechanism is named "CRAMMD5"; did you mean "CRAM-MD5"?`},
		{"kpop without keytab", "keytab: pop.keytab, ", "", `k.yaml:17: kerberos.keytab: missing; a kpop listener needs the service's keytab`},
		{"kpop listener without KPOP", "policy: campus", "policy: internet", `k.yaml:3: listeners[1].policy: policy "internet" does not offer KPOP, the only mechanism of a kpop listener`},
		{"kpop inside TLS", "protocol: kpop,", "protocol: kpop, tls: implicit,", `k.yaml:3: listeners[1].tls: a kpop client speaks before any TLS could begin; write starttls or none`},
		{"single DES", "replay_cache: replay", "enctypes: [des-cbc-crc]", `k.yaml:17: kerberos.enctypes[0]: `},
		{"before_tls that is not offered", "offers: [KPOP],", "offers: [KPOP], before_tls: [GSSAPI],", `k.yaml:8: policies[1].before_tls[0]: GSSAPI is not in the policy's offers`},
		{"no root", "root: mail", "", `k.yaml:18: maildrops.root: missing; name the directory that holds the maildrops`},
		{"negative cache", "root: mail", "root: mail, cache_memory: -1", `k.yaml:18: maildrops.cache_memory: -1 is out of range; zero means that nothing is kept`},
		{"no patience", "root: mail", "root: mail, scan_wait: 0s", `k.yaml:18: maildrops.scan_wait: 0s is out of range; it must be more than zero`},
		{"deleted to nowhere", "root: mail", "root: mail, deleted: trsh", `k.yaml:18: maildrops.deleted: "trsh" is not known; write unlink, trash; did you mean "trash"?`},
		{"trash of no days", "root: mail", "root: mail, trash_days: 0", `k.yaml:18: maildrops.trash_days: 0 is out of range; write for how many days, 1 to 36500`},
		{"days of another calendar", "root: mail", "root: mail, expire_arrived: -1", `k.yaml:18: maildrops.expire_arrived: -1 is out of range; write after how many days, 1 to 36500, or 0 for never`},
		{"days without end", "root: mail", "root: mail, expire_retrieved: 36501", `k.yaml:18: maildrops.expire_retrieved: 36501 is out of range; write after how many days, 1 to 36500, or 0 for never`},
		{"retrieved kept as long as all", "root: mail", "root: mail, expire_arrived: 30, expire_retrieved: 30", `k.yaml:18: maildrops.expire_retrieved: 30 days are no less than expire_arrived, so that it has no effect; remove one of them`},
		{"retrieved kept and not", "root: mail", "root: mail, expire_at_quit: true, expire_retrieved: 30", `k.yaml:18: maildrops.expire_retrieved: expire_at_quit removes what was retrieved before; remove one of them`},
		{"a promise that is not kept", "root: mail", "root: mail, expire_never: true, expire_arrived: 30", `k.yaml:18: maildrops.expire_never: messages expire, and this tells clients that they do not; remove it`},
		{"cache of before", "root: mail", "root: mail, cache: 1000", `k.yaml:18: maildrops.cache: unknown key`},
		{"verifier nobody asks", "{use: tickets}", "{use: local}", `k.yaml:16: verifiers[1]: no chain uses verifier "tickets"; remove it or name it in a step`},
		{"type that is missing", "type: principal, ", "", `k.yaml:16: verifiers[1].type: missing; write one of allow, certificate, checkpassword, deny, file, krb5pw, ldap, oidc, principal, remote`},
		{"type that nobody knows", "type: principal, ", "type: pincipal, ", `k.yaml:16: verifiers[1].type: "pincipal" is not known; write allow, certificate, checkpassword, deny, file, krb5pw, ldap, oidc, principal, remote; did you mean "principal"?`},
		{"key of another type", "users: users,", "users: users, local_realms: [X],", `k.yaml:15: verifiers[0].local_realms: is no key of type file, which takes users, digests, digests_key, rehash`},
		{"file without files", "users: users, digests: digests", "rehash: yescrypt", `k.yaml:15: verifiers[0].users: missing; name the users file, a digests file, or both`},
		{"mapper that maps nobody", ", local_realms: [Demo.TEST]", "", `k.yaml:16: verifiers[1]: maps nobody; set local_realms, map, k5login or rules`},
		{"realm without KDCs", "type: file, users: users, digests: digests", "type: krb5pw, realm: X", `k.yaml:15: verifiers[0].kdcs: missing; list the realm's KDCs, host or host:port`},
		{"KDCs without realm", "type: file, users: users, digests: digests", "type: krb5pw, kdcs: [x]", `k.yaml:15: verifiers[0].realm: missing; name the realm whose users' passwords are checked`},
		{"domain and mail domains", "type: file, users: users, digests: digests", "type: krb5pw, realm: X, kdcs: [x], domain: x, mail_domains: [y]", `k.yaml:15: verifiers[0].mail_domains: has no effect beside domain, which is the only one`},
		{"no program", "type: file, users: users, digests: digests", "type: checkpassword, args: [x]", `k.yaml:15: verifiers[0].program: missing; name the program, by its absolute path`},
		{"fewer than no programs", "type: file, users: users, digests: digests", "type: checkpassword, program: /x, at_once: -1", `k.yaml:15: verifiers[0].at_once: -1 is out of range; at least 1, or zero for the default`},
		{"separator that cannot be", "limits: {", "views: {folders: at}\nlimits: {", `k.yaml:19: views: "at" cannot stand between user and folder; take one of +-=#%!~^|/`},
		{"folders of spool files", "maildrops: {root: mail}", "maildrops: {root: mail, type: mbox, state: state}\nviews: {folders: +}", `k.yaml:19: views.folders: spool files have no folders`},
		{"views of a helper", "maildrops: {root: mail}", "views: {recent: 720h}\nauth: {socket: s, clients: [x], chain: staff}", `k.yaml:18: views: belongs into the file of kpopd serve`},
		{"recent that is too short", "limits: {", "views: {recent: 1m}\nlimits: {", `k.yaml:19: views.recent: 1m0s is out of range; 1h at least, 720h is usual, zero for none`},
		{"host of nobody", "limits: {", "views: {hosts: [{domains: [x.example]}]}\nlimits: {", `k.yaml:19: views.hosts[0].user: missing; name the user whose maildrop it is`},
		{"host without domains", "limits: {", "views: {hosts: [{user: physics}]}\nlimits: {", `k.yaml:19: views.hosts[0].domains: missing; list the domains whose mail it is`},
		{"two hosts of a name", "limits: {", "views: {hosts: [{user: a, domains: [x]}, {user: b, domains: [X]}]}\nlimits: {", `k.yaml:19: views: X names two hosts; take it from one`},
		{"negative limit", "{idle_timeout: 15m}", "{pre_auth: -1}", `k.yaml:19: limits.pre_auth: -1 is out of range; zero means no limit of its own`},
		{"no YAML", "chains:\n", "\tchains:\n", `k.yaml:9: no YAML, here or just above: found character that cannot start any token`},
		{"second document", "maildrops:", "---\nmaildrops:", `k.yaml:18: a second document begins here; one is read: remove the line ---`},
		{"number for a name", "{name: mail,", "{name: 0110,", `k.yaml:5: certificates[0].name: 0110 is not text as YAML reads it; put it in quotes`},
		{"list for a name", "policy: campus", "policy: [campus]", `k.yaml:3: listeners[1].policy: must be one value, not a list or a set of keys`},
		{"word for a list", "offers: [KPOP],", "offers: KPOP,", `k.yaml:8: policies[1].offers: must be a list; put it in brackets: [a, b]`},
		{"set of keys for a list", "  - {name: mail, cert", "  mail: {cert", `k.yaml:4: certificates: must be a list; begin each element with a dash`},
		{"list without values", "offers: [KPOP],", "offers: [KPOP], before_tls: ,", `k.yaml:8: policies[1].before_tls: has no value; give it one or remove it`},
		{"element without a value", "verifiers:\n", "verifiers:\n  -\n", `k.yaml:15: verifiers[0]: has no value; give it one or remove it`},
		{"truth for a number", "{idle_timeout: 15m}", "{failures: true}", `k.yaml:19: limits.failures: "true" is no whole number; write one, without quotes`},
		{"fraction for a number", "{idle_timeout: 15m}", "{failures: 2.9}", `k.yaml:19: limits.failures: "2.9" is no whole number`},
		{"number for a truth", "root: mail", "root: mail, create: 1", `k.yaml:18: maildrops.create: "1" is neither true nor false; write one of them`},
		{"yes for a truth", "root: mail", "root: mail, create: yes", `k.yaml:18: maildrops.create: "yes" is neither true nor false; write one of them`},
		{"takeover by anybody", "root: mail", "root: mail, takeover: always", `k.yaml:18: maildrops.takeover: "always" is not known; write never, dead_peer, same_address`},
		{"negative user id", "root: mail", "root: mail, owner: -1", `k.yaml:18: maildrops.owner: "-1" is no id; write a whole number from 0 to 4294967295, without quotes`},
		{"user id that would wrap", "root: mail", "root: mail, owner: 4294967297", `k.yaml:18: maildrops.owner: "4294967297" is no id`},
		{"list for a duration", "{idle_timeout: 15m}", "{idle_timeout: [15m]}", `k.yaml:19: limits.idle_timeout: must be one value`},
		{"port out of range", ":1109", ":99999", `k.yaml:3: listeners[1].address: "99999" is no port; write a number from 1 to 65535`},
		{"no port", ":1109", "127.0.0.1:", `k.yaml:3: listeners[1].address: "127.0.0.1:" has no port; write host:port or :port`},
		{"address that is none", ":1109", "300.1.2.3:1109", `k.yaml:3: listeners[1].address: "300.1.2.3" is no IP address`},
		{"two listeners on a port", "address: \":1109\"", "address: \"127.0.0.1:110\"", `k.yaml:3: listeners[1].address: 127.0.0.1:110 takes what listeners[0] listens on, :110; choose another`},
		{"negative hashes", "{idle_timeout: 15m}", "{hashes: -1}", `k.yaml:19: limits.hashes: -1 is out of range; zero means the number of processors`},
		{"no attempts", "{idle_timeout: 15m}", "{attempts: 0}", `k.yaml:19: limits.attempts: 0 is out of range; at least 1`},
		{"fraction of a second", "{idle_timeout: 15m}", "{login_delay: 1500ms}", `k.yaml:19: limits.login_delay: 1.5s is out of range; whole seconds up to 24h, zero for none`},
		{"delay of a week", "{idle_timeout: 15m}", "{login_delay_max: 168h}", `k.yaml:19: limits.login_delay_max: 168h0m0s is out of range`},
		{"longest delay that is not", "{idle_timeout: 15m}", "{login_delay: 5m, login_delay_max: 1m}", `k.yaml:19: limits.login_delay_max: 1m0s is less than login_delay, 5m0s`},
		{"no memory for hashes", "{idle_timeout: 15m}", "{hash_memory: 0}", `k.yaml:19: limits.hash_memory: 0 is out of range; at least 1, in MiB`},
		{"dead peer too soon", "{idle_timeout: 15m}", "{dead_peer: 7s}", `k.yaml:19: limits.dead_peer: 7s is out of range; from 8s to 12h`},
		{"dead peer too late", "{idle_timeout: 15m}", "{dead_peer: 13h}", `k.yaml:19: limits.dead_peer: 13h0m0s is out of range; from 8s to 12h`},
		{"no wait for hashes", "{idle_timeout: 15m}", "{hash_wait: 0s}", `k.yaml:19: limits.hash_wait: 0s is out of range; it must be more than zero`},
		{"negative failures", "limits: {", "throttle: {user_failures: -1}\nlimits: {", `k.yaml:19: throttle.user_failures: -1 is out of range; zero means no such limit`},
		{"counts that do not last", "limits: {", "throttle: {half_life: 1ms}\nlimits: {", `k.yaml:19: throttle.half_life: 1ms is out of range; 1s at least, 10m is usual`},
		{"delay that locks out", "limits: {", "throttle: {max_delay: 24h}\nlimits: {", `k.yaml:19: throttle.max_delay: 24h0m0s is out of range; 1s to 1h`},
		{"wait longer than a login", "limits: {", "throttle: {max_wait: 1m}\nlimits: {", `k.yaml:19: throttle.max_wait: 1m0s is out of range; more than zero and less than limits.login_timeout, 1m0s`},
		{"memory of a goldfish", "limits: {", "throttle: {entries: 10}\nlimits: {", `k.yaml:19: throttle.entries: 10 is out of range; at least 1024`},
		{"rules for nobody", "local_realms: [Demo.TEST]", `rules: ["RULE:[1:$1]"]`, `k.yaml:16: verifiers[1].rules: no principal is asked about them; set local_realms or rule_realms`},
		{"realms of no rules", "[Demo.TEST]", "[Demo.TEST], rule_realms: [X.TEST]", `k.yaml:16: verifiers[1].rule_realms: has no effect without rules`},
		{"domain that is none", "limits: {", "names: {default_domain: \"@x\"}\nlimits: {", `k.yaml:19: names: "@x" is no domain; write what stands behind the @`},
		{"domain stripped and added", "limits: {", "names: {default_domain: x.org, strip_domains: [X.org]}\nlimits: {", `k.yaml:19: names: x.org is stripped and added`},
		{"hostname that ends the timestamp", "limits: {", "pop3: {hostname: \"a b>\"}\nlimits: {", `k.yaml:19: pop3.hostname: "a b>" is no name of a host`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if !strings.Contains(good, c.old) {
				t.Fatalf("%q is not in the good configuration", c.old)
			}
			_, err := Parse("k.yaml", []byte(strings.Replace(good, c.old, c.new, 1)))
			if err == nil {
				t.Fatal("accepted")
			}
			if !strings.Contains("\n"+err.Error(), "\n"+c.want) {
				t.Errorf("got:\n%v\nwant a line that begins with:\n%s", err, c.want)
			}
		})
	}
}

func TestOverlap(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{":110", ":110", true},
		{":110", ":995", false},
		{":110", "127.0.0.1:110", true},
		{"[::]:110", "127.0.0.1:110", true},
		{"0.0.0.0:110", "192.0.2.1:110", true},
		{"0.0.0.0:110", "[::1]:110", false},
		{"0.0.0.0:110", "mail.example:110", true},
		{"127.0.0.1:110", "[::1]:110", false},
		{"127.0.0.1:0", "127.0.0.1:0", false},
	} {
		if overlap(c.a, c.b) != c.want || overlap(c.b, c.a) != c.want {
			t.Errorf("%s and %s: want %v", c.a, c.b, c.want)
		}
	}
}

// Lists of users, groups and networks.
func TestListProblems(t *testing.T) {
	t.Parallel()
	const text = `listeners:
  - {name: pop3s, address: ":995", tls: implicit, policy: internet}
certificates:
  - {name: mail, cert: mail.crt, key: mail.key}
policies:
  - {name: internet, offers: [PLAIN], chain: staff}
chains:
  - name: staff
    steps:
      - {use: gone}
      - {use: corp}
verifiers:
  - {name: gone, type: deny, list: gone, networks: [192.0.2.0/24]}
  - {name: corp, type: ldap, urls: ["ldaps://ldap.example"], dn: "uid=%u,dc=example"}
maildrops: {root: mail}
`
	c, err := Parse("/etc/kpopd/k.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if c.Verifiers[0].List != "/etc/kpopd/gone" {
		t.Errorf("got %+v", c.Verifiers[0])
	}
	for _, tt := range []struct{ old, new, want string }{
		{"list: gone", "list: gone, groups: [x]", `k.yaml:10: chains[0].steps[0]: verifier "corp" knows no groups, so that "gone"`},
		{"list: gone, networks: [192.0.2.0/24]", "list: ''", "k.yaml:13: verifiers[0]: the list is empty"},
		{"{use: gone}", "{use: gone, on_reject: continue}", "k.yaml:10: chains[0].steps[0]: a list of type deny has the last word"},
		{"dn: ", "groups: [x], dn: ", "k.yaml:14: verifiers[1].groups: is no key of type ldap"},
		{"type: deny, ", "type: deny, urls: [x], ", "k.yaml:13: verifiers[0].urls: is no key of type deny, which takes list, groups, networks"},
		{"192.0.2.0/24", "192.0.2.0", "k.yaml:13: verifiers[0].networks[0]: "},
		{"      - {use: corp}\n", "", `k.yaml:6: policies[0].offers[0]: no step of chain "staff" can judge PLAIN`},
	} {
		_, err := Parse("k.yaml", []byte(strings.Replace(text, tt.old, tt.new, 1)))
		if err == nil || !strings.Contains("\n"+err.Error(), "\n"+tt.want) {
			t.Errorf("%s:\ngot:  %v\nwant: %s", tt.new, err, tt.want)
		}
	}
	known := strings.NewReplacer("list: gone", "groups: [x]", "dn: ", "attributes: {groups: memberOf}, dn: ").Replace(text)
	if _, err := Parse("k.yaml", []byte(known)); err != nil {
		t.Error(err)
	}
}

func TestLDAPProblems(t *testing.T) {
	t.Parallel()
	const text = `listeners:
  - {name: pop3s, address: ":995", tls: implicit, policy: internet}
certificates:
  - {name: mail, cert: mail.crt, key: mail.key}
policies:
  - {name: internet, offers: [CRAM-MD5, PLAIN], chain: staff}
chains:
  - {name: staff, steps: [{use: corp}]}
verifiers:
  - name: corp
    type: ldap
    urls: ["ldaps://ldap.example"]
    ca: ca.pem
    dn: uid=%u,dc=example
    timeout: 2s
    attributes:
      secrets: [{scheme: CRAM-MD5, attribute: digest}]
maildrops: {root: mail}
`
	c, err := Parse("/etc/kpopd/k.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if v := c.Verifiers[0]; v.CA != "/etc/kpopd/ca.pem" || v.Timeout != 2*time.Second || v.Attributes.Secrets[0].Attribute != "digest" {
		t.Errorf("got %+v", v)
	}
	for _, tt := range []struct{ old, new, want string }{
		{"urls: [\"ldaps://ldap.example\"]", "urls: []", "k.yaml:12: verifiers[0].urls: missing; name at least one server"},
		{"    dn: uid=%u,dc=example\n", "", "k.yaml:10: verifiers[0].filter: missing; say how a user is found"},
		{"dn: uid", "bind: sasl\n    dn: uid", `k.yaml:14: verifiers[0].bind: "sasl" is not known; write none, simple, external, gssapi`},
		{"2s", "-2s", "k.yaml:15: verifiers[0].timeout: -2s is out of range"},
		{"2s", "2", `k.yaml:15: verifiers[0].timeout: "2" is no duration`},
		{"scheme: CRAM-MD5", "scheme: PLAIN", `k.yaml:17: verifiers[0].attributes.secrets[0].scheme: "PLAIN" has no secrets; write APOP or CRAM-MD5`},
		{"scheme: CRAM-MD5", "scheme: APOP", `k.yaml:6: policies[0].offers[0]: no step of chain "staff" can judge CRAM-MD5; add a verifier of type file with digests, or ldap with attributes.secrets for it`},
		{"offers: [CRAM-MD5,", "offers: [GSSAPI, CRAM-MD5,", `k.yaml:6: policies[0].offers[0]: GSSAPI needs a keytab`},
		{"maildrops:", "kerberos: {keytab: k}\nmaildrops:", ""},
		{"attribute: digest", "atribute: digest", `k.yaml:17: verifiers[0].attributes.secrets[0].atribute: unknown key; did you mean "attribute"?`},
		{"attributes:", "atributes:", `k.yaml:16: verifiers[0].atributes: unknown key; did you mean "attributes"?`},
		{"type: ldap", "type: file\n    users: u", "k.yaml:13: verifiers[0].urls: is no key of type file, which takes users"},
		{"type: ldap", "type: ldap\n    users: u", "k.yaml:12: verifiers[0].users: is no key of type ldap, which takes urls"},
		{"type: ldap", "type: ldap\n    rules: [DEFAULT]", "k.yaml:12: verifiers[0].rules: is no key of type ldap"},
		{"type: ldap", "type: ldap\n    ',squash': 1", "k.yaml:12: verifiers[0].,squash: unknown key"},
	} {
		_, err := Parse("k.yaml", []byte(strings.Replace(text, tt.old, tt.new, 1)))
		if tt.want == "" {
			if err != nil {
				t.Errorf("%s: %v", tt.new, err)
			}
			continue
		}
		if err == nil || !strings.Contains("\n"+err.Error(), "\n"+tt.want) {
			t.Errorf("%s:\ngot:  %v\nwant: %s", tt.new, err, tt.want)
		}
	}
}

// A listener without TLS, whose policy has everything wait for TLS, could be used
// by nobody.
func TestNothingBeforeTLSThatNeverComes(t *testing.T) {
	t.Parallel()
	text := strings.NewReplacer("tls: starttls, ", "", "[GSSAPI, CRAM-MD5, PLAIN],", "[CRAM-MD5], before_tls: [],").Replace(good)
	_, err := Parse("k.yaml", []byte(text))
	want := `k.yaml:2: listeners[0].policy: policy "internet" offers nothing that a client of this listener could use`
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
}

// What must be bound to TLS cannot be offered where there is none.
func TestBindingWithoutTLS(t *testing.T) {
	t.Parallel()
	text := strings.Replace(good, "tls: starttls, ", "", 1) + "gssapi: {channel_binding: require}\n"
	_, err := Parse("k.yaml", []byte(text))
	want := `k.yaml:2: listeners[0].policy: policy "internet" offers GSSAPI, which gssapi.channel_binding binds to TLS, and the listener never has TLS`
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
}

const passwords = `listeners:
  - {name: pop3, address: "127.0.0.1:110", policy: inside}
policies:
  - {name: inside, offers: [PLAIN], plain: trusted, trusted: [127.0.0.0/8], chain: all}
chains:
  - {name: all, steps: [{use: here}, {use: there}, {use: pam}]}
verifiers:
  - {name: here, type: krb5pw, realm: HERE.TEST, kdcs: [a, "b:750"], mail_domains: [here.test], fold_case: true}
  - {name: there, type: krb5pw, realm: THERE.TEST, kdcs: [c], service: pop/x, domain: there.test}
  - {name: pam, type: checkpassword, program: /bin/true, args: [x], at_once: 2}
kerberos: {keytab: keytab, replay_cache: memory}
maildrops: {root: mail}
`

// Passwords of two realms, and what goes wrong with them.
func TestPasswordVerifiers(t *testing.T) {
	t.Parallel()
	c, err := Parse("k.yaml", []byte(passwords))
	if err != nil {
		t.Fatal(err)
	}
	want := Verifier{Name: "here", Type: "krb5pw", Realm: "HERE.TEST", KDCs: []string{"a", "b:750"}, MailDomains: []string{"here.test"}, FoldCase: true}
	if diff := cmp.Diff(want, c.Verifiers[0]); diff != "" {
		t.Error("(-want +got):", diff)
	}
	for _, c := range []struct{ name, old, new, want string }{
		{"no keytab", "keytab: keytab, ", "", "k.yaml:8: verifiers[0]: needs a keytab, with which to tell a false KDC; set kerberos.keytab"},
		{"two realms of one name space", ", domain: there.test", "", "k.yaml:9: verifiers[1].domain: missing; alice of realm THERE.TEST and alice of realm HERE.TEST would have one maildrop: say how the logins of one of them end"},
		{"one realm twice", "THERE.TEST, kdcs: [c], service: pop/x, domain: there.test", "HERE.TEST, kdcs: [c]", ""},
	} {
		if _, err := Parse("k.yaml", []byte(strings.Replace(passwords, c.old, c.new, 1))); c.want == "" && err != nil || !strings.Contains(fmt.Sprint(err), c.want) {
			t.Errorf("%s: got %v, want %s", c.name, err, c.want)
		}
	}
}

// The same with SCRAM, whose -PLUS forms are the binding.
func TestSCRAM(t *testing.T) {
	t.Parallel()
	base := strings.Replace(good, "GSSAPI, CRAM-MD5", "SCRAM-SHA-256-PLUS, SCRAM-SHA-1", 1)
	for _, c := range []struct{ name, old, new, scram, want string }{
		{"good", "", "", "salt_key: salts, iterations: 4096", ""},
		{"systemd credential", "digests: digests", "digests: digests, digests_key: credential:d", "salt_key: credential:s", ""},
		{"required", ", SCRAM-SHA-1", "", "salt_key: salts, channel_binding: require", ""},
		{"off", "SCRAM-SHA-256-PLUS, ", "", "salt_key: salts, channel_binding: off", ""},
		{"no key", "", "", "iterations: 4096", `k.yaml:20: scram.salt_key: missing; make a key file with kpopd passwd key FILE`},
		{"key that seals", "digests: digests", "digests: digests, digests_key: salts", "salt_key: salts", `k.yaml:20: scram.salt_key: verifier "local" seals with the same key`},
		{"few iterations", "", "", "salt_key: salts, iterations: 1000", `k.yaml:20: scram.iterations: 1000 is out of range; 4096 to 10000000 are taken`},
		{"unknown mode", "", "", "salt_key: salts, channel_binding: must", `k.yaml:20: scram.channel_binding: "must" is not known; write off, allow, require`},
		{"required and without", "", "", "salt_key: salts, channel_binding: require", `k.yaml:7: policies[0].offers[1]: SCRAM-SHA-1 lets nobody in, as scram.channel_binding: require wants SCRAM-SHA-1-PLUS; offer that instead`},
		{"off and with", "", "", "salt_key: salts, channel_binding: off", `k.yaml:7: policies[0].offers[0]: SCRAM-SHA-256-PLUS is channel binding, which scram.channel_binding: off forbids; take one of them out`},
		{"bound before TLS", "PLAIN],", "PLAIN], before_tls: [SCRAM-SHA-256-PLUS],", "salt_key: salts", `k.yaml:7: policies[0].before_tls[0]: SCRAM-SHA-256-PLUS is bound to TLS, so it is never possible before`},
		{"bound without TLS", "tls: starttls, ", "", "salt_key: salts", `k.yaml:2: listeners[0].policy: policy "internet" offers SCRAM-SHA-256-PLUS, which is bound to TLS, and the listener never has TLS`},
		{"nobody judges", "users: users, digests: digests", "users: users", "salt_key: salts", `k.yaml:7: policies[0].offers[0]: no step of chain "staff" can judge SCRAM-SHA-256-PLUS; add a verifier of type file with digests`},
		{"key for no secrets", "digests: digests", "digests_key: d", "salt_key: salts", `k.yaml:15: verifiers[0].digests_key: opens nothing without digests; name the digests file`},
		{"re-hash with what there is not", "digests: digests", "digests: digests, rehash: argon2", "salt_key: salts", `k.yaml:15: verifiers[0].rehash: "argon2" is not known; write yescrypt, argon2id, bcrypt, sha512; did you mean "argon2id"?`},
		{"re-hash without hashes", "users: users", "rehash: yescrypt", "salt_key: salts", `k.yaml:15: verifiers[0].rehash: has no hashes without users; name the users file`},
		{"re-hash of tickets", "local_realms", "rehash: yescrypt, local_realms", "salt_key: salts", `k.yaml:16: verifiers[1].rehash: is no key of type principal, which takes `},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if !strings.Contains(base, c.old) {
				t.Fatalf("%q is not in the configuration", c.old)
			}
			cfg, err := Parse("k.yaml", []byte(strings.Replace(base, c.old, c.new, 1)+"scram: {"+c.scram+"}\n"))
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.Contains("\n"+err.Error(), "\n"+c.want)):
				t.Errorf("got:\n%v\nwant a line that begins with:\n%s", err, c.want)
			case c.want == "" && strings.HasPrefix(c.scram, "salt_key: cred") != strings.HasPrefix(cfg.SCRAM.SaltKey, Credential):
				t.Errorf("salt_key is %q", cfg.SCRAM.SaltKey)
			}
		})
	}
}

func TestAllProblemsAtOnce(t *testing.T) {
	t.Parallel()
	text := strings.NewReplacer("policy: campus", "policy: x", "root: mail", "type: mbox", "timeout: 3s", "timeout: -3s").Replace(good)
	_, err := Parse("k.yaml", []byte(text))
	if got := strings.Split(fmt.Sprint(err), "\n"); len(got) != 5 {
		t.Errorf("got %d problems, want 5:\n%v", len(got), err)
	}
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, old, new, want string }{
		{"kpop on all addresses", "", "", "listeners[1].address"},
		{"kpop on loopback", `":1109"`, `"[::1]:1109"`, ""},
		{"kpop on localhost", `":1109"`, `"localhost:1109"`, ""},
		{"short idle time", "15m", "1m", "listeners[1].address limits.idle_timeout"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cfg, err := Parse("k.yaml", []byte(strings.Replace(good, c.old, c.new, 1)))
			if err != nil {
				t.Fatal(err)
			}
			var keys []string
			for _, w := range cfg.Warnings() {
				keys = append(keys, w.Key)
			}
			if got := strings.Join(keys, " "); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("KPOPD_LOG_LEVEL", "debug")
	t.Setenv("KPOPD_LIMITS_IDLE_TIMEOUT", "20m")
	c, err := Parse("k.yaml", []byte(good))
	if err != nil {
		t.Fatal(err)
	}
	if c.Log.Level != "debug" || c.Limits.IdleTimeout != 20*time.Minute {
		t.Errorf("got %q and %v from the environment", c.Log.Level, c.Limits.IdleTimeout)
	}
}

// The file is not to blame for what the environment says.
func TestBadEnvironment(t *testing.T) {
	t.Setenv("KPOPD_LIMITS_IDLE_TIMEOUT", "20")
	_, err := Parse("k.yaml", []byte(good))
	want := `KPOPD_LIMITS_IDLE_TIMEOUT in the environment: "20" is no duration; write a number with a unit: 90s, 10m, 1h30m`
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestLoadMissing(t *testing.T) {
	t.Parallel()
	if _, err := Load(filepath.Join(t.TempDir(), "none.yaml")); err == nil {
		t.Error("loaded a file that is not there")
	}
}
