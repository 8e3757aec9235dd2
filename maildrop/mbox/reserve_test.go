package mbox

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/maildrop"
)

// fullDisk lets a store write nowhere but where there are octets already.
func fullDisk(s *Store) {
	s.calls = kernel
	s.calls.pwrite = func(fd int, p []byte, at int64) (int, error) {
		now, err := stampOf(fd)
		if err != nil {
			return 0, err
		}
		if at+int64(len(p)) > now.size {
			return 0, unix.ENOSPC
		}
		return unix.Pwrite(fd, p, at)
	}
}

// needReserve skips the test where the file system cannot set room aside.
func needReserve(t *testing.T, w *world) {
	t.Helper()
	f := must(os.CreateTemp(w.state, "probe"))
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, 1<<10); err == unix.EOPNOTSUPP {
		t.Skip("the file system allocates nothing ahead")
	}
}

// On a full disk messages are removed with the journal in the reserve, as often as
// it takes.
func TestFullDiskReserve(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var want string
	for _, name := range []string{"one", "two", "three", "four", "five"} {
		w.deliver("alice", asDelivered("Subject: "+name+"\n\nsecret "+name+"\n"))
		if name == "two" || name == "four" {
			continue
		}
		want += asDelivered("Subject: " + name + "\n\nsecret " + name + "\n")
	}
	s := w.store(Options{})
	for _, i := range []int{1, 2} {
		d, err := s.Open(t.Context(), maildrop.Ref{User: "alice"})
		if err != nil {
			t.Fatal(err)
		}
		needReserve(t, w)
		fullDisk(s)
		if err := d.Commit(t.Context(), []int{i}); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(w.state, reserveFile))
		if err != nil || int64(len(b)) != s.options.Reserve {
			t.Fatalf("the reserve has %d octets, %v", len(b), err)
		}
	}
	if got := w.read("alice"); got != want {
		t.Errorf("the file is\n%s\nwant\n%s", got, want)
	}
}

// What does not fit into the reserve is refused, with all messages left, and later
// goes.
func TestFullDiskBeyondReserve(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.deliver("alice", asDelivered("Subject: one\n\n"))
	w.deliver("alice", asDelivered("Subject: two\n\n"+strings.Repeat("much\n", 20<<10)))
	before := w.read("alice")
	s := w.store(Options{})
	remove := func() error {
		d, err := s.Open(t.Context(), maildrop.Ref{User: "alice"})
		if err != nil {
			t.Fatal(err)
		}
		return d.Commit(t.Context(), []int{0})
	}
	shut := must(s.Open(t.Context(), maildrop.Ref{User: "alice"})).Close() // the first session sets the reserve aside
	if shut != nil {
		t.Fatal(shut)
	}
	needReserve(t, w)
	for range 2 {
		fullDisk(s)
		var refused *maildrop.CommitError
		if err := remove(); !errors.As(err, &refused) || len(refused.Left) != 1 || !errors.Is(err, maildrop.ErrTemporary) {
			t.Fatalf("on a full disk: %v", err)
		}
		if w.read("alice") != before {
			t.Fatal("the file is another")
		}
		b, err := os.Stat(filepath.Join(w.state, reserveFile))
		if err != nil || b.Size() != s.options.Reserve {
			t.Fatalf("the reserve: %v, %v", b, err)
		}
	}
	s.calls = kernel
	if err := remove(); err != nil {
		t.Fatal(err)
	}
	if got := w.read("alice"); got != before[len(asDelivered("Subject: one\n\n")):] {
		t.Errorf("the file has %d octets", len(got))
	}
}
