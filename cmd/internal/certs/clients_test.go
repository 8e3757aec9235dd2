package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kpopd/kpopd/authn"
)

// clients is a store that asks for client certificates, and its files.
type clients struct {
	*bench
	Clients
	store *Store
}

// newClients believes the authority of a bench; revoked are its certificates
// that are no good.
func newClients(t *testing.T, revoked ...*x509.Certificate) *clients {
	t.Helper()
	c := &clients{bench: newBench(t)}
	c.CA, c.CRL = filepath.Join(c.dir, "ca.pem"), filepath.Join(c.dir, "crl.pem")
	c.write(c.CA, c.ca.PEM())
	c.revoke(time.Now().Add(time.Hour), revoked...)
	var err error
	if c.store, err = New([]File{c.issue("a", nil, "mail.example")}, c.Clients); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *clients) write(path string, text []byte) {
	c.t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		c.t.Fatal(err)
	}
}

func (c *clients) revoke(next time.Time, revoked ...*x509.Certificate) {
	c.t.Helper()
	list, err := c.ca.Revoke(next, revoked...)
	if err != nil {
		c.t.Fatal(err)
	}
	c.write(c.CRL, list)
}

func (c *clients) reload() {
	c.t.Helper()
	if changed, err := c.store.Reload(); !changed || err != nil {
		c.t.Fatal(changed, err)
	}
}

// alice has a certificate of ca. change makes another one of it.
func alice(t *testing.T, ca *Authority, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := template("alice")
	tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if change != nil {
		change(tmpl)
	}
	cert, key, err := ca.sign(tmpl, k)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// below makes an authority of an authority.
func (a *Authority) below(t *testing.T) *Authority {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := template("sub CA")
	tmpl.IsCA, tmpl.BasicConstraintsValid, tmpl.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	text, _, err := a.sign(tmpl, k)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return &Authority{key: k, cert: cert}
}

// shows is a client that shows a certificate, asked for one or not.
func (c *clients) shows(pair tls.Certificate) *tls.Config {
	cfg := c.client("mail.example")
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	return cfg
}

// judged is what the store makes of a client.
func (c *clients) judged(t *testing.T, cfg *tls.Config) (*authn.Certificate, bool) {
	t.Helper()
	st, told, cerr, serr := shakeHands(t, c.store, cfg)
	if cerr != nil || serr != nil {
		t.Fatalf("client %v, server %v", cerr, serr)
	}
	if told.Client != nil && (told.Client.Err == nil) != (len(told.Client.Chain) > 0) {
		t.Fatalf("neither good nor bad: %+v", told.Client)
	}
	return told.Client, st.DidResume
}

// A client whose certificate is no good has TLS all the same, and the reason.
func TestRule166_JudgedCertificates(t *testing.T) {
	t.Parallel()
	stranger, err := NewAuthority("test CA") // the name of the true one
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		change func(*x509.Certificate)
		by     func(*testing.T, *clients) *Authority // the trusted authority when nil
		before func(*clients, tls.Certificate)
		want   authn.Kind
		text   string // for the client; "" for the kind's own
		good   bool
	}{
		{name: "good", good: true},
		{
			name: "good with the authority in between sent along", good: true,
			by: func(t *testing.T, c *clients) *Authority { return c.ca.below(t) },
			before: func(c *clients, _ tls.Certificate) {
				c.CRL = ""
				c.store.clients.CRL = ""
			},
		},
		{
			name: "of an authority in between whose list is not there", want: authn.Unavailable,
			by: func(t *testing.T, c *clients) *Authority { return c.ca.below(t) },
		},
		{
			name: "of a stranger with the authority's name", want: authn.Rejected,
			by:   func(*testing.T, *clients) *Authority { return stranger },
			text: "no authority known here vouches for the client certificate",
		},
		{
			name: "ran out", change: func(c *x509.Certificate) { c.NotAfter = time.Date(2020, 1, 2, 0, 0, 0, 0, time.UTC) },
			want: authn.Expired, text: "the client certificate ran out on 2020-01-02",
		},
		{
			name: "not valid yet", change: func(c *x509.Certificate) {
				c.NotBefore = time.Date(2100, 1, 2, 0, 0, 0, 0, time.UTC)
				c.NotAfter = c.NotBefore.Add(time.Hour)
			},
			want: authn.Denied, text: "the client certificate is not valid before 2100-01-02",
		},
		{
			name: "for servers", change: func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} },
			want: authn.Rejected, text: "the client certificate is not accepted",
		},
		{
			name: "revoked", want: authn.Denied, text: "the client certificate has been revoked",
			before: func(c *clients, p tls.Certificate) { c.revoke(time.Now().Add(time.Hour), p.Leaf) },
		},
		{
			name: "revoked by a list that is out of date", want: authn.Denied, text: "the client certificate has been revoked",
			before: func(c *clients, p tls.Certificate) { c.revoke(time.Now().Add(-time.Hour), p.Leaf) },
		},
		{
			name: "not revoked by a list that is out of date", want: authn.Unavailable,
			before: func(c *clients, p tls.Certificate) { c.revoke(time.Now().Add(-time.Hour)) },
		},
		{
			name: "another one is revoked", good: true,
			before: func(c *clients, p tls.Certificate) {
				c.revoke(time.Now().Add(time.Hour), &x509.Certificate{SerialNumber: big.NewInt(7)})
			},
		},
	} {
		for _, v := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(tt.name+" in "+tls.VersionName(v), func(t *testing.T) {
				t.Parallel()
				c := newClients(t)
				ca := c.ca
				if tt.by != nil {
					ca = tt.by(t, c)
				}
				pair := alice(t, ca, tt.change)
				if ca != c.ca {
					pair.Certificate = append(pair.Certificate, ca.cert.Raw)
				}
				if tt.before != nil {
					tt.before(c, pair)
					c.reload()
				}
				cfg := c.shows(pair)
				cfg.MaxVersion = v
				got, _ := c.judged(t, cfg)
				if got == nil || !got.Leaf.Equal(pair.Leaf) {
					t.Fatalf("judged %+v", got)
				}
				if tt.good {
					if got.Err != nil {
						t.Error(got.Err)
					}
					return
				}
				var e *authn.Error
				if !errors.As(got.Err, &e) || e.Kind != tt.want || e.Text != tt.text {
					t.Errorf("judged %#v, want %s %q", got.Err, tt.want, tt.text)
				}
			})
		}
	}
}

