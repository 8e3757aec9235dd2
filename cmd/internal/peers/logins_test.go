package peers

import (
	"context"
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/emersion/go-sasl"
	xdg "github.com/xdg-go/scram"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/file"
	"github.com/kpopd/kpopd/authn/gssapi"
	"github.com/kpopd/kpopd/authn/krb5"
	"github.com/kpopd/kpopd/authn/ldap/ldaptest"
	"github.com/kpopd/kpopd/authn/scram"
	"github.com/kpopd/kpopd/kpop"
	"github.com/kpopd/kpopd/krb5test"
	pop3 "github.com/kpopd/kpopd/pop3/client"
)

// crypted is the hash of "pw-alice", sha512crypt with its 5,000 rounds.
const crypted = "$6$peers$iTzhmhYKi.JotJSaSdGxCPIjbgbL8At.CXJMQFfJdnSZ2OmY0EBbF4InRaGYPeBbmW1zIzjMkbpKG2inHEZVD/"

// loginConfiguration has a door for each way of logging in. The machine itself is
// no stranger, as webmail is none; its users are counted as all are.
const loginConfiguration = `
listeners:
  - {name: scram, address: "127.0.0.1:0", tls: implicit, policy: scram}
  - {name: sha512crypt, address: "127.0.0.1:0", tls: implicit, policy: sha512crypt}
  - {name: ssha256, address: "127.0.0.1:0", tls: implicit, policy: ssha256}
  - {name: gssapi, address: "127.0.0.1:0", tls: implicit, policy: gssapi}
  - {name: kpop, address: "127.0.0.1:0", protocol: kpop, tls: starttls, policy: kpop}
  - {name: cram, address: "127.0.0.1:0", tls: implicit, policy: cram}
  - {name: apop, address: "127.0.0.1:0", tls: implicit, policy: apop}
DIRECTORYDOORcertificates:
  - {name: localhost, cert: cert.pem, key: key.pem}
policies:
  - {name: scram, offers: [SCRAM-SHA-256], chain: digests}
  - {name: sha512crypt, offers: [PLAIN, USER], chain: sha512crypt}
  - {name: ssha256, offers: [PLAIN, USER], chain: ssha256}
  - {name: gssapi, offers: [GSSAPI], chain: tickets}
  - {name: kpop, offers: [KPOP], chain: tickets}
  - {name: cram, offers: [CRAM-MD5], chain: digests}
  - {name: apop, offers: [APOP], chain: digests}
DIRECTORYPOLICYchains:
  - {name: digests, steps: [{use: digests}]}
  - {name: sha512crypt, steps: [{use: sha512crypt}]}
  - {name: ssha256, steps: [{use: ssha256}]}
  - {name: tickets, steps: [{use: tickets}]}
DIRECTORYCHAINverifiers:
  - {name: digests, type: file, digests: digests, digests_key: digests.key}
  - {name: sha512crypt, type: file, users: sha512crypt}
  - {name: ssha256, type: file, users: ssha256}
  - {name: tickets, type: principal, local_realms: [EXAMPLE.TEST]}
DIRECTORYVERIFIERkerberos: {keytab: keytab, replay_cache: replay}
scram: {salt_key: salt.key}
throttle: {exempt: [127.0.0.0/8]}
maildrops: {root: mail}
limits: {per_address: 0, pre_auth: 0}
`

// directoryParts is what loginConfiguration has in these places beside a slapd.
var directoryParts = []string{
	"DIRECTORYDOOR", `  - {name: ldap, address: "127.0.0.1:0", tls: implicit, policy: ldap}
  - {name: ldap-clear, address: "127.0.0.1:0", policy: ldap-clear}
`,
	"DIRECTORYPOLICY", `  - {name: ldap, offers: [PLAIN, USER], chain: ldap}
  - {name: ldap-clear, offers: [PLAIN, USER], chain: ldap, plain: trusted, trusted: [127.0.0.0/8]}
`,
	"DIRECTORYCHAIN", "  - {name: ldap, steps: [{use: ldap, timeout: 20s}]}\n",
	"DIRECTORYVERIFIER", `  - name: ldap
    type: ldap
    urls: ["URL"]
    ca: CA
    timeout: 10s
    bind: simple
    bind_dn: cn=kpopd,ou=services,dc=example,dc=test
    bind_password: ldap-password
    base: ou=people,dc=example,dc=test
    filter: (uid=%u)
`,
}

// hall is a server with all of those doors, and its visitors.
type hall struct {
	*server
	directory *ldaptest.Directory // nil where there is no slapd
	visitors  []*visitor
}

// visitor is one of the users that a directory of [ldaptest] has, user00 to
// user63, whose password is "pw-" and the name, with a mail program that keeps what real ones keep: tickets,
// and what SCRAM makes of the password.
type visitor struct {
	user, password string
	tickets        *krb5.Client
	scram          *xdg.Client
	tls            *tls.Config
}

