package scram

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"net"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	xdg "github.com/xdg-go/scram"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/authntest"
)

const testIterations = MinIterations

var saltKey = authn.Password("sixteen octets of a key")

// secrets has alice, ümit and bob, who has keys with more iterations and no
// keys for SHA-1. The password is "pw-" and the name.
func secrets(t testing.TB) *authntest.Fake {
	t.Helper()
	f := &authntest.Fake{Secrets: map[string]map[string]string{"SCRAM-SHA-1": {}, "SCRAM-SHA-256": {}}}
	add := func(scheme, login string, iterations int) {
		k, err := Make(scheme, authn.Password("pw-"+login), iterations)
		if err != nil {
			t.Fatal(err)
		}
		f.Secrets[scheme][login] = string(k.Text())
	}
	add("SCRAM-SHA-1", "alice", testIterations)
	add("SCRAM-SHA-256", "alice", testIterations)
	add("SCRAM-SHA-256", "ümit", testIterations)
	add("SCRAM-SHA-256", "bob", 2*testIterations)
	return f
}

func options(chain authn.Chain) Options {
	return Options{Chain: chain, Offers: Names(), SaltKey: saltKey, Iterations: testIterations}
}

func mustNew(t testing.TB, name string, o Options) *mechanism {
	t.Helper()
	m, err := New(name, o)
	if err != nil {
		t.Fatal(err)
	}
	return m.(*mechanism)
}

// start is a login by a mechanism at its first step, through a policy.
func start(t testing.TB, m authn.Mechanism, tr *authn.Transport, r *authntest.Recorder) *authn.Login {
	t.Helper()
	p := &authn.Policy{Name: "test", Offers: []authn.Mechanism{m}}
	if r != nil {
		p.Trace = r.Trace()
	}
	l, err := p.Start(t.Context(), tr, m.Name())
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// xdgClient is a client that somebody else wrote.
type xdgClient struct {
	name string
	*xdg.ClientConversation
}

func (c xdgClient) Start() (string, []byte, error) {
	first, err := c.Step("")
	return c.name, []byte(first), err
}

func (c xdgClient) Next(challenge []byte) ([]byte, error) {
	s, err := c.Step(string(challenge))
	return []byte(s), err
}

// client is that of a mechanism; kind is "" to bind to nothing.
func client(t testing.TB, name, login, password, authzid string, kind string, state *tls.ConnectionState) xdgClient {
	t.Helper()
	h := xdg.SHA256
	if strings.HasPrefix(name, "SCRAM-SHA-1") {
		h = xdg.SHA1
	}
	c, err := h.NewClient(login, password, authzid)
	if err != nil {
		t.Fatal(err)
	}
	var cb xdg.ChannelBinding
	switch kind {
	case "":
		return xdgClient{name, c.NewConversation()}
	case "y":
		return xdgClient{name, c.NewConversationAdvertisingChannelBinding()}
	case "tls-exporter":
		cb, err = xdg.NewTLSExporterBinding(state)
	case "tls-server-end-point":
		cb, err = xdg.NewTLSServerEndpointBinding(state)
	case "tls-unique":
		cb = xdg.NewTLSUniqueBinding([]byte("0123456789ab"))
	}
	if err != nil {
		t.Fatal(err)
	}
	return xdgClient{name, c.NewConversationWithChannelBinding(cb)}
}

// ends are the two ends of a TLS connection.
type ends struct {
	server *authn.Transport
	client tls.ConnectionState
}

// certificate is for localhost, signed by itself.
type certificate struct {
	tls.Certificate
	endPoint []byte
}

func newCertificate(t testing.TB) certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(time.Hour),
		SignatureAlgorithm: x509.ECDSAWithSHA256,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(der)
	return certificate{tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, sum[:]}
}

func connect(t testing.TB, version uint16) ends {
	t.Helper()
	cert := newCertificate(t)
	a, b := net.Pipe()
	t.Cleanup(func() { a.Close(); b.Close() })
	s := tls.Server(a, &tls.Config{Certificates: []tls.Certificate{cert.Certificate}, MinVersion: version, MaxVersion: version})
	c := tls.Client(b, &tls.Config{InsecureSkipVerify: true})
	shook := make(chan error, 1)
	go func() { shook <- s.Handshake() }()
	if err := errors.Join(c.Handshake(), <-shook); err != nil {
		t.Fatal(err)
	}
	state := s.ConnectionState()
	return ends{&authn.Transport{TLS: &state, EndPoint: cert.endPoint}, c.ConnectionState()}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	tlsEnds := connect(t, tls.VersionTLS13)
	for _, name := range Names() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			kind := ""
			if strings.HasSuffix(name, plusSuffix) {
				kind = "tls-exporter"
			}
			authntest.RunMechanism(t, authntest.Case{
				Mechanism: mustNew(t, name, options(secrets(t).Chain())), Transport: *tlsEnds.server, User: "alice",
				Good: func(t *testing.T) sasl.Client {
					return client(t, name, "alice", "pw-alice", "", kind, &tlsEnds.client)
				},
				Bad: func(t *testing.T) sasl.Client { return client(t, name, "alice", "pw-bob", "", kind, &tlsEnds.client) },
			})
		})
	}
}

