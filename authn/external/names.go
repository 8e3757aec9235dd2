package external

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// names are what a certificate calls its owner.
type names struct {
	fingerprint string
	dn, issuer  string
	cns         []string
	emails      []string
	upns        []string
}

func namesOf(c *x509.Certificate) (*names, error) {
	subject, err := parseDN(c.RawSubject)
	if err != nil {
		return nil, fmt.Errorf("subject: %w", err)
	}
	sum := sha256.Sum256(c.Raw)
	n := &names{
		fingerprint: hex.EncodeToString(sum[:]),
		dn:          subject.String(), issuer: DN(c.RawIssuer),
		cns: subject.values(oidCN), emails: c.EmailAddresses,
	}
	for _, e := range c.Extensions {
		if !e.Id.Equal(oidSAN) {
			continue
		}
		// crypto/x509 has made sure that there is one such extension
		if n.upns, err = parseUPNs(e.Value); err != nil {
			return nil, fmt.Errorf("alternative names: %w", err)
		}
	}
	return n, nil
}

// of are the names of one sort.
func (n *names) of(from string) []string {
	switch from {
	case FromCN:
		return n.cns
	case FromDN:
		return []string{n.dn}
	case FromEmail:
		return n.emails
	default:
		return n.upns
	}
}

// keys are what the map file may have the certificate under, what says most of
// it first; those of one sort stand together.
func (n *names) keys() [][]string {
	var upns, emails []string
	for _, u := range n.upns {
		upns = append(upns, upnKey(u))
	}
	for _, e := range n.emails {
		emails = append(emails, emailKey(e))
	}
	return [][]string{{fromFingerprint + ":" + n.fingerprint}, {FromDN + ":" + n.dn}, upns, emails}
}

// upnKey: Active Directory compares them without regard to case.
func upnKey(upn string) string { return FromUPN + ":" + strings.ToLower(upn) }

// emailKey: only the domain has no case (RFC 5280 section 7.5).
func emailKey(address string) string {
	i := strings.LastIndexByte(address, '@')
	return FromEmail + ":" + address[:i+1] + strings.ToLower(address[i+1:])
}

var (
	oidSAN = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidUPN = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 20, 2, 3}
	oidCN  = asn1.ObjectIdentifier{2, 5, 4, 3}
)

// parseUPNs reads the user principal names in a subjectAltName: an otherName
// [0] { type-id OID, value [0] EXPLICIT UTF8String } (RFC 5280 section 4.2.1.6).
// crypto/x509 passes over that sort.
func parseUPNs(san []byte) ([]string, error) {
	list, err := only(san)
	if err != nil {
		return nil, err
	}
	var upns []string
	for rest := list.Bytes; len(rest) > 0; {
		var name asn1.RawValue
		if rest, err = asn1.Unmarshal(rest, &name); err != nil {
			return nil, err
		}
		if name.Class != asn1.ClassContextSpecific || name.Tag != 0 {
			continue
		}
		upn, err := parseOtherName(name.Bytes)
		if err != nil {
			return nil, err
		}
		if upn != "" {
			upns = append(upns, upn)
		}
	}
	return upns, nil
}

// parseOtherName returns "" for one of another type.
func parseOtherName(b []byte) (string, error) {
	var oid asn1.ObjectIdentifier
	rest, err := asn1.Unmarshal(b, &oid)
	if err != nil {
		return "", err
	}
	if !oid.Equal(oidUPN) {
		return "", nil
	}
	wrap, err := only(rest)
	if err != nil {
		return "", err
	}
	value, err := only(wrap.Bytes)
	switch {
	case err != nil:
		return "", err
	case wrap.Class != asn1.ClassContextSpecific || wrap.Tag != 0 || value.Class != asn1.ClassUniversal ||
		value.Tag != asn1.TagUTF8String || len(value.Bytes) == 0 || !utf8.Valid(value.Bytes):
		return "", errors.New("user principal name is no UTF8String")
	}
	return string(value.Bytes), nil
}

// only reads the one element that b is.
func only(b []byte) (asn1.RawValue, error) {
	var v asn1.RawValue
	rest, err := asn1.Unmarshal(b, &v)
	if err == nil && len(rest) > 0 {
		err = errors.New("octets behind the end")
	}
	return v, err
}

// DN writes a distinguished name as RFC 4514 does: "CN=Alice,OU=Staff,O=Example".
// The subject of a certificate is its RawSubject. Unlike String of
// [crypto/x509/pkix.Name] it keeps the order, and knows DC and UID. What is no
// name is "".
func DN(raw []byte) string {
	d, err := parseDN(raw)
	if err != nil {
		return ""
	}
	return d.String()
}

type (
	dn     []rdnSET // as in the certificate: the most significant first
	rdnSET []attribute

	attribute struct {
		Type  asn1.ObjectIdentifier
		Value asn1.RawValue
	}
)

func parseDN(raw []byte) (dn, error) {
	var d dn
	rest, err := asn1.Unmarshal(raw, &d)
	if err == nil && len(rest) > 0 {
		err = errors.New("octets behind the name")
	}
	return d, err
}

// values are those of all attributes of one type that are text.
func (d dn) values(oid asn1.ObjectIdentifier) []string {
	var all []string
	for _, rdn := range d {
		for _, a := range rdn {
			if text, ok := a.text(); ok && a.Type.Equal(oid) {
				all = append(all, text)
			}
		}
	}
	return all
}

func (d dn) String() string {
	var b strings.Builder
	for i := range d {
		if i > 0 {
			b.WriteByte(',')
		}
		for j, a := range d[len(d)-1-i] { // "starting with the last element" (RFC 4514 section 2.1)
			if j > 0 {
				b.WriteByte('+')
			}
			b.WriteString(a.String())
		}
	}
	return b.String()
}

// attributeNames are those of RFC 4514 section 3, and the one that everybody
// knows.
var attributeNames = map[string]string{
	"2.5.4.3": "CN", "2.5.4.7": "L", "2.5.4.8": "ST", "2.5.4.10": "O", "2.5.4.11": "OU", "2.5.4.6": "C",
	"2.5.4.9": "STREET", "0.9.2342.19200300.100.1.25": "DC", "0.9.2342.19200300.100.1.1": "UID",
	"1.2.840.113549.1.9.1": "emailAddress",
}

func (a attribute) String() string {
	oid := a.Type.String()
	name, known := attributeNames[oid]
	text, ok := a.text()
	switch {
	case !known:
		return oid + "=#" + hex.EncodeToString(a.Value.FullBytes) // RFC 4514 section 2.4
	case !ok:
		return name + "=#" + hex.EncodeToString(a.Value.FullBytes)
	}
	return name + "=" + escape(text)
}

// text is the value of a string type.
func (a attribute) text() (string, bool) {
	var v any
	if _, err := asn1.Unmarshal(a.Value.FullBytes, &v); err != nil {
		return "", false
	}
	s, ok := v.(string)
	return s, ok && utf8.ValidString(s)
}

// escape is RFC 4514 section 2.4. What does not print is escaped too, so that a
// name may stand in a log.
func escape(s string) string {
	var b strings.Builder
	for i, r := range s {
		last := i == len(s)-1
		switch {
		case strings.ContainsRune(`"+,;<>\`, r), i == 0 && (r == '#' || r == ' '), last && r == ' ':
			b.WriteByte('\\')
			b.WriteRune(r)
		case unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			for _, c := range []byte(string(r)) {
				fmt.Fprintf(&b, `\%02x`, c)
			}
		}
	}
	return b.String()
}
