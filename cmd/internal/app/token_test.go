package app

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/emersion/go-sasl"

	"github.com/kpopd/kpopd/authn/oidc/oidctest"
	"github.com/kpopd/kpopd/cmd/internal/certs"
	"github.com/kpopd/kpopd/pop3/client"
)

const tokens = `listeners:
  - {name: pop3, address: "127.0.0.1:0", tls: starttls, policy: internet}
certificates:
  - {name: x, cert: x.crt, key: x.key}
policies:
  - {name: internet, chain: sso, offers: [OAUTHBEARER, XOAUTH2, USER]}
chains:
  - {name: sso, steps: [{use: local}, {use: sso}, {use: asked}]}
verifiers:
  - {name: local, type: file, users: users}
  - name: sso
    type: oidc
    issuer: ISSUER
    audiences: [kpopd]
    scopes: [mail]
    user_claim: email
    mail_domains: [campus.example]
    keys: ISSUER/keys
    key_cache: keys.json
    ca: ca.pem
  - {name: asked, type: oidc, user_claim: preferred_username, scopes: [mail], introspection: ISSUER/introspect, client_id: kpopd, client_secret: secret, ca: ca.pem}
oauth: {scope: mail}
maildrops: {root: mail}
limits: {failures: 100}
`

// campusLogin is a server that takes tokens of an issuer.
type campusLogin struct {
	*Server
	issuer *oidctest.Issuer
	key    *oidctest.Key
	path   string // of the configuration
	log    *syncBuffer
	roots  *x509.CertPool
}

