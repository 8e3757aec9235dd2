package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"time"
)

// authorityLife is how long an authority and what it issues are valid.
const authorityLife = 30 * 24 * time.Hour

// Authority is a certificate authority for a demonstration or a test. Its key
// is never written anywhere.
type Authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

// NewAuthority makes one that calls itself name.
func NewAuthority(name string) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make CA key: %w", err)
	}
	t := template(name)
	t.IsCA, t.BasicConstraintsValid = true, true
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make CA certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make CA certificate: %w", err)
	}
	return &Authority{key: key, cert: cert}, nil
}

// Certificate is the authority's own, for a client to trust.
func (a *Authority) Certificate() *x509.Certificate { return a.cert }

// PEM is Certificate as a file.
func (a *Authority) PEM() []byte { return encode("CERTIFICATE", a.cert.Raw) }

// Issue makes a server certificate with a P-256 key for names, DNS names or
// addresses.
func (a *Authority) Issue(names ...string) (cert, key []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make key: %w", err)
	}
	return a.IssueFor(k, names...)
}

// IssueFor is Issue for a key that the caller made.
func (a *Authority) IssueFor(k crypto.Signer, names ...string) (cert, key []byte, err error) {
	t := template(names[0])
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, n)
		}
	}
	return a.sign(t, k)
}

func (a *Authority) sign(t *x509.Certificate, k crypto.Signer) (cert, key []byte, err error) {
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, k.Public(), a.key)
	if err != nil {
		return nil, nil, fmt.Errorf("issue certificate for %s: %w", t.Subject.CommonName, err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, nil, fmt.Errorf("encode key for %s: %w", t.Subject.CommonName, err)
	}
	return encode("CERTIFICATE", der), encode("PRIVATE KEY", keyDER), nil
}

// Person is what a client certificate says of its owner.
type Person struct {
	CommonName string
	Email      string // "" for none
	UPN        string // Microsoft's user principal name; "" for none
}

// IssueClient makes a client certificate with a P-256 key.
func (a *Authority) IssueClient(p Person) (cert, key []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make key: %w", err)
	}
	t := template(p.CommonName)
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if p.Email != "" || p.UPN != "" {
		san, err := p.alternativeNames()
		if err != nil {
			return nil, nil, fmt.Errorf("encode names of %s: %w", p.CommonName, err)
		}
		t.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: san}}
	}
	return a.sign(t, k)
}

// alternativeNames is a subjectAltName (RFC 5280 section 4.2.1.6).
func (p Person) alternativeNames() ([]byte, error) {
	var names []any
	if p.UPN != "" {
		names = append(names, otherName{
			Type: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 20, 2, 3}, Value: p.UPN,
		})
	}
	if p.Email != "" {
		names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 1, Bytes: []byte(p.Email)})
	}
	var all []byte
	for _, n := range names {
		params := ""
		if _, ok := n.(otherName); ok {
			params = "tag:0"
		}
		der, err := asn1.MarshalWithParams(n, params)
		if err != nil {
			return nil, err
		}
		all = append(all, der...)
	}
	return asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: all})
}

type otherName struct {
	Type  asn1.ObjectIdentifier
	Value string `asn1:"explicit,tag:0,utf8"`
}

// Revoke makes a revocation list of certificates that is in date until next.
func (a *Authority) Revoke(next time.Time, revoked ...*x509.Certificate) ([]byte, error) {
	now := time.Now()
	list := &x509.RevocationList{Number: big.NewInt(now.UnixNano()), ThisUpdate: now.Add(-time.Hour), NextUpdate: next}
	if !next.After(list.ThisUpdate) {
		list.ThisUpdate = next.Add(-time.Hour)
	}
	for _, c := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: now})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, a.cert, a.key)
	if err != nil {
		return nil, fmt.Errorf("make revocation list: %w", err)
	}
	return encode("X509 CRL", der), nil
}

func template(name string) *x509.Certificate {
	now := time.Now()
	serial := make([]byte, 16)
	rand.Read(serial) // never fails
	return &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(authorityLife),
	}
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
