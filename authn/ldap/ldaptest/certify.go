package ldaptest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"time"
)

// ClientName is the subject of the client certificate.
const ClientName = "kpopd-client"

// certify makes the certificates: the servers' is for 127.0.0.1 and no other
// name.
func (d *Directory) certify() error {
	d.CA, d.OtherCA = d.file("ca.crt"), d.file("other-ca.crt")
	d.Cert, d.Key = d.file("client.crt"), d.file("client.key")
	caKey, ca, err := issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil, nil)
	_, other, err2 := issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "other"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil, nil)
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	serverKey, server, err := issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "slapd"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, ca, caKey)
	clientKey, client, err2 := issue(&x509.Certificate{
		Subject:  pkix.Name{CommonName: ClientName},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, ca, caKey)
	return errors.Join(
		err, err2,
		writeCert(d.CA, ca), writeCert(d.OtherCA, other),
		writeCert(d.file("server.crt"), server), writeKey(d.file("server.key"), serverKey),
		writeCert(d.Cert, client), writeKey(d.Key, clientKey),
	)
}

// issue makes a certificate, signed by itself without a parent.
func issue(t, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*ecdsa.PrivateKey, *x509.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if parent == nil {
		parent, signer = t, key
	}
	serial := make([]byte, 16)
	rand.Read(serial) // never fails
	t.SerialNumber = new(big.Int).SetBytes(serial)
	t.NotBefore, t.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, t, parent, key.Public(), signer)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return key, cert, err
}

func writeCert(path string, c *x509.Certificate) error {
	if c == nil {
		return nil // it could not be made, as another error tells
	}
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}), 0o600)
}

func writeKey(path string, k *ecdsa.PrivateKey) error {
	if k == nil {
		return nil
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return err
	}
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}
