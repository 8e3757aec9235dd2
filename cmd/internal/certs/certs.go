// Package certs serves TLS with certificates from files that may change while
// the server runs.
//
// It knows nothing of POP3 but its ALPN name.
//
// # Design notes
//
// A handshake reads one atomic pointer. A reload builds a whole new set, with
// new session ticket keys, and swaps it; sessions keep what they have. When a
// file is broken the old set stays.
//
// Nothing is remembered for a server name that a client sends.
//
// A client certificate is judged when the handshake is over, and not inside it
// by crypto/tls: a resumed session is judged like a new one, by the authorities
// and revocation lists of now; and a client whose certificate is no good has
// TLS, hears why, and may log in otherwise (RFC 8446 section 4.4.2.4 leaves that
// to the server). crypto/tls has checked that the client holds the key.
//
// A revocation list that is out of date is an outage. Nobody can say then which
// certificates are still good, so none lets anybody in, and clients hear that
// the server is at fault. It does not keep the server from starting.
package certs

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"hash"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/sitefile"
)

// HandshakeTimeout is how long a client may take for a handshake.
const HandshakeTimeout = 10 * time.Second

// Sizes of the largest files, in octets.
const (
	maxPEM = 4 << 20
	maxCRL = 64 << 20 // of an authority with a million certificates
)

// File names a certificate chain, leaf first, and its key; both are PEM.
type File struct {
	Cert, Key string
}

// Store is certificates that TLS connections are served with.
type Store struct {
	files   []File
	clients Clients
	current atomic.Pointer[set]
}

// set is the certificates of one reading of the files. It is only read.
type set struct {
	config *tls.Config
	certs  []*tls.Certificate
	names  map[string][]*tls.Certificate // lower case; wildcards as "*.example.org"
	pems   []byte                        // what was read, to see changes
	trust  *trust                        // in client certificates; nil when none is asked for
}

// New reads the files. The first certificate is shown to clients that ask for
// no name or for an unknown one.
func New(files []File, clients Clients) (*Store, error) {
	if len(files) == 0 {
		return nil, errors.New("no certificates")
	}
	s := &Store{files: files, clients: clients}
	if _, err := s.Reload(); err != nil {
		return nil, err
	}
	return s, nil
}

// Reload reads the files again. It reports whether they have changed. On an
// error the certificates in use stay.
func (s *Store) Reload() (changed bool, err error) {
	next, old := &set{names: map[string][]*tls.Certificate{}}, s.current.Load()
	for _, f := range s.files {
		if err := next.add(f); err != nil {
			return false, err
		}
	}
	if old == nil {
		old = &set{}
	}
	if next.trust, err = s.clients.read(old.trust); err != nil {
		return false, err
	}
	if old.config != nil && bytes.Equal(old.pems, next.pems) && old.trust == next.trust {
		return false, nil
	}
	next.config = next.newConfig()
	s.current.Store(next)
	return true, nil
}

// Watch reloads every interval until ctx is done.
func (s *Store) Watch(ctx context.Context, interval time.Duration, log *slog.Logger) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	broken := false // a lasting fault is told once
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		changed, err := s.Reload()
		switch {
		case err != nil && !broken:
			log.Error("certificates not reloaded, the old ones stay", "err", err)
		case changed:
			log.Info("certificates reloaded", "first", s.files[0].Cert)
		}
		broken = err != nil
	}
}

func (n *set) add(f File) error {
	certPEM, err := sitefile.Read(f.Cert, maxPEM, sitefile.WorldWritable)
	if err != nil {
		return fmt.Errorf("read certificate: %w", err)
	}
	keyPEM, err := sitefile.Read(f.Key, maxPEM, sitefile.WorldWritable)
	if err != nil {
		return fmt.Errorf("read key: %w", err)
	}
	defer clear(keyPEM)
	c, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return fmt.Errorf("certificate %s with key %s: %w", f.Cert, f.Key, err)
	}
	if err := strong(c.Leaf); err != nil {
		return fmt.Errorf("certificate %s: %w", f.Cert, err)
	}
	n.certs = append(n.certs, &c)
	for _, name := range c.Leaf.DNSNames {
		name = strings.ToLower(name)
		n.names[name] = append(n.names[name], &c)
	}
	// a renewed certificate has other octets; a key is changed together with
	// its certificate, which holds the public half
	n.pems = append(n.pems, certPEM...)
	return nil
}

