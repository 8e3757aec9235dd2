package droptest

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/kpopd/kpopd/maildrop"
)

func openRef(t *testing.T, s maildrop.Store, r maildrop.Ref) maildrop.Drop {
	t.Helper()
	d, err := s.Open(t.Context(), r)
	if err != nil {
		t.Fatalf("Open(%+v): %v", r, err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// Narrowed says: a session that sees a part of a maildrop has numbers and totals of
// that part, the unique-ids of the whole, and removes nothing else. It has the one
// lock.
func Narrowed(t *testing.T, newHarness New) {
	h := newHarness(t)
	deliver(h, "Delivered-To: alice@a.example\n\n1\n", "Delivered-To: bob@a.example\n\n22\n", "X-Original-To: <ALICE@A.example>\n\n333\n", "Received: x\nDelivered-To: alice@a.example\n\n4\n")
	d := open(t, h.Store)
	whole := messages(t, d)
	shut(t, d)

	r := maildrop.Ref{User: user, To: []string{"alice@b.example", "Alice@a.example"}}
	d = openRef(t, h.Store, r)
	wantInUse(t, h.Store)
	if got, want := messages(t, d), (maildrop.Messages{whole[0], whole[2]}); !slices.Equal(got, want) {
		t.Fatalf("for alice there is %+v, want %+v", got, want)
	}
	if got := content(t, d, 1); got != "X-Original-To: <ALICE@A.example>\n\n333\n" {
		t.Errorf("her second message is %q", got)
	}
	commit(t, d, 1)
	wantUIDs(t, uids(t, h.Store), whole[0].UID, whole[1].UID, whole[3].UID)

	d = openRef(t, h.Store, maildrop.Ref{User: user, To: []string{"carol@a.example"}})
	if n, octets := d.Totals(); n != 0 || octets != 0 {
		t.Errorf("for nobody there are %d messages of %d octets", n, octets)
	}
	commit(t, d)
	wantUIDs(t, uids(t, h.Store), whole[0].UID, whole[1].UID, whole[3].UID)
}

// Recent says: a session that sees what arrived lately has all of that, and
// nothing of before. A store that does not know when that was opens nothing.
func Recent(t *testing.T, newHarness New) {
	h := newHarness(t)
	deliver(h, "a\n", "b\n")
	d := open(t, h.Store)
	whole := uidsOf(t, d)
	l, err := d.Listing(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, dated := l.(maildrop.Dated)
	shut(t, d)
	if !dated {
		if d, err := h.Store.Open(t.Context(), maildrop.Ref{User: user, Since: time.Unix(1, 0)}); !errors.Is(err, maildrop.ErrPermanent) {
			t.Errorf("Open: %v, %v, want ErrPermanent", d, err)
		}
		wantUIDs(t, uids(t, h.Store), whole...)
		return
	}
	for _, tt := range []struct {
		since time.Time
		want  []string
	}{{time.Unix(1, 0), whole}, {time.Now().Add(24 * time.Hour), nil}} {
		d := openRef(t, h.Store, maildrop.Ref{User: user, Since: tt.since})
		if got := uidsOf(t, d); !slices.Equal(got, tt.want) {
			t.Errorf("since %v there is %q, want %q", tt.since, got, tt.want)
		}
		shut(t, d)
	}
}

// WhatStaysIsNumbered says: messages of a part that could not be removed are told
// by the numbers of that part.
func WhatStaysIsNumbered(t *testing.T, newHarness New) {
	h := newHarness(t)
	if h.Protect == nil {
		t.Skip("nothing can be protected here")
	}
	deliver(h, "Delivered-To: bob@x\n\n", "Delivered-To: alice@x\n\n")
	d := open(t, h.Store)
	ms := messages(t, d)
	shut(t, d)
	h.Protect(user, ms[1].UID)
	d = openRef(t, h.Store, maildrop.Ref{User: user, To: []string{"alice@x"}})
	var ce *maildrop.CommitError
	if err := d.Commit(t.Context(), []int{0}); !errors.As(err, &ce) || !slices.Equal(ce.Left, []int{0}) {
		t.Errorf("Commit: %v, left %+v, want message 0", err, ce)
	}
}

// NoSuchFolder says: a folder that is not there is never the inbox, is not made, and
// is told apart from a maildrop that is not there. No lock is held then.
func NoSuchFolder(t *testing.T, newHarness New) {
	h := newHarness(t)
	deliver(h, "a\n")
	for _, folder := range []string{"Nowhere", "a/b", "../" + user, "..", ".", "/", "a\x00b", "\xff"} {
		d, err := h.Store.Open(t.Context(), maildrop.Ref{User: user, Folder: folder})
		if err == nil {
			d.Close()
		}
		if !errors.Is(err, maildrop.ErrNoFolder) {
			t.Errorf("folder %q: %v, want ErrNoFolder", folder, err)
		}
	}
	if got := uids(t, h.Store); len(got) != 1 {
		t.Errorf("the inbox has %q", got)
	}
}
