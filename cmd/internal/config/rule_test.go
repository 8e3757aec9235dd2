package config

import (
	"crypto/tls"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kpopd/kpopd/authn"
)

const ruled = `listeners:
  - {name: pop3, address: ":110", tls: starttls, policy: internet}
  - {name: pop3s, address: ":995", tls: implicit, policy: secure}
certificates:
  - {name: mail, cert: mail.crt, key: mail.key}
policies:
  - name: internet
    offers: [GSSAPI, CRAM-MD5, PLAIN]
    chain: staff
    shadow: tomorrow
    rules:
      - {networks: [10.0.0.0/8, "2001:db8::/32"], tls: [none, "1.2"], listeners: [pop3], action: warn}
      - {groups: [students], times: ["mon-fri 08:00-18:00", sat], action: deny, text: "Not now"}
      - action: deny
        mechanisms: [CRAM-MD5]
        sunset: {date: "2027-03-01", brownouts: ["mon 10:00-10:10"], share_from: "2027-02-01 08:00"}
      - {realms: [OLD.TEST], enctypes: [rc4-hmac, aes128-sha1], channel_binding: none, users: [alice], action: allow}
    act:
      - {users: [backup], as: ["*"], action: allow}
  - {name: tomorrow, offers: [GSSAPI], chain: staff, rules: [{listeners: [pop3], action: allow}]}
  - {name: secure, offers: [CRAM-MD5], chain: staff}
chains:
  - {name: staff, steps: [{use: local}, {use: tickets}]}
  - {name: tickets, steps: [{use: tickets}]}
verifiers:
  - {name: local, type: file, users: users, digests: digests}
  - {name: tickets, type: principal, local_realms: [DEMO.TEST]}
kerberos: {keytab: keytab, replay_cache: replay, enctypes: [rc4-hmac, aes128-sha1]}
maildrops: {root: mail}
`

// withTickets uses the second chain too.
var withTickets = strings.NewReplacer("{name: secure, offers: [CRAM-MD5], chain: staff}", "{name: secure, offers: [GSSAPI], chain: tickets}")

func TestRules(t *testing.T) {
	t.Parallel()
	c, err := Parse("/etc/k.yaml", []byte(withTickets.Replace(ruled)))
	if err != nil {
		t.Fatal(err)
	}
	window := func(s string) authn.Window {
		w, err := authn.ParseWindow(s)
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	want := []*authn.Rule{
		{
			Source: "/etc/k.yaml:12", Action: authn.Warn, Listeners: []string{"pop3"}, TLS: []uint16{0, tls.VersionTLS12},
			Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")},
		},
		{Source: "/etc/k.yaml:13", Action: authn.Deny, Text: "Not now", Groups: []string{"students"}, Times: []authn.Window{window("mon-fri 08:00-18:00"), window("sat")}},
		{Source: "/etc/k.yaml:14", Action: authn.Deny, Mechanisms: []string{"CRAM-MD5"}, Sunset: &authn.Sunset{
			Date: time.Date(2027, 3, 1, 0, 0, 0, 0, time.Local), Brownouts: []authn.Window{window("mon 10:00-10:10")},
			ShareFrom: time.Date(2027, 2, 1, 8, 0, 0, 0, time.Local),
		}},
		{
			Source: "/etc/k.yaml:17", Action: authn.Allow, Realms: []string{"OLD.TEST"}, Users: []string{"alice"}, Binding: authn.Absent,
			Enctypes: []string{"arcfour-hmac", "aes128-cts-hmac-sha1-96"},
		},
	}
	same := cmp.Options{cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b authn.Window) bool { return a == b })}
	if diff := cmp.Diff(want, c.Rules(0), same); diff != "" {
		t.Error("rules (-want +got):", diff)
	}
	act := []*authn.Rule{{Source: "/etc/k.yaml:19", Action: authn.Allow, Users: []string{"backup"}, As: []string{"*"}}}
	if diff := cmp.Diff(act, c.Act(0), same); diff != "" {
		t.Error("act (-want +got):", diff)
	}
	if got := c.Rules(2); got != nil {
		t.Errorf("a policy without rules has %v", got)
	}
}

