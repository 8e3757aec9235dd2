package config

import (
	"strings"
	"testing"
	"time"
)

const tokens = `listeners:
  - {name: pop3, address: ":110", tls: starttls, policy: internet}
certificates:
  - {name: mail, cert: mail.crt, key: mail.key}
policies:
  - {name: internet, offers: [OAUTHBEARER, XOAUTH2], chain: sso}
chains:
  - {name: sso, steps: [{use: sso}, {use: asked}]}
verifiers:
  - name: sso
    type: oidc
    issuer: https://sso.campus.example
    audiences: [kpopd]
    user_claim: email
    mail_domains: [campus.example]
    keys: https://sso.campus.example/keys
    key_cache: keys.json
    ca: ca.pem
    timeout: 3s
  - name: asked
    type: oidc
    user_claim: sub
    scopes: [mail]
    introspection: https://sso.campus.example/introspect
    client_id: kpopd
    client_secret: secret
oauth: {scope: mail, openid_configuration: "https://sso.campus.example/.well-known/openid-configuration"}
maildrops: {root: mail}
`

func TestTokens(t *testing.T) {
	t.Parallel()
	c, err := Parse("/etc/kpopd/k.yaml", []byte(tokens))
	if err != nil {
		t.Fatal(err)
	}
	v := c.Verifiers[0]
	if v.KeyCache != "/etc/kpopd/keys.json" || v.CA != "/etc/kpopd/ca.pem" || v.Keys != "https://sso.campus.example/keys" ||
		v.Timeout != 3*time.Second || c.Verifiers[1].ClientSecret != "/etc/kpopd/secret" || c.OAuth.Scope != "mail" {
		t.Errorf("got %+v", c.Verifiers)
	}
	for _, tt := range []struct{ name, old, new, want string }{
		{"keys in a file", "keys: https://sso.campus.example/keys\n    key_cache: keys.json\n    ca: ca.pem", "keys: keys.json", ""},
		{"in the clear", "tls: starttls, ", "", `k.yaml:2: listeners[0].policy: policy "internet" offers OAUTHBEARER, which shows a token, and the listener never has TLS; set tls: starttls or implicit`},
		{"before TLS", "chain: sso}", "before_tls: [XOAUTH2], chain: sso}", `k.yaml:6: policies[0].before_tls[0]: XOAUTH2 shows a token; it is never possible before TLS`},
		{"before TLS from somewhere", "chain: sso}", "plain: trusted, trusted: [10.0.0.0/8], before_tls: [XOAUTH2], chain: sso}", `k.yaml:6: policies[0].before_tls[0]: XOAUTH2 shows a token; it is never possible before TLS`},
		{"nobody judges", "offers: [", "offers: [PLAIN, ", `k.yaml:6: policies[0].offers[0]: no step of chain "sso" can judge PLAIN; add a verifier of type krb5pw, checkpassword, ldap, or file with users`},
		{"no issuer", "    issuer: https://sso.campus.example\n", "", `k.yaml:10: verifiers[0].issuer: missing; write what the tokens have in "iss"`},
		{"no audience", "    audiences: [kpopd]\n", "", `k.yaml:10: verifiers[0].audiences: missing; write what tokens for this server have in "aud", or those for any other service would open mail`},
		{"no user", "    user_claim: email\n", "", `k.yaml:10: verifiers[0].user_claim: missing; name the claim that has the login, preferred_username or upn`},
		{"no cache", "    key_cache: keys.json\n", "", `k.yaml:10: verifiers[0].key_cache: missing; name a file for kpopd to keep the keys in, so that it starts when the issuer is down`},
		{"cache of a file", "keys: https://sso.campus.example/keys\n", "keys: keys\n", `k.yaml:17: verifiers[0].key_cache: has no effect with keys in a file`},
		{"CA for a file", "keys: https://sso.campus.example/keys\n    key_cache: keys.json\n", "keys: keys\n", `k.yaml:17: verifiers[0].ca: has no effect without a URL in keys or introspection`},
		{"no https", "keys: https:", "keys: http:", `k.yaml:16: verifiers[0].keys: "http://sso.campus.example/keys" is not https, and whoever is on the way could forge the answer; write https://host/path`},
		{"nothing to check with", "    keys: https://sso.campus.example/keys\n    key_cache: keys.json\n    ca: ca.pem\n", "", `k.yaml:10: verifiers[0].keys: missing; name the issuer's key set, a file or a URL, or set introspection`},
		{"two things to check with", "    introspection:", "    keys: k\n    introspection:", `k.yaml:25: verifiers[1].introspection: signed tokens are checked with keys, others are asked about; set one of the two`},
		{"introspection of no URL", "introspection: https://sso.campus.example/", "introspection: ", `k.yaml:24: verifiers[1].introspection: "introspect" is not https://host/path; write https://host/path`},
		{"no client", "    client_id: kpopd\n", "", `k.yaml:20: verifiers[1].client_id: missing; name who kpopd is to the issuer`},
		{"no secret", "    client_secret: secret\n", "", `k.yaml:20: verifiers[1].client_secret: missing; name the file with kpopd's password there`},
		{"algorithms of introspection", "    client_id", "    algorithms: [RS256]\n    client_id", `k.yaml:20: verifiers[1]: key_cache and algorithms have no effect with introspection`},
		{"client of keys", "    ca: ca.pem", "    client_id: x", `k.yaml:10: verifiers[0]: client_id and client_secret have no effect without introspection`},
		{"shared secret", "    ca: ca.pem", "    algorithms: [RS256, HS256]", `k.yaml:18: verifiers[0].algorithms[1]: "HS256" is not known; write RS256, PS256, ES256, EdDSA; did you mean "RS256"?`},
		{"negative leeway", "    ca: ca.pem", "    leeway: -1s", `k.yaml:18: verifiers[0].leeway: -1s is out of range; it must not be negative`},
		{"negative timeout", "timeout: 3s", "timeout: -3s", `k.yaml:19: verifiers[0].timeout: -3s is out of range; it must not be negative`},
		{"misspelt", "issuer:", "isuer:", `k.yaml:12: verifiers[0].isuer: unknown key; did you mean "issuer"?`},
		{"squashed", "issuer:", "',squash': x\n    issuer:", "k.yaml:12: verifiers[0].,squash: unknown key"},
		{"keys of another type", "    scopes: [mail]\n", "    scopes: [mail]\n    users: users\n", "k.yaml:24: verifiers[1].users: is no key of type oidc, which takes mail_domains, fold_case, ca, timeout, issuer, "},
		{"ours in another type", "    type: oidc\n    user_claim: sub", "    type: file\n    user_claim: sub", "k.yaml:22: verifiers[1].user_claim: is no key of type file, which takes users, digests, digests_key, rehash"},
		{
			"one cache for two", tokens[strings.Index(tokens, "    user_claim: sub"):strings.Index(tokens, "oauth:")],
			"    issuer: a\n    audiences: [b]\n    user_claim: sub\n    keys: https://a/\n    key_cache: /etc/kpopd/keys.json\n", `k.yaml:17: verifiers[0].key_cache: is that of verifiers[1] too; name another file`,
		},
		{"hints to nobody", "[OAUTHBEARER, XOAUTH2]", "[]", `k.yaml:27: oauth: has no effect: no policy offers OAUTHBEARER or XOAUTH2`},
		{"hint that is no URL", `openid_configuration: "https:`, `openid_configuration: "http:`, `k.yaml:27: oauth.openid_configuration: "http://sso.campus.example/.well-known/openid-configuration" is not https`},
	} {
		if !strings.Contains(tokens, tt.old) {
			t.Fatalf("%s: nothing to replace", tt.name)
		}
		_, err := Parse("/etc/kpopd/k.yaml", []byte(strings.Replace(tokens, tt.old, tt.new, 1)))
		got := ""
		if err != nil {
			got = "\n" + strings.ReplaceAll(err.Error(), "/etc/kpopd/k.yaml", "k.yaml")
		}
		if (tt.want == "") != (err == nil) || tt.want != "" && !strings.Contains(got, "\n"+tt.want) {
			t.Errorf("%s:\ngot:  %v\nwant: %s", tt.name, got, tt.want)
		}
	}
}

func TestTokensForAnyService(t *testing.T) {
	t.Parallel()
	c, err := Parse("k.yaml", []byte(strings.Replace(tokens, "    scopes: [mail]\n", "", 1)))
	if err != nil {
		t.Fatal(err)
	}
	ws := c.Warnings()
	if len(ws) != 1 || ws[0].Key != "verifiers[1].introspection" {
		t.Errorf("warnings: %v", ws)
	}
}
