// Package client is a small POP3 client (RFC 1939, 2449, 2595, 5034).
//
// It is there for walks, self-tests and conformance tests: it says what it is
// told to say, hides nothing of what the server answers, and can show the
// conversation with the secrets masked. It does not dial, keep mail or retry.
//
// # Design notes
//
// A client is used by one goroutine. ctx bounds the call it is given to, and
// for [Client.Retr] and [Client.Top] the reading of the body as well. After an
// error that is no [*ServerError] the two sides no longer agree on where they
// are: close the connection.
package client

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"time"
)

// maxLine bounds one line of a reply, in octets: SASL challenges are the
// longest that a server has reason to send.
const maxLine = 128 << 10

// Kind says what a line given to [Options.Log] is.
type Kind byte

const (
	Sent     Kind = 'C' // a command or a SASL response
	Received Kind = 'S' // a reply, a line of a listing, a SASL challenge
	Body     Kind = 'B' // a line of a message as on the wire, stuffed dots included
	Note     Kind = '-' // something that has no line of its own: TLS or a security layer begins
)

// Options of a client. The zero value is usable, and so is a nil pointer.
type Options struct {
	// Log is told each line without its CRLF, before a command is sent and
	// after a reply has come. Passwords, digests and SASL responses are "***".
	Log func(k Kind, line string)
	// LongInitial sends a SASL initial response with AUTH even when the line
	// then exceeds the 255 octets of RFC 2449 section 4.
	LongInitial bool
	// Lenient takes listings as they come: text after a size, and unique-ids
	// that are missing, too long or hold spaces. Without it such a line is an
	// error.
	Lenient bool
}

// Client is one side of a POP3 session.
type Client struct {
	opts Options
	conn net.Conn
	r    *bufio.Reader
	body *body // being read; the next reply begins after it

	greeting string
}

// ServerError is a reply of -ERR.
type ServerError struct {
	Code string // response code without its brackets (RFC 2449 section 8), "" when there is none: "SYS/TEMP"
	Text string // after the code
}

func (e *ServerError) Error() string {
	if e.Code == "" {
		return "pop3 server: " + e.Text
	}
	return "pop3 server: [" + e.Code + "] " + e.Text
}

// New reads the greeting from c, which the client then owns.
func New(ctx context.Context, c net.Conn, o *Options) (*Client, error) {
	cl := &Client{conn: c, r: bufio.NewReader(c)}
	if o != nil {
		cl.opts = *o
	}
	text, err := cl.Reply(ctx)
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("read greeting: %w", err)
	}
	cl.greeting = text
	return cl, nil
}

// Greeting is the text of the server's first line, after "+OK ".
func (c *Client) Greeting() string { return c.greeting }

// Stamp is the APOP timestamp of the greeting with its angle brackets, "" when
// there is none.
func (c *Client) Stamp() string {
	i := strings.IndexByte(c.greeting, '<')
	if i < 0 {
		return ""
	}
	j := strings.IndexByte(c.greeting[i:], '>')
	if j < 0 || !strings.Contains(c.greeting[i:i+j], "@") {
		return ""
	}
	return c.greeting[i : i+j+1]
}

// Conn is the connection as it is now: a *tls.Conn after [Client.StartTLS].
func (c *Client) Conn() net.Conn { return c.conn }

// Read reads octets that no method has read yet, as they come from the server.
// It is for tests of the framing itself.
func (c *Client) Read(p []byte) (int, error) { return c.r.Read(p) }

// Close hangs up without QUIT: the server removes nothing.
func (c *Client) Close() error { return c.conn.Close() }

// Hangup ends the session without QUIT, and waits until the server has hung up
// as well: the maildrop is then unlocked, as it is after QUIT, and the server
// has had no occasion to remove anything (RFC 1939 section 6: it enters the
// UPDATE state at QUIT only).
func (c *Client) Hangup(ctx context.Context) error {
	defer c.conn.Close()
	defer c.arm(ctx)()
	half, ok := c.conn.(interface{ CloseWrite() error })
	if !ok {
		return nil
	}
	if err := half.CloseWrite(); err != nil {
		return fmt.Errorf("hang up: %w", err)
	}
	if _, err := io.Copy(io.Discard, c.r); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		return fmt.Errorf("hang up: %w", err)
	}
	return nil
}

