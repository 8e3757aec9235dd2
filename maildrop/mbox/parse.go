package mbox

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"strconv"

	"github.com/kpopd/kpopd/maildrop"
)

// errNotMbox: the file begins with something else than a message.
var errNotMbox = errors.New("does not begin with a From_ line")

// part is a message as it lies in the file: From_ line, header, body, and the
// empty line that belongs to no message.
type part struct {
	offset int64    // of the From_ line
	line   int64    // octets of it, with its line end
	octets int64    // from the From_ line to the end of the body
	end    int64    // offset of what follows: the next From_ line or the end of the file
	head   int64    // octets of its head
	sum    uint64   // of its head
	id     [16]byte // tells messages apart, whatever programs write into headers later
	cuts   []cut    // what is not sent, in order
	pseudo bool     // made by a mail program for itself, no message

	size     int64 // on the wire
	wireForm bool
}

// cut is octets of the header that are not sent, relative to the From_ line.
type cut struct{ from, to int64 }

// parser splits the file into parts. A part begins with a From_ line at the start
// or after an empty line; no header is believed to say how long it is.
type parser struct {
	r       *bufio.Reader
	at      int64 // offset of the next octet
	fresh   bool  // at is the start of a line
	empty   []byte
	after   bool // the line before was empty, or there is none
	within  bool // a part has begun
	current part
	head    []byte // its first octets, until the header ends or headLimit
	inHead  bool
	meter   maildrop.Meter
	digest  hash.Hash                // becomes the id
	body    int                      // octets of the body that are in digest
	found   func(part, []byte) error // is told each part, and its head
}

// headLimit bounds how much of a message is looked at for what tells it apart and
// for what is not to be sent.
const headLimit = 64 << 10

// parse reads parts from r, which is at offset at of the file, to its end.
func parse(r io.Reader, at int64, found func(p part, head []byte) error) error {
	p := parser{r: bufio.NewReaderSize(r, 256<<10), at: at, fresh: true, after: true, found: found}
	for {
		line, err := p.r.ReadSlice('\n')
		if len(line) > 0 {
			if err := p.line(line); err != nil {
				return err
			}
			p.at += int64(len(line))
			p.fresh = line[len(line)-1] == '\n'
		}
		switch err {
		case nil, bufio.ErrBufferFull:
		case io.EOF:
			return p.finish()
		default:
			return err
		}
	}
}

// line takes a line, or a piece of a long one.
func (p *parser) line(line []byte) error {
	if p.fresh && p.after && isFrom(line) {
		if err := p.finish(); err != nil {
			return err
		}
		p.within, p.inHead, p.after = true, true, false
		p.current = part{offset: p.at, line: int64(len(line))}
		p.head = append(p.head[:0], line...)
		p.meter = maildrop.Meter{}
		return nil
	}
	empty := p.fresh && isEmpty(line)
	if !p.within {
		if !empty {
			return errNotMbox
		}
		return nil
	}
	p.write(p.empty)
	p.empty = p.empty[:0]
	p.after = empty
	if empty {
		p.empty = append(p.empty, line...) // the last one is not the message's
	} else {
		p.write(line)
	}
	return nil
}

// write adds octets to the part.
func (p *parser) write(b []byte) {
	p.current.octets += int64(len(b))
	if !p.inHead {
		p.meter.Write(b)
		n := min(len(b), bodyLimit-p.body)
		p.digest.Write(b[:n])
		p.body += n
		p.show(b)
		return
	}
	p.head = append(p.head, b...)
	if isEmpty(b) && p.fresh || len(p.head) >= headLimit {
		p.endHead()
	}
}

// nameOctets is how much of a message is shown to who names it, of the body too
// when the header is shorter.
const nameOctets = 512

// show adds octets of the body to the head.
func (p *parser) show(b []byte) {
	p.head = append(p.head, b[:min(len(b), max(0, nameOctets-len(p.head)))]...)
}

// endHead takes from the head what there is to know, and meters what of it is
// sent.
func (p *parser) endHead() {
	p.inHead = false
	p.digest, p.body = sha256.New(), 0
	look(&p.current, p.head, p.digest)
	at := p.current.line
	for _, c := range p.current.cuts {
		p.meter.Write(p.head[at:c.from])
		at = c.to
	}
	p.meter.Write(p.head[at:])
}

// finish ends the part that was begun, if any.
func (p *parser) finish() error {
	if !p.within {
		return nil
	}
	p.within = false
	if p.inHead {
		p.endHead()
	}
	p.show(p.empty)
	p.empty = p.empty[:0]
	c := &p.current
	c.octets += c.line
	c.end = p.at
	copy(c.id[:], p.digest.Sum(nil))
	c.size, c.wireForm = p.meter.Size(), p.meter.WireForm()
	return p.found(*c, p.head)
}

func isEmpty(line []byte) bool {
	return len(line) == 1 && line[0] == '\n' || len(line) == 2 && line[0] == '\r' && line[1] == '\n'
}

// isFrom says that a line is a From_ line: "From ", who sent it, and a date as
// asctime(3) writes it, with a zone before or after the year or without one, with
// or without seconds. A line of prose is none.
func isFrom(line []byte) bool {
	rest, ok := bytes.CutPrefix(line, []byte("From "))
	if !ok || len(rest) > 1000 || line[len(line)-1] != '\n' {
		return false
	}
	f := bytes.Fields(rest)
	for i := 0; i+4 < len(f); i++ {
		if isName(f[i], "SunMonTueWedThuFriSat") && isDate(f[i+1:]) {
			return true
		}
	}
	return false
}

// isDate says that f begins with month, day, time, and has a year within three
// more words.
func isDate(f [][]byte) bool {
	if !isName(f[0], "JanFebMarAprMayJunJulAugSepOctNovDec") || !isClock(f[2]) {
		return false
	}
	if n, err := strconv.Atoi(string(f[1])); err != nil || n < 1 || n > 31 {
		return false
	}
	for _, year := range f[3:min(len(f), 6)] {
		if n, err := strconv.Atoi(string(year)); err == nil && len(year) == 4 && n >= 1970 {
			return true
		}
	}
	return false
}

func isName(word []byte, names string) bool {
	i := bytes.Index([]byte(names), word)
	return len(word) == 3 && i >= 0 && i%3 == 0
}

// isClock takes 15:04 and 15:04:05.
func isClock(word []byte) bool {
	if len(word) != 5 && len(word) != 8 {
		return false
	}
	for i, b := range word {
		if i%3 == 2 {
			if b != ':' {
				return false
			}
		} else if b < '0' || b > '9' {
			return false
		}
	}
	return true
}
