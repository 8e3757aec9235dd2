package droptest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/kpopd/kpopd/maildrop"
)

// Rule040 says: numbers are fixed when the maildrop is opened, whatever others
// deliver, rename and remove.
func Rule040(t *testing.T, newHarness New) {
	h := newHarness(t)
	deliver(h, "a\n", "b\n", "c\n")
	d := open(t, h.Store)
	before := slices.Clone(messages(t, d))
	texts := contents(t, d)

	deliver(h, "d\n")
	h.Remove(user, before[1].UID)
	if h.Rename != nil {
		h.Rename(user, before[0].UID)
	}
	if !slices.Equal(messages(t, d), before) {
		t.Errorf("the listing became %v, was %v", messages(t, d), before)
	}
	for _, i := range []int{0, 2} {
		if got, want := content(t, d, i), texts[before[i].UID]; got != want {
			t.Errorf("message %d became %q, was %q", i, got, want)
		}
	}
}

// Rule044 says: an empty maildrop opens, and can be committed.
func Rule044(t *testing.T, newHarness New) {
	h := newHarness(t)
	d := open(t, h.Store)
	if n := len(messages(t, d)); n != 0 {
		t.Errorf("%d messages", n)
	}
	commit(t, d)
	wantUIDs(t, uids(t, h.Store))
}

// Rule046 says: the size is the number of octets sent, and the wire form is told
// of those messages that have it.
func Rule046(t *testing.T, newHarness New) {
	for _, n := range Nasty {
		t.Run(n.Name, func(t *testing.T) {
			h := newHarness(t)
			deliver(h, n.Stored)
			stored := h.stored(n.Stored)
			for range 2 { // read, and remembered
				d := open(t, h.Store)
				if len(messages(t, d)) != 1 {
					t.Fatalf("%d messages", len(messages(t, d)))
				}
				m, wire := messages(t, d)[0], Wire(stored)
				if m.Size != int64(len(wire)) {
					t.Errorf("size %d, want %d", m.Size, len(wire))
				}
				pass := stored == wire && !strings.HasPrefix(wire, ".") && !strings.Contains(wire, "\n.")
				if m.WireForm && !pass {
					t.Error("is said to be in wire form")
				}
				if content(t, d, 0) != stored {
					t.Error("the content is not what was stored")
				}
				shut(t, d)
			}
		})
	}
}

// Rule048 says: a message that vanished is an error of that message alone.
func Rule048(t *testing.T, newHarness New) {
	h := newHarness(t)
	deliver(h, "a\n", "b\n")
	d := open(t, h.Store)
	h.Remove(user, messages(t, d)[0].UID)
	for range 2 {
		if _, err := d.Content(t.Context(), 0); !errors.Is(err, maildrop.ErrGone) {
			t.Errorf("Content: %v, want ErrGone", err)
		}
	}
	content(t, d, 1)
}

// Rule051 says: nothing is removed before Commit, however much is read.
func Rule051(t *testing.T, newHarness New) {
	h := newHarness(t)
	deliver(h, "a\n", "b\n")
	d := open(t, h.Store)
	before := uidsOf(t, d)
	contents(t, d)
	shut(t, d)
	wantUIDs(t, uids(t, h.Store), before...)
}

// Rule060 says: unique-ids are 1 to 70 octets in 0x21 to 0x7E.
func Rule060(t *testing.T, newHarness New) {
	h := newHarness(t)
	deliver(h, "a\n", "a\n", "b\n")
	us := uids(t, h.Store)
	if len(us) != 3 {
		t.Fatalf("%d messages", len(us))
	}
	for _, u := range us {
		if len(u) < 1 || len(u) > 70 || strings.ContainsFunc(u, func(r rune) bool { return r < 0x21 || r > 0x7e }) {
			t.Errorf("unique-id %q", u)
		}
	}
}

// Rule061 says: unique-ids persist, also when a session ends without UPDATE, when
// messages are renamed, and when the server starts again.
func Rule061(t *testing.T, newHarness New) {
	h := newHarness(t)
	deliver(h, "a\n", "b\n")
	d := open(t, h.Store)
	before := contents(t, d)
	shut(t, d)

	d = open(t, h.Store)
	same(t, "the next session", contents(t, d), before)
	if h.Rename != nil {
		h.Rename(user, messages(t, d)[0].UID)
	}
	shut(t, d)

	s := h.Store
	if h.Restart != nil {
		s = h.Restart()
	}
	d = open(t, s)
	same(t, "after a restart", contents(t, d), before)
}

func same(t *testing.T, when string, got, want map[string]string) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: %q, want %q", when, got, want)
	}
}