// Send writes commands in one piece, without waiting for replies. Read those
// in order with [Client.Reply], [Client.Lines] and [Client.ReadBody].
func (c *Client) Send(ctx context.Context, lines ...string) error {
	for _, l := range lines {
		if strings.ContainsAny(l, "\r\n") {
			return errors.New("pop3 client: line break inside a command")
		}
		c.log(Sent, masked(l))
	}
	return c.write(ctx, strings.Join(lines, "\r\n")+"\r\n")
}

// Reply reads a status line and returns the text after "+OK". The error for
// -ERR is a [*ServerError].
func (c *Client) Reply(ctx context.Context) (string, error) {
	defer c.arm(ctx)()
	line, err := c.status()
	if err != nil {
		return "", err
	}
	if _, ok := cutWord(line, "+"); ok {
		return "", fmt.Errorf("pop3 client: continuation %q outside of AUTH", line)
	}
	return okText(line)
}

// Lines reads a multi-line reply: the text of its first line and the lines
// between that and the terminator, un-stuffed.
func (c *Client) Lines(ctx context.Context) (text string, lines []string, err error) {
	defer c.arm(ctx)()
	if text, err = c.Reply(ctx); err != nil {
		return "", nil, err
	}
	for {
		line, err := c.line(Received)
		switch {
		case err != nil:
			return "", nil, err
		case line == ".":
			return text, lines, nil
		}
		lines = append(lines, strings.TrimPrefix(line, "."))
	}
}

// ReadBody reads the status line of a RETR or TOP that was sent and returns
// the message that follows it. The reader ends at the terminator; what is left
// of it when the next reply is read is skipped.
func (c *Client) ReadBody(ctx context.Context) (io.Reader, error) {
	if _, err := c.Reply(ctx); err != nil {
		return nil, err
	}
	c.body = &body{c: c, u: unstuffer{start: true}, stop: c.arm(ctx)}
	return c.body, nil
}

// Cmd sends one command and reads its status line.
func (c *Client) Cmd(ctx context.Context, line string) (string, error) {
	if err := c.Send(ctx, line); err != nil {
		return "", err
	}
	return c.Reply(ctx)
}

// CmdLines sends one command and reads its multi-line reply.
func (c *Client) CmdLines(ctx context.Context, line string) ([]string, error) {
	if err := c.Send(ctx, line); err != nil {
		return nil, err
	}
	_, lines, err := c.Lines(ctx)
	return lines, err
}

// StartTLS says STLS and runs the handshake (RFC 2595 section 4). It refuses
// octets that came in the clear after the reply.
func (c *Client) StartTLS(ctx context.Context, config *tls.Config) error {
	if _, err := c.Cmd(ctx, "STLS"); err != nil {
		return err
	}
	if n := c.r.Buffered(); n > 0 {
		return fmt.Errorf("pop3 client: %d octets in the clear after the reply to STLS", n)
	}
	c.conn.SetDeadline(time.Time{})
	tc := tls.Client(c.conn, config)
	if err := tc.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("tls handshake: %w", err)
	}
	c.conn = tc
	c.r.Reset(tc)
	c.log(Note, tls.VersionName(tc.ConnectionState().Version)+" from here on")
	return nil
}

// arm gives the connection the deadline of ctx and expires it when ctx is
// cancelled, until the function that it returns is called.
func (c *Client) arm(ctx context.Context) (stop func() bool) {
	conn := c.conn
	d, _ := ctx.Deadline()
	conn.SetDeadline(d)
	return context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
}

func (c *Client) write(ctx context.Context, s string) error {
	defer c.arm(ctx)()
	_, err := io.WriteString(c.conn, s)
	return err
}

// ahead is a connection of which r has read some already.
type ahead struct {
	net.Conn
	r io.Reader
}

func (a *ahead) Read(p []byte) (int, error) { return a.r.Read(p) }

