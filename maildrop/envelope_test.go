package maildrop_test

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/kpopd/kpopd/maildrop"
)

func TestReadEnvelope(t *testing.T) {
	t.Parallel()
	long := "X-Long: " + strings.Repeat("x", 100_000) + "\n"
	for _, tt := range []struct{ name, stored, from, to string }{
		{"Postfix", "Return-Path: <bob@example.org>\nX-Original-To: alice@example.org\nDelivered-To: mail@example.org\nReceived: by x\n\nb\n", "bob@example.org", "alice@example.org"},
		{"Postfix with CRLF", "Return-Path: <bob@example.org>\r\nX-Original-To: alice@example.org\r\nReceived: by x\r\n\r\nb\r\n", "bob@example.org", "alice@example.org"},
		{"Exim", "Return-path: <bob@example.org>\nEnvelope-to: alice@example.org\nDelivery-date: Tue\nReceived: by x\n", "bob@example.org", "alice@example.org"},
		{"Dovecot's LMTP", "Return-Path: <bob@example.org>\nDelivered-To: alice@example.org\nReceived: from x\n\tby y\n", "bob@example.org", "alice@example.org"},
		{"the original recipient comes first", "Delivered-To: mail@example.org\nX-Original-To: alice@example.org\n\n", "", "alice@example.org"},
		{"of two the upper one", "Delivered-To: alice@example.org\nDelivered-To: list@example.org\n\n", "", "alice@example.org"},
		{"a bounce", "Return-Path: <>\nDelivered-To: alice@example.org\n\n", "", "alice@example.org"},
		{"any case, space before the colon", "RETURN-PATH : bob@x\ndelivered-to:alice@x\n\n", "bob@x", "alice@x"},
		{"below Received the sender may have written anything", "Received: by x\nDelivered-To: mallory@x\nReturn-Path: <mallory@x>\n\n", "", ""},
		{"in the body it is text", "Subject: a\n\nDelivered-To: mallory@x\n", "", ""},
		{"folded lines of others are passed over", "X-Spam: yes,\n Delivered-To: mallory@x\nDelivered-To: alice@x\n\n", "", "alice@x"},
		{"a very long line is passed over", long + "Delivered-To: alice@x\n\n", "", ""},
		{"a long line is passed over", "X-Long: " + strings.Repeat("x", 10_000) + "\nDelivered-To: alice@x\n\n", "", "alice@x"},
		{"an address that is too long", "Delivered-To: " + strings.Repeat("x", 400) + "@x\n\n", "", ""},
		{"an address that is none", "Return-Path: <a> <b>\nDelivered-To: alice\x00@x\n\n", "", ""},
		{"a last line without its end", "Delivered-To: alice@x", "", "alice@x"},
		{"no header", "\nDelivered-To: alice@x\n", "", ""},
		{"a line that is no field ends the header", "From bob\nDelivered-To: alice@x\n", "", ""},
		{"nothing", "", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e, err := maildrop.ReadEnvelope(strings.NewReader(tt.stored))
			if want := (maildrop.Envelope{From: tt.from, To: tt.to}); e != want || err != nil {
				t.Errorf("got %+v, %v, want %+v", e, err, want)
			}
		})
	}
}

func TestReadEnvelopeReportsReadErrors(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	for _, stored := range []string{"", "Return-Path: <a>\n", "X: " + strings.Repeat("x", 5000)} {
		if _, err := maildrop.ReadEnvelope(io.MultiReader(strings.NewReader(stored), iotest.ErrReader(broken))); !errors.Is(err, broken) {
			t.Errorf("%.20q: %v", stored, err)
		}
	}
}

// FuzzReadEnvelope: an address is one line that can be sent, found in the header
// alone, and the way that a message comes in pieces makes no difference.
func FuzzReadEnvelope(f *testing.F) {
	for _, s := range []string{
		"Return-Path: <bob@x>\r\nDelivered-To: alice@x\r\n\r\n", "X-Original-To: <a>\n\tb\n", "Received: x\nDelivered-To: y\n", ":\n: \n", "Delivered-To: <\n>\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, stored []byte) {
		e, err := maildrop.ReadEnvelope(strings.NewReader(string(stored)))
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range []string{e.From, e.To} {
			if len(a) > 320 || strings.ContainsAny(a, " \r\n\t\x00<>") || !strings.Contains(string(stored), a) {
				t.Errorf("address %q", a)
			}
		}
		if again, err := maildrop.ReadEnvelope(iotest.OneByteReader(strings.NewReader(string(stored)))); err != nil || again != e {
			t.Errorf("in pieces %+v, %v, else %+v", again, err, e)
		}
	})
}

func TestFolderParts(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		in, want string // joined by a slash
		ok       bool
	}{
		{"", "", true},
		{"inbox", "", true},
		{"Sent", "Sent", true},
		{"INBOX.Sent", "Sent", true},
		{"Inbox/Lists.kpopd", "Lists/kpopd", true},
		{"INBOXES", "INBOXES", true},
		{".", "", false},
		{"..", "", false},
		{"../bob", "", false},
		{"/etc", "", false},
		{"a//b", "", false},
		{"a.", "", false},
		{"\xff", "", false},
	} {
		parts, ok := maildrop.FolderParts(tt.in)
		if got := strings.Join(parts, "/"); got != tt.want || ok != tt.ok {
			t.Errorf("%q: %q, %v", tt.in, parts, ok)
		}
	}
}
