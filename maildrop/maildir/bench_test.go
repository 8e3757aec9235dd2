package maildir

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kpopd/kpopd/maildrop"
)

// BenchmarkOpen is a session that lists and leaves. Cold: a store that knows
// nothing. Changed: the names are read, the sizes known. Warm: two stats.
func BenchmarkOpen(b *testing.B) {
	for _, n := range []int{0, 5, 10, 1000, 10_000} {
		root := b.TempDir()
		fillMaildir(b, filepath.Join(root, "alice"), n)
		for _, how := range []string{"cold", "changed", "warm"} {
			b.Run(fmt.Sprintf("%d/%s", n, how), func(b *testing.B) {
				s := newStore(b, root, Options{})
				b.ReportAllocs()
				for b.Loop() {
					switch how {
					case "cold":
						s = newStore(b, root, Options{})
					case "changed":
						settleCache(s, false)
					case "warm":
						settleCache(s, true)
					}
					d, err := s.Open(b.Context(), maildrop.Ref{User: "alice"})
					if err != nil || len(d.Messages()) != n {
						b.Fatal(err)
					}
					d.Close()
				}
			})
		}
	}
}

// settleCache says of what s remembers of alice whether time has vouched for
// it, which a benchmark cannot wait for.
func settleCache(s *Store, settled bool) {
	if l := s.cache.get("alice"); l != nil && l.settled != settled {
		c := *l
		c.settled = settled
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
