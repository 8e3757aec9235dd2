package pop3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/kpopd/kpopd/maildrop"
)

// allLines is the line count of RETR.
const allLines = ^uint64(0)

func (s *session) retr(ctx context.Context, a args) error {
	i, err := s.message(a[0])
	if err != nil {
		return err
	}
	if err = s.sendMessage(ctx, i, allLines); err != nil {
		return err
	}
	// RETR alone is a retrieval (RFC 2449 section 6.7): clients that keep their
	// mail here use TOP for all of it
	if r, ok := s.drop.(maildrop.Retriever); ok {
		r.Retrieved(i)
	}
	return nil
}

// top sends the header, the line that ends it, and n lines of the body
// (RFC 1939 section 7). No message has more lines than octets.
func (s *session) top(ctx context.Context, a args) error {
	i, err := s.message(a[0])
	if err != nil {
		return err
	}
	n, ok := parseNumber(a[1])
	if !ok {
		return errNotCount
	}
	ms, err := s.messages(ctx)
	if err != nil {
		return err
	}
	if n >= uint64(ms.At(i).Size) {
		n = allLines
	}
	return s.sendMessage(ctx, i, n)
}

// sendMessage answers with message i, up to lines lines of its body. Until the
// first octets are there an error becomes -ERR; after that it ends the session.
func (s *session) sendMessage(ctx context.Context, i int, lines uint64) (err error) {
	ms, err := s.messages(ctx)
	if err != nil {
		return err
	}
	m := ms.At(i)
	body, err := s.drop.Content(ctx, i)
	if err != nil {
		return s.vanished(i, err)
	}
	defer func() { s.closeBody(ctx, i, body.Close()) }()
	box := bodyBuffers.Get().(*[bodyBuffer]byte)
	n, err := readSome(body, box[:])
	if err != nil && err != io.EOF {
		bodyBuffers.Put(box)
		return s.vanished(i, fmt.Errorf("read message %d: %w", i+1, err))
	}
	s.startBody(m.Size, lines)
	s.out.enlarge()
	b := bodySource{body, box[:], n, err}
	if m.WireForm && lines == allLines {
		err = s.passThrough(&b, m.Size)
	} else {
		err = s.encode(&b, m.Size, lines)
	}
	bodyBuffers.Put(box)
	if err == nil && lines == allLines {
		s.done.Retrieved++
	}
	return err
}

func (s *session) startBody(size int64, lines uint64) {
	if lines == allLines {
		s.okNumber(uint64(size), " octets")
	} else {
		s.ok("Top of message follows")
	}
}

// vanished is the answer for a message that cannot be opened. One that is gone
// stays gone: a client that asks for it again would do so for ever.
func (s *session) vanished(i int, err error) error {
	if !errors.Is(err, maildrop.ErrGone) {
		return err
	}
	if s.gone[i] {
		s.close(Refused)
	}
	if s.gone == nil {
		s.gone = make(map[int]bool)
	}
	s.gone[i] = true
	return err
}

func (s *session) closeBody(ctx context.Context, i int, err error) {
	if err != nil {
		s.log.WarnContext(ctx, "close message", s.attrs(slog.Int("number", i+1), errAttr(err))...)
	}
}

// readSome is body.Read that insists on octets or an error.
func readSome(body io.Reader, p []byte) (int, error) {
	for range 100 {
		if n, err := body.Read(p); n > 0 || err != nil {
			return n, err
		}
	}
	return 0, io.ErrNoProgress
}

// bodySource is a message being read, with its first octets.
type bodySource struct {
	r   io.Reader
	buf []byte
	n   int   // octets in buf not yet taken
	err error // that came with them
}

// next returns the next octets, none at the end.
func (b *bodySource) next() ([]byte, error) {
	n, err := b.n, b.err
	b.n, b.err = 0, nil
	if n == 0 && err == nil {
		n, err = readSome(b.r, b.buf)
	}
	if err == nil || n > 0 {
		b.err = err
		return b.buf[:n], nil
	}
	b.err = err
	if err == io.EOF {
		return nil, nil
	}
	return nil, err
}

// torn ends the session whose message could not be sent as announced. No
// terminator is sent: it would tell the client that it has the message.
func torn(format string, a ...any) error {
	return &ending{Torn, fmt.Errorf(format, a...)}
}

// more makes room for more of a body. A CR waits for the LF that may follow it,
// so that the last write holds CRLF, dot, CRLF.
func (w *writer) more() error {
	n := len(w.buf)
	cr := n > 1 && w.buf[n-1] == '\r'
	if cr {
		w.buf = w.buf[:n-1]
	}
	err := w.push()
	if cr {
		w.buf = append(w.buf, '\r')
	}
	return err
}

// tail is what the terminator takes: the missing end of the last line and
// ".\r\n". That much stays free until the end, so that the terminator leaves
// in the same write as the last octets: some clients look for it only there.
const tail = 5