// status reads the next status line, past what is left of a body.
func (c *Client) status() (string, error) {
	if c.body != nil {
		if _, err := io.Copy(io.Discard, c.body); err != nil {
			return "", err
		}
	}
	return c.line(Received)
}

// line reads one line without its line end.
func (c *Client) line(k Kind) (string, error) {
	var line []byte
	for {
		part, err := c.r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case err == nil:
			s := strings.TrimSuffix(string(line[:len(line)-1]), "\r")
			c.log(k, s)
			return s, nil
		case errors.Is(err, io.EOF):
			return "", io.ErrUnexpectedEOF
		case !errors.Is(err, bufio.ErrBufferFull):
			return "", err
		case len(line) > maxLine:
			return "", fmt.Errorf("pop3 client: line of more than %d octets", maxLine)
		}
	}
}

func (c *Client) log(k Kind, line string) {
	if c.opts.Log != nil {
		c.opts.Log(k, line)
	}
}

// masked is a command as it may be shown.
func masked(line string) string {
	verb, rest, _ := strings.Cut(line, " ")
	switch strings.ToUpper(verb) {
	case "PASS":
		return verb + " ***"
	case "APOP", "AUTH":
		if name, _, more := strings.Cut(rest, " "); more {
			return verb + " " + name + " ***"
		}
	}
	return line
}

// okText is what follows +OK; anything else is an error.
func okText(line string) (string, error) {
	if text, ok := cutWord(line, "+OK"); ok {
		return text, nil
	}
	text, ok := cutWord(line, "-ERR")
	if !ok {
		return "", fmt.Errorf("pop3 client: reply is neither +OK nor -ERR: %q", line)
	}
	e := &ServerError{Text: text}
	if code, rest, ok := strings.Cut(text, "]"); ok && strings.HasPrefix(code, "[") {
		e.Code, e.Text = code[1:], strings.TrimPrefix(rest, " ")
	}
	return "", e
}

// cutWord takes a first word off line, and the space after it.
func cutWord(line, word string) (rest string, ok bool) {
	rest, ok = strings.CutPrefix(line, word)
	if !ok || rest != "" && rest[0] != ' ' {
		return "", false
	}
	return strings.TrimPrefix(rest, " "), true
}

// body is the message after the status line of RETR or TOP.
type body struct {
	c    *Client
	u    unstuffer
	rest []byte // un-stuffed and not yet read; points into c.r until its next read
	err  error
	stop func() bool
}

func (b *body) Read(p []byte) (int, error) {
	for len(b.rest) == 0 {
		if b.err != nil {
			return 0, b.err
		}
		b.fill()
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

func (b *body) fill() {
	part, err := b.c.r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		err = nil
		if part[len(part)-1] == '\r' { // keep CR LF in one part
			part = part[:len(part)-1]
			b.c.r.UnreadByte()
		}
	}
	if len(part) > 0 && b.c.opts.Log != nil {
		b.c.log(Body, strings.TrimRight(string(part), "\r\n"))
	}
	var end bool
	b.rest, end = b.u.part(part)
	switch {
	case end:
		b.err = io.EOF
	case errors.Is(err, io.EOF):
		b.err = io.ErrUnexpectedEOF
	default:
		b.err = err
	}
	if b.err != nil {
		b.stop()
		b.c.body = nil
	}
}

// unstuffer undoes the byte-stuffing of RFC 1939 section 3. A line begins
// after CRLF and nowhere else.
type unstuffer struct{ start bool }

// part takes octets up to and including a line feed, or less of a line that is
// too long for one piece. A CR that is followed by a line feed must come in
// the same part. end is true for the terminator.
func (u *unstuffer) part(p []byte) (out []byte, end bool) {
	if u.start && string(p) == ".\r\n" {
		return nil, true
	}
	if u.start && len(p) > 0 && p[0] == '.' {
		p, u.start = p[1:], false
	}
	if len(p) > 0 {
		u.start = bytes.HasSuffix(p, []byte("\r\n"))
	}
	return p, false
}