// The exchanges of RFC 5802 section 5 and RFC 7677 section 3, octet for octet,
// with keys made of their password "pencil".
func TestRule160ExamplesOfTheRFCs(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, salt, nonce, c1, s1, c2, s2 string }{
		{
			"SCRAM-SHA-1", "QSXCR+Q6sek8bf92", "3rfcNHYJY1ZVvWVs7j",
			"n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
			"r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
			"c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
			"v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
		},
		{
			"SCRAM-SHA-256", "W22ZaJ0SNY7soEsUEjb6gQ==", "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
			"n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
			"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
			"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
			"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			salt, err := base64.StdEncoding.DecodeString(tt.salt)
			if err != nil {
				t.Fatal(err)
			}
			k, err := derive(hashOf(tt.name), "pencil", salt, 4096)
			if err != nil {
				t.Fatal(err)
			}
			f := &authntest.Fake{Secrets: map[string]map[string]string{tt.name: {"user": string(k.Text())}}}
			ex, err := mustNew(t, tt.name, options(f.Chain())).Start(t.Context(), &authn.Transport{})
			if err != nil {
				t.Fatal(err)
			}
			ex.(*exchange).nonce = tt.nonce
			got, done, err := ex.Next(t.Context(), []byte(tt.c1))
			if string(got) != tt.s1 || done || err != nil {
				t.Fatalf("got %q, %v, %v", got, done, err)
			}
			got, done, err = ex.Next(t.Context(), []byte(tt.c2))
			if string(got) != tt.s2 || !done || err != nil || ex.Identity().User != "user" {
				t.Errorf("got %q, %v, %v", got, done, err)
			}
		})
	}
}

// Everything that a client may say first, and what becomes of it.
func TestRule160FirstMessage(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, first string
		want        authn.Kind // Internal when the exchange goes on
	}{
		{"the usual", "n,,n=alice,r=abc", 0},
		{"authzid", "n,a=alice,n=alice,r=abc", 0},
		{"escapes", "n,a=a=2Cb=3D,n=c=3D2C,r=abc", 0},
		{"extension", "n,,n=alice,r=abc,x=1,y2=3", authn.Malformed},
		{"extension of one letter", "n,,n=alice,r=abc,x=1=2,Z=3", 0},
		{"client that binds elsewhere", "y,,n=alice,r=abc", 0},
		{"nothing but a header", "n,,", authn.Malformed},
		{"no header", "n=alice,r=abc", authn.Malformed},
		{"unknown flag", "x,,n=alice,r=abc", authn.Malformed},
		{"upper case flag", "N,,n=alice,r=abc", authn.Malformed},
		{"binding under the plain name", "p=tls-exporter,,n=alice,r=abc", authn.Malformed},
		{"binding of no type", "p=,,n=alice,r=abc", authn.Malformed},
		{"mandatory extension", "n,,m=x,n=alice,r=abc", authn.Malformed},
		{"mandatory extension at the end", "n,,n=alice,r=abc,m=x", authn.Malformed},
		{"nonce before name", "n,,r=abc,n=alice", authn.Malformed},
		{"authzid without its letter", "n,alice,n=alice,r=abc", authn.Malformed},
		{"empty authzid", "n,a=,n=alice,r=abc", 0},
		{"empty name", "n,,n=,r=abc", authn.Malformed},
		{"empty nonce", "n,,n=alice,r=", authn.Malformed},
		{"space in the nonce", "n,,n=alice,r=a b", authn.Malformed},
		{"8 bits in the nonce", "n,,n=alice,r=aü", authn.Malformed},
		{"equals sign that is no escape", "n,,n=a=b,r=abc", authn.Malformed},
		{"escape in lower case", "n,,n=a=2cb,r=abc", authn.Malformed},
		{"escape that ends too soon", "n,,n=a=2,r=abc", authn.Malformed},
		{"proof already", "n,,n=alice,r=abc,p=AAAA", authn.Malformed},
		{"line end", "n,,n=alice,r=abc\r\n", authn.Malformed},
		{"NUL", "n,,n=ali\x00ce,r=abc", authn.Malformed},
		{"no UTF-8", "n,,n=ali\xFFce,r=abc", authn.Malformed},
		{"longer than any", "n,,n=alice,r=" + strings.Repeat("a", maxMessage), authn.Malformed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := start(t, mustNew(t, "SCRAM-SHA-256", options(secrets(t).Chain())), &authn.Transport{}, nil)
			challenge, done, err := l.Next(t.Context(), []byte(tt.first))
			if done || (err == nil) != (tt.want == 0) || err != nil && authn.KindOf(err) != tt.want {
				t.Fatalf("got %q, %v, %v", challenge, done, err)
			}
			if err == nil && !strings.HasPrefix(string(challenge), "r=abc") {
				t.Errorf("challenge %q", challenge)
			}
		})
	}
}