// way is one way of logging in.
type way struct {
	name string
	door string
	in   func(ctx context.Context, v *visitor, address string) (*pop3.Client, error)
}

// ways stand in the order of the figures.
var ways = []way{
	{"USER+ssha256", "ssha256", overTLS(func(ctx context.Context, c *pop3.Client, v *visitor) error {
		return c.UserPass(ctx, v.user, v.password)
	})},
	{"APOP", "apop", overTLS(func(ctx context.Context, c *pop3.Client, v *visitor) error { return c.Apop(ctx, v.user, v.password) })},
	{"CRAM-MD5", "cram", bySASL(func(_ context.Context, v *visitor) (sasl.Client, error) { return &cramClient{v}, nil })},
	{"SCRAM-SHA-256", "scram", bySASL(func(_ context.Context, v *visitor) (sasl.Client, error) {
		return &scramClient{v.scram.NewConversation()}, nil
	})},
	{"PLAIN+sha512crypt", "sha512crypt", bySASL(func(_ context.Context, v *visitor) (sasl.Client, error) {
		return sasl.NewPlainClient("", v.user, "pw-alice"), nil // whose hash all have
	})},
	{"GSSAPI", "gssapi", bySASL(func(ctx context.Context, v *visitor) (sasl.Client, error) {
		return gssapi.NewClient(ctx, v.tickets, "pop/localhost", gssapi.Options{Mutual: true})
	})},
	{"KPOP", "kpop", kpopThenTLS},
	byDirectory,
	byDirectoryInTheClear,
}

// With the password that the directory has.
var (
	byDirectory = way{"PLAIN+ldap", "ldap", bySASL(func(_ context.Context, v *visitor) (sasl.Client, error) {
		return sasl.NewPlainClient("", v.user, v.password), nil
	})}
	byDirectoryInTheClear = way{"PLAIN+ldap without TLS", "ldap-clear", func(ctx context.Context, v *visitor, address string) (*pop3.Client, error) {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return nil, err
		}
		c, err := pop3.New(ctx, conn, nil)
		if err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		return c, c.Auth(ctx, sasl.NewPlainClient("", v.user, v.password))
	}}
)

// overTLS connects with a full handshake, as a client does that comes every ten
// minutes.
func overTLS(login func(context.Context, *pop3.Client, *visitor) error) func(context.Context, *visitor, string) (*pop3.Client, error) {
	return func(ctx context.Context, v *visitor, address string) (*pop3.Client, error) {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return nil, err
		}
		c, err := pop3.New(ctx, tls.Client(conn, v.tls), nil)
		if err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		return c, login(ctx, c, v)
	}
}

func bySASL(mechanism func(context.Context, *visitor) (sasl.Client, error)) func(context.Context, *visitor, string) (*pop3.Client, error) {
	return overTLS(func(ctx context.Context, c *pop3.Client, v *visitor) error {
		m, err := mechanism(ctx, v)
		if err != nil {
			return err
		}
		return c.Auth(ctx, m)
	})
}

func kpopThenTLS(ctx context.Context, v *visitor, address string) (*pop3.Client, error) {
	in, err := v.tickets.Initiate(ctx, "pop/localhost", krb5.InitOptions{Mutual: true})
	if err != nil {
		return nil, err
	}
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	if err := (&kpop.Client{}).Handshake(ctx, conn, in); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	c, err := pop3.New(ctx, conn, nil)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if err := c.StartTLS(ctx, v.tls); err != nil {
		return c, err
	}
	return c, c.UserPass(ctx, v.user, "krb_ticket")
}

type scramClient struct{ *xdg.ClientConversation }

func (c *scramClient) Start() (string, []byte, error) {
	first, err := c.Step("")
	return "SCRAM-SHA-256", []byte(first), err
}

func (c *scramClient) Next(challenge []byte) ([]byte, error) {
	s, err := c.Step(string(challenge))
	return []byte(s), err
}

type cramClient struct{ v *visitor }

func (c *cramClient) Start() (string, []byte, error) { return "CRAM-MD5", nil, nil }

func (c *cramClient) Next(challenge []byte) ([]byte, error) {
	mac := hmac.New(md5.New, []byte(c.v.password))
	mac.Write(challenge)
	return []byte(c.v.user + " " + hex.EncodeToString(mac.Sum(nil))), nil
}

// visit is a whole session: connect, log in, QUIT.
func (w way) visit(ctx context.Context, v *visitor, address string) error {
	c, err := w.in(ctx, v, address)
	if c != nil {
		defer c.Close()
	}
	if err != nil {
		return fmt.Errorf("%s as %s: %w", w.name, v.user, err)
	}
	return c.Quit(ctx)
}

