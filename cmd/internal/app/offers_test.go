package app

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-sasl"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/file"
	"github.com/kpopd/kpopd/authn/oidc/oidctest"
	"github.com/kpopd/kpopd/authn/scram"
	"github.com/kpopd/kpopd/cmd/internal/certs"
	"github.com/kpopd/kpopd/cmd/internal/config"
	"github.com/kpopd/kpopd/krb5test"
	"github.com/kpopd/kpopd/pop3/client"
)

// everything offers whatever there is, and has somebody to judge it.
const everything = `listeners:
  - {name: start, address: "127.0.0.1:0", tls: starttls, policy: all, client_ca: ca.pem}
  - {name: implicit, address: "127.0.0.1:0", tls: implicit, policy: all, client_ca: ca.pem}
certificates:
  - {name: localhost, cert: cert.pem, key: key.pem}
policies:
  - {name: all, chain: all, offers: [OFFERS]}
chains:
  - {name: all, steps: [{use: local}, {use: tickets}, {use: cards}, {use: sso}]}
verifiers:
  - {name: local, type: file, users: users, digests: digests, digests_key: digests.key}
  - {name: tickets, type: principal, local_realms: [DEMO.TEST]}
  - {name: cards, type: certificate, certificate_rules: [{from: cn, match: '\w+'}]}
  - {name: sso, type: oidc, issuer: "https://sso.test", audiences: [kpopd], user_claim: preferred_username, keys: keys.json}
kerberos: {keytab: keytab, replay_cache: memory}
scram: {salt_key: salt.key}
throttle: {off: true}
maildrops: {root: mail}
`

// saslNames are those of the mechanisms of [everything] that AUTH takes.
var saslNames = []string{
	"GSSAPI", "CRAM-MD5", "GSS-SPNEGO", "SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-1",
	"OAUTHBEARER", "XOAUTH2", "EXTERNAL", "PLAIN", "LOGIN",
}

// offersAll is a server of [everything].
type offersAll struct {
	*Server
	log  *syncBuffer
	card tls.Certificate // of alice
	key  *oidctest.Key   // that signs tokens
}

