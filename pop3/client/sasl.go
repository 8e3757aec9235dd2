package client

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"net"

	"github.com/emersion/go-sasl"
)

// maxCommand is the longest command line that a server has to take, CRLF
// included (RFC 2449 section 4).
const maxCommand = 255

// Layered is a sasl.Client that may negotiate a security layer. Layer is asked
// after +OK, returns nil when there is none, and wraps all that follows the
// CRLF of that reply (RFC 5034 section 4).
type Layered interface {
	Layer() func(net.Conn) net.Conn
}

// Auth logs in with m. An initial response goes with AUTH when the line stays
// within 255 octets or [Options.LongInitial] is set, else it answers an empty
// challenge (RFC 5034 section 4). When m gives up, the exchange is cancelled
// with "*" and the error is m's.
func (c *Client) Auth(ctx context.Context, m sasl.Client) error {
	mech, initial, err := m.Start()
	if err != nil {
		return fmt.Errorf("start %s: %w", mech, err)
	}
	line := "AUTH " + mech
	if initial != nil {
		enc := base64.StdEncoding.EncodeToString(initial)
		if enc == "" {
			enc = "="
		}
		if c.opts.LongInitial || len(line)+1+len(enc)+len("\r\n") <= maxCommand {
			line, initial = line+" "+enc, nil
		}
	}
	if err := c.Send(ctx, line); err != nil {
		return err
	}
	if err := c.exchange(ctx, m, initial); err != nil {
		return err
	}
	if l, ok := m.(Layered); ok {
		if wrap := l.Layer(); wrap != nil {
			c.conn = wrap(&ahead{c.conn, c.r})
			c.r = bufio.NewReader(c.conn)
			c.log(Note, "SASL security layer from here on")
		}
	}
	return nil
}

// exchange answers challenges until +OK or -ERR. initial, when not nil, is the
// answer to the first of them, which has to be empty.
func (c *Client) exchange(ctx context.Context, m sasl.Client, initial []byte) error {
	for {
		challenge, done, err := c.challenge(ctx)
		if err != nil || done {
			return err
		}
		response := initial
		switch {
		case initial == nil:
			response, err = m.Next(challenge)
		case len(challenge) > 0:
			err = fmt.Errorf("pop3 client: challenge of %d octets before the initial response", len(challenge))
		}
		if err != nil {
			c.Cmd(ctx, "*") // the server says -ERR; m's error tells more
			return err
		}
		initial = nil
		if err := c.respond(ctx, response); err != nil {
			return err
		}
	}
}

// challenge reads the server's next line of an exchange.
func (c *Client) challenge(ctx context.Context) (challenge []byte, done bool, err error) {
	defer c.arm(ctx)()
	line, err := c.status()
	if err != nil {
		return nil, false, err
	}
	enc, ok := cutWord(line, "+")
	if !ok {
		_, err := okText(line)
		return nil, true, err
	}
	challenge, err = base64.StdEncoding.DecodeString(enc)
	if err != nil {
		return nil, false, fmt.Errorf("challenge %q: %w", line, err)
	}
	return challenge, false, nil
}

func (c *Client) respond(ctx context.Context, response []byte) error {
	if len(response) == 0 {
		c.log(Sent, "")
	} else {
		c.log(Sent, "***")
	}
	return c.write(ctx, base64.StdEncoding.EncodeToString(response)+"\r\n")
}
