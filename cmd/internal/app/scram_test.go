package app

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	xdg "github.com/xdg-go/scram"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/file"
	"github.com/kpopd/kpopd/authn/scram"
	"github.com/kpopd/kpopd/cmd/internal/certs"
	"github.com/kpopd/kpopd/pop3/client"
)

const bound = `listeners:
  - {name: pop3, address: "127.0.0.1:0", tls: starttls, policy: bound}
certificates:
  - {name: localhost, cert: cert.pem, key: key.pem}
policies:
  - {name: bound, chain: staff, offers: [SCRAM-SHA-256-PLUS, SCRAM-SHA-256, CRAM-MD5, PLAIN]}
chains:
  - {name: staff, steps: [{use: local}]}
verifiers:
  - {name: local, type: file, users: users, digests: digests, digests_key: digests.key, rehash: sha512}
scram: {salt_key: salt.key}
maildrops: {root: mail}
`

// boundFolder has the files that bound names: alice has keys of her password
// and a sealed secret for CRAM-MD5.
func boundFolder(t *testing.T) (path string, ca *certs.Authority) {
	t.Helper()
	path = folder(t, bound)
	in := func(name string) string { return filepath.Join(filepath.Dir(path), name) }
	ca, err := certs.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := ca.Issue("localhost")
	if err != nil {
		t.Fatal(err)
	}
	keys, err := scram.Make("SCRAM-SHA-256", authn.Password(password), 5000)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(
		os.WriteFile(in("cert.pem"), cert, 0o600), os.WriteFile(in("key.pem"), key, 0o600),
		file.MakeKeyFile(in("digests.key")), file.MakeKeyFile(in("salt.key")),
		file.SetSecret(in("digests"), "", "alice", "SCRAM-SHA-256", keys.Text()),
		file.SetSecret(in("digests"), in("digests.key"), "alice", "CRAM-MD5", authn.Password("s3cret")),
	); err != nil {
		t.Fatal(err)
	}
	return path, ca
}

// scramClient is a client that somebody else wrote.
type scramClient struct {
	mech string
	*xdg.ClientConversation
}

func (c scramClient) Start() (string, []byte, error) {
	first, err := c.Step("")
	return c.mech, []byte(first), err
}

func (c scramClient) Next(challenge []byte) ([]byte, error) {
	s, err := c.Step(string(challenge))
	return []byte(s), err
}

func newScramClient(t *testing.T, login string, p *client.Client, kind xdg.ChannelBindingType) scramClient {
	t.Helper()
	x, err := xdg.SHA256.NewClient(login, password, "")
	if err != nil {
		t.Fatal(err)
	}
	if kind == "" {
		return scramClient{"SCRAM-SHA-256", x.NewConversation()}
	}
	state := p.Conn().(*tls.Conn).ConnectionState()
	binding := xdg.NewTLSExporterBinding
	if kind == xdg.ChannelBindingTLSServerEndpoint {
		binding = xdg.NewTLSServerEndpointBinding
	}
	b, err := binding(&state)
	if err != nil {
		t.Fatal(err)
	}
	return scramClient{"SCRAM-SHA-256-PLUS", x.NewConversationWithChannelBinding(b)}
}

func pool(ca *certs.Authority) *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(ca.Certificate())
	return p
}