// Names are read once and in one way, and the log tells an extension from a
// message that is none.
func TestRule160Reading(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"n,,m=x,n=alice,r=abc", "n,,n=alice,r=abc,m=x"} {
		if _, err := parseFirst([]byte(s)); !errors.Is(err, errExtension) {
			t.Errorf("%q: %v", s, err)
		}
	}
	m, err := parseFirst([]byte("n,a=x=2Cy,n=a=3D2C=2C,r=abc"))
	if err != nil || m.authzid != "x,y" || m.user != "a=2C," {
		t.Errorf("got %+v, %v", m, err)
	}
}

// final changes the last message of a client that has the right password.
type final struct {
	xdgClient
	change func(string) string
	n      *int
}

func (c final) Next(challenge []byte) ([]byte, error) {
	b, err := c.xdgClient.Next(challenge)
	if *c.n++; *c.n == 1 {
		b = []byte(c.change(string(b)))
	}
	return b, err
}

func TestRule160FinalMessage(t *testing.T) {
	t.Parallel()
	replace := func(old, new string) func(string) string {
		return func(s string) string { return strings.Replace(s, old, new, 1) }
	}
	for _, tt := range []struct {
		name   string
		change func(string) string
		want   authn.Kind
	}{
		{"another nonce", replace("r=", "r=x"), authn.Malformed},
		{"a nonce that is the client's alone", func(s string) string {
			i, j := strings.Index(s, "r="), strings.Index(s, ",p=")
			return s[:i+2+20] + s[j:]
		}, authn.Malformed},
		{"the header of a client that could bind", replace("c=biws", "c=eSws"), authn.Denied},
		{"no base64", replace("c=biws", "c=bi*s"), authn.Malformed},
		{"base64 that does not end well", replace("c=biws", "c=biwsbg"), authn.Malformed},
		{"no binding", replace("c=biws,", ""), authn.Malformed},
		{"binding after the nonce", func(s string) string {
			f := strings.Split(s, ",")
			f[0], f[1] = f[1], f[0]
			return strings.Join(f, ",")
		}, authn.Malformed},
		{"mandatory extension", replace(",p=", ",m=x,p="), authn.Malformed},
		{"extension that nobody signed", replace(",p=", ",x=1,p="), authn.Rejected},
		{"two proofs", func(s string) string { return s + s[strings.Index(s, ",p="):] }, authn.Malformed},
		{"no proof", func(s string) string { return s[:strings.Index(s, ",p=")] }, authn.Malformed},
		{"something after the proof", func(s string) string { return s + ",x=1" }, authn.Malformed},
		{"proof that is too short", func(s string) string { return s[:strings.Index(s, ",p=")] + ",p=AAAA" }, authn.Rejected},
		{"proof of zeros", func(s string) string {
			return s[:strings.Index(s, ",p=")] + ",p=" + base64.StdEncoding.EncodeToString(make([]byte, 32))
		}, authn.Rejected},
		{"nothing", func(string) string { return "" }, authn.Malformed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := start(t, mustNew(t, "SCRAM-SHA-256", options(secrets(t).Chain())), &authn.Transport{}, nil)
			c := final{client(t, "SCRAM-SHA-256", "alice", "pw-alice", "", "", nil), tt.change, new(int)}
			err := authntest.Converse(t.Context(), l, c)
			if err == nil || authn.KindOf(err) != tt.want || l.Identity() != nil {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

func TestRule160Users(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, login, password, authzid string
		want                           authn.Kind // Internal when user is let in
		user                           string
	}{
		{"right password", "alice", "pw-alice", "", 0, "alice"},
		{"as himself", "alice", "pw-alice", "alice", 0, "alice"},
		{"as somebody else", "alice", "pw-alice", "bob", authn.Denied, ""},
		{"as what is no login", "alice", "pw-alice", "a,b", authn.Denied, ""},
		{"wrong password, as somebody else", "alice", "x", "bob", authn.Rejected, ""},
		{"another form of Unicode", "u\u0308mit", "pw-\u00fcmit", "", 0, "\u00fcmit"},
		{"more iterations", "bob", "pw-bob", "", 0, "bob"},
		{"wrong password", "alice", "pw-bob", "", authn.Rejected, ""},
		{"unknown user", "nobody", "pw-nobody", "", authn.UnknownUser, ""},
		{"name that is no login", "a,b=c", "x", "", authn.UnknownUser, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var r authntest.Recorder
			l := start(t, mustNew(t, "SCRAM-SHA-256", options(secrets(t).Chain())), &authn.Transport{}, &r)
			c := client(t, "SCRAM-SHA-256", tt.login, tt.password, tt.authzid, "", nil)
			err := authntest.Converse(t.Context(), l, c)
			if (err == nil) != (tt.user != "") || err != nil && authn.KindOf(err) != tt.want {
				t.Fatalf("got %v", err)
			}
			if err == nil && (l.Identity().User != tt.user || l.Identity().Mechanism != "SCRAM-SHA-256" || !c.Valid()) {
				t.Errorf("got %+v, the client believes the server: %v", l.Identity(), c.Valid())
			}
			var e *authn.Error
			if errors.As(err, &e) && e.Text != "" { // rule 141
				t.Errorf("the client is told %q", e.Text)
			}
			if len(r.Attempts) != 1 || err != nil && r.Attempts[0].Login == "" {
				t.Errorf("traced %+v", r.Attempts)
			}
		})
	}
}

// The signature goes in a challenge, the client answers it with an empty line.
func TestRule133SignatureIsAChallenge(t *testing.T) {
	t.Parallel()
	for _, answer := range []string{"", "x"} {
		l := start(t, mustNew(t, "SCRAM-SHA-256", options(secrets(t).Chain())), &authn.Transport{}, nil)
		c := client(t, "SCRAM-SHA-256", "alice", "pw-alice", "", "", nil)
		if challenge, done, err := l.Next(t.Context(), nil); len(challenge) != 0 || done || err != nil { // rule 128
			t.Fatalf("got %q, %v, %v", challenge, done, err)
		}
		_, response, err := c.Start()
		for range 2 {
			var challenge []byte
			var done bool
			if err != nil {
				t.Fatal(err)
			}
			if challenge, done, err = l.Next(t.Context(), response); done || err != nil {
				t.Fatal(done, err)
			}
			response, err = c.Next(challenge)
		}
		if !c.Valid() || l.Identity() != nil {
			t.Fatalf("before the last line: valid %v, identity %v", c.Valid(), l.Identity())
		}
		_, done, err := l.Next(t.Context(), []byte(answer))
		if done != (answer == "") || (err == nil) != (answer == "") {
			t.Errorf("%q: %v, %v", answer, done, err)
		}
	}
}

// offerOf is what a client is told of a login.
func offerOf(t *testing.T, m authn.Mechanism, login string) (salt string, iterations string) {
	t.Helper()
	l := start(t, m, &authn.Transport{}, nil)
	b, _, err := l.Next(t.Context(), []byte("n,,n="+login+",r=abc"))
	if err != nil {
		t.Fatal(err)
	}
	l.Abort(t.Context(), nil)
	f := strings.Split(string(b), ",")
	if len(f) != 3 || len(f[0]) != len("r=abc")+26 {
		t.Fatalf("challenge %q", b)
	}
	return f[1], f[2]
}

// Nobody is like somebody: the same salt at each try, after a restart and on
// another server with the key, another one for another name and another
// mechanism, and of the shape that real ones have.
func TestRule160FakeSalt(t *testing.T) {
	t.Parallel()
	chain := secrets(t).Chain()
	o := options(chain)
	m := mustNew(t, "SCRAM-SHA-256", o)
	salt, iterations := offerOf(t, m, "nobody")
	real, realIterations := offerOf(t, m, "alice")
	if len(salt) != len(real) || iterations != realIterations {
		t.Errorf("nobody has %s %s, alice %s %s", salt, iterations, real, realIterations)
	}
	again, _ := offerOf(t, mustNew(t, "SCRAM-SHA-256", options(secrets(t).Chain())), "nobody")
	if again != salt {
		t.Error("another server has another salt")
	}
	o.SaltKey = authn.Password("sixteen octets of another")
	others := []string{real, salt}
	for _, x := range []struct {
		m     authn.Mechanism
		login string
	}{
		{m, "nobody2"}, {mustNew(t, "SCRAM-SHA-1", options(chain)), "nobody"}, {mustNew(t, "SCRAM-SHA-256", o), "nobody"}, {m, "a=2Cb"},
	} {
		s, _ := offerOf(t, x.m, x.login)
		if slices.Contains(others, s) {
			t.Errorf("%s of %s has the salt of another", x.m.Name(), x.login)
		}
		others = append(others, s)
	}
	// a user without keys for this mechanism has a salt like nobody
	sha1 := mustNew(t, "SCRAM-SHA-1", options(chain))
	one, _ := offerOf(t, sha1, "bob")
	two, _ := offerOf(t, sha1, "bob")
	if one != two {
		t.Error("a user without keys has another salt each time")
	}
}

// The server's part of the nonce is new each time, and printable.
func TestRule160Nonce(t *testing.T) {
	t.Parallel()
	m := mustNew(t, "SCRAM-SHA-256", options(secrets(t).Chain()))
	form := regexp.MustCompile(`^r=abc([!-+--~]{20,}),s=`)
	seen := map[string]bool{}
	for range 1000 {
		ex, err := m.Start(t.Context(), &authn.Transport{})
		if err != nil {
			t.Fatal(err)
		}
		challenge, _, err := ex.Next(t.Context(), []byte("n,,n=nobody,r=abc"))
		f := form.FindSubmatch(challenge)
		if err != nil || f == nil || seen[string(f[1])] {
			t.Fatalf("challenge %q, %v", challenge, err)
		}
		seen[string(f[1])] = true
	}
}

type surveyor struct {
	*authntest.Fake
	shape map[string]Shape
}

func (s surveyor) KeyShape(scheme string) (Shape, bool) {
	x, ok := s.shape[scheme]
	return x, ok
}

func TestRule160FakeShape(t *testing.T) {
	t.Parallel()
	v := surveyor{secrets(t), map[string]Shape{"SCRAM-SHA-256": {12345, 33}}}
	chain := authn.Chain{{Verifier: &authntest.Fake{}}, {Verifier: v}}
	for _, tt := range []struct {
		scheme     string
		iterations int
		want       string
		salt       int
	}{
		{"SCRAM-SHA-256", 7777, "i=12345", 33},
		{"SCRAM-SHA-1", 7777, "i=7777", 16},
		{"SCRAM-SHA-1", 0, fmt.Sprintf("i=%d", DefaultIterations), 16},
	} {
		o := options(chain)
		o.Iterations = tt.iterations
		salt, iterations := offerOf(t, mustNew(t, tt.scheme, o), "nobody")
		b, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(salt, "s="))
		if iterations != tt.want || len(b) != tt.salt || err != nil {
			t.Errorf("%+v: got %s and a salt of %d octets", tt, iterations, len(b))
		}
	}
}

// What is known only at the end, such as that a user is locked, shows only
// there; what says nothing of the user shows at once.
func TestRule147WhenARefusalShows(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		err   error
		want  authn.Kind
		first bool
	}{
		{&authn.Error{Kind: authn.Denied, Step: "f"}, authn.Denied, false},
		{&authn.Error{Kind: authn.Expired, Step: "f"}, authn.Expired, false},
		{&authn.Error{Kind: authn.Rejected, Step: "f"}, authn.Rejected, false},
		{&authn.Error{Kind: authn.Unavailable, Step: "f"}, authn.Unavailable, true},
		{errors.New("nobody classified this"), authn.Internal, true},
		{context.DeadlineExceeded, authn.Unavailable, true},
		{&authn.Error{Kind: authn.Throttled, Step: "f"}, authn.Throttled, true},
	} {
		f := &authntest.Fake{Err: tt.err}
		l := start(t, mustNew(t, "SCRAM-SHA-256", options(f.Chain())), &authn.Transport{}, nil)
		c := client(t, "SCRAM-SHA-256", "alice", "pw-alice", "", "", nil)
		_, first, _ := c.Start()
		challenge, _, err := l.Next(t.Context(), first)
		if (err != nil) != tt.first {
			t.Errorf("%v: first answer %q, %v", tt.err, challenge, err)
			continue
		}
		if err == nil {
			second, cerr := c.Next(challenge)
			if cerr != nil {
				t.Fatal(cerr)
			}
			_, _, err = l.Next(t.Context(), second)
		}
		if err == nil || authn.KindOf(err) != tt.want {
			t.Errorf("%v: got %v", tt.err, err)
		}
	}
}

