package app

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-sasl"

	"github.com/kpopd/kpopd/cmd/internal/certs"
	"github.com/kpopd/kpopd/pop3/client"
)

// cards is a server that takes client certificates, and its authority.
type cards struct {
	t    *testing.T
	ca   *certs.Authority
	dir  string
	path string
	*Server
	log *syncBuffer
}

const cardsConfiguration = `listeners:
  - {name: start, address: "127.0.0.1:0", tls: starttls, policy: cards, client_ca: clients.pem, client_crl: crl.pem}
  - {name: implicit, address: "127.0.0.1:0", tls: implicit, policy: cards, client_ca: clients.pem, client_crl: crl.pem}
  - {name: unasked, address: "127.0.0.1:0", tls: implicit, policy: cards}
certificates:
  - {name: mail, cert: mail.crt, key: mail.key}
policies:
  - {name: cards, offers: [EXTERNAL, PLAIN], chain: staff}
chains:
  - {name: staff, steps: [{use: cards}, {use: local}]}
verifiers:
  - {name: cards, type: certificate, map: grants, certificate_rules: [{from: upn, match: '(\w+)@corp\.example', login: $1}]}
  - {name: local, type: file, users: users}
maildrops: {root: mail}
`

func newCards(t *testing.T) *cards {
	t.Helper()
	ca, err := certs.NewAuthority("staff")
	if err != nil {
		t.Fatal(err)
	}
	c := &cards{t: t, ca: ca, path: folder(t, cardsConfiguration)}
	c.dir = filepath.Dir(c.path)
	cert, key, err := ca.Issue("mail.example")
	if err != nil {
		t.Fatal(err)
	}
	c.write("mail.crt", cert)
	c.write("mail.key", key)
	c.write("clients.pem", ca.PEM())
	c.write("grants", []byte("email:carl@example.org alice\n"))
	c.revoke(time.Now().Add(time.Hour))
	c.Server, c.log = serve(t, c.path)
	return c
}

func (c *cards) write(name string, text []byte) {
	c.t.Helper()
	if err := os.WriteFile(filepath.Join(c.dir, name), text, 0o600); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cards) revoke(next time.Time, revoked ...*x509.Certificate) {
	c.t.Helper()
	list, err := c.ca.Revoke(next, revoked...)
	if err != nil {
		c.t.Fatal(err)
	}
	c.write("crl.pem", list)
}

// issue makes a person's certificate.
func (c *cards) issue(p certs.Person) *tls.Certificate {
	c.t.Helper()
	cert, key, err := c.ca.IssueClient(p)
	if err != nil {
		c.t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		c.t.Fatal(err)
	}
	return &pair
}

// dial connects to a listener with TLS, and shows a certificate when it is not
// nil, wanted or not.
func (c *cards) dial(listener int, show *tls.Certificate) *client.Client {
	c.t.Helper()
	cfg := &tls.Config{InsecureSkipVerify: true}
	if show != nil {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return show, nil }
	}
	conn, err := net.Dial("tcp", c.Addrs()[listener].String())
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.Close() })
	if listener != 0 {
		conn = tls.Client(conn, cfg)
	}
	cl, err := client.New(c.t.Context(), conn, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	if listener == 0 {
		if err := cl.StartTLS(c.t.Context(), cfg); err != nil {
			c.t.Fatal(err)
		}
	}
	return cl
}

