package gssapi

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// Token identifiers of RFC 4121 section 4.1.
const (
	tokAPReq = 0x0100
	tokAPRep = 0x0200
	tokError = 0x0300
)

// Object identifiers in DER.
var (
	oidKrb5   = []byte{0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 0x01, 0x02, 0x02} // 1.2.840.113554.1.2.2
	oidSPNEGO = []byte{0x06, 0x06, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x02}                   // 1.3.6.1.5.5.2
)

// formatToken puts the header of RFC 2743 section 3.1 before a Kerberos
// message.
func formatToken(id uint16, message []byte) []byte {
	n := len(oidKrb5) + 2 + len(message)
	b := make([]byte, 0, n+6)
	b = append(b, 0x60)
	switch {
	case n < 0x80:
		b = append(b, byte(n))
	case n < 1<<8:
		b = append(b, 0x81, byte(n))
	case n < 1<<16:
		b = append(b, 0x82, byte(n>>8), byte(n))
	default:
		b = append(b, 0x83, byte(n>>16), byte(n>>8), byte(n))
	}
	b = append(b, oidKrb5...)
	b = binary.BigEndian.AppendUint16(b, id)
	return append(b, message...)
}

// parseToken returns the message of a token that must be a whole one of that
// identifier.
func parseToken(b []byte, id uint16) ([]byte, error) {
	body, err := parseHeader(b)
	if err != nil {
		return nil, err
	}
	message, ok := bytes.CutPrefix(body, oidKrb5)
	switch {
	case ok:
	case bytes.HasPrefix(body, oidSPNEGO):
		return nil, errors.New("SPNEGO token in a Kerberos mechanism")
	default:
		return nil, errors.New("token of another mechanism")
	}
	if len(message) < 2 {
		return nil, errors.New("token ends before its identifier")
	}
	if got := binary.BigEndian.Uint16(message); got != id {
		return nil, fmt.Errorf("token %#04x, not %#04x", got, id)
	}
	return message[2:], nil
}

// parseHeader takes off tag and length, in as many octets as DER needs.
func parseHeader(b []byte) ([]byte, error) {
	switch {
	case len(b) == 0:
		return nil, errors.New("empty token")
	case b[0] == 0x6e:
		return nil, errors.New("AP-REQ without header: DCE style is not supported")
	case bytes.HasPrefix(b, []byte("NTLMSSP\x00")):
		return nil, errors.New("NTLM token in a Kerberos mechanism")
	case len(b) < 2 || b[0] != 0x60:
		return nil, errors.New("not a GSSAPI token")
	}
	n, rest := int(b[1]), b[2:]
	if n >= 0x80 {
		octets := n & 0x7f
		if octets == 0 || octets > 3 || octets > len(rest) || rest[0] == 0 {
			return nil, errors.New("length of the token is not DER")
		}
		n = 0
		for _, o := range rest[:octets] {
			n = n<<8 | int(o)
		}
		if rest = rest[octets:]; n < 0x80 {
			return nil, errors.New("length of the token is not DER")
		}
	}
	if n != len(rest) {
		return nil, fmt.Errorf("token announces %d octets and has %d", n, len(rest))
	}
	return rest, nil
}
