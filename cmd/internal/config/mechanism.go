package config

import (
	"slices"
)

// mechanism is what validation needs to know of a mechanism.
type mechanism struct {
	name      string
	plaintext bool // shows the server a password
	kerberos  bool // needs the keytab
	scram     bool
	bound     bool // to TLS
	token     bool // shows the server a token, so never in the clear
	tls       bool // never in the clear for another reason
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
	{name: "GSS-SPNEGO", kerberos: true, tls: true, judge: byTicket},
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