func offersExternal(ctx context.Context, t *testing.T, c *client.Client) bool {
	t.Helper()
	capa, err := c.Capa(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return slices.Contains(capa["SASL"], "EXTERNAL")
}

func logHas(log, pattern string) bool { return regexp.MustCompile(pattern).MatchString(log) }

// codeOf is the response code of a refusal, "+OK" for none.
func codeOf(t *testing.T, err error) string {
	t.Helper()
	var refused *client.ServerError
	if err != nil && !errors.As(err, &refused) {
		t.Fatal(err)
	}
	if err == nil {
		return "+OK"
	}
	return refused.Code
}

// A verified certificate logs nobody in by itself; it puts EXTERNAL on offer.
func TestRule103And166_External(t *testing.T) {
	t.Parallel()
	c := newCards(t)
	alice := certs.Person{CommonName: "A", UPN: "alice@corp.example"}
	stranger, err := certs.NewAuthority("staff")
	if err != nil {
		t.Fatal(err)
	}
	foreign := *c
	foreign.ca = stranger
	revoked := c.issue(alice)
	c.revoke(time.Now().Add(time.Hour), revoked.Leaf)
	if err := c.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		show    *tls.Certificate
		authzid string
		offered bool
		want    string
	}{
		{"UPN by a rule", c.issue(alice), "", true, "+OK"},
		{"e-mail by the map", c.issue(certs.Person{CommonName: "C", Email: "carl@example.org"}), "", true, "+OK"},
		{"asks for itself", c.issue(alice), "alice", true, "+OK"},
		{"asks for another", c.issue(alice), "bob", true, "AUTH"},
		{"belongs to nobody", c.issue(certs.Person{CommonName: "alice"}), "", false, ""},
		{"of a stranger", foreign.issue(alice), "", false, ""},
		{"revoked", revoked, "", false, ""},
		{"none", nil, "", false, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for i, l := range []string{"start", "implicit"} {
				cl := c.dial(i, tt.show)
				if _, _, err := cl.Stat(t.Context()); err == nil {
					t.Fatalf("%s: the handshake has logged in", l)
				}
				if got := offersExternal(t.Context(), t, cl); got != tt.offered {
					t.Errorf("%s: EXTERNAL offered %v, want %v", l, got, tt.offered)
				}
				if got := codeOf(t, cl.Auth(t.Context(), sasl.NewExternalClient(tt.authzid))); got != tt.want {
					t.Errorf("%s: %q, want %q", l, got, tt.want)
				}
				if tt.want == "+OK" {
					if err := cl.Quit(t.Context()); err != nil {
						t.Error(err)
					}
					continue
				}
				// and a password is as good as without the certificate
				if err := cl.Auth(t.Context(), sasl.NewPlainClient("", "alice", password)); err != nil {
					t.Errorf("%s: password: %v", l, err)
				}
				if err := cl.Quit(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	c.Shutdown(nil)
	for _, want := range []string{
		`kind=accepted .*mechanism=EXTERNAL .*user=alice step=cards .*certificate="CN=A" sha256=[0-9a-f]{64}`,
		`"client certificate not taken" .*err="client certificate: denied: serial [0-9a-f]+ of CN=staff has been revoked" certificate="CN=A"`,
		`"client certificate not taken" .*listener=implicit .*err="the client certificate belongs to nobody here" certificate="CN=alice"`,
		`"client certificate not taken" .*err="client certificate: rejected: x509: `,
		`kind=denied .*login=bob .*err="EXTERNAL: denied: CN=A for bob: may act for nobody else"`,
	} {
		if !logHas(c.log.String(), want) {
			t.Errorf("the log has no line with %s\n%s", want, c.log)
		}
	}
}

// Revocation, and an authority that is no longer trusted, come with a reload; a
// list that is out of date is an outage, told as one.
func TestExternalReload(t *testing.T) {
	t.Parallel()
	c := newCards(t)
	card := c.issue(certs.Person{CommonName: "A", UPN: "alice@corp.example"})
	login := func() (bool, string) {
		cl := c.dial(1, card)
		offered := offersExternal(t.Context(), t, cl)
		got := codeOf(t, cl.Auth(t.Context(), sasl.NewExternalClient("")))
		if got == "+OK" {
			if err := cl.Quit(t.Context()); err != nil {
				t.Error(err)
			}
		}
		return offered, got
	}
	other, err := certs.NewAuthority("others")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		change  func()
		offered bool
		want    string
		fails   bool // the reload
	}{
		{"at first", func() {}, true, "+OK", false},
		{"list out of date", func() { c.revoke(time.Now().Add(-time.Minute)) }, true, "SYS/TEMP", false},
		{"revoked", func() { c.revoke(time.Now().Add(time.Hour), card.Leaf) }, false, "", false},
		{"no longer", func() { c.revoke(time.Now().Add(time.Hour)) }, true, "+OK", false},
		{"a torn list", func() { c.write("crl.pem", []byte("-----BEGIN")) }, true, "+OK", true},
		{"another authority, the list of the old one", func() {
			c.revoke(time.Now().Add(time.Hour))
			c.write("clients.pem", other.PEM())
		}, true, "+OK", true},
		{"both authorities, one list", func() { c.write("clients.pem", append(other.PEM(), c.ca.PEM()...)) }, true, "+OK", false},
		{"the map no longer has her", func() { c.write("grants", []byte("upn:ALICE@corp.example -\n")) }, false, "", false},
	} {
		tt.change()
		err := c.Reload(t.Context())
		if (err != nil) != tt.fails {
			t.Errorf("%s: reload: %v", tt.name, err)
		}
		if tt.fails && !strings.Contains(err.Error(), "k.yaml:2: listeners[0].client_crl: ") {
			t.Errorf("%s: reload says %v", tt.name, err)
		}
		if offered, got := login(); offered != tt.offered || got != tt.want {
			t.Errorf("%s: offered %v, %q, want %v, %q", tt.name, offered, got, tt.offered, tt.want)
		}
	}
	c.Shutdown(nil)
	if !logHas(c.log.String(), `level=WARN msg=login kind=unavailable .*mechanism=EXTERNAL .*err="client certificate: unavailable: no revocation list of CN=staff that is in date"`) {
		t.Errorf("the outage is not in the log:\n%s", c.log)
	}
}

// A listener that is not told to asks nobody for a certificate, whatever the
// policy that it shares with others has.
func TestRule111_Unasked(t *testing.T) {
	t.Parallel()
	c := newCards(t)
	conn, err := tls.Dial("tcp", c.Addrs()[2].String(), &tls.Config{
		InsecureSkipVerify: true,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			t.Error("asked for a certificate")
			return &tls.Certificate{}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	cl, err := client.New(t.Context(), conn, nil)
	if err != nil {
		t.Fatal(err)
	}
	if offersExternal(t.Context(), t, cl) {
		t.Error("EXTERNAL is offered")
	}
}

func TestExplainExternal(t *testing.T) {
	t.Parallel()
	c := newCards(t)
	c.revoke(time.Now().Add(-time.Hour))
	r, err := Check(c.path)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	r.Explain(&out)
	want := `  inside TLS: PLAIN
    not EXTERNAL: no client certificate came with TLS
  inside TLS with a certificate that belongs to somebody: EXTERNAL PLAIN
`
	if got := out.String(); strings.Count(got, want) != 2 || strings.Count(got, "with a certificate") != 2 {
		t.Errorf("explained as\n%s", got)
	}
	var warnings []string
	for _, w := range r.Warnings {
		warnings = append(warnings, w.Error())
	}
	if all := strings.Join(warnings, "\n"); !strings.Contains(all, "k.yaml:2: listeners[0].client_crl: the list of CN=staff ran out on ") {
		t.Errorf("warnings: %s", all)
	}
}

// What a check says of a certificate is what a login with it would say.
func TestExplainCertificate(t *testing.T) {
	t.Parallel()
	c := newCards(t)
	stranger, err := certs.NewAuthority("strangers")
	if err != nil {
		t.Fatal(err)
	}
	foreign := *c
	foreign.ca = stranger
	revoked := c.issue(certs.Person{CommonName: "gone", UPN: "alice@corp.example"})
	c.revoke(time.Now().Add(time.Hour), revoked.Leaf)
	r, err := Check(c.path)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, want string
		cert       *tls.Certificate
	}{
		{"somebody's", "logs in as alice, by step cards", c.issue(certs.Person{CommonName: "A", UPN: "alice@corp.example"})},
		{"nobody's", "the client certificate belongs to nobody here", c.issue(certs.Person{CommonName: "A"})},
		{"revoked", "has been revoked", revoked},
		{"a stranger's", "certificate signed by unknown authority", foreign.issue(certs.Person{CommonName: "A", UPN: "alice@corp.example"})},
	} {
		c.write("card.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: tt.cert.Leaf.Raw}))
		var out strings.Builder
		if err := r.ExplainCertificate(&out, filepath.Join(c.dir, "card.pem")); err != nil {
			t.Error(err)
		}
		lines := strings.Split(out.String(), "\n")
		if len(lines) != 3 || !strings.HasPrefix(lines[1], "listener implicit, certificate CN=") || !strings.Contains(lines[0], tt.want) || !strings.Contains(lines[1], tt.want) {
			t.Errorf("%s: got\n%swant %q", tt.name, out.String(), tt.want)
		}
	}
	for name, text := range map[string]string{"empty": "", "torn": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"} {
		c.write("card.pem", []byte(text))
		if err := r.ExplainCertificate(&strings.Builder{}, filepath.Join(c.dir, "card.pem")); err == nil {
			t.Errorf("%s: explained", name)
		}
	}
	plain, err := Check(folder(t, base))
	if err != nil {
		t.Fatal(err)
	}
	c.write("card.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: revoked.Leaf.Raw}))
	if err := plain.ExplainCertificate(&strings.Builder{}, filepath.Join(c.dir, "card.pem")); err == nil || !strings.Contains(err.Error(), "no listener asks") {
		t.Errorf("got %v", err)
	}
}