// A source that hands out something else is broken, and says nothing of the
// password.
func TestBrokenKeysAreAnOutage(t *testing.T) {
	t.Parallel()
	good := secrets(t).Secrets
	for _, text := range []string{"pw-alice", good["SCRAM-SHA-1"]["alice"], "SCRAM-SHA-256$4096:AAAA$AAAA:AAAA"} {
		f := &authntest.Fake{Secrets: map[string]map[string]string{"SCRAM-SHA-256": {"alice": text}}}
		l := start(t, mustNew(t, "SCRAM-SHA-256", options(f.Chain())), &authn.Transport{}, nil)
		_, _, err := l.Next(t.Context(), []byte("n,,n=alice,r=abc"))
		if err == nil || authn.KindOf(err) != authn.Internal || strings.Contains(err.Error(), "pw-") {
			t.Errorf("got %v", err)
		}
	}
}

func TestRule161Bindings(t *testing.T) {
	t.Parallel()
	tls12, tls13, other := connect(t, tls.VersionTLS12), connect(t, tls.VersionTLS13), connect(t, tls.VersionTLS13)
	for _, tt := range []struct {
		name   string
		mech   string
		kind   string
		server ends
		client ends
		want   authn.Kind // Internal when alice is let in
		says   string     // to the client
		note   string     // to the log
	}{
		{"exporter on TLS 1.3", "SCRAM-SHA-256-PLUS", "tls-exporter", tls13, tls13, 0, "", ""},
		{"end point on TLS 1.3", "SCRAM-SHA-256-PLUS", "tls-server-end-point", tls13, tls13, 0, "", ""},
		{"end point on TLS 1.2", "SCRAM-SHA-256-PLUS", "tls-server-end-point", tls12, tls12, 0, "", ""},
		{"SHA-1 with end point", "SCRAM-SHA-1-PLUS", "tls-server-end-point", tls12, tls12, 0, "", ""},
		{"exporter on TLS 1.2", "SCRAM-SHA-256-PLUS", "tls-exporter", tls12, tls12, authn.Denied, "tls-exporter is not supported", ""},
		{"unique on TLS 1.3", "SCRAM-SHA-256-PLUS", "tls-unique", tls13, tls13, authn.Denied, "tls-unique is not supported", ""},
		{"unique on TLS 1.2", "SCRAM-SHA-256-PLUS", "tls-unique", tls12, tls12, authn.Denied, "tls-unique is not supported", ""},
		{"exporter of another connection", "SCRAM-SHA-256-PLUS", "tls-exporter", tls13, other, authn.Denied, "does not end at this server", ""},
		{"end point of another server", "SCRAM-SHA-256-PLUS", "tls-server-end-point", tls13, other, authn.Denied, "does not end at this server", ""},
		{"bound under the plain name", "SCRAM-SHA-256", "tls-exporter", tls13, tls13, authn.Malformed, "", ""},
		{"unbound under the name with -PLUS", "SCRAM-SHA-256-PLUS", "", tls13, tls13, authn.Malformed, "", "no channel binding, the client says it can do none"},
		{"did not see -PLUS", "SCRAM-SHA-256", "y", tls13, tls13, authn.Denied, "your client did not see it", "no channel binding, the client says it could"},
		{"cannot bind", "SCRAM-SHA-256", "", tls13, tls13, 0, "", "no channel binding, the client says it can do none"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var r authntest.Recorder
			l := start(t, mustNew(t, tt.mech, options(secrets(t).Chain())), tt.server.server, &r)
			c := client(t, tt.mech, "alice", "pw-alice", "", tt.kind, &tt.client.client)
			err := authntest.Converse(t.Context(), l, c)
			if (err == nil) != (tt.want == 0) || err != nil && authn.KindOf(err) != tt.want {
				t.Fatalf("got %v", err)
			}
			if err == nil && !c.Valid() {
				t.Error("the client does not believe the server")
			}
			var e *authn.Error
			if errors.As(err, &e) && (!strings.Contains(e.Text, tt.says) || tt.says == "" && e.Text != "") {
				t.Errorf("the client is told %q", e.Text)
			}
			if r.Attempts[0].Note != tt.note {
				t.Errorf("noted %q", r.Attempts[0].Note)
			}
		})
	}
}

