package gssapi

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"unicode/utf8"

	"github.com/emersion/go-sasl"
)

// maxSize is the largest size that three octets hold.
const maxSize = 1<<24 - 1

// offer is the server's half of RFC 4752 section 3.1 behind the context: Next
// is called once to make the offer and once with the choice.
type offer struct {
	*wrapper
	layers Layers // on offer
	limit  int    // octets of the longest token that we take
	made   bool

	chosen    Layers
	peerLimit int // octets of the longest token that the client takes
	authzid   string
}

func (o *offer) Next(response []byte) (challenge []byte, done bool, err error) {
	if !o.made {
		o.made = true
		challenge, err = o.wrap(nil, sizeMessage(o.layers, o.limit), false)
		return challenge, false, err
	}
	if o.chosen != 0 {
		return nil, false, sasl.ErrUnexpectedClientResponse
	}
	message, _, err := o.unwrap(response)
	if err != nil {
		return nil, false, err
	}
	if err := o.choose(message); err != nil {
		return nil, false, err
	}
	return nil, true, nil
}

// sizeMessage tells layers and size. "If the server offers no security layer,
// the size is zero."
func sizeMessage(l Layers, size int) []byte {
	if l == None {
		size = 0
	}
	return binary.BigEndian.AppendUint32(nil, uint32(l)<<24|uint32(size))
}

// choose reads the client's message. Its size says nothing without a layer:
// fetchmail, mpop and mutt then send ours back.
func (o *offer) choose(message []byte) error {
	if len(message) < 4 {
		return fmt.Errorf("choice of %d octets", len(message))
	}
	size := binary.BigEndian.Uint32(message)
	chosen := Layers(size >> 24)
	size &= maxSize
	if chosen != None && chosen != Integrity && chosen != Privacy || chosen&o.layers == 0 {
		return fmt.Errorf("chose layer %#x of %#x", uint8(chosen), uint8(o.layers))
	}
	if chosen != None && int(size) <= o.overhead(chosen == Privacy) {
		return fmt.Errorf("takes tokens of %d octets: nothing fits", size)
	}
	// Deviation: "the authorization identity is not NUL-terminated" (RFC 4752
	// section 3.1), but fetchmail before 6.4 did so.
	authzid := bytes.TrimSuffix(message[4:], []byte{0})
	if bytes.IndexByte(authzid, 0) >= 0 || !utf8.Valid(authzid) {
		return errors.New("authzid is not UTF-8 without NUL")
	}
	o.chosen, o.peerLimit, o.authzid = chosen, int(size), string(authzid)
	return nil
}

func (o *offer) layer(c net.Conn) net.Conn {
	return newConn(c, o.wrapper, o.chosen == Privacy, o.limit, o.peerLimit)
}
