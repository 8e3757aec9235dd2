package mbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/maildrop"
)

// soon is a store that does not wait for others.
func soon(w *world, locks ...string) *Store {
	return w.store(Options{Locks: locks, LockWait: time.Nanosecond})
}

func openError(t *testing.T, s *Store) error {
	t.Helper()
	d, err := s.Open(t.Context(), maildrop.Ref{User: "alice"})
	if err == nil {
		d.Close()
	}
	return err
}

// While a delivery has either lock nothing is read, and nothing is removed; a lock
// that does not count is not looked at, and none of ours is left behind.
func TestLocksOfOthers(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		locks []string
		held  string
		busy  bool
	}{
		{"fcntl held", nil, Fcntl, true},
		{"dotlock held", nil, Dotlock, true},
		{"fcntl held, the other way round", []string{Dotlock, Fcntl}, Fcntl, true},
		{"dotlock held, the other way round", []string{Dotlock, Fcntl}, Dotlock, true},
		{"fcntl held, dotlock alone", []string{Dotlock}, Fcntl, false},
		{"dotlock held, fcntl alone", []string{Fcntl}, Dotlock, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.write("alice", asDelivered("a\n"))
			s := soon(w, tt.locks...)
			d := session(t, s)
			free := w.hold("alice", tt.held)
			err := d.Commit(t.Context(), []int{0})
			var ce *maildrop.CommitError
			if tt.busy != errors.As(err, &ce) {
				t.Errorf("Commit: %v", err)
			}
			if err := openError(t, s); tt.busy != errors.Is(err, maildrop.ErrInUse) || !tt.busy && err != nil {
				t.Errorf("Open: %v", err)
			}
			free()
			if err := openError(t, s); err != nil {
				t.Errorf("with the lock free again: %v", err)
			}
			if _, err := os.Stat(w.file("alice.lock")); err == nil {
				t.Error("a dotlock is left")
			}
		})
	}
}

// hold locks a file as another program.
func (w *world) hold(user, way string) (free func()) {
	if way == Fcntl {
		f := w.locked(user)
		return func() { f.Close() }
	}
	if err := os.WriteFile(w.file(user+".lock"), []byte("1\n"), 0o444); err != nil {
		w.t.Fatal(err)
	}
	return func() { os.Remove(w.file(user + ".lock")) }
}

// A session waits for a delivery, and has its mail.
func TestWaitsForADelivery(t *testing.T) {
	t.Parallel()
	for _, way := range []string{Fcntl, Dotlock} {
		w := newWorld(t)
		w.write("alice", asDelivered("a\n"))
		s := w.store(Options{LockWait: time.Hour})
		free := w.hold("alice", way)
		opened := make(chan maildrop.Drop)
		go func() { // ends when the lock is free
			d, err := s.Open(t.Context(), maildrop.Ref{User: "alice"})
			if err != nil {
				t.Error(err)
			}
			opened <- d
		}()
		f, err := os.OpenFile(w.file("alice"), os.O_WRONLY|os.O_APPEND, 0)
		if err == nil {
			_, err = f.WriteString(asDelivered("b\n"))
		}
		if err := errors.Join(err, f.Close()); err != nil {
			t.Error(err)
		}
		select {
		case <-opened:
			t.Fatalf("%s: was not waited for", way)
		default:
		}
		free()
		d := <-opened
		if d == nil {
			t.FailNow()
		}
		if n, _ := d.Totals(); n != 2 {
			t.Errorf("%s: %d messages, want 2", way, n)
		}
		d.Close()
	}
}

