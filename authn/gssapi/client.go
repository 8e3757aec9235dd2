package gssapi

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"

	"github.com/emersion/go-sasl"

	"github.com/kpopd/kpopd/authn/krb5"
)

// Options of a client.
type Options struct {
	Authzid  string // login to ask for; "" leaves it to the server
	Mutual   bool   // have the server prove itself; layers need it
	Layers   Layers // that may be chosen, the strongest on offer is; None when zero
	Subkey   bool   // bring a subkey instead of using the ticket's session key
	EndPoint []byte // tls-server-end-point hash of the server's certificate to bind to; nil binds to nothing
	Prompted bool   // wait for the server's empty challenge instead of sending the ticket with AUTH
	MaxToken int    // octets of the longest token that a layer takes; 64 KiB when zero
}

// Client is the client side, for one login.
type Client struct {
	o     Options
	in    *krb5.Initiator
	next  func(challenge []byte) (response []byte, err error)
	w     *wrapper
	layer func(net.Conn) net.Conn
}

var _ sasl.Client = (*Client)(nil)

// NewClient gets a ticket for the service spn ("pop/mail.example") from the
// KDC, or from what kc remembers. Everything else happens offline.
func NewClient(ctx context.Context, kc *krb5.Client, spn string, o Options) (*Client, error) {
	in, err := kc.Initiate(ctx, spn, o.ticket())
	if err != nil {
		return nil, err
	}
	return newClient(in, o)
}

// ticket is what the AP-REQ has to say.
func (o Options) ticket() krb5.InitOptions {
	sum := checksum{flags: flagReplay | flagSequence}
	if o.Mutual {
		sum.flags |= flagMutual
	}
	if o.Layers&(Integrity|Privacy) != 0 {
		sum.flags |= flagInteg
	}
	if o.Layers&Privacy != 0 {
		sum.flags |= flagConf
	}
	if o.EndPoint != nil {
		sum.binding = bindingHash(o.EndPoint)
	}
	return krb5.InitOptions{
		Mutual: o.Mutual, Subkey: o.Subkey, Seq: newSequence(),
		Checksum: &krb5.Checksum{Type: gssChecksum, Data: sum.append(nil)},
	}
}

func newClient(in *krb5.Initiator, o Options) (*Client, error) {
	key := in.Subkey
	if key.IsZero() {
		key = in.Session
	}
	if !hasTokens(key.Enctype()) {
		return nil, fmt.Errorf("session key of enctype %d: GSSAPI needs AES", key.Enctype())
	}
	c := &Client{o: o, in: in, w: &wrapper{key: key, send: uint64(in.Seq), recv: uint64(in.Seq)}}
	c.next = c.proof
	if !o.Mutual {
		c.next = c.choose
	}
	return c, nil
}

// Start implements [sasl.Client].
func (c *Client) Start() (mech string, ir []byte, err error) {
	token := formatToken(tokAPReq, c.in.APReq)
	if !c.o.Prompted {
		return Name, token, nil
	}
	then := c.next
	c.next = func(challenge []byte) ([]byte, error) {
		if len(challenge) != 0 {
			return nil, sasl.ErrUnexpectedServerChallenge
		}
		c.next = then
		return token, nil
	}
	return Name, nil, nil
}

// Next implements [sasl.Client].
func (c *Client) Next(challenge []byte) ([]byte, error) { return c.next(challenge) }

// Layer is the security layer to put on the connection from the octet after
// the CRLF of +OK on, nil when none was chosen.
func (c *Client) Layer() func(net.Conn) net.Conn { return c.layer }

// proof takes the AP-REP, with which the server may set another key.
func (c *Client) proof(challenge []byte) ([]byte, error) {
	der, err := parseToken(challenge, tokAPRep)
	if err != nil {
		if e, isError := parseToken(challenge, tokError); isError == nil {
			return nil, serverError(e)
		}
		return nil, err
	}
	rep, err := c.in.VerifyAPRep(der)
	if err != nil {
		return nil, fmt.Errorf("server did not prove itself: %w", err)
	}
	if !rep.Subkey.IsZero() {
		if !hasTokens(rep.Subkey.Enctype()) {
			return nil, fmt.Errorf("server's subkey is of enctype %d", rep.Subkey.Enctype())
		}
		c.w.key, c.w.subkey = rep.Subkey, true
	}
	c.w.recv = uint64(rep.Seq)
	c.next = c.choose
	return []byte{}, nil
}

func serverError(der []byte) error {
	code, text, err := krb5.ParseError(der)
	if err != nil {
		return err
	}
	return fmt.Errorf("server refused the ticket: %s (Kerberos error %d)", text, code)
}

// choose answers the offer of RFC 4752 section 3.1.
func (c *Client) choose(challenge []byte) ([]byte, error) {
	message, _, err := c.w.unwrap(challenge)
	if err != nil {
		return nil, err
	}
	if len(message) != 4 {
		return nil, fmt.Errorf("offer of %d octets", len(message))
	}
	size := binary.BigEndian.Uint32(message)
	chosen := strongest(Layers(size>>24) & cmp.Or(c.o.Layers, None))
	if chosen == 0 {
		return nil, fmt.Errorf("server offers layers %#x, not any of %#x", message[0], uint8(cmp.Or(c.o.Layers, None)))
	}
	limit := min(cmp.Or(c.o.MaxToken, 64<<10), maxSize)
	if chosen != None {
		peerLimit := int(size & maxSize)
		if peerLimit <= c.w.overhead(chosen == Privacy) {
			return nil, fmt.Errorf("server takes tokens of %d octets: nothing fits", peerLimit)
		}
		c.layer = func(under net.Conn) net.Conn {
			return newConn(under, c.w, chosen == Privacy, limit, peerLimit)
		}
	}
	c.next = func([]byte) ([]byte, error) {
		return nil, errors.Join(sasl.ErrUnexpectedServerChallenge, errors.New("the login is complete"))
	}
	return c.w.wrap(nil, append(sizeMessage(chosen, limit), c.o.Authzid...), false)
}

func strongest(l Layers) Layers {
	for _, one := range []Layers{Privacy, Integrity, None} {
		if l&one != 0 {
			return one
		}
	}
	return 0
}