func offered(t *testing.T, c *client.Client) string {
	t.Helper()
	capa, err := c.Capa(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(capa["SASL"], " ")
}

// SCRAM through a listener, before TLS and bound to it in both ways, and the
// other mechanisms of the same files beside it.
func TestSCRAM(t *testing.T) {
	t.Parallel()
	path, ca := boundFolder(t)
	s, log := serve(t, path)
	ctx := t.Context()

	c := dial(t, s)
	if got := offered(t, c); got != "SCRAM-SHA-256 CRAM-MD5" {
		t.Errorf("before TLS: %s", got)
	}
	m := newScramClient(t, "alice", c, "")
	if err := errors.Join(c.Auth(ctx, m), c.Quit(ctx)); err != nil || !m.Valid() {
		t.Errorf("before TLS: %v", err)
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, kind := range []xdg.ChannelBindingType{xdg.ChannelBindingTLSServerEndpoint, xdg.ChannelBindingTLSExporter, ""} {
			c := dial(t, s)
			if err := c.StartTLS(ctx, &tls.Config{ServerName: "localhost", RootCAs: pool(ca), MinVersion: version, MaxVersion: version}); err != nil {
				t.Fatal(err)
			}
			if got := offered(t, c); got != "SCRAM-SHA-256-PLUS SCRAM-SHA-256 CRAM-MD5 PLAIN" {
				t.Errorf("inside TLS: %s", got)
			}
			m := newScramClient(t, "alice", c, kind)
			err := c.Auth(ctx, m)
			if version == tls.VersionTLS12 && kind == xdg.ChannelBindingTLSExporter {
				var se *client.ServerError
				if !errors.As(err, &se) || se.Code != "AUTH" || !strings.Contains(se.Text, "tls-exporter is not supported here, use tls-server-end-point") {
					t.Errorf("tls-exporter on TLS 1.2: %v", err)
				}
				continue
			}
			if err := errors.Join(err, c.Quit(ctx)); err != nil || !m.Valid() {
				t.Errorf("%s, %s: %v", tls.VersionName(version), kind, err)
			}
		}
	}
	refused := func(c *client.Client) {
		t.Helper()
		var se *client.ServerError
		if err := c.Auth(ctx, newScramClient(t, "nobody", c, "")); !errors.As(err, &se) || se.Code != "AUTH" || se.Text != "Authentication failed" {
			t.Errorf("an unknown user: %v", err)
		}
	}
	c = dial(t, s)
	refused(c)
	s.Shutdown(nil) // and with it the log
	for _, want := range []string{`mechanism=SCRAM-SHA-256-PLUS login=alice user=alice`, `note="no channel binding, the client says it can do none"`} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log does not tell %s:\n%s", want, log)
		}
	}
	if strings.Contains(log.String(), password) || strings.Contains(log.String(), "s3cret") {
		t.Error("a password is in the log")
	}
}

// firstMessage is what the server says of a login before anything is proven.
func firstMessage(t *testing.T, s *Server, login string) string {
	t.Helper()
	c := dial(t, s)
	m := newScramClient(t, login, c, "")
	said := &listener{scramClient: m}
	if err := c.Auth(t.Context(), said); err == nil && login != "alice" {
		t.Fatal("let in")
	}
	_, rest, _ := strings.Cut(said.heard, ",")
	return rest
}

// listener keeps the first challenge.
type listener struct {
	scramClient
	heard string
}

func (l *listener) Next(challenge []byte) ([]byte, error) {
	if l.heard == "" {
		l.heard = string(challenge)
	}
	return l.scramClient.Next(challenge)
}

// Who does not exist looks the same after a reload and a restart, and like one
// who does.
func TestRule160FakeSaltStays(t *testing.T) {
	t.Parallel()
	path, _ := boundFolder(t)
	s, _ := serve(t, path)
	before := firstMessage(t, s, "nobody")
	if err := s.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	again, _ := serve(t, path)
	for _, x := range []*Server{s, again} {
		if got := firstMessage(t, x, "nobody"); got != before {
			t.Errorf("%s, then %s", before, got)
		}
	}
	real := firstMessage(t, s, "alice")
	if len(real) != len(before) || !strings.HasSuffix(real, ",i=5000") || !strings.HasSuffix(before, ",i=5000") || real == before {
		t.Errorf("nobody has %s, alice %s", before, real)
	}
}