// Dotlocks that nobody holds are removed: old ones, and those of our own sessions
// that died, at once.
func TestStaleDotlocks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write("alice", asDelivered("a\n"))
	var log strings.Builder
	s := w.store(Options{LockWait: time.Minute, Log: captured(&log)})
	lock := w.file("alice.lock")
	list(t, s) // makes the token
	if err := os.WriteFile(lock, []byte(s.token), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := openError(t, s); err != nil {
		t.Errorf("a dotlock of a session that died: %v", err)
	}
	old := time.Now().Add(-2 * stale)
	if err := errors.Join(os.WriteFile(lock, nil, 0o644), os.Chtimes(lock, old, old)); err != nil {
		t.Fatal(err)
	}
	if err := openError(t, s); err != nil {
		t.Errorf("an old dotlock: %v", err)
	}
	if n := strings.Count(log.String(), "stale dotlock removed"); n != 2 {
		t.Errorf("told %d times: %s", n, log.String())
	}
	// that of a server with another state directory is not ours to judge
	other := newWorld(t).store(Options{})
	list(t, other)
	if other.token == s.token {
		t.Fatal("two state directories have one token")
	}
	if err := os.WriteFile(lock, []byte(other.token), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := openError(t, soon(w)); !errors.Is(err, maildrop.ErrInUse) {
		t.Errorf("a dotlock of another server: %v, want ErrInUse", err)
	}
	if err := os.Remove(lock); err != nil {
		t.Fatal(err)
	}
	again := w.store(Options{})
	list(t, again)
	if again.token != s.token {
		t.Error("two servers with one state directory have two tokens")
	}
}

// A spool directory that the server may not write to is an error that says what to
// do, and none without dotlocks.
func TestSpoolDirectoryOfOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write("alice", asDelivered("a\n"))
	if os.Geteuid() == 0 {
		makeImmutable(t, w.root)
	} else {
		if err := os.Chmod(w.root, 0o500); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Chmod(w.root, 0o700) })
	}
	err := openError(t, w.store(Options{}))
	if !errors.Is(err, maildrop.ErrPermanent) || !strings.Contains(fmt.Sprint(err), "let the server write to the directory") {
		t.Errorf("with dotlocks: %v", err)
	}
	s := w.store(Options{Locks: []string{Fcntl}})
	if err := session(t, s).Commit(t.Context(), []int{0}); err != nil {
		t.Errorf("without: %v", err)
	}
	wantTexts(t, s)
}

// makeImmutable lets nobody make files in a directory (FS_IMMUTABLE_FL, 0x10).
func makeImmutable(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags|0x10)
	}
	if err != nil {
		f.Close()
		t.Skipf("cannot make a directory immutable here: %v", err)
	}
	t.Cleanup(func() {
		err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Error(err)
		}
	})
}

// A session that cannot make its dotlock for want of room reads, and removes
// nothing; without an index it reads too.
func TestNoRoomForADotlock(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write("alice", asDelivered("a\n"))
	s := w.store(Options{})
	d := session(t, s)
	sp, err := s.lock(t.Context(), "alice")
	if err != nil {
		t.Fatal(err)
	}
	defer sp.close()
	sp.whole = false // what dotlock says on ENOSPC
	if _, err := sp.commit(d.now, map[string]bool{d.messages[0].UID: true}); !errors.Is(err, maildrop.ErrTemporary) {
		t.Errorf("got %v, want ErrTemporary", err)
	}
	if got := w.read("alice"); got != asDelivered("a\n") {
		t.Errorf("the file is %q", got)
	}
}

// On a full file system, a small tmpfs of the test's own where it may be mounted,
// users log in, read and log out; all messages, or the last, can be removed without
// room, and others are told to stay.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount a small file system")
	}
	w := newWorld(t)
	for _, dir := range []string{w.root, w.state} {
		if err := unix.Mount("none", dir, "tmpfs", 0, "size=256k"); err != nil {
			t.Skipf("cannot mount a file system here: %v", err)
		}
		t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	}
	if err := os.Chmod(w.state, 0o700); err != nil { // a mount has a mode of its own
		t.Fatal(err)
	}
	s := w.store(Options{})
	text := asDelivered("Subject: a\n\na\n") + asDelivered("Subject: b\n\nb\n") + asDelivered("Subject: c\n\nc\n")
	w.write("alice", text)
	fill(t, w.file("full"))
	fill(t, filepath.Join(w.state, "full"))

	wantTexts(t, s, "Subject: a\n\na\n", "Subject: b\n\nb\n", "Subject: c\n\nc\n")
	var ce *maildrop.CommitError
	if err := session(t, s).Commit(t.Context(), []int{0}); !errors.As(err, &ce) || !slices.Equal(ce.Left, []int{0}) {
		t.Errorf("the first message, without room for the journal: %v", err)
	}
	if got := w.read("alice"); got != text {
		t.Errorf("the file is %q", got)
	}
	if err := session(t, s).Commit(t.Context(), []int{2}); err != nil {
		t.Errorf("the last message: %v", err)
	}
	if err := session(t, s).Commit(t.Context(), []int{0, 1}); err != nil {
		t.Errorf("all messages: %v", err)
	}
	wantTexts(t, s)
}