// The three modes, for clients that bind, could and cannot.
func TestRule161Modes(t *testing.T) {
	t.Parallel()
	inside := connect(t, tls.VersionTLS13)
	plain := []string{"SCRAM-SHA-256"}
	for _, tt := range []struct {
		name    string
		binding Binding
		offers  []string
		mech    string
		kind    string
		in      bool
		note    string
	}{
		{"off, bound", BindingOff, Names(), "SCRAM-SHA-256-PLUS", "tls-exporter", false, ""},
		{"off, could", BindingOff, Names(), "SCRAM-SHA-256", "y", true, ""},
		{"off, cannot", BindingOff, Names(), "SCRAM-SHA-256", "", true, ""},
		{"allowed, -PLUS in no policy, could", BindingIfOffered, plain, "SCRAM-SHA-256", "y", true, "no channel binding, the client says it could"},
		{"allowed, -PLUS for another hash, could", BindingIfOffered, []string{"SCRAM-SHA-256", "SCRAM-SHA-1-PLUS"}, "SCRAM-SHA-256", "y", false, "no channel binding, the client says it could"},
		{"required, bound", BindingRequired, Names(), "SCRAM-SHA-256-PLUS", "tls-exporter", true, ""},
		{"required, could", BindingRequired, Names(), "SCRAM-SHA-256", "y", false, ""},
		{"required, cannot", BindingRequired, Names(), "SCRAM-SHA-256", "", false, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o := options(secrets(t).Chain())
			o.Binding, o.Offers = tt.binding, tt.offers
			var r authntest.Recorder
			p := &authn.Policy{Name: "test", Offers: []authn.Mechanism{mustNew(t, tt.mech, o)}, Trace: r.Trace()}
			l, err := p.Start(t.Context(), inside.server, tt.mech)
			if err == nil {
				err = authntest.Converse(t.Context(), l, client(t, tt.mech, "alice", "pw-alice", "", tt.kind, &inside.client))
			}
			if (err == nil) != tt.in || err != nil && authn.KindOf(err) != authn.Denied {
				t.Errorf("got %v", err)
			}
			if len(r.Attempts) != 1 || r.Attempts[0].Note != tt.note {
				t.Errorf("traced %+v", r.Attempts)
			}
		})
	}
}

