package config

import (
	"strings"
	"testing"
)

// GSS-SPNEGO is there for those who name it, inside TLS only, and needs what
// GSSAPI needs.
func TestNegotiation(t *testing.T) {
	t.Parallel()
	base := strings.Replace(good, "[GSSAPI, CRAM-MD5, PLAIN],", "[GSS-SPNEGO, PLAIN],", 1)
	for _, tt := range []struct{ name, old, new, want string }{
		{"good", "", "", ""},
		{"bound to TLS", "maildrops:", "gssapi: {channel_binding: require}\nmaildrops:", ""},
		{"beside GSSAPI, which is there before TLS", "[GSS-SPNEGO, PLAIN],", "[GSS-SPNEGO, GSSAPI, PLAIN], before_tls: [GSSAPI],", ""},
		{"no keytab", "keytab: pop.keytab, ", "", `k.yaml:7: policies[0].offers[0]: GSS-SPNEGO needs a keytab; set kerberos.keytab`},
		{"nobody judges", "chain: staff}\n  - {name: campus, offers: [KPOP], chain: staff}\nchains:", "chain: hashes}\n  - {name: campus, offers: [KPOP], chain: staff}\nchains:\n  - {name: hashes, steps: [{use: local}]}", `k.yaml:7: policies[0].offers[0]: no step of chain "hashes" can judge GSS-SPNEGO; add a verifier of type principal, or ldap with principal_filter`},
		{"before TLS", "[GSS-SPNEGO, PLAIN],", "[GSS-SPNEGO, PLAIN], before_tls: [GSS-SPNEGO],", `k.yaml:7: policies[0].before_tls[0]: GSS-SPNEGO is there inside TLS only; remove it`},
		{"without TLS", "tls: starttls, ", "", `k.yaml:2: listeners[0].policy: policy "internet" offers GSS-SPNEGO, which is there inside TLS only, and the listener never has TLS; set tls: starttls or implicit`},
		{"misspelt", "GSS-SPNEGO", "GSS-SPENGO", `k.yaml:7: policies[0].offers[0]: no mechanism is named "GSS-SPENGO"; did you mean "GSS-SPNEGO"?`},
		{"acting by it alone", "[GSS-SPNEGO, PLAIN],", "[GSS-SPNEGO], act: [{as: [\"*\"], action: allow}],", `k.yaml:7: policies[0].act: has no effect: no client of the mechanisms offered can ask to act for another`},
	} {
		text := strings.Replace(base, tt.old, tt.new, 1)
		if tt.old != "" && text == base {
			t.Fatalf("%s: the text has no %q", tt.name, tt.old)
		}
		_, err := Parse("k.yaml", []byte(text))
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
		}
	}
	c, err := Parse("k.yaml", []byte(good))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range append(c.Policies, Default().Policies...) {
		if strings.Contains(strings.Join(p.Offers, " "), "SPNEGO") {
			t.Errorf("policy %s offers it unasked", p.Name)
		}
	}
}
