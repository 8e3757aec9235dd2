package kpop

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/kpopd/kpopd/authn/krb5"
)

// Client runs the client side.
type Client struct {
	Version string // of the application; KPOPV1.0 when empty
	AtOnce  bool   // send versions and ticket in one write, as Eudora does, instead of waiting for the status
}

// ServerError is what a server says of a ticket that it refuses.
type ServerError struct {
	Code int32  // of RFC 4120 section 7.5.9
	Text string // the server's own words
}

func (e *ServerError) Error() string {
	return fmt.Sprintf("server refused the ticket: %s (Kerberos error %d)", cmp.Or(e.Text, "no reason given"), e.Code)
}

// Errors of the first answer.
var (
	ErrSendauthVersion = errors.New("server speaks another version of sendauth")
	ErrAppVersion      = errors.New("server speaks another application protocol")
)

// Handshake shows the server on c the ticket of in. Not an octet is read
// past the handshake: the greeting is next. When ctx ends, so does the
// handshake. Errors: a *[ServerError], one of the sentinels, or that of c.
func (k *Client) Handshake(ctx context.Context, c net.Conn, in *krb5.Initiator) error {
	if d, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(d); err != nil {
			return err
		}
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := k.exchange(c, in); err != nil {
		return fmt.Errorf("KPOP with %s: %w", c.RemoteAddr(), err)
	}
	if !stop() {
		return context.Cause(ctx)
	}
	return c.SetDeadline(time.Time{})
}

func (k *Client) exchange(c net.Conn, in *krb5.Initiator) error {
	hello := frame(nil, []byte(sendauthVersion))
	hello = frame(hello, []byte(cmp.Or(k.Version, appVersion)+"\x00"))
	ticket := frame(nil, in.APReq)
	if k.AtOnce {
		hello, ticket = append(hello, ticket...), nil
	}
	if _, err := c.Write(hello); err != nil {
		return err
	}
	if err := readStatus(c); err != nil {
		return err
	}
	if len(ticket) > 0 {
		if _, err := c.Write(ticket); err != nil {
			return err
		}
	}
	refusal, err := readMessage(c)
	if err != nil {
		return err
	}
	if len(refusal) > 0 {
		return readError(refusal)
	}
	if !in.Mutual {
		return nil
	}
	apRep, err := readMessage(c)
	if err != nil {
		return err
	}
	if _, err := in.VerifyAPRep(apRep); err != nil {
		return fmt.Errorf("server did not prove itself: %w", err)
	}
	return nil
}

func readStatus(c net.Conn) error {
	var status [1]byte
	if _, err := io.ReadFull(c, status[:]); err != nil {
		return unexpected(err)
	}
	switch status[0] {
	case statusOK:
		return nil
	case statusBadAuth:
		return ErrSendauthVersion
	case statusBadAppl:
		return ErrAppVersion
	}
	return fmt.Errorf("first octet is %#x: no KPOP server", status[0])
}

// maxReply is in octets; an AP-REP has about a hundred.
const maxReply = 16 << 10

func readMessage(c net.Conn) ([]byte, error) {
	var length [4]byte
	if _, err := io.ReadFull(c, length[:]); err != nil {
		return nil, unexpected(err)
	}
	n := binary.BigEndian.Uint32(length[:])
	if n > maxReply {
		return nil, fmt.Errorf("answer of %d octets", n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(c, b); err != nil {
		return nil, unexpected(err)
	}
	return b, nil
}

func readError(der []byte) error {
	code, text, err := krb5.ParseError(der)
	if err != nil {
		return fmt.Errorf("server refused the ticket, reason not understood: %w", err)
	}
	return &ServerError{Code: code, Text: text}
}
