// Package droptest says as tests what a [maildrop.Store] must keep to.
//
// # Design notes
//
// Each function is named after the rule of the protocol that it holds a store
// to, so that a store's tests can be found by number; [RunStore] runs them all.
package droptest

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/kpopd/kpopd/maildrop"
)

// Harness is a store with an empty maildrop for each of a test's users, and
// what other programs do to it.
type Harness struct {
	Store maildrop.Store

	// Deliver stores a message, given as its stored octets.
	Deliver func(user, stored string)

	// Stored is what the store has of a message that was delivered, where its
	// format cannot keep all octets, or nil. It says so of the message alone and
	// must be what the format's own delivery agents do.
	Stored func(delivered string) string

	// Remove removes a message without the session lock.
	Remove func(user, uid string)

	// Rename moves a message within the store as a mail client does that has
	// shown it, or nil.
	Rename func(user, uid string)

	// Restart returns a new store of the same maildrops as another process
	// would see them, or nil.
	Restart func() maildrop.Store

	// Protect makes one message impossible to remove, until the end of the
	// test, or nil.
	Protect func(user, uid string)
}

// New makes a harness for one test.
type New func(t *testing.T) *Harness

// RunStore runs all of this package's tests but [Crowd].
func RunStore(t *testing.T, newHarness New) {
	for _, tt := range []struct {
		name string
		run  func(*testing.T, New)
	}{
		{"Rule040", Rule040},
		{"Rule044", Rule044},
		{"Rule046", Rule046},
		{"Rule048", Rule048},
		{"Rule051", Rule051},
		{"Rule060", Rule060},
		{"Rule061", Rule061},
		{"Rule062", Rule062},
		{"Rule068", Rule068},
		{"Rule069", Rule069},
		{"Rule071", Rule071},
		{"Rule072", Rule072},
		{"Rule073", Rule073},
		{"Rule074", Rule074},
		{"Rule075", Rule075},
		{"Rule076", Rule076},
		{"Rule078", Rule078},
		{"Rule079", Rule079},
		{"Rule171", Rule171},
		{"Rule172", Rule172},
		{"Rule174", Rule174},
		{"Rule175", Rule175},
		{"Cancelled", Cancelled},
		{"Model", Model},
		{"Narrowed", Narrowed},
		{"Recent", Recent},
		{"WhatStaysIsNumbered", WhatStaysIsNumbered},
		{"NoSuchFolder", NoSuchFolder},
	} {
		t.Run(tt.name, func(t *testing.T) { tt.run(t, newHarness) })
	}
}

const user = "alice"

// Wire is the wire form of stored octets before dot-stuffing, spelt out octet
// by octet: the reference for [maildrop.Meter] and for whoever sends messages.
func Wire(stored string) string {
	var b strings.Builder
	for i := range len(stored) {
		if stored[i] == '\n' && (i == 0 || stored[i-1] != '\r') {
			b.WriteByte('\r')
		}
		b.WriteByte(stored[i])
	}
	if stored != "" && !strings.HasSuffix(stored, "\n") {
		b.WriteString("\r\n")
	}
	return b.String()
}