func startTokens(t *testing.T) *campusLogin {
	t.Helper()
	c := &campusLogin{key: oidctest.NewKey("one", "ES256"), roots: x509.NewCertPool()}
	c.issuer = oidctest.Start(t, c.key)
	ca, err := certs.NewAuthority("test CA")
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := ca.Issue("mail.example")
	if err != nil {
		t.Fatal(err)
	}
	c.roots.AppendCertsFromPEM(ca.PEM())
	c.path = folder(t, strings.ReplaceAll(tokens, "ISSUER", c.issuer.URL))
	for name, content := range map[string][]byte{"x.crt": cert, "x.key": key, "ca.pem": c.issuer.CA(), "secret": []byte(c.issuer.Secret)} {
		if err := os.WriteFile(filepath.Join(filepath.Dir(c.path), name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c.Server, c.log = serve(t, c.path)
	return c
}

// dial is a client inside TLS. long lets it send an initial response of any
// length.
func (c *campusLogin) dial(t *testing.T, long bool) *client.Client {
	t.Helper()
	conn, err := net.Dial("tcp", c.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	p, err := client.New(t.Context(), conn, &client.Options{LongInitial: long})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.StartTLS(t.Context(), &tls.Config{RootCAs: c.roots, ServerName: "mail.example"}); err != nil {
		t.Fatal(err)
	}
	return p
}

// login is a session that logs in and quits.
func (c *campusLogin) login(t *testing.T, m sasl.Client) error {
	t.Helper()
	p := c.dial(t, false)
	if err := p.Auth(t.Context(), m); err != nil {
		return err
	}
	return p.Quit(t.Context())
}

// token is one for alice of about so many octets.
func (c *campusLogin) token(octets int) string {
	return c.key.Sign(oidctest.Claims(c.issuer.URL, map[string]any{"groups": strings.Repeat("x", octets*3/4)}))
}

// legacy is a client of XOAUTH2.
type legacy struct {
	login, token string
	told         []byte // before it was refused
}

func (l *legacy) Start() (string, []byte, error) {
	return "XOAUTH2", []byte("user=" + l.login + "\x01auth=Bearer " + l.token + "\x01\x01"), nil
}

func (l *legacy) Next(challenge []byte) ([]byte, error) {
	l.told = bytes.Clone(challenge)
	return nil, nil
}

func bearer(login, token string) sasl.Client {
	return sasl.NewOAuthBearerClient(&sasl.OAuthBearerOptions{Username: login, Token: token, Host: "mail.example", Port: 110})
}

// Tokens of some length, and longer than any command line, at once and on a line
// of their own.
func TestRule164Login(t *testing.T) {
	t.Parallel()
	c := startTokens(t)
	c.issuer.Know("opaque", oidctest.Claims(c.issuer.URL, nil))
	for _, long := range []bool{false, true} {
		for _, octets := range []int{0, 255, 16 << 10, 40 << 10} {
			for _, m := range []sasl.Client{
				bearer("alice@campus.example", c.token(octets)), bearer("", c.token(octets)), &legacy{login: "alice", token: c.token(octets)},
			} {
				p := c.dial(t, long)
				if err := p.Auth(t.Context(), m); err != nil {
					t.Errorf("%d octets, %T: %v", octets, m, err)
				}
				if err := p.Quit(t.Context()); err != nil {
					t.Error(err)
				}
			}
		}
	}
	if err := c.login(t, bearer("alice", "opaque")); err != nil {
		t.Error("the token that the issuer is asked about:", err)
	}
	if n := c.issuer.Asked(oidctest.KeysPath); n != 1 {
		t.Errorf("asked %d times for keys", n)
	}
	c.Shutdown(nil)
	for _, secret := range []string{c.token(0)[:20], "opaque", c.issuer.Secret} {
		if strings.Contains(c.log.String(), secret) {
			t.Errorf("%q is in the log", secret)
		}
	}
	for _, want := range []string{"mechanism=OAUTHBEARER login=alice@campus.example user=alice step=sso", "mechanism=XOAUTH2 login=alice user=alice step=sso", "step=asked", `msg="key set renewed" verifier=sso`} {
		if !strings.Contains(c.log.String(), want) {
			t.Errorf("the log does not say %s", want)
		}
	}
}

func TestRule164Refused(t *testing.T) {
	t.Parallel()
	c := startTokens(t)
	alien := oidctest.NewKey("one", "ES256").Sign(oidctest.Claims(c.issuer.URL, nil))
	p := c.dial(t, true)
	for name, m := range map[string]*legacy{
		"another user": {login: "bob", token: c.token(0)}, "another one's signature": {login: "alice", token: alien},
		"nothing like a token": {login: "alice", token: "x"}, "no token": {login: "alice"},
	} {
		err := p.Auth(t.Context(), m)
		var refused *client.ServerError
		if !errors.As(err, &refused) || refused.Code != "AUTH" || string(m.told) != `{"status":"401","schemes":"bearer","scope":"mail"}` {
			t.Errorf("%s: %v, told %q", name, err, m.told)
		}
	}
	// whatever the client answers to the reason
	for _, answer := range []string{"", "AQ==", "*", "=", "!"} {
		if err := p.Send(t.Context(), "AUTH OAUTHBEARER bixhPWFsaWNlLAFhdXRoPUJlYXJlciB4AQE="); err != nil {
			t.Fatal(err)
		}
		reason, err := p.Reply(t.Context())
		if err == nil {
			t.Fatalf("accepted: %s", reason)
		}
		if _, err = p.Cmd(t.Context(), answer); err == nil {
			t.Fatalf("accepted after %q", answer)
		}
		var refused *client.ServerError
		if !errors.As(err, &refused) || refused.Code != "AUTH" {
			t.Errorf("after %q: %v", answer, err)
		}
	}
	// none of which stopped the session
	if err := p.Auth(t.Context(), bearer("alice", c.token(0))); err != nil {
		t.Error(err)
	}
}

// The issuer is down, for keys and for questions: nobody hears that his token is
// wrong, and who had the keys before a reload or a restart has them after it.
func TestRule147IssuerIsDown(t *testing.T) {
	t.Parallel()
	c := startTokens(t)
	down := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }
	c.issuer.Fail(down)
	for _, m := range []sasl.Client{bearer("alice", c.token(0)), &legacy{login: "alice", token: "opaque"}} {
		err := c.login(t, m)
		var refused *client.ServerError
		if !errors.As(err, &refused) || refused.Code != "SYS/TEMP" {
			t.Errorf("%T: %v", m, err)
		}
		if l, ok := m.(*legacy); ok && l.told != nil {
			t.Errorf("told %q", l.told)
		}
	}
	c.issuer.Fail(nil)
	if err := c.Reload(t.Context()); err != nil { // which forgets when it asked last
		t.Fatal(err)
	}
	if err := c.login(t, bearer("alice", c.token(0))); err != nil {
		t.Error("when it is up:", err)
	}
	c.issuer.Fail(down)
	if err := c.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.login(t, bearer("alice", c.token(0))); err != nil {
		t.Error("down after a reload:", err)
	}
	s, _ := serve(t, c.path)
	c.Server = s
	if err := c.login(t, bearer("alice", c.token(0))); err != nil {
		t.Error("down after a restart:", err)
	}
}

func TestTokensAreOfferedInsideTLSOnly(t *testing.T) {
	t.Parallel()
	c := startTokens(t)
	r, err := Check(c.path)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	r.Explain(&b)
	want := fmt.Sprintf(`listener pop3, %s, policy internet
  in the clear: nothing
    not OAUTHBEARER: it shows a token, start TLS first
    not XOAUTH2: it shows a token, start TLS first
    not USER: it shows a password in the clear, start TLS first
  inside TLS: OAUTHBEARER XOAUTH2 USER
`, "127.0.0.1:0")
	if !strings.HasPrefix(b.String(), want) {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	if n := c.issuer.Asked(oidctest.KeysPath); n != 0 {
		t.Error("a check asks the issuer")
	}
}
