package uidl

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"iter"
	"strings"
)

// fromLine splits the From_ line, with its line end, off the head of an mbox
// message. There is none in a Maildir.
func fromLine(head []byte) (from, header []byte) {
	if !bytes.HasPrefix(head, []byte("From ")) {
		return nil, head
	}
	i := bytes.IndexByte(head, '\n') + 1
	if i == 0 {
		i = len(head)
	}
	return head[:i], head[i:]
}

// headerLines yields the lines of a header as stored, with line ends. A line
// that the head is cut off in is not one.
func headerLines(header []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for {
			i := bytes.IndexByte(header, '\n') + 1
			if i == 0 || i == 1 || i == 2 && header[0] == '\r' {
				return
			}
			if !yield(header[:i]) {
				return
			}
			header = header[i:]
		}
	}
}

// field is the name of the field that a line begins, in lower case; "" for a
// line that goes on with one.
func field(line []byte) string {
	if line[0] == ' ' || line[0] == '\t' {
		return ""
	}
	name, _, found := bytes.Cut(line, []byte(":"))
	if !found || len(name) > 32 {
		return "\x00" // none of those that are asked for
	}
	return strings.ToLower(string(name))
}

// value is what follows the colon, without the blanks before and the line end.
func value(line []byte) []byte {
	_, v, _ := bytes.Cut(line, []byte(":"))
	return bytes.TrimLeft(chomp(v), " \t")
}

func chomp(line []byte) []byte {
	return bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
}

// picker goes through a header by the names of its fields as popa3d does.
type picker struct{ received, taken bool }

// takes says whether a line counts; one that goes on with a field, "", as the
// field does.
func (p *picker) takes(name string) bool {
	switch name {
	case "":
	case "date", "message-id":
		p.taken = !p.received
	case "received":
		p.taken = !p.received
		p.received = true
	case "delivered-to", "x-delivery-id":
		p.taken = true
	default:
		p.taken = false
	}
	return p.taken
}

// popa3d hashes the lines of Date and Message-ID before the first Received,
// that Received with its continuation, Delivered-To and X-Delivery-ID, and
// writes the first half of the sum as two little-endian words.
func popa3d(head []byte) string {
	_, header := fromLine(head)
	h := md5.New()
	var p picker
	for line := range headerLines(header) {
		name := field(line)
		if strings.ContainsAny(name, " \t") {
			name = "\x00" // no field to popa3d
		}
		if p.takes(name) {
			h.Write(line)
		}
	}
	s := h.Sum(nil)
	return hex.EncodeToString([]byte{s[3], s[2], s[1], s[0], s[7], s[6], s[5], s[4]})
}

// apop3d is Dovecot's mbox_md5 of that name, its default: of the values of the
// fields that popa3d hashes the lines of, without the line ends and the one blank
// after the colon; continuation lines with all of theirs.
func apop3d(head []byte) string {
	_, header := fromLine(head)
	h := md5.New()
	var p picker
	for line := range headerLines(header) {
		name, v := field(line), chomp(line)
		if name != "" {
			_, v, _ = bytes.Cut(v, []byte(":"))
			if len(v) > 0 && (v[0] == ' ' || v[0] == '\t') {
				v = v[1:]
			}
		}
		if p.takes(strings.TrimRight(name, " \t")) {
			h.Write(v)
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

// tpop3d hashes the base name, in an mbox the first 512 octets.
func tpop3d(m Message) string {
	in := []byte(m.Base)
	if m.Base == "" {
		in = m.Head[:min(512, len(m.Head))]
	}
	sum := md5.Sum(in)
	return hex.EncodeToString(sum[:])
}

// qpopperLine is the length of Qpopper's line buffer without its NUL: what is
// beyond is a line of its own to it.
const qpopperLine = 1023

// qpopper takes X-UIDL as it wrote it itself, of 20 or 32 octets, else hashes
// the From_ line and the lines, not their continuations, of some fields, and
// the From_ line once more.
func qpopper(head []byte, old bool) string {
	from, header := fromLine(head)
	from = from[:min(len(from), qpopperLine)]
	h := md5.New()
	h.Write(from)
	for line := range headerLines(header) {
		line = line[:min(len(line), qpopperLine)]
		switch {
		case hasFold(line, "x-uidl:"):
			id := strings.TrimLeft(string(bytes.TrimSuffix(line[len("x-uidl:"):], []byte("\n"))), " \t")
			if len(id) >= 11 && len(id) <= 32 {
				return id
			}
		case bytes.HasPrefix(line, []byte("Content-Length:")),
			hasFold(line, "received:"), hasFold(line, "date:"),
			hasFold(line, "message-id:"), hasFold(line, "subject:"):
			h.Write(line)
		}
	}
	if old {
		return hex.EncodeToString(h.Sum(nil))
	}
	h.Write(from)
	return base80(h.Sum(nil))
}

func hasFold(line []byte, prefix string) bool {
	return len(line) >= len(prefix) && strings.EqualFold(string(line[:len(prefix)]), prefix)
}

// base80 is Qpopper's writing of a sum: of four octets five digits, the least
// first, '~' in place of a dot. It adds the octets with a shift of 4 bits, so
// they overlap.
func base80(sum []byte) string {
	id := make([]byte, 0, 20)
	for ; len(sum) >= 4; sum = sum[4:] {
		v := uint32(0)
		for _, b := range sum[:4] {
			v = v<<4 + uint32(b)
		}
		for range 5 {
			c := byte(0x21 + v%80)
			if c == '.' {
				c = '~'
			}
			id = append(id, c)
			v /= 80
		}
	}
	return string(id)
}

// xuidl is the value of the first X-UIDL.
func xuidl(head []byte) string {
	_, header := fromLine(head)
	for line := range headerLines(header) {
		if field(line) == "x-uidl" {
			return string(bytes.TrimRight(value(line), " \t"))
		}
	}
	return ""
}

// heimdal is the value of the first Message-ID, or of the last X-UIDL.
//
// Deviation: Heimdal's popper looks for both in the body too, where anybody can
// write them. Here only the header counts.
func heimdal(head []byte) string {
	_, header := fromLine(head)
	id, seen := "", false
	for line := range headerLines(header) {
		switch {
		case hasFold(line, "message-id:") && !seen:
			id, seen = string(value(line)), true
		case hasFold(line, "x-uidl:"):
			id, seen = string(value(line)), true
		}
	}
	return id
}

// openUW takes what UW's servers wrote into the headers: the uidvalidity into
// X-IMAPbase, or X-IMAP of a message that is not one, the uid into X-UID.
func openUW(from Source) (Rule, error) {
	validity := imapBase(from.First)
	uw := Template{parts: []part{{variable: 'v', modifier: 'X', width: 8}, {variable: 'u', modifier: 'X', width: 8}}}
	return func(m Message) string {
		return uw.ID(Values{UID: xUID(m.Head), UIDValidity: validity})
	}, nil
}

func imapBase(head []byte) uint32 {
	return firstNumber(head, "x-imapbase", "x-imap")
}

func xUID(head []byte) uint32 { return firstNumber(head, "x-uid") }

// firstNumber is the number that the first of the named fields begins with, 0
// when there is none.
func firstNumber(head []byte, names ...string) uint32 {
	_, header := fromLine(head)
	for line := range headerLines(header) {
		f := field(line)
		for _, name := range names {
			if f != name {
				continue
			}
			digits, _, _ := strings.Cut(string(value(line)), " ")
			n, err := number(digits)
			if err != nil {
				return 0
			}
			return n
		}
	}
	return 0
}
