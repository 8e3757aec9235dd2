package maildir

import (
	"fmt"
	"os"
	"path/filepath"
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
//	warm      unchanged: two stats; 1,000 in 200 µs
func BenchmarkOpen(b *testing.B) {
	for _, n := range []int{0, 5, 1000, 100_000} {
		root := b.TempDir()
		alice := filepath.Join(root, "alice")
		fillMaildir(b, alice, n)
		for _, how := range []string{"cold", "restart", "delivery", "crowded", "warm"} {
			b.Run(fmt.Sprintf("%d/%s", n, how), func(b *testing.B) {
				if how == "crowded" {
					swap(b, alice)
					defer swap(b, alice)
				}
				s := newStore(b, root, Options{})
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
					case "delivery", "crowded":
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
