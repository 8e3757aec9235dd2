package peers

import (
	"cmp"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kpopd/kpopd/authn/ldap/ldaptest"
	"github.com/kpopd/kpopd/krb5test"
)

// directoryConfiguration has a directory where [configuration] has a users file and
// rules: who has a password, a secret or a principal stands there.
const directoryConfiguration = `
listeners:
  - {name: pop3, address: "127.0.0.1:0", tls: starttls, policy: internet}
  - {name: pop3s, address: "127.0.0.1:0", tls: implicit, policy: internet}
  - {name: kpop, address: "127.0.0.1:0", protocol: kpop, tls: starttls, policy: campus}
certificates:
  - {name: localhost, cert: cert.pem, key: key.pem}
policies:
  - {name: internet, offers: [GSSAPI, CRAM-MD5, PLAIN, LOGIN, USER], chain: all}
  - {name: campus, offers: [KPOP], chain: all}
chains:
  - {name: all, steps: [{use: gone}, {use: directory}]}
verifiers:
  - {name: gone, type: deny, groups: [suspended]}
  - name: directory
    type: ldap
    urls: ["URL1", "URL2"]
    ca: CA
    timeout: 10s
    bind: external
    cert: CERT
    key: KEY
    base: ou=people,dc=example,dc=test
    filter: (&(objectClass=person)(uid=%u))
    principal_filter: (&(objectClass=person)(krbPrincipalName=%p))
    group_base: ou=groups,dc=example,dc=test
    group_filter: (member=%D)
    attributes:
      user: uid
      principals: krbPrincipalName
      secrets: [{scheme: CRAM-MD5, attribute: popDigestSecret}]
kerberos: {keytab: keytab, replay_cache: replay}
pop3: {hostname: localhost}
maildrops: {root: mail}
log: {level: debug}
`

// directoryClients log in as alice.
var directoryClients = []struct {
	password string
	client
}{
	{"pw-alice", fetchmail("password after STLS", "pop3", "protocol pop3 auth password", "sslproto 'TLS1.2+'")},
	{"pw-alice", fetchmail("password on POP3S", "pop3s", "protocol pop3 auth password", "ssl")},
	{"pw-alice", curl("PLAIN after STLS", "pop3", "pop3", "--ssl-reqd", "--login-options", "AUTH=PLAIN", "-u", "USER:PASSWORD")},
	{"digest-alice", curl("CRAM-MD5", "pop3", "pop3", "--login-options", "AUTH=CRAM-MD5", "-u", "USER:PASSWORD")},
	{"digest-alice", mpop("CRAM-MD5", "pop3", "auth cram-md5")},
	{"pw-alice", python("POP3S", "pop3s")},
	{"", curl("GSSAPI", "pop3", "pop3", "--login-options", "AUTH=GSSAPI", "-u", ":")},
	{"", fetchmailKPOP("KPOP", "sslproto ''")},
}

// Mail programs, kpopd and two servers of OpenLDAP's, of which the first dies.
func TestDirectoryClients(t *testing.T) {
	t.Parallel()
	krb5test.Need(t, "slapd")
	for _, c := range directoryClients {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.password == "" {
				c.need(t, ticketPrograms...)
			} else {
				c.need(t)
			}
			d := startDirectory(t)
			r := inProcess.realm(t)
			srv := startWith(t, r.keytab, strings.NewReplacer(
				"URL1", d.Servers[0].LDAPS, "URL2", d.Servers[1].LDAP, "CA", d.CA, "CERT", d.Cert, "KEY", d.Key,
			).Replace(directoryConfiguration))
			mail := carried(c.maxLine, c.rare...)
			srv.deliver(t, "alice", mail)

			begin := func(password string) *session {
				s := srv.session(t, c.door, nil)
				s.user, s.password = "alice", cmp.Or(password, "none")
				if password == "" {
					r.login(s, "alice", "pw-alice", "pop/localhost")
				}
				return s
			}
			wantMail(begin(c.password), c.client, mail)
			if err := d.Servers[0].Kill(); err != nil {
				t.Fatal(err)
			}
			wantMail(begin(c.password), c.client, mail)
			if c.password != "" {
				wantRefusal(begin("pw-wrong"), c.client, "[AUTH]")
			}
			if err := d.Servers[1].Kill(); err != nil {
				t.Fatal(err)
			}
			wantRefusal(begin(c.password), c.client, "[SYS/TEMP]")
		})
	}
}

func startDirectory(t *testing.T) *ldaptest.Directory {
	t.Helper()
	dir, err := os.MkdirTemp("", "ldap") // t.TempDir is too long for a unix socket
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	d, err := ldaptest.Start(ctx, dir, ldaptest.Options{Servers: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
		os.RemoveAll(filepath.Clean(dir))
	})
	return d
}