// Who logs in with a hash that is weaker than those of today gets a better one.
func TestRehash(t *testing.T) {
	t.Parallel()
	path, ca := boundFolder(t)
	s, log := serve(t, path)
	c := dial(t, s)
	ctx := t.Context()
	if err := c.StartTLS(ctx, &tls.Config{ServerName: "localhost", RootCAs: pool(ca)}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.Auth(ctx, plainClient{}), c.Quit(ctx)); err != nil {
		t.Fatal(err)
	}
	s.Shutdown(nil) // waits for the file
	users, err := os.ReadFile(filepath.Join(filepath.Dir(path), "users"))
	if err != nil || !strings.HasPrefix(string(users), "alice:$6$rounds=100000$") {
		t.Errorf("users file %q, %v\n%s", users, err, log)
	}
	if !strings.Contains(log.String(), `msg="password re-hashed" verifier=local login=alice scheme=sha512`) {
		t.Errorf("the log does not tell:\n%s", log)
	}
	fits, err := file.Fits(filepath.Join(filepath.Dir(path), "users"), "alice", authn.Password(password))
	if !fits || err != nil {
		t.Errorf("the password does not fit any more: %v", err)
	}
}

type plainClient struct{}

func (plainClient) Start() (string, []byte, error) {
	return "PLAIN", fmt.Appendf(nil, "\x00alice\x00%s", password), nil
}

func (plainClient) Next([]byte) ([]byte, error) { return nil, errors.New("asked again") }

// A reload takes up a rotated key, and a key that is gone leaves all as it was.
func TestReloadTakesRotatedKey(t *testing.T) {
	t.Parallel()
	path, _ := boundFolder(t)
	in := func(name string) string { return filepath.Join(filepath.Dir(path), name) }
	s, _ := serve(t, path)
	if err := file.Rotate(in("digests.key"), false, in("digests")); err != nil {
		t.Fatal(err)
	}
	if err := s.Reload(t.Context()); err != nil {
		t.Error(err)
	}
	if err := os.Rename(in("digests.key"), in("elsewhere")); err != nil {
		t.Fatal(err)
	}
	if err := s.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "verifiers[0]: ") {
		t.Errorf("without the key: %v", err)
	}
	c := dial(t, s)
	if err := c.Auth(t.Context(), newScramClient(t, "alice", c, "")); err != nil {
		t.Error(err)
	}
}

// A check warns of what works and should be mended.
func TestCheckWarnsOfFiles(t *testing.T) {
	t.Parallel()
	path, _ := boundFolder(t)
	r, err := Check(path)
	if err != nil || len(r.Warnings) != 0 {
		t.Fatal(r, err)
	}
	if err := file.SetSecret(filepath.Join(filepath.Dir(path), "digests"), "", "alice", "CRAM-MD5", authn.Password("s3cret")); err != nil {
		t.Fatal(err)
	}
	r, err = Check(path)
	if err != nil || !slices.ContainsFunc(r.Warnings, func(w error) bool {
		return strings.Contains(w.Error(), "k.yaml:10: verifiers[0]: ") && strings.Contains(w.Error(), "secrets that are readable in it: 1")
	}) {
		t.Errorf("got %v, %v", r, err)
	}
}

// What is offered and opens nothing is warned of where it is offered.
func TestCheckWarnsOfOffers(t *testing.T) {
	t.Parallel()
	path, _ := boundFolder(t)
	text := strings.Replace(bound, "SCRAM-SHA-256, CRAM-MD5, PLAIN", "SCRAM-SHA-256, SCRAM-SHA-1-PLUS, CRAM-MD5, APOP, PLAIN", 1)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := Check(path)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, w := range r.Warnings {
		got = append(got, w.Error())
	}
	if len(got) != 2 || !strings.Contains(got[0], "k.yaml:6: policies[0].offers[2]: nobody has a secret for SCRAM-SHA-1-PLUS") ||
		!strings.Contains(got[1], "k.yaml:6: policies[0].offers[4]: nobody has a secret for APOP") {
		t.Errorf("warned of %q", got)
	}
}
