package gssapi

import (
	"bytes"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Bounds of what a client sends: Windows makes tickets of up to 64 KiB, and lists
// five mechanisms.
const (
	maxNegotiation = 96 << 10 // octets of a message
	maxMechs       = 32
)

// More object identifiers in DER.
var (
	// 1.2.840.48018.1.2.2, Microsoft's misreading of that of Kerberos, whose tokens
	// are the same.
	oidMSKrb5 = []byte{0x06, 0x09, 0x2a, 0x86, 0x48, 0x82, 0xf7, 0x12, 0x01, 0x02, 0x02}
	// 1.3.6.1.4.1.311.2.2.10
	oidNTLM = []byte{0x06, 0x0a, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x02, 0x0a}
)

func isKerberos(mech []byte) bool { return bytes.Equal(mech, oidKrb5) || bytes.Equal(mech, oidMSKrb5) }

// negState is what an acceptor says of a negotiation (RFC 4178 section 4.2.2).
type negState int

const (
	acceptCompleted negState = iota
	acceptIncomplete
	reject
	requestMIC
	noState negState = -1 // as clients say it
)

// negInit is a NegTokenInit (RFC 4178 section 4.2.1). Its reqFlags are not kept:
// they "should not influence the negotiation".
type negInit struct {
	list  []byte   // the MechTypeList in DER, as a MIC is over it
	mechs [][]byte // what is on it, in DER
	token []byte   // of the first of them; nil for none
	mic   []byte   // nil for none
}

// negResp is a NegTokenResp (RFC 4178 section 4.2.2).
type negResp struct {
	state negState
	mech  []byte // in DER; nil for none
	token []byte // nil for none
	mic   []byte // nil for none
}

var errNotNegotiation = errors.New("not a negotiation token of SPNEGO")

func tag(n uint8) asn1.Tag { return asn1.Tag(n).ContextSpecific().Constructed() }

// parseNegInit reads a client's first message, which is a whole one.
func parseNegInit(b []byte) (*negInit, error) {
	if len(b) > maxNegotiation {
		return nil, fmt.Errorf("negotiation token of %d octets", len(b))
	}
	body, err := parseHeader(b)
	if err != nil {
		return nil, err
	}
	body, ok := bytes.CutPrefix(body, oidSPNEGO)
	if !ok {
		return nil, errNotNegotiation
	}
	fields, ok := openNegotiation(body, 0)
	var types, list cryptobyte.String
	i := &negInit{}
	if !ok || !fields.ReadASN1(&types, tag(0)) {
		return nil, errNotNegotiation
	}
	i.list = bytes.Clone(types) // it is kept longer than the message
	if !types.ReadASN1(&list, asn1.SEQUENCE) || !types.Empty() {
		return nil, errNotNegotiation
	}
	for !list.Empty() {
		var mech cryptobyte.String
		if !list.ReadASN1Element(&mech, asn1.OBJECT_IDENTIFIER) {
			return nil, errNotNegotiation
		}
		if i.mechs = append(i.mechs, mech); len(i.mechs) > maxMechs {
			return nil, fmt.Errorf("more than %d mechanisms to choose from", maxMechs)
		}
	}
	if len(i.mechs) == 0 {
		return nil, errors.New("no mechanism to choose from")
	}
	if !fields.SkipOptionalASN1(tag(1)) || !readOctets(&fields, &i.token, 2) || !readOctets(&fields, &i.mic, 3) || !fields.Empty() {
		return nil, errNotNegotiation
	}
	return i, nil
}

// parseNegResp reads a client's further message.
func parseNegResp(b []byte) (*negResp, error) {
	if len(b) > maxNegotiation {
		return nil, fmt.Errorf("negotiation token of %d octets", len(b))
	}
	fields, ok := openNegotiation(b, 1)
	r := &negResp{state: noState}
	if !ok || !readState(&fields, &r.state) || !readMech(&fields, &r.mech) ||
		!readOctets(&fields, &r.token, 2) || !readOctets(&fields, &r.mic, 3) || !fields.Empty() {
		return nil, errNotNegotiation
	}
	return r, nil
}

// openNegotiation returns the fields of the choice with that tag, of which b is
// one and nothing else.
func openNegotiation(b []byte, choice uint8) (fields cryptobyte.String, ok bool) {
	s := cryptobyte.String(b)
	var inner cryptobyte.String
	ok = s.ReadASN1(&inner, tag(choice)) && s.Empty() && inner.ReadASN1(&fields, asn1.SEQUENCE) && inner.Empty()
	return fields, ok
}

func readOctets(s *cryptobyte.String, out *[]byte, n uint8) bool {
	var field, octets cryptobyte.String
	var present bool
	if !s.ReadOptionalASN1(&field, &present, tag(n)) || !present {
		return !present
	}
	*out = []byte{} // there, be it empty
	if !field.ReadASN1(&octets, asn1.OCTET_STRING) || !field.Empty() {
		return false
	}
	*out = append(*out, octets...)
	return true
}

func readState(s *cryptobyte.String, out *negState) bool {
	var field cryptobyte.String
	var present bool
	if !s.ReadOptionalASN1(&field, &present, tag(0)) || !present {
		return !present
	}
	var n int
	if !field.ReadASN1Enum(&n) || !field.Empty() || n < int(acceptCompleted) || n > int(requestMIC) {
		return false
	}
	*out = negState(n)
	return true
}

func readMech(s *cryptobyte.String, out *[]byte) bool {
	var field, mech cryptobyte.String
	var present bool
	if !s.ReadOptionalASN1(&field, &present, tag(1)) || !present {
		return !present
	}
	if !field.ReadASN1Element(&mech, asn1.OBJECT_IDENTIFIER) || !field.Empty() {
		return false
	}
	*out = mech
	return true
}

// format is the message in DER.
func (r *negResp) format() ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(tag(1), func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			if r.state != noState {
				b.AddASN1(tag(0), func(b *cryptobyte.Builder) { b.AddASN1Enum(int64(r.state)) })
			}
			if r.mech != nil {
				b.AddASN1(tag(1), func(b *cryptobyte.Builder) { b.AddBytes(r.mech) })
			}
			addOctets(b, 2, r.token)
			addOctets(b, 3, r.mic)
		})
	})
	return b.Bytes()
}

func addOctets(b *cryptobyte.Builder, n uint8, octets []byte) {
	if octets != nil {
		b.AddASN1(tag(n), func(b *cryptobyte.Builder) { b.AddASN1OctetString(octets) })
	}
}
