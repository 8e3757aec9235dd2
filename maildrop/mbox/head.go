package mbox

import (
	"bytes"
	"hash/crc64"
	"io"
	"strings"
)

// kept are the fields in which mail programs keep what they know of a message in
// an mbox: they come and go while the message stays the same, and they are not
// sent. Dovecot and UW's servers hide them too. Content-Length is one of them: it
// counts the octets of the file, and is often wrong.
var kept = map[string]bool{
	"status": true, "x-status": true, "x-keywords": true, "x-uid": true,
	"x-imap": true, "x-imapbase": true, "content-length": true,
}

// later are fields that programs add to a message and that are sent: they do not
// tell it apart.
var later = map[string]bool{"x-uidl": true, "lines": true}

// maxCuts bounds how many runs of hidden fields are cut from one message; those
// beyond it are sent.
const maxCuts = 32

// bodyLimit is how much of the body tells apart messages whose headers are alike.
const bodyLimit = 4 << 10

var polynomial = crc64.MakeTable(crc64.ECMA)

// look fills in what the head of a message says. head begins with its From_ line,
// and ends with its header or is cut off.
// What tells the message apart is written to id.
func look(p *part, head []byte, id io.Writer) {
	p.head, p.sum = int64(len(head)), crc64.Checksum(head, polynomial)
	id.Write(head[:p.line])
	var subject, imap bool
	at, hidden, quiet := p.line, false, false
	for rest := head[p.line:]; len(rest) > 0; {
		n := int64(len(rest))
		if i := bytes.IndexByte(rest, '\n'); i >= 0 {
			n = int64(i) + 1
		}
		field := rest[:n]
		rest = rest[n:]
		if field[0] != ' ' && field[0] != '\t' || at == p.line { // no continuation
			name := nameOf(field)
			hidden, quiet = kept[name], later[name]
			subject = subject || name == "subject" && bytes.Contains(field, []byte("DON'T DELETE THIS MESSAGE"))
			imap = imap || name == "x-imap" || name == "x-imapbase"
		}
		switch {
		case hidden:
			p.hide(at, at+n)
		case !quiet:
			id.Write(field)
		}
		at += n
	}
	from := bytes.HasPrefix(head, []byte("From MAILER-DAEMON")) || bytes.HasPrefix(head, []byte("From MAILER_DAEMON")) // UW's and Dovecot's
	p.pseudo = subject && imap && from
}

// hide adds octets to what is not sent.
func (p *part) hide(from, to int64) {
	if n := len(p.cuts); n > 0 && p.cuts[n-1].to == from {
		p.cuts[n-1].to = to
	} else if n < maxCuts {
		p.cuts = append(p.cuts, cut{from, to})
	}
}

// nameOf is the name of a header field in small letters, "" when it has none.
func nameOf(field []byte) string {
	i := bytes.IndexByte(field, ':')
	if i < 1 || i > 32 {
		return ""
	}
	return strings.ToLower(string(bytes.TrimRight(field[:i], " \t")))
}
