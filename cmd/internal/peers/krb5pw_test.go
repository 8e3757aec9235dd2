package peers

import (
	"context"
	"strings"
	"testing"

	"github.com/kpopd/kpopd/krb5test"
)

// kdcConfiguration has the doors of [configuration] that password clients look
// for, and a KDC judge what they say.
const kdcConfiguration = `
listeners:
  - {name: pop3, address: "127.0.0.1:0", tls: starttls, policy: internet}
  - {name: pop3s, address: "127.0.0.1:0", tls: implicit, policy: internet}
  - {name: bare, address: "127.0.0.1:0", policy: trusted}
  - {name: many, address: "127.0.0.1:0", tls: starttls, policy: internet}
certificates:
  - {name: localhost, cert: cert.pem, key: key.pem}
policies:
  - {name: internet, offers: [GSSAPI, PLAIN, LOGIN, USER], chain: all}
  - {name: trusted, offers: [GSSAPI, PLAIN, LOGIN, USER], plain: trusted, trusted: [127.0.0.0/8], chain: all}
chains:
  - {name: all, steps: [{use: kdc, timeout: 8s}, {use: tickets}]}
verifiers:
  - {name: kdc, type: krb5pw, realm: EXAMPLE.TEST, kdcs: ["KDC"], service: pop/localhost}
  - {name: tickets, type: principal, local_realms: [EXAMPLE.TEST]}
kerberos: {keytab: keytab, replay_cache: replay}
pop3: {hostname: localhost}
maildrops: {root: mail}
log: {level: debug}
`

// askKDC has a server ask a KDC about passwords, and nobody else.
func (s *server) askKDC(t *testing.T, addr string) {
	t.Helper()
	s.write(t, "kpopd.yaml", strings.Replace(kdcConfiguration, "KDC", addr, 1))
	s.reload(t)
}

// The clients that log in with passwords do so against a KDC.
func TestKerberosPasswords(t *testing.T) {
	t.Parallel()
	for _, kdc := range kdcs {
		t.Run(kdc.name, func(t *testing.T) {
			t.Parallel()
			for _, c := range passwordClients {
				if c.user != "alice" { // who has a secret for APOP or CRAM-MD5
					continue
				}
				t.Run(c.name, func(t *testing.T) {
					t.Parallel()
					c.need(t)
					r := kdc.realm(t)
					srv := start(t, r.keytab, "")
					srv.askKDC(t, r.addr)
					mail := carried(c.maxLine, c.rare...)
					srv.deliver(t, "alice", mail)
					begin := func(user, password string) *session {
						s := srv.session(t, c.door, nil)
						s.user, s.password = user, password
						return s
					}
					wantMail(begin("alice", "pw-alice"), c.client, mail)
					wantRefusal(begin("alice", "pw-wrong"), c.client, "[AUTH]")
					wantRefusal(begin("nobody", "pw-alice"), c.client, "[AUTH]")
				})
			}
		})
	}
}

// MIT's KDC is hung, resumed and killed, and curl hears of an
// outage, not of a wrong password.
func TestKDCOutage(t *testing.T) {
	t.Parallel()
	krb5test.Need(t, append(mit.needs, "curl")...)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	m, err := krb5test.StartMIT(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer m.Stop()
	srv := start(t, m.Keytab(), "")
	srv.askKDC(t, m.Addr())
	c := curl("PLAIN", "pop3s", "pop3s", "--login-options", "AUTH=PLAIN", "-u", "USER:PASSWORD")
	mail := carried(c.maxLine, c.rare...)
	srv.deliver(t, "alice", mail)
	begin := func() *session {
		s := srv.session(t, c.door, nil)
		s.user, s.password = "alice", "pw-alice"
		return s
	}
	wantMail(begin(), c, mail)
	if err := m.Suspend(); err != nil {
		t.Fatal(err)
	}
	wantRefusal(begin(), c, "[SYS/TEMP]")
	if err := m.Resume(); err != nil {
		t.Fatal(err)
	}
	wantMail(begin(), c, mail)
	// the service gets a key that our keytab lacks, as with a false KDC
	if err := m.Rotate(ctx, "pop/localhost", m.Keytab()+".other"); err != nil {
		t.Fatal(err)
	}
	wantRefusal(begin(), c, "[SYS/TEMP]")
	if err := m.Stop(); err != nil {
		t.Fatal(err)
	}
	wantRefusal(begin(), c, "[SYS/TEMP]")
	for _, why := range []string{"deadline exceeded", "keytab is out of date", "connection refused"} {
		if !strings.Contains(srv.said(), why) {
			t.Errorf("the log does not say %q", why)
		}
	}
}
