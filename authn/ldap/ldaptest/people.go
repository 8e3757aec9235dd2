package ldaptest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Names in the directory. The password of an entry is "pw-" and its uid or cn.
const (
	Base    = "dc=example,dc=test"
	People  = "ou=people," + Base
	Groups  = "ou=groups," + Base
	Service = "cn=kpopd,ou=services," + Base // may search people and groups
	Admin   = "cn=admin," + Base             // may do anything
)

// schema has attributes that other schemas name otherwise, below OpenLDAP's arc
// for experiments.
const schema = `attributetype ( 1.3.6.1.4.1.4203.666.11.998.1 NAME 'krbPrincipalName' EQUALITY caseIgnoreMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
attributetype ( 1.3.6.1.4.1.4203.666.11.998.2 NAME 'popMaildrop' EQUALITY caseExactMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
attributetype ( 1.3.6.1.4.1.4203.666.11.998.3 NAME 'popMechanism' EQUALITY caseIgnoreMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
attributetype ( 1.3.6.1.4.1.4203.666.11.998.4 NAME 'popDisabled' EQUALITY booleanMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.7 )
attributetype ( 1.3.6.1.4.1.4203.666.11.998.5 NAME 'popDigestSecret' EQUALITY octetStringMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.40 )
objectclass ( 1.3.6.1.4.1.4203.666.11.998.9 NAME 'popUser' SUP top AUXILIARY
    MAY ( krbPrincipalName $ popMaildrop $ popMechanism $ popDisabled $ popDigestSecret ) )
`

const slapdConf = `include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
include /etc/ldap/schema/misc.schema
include {dir}/kpopd.schema
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload ppolicy
moduleload memberof
pidfile {dir}/slapd{n}.pid
threads 8
loglevel {level}
disallow bind_anon
TLSCACertificateFile {dir}/ca.crt
TLSCertificateFile {dir}/server.crt
TLSCertificateKeyFile {dir}/server.key
TLSProtocolMin 3.3
TLSVerifyClient try
security simple_bind=64
localssf 71
authz-regexp "^cn=kpopd-client$" "cn=kpopd,ou=services,dc=example,dc=test"
authz-regexp "^gidNumber=[0-9]+[+]uidNumber=[0-9]+,cn=peercred,cn=external,cn=auth$" "cn=kpopd,ou=services,dc=example,dc=test"
authz-regexp "^uid=kpopd,(cn=[^,]+,)?cn=gssapi,cn=auth$" "cn=kpopd,ou=services,dc=example,dc=test"
{lines}
database mdb
maxsize 67108864
suffix "dc=example,dc=test"
rootdn "cn=admin,dc=example,dc=test"
rootpw pw-admin
directory {dir}/db{n}
index objectClass,uid,member,krbPrincipalName eq
dbnosync
overlay ppolicy
ppolicy_default "cn=default,ou=policies,dc=example,dc=test"
ppolicy_use_lockout
overlay memberof
access to attrs=userPassword by self write by anonymous auth by * none
access to dn.subtree="ou=services,dc=example,dc=test" by self read by anonymous auth by * none
access to attrs=popDigestSecret by dn.exact="cn=kpopd,ou=services,dc=example,dc=test" read by * none
access to * by dn.exact="cn=kpopd,ou=services,dc=example,dc=test" read by self read by anonymous auth by * none
`

// attrs are the values of an entry.
type attrs map[string][]string

// ldif collects entries below Base.
type ldif struct{ strings.Builder }

func (l *ldif) entry(dn, classes string, a attrs) {
	fmt.Fprintf(l, "dn: %s\n", strings.TrimPrefix(dn+","+Base, ","))
	for _, c := range strings.Fields(classes) {
		fmt.Fprintf(l, "objectClass: %s\n", c)
	}
	for _, k := range slices.Sorted(maps.Keys(a)) {
		for _, v := range a[k] {
			fmt.Fprintf(l, "%s: %s\n", k, v)
		}
	}
	l.WriteByte('\n')
}

func (l *ldif) policy(cn string, a attrs) {
	all := attrs{
		"cn": {cn}, "pwdAttribute": {"userPassword"}, "pwdCheckQuality": {"0"}, "pwdLockout": {"TRUE"},
		"pwdMaxFailure": {"1000"}, "pwdMustChange": {"TRUE"}, "pwdAllowUserChange": {"TRUE"},
	}
	maps.Copy(all, a)
	l.entry("cn="+cn+",ou=policies", "device pwdPolicy", all)
}