// Nasty are stored messages that servers have got wrong.
var Nasty = []struct{ Name, Stored string }{
	{"empty", ""},
	{"LF line ends", "Subject: a\n\nb\n"},
	{"CRLF line ends", "Subject: a\r\n\r\nb\r\n"},
	{"mixed line ends", "Subject: a\r\n\nb\nc\r\n"},
	{"no last line end", "Subject: a\n\nb"},
	{"no last line end after CRLF", "Subject: a\r\n\r\nb"},
	{"CR at the end", "Subject: a\n\nb\r"},
	{"CR at the end after CRLF", "Subject: a\r\n\r\nb\r"},
	{"lone CRs", "Subject: a\n\nb\rc\r\rd\n"},
	{"CR CR LF", "Subject: a\r\r\n\r\r\nb\r\r\n"},
	{"LF CR", "Subject: a\n\r\n\rb\n\r"},
	{"one LF", "\n"},
	{"one CR", "\r"},
	{"one dot", "."},
	{"lines of a dot", "Subject: a\n\n.\n..\n.\n"},
	{"a dot at the start", ".Subject: a\r\n\r\n"},
	{"end of message inside", "Subject: a\r\n\r\nb\r\n.\r\nQUIT\r\n"},
	{"NUL and 8-bit", "Subject: a\x00\xff\n\n\x80\x00\n"},
	{"no header end", "Subject: a\n"},
	{"a line of 1 MB", "Subject: a\n\n" + strings.Repeat("x", 1<<20)},
	{"lines across every buffer", strings.Repeat(strings.Repeat("y", 997)+"\n", 300)},
	{"only line ends", strings.Repeat("\n", 1<<17+1)},
	{"unique-id and status headers", "X-UIDL: 1\nStatus: RO\nX-Status: D\n\nb\n"},
}

// stored is what h has of a message that was delivered.
func (h *Harness) stored(delivered string) string {
	if h.Stored == nil {
		return delivered
	}
	return h.Stored(delivered)
}

func open(t *testing.T, s maildrop.Store) maildrop.Drop {
	t.Helper()
	d, err := s.Open(t.Context(), maildrop.Ref{User: user})
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// uids opens the maildrop, lists it, and closes it again.
func uids(t *testing.T, s maildrop.Store) []string {
	t.Helper()
	d := open(t, s)
	us := uidsOf(t, d)
	shut(t, d)
	return us
}

// messages is the listing of d, which has the totals that it is said to have.
func messages(t *testing.T, d maildrop.Drop) maildrop.Messages {
	t.Helper()
	ms, err := maildrop.List(t.Context(), d)
	if err != nil {
		t.Fatalf("Listing: %v", err)
	}
	n, octets := d.Totals()
	if wantN, wantOctets := ms.Totals(); n != wantN || octets != wantOctets {
		t.Fatalf("the totals are %d messages and %d octets, those listed are %d and %d", n, octets, wantN, wantOctets)
	}
	return ms
}

func uidsOf(t *testing.T, d maildrop.Drop) []string {
	t.Helper()
	us := make([]string, len(messages(t, d)))
	for i, m := range messages(t, d) {
		us[i] = m.UID
	}
	return us
}

func shut(t *testing.T, d maildrop.Drop) {
	t.Helper()
	if err := d.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
}

func commit(t *testing.T, d maildrop.Drop, del ...int) {
	t.Helper()
	if err := d.Commit(t.Context(), del); err != nil {
		t.Fatalf("Commit(%d): %v", del, err)
	}
}

func content(t *testing.T, d maildrop.Drop, i int) string {
	t.Helper()
	r, err := d.Content(t.Context(), i)
	if err != nil {
		t.Fatalf("Content(%d): %v", i, err)
	}
	b, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		t.Fatalf("Content(%d): %v", i, err)
	}
	return string(b)
}

// contents maps unique-ids to stored octets.
func contents(t *testing.T, d maildrop.Drop) map[string]string {
	t.Helper()
	m := make(map[string]string)
	for i, msg := range messages(t, d) {
		m[msg.UID] = content(t, d, i)
	}
	return m
}

func deliver(h *Harness, stored ...string) {
	for _, s := range stored {
		h.Deliver(user, s)
	}
}

func wantUIDs(t *testing.T, got []string, want ...string) {
	t.Helper()
	if got, want := slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want)); !slices.Equal(got, want) {
		t.Errorf("messages %q, want %q", got, want)
	}
}

func wantInUse(t *testing.T, s maildrop.Store) {
	t.Helper()
	d, err := s.Open(t.Context(), maildrop.Ref{User: user})
	if !errors.Is(err, maildrop.ErrInUse) {
		t.Errorf("a second session: %v, want ErrInUse", err)
	}
	if err == nil {
		d.Close()
	}
}