// A library may choose -PLUS for a program that can bind to nothing.
func TestRule161GivesUp(t *testing.T) {
	t.Parallel()
	var r authntest.Recorder
	l := start(t, mustNew(t, "SCRAM-SHA-256-PLUS", options(secrets(t).Chain())), connect(t, tls.VersionTLS13).server, &r)
	if _, _, err := l.Next(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	l.Abort(t.Context(), &authn.Error{Kind: authn.Cancelled, Step: "test"})
	if note := r.Attempts[0].Note; note != "the client chose channel binding and sent none" {
		t.Errorf("noted %q", note)
	}
}

// Without TLS that ends here, -PLUS is not offered and not to be had, and a
// client may say so with "y".
func TestRule161NoTLSHere(t *testing.T) {
	t.Parallel()
	inside := connect(t, tls.VersionTLS13)
	for name, tr := range map[string]*authn.Transport{
		"no TLS":             {},
		"TLS ends elsewhere": {TLS: inside.server.TLS},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := options(secrets(t).Chain())
			plus, base := mustNew(t, "SCRAM-SHA-256-PLUS", o), mustNew(t, "SCRAM-SHA-256", o)
			p := &authn.Policy{Offers: []authn.Mechanism{plus, base}}
			if ms := p.Mechanisms(tr); len(ms) != 1 || ms[0] != authn.Mechanism(base) {
				t.Errorf("offers %v", ms)
			}
			if _, err := p.Start(t.Context(), tr, plus.Name()); authn.KindOf(err) != authn.Denied {
				t.Errorf("through the policy: %v", err)
			}
			if _, err := plus.Start(t.Context(), tr); authn.KindOf(err) != authn.Denied {
				t.Errorf("past the policy: %v", err)
			}
			l, err := p.Start(t.Context(), tr, base.Name())
			if err != nil {
				t.Fatal(err)
			}
			if err := authntest.Converse(t.Context(), l, client(t, base.Name(), "alice", "pw-alice", "", "y", nil)); err != nil {
				t.Error(err)
			}
		})
	}
}

