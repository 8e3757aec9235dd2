package config

import (
	"strings"
	"testing"

	"github.com/kpopd/kpopd/authn"
)

const cards = `listeners:
  - {name: pop3s, address: ":995", tls: implicit, policy: cards, client_ca: staff.pem, client_crl: /pki/staff.crl}
  - {name: inside, address: "127.0.0.1:110", tls: starttls, policy: cards}
certificates:
  - {name: mail, cert: mail.crt, key: mail.key}
policies:
  - {name: cards, offers: [EXTERNAL, PLAIN], chain: staff}
chains:
  - {name: staff, steps: [{use: cards}, {use: local}]}
verifiers:
  - {name: cards, type: certificate, map: grants, certificate_rules: [{from: upn, match: '(.+)@corp\.example', login: $1}, {from: cn, match: '[a-z]+', issuer: CN=Staff CA}]}
  - {name: local, type: file, users: users}
maildrops: {root: mail}
`

func TestCertificateVerifier(t *testing.T) {
	t.Parallel()
	c, err := Parse("/etc/kpopd/k.yaml", []byte(cards))
	if err != nil {
		t.Fatal(err)
	}
	for what, pair := range map[string][2]any{
		"relative CA":    {"/etc/kpopd/staff.pem", c.Listeners[0].ClientCA},
		"absolute CRL":   {"/pki/staff.crl", c.Listeners[0].ClientCRL},
		"relative map":   {"/etc/kpopd/grants", c.Verifiers[0].Map},
		"first rule":     {CertificateRule{From: "upn", Match: `(.+)@corp\.example`, Login: "$1"}, c.Verifiers[0].CertificateRules[0]},
		"second's owner": {"CN=Staff CA", c.Verifiers[0].CertificateRules[1].Issuer},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: got %v, want %v", what, pair[1], pair[0])
		}
	}
}

func TestCertificateProblems(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, old, new, want string }{
		{"nobody asks for a certificate", "client_ca: staff.pem, client_crl: /pki/staff.crl", "", `k.yaml:7: policies[0].offers[0]: EXTERNAL needs a client certificate, and no listener of policy "cards" asks for one; set client_ca in a listener`},
		{"a rule that is no rule's word", "chain: staff}\nchains", "chain: staff, rules: [{certificate: shown, action: deny}]}\nchains", `k.yaml:7: policies[0].rules[0].certificate: "shown" is not known; write valid, none`},
		{"a rule where nobody is asked", "chain: staff}\nchains", "chain: staff, rules: [{listeners: [inside], certificate: valid, action: deny}]}\nchains", `k.yaml:7: policies[0].rules[0].certificate: no listener that the rule meets asks for one; set client_ca in a listener`},
		{"a rule behind one for all certificates", "chain: staff}\nchains", "chain: staff, rules: [{certificate: none, action: deny}, {certificate: none, users: [alice], action: allow}]}\nchains", `k.yaml:7: policies[0].rules[1]: is never reached`},
		{"a user whom names call otherwise", "chain: staff}\nchains", "chain: staff, rules: [{users: [Alice], action: deny}]}\nnames: {fold_case: true}\nchains", `k.yaml:7: policies[0].rules[0].users[0]: "Alice" is no login in canonical form, so nobody ever has it`},
		{"a list of no authorities", "client_ca: staff.pem, ", "", `k.yaml:2: listeners[0].client_crl: revokes nothing without client_ca`},
		{"asked for in vain", "[EXTERNAL, PLAIN]", "[PLAIN]", `k.yaml:2: listeners[0].client_ca: asks every client for a certificate that is of no use, as policy "cards" does not offer EXTERNAL`},
		{"no TLS", "tls: implicit", "tls: none", `k.yaml:2: listeners[0].client_ca: certificates come in TLS, which the listener never has`},
		{"before TLS", "chain: staff}\nchains", "before_tls: [EXTERNAL], chain: staff}\nchains", `k.yaml:7: policies[0].before_tls[0]: EXTERNAL needs the certificate that TLS brings`},
		{"nobody judges", "type: certificate, map: grants, certificate_rules: [{from: upn, match: '(.+)@corp\\.example', login: $1}, {from: cn, match: '[a-z]+', issuer: CN=Staff CA}]", "type: principal, local_realms: [X]", `k.yaml:7: policies[0].offers[0]: no step of chain "staff" can judge EXTERNAL; add a verifier of type certificate`},
		{"maps nobody", "map: grants, certificate_rules: [{from: upn, match: '(.+)@corp\\.example', login: $1}, {from: cn, match: '[a-z]+', issuer: CN=Staff CA}]", "", `k.yaml:11: verifiers[0]: maps nobody; set map or certificate_rules`},
		{"keys of another type", "map: grants", "local_realms: [X]", `k.yaml:11: verifiers[0].local_realms: is no key of type certificate, which takes map, certificate_rules`},
		{"map of a file", "users: users", "users: users, map: x", `k.yaml:12: verifiers[1].map: is no key of type file`},
		{"an expression that is none", "'[a-z]+'", "'['", `k.yaml:11: verifiers[0].certificate_rules[1]: match: error parsing regexp`},
		{"a name that is none", "from: cn", "from: subject", `k.yaml:11: verifiers[0].certificate_rules[1]: from "subject" is not known; write cn, dn, email or upn`},
		{"a group that is not there", "login: $1", "login: $2", `k.yaml:11: verifiers[0].certificate_rules[0]: login "$2": match has no group for $2`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if !strings.Contains(cards, c.old) {
				t.Fatalf("%q is not in the good configuration", c.old)
			}
			_, err := Parse("k.yaml", []byte(strings.Replace(cards, c.old, c.new, 1)))
			if err == nil || !strings.Contains("\n"+err.Error(), "\n"+c.want) {
				t.Errorf("got:\n%v\nwant a line that begins with:\n%s", err, c.want)
			}
		})
	}
}

// Rules tell clients with a certificate from others, also where no mechanism
// takes one.
func TestCertificateRules(t *testing.T) {
	t.Parallel()
	rules := "rules: [{certificate: valid, action: allow}, {certificate: none, action: deny}, {users: [alice], action: deny}]"
	c, err := Parse("k.yaml", []byte(strings.Replace(cards, "[EXTERNAL, PLAIN], chain: staff", "[PLAIN], chain: staff, "+rules, 1)))
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []authn.Option{authn.Present, authn.Absent, authn.Either} {
		if got := c.Rules(0)[i].Certificate; got != want {
			t.Errorf("rule %d: got %d, want %d", i, got, want)
		}
	}
}

// A policy whose shadow offers EXTERNAL asks for certificates with reason, and
// the shadow's listeners are those of the policy.
func TestShadowOfExternal(t *testing.T) {
	t.Parallel()
	text := strings.Replace(cards, "{name: cards, offers: [EXTERNAL, PLAIN], chain: staff}",
		"{name: cards, offers: [PLAIN], chain: staff, shadow: next}\n  - {name: next, offers: [EXTERNAL, PLAIN], chain: staff}", 1)
	if _, err := Parse("k.yaml", []byte(text)); err != nil {
		t.Error(err)
	}
}

// A policy that is EXTERNAL alone is of no use where nobody shows a certificate.
func TestExternalAlone(t *testing.T) {
	t.Parallel()
	_, err := Parse("k.yaml", []byte(strings.Replace(cards, "[EXTERNAL, PLAIN]", "[EXTERNAL]", 1)))
	want := `k.yaml:3: listeners[1].policy: policy "cards" offers nothing that a client of this listener could use`
	if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "listeners[0]") {
		t.Errorf("got %v, want %s", err, want)
	}
}
