package pop3

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"time"
)

const (
	// maxCommand is the longest command line in octets with its end: 255 in
	// RFC 2449 section 4, and room for long passwords.
	maxCommand = 512
	// maxSASL is the longest line of an AUTH command or its responses. A
	// ticket of Windows can have 64 KiB, 88 KiB in base64. With what TLS holds
	// a session stays below 128 KiB.
	maxSASL = 96 << 10

	idleBuffer = maxCommand // what a session keeps to read into
)

// reader holds what was received and not yet used: buf[r:w].
type reader struct {
	buf  []byte
	r, w int
}

func (b *reader) buffered() []byte { return b.buf[b.r:b.w] }

// take consumes the buffered line of n octets and returns it without its end.
// The line is valid until the next read.
func (b *reader) take(n int) []byte {
	line := b.buf[b.r : b.r+n-1]
	b.r += n
	return bytes.TrimSuffix(line, []byte{'\r'})
}

// makeRoom leaves space to read into, growing the buffer up to limit.
func (b *reader) makeRoom(limit int) {
	switch {
	case b.r == b.w:
		b.r, b.w = 0, 0
		if len(b.buf) > idleBuffer {
			clear(b.buf)
			b.buf = make([]byte, idleBuffer)
		}
	case b.r > 0 && b.w == len(b.buf):
		b.w = copy(b.buf, b.buf[b.r:b.w])
		b.r = 0
	}
	if b.w == len(b.buf) {
		grown := make([]byte, min(2*len(b.buf), limit))
		copy(grown, b.buf)
		clear(b.buf)
		b.buf = grown
	}
}

// readLine returns the next line without its end, valid until the next read.
// limit, asked again as more arrives, is the longest line to take; a longer
// one is read to its end and refused.
func (s *session) readLine(ctx context.Context, limit func(start []byte) int) ([]byte, error) {
	b := &s.in
	deadline := s.readDeadline()
	for scanned := 0; ; {
		got := b.buffered()
		if i := bytes.IndexByte(got[scanned:], '\n'); i >= 0 {
			n := scanned + i + 1
			if n > limit(got[:n]) {
				b.r += n
				return nil, errLineTooLong
			}
			return b.take(n), nil
		}
		scanned = len(got)
		limit := limit(got)
		if scanned >= limit {
			return nil, s.skipLine(ctx, deadline)
		}
		b.makeRoom(limit)
		if err := s.fill(ctx, deadline); err != nil {
			return nil, err
		}
	}
}

// skipLine reads to the end of a line that is too long.
func (s *session) skipLine(ctx context.Context, deadline time.Time) error {
	b := &s.in
	for {
		if i := bytes.IndexByte(b.buffered(), '\n'); i >= 0 {
			b.r += i + 1
			return errLineTooLong
		}
		b.r = b.w
		b.makeRoom(idleBuffer)
		if err := s.fill(ctx, deadline); err != nil {
			return err
		}
	}
}

// fill waits for input. Replies leave first: the client may wait for them
// before it goes on, and pipelined commands are answered together.
func (s *session) fill(ctx context.Context, deadline time.Time) error {
	if err := s.out.flush(); err != nil {
		return err
	}
	s.armRead(deadline)
	n, err := s.conn.Read(s.in.buf[s.in.w:])
	s.in.w += n
	switch {
	case n > 0: // an error with data comes again at the next read
		return nil
	case err == nil:
		return nil
	case s.drainBy.Load() != 0:
		return &ending{Drained, err}
	case errors.Is(err, os.ErrDeadlineExceeded) && s.state == authorization:
		return &ending{LoginTimeout, err}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &ending{IdleTimeout, err}
	default:
		return &ending{Hangup, err}
	}
}

// commandLimit is the limit of readLine for commands.
func (s *session) commandLimit(start []byte) int {
	if s.state == authorization && len(start) > 5 && equalFold("AUTH ", start[:5]) {
		return maxSASL
	}
	return maxCommand
}

// saslLimit is the limit of readLine inside a SASL exchange.
func saslLimit([]byte) int { return maxSASL }

// replay is a connection some of whose input was read already.
type replay struct {
	net.Conn
	ahead []byte
}

func (c *replay) Read(p []byte) (int, error) {
	if len(c.ahead) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.ahead)
	c.ahead = c.ahead[n:]
	return n, nil
}