// source hands out one secret and keeps it.
type source struct{ secret authn.Password }

func (source) Name() string { return "source" }

func (s source) Secret(context.Context, string, string) (authn.Password, *authn.Identity, error) {
	return s.secret, &authn.Identity{User: "alice"}, nil
}

func zeros(b []byte) bool { return strings.Trim(string(b), "\x00") == "" }

// However an attempt ends, neither the secret nor the keys are left.
func TestKeysAreWiped(t *testing.T) {
	t.Parallel()
	for _, end := range []string{"right", "wrong", "aborted", "malformed"} {
		k, err := Make("SCRAM-SHA-256", authn.Password("right"), MinIterations)
		if err != nil {
			t.Fatal(err)
		}
		s := source{k.Text()}
		m := mustNew(t, "SCRAM-SHA-256", options(authn.Chain{{Verifier: s}}))
		spy := &spied{mechanism: m}
		l := start(t, spy, &authn.Transport{}, nil)
		c := client(t, "SCRAM-SHA-256", "alice", end, "", "", nil)
		_, first, _ := c.Start()
		challenge, _, err := l.Next(t.Context(), first)
		if err != nil {
			t.Fatal(err)
		}
		keys := spy.ex.keys
		if !zeros(s.secret) || zeros(keys.Stored) {
			t.Fatal("the secret is left, or there are no keys")
		}
		switch end {
		case "aborted":
			l.Abort(t.Context(), nil)
		case "malformed":
			_, _, err = l.Next(t.Context(), []byte("x"))
		default:
			second, _ := c.Next(challenge)
			if _, _, err = l.Next(t.Context(), second); err == nil {
				_, _, err = l.Next(t.Context(), []byte{})
			}
		}
		if (err == nil) != (end == "right" || end == "aborted") || !zeros(keys.Stored) || !zeros(keys.Server) {
			t.Errorf("%s: %v, keys left", end, err)
		}
	}
}

