package certs

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/kpopd/kpopd/authn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bench is an authority, the folder of its certificates, and who trusts it.
type bench struct {
	t    *testing.T
	ca   *Authority
	dir  string
	pool *x509.CertPool
}

func newBench(t *testing.T) *bench {
	t.Helper()
	ca, err := NewAuthority("test CA")
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca.Certificate())
	return &bench{t, ca, t.TempDir(), pool}
}

// issue writes a certificate under a file name.
func (b *bench) issue(file string, k crypto.Signer, names ...string) File {
	b.t.Helper()
	if k == nil {
		var err error
		if k, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			b.t.Fatal(err)
		}
	}
	cert, key, err := b.ca.IssueFor(k, names...)
	if err != nil {
		b.t.Fatal(err)
	}
	f := File{filepath.Join(b.dir, file+".crt"), filepath.Join(b.dir, file+".key")}
	for path, text := range map[string][]byte{f.Cert: cert, f.Key: key} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			b.t.Fatal(err)
		}
	}
	return f
}

func (b *bench) store(files ...File) *Store {
	b.t.Helper()
	s, err := New(files, Clients{})
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

// shake does a handshake between a client with cfg and s.
func shake(t *testing.T, s *Store, cfg *tls.Config) (client tls.ConnectionState, endPoint []byte, clientErr, serverErr error) {
	t.Helper()
	client, told, clientErr, serverErr := shakeHands(t, s, cfg)
	return client, told.EndPoint, clientErr, serverErr
}

// shakeHands is shake that returns all that the server tells.
func shakeHands(t *testing.T, s *Store, cfg *tls.Config) (client tls.ConnectionState, told authn.Transport, clientErr, serverErr error) {
	t.Helper()
	a, b := pair(t)
	done := make(chan struct{})
	go func() { // ends with the handshake and one octet
		defer close(done)
		defer b.Close()
		var tc net.Conn
		if tc, serverErr = s.Server(t.Context(), b, &told); serverErr == nil {
			tc.Write([]byte("+")) // carries the session tickets
		}
	}()
	c := tls.Client(a, cfg)
	if clientErr = c.Handshake(); clientErr == nil {
		_, clientErr = io.ReadFull(c, make([]byte, 1))
	}
	client = c.ConnectionState()
	a.Close()
	<-done
	return client, told, clientErr, serverErr
}

// pair is a connection that holds what nobody has read yet: a ticket with
// certificates in it is written while the client writes its last message.
func pair(t *testing.T) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return client, server
}

func (b *bench) client(name string) *tls.Config {
	return &tls.Config{ServerName: name, RootCAs: b.pool}
}

// The certificate matches the name that the client asks for (RFC 8314 section 3.3).
func TestRule110_ServerName(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	s := b.store(b.issue("first", nil, "mail.example"), b.issue("second", nil, "pop.example", "*.pool.example"), b.issue("rsa", rsaKey, "mail.example"))
	for name, want := range map[string]string{
		"mail.example":    "mail.example",
		"POP.example":     "pop.example",
		"a7.pool.example": "pop.example",
		"nobody.example":  "mail.example",
		"":                "mail.example",
	} {
		cfg := b.client(name)
		cfg.InsecureSkipVerify = true
		st, endPoint, cerr, serr := shake(t, s, cfg)
		if cerr != nil || serr != nil {
			t.Fatalf("%q: client %v, server %v", name, cerr, serr)
		}
		leaf := st.PeerCertificates[0]
		if leaf.DNSNames[0] != want {
			t.Errorf("%q is shown the certificate of %s, want %s", name, leaf.DNSNames[0], want)
		}
		if sum := sha256.Sum256(leaf.Raw); !bytes.Equal(endPoint, sum[:]) {
			t.Errorf("%q: end point is not the hash of what was shown", name)
		}
	}
	// a client that verifies RSA only gets the RSA certificate of the name
	cfg := b.client("mail.example")
	cfg.MaxVersion, cfg.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}
	if st, _, cerr, _ := shake(t, s, cfg); cerr != nil || st.PeerCertificates[0].PublicKeyAlgorithm != x509.RSA {
		t.Errorf("client of RSA: %v, %v", cerr, st.PeerCertificates)
	}
}

// Unknown names leave nothing behind.
func TestS9_ManyServerNames(t *testing.T) { // not parallel: counts allocations
	b := newBench(t)
	s := b.store(b.issue("a", nil, "mail.example"))
	n := s.current.Load()
	for i := range 10_000 {
		if got := n.named(fmt.Sprintf("h%d.example", i)); got != nil {
			t.Fatal("an unknown name has a certificate")
		}
	}
	if allocs := testing.AllocsPerRun(100, func() { n.named("unknown.example") }); allocs > 1 {
		t.Errorf("%v allocations for an unknown name", allocs)
	}
	if len(n.names) != 1 {
		t.Errorf("%d names are kept", len(n.names))
	}
}