func TestRule111_AskedForClientCertificate(t *testing.T) {
	t.Parallel()
	c := newClients(t)
	if got, _ := c.judged(t, c.client("mail.example")); got != nil {
		t.Errorf("shown none: %+v", got)
	}
	cfg := c.client("mail.example")
	asked := false
	cfg.GetClientCertificate = func(r *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		asked = len(r.AcceptableCAs) == 1 && string(r.AcceptableCAs[0]) == string(c.ca.cert.RawSubject)
		return &tls.Certificate{}, nil
	}
	if got, _ := c.judged(t, cfg); got != nil || !asked {
		t.Errorf("%+v, asked for one of our authority: %v", got, asked)
	}
}

// A ticket brings the certificates of the first handshake back. Nothing that
// was true then is taken for true now.
func TestClientCertificatesAreJudgedAgain(t *testing.T) {
	t.Parallel()
	for _, v := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(v), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newClients(t) // the list is in date for an hour
				cfg := c.shows(alice(t, c.ca, nil))
				cfg.ClientSessionCache, cfg.MaxVersion = tls.NewLRUClientSessionCache(1), v
				if got, _ := c.judged(t, cfg); got == nil || got.Err != nil {
					t.Fatalf("at first: %+v", got)
				}
				if got, resumed := c.judged(t, cfg); got == nil || got.Err != nil || !resumed {
					t.Fatalf("resumed %v: %+v", resumed, got)
				}
				time.Sleep(2 * time.Hour)
				got, resumed := c.judged(t, cfg)
				if !resumed {
					t.Fatal("not resumed: nothing is shown")
				}
				if got == nil || authn.KindOf(got.Err) != authn.Unavailable {
					t.Errorf("with a list out of date: %+v", got)
				}
				c.revoke(time.Now().Add(72*24*time.Hour), c.ca.cert, got.Leaf)
				c.reload()
				if got, _ := c.judged(t, cfg); got == nil || authn.KindOf(got.Err) != authn.Denied {
					t.Errorf("revoked: %+v", got)
				}
				time.Sleep(authorityLife)
				cfg.InsecureSkipVerify = true // our own has run out too
				if got, _ := c.judged(t, cfg); got == nil || authn.KindOf(got.Err) != authn.Expired {
					t.Errorf("run out: %+v", got)
				}
			})
			synctest.Test(t, func(t *testing.T) {
				c := newClients(t)
				cfg := c.shows(alice(t, c.ca, nil))
				cfg.ClientSessionCache, cfg.MaxVersion = tls.NewLRUClientSessionCache(1), v
				if got, _ := c.judged(t, cfg); got == nil || got.Err != nil {
					t.Fatalf("at first: %+v", got)
				}
				other := newBench(t)
				c.write(c.CA, other.ca.PEM())
				list, err := other.ca.Revoke(time.Now().Add(time.Hour))
				if err != nil {
					t.Fatal(err)
				}
				c.write(c.CRL, list)
				c.reload()
				if got, _ := c.judged(t, cfg); got == nil || authn.KindOf(got.Err) != authn.Rejected {
					t.Errorf("the authority is gone: %+v", got)
				}
			})
		})
	}
}