func startOffersAll(t *testing.T) *offersAll {
	t.Helper()
	path := folder(t, strings.Replace(everything, "OFFERS", strings.Join(saslNames, ", ")+", APOP, USER", 1))
	in := func(name string) string { return filepath.Join(filepath.Dir(path), name) }
	s := &offersAll{key: oidctest.NewKey("one", "ES256")}
	ca, err := certs.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := ca.Issue("localhost")
	if err != nil {
		t.Fatal(err)
	}
	cardCert, cardKey, err := ca.IssueClient(certs.Person{CommonName: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	if s.card, err = tls.X509KeyPair(cardCert, cardKey); err != nil {
		t.Fatal(err)
	}
	kdc := krb5test.NewKDC("DEMO.TEST")
	kdc.AddService(service)
	if err := errors.Join(
		os.WriteFile(in("cert.pem"), cert, 0o600), os.WriteFile(in("key.pem"), key, 0o600), os.WriteFile(in("ca.pem"), ca.PEM(), 0o600),
		os.WriteFile(in("keys.json"), oidctest.Set(s.key), 0o600),
		kdc.WriteKeytab(in("keytab"), service), file.MakeKeyFile(in("salt.key")), file.MakeKeyFile(in("digests.key")),
		file.SetSecret(in("digests"), in("digests.key"), "bob", "CRAM-MD5", authn.Password("s3cret")),
		file.SetSecret(in("digests"), in("digests.key"), "bob", "APOP", authn.Password("s3cret")),
	); err != nil {
		t.Fatal(err)
	}
	for _, scheme := range scram.Schemes() {
		keys, err := scram.Make(scheme, authn.Password(password), 4096)
		if err != nil {
			t.Fatal(err)
		}
		if err := file.SetSecret(in("digests"), "", "alice", scheme, keys.Text()); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { // once the server has ended
		if t.Failed() {
			t.Logf("kpopd said:\n%s", s.log)
		}
	})
	s.Server, s.log = serve(t, path)
	return s
}

// dial is a client in the clear, after STLS or inside TLS, with alice's
// certificate or without one.
func (s *offersAll) dial(t *testing.T, stage string, card bool) *client.Client {
	t.Helper()
	cfg := &tls.Config{InsecureSkipVerify: true}
	if card {
		cfg.Certificates = []tls.Certificate{s.card}
	}
	listener := 0
	if stage == "implicit" {
		listener = 1
	}
	conn, err := net.Dial("tcp", s.Addrs()[listener].String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if stage == "implicit" {
		conn = tls.Client(conn, cfg)
	}
	c, err := client.New(t.Context(), conn, &client.Options{LongInitial: true})
	if err != nil {
		t.Fatal(err)
	}
	if stage == "after STLS" {
		if err := c.StartTLS(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

var errChallenged = errors.New("was challenged")

// curious is a client that only wants to know whether a mechanism begins.
type curious string

func (m curious) Start() (string, []byte, error) { return string(m), nil, nil }
func (m curious) Next(_ []byte) ([]byte, error)  { return nil, errChallenged }

func begins(t *testing.T, c *client.Client, m string) bool {
	t.Helper()
	defer c.Close()
	err := c.Auth(t.Context(), curious(m))
	var refused *client.ServerError
	if !errors.Is(err, errChallenged) && !errors.As(err, &refused) {
		t.Fatalf("AUTH %s: %v", m, err)
	}
	return refused == nil
}

// What is announced can be begun, and what is not announced cannot, at each stage
// of a connection (RFC 4422 section 3.2).
func TestRule167_ListIsNegotiable(t *testing.T) {
	t.Parallel()
	s := startOffersAll(t)
	for _, tt := range []struct {
		stage   string
		card    bool
		without []string
	}{
		{"in the clear", false, []string{"GSS-SPNEGO", "SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS", "OAUTHBEARER", "XOAUTH2", "EXTERNAL", "PLAIN", "LOGIN"}},
		{"after STLS", false, []string{"EXTERNAL"}},
		{"after STLS", true, nil},
		{"implicit", false, []string{"EXTERNAL"}},
		{"implicit", true, nil},
	} {
		c := s.dial(t, tt.stage, tt.card)
		capa, err := c.Capa(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		want := slices.DeleteFunc(slices.Clone(saslNames), func(m string) bool { return slices.Contains(tt.without, m) })
		if !slices.Equal(capa["SASL"], want) {
			t.Errorf("%s, card %v: SASL %v, want %v", tt.stage, tt.card, capa["SASL"], want)
		}
		// also what is no name of SASL, though a policy offers it
		for _, m := range append([]string{"APOP", "USER", "KPOP"}, saslNames...) {
			// each in a session of its own: too many refusals end one
			if got := begins(t, s.dial(t, tt.stage, tt.card), m); got != slices.Contains(capa["SASL"], m) {
				t.Errorf("%s, card %v: AUTH %s begins: %v", tt.stage, tt.card, m, got)
			}
		}
	}
}

// canned is a client that says what it is told to say.
type canned struct {
	mech    string
	message string
}

func (m canned) Start() (string, []byte, error) { return m.mech, []byte(m.message), nil }
func (m canned) Next([]byte) ([]byte, error)    { return []byte{1}, nil }

// An authorization identity with a NUL in it lets nobody in, though the proof
// beside it is good (RFC 4422 section 5); without the NUL the same message does.
func TestRule167_NoNULInTheAuthorizationIdentity(t *testing.T) {
	t.Parallel()
	s := startOffersAll(t)
	token := s.key.Sign(oidctest.Claims("https://sso.test", nil))
	for _, tt := range []struct{ mech, message string }{ // AUTHZID is to be the identity
		{"PLAIN", "AUTHZID\x00alice\x00" + password},
		{"EXTERNAL", "AUTHZID"},
		{"OAUTHBEARER", "n,a=AUTHZID,\x01auth=Bearer " + token + "\x01\x01"},
		{"XOAUTH2", "user=AUTHZID\x01auth=Bearer " + token + "\x01\x01"},
	} {
		for authzid, well := range map[string]bool{"alice": true, "alice\x00": false, "\x00alice": false, "ali\x00ce": false} {
			c := s.dial(t, "implicit", true)
			err := c.Auth(t.Context(), canned{tt.mech, strings.ReplaceAll(tt.message, "AUTHZID", authzid)})
			var refused *client.ServerError
			if err != nil && !errors.As(err, &refused) {
				t.Fatal(err)
			}
			if (err == nil) != well {
				t.Errorf("%s as %q: %v", tt.mech, authzid, err)
			}
			if err := c.Quit(t.Context()); err != nil {
				t.Error(err)
			}
		}
	}
	// SCRAM refuses before there is a proof
	for authzid, well := range map[string]bool{"alice": true, "alice\x00": false, "ali\x00ce": false} {
		c := s.dial(t, "implicit", false)
		first := base64.StdEncoding.EncodeToString([]byte("n,a=" + authzid + ",n=alice,r=rOprNGfwEbeRWgbNEkqO"))
		if err := c.Send(t.Context(), "AUTH SCRAM-SHA-256 "+first); err != nil {
			t.Fatal(err)
		}
		c.Conn().SetDeadline(time.Now().Add(time.Minute))
		answer := make([]byte, 2)
		if _, err := c.Read(answer); err != nil {
			t.Fatal(err)
		}
		if bytes.HasPrefix(answer, []byte("+ ")) != well {
			t.Errorf("SCRAM as %q: answered %q", authzid, answer)
		}
	}
}

// ANONYMOUS (RFC 4505) lets nobody in, whatever its trace says, and cannot be
// configured; SECURID (RFC 2808) is not there either, and no session becomes
// another user's (RFC 8437 is IMAP's).
func TestRule165And169_NotThere(t *testing.T) {
	t.Parallel()
	s := startOffersAll(t)
	for _, stage := range []string{"in the clear", "after STLS", "implicit"} {
		c := s.dial(t, stage, true)
		if list := offered(t, c); strings.Contains(list, "ANONYMOUS") || strings.Contains(list, "SECURID") {
			t.Errorf("%s: SASL %s", stage, list)
		}
		for _, tt := range []sasl.Client{
			canned{"ANONYMOUS", "sirhc"}, canned{"ANONYMOUS", ""}, canned{"SECURID", "alice\x00alice\x00123456\x00"},
		} {
			var refused *client.ServerError
			if err := s.dial(t, stage, true).Auth(t.Context(), tt); !errors.As(err, &refused) || refused.Code == "SYS/TEMP" {
				t.Errorf("%s: %v: %v", stage, tt, err)
			}
		}
		if stage == "in the clear" {
			continue
		}
		if err := c.Auth(t.Context(), sasl.NewPlainClient("", "alice", password)); err != nil {
			t.Fatal(err)
		}
		for _, command := range []string{"UNAUTHENTICATE", "AUTH PLAIN", "AUTH ANONYMOUS", "USER bob", "STLS"} {
			var refused *client.ServerError
			if _, err := c.Cmd(t.Context(), command); !errors.As(err, &refused) {
				t.Errorf("%s: %s after the login: %v", stage, command, err)
			}
		}
		if _, _, err := c.Stat(t.Context()); err != nil {
			t.Errorf("%s: the session did not live on: %v", stage, err)
		}
		if err := c.Quit(t.Context()); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"ANONYMOUS", "SECURID"} {
		_, err := config.Load(folder(t, strings.Replace(base, "[USER]", "[USER, "+name+"]", 1)))
		if err == nil || !strings.Contains(err.Error(), "k.yaml:4: policies[0].offers[1]: ") {
			t.Errorf("%s in a policy: %v", name, err)
		}
	}
	s.Shutdown(nil)
	if strings.Contains(s.log.String(), "sirhc") {
		t.Error("a trace that nobody asked for is in the log")
	}
}
