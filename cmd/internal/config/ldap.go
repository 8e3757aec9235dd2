package config

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// LDAP are the keys of a verifier of type ldap, beside [Verifier.CA],
// [Verifier.Timeout] and others that types share. In dn and filters %u is the
// login, %n what it has before its last at-sign, %d what it has after that, and
// %% a percent sign; they are escaped.
type LDAP struct {
	URLs        []string      `mapstructure:"urls"`        // ldap: servers in the order in which they are asked: ldaps://host, ldap://host (StartTLS), ldapi://%2Fpath
	Cert        string        `mapstructure:"cert"`        // ldap: path of a client certificate; none when empty
	Key         string        `mapstructure:"key"`         // ldap: path of its key
	Retry       time.Duration `mapstructure:"retry"`       // ldap: how long a server that failed is left alone; 5s when zero
	Connections int           `mapstructure:"connections"` // ldap: to a server at once, for searches and for binds each; 8 when zero

	Bind          string `mapstructure:"bind"`           // ldap: how searches are bound: none, simple, external or gssapi; none when empty
	BindDN        string `mapstructure:"bind_dn"`        // ldap: for bind: simple
	BindPassword  string `mapstructure:"bind_password"`  // ldap: path of a file whose first line is the password of bind_dn
	BindPrincipal string `mapstructure:"bind_principal"` // ldap: for bind: gssapi, name@REALM
	BindKeytab    string `mapstructure:"bind_keytab"`    // ldap: path of the keytab of bind_principal
	BindKrb5Conf  string `mapstructure:"bind_krb5_conf"` // ldap: path; /etc/krb5.conf when empty

	DN              string `mapstructure:"dn"`               // ldap: DN of a user, "uid=%u,ou=people,dc=example"; searched for when empty
	Base            string `mapstructure:"base"`             // ldap: DN below which users are searched for
	Filter          string `mapstructure:"filter"`           // ldap: that finds a user by login, "(&(objectClass=person)(uid=%u))"
	PrincipalFilter string `mapstructure:"principal_filter"` // ldap: that finds the user of a Kerberos principal %p; principals are not mapped when empty

	Attributes  LDAPAttributes `mapstructure:"attributes"`
	GroupBase   string         `mapstructure:"group_base"`   // ldap: groups directly below count, by name; when empty all do, by DN
	GroupFilter string         `mapstructure:"group_filter"` // ldap: that finds the groups of the user with DN %D and canonical login %u; not searched for when empty
}

// LDAPAttributes name what is read of a user's entry, as far as searches may.
type LDAPAttributes struct {
	User       string       `mapstructure:"user"`       // canonical login, one value; uid when empty
	Aliases    string       `mapstructure:"aliases"`    // other logins that a principal may ask for
	Groups     string       `mapstructure:"groups"`     // DNs of groups, memberOf
	MailHost   string       `mapstructure:"mail_host"`  // server that has the mail
	Maildrop   string       `mapstructure:"maildrop"`   // location of the maildrop below maildrops.root
	Mechanisms string       `mapstructure:"mechanisms"` // that the user may log in with; all when there is no value
	Disabled   string       `mapstructure:"disabled"`   // flag that forbids any login; of userAccountControl its bit of value 2
	Principals string       `mapstructure:"principals"` // Kerberos principals, for principal_filter
	Secrets    []LDAPSecret `mapstructure:"secrets"`
}

// LDAPSecret is where the secret for a mechanism is.
type LDAPSecret struct {
	Scheme    string `mapstructure:"scheme"`    // APOP, CRAM-MD5, or SCRAM-SHA-256 and SCRAM-SHA-1, whose keys are written as in RFC 5803
	Attribute string `mapstructure:"attribute"` // that has it, readable
}

// hasSecret reports whether there is a secret for a mechanism.
func (l *LDAP) hasSecret(scheme string) bool {
	return slices.ContainsFunc(l.Attributes.Secrets, func(s LDAPSecret) bool { return s.Scheme == scheme })
}

// ldap checks what can be told without the directory; templates, filters and
// files are for whoever opens it.
func (p *problems) ldap(at string, l *Verifier) {
	if len(l.URLs) == 0 {
		p.add(at+".urls", "missing; name at least one server, ldaps://host")
	}
	if l.DN == "" && l.Filter == "" {
		p.add(at+".filter", "missing; say how a user is found by login, or set dn")
	}
	p.oneOf(at+".bind", l.Bind, "none", "simple", "external", "gssapi")
	p.notNegative(at+".timeout", l.Timeout)
	p.notNegative(at+".retry", l.Retry)
	for i, s := range l.Attributes.Secrets {
		if schemes := secretSchemes(); !slices.Contains(schemes, s.Scheme) {
			p.add(fmt.Sprintf("%s.attributes.secrets[%d].scheme", at, i), "%q has no secrets; write %s%s", s.Scheme, strings.Join(schemes, " or "), suggest(s.Scheme, schemes))
		}
	}
}
