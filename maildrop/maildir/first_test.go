package maildir

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/maildrop"
)

// slow makes a store whose reading of alice's n messages stops after so many,
// until it is let go on, and counts what is read.
type slow struct {
	*Store
	log  logged
	read atomic.Int64
	let  chan struct{} // closed to go on
	once sync.Once
}

func newSlow(t *testing.T, root string, after int64) *slow {
	t.Helper()
	s := &slow{let: make(chan struct{})}
	s.Store = newStore(t, root, Options{Log: s.log.logger()})
	s.long = 1
	s.hold = func(string) error {
		if s.read.Add(1) > after {
			<-s.let
		}
		return nil
	}
	t.Cleanup(s.goOn) // before the store is closed
	return s
}

func (s *slow) goOn() { s.once.Do(func() { close(s.let) }) }

// open logs in, on a goroutine of its own.
func (s *slow) open(ctx context.Context) <-chan result {
	c := make(chan result, 1)
	go func() { // ends with the login
		d, err := s.Open(ctx, maildrop.Ref{User: "alice"})
		c <- result{d, err, time.Now()}
	}()
	return c
}

type result struct {
	d   maildrop.Drop
	err error
	at  time.Time
}

func fillNew(t *testing.T, root string, n int) (alice string) {
	t.Helper()
	alice = makeMaildir(t, root, "alice")
	for i := range n {
		put(t, alice, fmt.Sprintf("%d.a", 1000+i), "a\n")
	}
	return alice
}

// The login is answered in time, and the reading goes on; the next login joins
// it, and nothing is read twice.
func TestFirstReadingOutlastsTheLogin(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	alice := fillNew(t, root, 40)
	synctest.Test(t, func(t *testing.T) {
		s := newSlow(t, root, 10)
		start := time.Now()
		r := <-s.open(t.Context())
		if !errors.Is(r.err, maildrop.ErrTemporary) || r.at.Sub(start) != 25*time.Second {
			t.Errorf("the first login: %v after %v", r.err, r.at.Sub(start))
		}
		if r = <-s.open(t.Context()); !errors.Is(r.err, maildrop.ErrTemporary) || r.at.Sub(start) != 50*time.Second {
			t.Errorf("the second login: %v after %v", r.err, r.at.Sub(start))
		}
		if n := len(s.log.lines("maildrop is being read for the first time", "maildrop=alice", "of=40")); n < 4 || n > 5 {
			t.Errorf("%d lines of progress in 50 s", n)
		}
		third := s.open(t.Context())
		synctest.Wait()
		s.goOn()
		if r = <-third; r.err != nil || count(r.d) != 40 {
			t.Fatalf("the third login: %v", r.err)
		}
		r.d.Close()
		if n := s.read.Load(); n != 40 {
			t.Errorf("%d messages were read, of 40", n)
		}
		if n := len(s.log.lines("maildrop read for the first time", "messages=40")); n != 1 {
			t.Errorf("the log says %q", s.log.b.String())
		}
	})
	if _, err := os.Stat(filepath.Join(alice, indexFile)); err != nil {
		t.Error(err)
	}
}

// While the first login waits the maildrop is in use.
func TestFirstReadingHoldsTheLock(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	fillNew(t, root, 20)
	synctest.Test(t, func(t *testing.T) {
		s := newSlow(t, root, 0)
		first := s.open(t.Context())
		synctest.Wait()
		if r := <-s.open(t.Context()); !errors.Is(r.err, maildrop.ErrInUse) {
			t.Errorf("the second login: %v", r.err)
		}
		s.goOn()
		r := <-first
		if r.err != nil || count(r.d) != 20 {
			t.Fatalf("the first login: %v", r.err)
		}
		if err := r.d.Commit(t.Context(), []int{0}); err != nil {
			t.Error(err)
		}
		if n := len(openOnce(t, s.Store)); n != 19 {
			t.Errorf("%d messages are left", n)
		}
	})
}

