package ldap

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	"github.com/go-ldap/ldap/v3"

	"github.com/kpopd/kpopd/authn/gssapi"
	"github.com/kpopd/kpopd/authn/krb5"
	"github.com/kpopd/kpopd/authn/sitefile"
)

// defaultKrb5Conf is where MIT's and Heimdal's libraries look.
const defaultKrb5Conf = "/etc/krb5.conf"

// kerberos is a bind with SASL's GSSAPI mechanism (RFC 4752) and a key of the
// verifier's own, inside TLS and bound to it, without a layer.
type kerberos struct {
	conf, user, realm string
	keytab            []byte
}

func newKerberos(o *Options) (*kerberos, error) {
	k := &kerberos{}
	var ok bool
	if k.user, k.realm, ok = strings.Cut(o.BindPrincipal, "@"); !ok || k.user == "" || k.realm == "" {
		return nil, &OptionError{"bind_principal", fmt.Errorf("%q is no principal; write name@REALM", o.BindPrincipal)}
	}
	path := o.BindKrb5Conf
	if path == "" {
		path = defaultKrb5Conf
	}
	conf, err := sitefile.Read(path, maxKrb5Conf, sitefile.WorldWritable)
	if err != nil {
		return nil, &OptionError{"bind_krb5_conf", err}
	}
	k.conf = string(conf)
	if k.keytab, err = readSecret(o.BindKeytab, maxKeytab); err != nil {
		return nil, &OptionError{"bind_keytab", err}
	}
	return k, nil
}

// bind gets a ticket for the server and shows it.
func (k *kerberos) bind(ctx context.Context, host string, l *ldap.Conn) error {
	var endPoint []byte
	if state, ok := l.TLSConnectionState(); ok {
		endPoint = serverEndPoint(&state)
	}
	c, err := k.ticket(ctx, "ldap/"+host, endPoint)
	if err != nil {
		return err
	}
	return l.GSSAPIBind(&initiator{c: c}, "ldap/"+host, "")
}

// ticket waits no longer than ctx, though the exchange with the KDC does: it
// gives up by itself after some seconds.
func (k *kerberos) ticket(ctx context.Context, service string, endPoint []byte) (*gssapi.Client, error) {
	type outcome struct {
		c   *gssapi.Client
		err error
	}
	done := make(chan outcome, 1)
	go func() { // ended by the KDC's answer, or by the end of its patience
		kc, err := krb5.NewClientFromKeytab(k.conf, k.user, k.realm, k.keytab)
		if err != nil {
			done <- outcome{err: err}
			return
		}
		defer kc.Close()
		c, err := gssapi.NewClient(ctx, kc, service, gssapi.Options{Mutual: true, EndPoint: endPoint})
		done <- outcome{c, err}
	}()
	select {
	case o := <-done:
		return o.c, o.err
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the KDC: %w", context.Cause(ctx))
	}
}

// serverEndPoint is tls-server-end-point: the hash of the server's certificate,
// the one of its signature or SHA-256 for MD5 and SHA-1 (RFC 5929 section 4.1).
func serverEndPoint(s *tls.ConnectionState) []byte {
	if len(s.PeerCertificates) == 0 {
		return nil
	}
	h := crypto.SHA256
	switch s.PeerCertificates[0].SignatureAlgorithm {
	case x509.SHA384WithRSA, x509.ECDSAWithSHA384, x509.SHA384WithRSAPSS:
		h = crypto.SHA384
	case x509.SHA512WithRSA, x509.ECDSAWithSHA512, x509.SHA512WithRSAPSS:
		h = crypto.SHA512
	case x509.PureEd25519:
		return nil // no hash is defined
	}
	sum := h.New()
	sum.Write(s.PeerCertificates[0].Raw)
	return sum.Sum(nil)
}

// initiator is the mechanism as go-ldap asks it.
type initiator struct {
	c     *gssapi.Client
	begun bool
}

var _ ldap.GSSAPIClient = (*initiator)(nil)

// InitSecContext implements [ldap.GSSAPIClient].
func (i *initiator) InitSecContext(_ string, token []byte) ([]byte, bool, error) {
	if !i.begun {
		i.begun = true
		_, first, err := i.c.Start()
		return first, true, err
	}
	// mutual authentication: one token comes back, and nothing follows it
	out, err := i.c.Next(token)
	return out, false, err
}

// InitSecContextWithOptions implements [ldap.GSSAPIClient].
func (i *initiator) InitSecContextWithOptions(target string, token []byte, options []int) ([]byte, bool, error) {
	if len(options) > 0 {
		return nil, false, errors.New("no options are known")
	}
	return i.InitSecContext(target, token)
}

// NegotiateSaslAuth implements [ldap.GSSAPIClient].
func (i *initiator) NegotiateSaslAuth(token []byte, _ string) ([]byte, error) { return i.c.Next(token) }

// DeleteSecContext implements [ldap.GSSAPIClient].
func (i *initiator) DeleteSecContext() error { return nil }
