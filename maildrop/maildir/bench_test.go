package maildir

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/maildrop"
)

// BenchmarkOpen is a session that asks for the totals and leaves: STAT.
//
//	cold      nobody has measured a message
//	restart   unchanged, and only the index knows: 100,000 in 5 ms and 2 MB of allocation
//	delivery  one message is new, and new is read: 100,000 in 60 ms
//	crowded   the same where all mail lies in new
//	frozen    as delivery, where the file of unique-ids has all of them
//	warm      unchanged: two stats; 1,000 in 200 µs
func BenchmarkOpen(b *testing.B) {
	for _, n := range []int{0, 5, 1000, 100_000} {
		root := b.TempDir()
		alice := filepath.Join(root, "alice")
		fillMaildir(b, alice, n)
		for _, how := range []string{"cold", "restart", "delivery", "crowded", "warm", "frozen"} {
			b.Run(fmt.Sprintf("%d/%s", n, how), func(b *testing.B) {
				if how == "crowded" {
					swap(b, alice)
					defer swap(b, alice)
				}
				var o Options
				if how == "frozen" { // the last one: it leaves a file
					o.UIDs = func(_ context.Context, _ int, bases []string, _ map[string]string) ([]string, error) {
						return bases, nil
					}
				}
				s := newStore(b, root, o)
				indexed(b, s)
				want := n
				b.ReportAllocs()
				for b.Loop() {
					b.StopTimer()
					switch how {
					case "cold":
						forget(b, alice)
						s = newStore(b, root, Options{})
					case "restart":
						s = newStore(b, root, Options{})
					case "delivery", "crowded", "frozen":
						settleCache(s, true)
						put(b, alice, fmt.Sprintf("1800000000.%d", want), "a\n")
						want++
						<-time.After(2 * tick) // clients do not poll in the moment of a delivery
					}
					b.StartTimer()
					d, err := s.Open(b.Context(), maildrop.Ref{User: "alice"})
					if err != nil || count(d) != want {
						b.Fatal(count(d), err)
					}
					b.StopTimer() // what follows is QUIT
					d.Close()
					b.StartTimer()
				}
				b.StopTimer()
				for i := n; i < want; i++ {
					os.Remove(filepath.Join(alice, "new", fmt.Sprintf("1800000000.%d", i)))
				}
			})
		}
	}
}

// swap makes new cur, and cur new.
func swap(b *testing.B, dir string) {
	b.Helper()
	if err := unix.Renameat2(unix.AT_FDCWD, filepath.Join(dir, "new"), unix.AT_FDCWD, filepath.Join(dir, "cur"), unix.RENAME_EXCHANGE); err != nil {
		b.Fatal(err)
	}
}

// indexed leaves an index of alice's that vouches for the maildrop.
func indexed(b testing.TB, s *Store) {
	b.Helper()
	for range 2 {
		d, err := s.Open(b.Context(), maildrop.Ref{User: "alice"})
		if err != nil {
			b.Fatal(err)
		}
		d.Close()
		settleCache(s, true)
	}
}

// BenchmarkListing is what LIST and UIDL of 100,000 messages ask a store for
// after a restart, the records of the index with it.
func BenchmarkListing(b *testing.B) {
	const n = 100_000
	root := b.TempDir()
	fillMaildir(b, filepath.Join(root, "alice"), n)
	indexed(b, newStore(b, root, Options{}))
	indexed(b, newStore(b, root, Options{}))
	b.ReportAllocs()
	for b.Loop() {
		d, err := newStore(b, root, Options{}).Open(b.Context(), maildrop.Ref{User: "alice"})
		if err != nil {
			b.Fatal(err)
		}
		l, err := d.Listing(b.Context())
		if err != nil || l.Len() != n {
			b.Fatal(err)
		}
		octets := 0
		for i := range l.Len() {
			octets += len(l.At(i).UID)
		}
		if d.Close(); octets == 0 {
			b.Fatal("no unique-ids")
		}
	}
}

// synthetic is the listing of a maildrop of n messages, with names as delivery
// agents make them.
func synthetic(n int) *listing {
	const name = "1700000000.M123456P4242V0000000000000801I0000000000A1B2C3.mail.example,S=7200:2,S"
	b := newBuilder(n, n*len(name))
	for i := range n {
		b.add(record{size: 7300, stored: 7200, flags: sized, ino: uint64(i)}, name, "")
	}
	return b.done()
}

// 10,000 users who poll maildrops of 1,000 messages fit in 512 MB: the
// listings that are kept take what they are said to take, and the collector,
// which lets the heap double, may do so. The others are read from their index:
// BenchmarkOpen/1000/restart says what that costs. The first 1,500 users show it.
func TestListingsOf10000Users(t *testing.T) {
	s := newStore(t, t.TempDir(), Options{})
	l := synthetic(1000)
	before := heap()
	for i := range 1500 {
		c := l.clone()
		c.text = strings.Clone(l.text)
		s.cache.put(fmt.Sprint("user", i), c)
	}
	used := heap() - before
	t.Logf("%d listings of 1,000 messages are kept, in %d MiB", s.cache.recent.Len(), used>>20)
	if s.cache.octets > 128<<20 || used > 150<<20 {
		t.Errorf("%d octets of heap, said to be %d", used, s.cache.octets)
	}
	if n := s.cache.recent.Len(); n < 900 {
		t.Errorf("%d listings are kept", n)
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func forget(b testing.TB, dir string) {
	b.Helper()
	if err := os.Remove(filepath.Join(dir, indexFile)); err != nil && !os.IsNotExist(err) {
		b.Fatal(err)
	}
}

func count(d maildrop.Drop) int {
	n, _ := d.Totals()
	return n
}

// settleCache says of what s remembers of alice whether time has vouched for
// it, which a benchmark cannot wait for.
func settleCache(s *Store, settled bool) {
	if l := s.cache.get("alice"); l != nil && l.settled.all() != settled {
		c := *l
		c.settled, c.corrected = settledDirs{settled, settled}, true // is written
		c.file.same = false
		s.cache.put("alice", &c)
	}
}

func fillMaildir(b *testing.B, dir string, n int) {
	b.Helper()
	makeMaildir(b, dir)
	text := strings.Repeat(strings.Repeat("x", 71)+"\n", 100)
	for i := range n {
		name := filepath.Join(dir, "cur", fmt.Sprintf("17%08d.M%dP4242.mail.example:2,S", i, i))
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkContent is what a store does for one RETR of a message of 7 kB.
func BenchmarkContent(b *testing.B) {
	root := b.TempDir()
	fillMaildir(b, filepath.Join(root, "alice"), 1)
	d, err := newStore(b, root, Options{}).Open(b.Context(), maildrop.Ref{User: "alice"})
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	buf := make([]byte, 64<<10)
	b.ReportAllocs()
	for b.Loop() {
		r, err := d.Content(b.Context(), 0)
		if err != nil {
			b.Fatal(err)
		}
		for err == nil {
			_, err = r.Read(buf)
		}
		r.Close()
	}
}