type spied struct {
	*mechanism
	ex *exchange
}

func (s *spied) Start(ctx context.Context, t *authn.Transport) (authn.Exchange, error) {
	ex, err := s.mechanism.Start(ctx, t)
	s.ex, _ = ex.(*exchange)
	return ex, err
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	if _, err := New("SCRAM-SHA-512", options(nil)); err == nil {
		t.Error("took a mechanism that there is not")
	}
	if _, err := New("SCRAM-SHA-256", Options{SaltKey: authn.Password("short")}); err == nil {
		t.Error("took a short key")
	}
}

func FuzzFirst(f *testing.F) {
	for _, s := range []string{"n,,n=user,r=fyko", "p=tls-exporter,a=x=2C,n=a=3D,r=b,x=1", "y,,m=x,n=a,r=b", "n,,n=a=2,r=b"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseFirst(b)
		if err != nil {
			return
		}
		// what was read is what was sent: put together again it is the message
		escape := strings.NewReplacer("=", "=3D", ",", "=2C")
		flag := string(m.flag)
		if m.flag == 'p' {
			flag = "p=" + m.binding
		}
		authzid := ""
		if m.authzid != "" {
			authzid = "a=" + escape.Replace(m.authzid)
		}
		again := flag + "," + authzid + ",n=" + escape.Replace(m.user) + ",r=" + m.nonce
		if strings.HasPrefix(string(b), flag+",a=,") {
			again = strings.Replace(again, ",,", ",a=,", 1)
		}
		if m.header+m.bare != string(b) || !strings.HasPrefix(string(b), again) {
			t.Errorf("%q was read as %+v", b, m)
		}
		if rest := string(b[len(again):]); rest != "" && rest[0] != ',' || strings.Contains(string(b), ",m=") {
			t.Errorf("%q has %q behind the nonce", b, rest)
		}
	})
}

func FuzzFinal(f *testing.F) {
	for _, s := range []string{"c=biws,r=abc,p=AAAA", "c=biws,r=abc,x=1,p=AAAA", "c=biws,r=abc,m=1,p=AAAA", "c=,r=,p="} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseFinal(b)
		if err != nil {
			return
		}
		head := "c=" + base64.StdEncoding.EncodeToString(m.binding) + ",r=" + m.nonce
		tail := ",p=" + base64.StdEncoding.EncodeToString(m.proof)
		if m.withoutProof+tail != string(b) || m.withoutProof != head && !strings.HasPrefix(m.withoutProof, head+",") {
			t.Errorf("%q was read as %+v", b, m)
		}
	})
}

// BenchmarkLogin is the server's work for a login: the client answers with what
// it computed before, as far as it can.
func BenchmarkLogin(b *testing.B) {
	for _, login := range []string{"alice", "nobody"} {
		b.Run(login, func(b *testing.B) {
			m := mustNew(b, "SCRAM-SHA-256", options(secrets(b).Chain()))
			c, err := xdg.SHA256.NewClient(login, "pw-alice", "") // keeps the salted password
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				err := authntest.Converse(b.Context(), start(b, m, &authn.Transport{}, nil), xdgClient{"SCRAM-SHA-256", c.NewConversation()})
				if (err == nil) != (login == "alice") {
					b.Fatal(err)
				}
			}
		})
	}
}
