package gssapi

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/kpopd/kpopd/authn/krb5"
)

// Flags of a wrap token (RFC 4121 section 4.2.2).
const (
	sentByAcceptor = 1 << iota
	isSealed
	hasAcceptorSubkey
)

// Key usages of wrap tokens, signed or sealed (RFC 4121 section 2).
const (
	usageAcceptor  = 22
	usageInitiator = 24
)

// headerLen is the length of a token's header:
//
//	05 04 | flags | ff | EC (2) | RRC (2) | sequence number (8)
const headerLen = 16

// confounderLen is that of the AES enctypes.
const confounderLen = 16

// wrapper makes the wrap tokens of one side and reads those of the other.
// Sending and receiving share nothing that changes.
type wrapper struct {
	key      krb5.Key
	acceptor bool // this side is
	subkey   bool // the key is one that the acceptor asserted
	send     uint64
	recv     uint64
}

// hasTokens reports whether RFC 4121 has tokens for an enctype: the AES ones.
func hasTokens(enctype int32) bool { return enctype >= krb5.AES128SHA1 && enctype <= krb5.AES256SHA2 }

// newSequence makes an initial sequence number. Its upper bits are clear, as
// some old implementations take it for a signed number; it is not 0, which
// would be left out.
func newSequence() uint32 {
	var b [4]byte
	rand.Read(b[:]) // never fails
	return binary.BigEndian.Uint32(b[:])>>2 | 1
}

func (w *wrapper) flags(fromAcceptor, sealed bool) (f byte) {
	if fromAcceptor {
		f |= sentByAcceptor
	}
	if sealed {
		f |= isSealed
	}
	if w.subkey {
		f |= hasAcceptorSubkey
	}
	return f
}

func usage(fromAcceptor bool) uint32 {
	if fromAcceptor {
		return usageAcceptor
	}
	return usageInitiator
}

// overhead is what a token is longer than its payload.
func (w *wrapper) overhead(sealed bool) int {
	if sealed {
		return headerLen + confounderLen + headerLen + w.key.ChecksumSize()
	}
	return headerLen + w.key.ChecksumSize()
}

// wrap appends a token to b. The checksum of a signed token, and the
// ciphertext of a sealed one, cover payload and header, with EC (of the
// signed one) and RRC taken as zero.
func (w *wrapper) wrap(b, payload []byte, sealed bool) ([]byte, error) {
	header := [headerLen]byte{5, 4, w.flags(w.acceptor, sealed), 0xff}
	binary.BigEndian.PutUint64(header[8:], w.send)
	plain := make([]byte, 0, len(payload)+headerLen)
	plain = append(append(plain, payload...), header[:]...)
	w.send++
	if sealed {
		cipher, err := w.key.Encrypt(usage(w.acceptor), plain)
		return append(append(b, header[:]...), cipher...), err
	}
	sum, err := w.key.Checksum(usage(w.acceptor), plain)
	binary.BigEndian.PutUint16(header[4:], uint16(len(sum)))
	b = append(append(b, header[:]...), payload...)
	return append(b, sum...), err
}

// unwrap returns the payload of the peer's next token, which may be a part of
// it. A token that is lost, repeated or out of order is an error: a
// stream has none of these.
func (w *wrapper) unwrap(token []byte) (payload []byte, sealed bool, err error) {
	if len(token) < headerLen || token[0] != 5 || token[1] != 4 || token[3] != 0xff {
		return nil, false, errors.New("not a wrap token")
	}
	header := [headerLen]byte(token)
	sealed = header[2]&isSealed != 0
	const known = sentByAcceptor | isSealed | hasAcceptorSubkey
	if header[2]&known != w.flags(!w.acceptor, sealed) {
		return nil, false, fmt.Errorf("flags of the token are %#x", header[2])
	}
	if n := binary.BigEndian.Uint64(header[8:]); n != w.recv {
		return nil, false, fmt.Errorf("token %d, not %d", n, w.recv)
	}
	ec := int(binary.BigEndian.Uint16(header[4:]))
	body := unrotate(token[headerLen:], int(binary.BigEndian.Uint16(header[6:])))
	clear(header[6:8])
	if sealed {
		payload, err = w.unseal(header, body, ec)
	} else {
		payload, err = w.verify(header, body, ec)
	}
	if err != nil {
		return nil, false, err
	}
	w.recv++
	return payload, sealed, nil
}

// unseal undoes E( payload | filler of EC octets | header ).
func (w *wrapper) unseal(header [headerLen]byte, body []byte, ec int) ([]byte, error) {
	plain, err := w.key.Decrypt(usage(!w.acceptor), body)
	if err != nil {
		return nil, err
	}
	n := len(plain) - headerLen - ec
	if n < 0 || !bytes.Equal(plain[n+ec:], header[:]) {
		return nil, errors.New("header of the token is not the sealed one")
	}
	return plain[:n], nil
}

// verify undoes payload | checksum of EC octets.
func (w *wrapper) verify(header [headerLen]byte, body []byte, ec int) ([]byte, error) {
	n := len(body) - ec
	if n < 0 || ec != w.key.ChecksumSize() {
		return nil, fmt.Errorf("checksum of %d octets", ec)
	}
	clear(header[4:6])
	signed := make([]byte, 0, n+headerLen)
	signed = append(append(signed, body[:n]...), header[:]...)
	if !w.key.VerifyChecksum(usage(!w.acceptor), signed, body[n:]) {
		return nil, errors.New("checksum of the token is wrong")
	}
	return body[:n], nil
}

// unrotate undoes the right rotation by rrc octets, which is not protected
// and may be any number. MIT rotates by nothing, Heimdal by the length of the
// trailer.
func unrotate(body []byte, rrc int) []byte {
	if len(body) == 0 || rrc%len(body) == 0 {
		return body
	}
	rrc %= len(body)
	b := make([]byte, 0, len(body))
	return append(append(b, body[rrc:]...), body[:rrc]...)
}
