// Package uidl knows the unique-ids of other servers, so that a site can move
// its mail and no client fetches a message again: the rules that make an id
// from a message, and the files in which servers keep the ids they gave.
//
// A [Scheme] is one server's way, found by its name in the configuration. For a
// maildrop it gives a [Rule], which names messages; [Policy] then makes sure
// that what was found may be sent.
//
// # Design notes
//
// A rule answers "" where the old server left no id: the message came after it,
// and the store names it in its own way. An id is asked for once, when a store
// meets the message. The store keeps it from then on, so nothing that a rule
// looks at, a file's content, a header, the name of a message, needs to stay.
//
// What a message says about itself decides its id only under a scheme that the
// site chose: nothing here reads X-UIDL, Message-ID or Status unasked.
//
// Memory is bounded whatever a maildrop holds: rules see the first [HeadLimit]
// octets of a message, and a list is refused beyond [MaxEntries] lines or
// [maxLine] octets in one.
//
// Where a server's id depends on something that is not in the mail, the time of
// the session in GNU mailutils and in Qpopper with "update-status-headers",
// there is nothing to compute: such servers write it into the mailbox as
// X-UIDL, from where it is taken.
package uidl

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
)

// HeadLimit is how many octets of a message, with the From_ line of an mbox, a
// rule is shown at most. A header that is longer is hashed up to there.
const HeadLimit = 64 << 10

// Message is what a rule is told of a message.
type Message struct {
	Base string // file name up to the colon; "" in an mbox

	// Head begins with the message's first stored octet, in an mbox with that
	// of its From_ line, and holds up to HeadLimit octets of it. An mbox
	// message ends where the next From_ line begins: the empty line before
	// that is part of it. Rules for a Maildir do not look at it.
	Head []byte
}

// Rule gives a message the id that a server gave it, or "". The id is as that
// server had it and may be one that must not be sent: see [Policy]. Rules keep
// nothing between calls.
type Rule func(Message) string

// Source is where a scheme finds what its server left for a whole maildrop.
type Source struct {
	// Open opens a file in a Maildir's directory. The error for one that is
	// not there is [fs.ErrNotExist]. nil for an mbox.
	Open func(name string) (io.ReadCloser, error)
	// Bases are the base names of the messages that the rule will be asked
	// for, so that it keeps no others; nil when that may be any.
	Bases []string
	// First is the head of the first message of an mbox, also where that is
	// one that is not shown; nil for a Maildir.
	First []byte
}

// Format is a kind of maildrop.
type Format uint8

// The formats of maildrops, to be combined.
const (
	Maildir Format = 1 << iota
	Mbox
)

// Scheme is a server's way to name messages.
type Scheme struct {
	Name    string // as [ByName] takes it
	Formats Format // that the server's mail can be in here
	Doc     string // whose ids they are

	open func(Source) (Rule, error)
}

// Rule returns the scheme's rule for one maildrop. It reads the server's files
// to their end. A file that is not there leaves a rule without answers: the
// server never saw the maildrop. Its error is one of reading, or says which
// line of a file is no line of such a file.
func (s *Scheme) Rule(from Source) (Rule, error) {
	r, err := s.open(from)
	if err != nil {
		return nil, fmt.Errorf("unique-ids of scheme %s: %w", s.Name, err)
	}
	return r, nil
}

// schemes in the order in which they are documented.
var schemes = []Scheme{
	{"auto", Maildir, "the list " + ListFile + ", else Dovecot's, else Courier's, whichever file is there", openAuto},
	{"list", Maildir, "lines of base name and id in " + ListFile, openList},
	{"dovecot", Maildir | Mbox, "Dovecot, pop3_uidl_format %08Xu%08Xv or another after a colon", nil},
	{"courier", Maildir, "Courier, from " + SizeListFile, openSizeList},
	{"filename", Maildir, "qmail-pop3d, notqmail, tpop3d's style qmail", ruleOf(func(m Message) string { return m.Base })},
	{"courier-0", Maildir, "Courier up to 0.42, when its list is lost", ruleOf(func(m Message) string { return courier0(m.Base) })},
	{"tpop3d", Maildir | Mbox, "tpop3d", ruleOf(tpop3d)},
	{"popa3d", Mbox, "popa3d", ruleOf(func(m Message) string { return popa3d(m.Head) })},
	{"uw", Mbox, "UW ipop3d", openUW},
	{"qpopper", Mbox, "Qpopper 3 and 4", ruleOf(func(m Message) string { return qpopper(m.Head, false) })},
	{"qpopper-old", Mbox, "Qpopper 2, and later ones with old-style-uid", ruleOf(func(m Message) string { return qpopper(m.Head, true) })},
	{"x-uidl", Mbox, "GNU mailutils and others that write X-UIDL; Dovecot's pop3_reuse_xuidl", ruleOf(func(m Message) string { return xuidl(m.Head) })},
	{"message-id", Mbox, "Heimdal popper", ruleOf(func(m Message) string { return heimdal(m.Head) })},
}

// ByName returns the scheme that name asks for. "dovecot" may be followed by a
// colon and a value of Dovecot's pop3_uidl_format.
func ByName(name string) (*Scheme, error) {
	name, format, colon := strings.Cut(name, ":")
	i := slices.IndexFunc(schemes, func(s Scheme) bool { return s.Name == name })
	if i < 0 || colon && name != "dovecot" {
		return nil, fmt.Errorf("no scheme of unique-ids %q: there are %s", name, strings.Join(Names(), ", "))
	}
	s := schemes[i]
	if name == "dovecot" {
		if !colon {
			format = DovecotDefault
		}
		f, err := ParseTemplate(format)
		if err != nil {
			return nil, err
		}
		if colon {
			s.Name += ":" + format
		}
		s.open = f.open
	}
	return &s, nil
}

// Names is the names of all schemes.
func Names() []string {
	var names []string
	for _, s := range schemes {
		names = append(names, s.Name)
	}
	return names
}

// Schemes is all schemes in the order in which they are documented.
func Schemes() []Scheme { return slices.Clone(schemes) }

func ruleOf(r Rule) func(Source) (Rule, error) {
	return func(Source) (Rule, error) { return r, nil }
}

func nothing(Message) string { return "" }

// openAuto takes the first file that is there. One with a fault in it is not
// passed over: that would give other ids.
func openAuto(from Source) (Rule, error) {
	dovecot, err := ParseTemplate(DovecotDefault)
	if err != nil {
		return nil, err
	}
	for _, s := range []struct {
		file string
		open func(Source) (Rule, error)
	}{{ListFile, openList}, {UIDListFile, dovecot.open}, {SizeListFile, openSizeList}} {
		f, err := from.file(s.file)
		if err != nil {
			return nil, err
		}
		if f == nil {
			continue
		}
		_ = f.Close() // read by open, which opens it again
		return s.open(from)
	}
	return nothing, nil
}

// file opens a file of the maildrop; nil when it is not there.
func (s Source) file(name string) (io.ReadCloser, error) {
	if s.Open == nil {
		return nil, nil
	}
	f, err := s.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return f, err
}
