// Package snapshot records what POP3 servers list (numbers, unique-ids, sizes)
// and compares two such records, so that a site which moves its mail knows
// beforehand what its clients would fetch again.
//
// It speaks POP3 through package pop3/client alone and asks for CAPA, LIST and
// UIDL. It knows nothing of how a server makes unique-ids.
//
// # Design notes
//
// A session retrieves nothing, deletes nothing and does not say QUIT: a server
// enters the UPDATE state at QUIT only (RFC 1939 section 6), so that not even
// a server with a retention of its own has an occasion to remove anything.
//
// A snapshot is a header and one line of JSON for each maildrop, written when
// the maildrop is complete. What was written before a crash stays good; an
// unfinished last line is cut off when the snapshot is continued. A maildrop
// that is there twice counts as it was recorded last.
//
// Passwords are in no record: what a server answers is looked through for them.
package snapshot

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"
	"unicode/utf8"
)

const (
	format  = "kpopctl uidl snapshot"
	version = 1
)

// maxUID is the longest unique-id that RFC 1939 section 7 allows, in octets.
const maxUID = 70

// Header is the first line of a snapshot.
type Header struct {
	Format  string    `json:"format"`
	Version int       `json:"version"`
	Server  string    `json:"server"` // as it was asked for, host:port
	Begun   time.Time `json:"begun"`
}

// Maildrop is what a server listed for a user, or why it did not.
type Maildrop struct {
	User     string    `json:"user"`
	Taken    time.Time `json:"taken"`
	Failure  *Failure  `json:"failure,omitempty"`
	Messages []Message `json:"messages,omitempty"` // in the order of their numbers

	// What follows is counted from Messages, for those who read the file.

	Octets     int64 `json:"octets"`
	Duplicates []int `json:"duplicates,omitempty"` // numbers of messages whose unique-id a lower number has, too
	Illegal    []int `json:"illegal,omitempty"`    // numbers of messages whose unique-id RFC 1939 does not allow
}

// Message is one line of LIST and one of UIDL.
type Message struct {
	Number int
	UID    string // as it came, any octets; empty when the server gave none
	Size   int64  // octets, by the server's count
}

// Failure is why there is no listing.
type Failure struct {
	Step string `json:"step"`           // connect, greeting, TLS, login, LIST, UIDL
	Code string `json:"code,omitempty"` // response code, IN-USE
	Text string `json:"text"`
}

func (f *Failure) String() string {
	if f.Code != "" {
		return fmt.Sprintf("%s: [%s] %s", f.Step, f.Code, f.Text)
	}
	return f.Step + ": " + f.Text
}

// wireMessage keeps unique-ids that are not text, which JSON cannot.
type wireMessage struct {
	Number int     `json:"n"`
	UID    *string `json:"uid,omitempty"`
	Octets []byte  `json:"uid_base64,omitempty"`
	Size   int64   `json:"size"`
}

// MarshalJSON writes a unique-id that is not UTF-8 in base64.
func (m Message) MarshalJSON() ([]byte, error) {
	w := wireMessage{Number: m.Number, Size: m.Size}
	switch {
	case !utf8.ValidString(m.UID):
		w.Octets = []byte(m.UID)
	case m.UID != "":
		w.UID = &m.UID
	}
	return json.Marshal(w)
}

// UnmarshalJSON reads what MarshalJSON writes.
func (m *Message) UnmarshalJSON(b []byte) error {
	var w wireMessage
	if err := json.Unmarshal(b, &w); err != nil {
		return err
	}
	*m = Message{Number: w.Number, UID: string(w.Octets), Size: w.Size}
	if w.UID != nil {
		m.UID = *w.UID
	}
	return nil
}

// Legal reports whether uid is one that RFC 1939 section 7 allows: 1 to 70
// octets in 0x21..0x7E.
func Legal(uid string) bool {
	return uid != "" && len(uid) <= maxUID && !slices.ContainsFunc([]byte(uid), func(c byte) bool { return c < 0x21 || c > 0x7e })
}

// count fills the fields that are counted.
func (m *Maildrop) count() {
	seen := make(map[string]bool, len(m.Messages))
	m.Octets, m.Duplicates, m.Illegal = 0, nil, nil
	for _, x := range m.Messages {
		m.Octets += x.Size
		if seen[x.UID] {
			m.Duplicates = append(m.Duplicates, x.Number)
		}
		seen[x.UID] = true
		if !Legal(x.UID) {
			m.Illegal = append(m.Illegal, x.Number)
		}
	}
}

// Begin writes the header of a snapshot of server.
func Begin(w io.Writer, server string) error {
	return write(w, Header{format, version, server, time.Now().UTC().Truncate(time.Second)})
}

// Write appends a maildrop.
func Write(w io.Writer, m *Maildrop) error { return write(w, m) }

// write writes a line in one piece, so that a reader sees it whole or not.
func write(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(append(b, '\n'))
	return err
}