// Rule062 says: no unique-id is used again.
func Rule062(t *testing.T, newHarness New) {
	h := newHarness(t)
	seen := make(map[string]bool)
	for range 5 {
		deliver(h, "a\n", "a\n")
		d := open(t, h.Store)
		for _, u := range uidsOf(t, d) {
			if seen[u] {
				t.Errorf("%q was given before", u)
			}
			seen[u] = true
		}
		commit(t, d, 0, 1)
	}
}

// Rule068 says: a message can be read while others are delivered.
func Rule068(t *testing.T, newHarness New) {
	h := newHarness(t)
	text := strings.Repeat("0123456789\n", 1<<17)
	deliver(h, text)
	d := open(t, h.Store)
	r, err := d.Content(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	half := make([]byte, len(text)/2)
	if _, err := io.ReadFull(r, half); err != nil {
		t.Fatal(err)
	}
	deliver(h, "b\n", "c\n")
	rest, err := io.ReadAll(r)
	if err != nil || string(half)+string(rest) != text {
		t.Errorf("the message changed while it was read: %v", err)
	}
}

// Rule069 says: a listing shows nothing that came later; the next one does.
func Rule069(t *testing.T, newHarness New) {
	h := newHarness(t)
	deliver(h, "a\n")
	d := open(t, h.Store)
	before := uidsOf(t, d)
	deliver(h, "b\n")
	wantUIDs(t, uidsOf(t, d), before...)
	shut(t, d)
	if n := len(uids(t, h.Store)); n != 2 {
		t.Errorf("%d messages in the next session, want 2", n)
	}
}

// Rule071 says: any octets are listed with the size that they are read with, when
// all are in one maildrop as well.
func Rule071(t *testing.T, newHarness New) {
	h := newHarness(t)
	want := make(map[string]int)
	for _, n := range Nasty {
		deliver(h, n.Stored)
		want[h.stored(n.Stored)]++
	}
	d := open(t, h.Store)
	for i, m := range messages(t, d) {
		text := content(t, d, i)
		want[text]--
		if m.Size != int64(len(Wire(text))) {
			t.Errorf("message %d: size %d, is sent with %d", i, m.Size, len(Wire(text)))
		}
	}
	for text, n := range want {
		if n != 0 {
			t.Errorf("%d of %.40q are missing", n, text)
		}
	}
}

// Rule072 says: sizes are the same after a restart.
func Rule072(t *testing.T, newHarness New) {
	h := newHarness(t)
	if h.Restart == nil {
		t.Skip("this store ends with its process")
	}
	for _, n := range Nasty {
		deliver(h, n.Stored)
	}
	d := open(t, h.Store)
	before := slices.Clone(messages(t, d))
	shut(t, d)
	if got := messages(t, open(t, h.Restart())); !slices.Equal(got, before) {
		t.Errorf("the listing is %v, was %v", got, before)
	}
}

// Rule073 says: only Commit removes; Close does not, nor does Commit after it.
func Rule073(t *testing.T, newHarness New) {
	h := newHarness(t)
	deliver(h, "a\n")
	before := uids(t, h.Store)
	d := open(t, h.Store)
	shut(t, d)
	if err := d.Commit(t.Context(), []int{0}); err == nil {
		t.Error("Commit after Close says that it removed")
	}
	wantUIDs(t, uids(t, h.Store), before...)
}

// Rule074 says: Commit removes what is marked and nothing else.
func Rule074(t *testing.T, newHarness New) {
	h := newHarness(t)
	for i := range 10 {
		deliver(h, fmt.Sprintf("message %d\n", i))
	}
	d := open(t, h.Store)
	before := uidsOf(t, d)
	commit(t, d, 0, 3, 4, 9)
	left := slices.Concat(before[1:3], before[5:9])
	wantUIDs(t, uids(t, h.Store), left...)
	if h.Restart != nil {
		wantUIDs(t, uids(t, h.Restart()), left...)
	}
	d = open(t, h.Store)
	commit(t, d)
	wantUIDs(t, uids(t, h.Store), left...)
}

// Rule075 says: what could not be removed is told, and the rest is removed.
func Rule075(t *testing.T, newHarness New) {
	h := newHarness(t)
	if h.Protect == nil {
		t.Skip("this store cannot fail to remove")
	}
	deliver(h, "a\n", "b\n", "c\n")
	d := open(t, h.Store)
	before := uidsOf(t, d)
	h.Protect(user, before[1])
	err := d.Commit(t.Context(), []int{0, 1, 2})
	var ce *maildrop.CommitError
	if !errors.As(err, &ce) || !slices.Equal(ce.Left, []int{1}) || ce.Err == nil {
		t.Errorf("Commit: %v, want a CommitError that leaves [1]", err)
	}
	wantUIDs(t, uids(t, h.Store), before[1])
}

// Rule076 says: the lock is free after Commit, whether it removed all or not, and
// Close may follow.
func Rule076(t *testing.T, newHarness New) {
	h := newHarness(t)
	deliver(h, "a\n", "b\n")
	d := open(t, h.Store)
	commit(t, d, 0)
	next := open(t, h.Store)
	shut(t, d)
	shut(t, d)
	wantInUse(t, h.Store) // closing the old session must not free the lock of the new one
	if h.Protect != nil {
		h.Protect(user, messages(t, next)[0].UID)
		if err := next.Commit(t.Context(), []int{0}); err == nil {
			t.Error("Commit of a protected message says that it removed")
		}
	}
	shut(t, next)
	shut(t, open(t, h.Store))
}

// Rule078 says: a marked message that another program removed counts as removed.
func Rule078(t *testing.T, newHarness New) {
	h := newHarness(t)
	deliver(h, "a\n", "b\n", "c\n")
	d := open(t, h.Store)
	before := uidsOf(t, d)
	h.Remove(user, before[0])
	if h.Rename != nil {
		h.Rename(user, before[1])
	}
	commit(t, d, 0, 1)
	wantUIDs(t, uids(t, h.Store), before[2])
}

// Rule079 says: messages delivered during the session are untouched by its Commit.
func Rule079(t *testing.T, newHarness New) {
	h := newHarness(t)
	deliver(h, "a\n")
	d := open(t, h.Store)
	deliver(h, "b\n")
	commit(t, d, 0)
	d = open(t, h.Store)
	if len(messages(t, d)) != 1 || content(t, d, 0) != "b\n" {
		t.Errorf("%d messages are left, want the one delivered meanwhile", len(messages(t, d)))
	}
}

// Rule171 says: a second session of one maildrop is refused, and the first goes on.
func Rule171(t *testing.T, newHarness New) {
	h := newHarness(t)
	deliver(h, "a\n")
	d := open(t, h.Store)
	for range 3 {
		wantInUse(t, h.Store)
	}
	if h.Restart != nil {
		wantInUse(t, h.Restart())
	}
	content(t, d, 0)

	shut(t, d)
	var wg sync.WaitGroup
	won := make(chan maildrop.Drop, 16)
	for range cap(won) {
		wg.Go(func() {
			d, err := h.Store.Open(t.Context(), maildrop.Ref{User: user})
			switch {
			case err == nil:
				won <- d
			case !errors.Is(err, maildrop.ErrInUse):
				t.Errorf("Open: %v", err)
			}
		})
	}
	wg.Wait()
	if len(won) != 1 {
		t.Errorf("%d of %d sessions got the lock", len(won), cap(won))
	}
	for range len(won) {
		shut(t, <-won)
	}
}

// Rule172 says: the lock is freed by Close without Commit, as by a lost session.
func Rule172(t *testing.T, newHarness New) {
	h := newHarness(t)
	for range 3 {
		d := open(t, h.Store)
		shut(t, d)
		shut(t, d)
	}
	d := open(t, h.Store)
	commit(t, d)
	open(t, h.Store)
}

// Rule174 says: delivery needs no lock.
func Rule174(t *testing.T, newHarness New) {
	h := newHarness(t)
	d := open(t, h.Store)
	deliver(h, "a\n")
	if n := len(messages(t, d)); n != 0 {
		t.Errorf("%d messages in a maildrop opened empty", n)
	}
	shut(t, d)
	if n := len(uids(t, h.Store)); n != 1 {
		t.Errorf("%d messages, want the one delivered", n)
	}
}

// Rule175 says: when others expunge, RETR fails for what is gone and the numbers
// of the rest stay.
func Rule175(t *testing.T, newHarness New) {
	h := newHarness(t)
	for i := range 20 {
		deliver(h, fmt.Sprintf("message %d\n", i))
	}
	d := open(t, h.Store)
	texts := contents(t, d)
	for i := 0; i < 20; i += 2 {
		h.Remove(user, messages(t, d)[i].UID)
	}
	for i, m := range messages(t, d) {
		if i%2 == 1 {
			if got := content(t, d, i); got != texts[m.UID] {
				t.Errorf("message %d became %q", i, got)
			}
		} else if _, err := d.Content(t.Context(), i); !errors.Is(err, maildrop.ErrGone) {
			t.Errorf("message %d: %v, want ErrGone", i, err)
		}
	}
}

// Cancelled says: a context that is cancelled stops Open, which then holds no
// lock, and does not stop Commit.
func Cancelled(t *testing.T, newHarness New) {
	h := newHarness(t)
	deliver(h, "a\n", "b\n")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if d, err := h.Store.Open(ctx, maildrop.Ref{User: user}); err == nil {
		d.Close()
		t.Error("Open takes no notice of its context")
	}
	d := open(t, h.Store)
	if err := d.Commit(ctx, []int{0, 1}); err != nil {
		t.Errorf("Commit: %v", err)
	}
	wantUIDs(t, uids(t, h.Store))
}
