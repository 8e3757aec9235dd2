package certs

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/sitefile"
)

// step is what errors about client certificates name.
const step = "client certificate"

// Clients names who vouches for client certificates.
type Clients struct {
	CA  string // PEM file of authorities, each trusted by itself; no client is asked for a certificate when empty
	CRL string // PEM or DER file of their revocation lists; nothing is revoked when empty
}

// trust is what the files of a Clients held at one reading. It is only read.
type trust struct {
	pool    *x509.CertPool
	cas     []*x509.Certificate
	revokes bool // there is a CRL file, so that each authority needs a list
	lists   []*revocations
	read    [2][]byte // to see changes
}

// revocations is one revocation list.
type revocations struct {
	by          *x509.Certificate // the authority that signed it
	from, until time.Time
	serials     map[string]bool
}

// read returns old when the files have not changed, nil when there are none.
func (c Clients) read(old *trust) (*trust, error) {
	if c.CA == "" {
		return nil, nil
	}
	t := &trust{pool: x509.NewCertPool(), revokes: c.CRL != ""}
	var err error
	if t.read[0], err = sitefile.Read(c.CA, maxPEM, sitefile.WorldWritable); err != nil {
		return nil, fmt.Errorf("read client CA: %w", err)
	}
	if c.CRL != "" {
		if t.read[1], err = sitefile.Read(c.CRL, maxCRL, sitefile.WorldWritable); err != nil {
			return nil, fmt.Errorf("read CRL: %w", err)
		}
	}
	if old != nil && bytes.Equal(t.read[0], old.read[0]) && bytes.Equal(t.read[1], old.read[1]) {
		return old, nil
	}
	if err := t.addAuthorities(t.read[0]); err != nil {
		return nil, fmt.Errorf("client CA %s: %w", c.CA, err)
	}
	if c.CRL != "" {
		if err := t.addLists(t.read[1]); err != nil {
			return nil, fmt.Errorf("CRL %s: %w", c.CRL, err)
		}
	}
	return t, nil
}

func (t *trust) addAuthorities(text []byte) error {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("holds a %s; it is for certificates alone", block.Type)
		}
		ca, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return err
		}
		if ca.BasicConstraintsValid && !ca.IsCA {
			return fmt.Errorf("%s is no authority", ca.Subject)
		}
		t.cas = append(t.cas, ca)
		t.pool.AddCert(ca)
	}
	if len(t.cas) == 0 {
		return errors.New("no certificate in it")
	}
	return nil
}

func (t *trust) addLists(text []byte) error {
	blocks := [][]byte{text} // DER, as authorities publish it
	if bytes.Contains(text, []byte("-----BEGIN")) {
		blocks = nil
		for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
			if block.Type != "X509 CRL" {
				return fmt.Errorf("holds a %s; it is for revocation lists alone", block.Type)
			}
			blocks = append(blocks, block.Bytes)
		}
	}
	for _, der := range blocks {
		list, err := t.parseList(der)
		if err != nil {
			return err
		}
		t.lists = append(t.lists, list)
	}
	if len(t.lists) == 0 {
		return errors.New("no revocation list in it")
	}
	return nil
}

func (t *trust) parseList(der []byte) (*revocations, error) {
	crl, err := x509.ParseRevocationList(der)
	switch {
	case err != nil && isVersion1(der):
		return nil, errors.New("the list is of version 1; RFC 5280 section 5.1.2.1 wants 2: have it made with extensions (openssl ca: crl_extensions)")
	case err != nil:
		return nil, err
	}
	i := slices.IndexFunc(t.cas, func(ca *x509.Certificate) bool {
		return bytes.Equal(ca.RawSubject, crl.RawIssuer) && crl.CheckSignatureFrom(ca) == nil
	})
	switch {
	case i < 0:
		return nil, fmt.Errorf("the list of %s is signed by none of the client CAs", crl.Issuer)
	case crl.NextUpdate.IsZero():
		return nil, fmt.Errorf("the list of %s does not say when the next one comes", crl.Issuer)
	}
	list := &revocations{by: t.cas[i], from: crl.ThisUpdate, until: crl.NextUpdate, serials: map[string]bool{}}
	// "If a CRL contains a critical extension that the application cannot
	// process, then the application MUST NOT use that CRL" (RFC 5280 section
	// 5.2): it has only some of the certificates, or those of others.
	for _, e := range crl.Extensions {
		if e.Critical {
			return nil, fmt.Errorf("the list of %s is not a complete one of its own certificates (extension %v)", crl.Issuer, e.Id)
		}
	}
	for _, r := range crl.RevokedCertificateEntries {
		for _, e := range r.Extensions {
			if e.Critical {
				return nil, fmt.Errorf("the list of %s has an entry for somebody else's certificate (extension %v)", crl.Issuer, e.Id)
			}
		}
		list.serials[string(r.SerialNumber.Bytes())] = true
	}
	return list, nil
}