func TestRule111_NoClientCertificateRequest(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	cfg := b.client("mail.example")
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		t.Error("the server asked for a client certificate")
		return &tls.Certificate{}, nil
	}
	if _, _, cerr, serr := shake(t, b.store(b.issue("a", nil, "mail.example")), cfg); cerr != nil || serr != nil {
		t.Error(cerr, serr)
	}
}

func TestRule113_OldVersions(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s := b.store(b.issue("a", nil, "mail.example"))
	for _, v := range []uint16{tls.VersionTLS10, tls.VersionTLS11} {
		cfg := b.client("mail.example")
		cfg.MinVersion, cfg.MaxVersion = v, v
		_, _, cerr, serr := shake(t, s, cfg)
		if cerr == nil || !strings.Contains(cerr.Error(), "protocol version not supported") {
			t.Errorf("%s: client sees %v, want the alert", tls.VersionName(v), cerr)
		}
		if serr == nil || !strings.Contains(serr.Error(), "unsupported versions") {
			t.Errorf("%s: the server says %v, want the cause", tls.VersionName(v), serr)
		}
	}
}

func TestRule114_Versions(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s := b.store(b.issue("a", nil, "mail.example"))
	for _, most := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		cfg := b.client("mail.example")
		cfg.MaxVersion = most
		if st, _, cerr, _ := shake(t, s, cfg); cerr != nil || st.Version != most {
			t.Errorf("client up to %s: %s, %v", tls.VersionName(most), tls.VersionName(st.Version), cerr)
		}
	}
}

// No static RSA, no CBC, no RC4, no 3DES; only ECDHE with AEAD.
func TestRule115And116_Ciphers(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	s := b.store(b.issue("a", key, "mail.example"))
	for _, suite := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		if suite.SupportedVersions[0] == tls.VersionTLS13 || strings.Contains(suite.Name, "ECDSA") {
			continue
		}
		want := strings.HasPrefix(suite.Name, "TLS_ECDHE_RSA_") && (strings.Contains(suite.Name, "GCM") || strings.Contains(suite.Name, "POLY1305"))
		cfg := b.client("mail.example")
		cfg.MaxVersion, cfg.CipherSuites = tls.VersionTLS12, []uint16{suite.ID}
		if _, _, cerr, _ := shake(t, s, cfg); (cerr == nil) != want {
			t.Errorf("%s: %v", suite.Name, cerr)
		}
	}
}

func TestRule117_ALPN(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s := b.store(b.issue("a", nil, "mail.example"))
	for _, c := range []struct {
		name   string
		protos []string
		want   string
	}{
		{"no list", nil, ""},
		{"pop3", []string{"pop3"}, ""},
		{"pop3 among others", []string{"h2", "pop3"}, ""},
		{"HTTP", []string{"h2", "http/1.1"}, "no application protocol"},
		{"HTTP/1.1 alone", []string{"http/1.1"}, "no application protocol"},
		{"IMAP", []string{"imap"}, "no application protocol"},
	} {
		cfg := b.client("mail.example")
		cfg.NextProtos = c.protos
		_, _, cerr, _ := shake(t, s, cfg)
		if (cerr == nil) != (c.want == "") || cerr != nil && !strings.Contains(cerr.Error(), c.want) {
			t.Errorf("%s: %v", c.name, cerr)
		}
	}
}

func TestRule118_KeySizes(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New([]File{b.issue("weak", p224, "mail.example")}, Clients{}); err == nil || !strings.Contains(err.Error(), "too short") {
		t.Errorf("P-224: %v", err)
	}
	short := &x509.Certificate{PublicKey: &rsa.PublicKey{N: mustRSA(t, 1024).N, E: 65537}}
	if err := strong(short); err == nil || !strings.Contains(err.Error(), "1024 bits is too short") {
		t.Errorf("RSA of 1024 bits: %v", err)
	}
}

// mustRSA makes a public modulus of a size that the library refuses to make.
func mustRSA(t *testing.T, bits int) *rsa.PublicKey {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	n := *k.N
	return &rsa.PublicKey{N: n.Rsh(&n, uint(2048-bits)), E: k.E}
}

// A ticket resumes, binds to the same certificate, is worth nothing after a
// change of certificates, and allows no early data.
func TestRule118And119_Tickets(t *testing.T) {
	t.Parallel()
	for _, v := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(v), func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			s := b.store(b.issue("other", nil, "other.example"), b.issue("a", nil, "mail.example"))
			cache := tls.NewLRUClientSessionCache(1)
			cfg := b.client("mail.example")
			cfg.ClientSessionCache, cfg.MaxVersion = cache, v
			_, first, cerr, _ := shake(t, s, cfg)
			if cerr != nil {
				t.Fatal(cerr)
			}
			kept, ok := cache.Get("mail.example")
			if !ok {
				t.Fatal("no ticket")
			}
			if _, state, err := kept.ResumptionState(); err != nil || state.EarlyData {
				t.Errorf("early data %v, %v", state.EarlyData, err)
			}
			st, second, cerr, _ := shake(t, s, cfg)
			if cerr != nil || !st.DidResume {
				t.Fatalf("resumed %v, %v", st.DidResume, cerr)
			}
			if !bytes.Equal(first, second) {
				t.Error("the resumed session is bound to another certificate")
			}
			b.issue("a", nil, "mail.example")
			if changed, err := s.Reload(); !changed || err != nil {
				t.Fatal(changed, err)
			}
			if st, _, cerr, _ := shake(t, s, cfg); cerr != nil || st.DidResume {
				t.Errorf("after the change: resumed %v, %v", st.DidResume, cerr)
			}
		})
	}
}