// Impossible policies die at load, with file, line, key and what to do.
func TestRuleProblems(t *testing.T) {
	t.Parallel()
	rule := `{networks: [10.0.0.0/8, "2001:db8::/32"], tls: [none, "1.2"], listeners: [pop3], action: warn}`
	act := `{users: [backup], as: ["*"], action: allow}`
	for _, c := range []struct{ name, old, new, want string }{
		{"no action", rule, `{users: [alice]}`, `k.yaml:12: policies[0].rules[0].action: missing; write allow, deny or warn`},
		{"unknown action", rule, `{action: dney}`, `k.yaml:12: policies[0].rules[0].action: "dney" is not known; write allow, deny, warn; did you mean "deny"?`},
		{"misspelt condition", rule, `{user: [alice], action: deny}`, `k.yaml:12: policies[0].rules[0].user: unknown key; did you mean "users"?`},
		{"text for who is let in", rule, `{users: [alice], action: warn, text: x}`, `k.yaml:12: policies[0].rules[0].text: has no effect: only who is denied is told; remove it`},
		{"text that is not ASCII", rule, `{users: [alice], action: deny, text: Grüße}`, `k.yaml:12: policies[0].rules[0].text: cannot be sent; write one line of ASCII, 400 characters at most, that does not begin with a bracket`},
		{"text of two lines", rule, `{users: [alice], action: deny, text: "a\r\n+OK"}`, `k.yaml:12: policies[0].rules[0].text: cannot be sent`},
		{"text with a response code", rule, `{users: [alice], action: deny, text: "[IN-USE] x"}`, `k.yaml:12: policies[0].rules[0].text: cannot be sent`},
		{"text that is too long", rule, `{users: [alice], action: deny, text: ` + strings.Repeat("x", 401) + `}`, `k.yaml:12: policies[0].rules[0].text: cannot be sent`},
		{"listener that is not there", rule, `{listeners: [pop], action: deny}`, `k.yaml:12: policies[0].rules[0].listeners[0]: no listener is named "pop"; did you mean "pop3"?`},
		{"listener with another policy", rule, `{listeners: [pop3s], action: deny}`, `k.yaml:12: policies[0].rules[0].listeners[0]: listener "pop3s" has policy "secure", so the rule never meets it`},
		{"TLS that is not spoken", rule, `{tls: ["1.1"], action: deny}`, `k.yaml:12: policies[0].rules[0].tls[0]: "1.1" is not known; write none, "1.2" or "1.3": older versions are not spoken`},
		{"TLS where there is none", `tls: starttls, policy`, `policy`, `k.yaml:12: policies[0].rules[0].tls[1]: no connection that the rule meets is ever like that; remove it`},
		{"the clear where there is none", `tls: starttls, policy`, `tls: implicit, policy`, `k.yaml:12: policies[0].rules[0].tls[0]: no connection that the rule meets is ever like that; remove it`},
		{"mechanism that is not offered", rule, `{mechanisms: [APOP], action: deny}`, `k.yaml:12: policies[0].rules[0].mechanisms[0]: APOP is not in the policy's offers`},
		{"login that nobody has", rule, `{users: [a b], action: deny}`, `k.yaml:12: policies[0].rules[0].users[0]: "a b" is no login in canonical form, so nobody ever has it`},
		{"groups that nobody knows", `{name: secure, offers: [CRAM-MD5], chain: staff}`, `{name: secure, offers: [GSSAPI], chain: tickets, rules: [{groups: [x], action: deny}]}`, `k.yaml:21: policies[2].rules[0].groups: no step of chain "tickets" knows groups; add a verifier of type file with users, or ldap with attributes.groups or group_filter, or users to what a remote one judges`},
		{"realm of a password", rule, `{mechanisms: [PLAIN], realms: [OLD.TEST], action: deny}`, `k.yaml:12: policies[0].rules[0].realms: never hold: no mechanism that the rule meets brings a ticket`},
		{"enctype of a password", rule, `{mechanisms: [PLAIN], enctypes: [rc4-hmac], action: deny}`, `k.yaml:12: policies[0].rules[0].enctypes: never hold: no mechanism that the rule meets brings a ticket`},
		{"enctype that is not there", rule, `{enctypes: [des-cbc-crc], action: deny}`, `k.yaml:12: policies[0].rules[0].enctypes[0]: no enctype "des-cbc-crc"`},
		{"enctype that is not taken", rule, `{enctypes: [aes256-sha2], action: deny}`, `k.yaml:12: policies[0].rules[0].enctypes[0]: tickets of aes256-sha2 are not taken at all; remove it, or add it to kerberos.enctypes`},
		{"binding of a password", rule, `{mechanisms: [PLAIN], channel_binding: used, action: deny}`, `k.yaml:12: policies[0].rules[0].channel_binding: never holds: no mechanism that the rule meets can be bound to TLS`},
		{"unknown binding", rule, `{channel_binding: required, action: deny}`, `k.yaml:12: policies[0].rules[0].channel_binding: "required" is not known; write used, none`},
		{"hours that are none", rule, `{times: ["8-18"], action: deny}`, `k.yaml:12: policies[0].rules[0].times[0]: "8-18" is no day; write mon`},
		{"sunset without a date", rule, `{sunset: {brownouts: [mon]}, action: deny}`, `k.yaml:12: policies[0].rules[0].sunset.date: missing; write from when on everybody is refused`},
		{"sunset on a day that is none", rule, `{sunset: {date: "2027-02-30"}, action: deny}`, `k.yaml:12: policies[0].rules[0].sunset.date: "2027-02-30" is no date; write it as 2027-03-01 or 2027-03-01 08:00`},
		{"sunset on a day without quotes", rule, `{sunset: {date: 2027-03-01}, action: deny}`, `k.yaml:12: policies[0].rules[0].sunset.date: 2027-03-01 is not text as YAML reads it; put it in quotes`},
		{"sunset of a permission", rule, `{sunset: {date: "2027-03-01"}, action: allow}`, `k.yaml:12: policies[0].rules[0].sunset: has no effect: only a rule with action: deny has a sunset`},
		{"share that begins at the end", rule, `{sunset: {date: "2027-03-01", share_from: "2027-03-01"}, action: deny}`, `k.yaml:12: policies[0].rules[0].sunset.share_from: is not before date, when everybody is refused; choose an earlier one`},
		{"brown-out that is none", rule, `{sunset: {date: "2027-03-01", brownouts: [monday]}, action: deny}`, `k.yaml:12: policies[0].rules[0].sunset.brownouts[0]: "monday" is no day`},
		{"rule behind one that takes all", rule, `{action: deny}`, `k.yaml:13: policies[0].rules[1]: is never reached: policies[0].rules[0] in line 12 matches all that it would; move it up or remove it`},
		{"rule behind one for more mechanisms", rule, `{mechanisms: [PLAIN, CRAM-MD5], action: allow}`, `k.yaml:14: policies[0].rules[2]: is never reached: policies[0].rules[0] in line 12 matches all that it would`},
		{"rule behind one for a larger network", rule, "{networks: [10.0.0.0/8], action: deny}\n      - {networks: [10.1.0.0/16], users: [alice], action: allow}", `k.yaml:13: policies[0].rules[1]: is never reached: policies[0].rules[0] in line 12 matches all that it would`},
		{"nobody to act for", act, `{users: [backup], action: allow}`, `k.yaml:19: policies[0].act[0].as: missing; list the users that the login may act for, or ["*"] for anybody`},
		{"acting for what is no login", act, `{users: [backup], as: ["*", "al*"], action: allow}`, `k.yaml:19: policies[0].act[0].as[1]: "al*" is no login in canonical form, so nobody ever has it`},
		{"acting in a rule", rule, `{users: [backup], as: ["*"], action: allow}`, `k.yaml:12: policies[0].rules[0].as: says for whom a login may act; that belongs into act, not into rules`},
		{"acting behind one that takes all", act, act + "\n      - {users: [backup], as: [provost], action: deny}", `k.yaml:20: policies[0].act[1]: is never reached: policies[0].act[0] in line 19 matches all that it would`},
		{"acting by mechanisms that cannot", `offers: [CRAM-MD5], chain: staff}`, `offers: [CRAM-MD5], chain: staff, act: [{as: ["*"], action: allow}]}`, `k.yaml:21: policies[2].act: has no effect: no client of the mechanisms offered can ask to act for another; PLAIN and GSSAPI can`},
		{"shadow that is not there", "shadow: tomorrow", "shadow: tomorow", `k.yaml:10: policies[0].shadow: no policy is named "tomorow"; did you mean "tomorrow"?`},
		{"shadow of itself", "shadow: tomorrow", "shadow: internet", `k.yaml:10: policies[0].shadow: is the policy itself; name another one`},
		{"policy that is nobody's shadow", "    shadow: tomorrow\n", "", `k.yaml:19: policies[1]: no listener uses policy "tomorrow"; remove it or name it in a listener`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			text := ruled
			if !strings.Contains(c.name, "groups that nobody") && !strings.Contains(c.name, "mechanisms that cannot") {
				text = withTickets.Replace(text)
			}
			if !strings.Contains(text, c.old) {
				t.Fatalf("%q is not in the good configuration", c.old)
			}
			_, err := Parse("k.yaml", []byte(strings.Replace(text, c.old, c.new, 1)))
			if err == nil {
				t.Fatal("accepted")
			}
			if !strings.Contains("\n"+err.Error(), "\n"+c.want) {
				t.Errorf("got:\n%v\nwant a line that begins with:\n%s", err, c.want)
			}
		})
	}
}

// What is never looked at can never be used.
func TestRuleOnBindingThatIsOff(t *testing.T) {
	t.Parallel()
	text := strings.Replace(withTickets.Replace(ruled), "channel_binding: none", "channel_binding: used", 1)
	if _, err := Parse("k.yaml", []byte(text)); err != nil {
		t.Fatal(err)
	}
	_, err := Parse("k.yaml", []byte(text+"gssapi: {channel_binding: \"off\"}\n"))
	want := `k.yaml:17: policies[0].rules[3].channel_binding: never holds: no mechanism that the rule meets can be bound to TLS`
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
