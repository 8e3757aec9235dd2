package client

import (
	"context"
	"crypto/md5" // RFC 1939 section 7 asks for it
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Capabilities are the lines of CAPA: arguments by upper-case tag.
type Capabilities map[string][]string

// Has reports whether tag is announced.
func (c Capabilities) Has(tag string) bool {
	_, ok := c[strings.ToUpper(tag)]
	return ok
}

// Scan is one line of a LIST reply.
type Scan struct {
	Number int
	Size   int64 // octets of the message as RETR sends it, before stuffing
}

// UniqueID is one line of a UIDL reply.
type UniqueID struct {
	Number int
	UID    string
}

// Capa asks for the capabilities (RFC 2449 section 5).
func (c *Client) Capa(ctx context.Context) (Capabilities, error) {
	lines, err := c.CmdLines(ctx, "CAPA")
	if err != nil {
		return nil, err
	}
	caps := make(Capabilities, len(lines))
	for _, l := range lines {
		if f := strings.Fields(l); len(f) > 0 {
			caps[strings.ToUpper(f[0])] = f[1:]
		}
	}
	return caps, nil
}

// UserPass logs in with USER and PASS, one after the other's reply.
func (c *Client) UserPass(ctx context.Context, user, password string) error {
	if _, err := c.Cmd(ctx, "USER "+user); err != nil {
		return err
	}
	_, err := c.Cmd(ctx, "PASS "+password)
	return err
}

// Apop logs in with the digest of the greeting's timestamp and secret (RFC
// 1939 section 7).
func (c *Client) Apop(ctx context.Context, user, secret string) error {
	if c.Stamp() == "" {
		return fmt.Errorf("pop3 client: greeting %q has no timestamp for APOP", c.greeting)
	}
	sum := md5.Sum([]byte(c.Stamp() + secret))
	_, err := c.Cmd(ctx, "APOP "+user+" "+hex.EncodeToString(sum[:]))
	return err
}

// Stat asks for the number of messages and their octets.
func (c *Client) Stat(ctx context.Context) (n int, size int64, err error) {
	text, err := c.Cmd(ctx, "STAT")
	if err != nil {
		return 0, 0, err
	}
	s, err := scan(text)
	return s.Number, s.Size, err
}

// List asks for the sizes of all messages that are not marked as deleted.
func (c *Client) List(ctx context.Context) ([]Scan, error) {
	lines, err := c.CmdLines(ctx, "LIST")
	if err != nil {
		return nil, err
	}
	out := make([]Scan, len(lines))
	for i, l := range lines {
		if out[i], err = c.scanLine(l); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Size asks for the size of message n.
func (c *Client) Size(ctx context.Context, n int) (int64, error) {
	text, err := c.Cmd(ctx, "LIST "+strconv.Itoa(n))
	if err != nil {
		return 0, err
	}
	s, err := scan(text)
	return s.Size, err
}

// UIDL asks for the unique-ids of all messages that are not marked as deleted.
func (c *Client) UIDL(ctx context.Context) ([]UniqueID, error) {
	lines, err := c.CmdLines(ctx, "UIDL")
	if err != nil {
		return nil, err
	}
	out := make([]UniqueID, len(lines))
	for i, l := range lines {
		if out[i], err = c.uniqueIDLine(l); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// UID asks for the unique-id of message n.
func (c *Client) UID(ctx context.Context, n int) (string, error) {
	text, err := c.Cmd(ctx, "UIDL "+strconv.Itoa(n))
	if err != nil {
		return "", err
	}
	u, err := uniqueID(text)
	return u.UID, err
}

// Retr asks for message n. See [Client.ReadBody] for the reader.
func (c *Client) Retr(ctx context.Context, n int) (io.Reader, error) {
	if err := c.Send(ctx, "RETR "+strconv.Itoa(n)); err != nil {
		return nil, err
	}
	return c.ReadBody(ctx)
}

// Top asks for the header of message n and the first lines of its body.
func (c *Client) Top(ctx context.Context, n, lines int) (io.Reader, error) {
	if err := c.Send(ctx, fmt.Sprintf("TOP %d %d", n, lines)); err != nil {
		return nil, err
	}
	return c.ReadBody(ctx)
}

// Dele marks message n.
func (c *Client) Dele(ctx context.Context, n int) error {
	_, err := c.Cmd(ctx, "DELE "+strconv.Itoa(n))
	return err
}

// Rset takes all marks back.
func (c *Client) Rset(ctx context.Context) error {
	_, err := c.Cmd(ctx, "RSET")
	return err
}

// Noop does nothing, and restarts the server's idle timer.
func (c *Client) Noop(ctx context.Context) error {
	_, err := c.Cmd(ctx, "NOOP")
	return err
}

// Quit ends the session and hangs up. An error of the server means that some
// of the marked messages are still there.
func (c *Client) Quit(ctx context.Context) error {
	_, err := c.Cmd(ctx, "QUIT")
	c.conn.Close() // the reply has said all; TLS may complain that the server was quicker
	return err
}

// scanLine is a line of LIST, with what may follow the size where that is taken.
func (c *Client) scanLine(line string) (Scan, error) {
	if c.opts.Lenient {
		if f := strings.Fields(line); len(f) > 2 {
			line = f[0] + " " + f[1]
		}
	}
	return scan(line)
}

// uniqueIDLine is a line of UIDL, with any unique-id where that is taken.
func (c *Client) uniqueIDLine(line string) (UniqueID, error) {
	if !c.opts.Lenient {
		return uniqueID(line)
	}
	a, uid, _ := strings.Cut(line, " ")
	n, err := strconv.Atoi(a)
	if err != nil {
		return UniqueID{}, fmt.Errorf("unique-id listing %q: %w", line, err)
	}
	return UniqueID{n, uid}, nil
}

// scan reads "n size" as RFC 1939 section 5 has it: nothing may follow.
func scan(line string) (Scan, error) {
	a, b, _ := strings.Cut(line, " ")
	n, err := strconv.Atoi(a)
	if err != nil {
		return Scan{}, fmt.Errorf("scan listing %q: %w", line, err)
	}
	size, err := strconv.ParseInt(b, 10, 64)
	if err != nil {
		return Scan{}, fmt.Errorf("scan listing %q: %w", line, err)
	}
	return Scan{n, size}, nil
}

func uniqueID(line string) (UniqueID, error) {
	a, uid, _ := strings.Cut(line, " ")
	n, err := strconv.Atoi(a)
	if err != nil {
		return UniqueID{}, fmt.Errorf("unique-id listing %q: %w", line, err)
	}
	if uid == "" || strings.Contains(uid, " ") {
		return UniqueID{}, fmt.Errorf("unique-id listing %q: not one unique-id", line)
	}
	return UniqueID{n, uid}, nil
}