// Judge says what certificates are worth that a client shows, its own first. It is
// nil when the store asks for none.
func (s *Store) Judge(shown []*x509.Certificate) *authn.Certificate {
	return s.current.Load().judge(shown)
}

func (n *set) judge(shown []*x509.Certificate) *authn.Certificate {
	if n.trust == nil || len(shown) == 0 {
		return nil
	}
	return n.trust.judge(shown, time.Now())
}

// isVersion1 tells the one sort of list that programs still make and crypto/x509
// does not read: it begins without a version.
func isVersion1(der []byte) bool {
	var list struct {
		Body      asn1.RawValue
		Algorithm asn1.RawValue
		Signature asn1.BitString
	}
	if rest, err := asn1.Unmarshal(der, &list); err != nil || len(rest) > 0 {
		return false
	}
	var first asn1.RawValue
	_, err := asn1.Unmarshal(list.Body.Bytes, &first)
	return err == nil && first.Tag == asn1.TagSequence
}

// judge says what the certificates of a client are worth at a time, its own
// first.
func (t *trust) judge(shown []*x509.Certificate, now time.Time) *authn.Certificate {
	c := &authn.Certificate{Leaf: shown[0]}
	between := x509.NewCertPool()
	for _, x := range shown[1:] {
		between.AddCert(x)
	}
	chains, err := shown[0].Verify(x509.VerifyOptions{
		Roots: t.pool, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err == nil {
		err = strong(shown[0])
	}
	if err != nil {
		c.Err = notVerified(shown[0], err, now)
		return c
	}
	for _, chain := range chains {
		if c.Err = t.revoked(chain, now); c.Err == nil {
			c.Chain = chain
			return c
		}
		if authn.KindOf(c.Err) == authn.Denied {
			return c // known to be revoked: what another chain does not know matters no more
		}
	}
	return c
}

func notVerified(leaf *x509.Certificate, err error, now time.Time) error {
	e := &authn.Error{Kind: authn.Rejected, Step: step, Err: err, Text: "the client certificate is not accepted"}
	var unknown x509.UnknownAuthorityError
	switch {
	case now.After(leaf.NotAfter):
		e.Kind, e.Text = authn.Expired, "the client certificate ran out on "+leaf.NotAfter.UTC().Format(time.DateOnly)
	case now.Before(leaf.NotBefore):
		e.Kind, e.Text = authn.Denied, "the client certificate is not valid before "+leaf.NotBefore.UTC().Format(time.DateOnly)
	case errors.As(err, &unknown):
		e.Text = "no authority known here vouches for the client certificate"
	}
	return e
}

// revoked is nil when no certificate of chain has been revoked. Each but the
// last, which is trusted by itself, needs a list of its issuer that is in date.
func (t *trust) revoked(chain []*x509.Certificate, now time.Time) error {
	if !t.revokes {
		return nil
	}
	for i, c := range chain {
		known := false
		for _, l := range t.lists {
			if !bytes.Equal(l.by.RawSubject, c.RawIssuer) {
				continue
			}
			if l.serials[string(c.SerialNumber.Bytes())] {
				return &authn.Error{
					Kind: authn.Denied, Step: step, Text: "the client certificate has been revoked",
					Err: fmt.Errorf("serial %x of %s has been revoked", c.SerialNumber, c.Issuer),
				}
			}
			inDate := !now.Before(l.from) && now.Before(l.until)
			known = known || inDate && i+1 < len(chain) && bytes.Equal(l.by.RawSubjectPublicKeyInfo, chain[i+1].RawSubjectPublicKeyInfo)
		}
		if !known && i+1 < len(chain) {
			return &authn.Error{
				Kind: authn.Unavailable, Step: step,
				Err: fmt.Errorf("no revocation list of %s that is in date", c.Issuer),
			}
		}
	}
	return nil
}

// ClientsWarnings are about authorities and revocation lists that are out of
// date or soon will be, and authorities without a list.
func (s *Store) ClientsWarnings(now time.Time, soon time.Duration) (ca, crl []error) {
	t := s.current.Load().trust
	if t == nil {
		return nil, nil
	}
	for _, x := range t.cas {
		if now.Add(soon).After(x.NotAfter) {
			ca = append(ca, fmt.Errorf("%s runs out on %s, and with it every certificate below it", x.Subject, x.NotAfter.Format(time.DateOnly)))
		}
		if t.revokes && !slices.ContainsFunc(t.lists, func(l *revocations) bool { return l.by.Equal(x) }) {
			crl = append(crl, fmt.Errorf("no revocation list of %s: nobody can log in with a certificate of it", x.Subject))
		}
	}
	for _, l := range t.lists {
		switch {
		case now.After(l.until):
			crl = append(crl, fmt.Errorf("the list of %s ran out on %s: nobody can log in with a certificate of it", l.by.Subject, l.until.Format(time.DateTime)))
		case now.Before(l.from):
			crl = append(crl, fmt.Errorf("the list of %s is valid from %s on only: check the clock", l.by.Subject, l.from.Format(time.DateTime)))
		}
	}
	return ca, crl
}