// A client that can verify RSA only is shown the second certificate of a name.
// What is asked at a handshake that shows none, as one that resumes does, knows
// that too.
func TestSecondOfAName(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	s := b.store(b.issue("ecdsa", nil, "mail.example"), b.issue("rsa", k, "mail.example"))
	n := s.current.Load()
	for scheme, want := range map[tls.SignatureScheme]*tls.Certificate{
		tls.ECDSAWithP256AndSHA256: n.certs[0],
		tls.PSSWithSHA256:          n.certs[1],
	} {
		r := &record{}
		hello := &tls.ClientHelloInfo{
			ServerName: "mail.example", SupportedVersions: []uint16{tls.VersionTLS13},
			SignatureSchemes: []tls.SignatureScheme{scheme}, Conn: r,
		}
		if _, err := n.config.GetConfigForClient(hello); err != nil || r.cert != want {
			t.Errorf("%v: bound to %v, %v", scheme, r.cert, err)
		}
		if c, err := n.config.GetCertificate(hello); err != nil || c != want {
			t.Errorf("%v: shown %v, %v", scheme, c, err)
		}
	}
}

func TestReloadKeepsOldOnError(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	f := b.issue("a", nil, "mail.example")
	s := b.store(f)
	if changed, err := s.Reload(); changed || err != nil {
		t.Errorf("nothing changed: %v, %v", changed, err)
	}
	if err := os.WriteFile(f.Cert, []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	if changed, err := s.Reload(); changed || err == nil {
		t.Errorf("a torn file: %v, %v", changed, err)
	}
	if _, _, cerr, serr := shake(t, s, b.client("mail.example")); cerr != nil || serr != nil {
		t.Error("the old certificate is gone:", cerr, serr)
	}
}

func TestWatch(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	f := b.issue("a", nil, "mail.example")
	s := b.store(f)
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); s.Watch(ctx, time.Minute, slog.New(slog.NewTextHandler(&out, nil))) }()
		before := s.Leaves()[0].SerialNumber
		b.issue("a", nil, "mail.example")
		time.Sleep(61 * time.Second)
		synctest.Wait()
		if s.Leaves()[0].SerialNumber.Cmp(before) == 0 {
			t.Error("still the old certificate after a minute")
		}
		if err := os.WriteFile(f.Cert, []byte("torn"), 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		cancel()
		<-done
		if !strings.Contains(out.String(), "certificates reloaded") {
			t.Errorf("log: %s", out.String())
		}
		if n := strings.Count(out.String(), "certificates not reloaded"); n != 1 {
			t.Errorf("a lasting fault is told %d times:\n%s", n, out.String())
		}
	})
}

// A client that never finishes is let go after ten seconds.
func TestHandshakeTimeout(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s := b.store(b.issue("a", nil, "mail.example"))
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		defer client.Close()
		start := time.Now()
		_, err := s.Server(t.Context(), server, &authn.Transport{})
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != HandshakeTimeout {
			t.Errorf("ended after %v: %v", time.Since(start), err)
		}
	})
}

// Handshakes that break off at any octet do not disturb the others.
func TestS8_AbortedHandshakes(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s := b.store(b.issue("a", nil, "mail.example"))
	hello := clientHello(t)
	var wg sync.WaitGroup
	for i := range 1000 {
		wg.Go(func() {
			client, server := net.Pipe()
			go func() { // ends when the server has closed or read
				client.Write(hello[:i%len(hello)])
				client.Close()
			}()
			if _, err := s.Server(t.Context(), server, &authn.Transport{}); err == nil {
				t.Error("half a handshake succeeded")
			}
			server.Close()
		})
		if i%100 == 50 {
			if _, _, cerr, serr := shake(t, s, b.client("mail.example")); cerr != nil || serr != nil {
				t.Error("a good client in between:", cerr, serr)
			}
		}
	}
	wg.Wait()
}

func clientHello(t *testing.T) []byte {
	t.Helper()
	a, b := net.Pipe()
	done := make(chan struct{})
	go func() { // ends when a is closed
		defer close(done)
		tls.Client(b, &tls.Config{ServerName: "mail.example"}).Handshake()
	}()
	buf := make([]byte, 4096)
	n, err := a.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
	<-done
	return buf[:n]
}