// A reading that the store's end breaks off is gone on with by the next store.
func TestFirstReadingEndsWithTheStore(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	fillNew(t, root, 40)
	synctest.Test(t, func(t *testing.T) {
		s := newSlow(t, root, 10)
		if r := <-s.open(t.Context()); !errors.Is(r.err, maildrop.ErrTemporary) {
			t.Errorf("the login: %v", r.err)
		}
		waiting := s.open(t.Context())
		synctest.Wait()
		closed := make(chan error)
		go func() { closed <- s.Close() }() // ends below
		synctest.Wait()
		s.goOn()
		if err := <-closed; err != nil {
			t.Error(err)
		}
		if r := <-waiting; !errors.Is(r.err, maildrop.ErrTemporary) {
			t.Errorf("the login that waits: %v", r.err)
		}
		if r := <-s.open(t.Context()); !errors.Is(r.err, maildrop.ErrTemporary) {
			t.Errorf("a login after the end: %v", r.err)
		}
		done := s.read.Load()

		next := newSlow(t, root, 40)
		if n := len(openOnce(t, next.Store)); n != 40 {
			t.Errorf("%d messages", n)
		}
		if n := done + next.read.Load(); n != 40 || done < 10 {
			t.Errorf("%d messages were read, %d of them by the first store, of 40", n, done)
		}
	})
}

// A client that goes away, or a server that stops, ends the wait and not the
// reading.
func TestFirstReadingOutlivesItsSession(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	fillNew(t, root, 20)
	synctest.Test(t, func(t *testing.T) {
		s := newSlow(t, root, 0)
		ctx, cancel := context.WithCancel(t.Context())
		first := s.open(ctx)
		synctest.Wait()
		cancel()
		if r := <-first; !errors.Is(r.err, context.Canceled) {
			t.Errorf("the first login: %v", r.err)
		}
		second := s.open(t.Context())
		synctest.Wait()
		s.goOn()
		if r := <-second; r.err != nil || count(r.d) != 20 {
			t.Errorf("the second login: %v", r.err)
		} else {
			r.d.Close()
		}
		if n := s.read.Load(); n != 20 {
			t.Errorf("%d messages were read, of 20", n)
		}
	})
}

// There are so many readings at a time. Who finds no room waits, and then hears
// of it.
func TestFirstReadingsAreBounded(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	fillNew(t, root, 20)
	synctest.Test(t, func(t *testing.T) {
		s := newSlow(t, root, 0)
		for range cap(s.slots) {
			s.slots <- struct{}{}
		}
		start := time.Now()
		if r := <-s.open(t.Context()); !errors.Is(r.err, maildrop.ErrTemporary) || r.at.Sub(start) != 25*time.Second {
			t.Errorf("a login without room: %v after %v", r.err, r.at.Sub(start))
		}
		s.goOn()
		second := s.open(t.Context())
		synctest.Wait()
		<-s.slots
		if r := <-second; r.err != nil || count(r.d) != 20 {
			t.Errorf("a login that found room: %v", r.err)
		} else {
			r.d.Close()
		}
		synctest.Wait()
		if len(s.slots) != cap(s.slots)-1 {
			t.Errorf("%d of %d slots are taken", len(s.slots), cap(s.slots))
		}
	})
}

// A message that cannot be read fails the login that waits, frees the lock, and
// costs none of what was read.
func TestFirstReadingThatFails(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	alice := fillNew(t, root, 40)
	put(t, alice, "9999.z", "z\n")
	s := newStore(t, root, Options{})
	s.long = 1
	var read atomic.Int64
	s.hold = func(name string) error {
		if name == "9999.z" {
			for read.Load() < 40 { // the others are in hands already
				runtime.Gosched()
			}
			return unix.EIO
		}
		read.Add(1)
		return nil
	}
	for range 2 {
		d, err := s.Open(t.Context(), maildrop.Ref{User: "alice"})
		wantKind(t, d, err, maildrop.ErrTemporary)
		if !errors.Is(err, unix.EIO) {
			t.Error(err)
		}
	}
	s.hold = func(string) error { read.Add(1); return nil }
	if n := len(openOnce(t, s)); n != 41 || read.Load() > 41+4 {
		t.Errorf("%d messages, %d readings", n, read.Load())
	}
}