// openHall starts a server with so many visitors and a KDC, and where there is a
// slapd a directory that has them too.
func openHall(t testing.TB, visitors int) *hall {
	t.Helper()
	bin, err := command()
	if err != nil {
		t.Fatal(err)
	}
	h := &hall{server: newServer(t.TempDir())}
	in := func(name string) string { return filepath.Join(h.dir, name) }
	kdc := krb5test.NewKDC("EXAMPLE.TEST")
	kdc.AddService("pop/localhost")
	h.certify(t)
	for n := range visitors {
		h.invite(t, kdc, fmt.Sprintf("user%02d", n))
	}
	h.makeKeys(t)
	if err := errors.Join(kdc.Listen("127.0.0.1:0"), kdc.WriteKeytab(in("keytab"), "pop/localhost")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kdc.Close() })
	for _, v := range h.visitors {
		if v.tickets, err = krb5.NewClient(kdc.Krb5Conf(), v.user, "EXAMPLE.TEST", authn.Password(v.password)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(v.tickets.Close)
	}
	parts := strings.NewReplacer("DIRECTORYDOOR", "", "DIRECTORYPOLICY", "", "DIRECTORYCHAIN", "", "DIRECTORYVERIFIER", "")
	if _, err := krb5test.LookPath("slapd"); err == nil {
		h.directory = openDirectory(t)
		h.write(t, "ldap-password", "pw-kpopd\n")
		parts = strings.NewReplacer(directoryParts...)
	}
	text := parts.Replace(loginConfiguration)
	if h.directory != nil {
		text = strings.NewReplacer("URL", h.directory.Servers[0].LDAPS, "CA", h.directory.CA).Replace(text)
	}
	h.write(t, "kpopd.yaml", text)
	h.launch(t, bin, "serve", nil)
	return h
}

// invite gives a user everything that the doors ask for.
func (h *hall) invite(t testing.TB, kdc *krb5test.KDC, user string) {
	t.Helper()
	v := &visitor{user: user, password: "pw-" + user}
	h.visitors = append(h.visitors, v)
	kdc.AddUser(user, v.password)
	roots := x509.NewCertPool()
	roots.AddCert(h.authority.Certificate())
	// X25519 is what mail programs offer; Go's clients would have the server compute ML-KEM too.
	v.tls = &tls.Config{RootCAs: roots, ServerName: "localhost", CurvePreferences: []tls.CurveID{tls.X25519}}
	keys, err := scram.Make("SCRAM-SHA-256", authn.Password(v.password), 50000)
	if err != nil {
		t.Fatal(err)
	}
	if v.scram, err = xdg.SHA256.NewClient(user, v.password, ""); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(v.password + "salt"))
	in := func(name string) string { return filepath.Join(h.dir, name) }
	if err := errors.Join(
		file.SetHash(in("sha512crypt"), user, crypted),
		file.SetHash(in("ssha256"), user, "{SSHA256}"+base64.StdEncoding.EncodeToString(append(sum[:], "salt"...))),
		file.SetSecret(in("digests"), "", user, "SCRAM-SHA-256", keys.Text()),
		file.SetSecret(in("digests"), "", user, "CRAM-MD5", authn.Password(v.password)),
		file.SetSecret(in("digests"), "", user, "APOP", authn.Password(v.password)),
	); err != nil {
		t.Fatal(err)
	}
	h.deliver(t, user, nil)
}

// openDirectory is one slapd, which keeps no log.
func openDirectory(t testing.TB) *ldaptest.Directory {
	t.Helper()
	dir, err := os.MkdirTemp("", "ldap") // t.TempDir is too long for a unix socket
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	d, err := ldaptest.Start(ctx, dir, ldaptest.Options{Quiet: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
		os.RemoveAll(dir)
	})
	return d
}

// address is where a way begins; the test or benchmark is skipped where its
// directory is missing.
func (h *hall) address(t testing.TB, w way) string {
	t.Helper()
	if strings.HasPrefix(w.door, "ldap") {
		krb5test.Need(t, "slapd")
	}
	return h.door(w.door)
}

// What the benchmarks measure works, and is what they say it is.
func TestWaysOfLoggingIn(t *testing.T) {
	t.Parallel()
	h := openHall(t, 2)
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			address := h.address(t, w)
			mechanism, _, _ := strings.Cut(w.name, "+")
			tls := ` tls="TLS 1.3" `
			if w.door == "ldap-clear" {
				tls = " tls=none "
			}
			for _, v := range h.visitors {
				if err := w.visit(t.Context(), v, address); err != nil {
					t.Error(err)
				}
				login := v.user
				if mechanism == "GSSAPI" {
					login = `""` // the ticket says who it is
				}
				line := h.line(t, " policy="+w.door+" mechanism="+mechanism+" login="+login+" user="+v.user+" step=")
				if !strings.Contains(line, loggedIn) || !strings.Contains(line, tls) {
					t.Errorf("the log tells of another login: %s", line)
				}
			}
		})
	}
}