// strong refuses keys below RFC 9325 section 4.5: RSA of 2048 bits, P-256.
func strong(leaf *x509.Certificate) error {
	switch k := leaf.PublicKey.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < 2048 {
			return fmt.Errorf("RSA key of %d bits is too short; 2048 at least", k.N.BitLen())
		}
	case *ecdsa.PublicKey:
		if bits := k.Curve.Params().BitSize; bits < 256 {
			return fmt.Errorf("ECDSA key of %d bits is too short; 256 at least", bits)
		}
	case ed25519.PublicKey:
	default:
		return fmt.Errorf("keys of type %T are not served", k)
	}
	return nil
}

func (n *set) newConfig() *tls.Config {
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS12, // RFC 8996 section 5
		// for TLS 1.2: ECDHE and AEAD only (RFC 9325 section 4.2); those of
		// TLS 1.3 are not chosen
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
			tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		// a client that lists protocols must list ours: whoever wanted to
		// speak HTTP is turned away (RFC 7301 section 3.2)
		NextProtos:         []string{"pop3"},
		ClientAuth:         tls.NoClientCert,
		GetConfigForClient: n.note,
		GetCertificate:     noted,
	}
	if n.trust != nil {
		// the names of the authorities tell a client which certificate to choose
		cfg.ClientAuth, cfg.ClientCAs = tls.RequestClientCert, n.trust.pool
	}
	return cfg
}

// note keeps which certificate the client is shown. It is asked at every
// handshake; GetCertificate is not when a session is resumed.
func (n *set) note(h *tls.ClientHelloInfo) (*tls.Config, error) {
	h.Conn.(*record).cert = n.pick(h)
	return nil, nil
}

func noted(h *tls.ClientHelloInfo) (*tls.Certificate, error) { return h.Conn.(*record).cert, nil }

// pick goes by server name, then by what the client can verify.
func (n *set) pick(h *tls.ClientHelloInfo) *tls.Certificate {
	for _, list := range [...][]*tls.Certificate{n.named(h.ServerName), n.certs} {
		for _, c := range list {
			if h.SupportsCertificate(c) == nil {
				return c
			}
		}
	}
	return n.certs[0]
}

func (n *set) named(name string) []*tls.Certificate {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if list := n.names[name]; list != nil {
		return list
	}
	if _, parent, ok := strings.Cut(name, "."); ok {
		return n.names["*."+parent]
	}
	return nil
}

// record is the connection below TLS; it keeps which certificate is shown.
type record struct {
	net.Conn
	cert *tls.Certificate
}

// Server does the server's side of a handshake on c and tells t of it: TLS; the
// hash of the certificate that the client was shown, for the channel binding
// tls-server-end-point (RFC 5929 section 4.1); and what the client's own
// certificate is worth.
func (s *Store) Server(ctx context.Context, c net.Conn, t *authn.Transport) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, HandshakeTimeout)
	defer cancel()
	n := s.current.Load()
	r := &record{Conn: c}
	tc := tls.Server(r, n.config)
	if err := tc.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	state := tc.ConnectionState()
	t.TLS = &state
	// A resumed session shows none; the binding is to the one of the first
	// handshake. It was of this set, as tickets of another do not decrypt, and
	// the same client asking for the same name was shown the same one.
	t.EndPoint = endPointHash(r.cert.Leaf)
	t.Client = n.judge(state.PeerCertificates)
	return tc, nil
}

// endPointHash hashes with the hash of the certificate's signature, with
// SHA-256 in place of MD5 and SHA-1 and where there is none
// (RFC 5929 section 4.1).
func endPointHash(leaf *x509.Certificate) []byte {
	var h hash.Hash
	switch leaf.SignatureAlgorithm {
	case x509.SHA384WithRSA, x509.SHA384WithRSAPSS, x509.ECDSAWithSHA384:
		h = sha512.New384()
	case x509.SHA512WithRSA, x509.SHA512WithRSAPSS, x509.ECDSAWithSHA512:
		h = sha512.New()
	default:
		h = sha256.New()
	}
	h.Write(leaf.Raw)
	return h.Sum(nil)
}

// Leaves are the certificates in use, for warnings about their dates.
func (s *Store) Leaves() []*x509.Certificate {
	n := s.current.Load()
	leaves := make([]*x509.Certificate, len(n.certs))
	for i, c := range n.certs {
		leaves[i] = c.Leaf
	}
	return leaves
}