func (l *ldif) person(uid, ou string, a attrs) {
	all := attrs{
		"cn": {uid}, "sn": {uid}, "uid": {uid}, "userPassword": {"pw-" + uid},
		"mail": {strings.ToLower(uid) + "@example.test"}, "krbPrincipalName": {uid + "@EXAMPLE.TEST"},
	}
	maps.Copy(all, a)
	rdn := strings.NewReplacer("+", `\+`).Replace(uid)
	l.entry("uid="+rdn+",ou="+ou, "inetOrgPerson inetLocalMailRecipient popUser", all)
}

func policyEntry(cn string) []string { return []string{"cn=" + cn + ",ou=policies," + Base} }

// daysAgo is a time as LDAP writes it.
func daysAgo(days int) []string {
	return []string{time.Now().AddDate(0, 0, -days).UTC().Format("20060102150405Z")}
}

// people are who is in the directory, as LDIF. elsewhere is the URL that a
// referral names.
func people(elsewhere string) string {
	var l ldif
	l.entry("", "top dcObject organization", attrs{"dc": {"example"}, "o": {"Example"}})
	for _, ou := range []string{"people", "twins", "groups", "services", "policies", "referrals"} {
		l.entry("ou="+ou, "organizationalUnit", attrs{"ou": {ou}})
	}
	l.entry("cn=kpopd,ou=services", "organizationalRole simpleSecurityObject", attrs{"cn": {"kpopd"}, "userPassword": {"pw-kpopd"}})
	l.policy("default", nil)
	l.policy("aging", attrs{"pwdMaxAge": {"8640000"}, "pwdExpireWarning": {"864000"}, "pwdGraceAuthNLimit": {"0"}})
	l.policy("grace", attrs{"pwdMaxAge": {"8640000"}, "pwdGraceAuthNLimit": {"100"}})

	l.person("alice", "people", attrs{
		"mailHost": {"mail1.example.test"}, "popMaildrop": {"a/alice"}, "popDigestSecret": {"digest-alice"},
		"mailLocalAddress": {"a.lidell"}, "memberOf": {"cn=staff," + Groups, "cn=pop-users," + Groups},
	})
	l.person("bob", "people", attrs{"memberOf": {"cn=pop-users," + Groups}, "popMechanism": {"gssapi", "plain"}})
	l.person("Dave", "people", nil)
	l.person("plus+sign", "people", nil)
	l.person("disabled", "people", attrs{"popDisabled": {"TRUE"}, "popDigestSecret": {"digest-disabled"}, "popMaildrop": {"/etc"}})
	l.person("astray", "people", attrs{"popMaildrop": {"/etc/passwd"}})
	l.person("expired", "people", attrs{"pwdChangedTime": daysAgo(200), "pwdPolicySubentry": policyEntry("aging")})
	l.person("locked", "people", attrs{"pwdAccountLockedTime": {"000001010000Z"}})
	l.person("mustchange", "people", attrs{"pwdReset": {"TRUE"}, "pwdChangedTime": daysAgo(1)})
	l.person("grace", "people", attrs{"pwdChangedTime": daysAgo(200), "pwdPolicySubentry": policyEntry("grace")})
	l.person("warned", "people", attrs{"pwdChangedTime": daysAgo(95), "pwdPolicySubentry": policyEntry("aging")})
	l.person("nopass", "people", attrs{"userPassword": nil})
	l.person("twin", "people", nil)
	l.person("twin", "twins", nil)
	for i := range 64 {
		var a attrs
		if i == 62 {
			a = attrs{"memberOf": {"cn=suspended," + Groups}}
		}
		l.person(fmt.Sprintf("user%02d", i), "people", a)
	}
	l.entry("cn=staff,ou=groups", "groupOfNames", attrs{"cn": {"staff"}, "member": {"uid=alice," + People}})
	l.entry("cn=pop-users,ou=groups", "groupOfNames", attrs{"cn": {"pop-users"}, "member": {"uid=alice," + People, "uid=bob," + People}})
	l.entry("uid=referred,ou=referrals", "referral extensibleObject", attrs{"uid": {"referred"}, "ref": {elsewhere + "/uid=alice," + People}})
	l.entry("cn=suspended,ou=groups", "groupOfNames", attrs{"cn": {"suspended"}, "member": {"uid=user62," + People}})
	return l.String()
}
