package maildrop

import (
	"bytes"
	"io"
)

// Meter counts how a message goes over the wire while its stored octets are
// written to it, in pieces of any length. The zero value is a meter of the
// empty message.
//
// It is the one definition of the wire form, which package pop3 sends by: a LF
// that no CR precedes becomes CRLF; every other octet stays, a CR without LF
// among them; a message that does not end with LF gets CRLF appended, so that
// one that ends with a CR ends with CR CR LF. The empty message stays empty. A
// line starts at the first octet and after each LF, and nowhere else: a dot
// after a CR alone is not stuffed.
type Meter struct {
	octets int64 // written so far
	bare   int64 // LFs that no CR precedes
	dotted bool  // a line begins with a dot; kept only while bare is 0
	last   byte  // octet written last
	line   int64 // octets of the current line; kept only in the header
	header int64 // octets of the header as sent; 0 before its end
}

// Write never fails.
func (m *Meter) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if m.header > 0 && m.bare > 0 && m.last != '\r' && bytes.IndexByte(p, '\r') < 0 {
		// LF line ends throughout: the form is known, only the count is not
		m.bare += int64(bytes.Count(p, []byte{'\n'}))
	} else {
		m.lines(p)
	}
	m.octets += int64(len(p))
	m.last = p[len(p)-1]
	return len(p), nil
}

func (m *Meter) lines(p []byte) {
	if p[0] == '.' && (m.octets == 0 || m.last == '\n') {
		m.dotted = true
	}
	before, size := m.last, len(p)
	for {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			m.line += int64(len(p))
			return
		}
		if i > 0 {
			before = p[i-1]
		}
		if before != '\r' {
			m.bare++
		}
		if m.line += int64(i); m.header == 0 && (m.line == 0 || m.line == 1 && before == '\r') {
			m.header = m.octets + int64(size-len(p)+i+1) + m.bare
		}
		m.line = 0
		before, p = '\n', p[i+1:]
		if len(p) > 0 && p[0] == '.' {
			m.dotted = true
		}
	}
}

// Size is the number of octets as sent, before dot-stuffing and without the
// terminator: [Message.Size].
func (m *Meter) Size() int64 {
	if m.octets > 0 && m.last != '\n' {
		return m.octets + m.bare + 2
	}
	return m.octets + m.bare
}

// Header is how much of Size is the header, with the empty line that ends it.
// A message without such a line is all header.
func (m *Meter) Header() int64 {
	if m.header > 0 {
		return m.header
	}
	return m.Size()
}

// WireForm says that the stored octets are those to send: [Message.WireForm].
func (m *Meter) WireForm() bool {
	return m.bare == 0 && !m.dotted && (m.octets == 0 || m.last == '\n')
}

// Measure reads r to its end.
func Measure(r io.Reader) (size int64, wireForm bool, err error) {
	var m Meter
	// The wrapper hides WriteTo and ReadFrom: the copy takes one buffer of
	// 32 KiB, whatever the length of the message.
	_, err = io.Copy(&m, struct{ io.Reader }{r})
	return m.Size(), m.WireForm(), err
}