// passThrough sends a message in wire form, of size octets.
func (s *session) passThrough(b *bodySource, size int64) error {
	var sent int64
	last2 := [2]byte{'\r', '\n'} // of an empty message
	for {
		p, err := b.next()
		if err != nil {
			return torn("read message: %w", err)
		}
		if len(p) == 0 {
			break
		}
		if sent += int64(len(p)); sent > size {
			return torn("message is longer than its %d octets", size)
		}
		if last2[0] = last2[1]; len(p) > 1 {
			last2[0] = p[len(p)-2]
		}
		last2[1] = p[len(p)-1]
		if err := s.out.body(p); err != nil {
			return err
		}
	}
	if sent != size || last2 != [2]byte{'\r', '\n'} {
		return torn("message has %d octets in wire form, not %d", sent, size)
	}
	s.out.str(".\r\n")
	return nil
}

// body adds p to the large buffer, whose last octets stay free.
func (w *writer) body(p []byte) error {
	for len(p) > 0 {
		n := min(len(p), cap(w.buf)-tail-len(w.buf))
		if n <= 0 {
			if err := w.more(); err != nil {
				return err
			}
			continue
		}
		w.buf = append(w.buf, p[:n]...)
		p = p[n:]
	}
	return nil
}

// encode sends a message as stored: LF becomes CRLF, a dot that starts a line
// gets another (RFC 1939 section 3). It counts what it sends without those
// dots, and stops after lines lines of the body.
func (s *session) encode(b *bodySource, size int64, lines uint64) error {
	e := encoder{w: &s.out, lines: lines, header: true}
	for !e.done {
		p, err := b.next()
		if err != nil {
			return torn("read message: %w", err)
		}
		if len(p) == 0 {
			break
		}
		if err := e.write(p); err != nil {
			return err
		}
		if e.sent > size {
			return torn("message is longer than its %d octets", size)
		}
	}
	e.finish()
	if e.sent > size || !e.done && e.sent != size {
		return torn("message has %d octets, not %d", e.sent, size)
	}
	s.out.str(".\r\n")
	return nil
}

// encoder turns stored octets into octets to send, in one pass. Its state
// between calls makes the result independent of how the octets are cut up.
type encoder struct {
	w      *writer
	sent   int64  // octets without stuffing
	col    int64  // octets of the current line so far, its CR included
	prev   byte   // last octet of those
	header bool   // still in the header
	lines  uint64 // of the body still to send; allLines are not counted
	done   bool   // they were sent
}

// write encodes p, or as much of it as is to be sent.
func (e *encoder) write(p []byte) error {
	for len(p) > 0 && !e.done {
		if e.col == 0 && e.lines == allLines {
			if p = e.wholeLines(p); len(p) == 0 {
				return nil
			}
		}
		// room for a stuffed dot, CRLF and the terminator
		room := cap(e.w.buf) - len(e.w.buf) - tail - 3
		if room <= 0 {
			if err := e.w.more(); err != nil {
				return err
			}
			continue
		}
		if e.col == 0 && p[0] == '.' {
			e.w.buf = append(e.w.buf, '.')
		}
		p = e.piece(p, room)
	}
	return nil
}

// wholeLines encodes the lines at the start of p that have their ends in it and
// for which there is room, where nobody counts lines, and returns what follows.
// It is the inner loop of RETR, and does nothing that piece could not.
func (e *encoder) wholeLines(p []byte) []byte {
	buf := e.w.buf[:cap(e.w.buf)]
	n, dots := len(e.w.buf), 0
	for {
		i := bytes.IndexByte(p, '\n')
		if i < 0 || i > len(buf)-n-tail-3 {
			break
		}
		if p[0] == '.' {
			buf[n] = '.'
			n++
			dots++
		}
		n += copy(buf[n:], p[:i])
		if i == 0 || p[i-1] != '\r' {
			buf[n] = '\r'
			n++
		}
		buf[n] = '\n'
		n++
		p = p[i+1:]
	}
	e.sent += int64(n - len(e.w.buf) - dots)
	e.w.buf = buf[:n]
	return p
}

// piece encodes the rest of a line, or room octets of it, and returns what
// follows.
func (e *encoder) piece(p []byte, room int) []byte {
	look := p[:min(len(p), room)]
	i := bytes.IndexByte(look, '\n')
	if i < 0 {
		e.w.buf = append(e.w.buf, look...)
		e.col += int64(len(look))
		e.sent += int64(len(look))
		e.prev = look[len(look)-1]
		return p[len(look):]
	}
	e.w.buf = append(e.w.buf, look[:i]...)
	e.sent += int64(i)
	e.col += int64(i)
	if i > 0 {
		e.prev = look[i-1]
	}
	e.endLine()
	return p[i+1:]
}

// endLine sends the end of a line that has LF, and counts the line.
func (e *encoder) endLine() {
	length := e.col
	if length > 0 && e.prev == '\r' {
		e.w.buf = append(e.w.buf, '\n')
		e.sent++
		length--
	} else {
		e.w.buf = append(e.w.buf, '\r', '\n')
		e.sent += 2
	}
	e.col = 0
	switch {
	case e.lines == allLines:
	case !e.header:
		e.lines--
	case length == 0:
		e.header = false
	}
	e.done = !e.header && e.lines == 0
}

// finish ends a last line that has no end.
func (e *encoder) finish() {
	if e.col == 0 {
		return
	}
	e.w.buf = append(e.w.buf, '\r', '\n')
	e.sent += 2
	e.col = 0
}