func TestBadClientFiles(t *testing.T) {
	t.Parallel()
	c := newClients(t)
	other := newBench(t)
	foreign, err := other.ca.Revoke(time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	partial := func(change func(*x509.RevocationList)) []byte {
		list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour)}
		change(list)
		der, err := x509.CreateRevocationList(rand.Reader, list, c.ca.cert, c.ca.key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	delta := pkix.Extension{Id: []int{2, 5, 29, 27}, Critical: true, Value: []byte{2, 1, 1}}
	leaf := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: alice(t, c.ca, func(c *x509.Certificate) { c.BasicConstraintsValid = true }).Leaf.Raw})
	good, err := os.ReadFile(c.CRL)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		ca, crl []byte
		want    string // in the error; "" when there is none
	}{
		{"good", c.ca.PEM(), good, ""},
		{"a list in DER", c.ca.PEM(), partial(func(*x509.RevocationList) {}), ""},
		{"an empty CA file", nil, good, "no certificate in it"},
		{"a key", append(c.ca.PEM(), encode("PRIVATE KEY", []byte("x"))...), good, "holds a PRIVATE KEY"},
		{"a certificate of a person", leaf, good, "alice is no authority"},
		{"a torn certificate", encode("CERTIFICATE", c.ca.cert.Raw[:200]), good, "client CA "},
		{"an empty list", c.ca.PEM(), nil, "CRL "},
		{"a certificate in place of a list", c.ca.PEM(), c.ca.PEM(), "holds a CERTIFICATE"},
		{"a list of another authority of that name", c.ca.PEM(), foreign, "signed by none of the client CAs"},
		{"a list that is none", c.ca.PEM(), []byte("0\x03\x02\x01\x01"), "CRL "},
		{"a list of version 1", c.ca.PEM(), version1(t, c.ca), "is of version 1"},
		{"a delta", c.ca.PEM(), partial(func(l *x509.RevocationList) { l.ExtraExtensions = []pkix.Extension{delta} }), "not a complete one"},
		{"an indirect list", c.ca.PEM(), partial(func(l *x509.RevocationList) {
			l.RevokedCertificateEntries = []x509.RevocationListEntry{{
				SerialNumber: big.NewInt(5), RevocationTime: time.Now(),
				ExtraExtensions: []pkix.Extension{{Id: []int{2, 5, 29, 29}, Critical: true, Value: []byte{0x30, 0}}},
			}}
		}), "somebody else's certificate"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c.write(c.CA, tt.ca)
			c.write(c.CRL, tt.crl)
			_, err := New(c.store.files, c.Clients)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			// the one that runs keeps what it has
			if _, err := c.store.Reload(); (err == nil) != (tt.want == "") {
				t.Errorf("reload: %v", err)
			}
			if got, _ := c.judged(t, c.shows(alice(t, c.ca, nil))); got == nil || got.Err != nil {
				t.Errorf("after that: %+v", got)
			}
		})
	}
}

func TestClientsWarnings(t *testing.T) {
	t.Parallel()
	c := newClients(t)
	if ca, crl := c.store.ClientsWarnings(time.Now(), time.Hour); ca != nil || crl != nil {
		t.Error("all is well:", ca, crl)
	}
	for _, tt := range []struct {
		name    string
		after   time.Duration
		ca, crl string
	}{
		{"the list ran out", 2 * time.Hour, "", "ran out on "},
		{"the list is of the future", -2 * time.Hour, "", "check the clock"},
		{"the authority runs out", authorityLife, "runs out on ", "ran out on "},
	} {
		ca, crl := c.store.ClientsWarnings(time.Now().Add(tt.after), time.Hour)
		for what, w := range map[string]struct {
			got  []error
			want string
		}{"ca": {ca, tt.ca}, "crl": {crl, tt.crl}} {
			if text := errors.Join(w.got...); (text == nil) != (w.want == "") || text != nil && !strings.Contains(text.Error(), w.want) {
				t.Errorf("%s: %s says %v, want %q", tt.name, what, text, w.want)
			}
		}
	}
	sub := c.ca.below(t)
	c.write(c.CA, append(c.ca.PEM(), sub.PEM()...))
	c.reload()
	if _, crl := c.store.ClientsWarnings(time.Now(), 0); len(crl) != 1 || !strings.Contains(crl[0].Error(), "no revocation list of CN=sub CA") {
		t.Error("an authority without a list:", crl)
	}
}

// version1 is a list as old programs make it: without version and extensions.
func version1(t *testing.T, ca *Authority) []byte {
	t.Helper()
	list, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour),
	}, ca.cert, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	type outer struct {
		Body      asn1.RawValue
		Algorithm asn1.RawValue
		Signature asn1.BitString
	}
	var crl outer
	if _, err := asn1.Unmarshal(list, &crl); err != nil {
		t.Fatal(err)
	}
	var version asn1.RawValue
	rest, err := asn1.Unmarshal(crl.Body.Bytes, &version)
	if err != nil {
		t.Fatal(err)
	}
	crl.Body = asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: rest}
	if list, err = asn1.Marshal(crl); err != nil {
		t.Fatal(err)
	}
	return list
}