// fill writes until there is no room.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
}

// Rule 174, with many at once: deliveries of others go on while sessions read and
// remove, and each message is seen by just one removal.
func TestRule174DeliveriesBesideSessions(t *testing.T) {
	t.Parallel()
	const agents, each = 3, 40
	w := newWorld(t)
	s := w.store(Options{LockWait: time.Hour})
	s.calls.fsync = func(int) error { return nil }
	w.write("alice", "")
	var wg sync.WaitGroup
	for a := range agents {
		wg.Go(func() {
			for i := range each {
				w.deliver("alice", asDelivered(fmt.Sprintf("Message-ID: <%d.%d>\n\n%s", a, i, strings.Repeat("x\n", i))))
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	seen := map[string]bool{}
	for last := false; ; {
		d := session(t, s)
		var del []int
		for i := range d.messages {
			text := textOf(t, d, i)
			id, _, _ := strings.Cut(text, "\n")
			if seen[id] {
				t.Fatalf("%s comes back", id)
			}
			if i%3 != 1 || last {
				seen[id] = true
				del = append(del, i)
			}
		}
		if err := d.Commit(t.Context(), del); err != nil {
			t.Fatal(err)
		}
		if last && len(d.messages) == 0 {
			break
		}
		select {
		case <-done:
			last = true
		default:
		}
	}
	if len(seen) != agents*each {
		t.Errorf("%d messages, want %d", len(seen), agents*each)
	}
	if got := w.read("alice"); got != "" {
		t.Errorf("the file is %q", got)
	}
}

// What changes under a session is looked up again: other programs may shorten the
// file, or put other mail in it.
func TestChangedUnderASession(t *testing.T) {
	t.Parallel()
	a, b, c := asDelivered("Subject: a\n\na\n"), asDelivered("Subject: b\n\nb\n"), asDelivered("Subject: c\n\nc\n")
	for _, tt := range []struct {
		name, now string
		err       [2]error // of the two messages
		left      string   // after both are removed
	}{
		{"unchanged", a + b, [2]error{}, ""},
		{"grew", a + b + c, [2]error{}, c},
		{"another first", c + b, [2]error{maildrop.ErrGone, nil}, c},
		{"the other order", b + a, [2]error{}, ""},
		{"empty", "", [2]error{maildrop.ErrGone, maildrop.ErrGone}, ""},
		{"cut within the second", (a + b)[:len(a+b)-20], [2]error{nil, maildrop.ErrGone}, (a + b)[:len(a+b)-20]},                // its rest is text of the first, which is another message then
		{"the second became longer", a + b[:len(b)-1] + "more\n\n", [2]error{nil, maildrop.ErrGone}, b[:len(b)-1] + "more\n\n"}, // another message,
		{"no mbox any more", "x" + a, [2]error{maildrop.ErrPermanent, maildrop.ErrPermanent}, "x" + a},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.write("alice", a+b)
			s := w.store(Options{})
			d := session(t, s)
			w.write("alice", tt.now)
			for i, want := range tt.err {
				r, err := d.Content(t.Context(), i)
				if err == nil {
					r.Close()
				}
				if !errors.Is(err, want) {
					t.Errorf("message %d: %v, want %v", i, err, want)
				}
			}
			err := d.Commit(t.Context(), []int{0, 1})
			if (err != nil) != (tt.err[0] == maildrop.ErrPermanent) {
				t.Errorf("Commit: %v", err)
			}
			if got := w.read("alice"); got != tt.left {
				t.Errorf("the file is %q, want %q", got, tt.left)
			}
		})
	}
}

// A message that is moved while it is read does not end well.
func TestRewrittenWhileReading(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	long := strings.Repeat("y\n", 100<<10)
	w.write("alice", asDelivered("a\n")+asDelivered("b\n"+long))
	s := w.store(Options{})
	d := session(t, s)
	r, err := d.Content(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := r.Read(make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	w.write("alice", asDelivered("b\n"+long))
	for err == nil {
		_, err = r.Read(make([]byte, 64<<10))
	}
	if !strings.Contains(err.Error(), "EOF") && !errors.Is(err, errChanged) || err.Error() == "EOF" {
		t.Errorf("reading ended with %v", err)
	}
}
