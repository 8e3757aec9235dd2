package maildir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/kpopd/kpopd/maildrop"
)

// While others rename, deliver and remove, no session misses a message that
// was there all the time, shows one twice, or sends another's octets; and
// Commit removes what is marked, and that alone.
func TestConcurrentChange(t *testing.T) {
	t.Parallel()
	const steady, sessions = 40, 60
	root := t.TempDir()
	alice := makeMaildir(t, root, "alice")
	text := func(base string) string { return "X-Base: " + base + "\n\n" }
	for i := range steady {
		base := fmt.Sprintf("%d.steady", 100+i)
		put(t, alice, base, text(base))
	}

	ctx, cancel := context.WithCancel(t.Context())
	var others sync.WaitGroup
	defer others.Wait()
	defer cancel()
	// a mail program that changes flags, moves from new to cur, and back
	others.Go(func() {
		r := rand.New(rand.NewPCG(1, 2))
		for ctx.Err() == nil {
			for _, sub := range dirNames {
				files, _ := os.ReadDir(filepath.Join(alice, sub))
				for _, f := range files {
					base := baseOf(f.Name())
					to := [...]string{"cur/" + base + ":2,", "cur/" + base + ":2,S", "cur/" + base + ":2,RS", "new/" + base}[r.IntN(4)]
					if strings.HasSuffix(base, ".steady") {
						os.Rename(filepath.Join(alice, sub, f.Name()), filepath.Join(alice, to))
					}
				}
			}
		}
	})
	// an agent that delivers, and a program that expunges what it delivered before
	others.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			base := fmt.Sprintf("%d.fleeting", 1000+i)
			put(t, alice, base, text(base))
			os.Remove(filepath.Join(alice, "new", fmt.Sprintf("%d.fleeting", 1000+i-5)))
		}
	})

	s := newStore(t, root, Options{})
	committed := make(map[string]bool)
	for i := range sessions {
		d, err := s.Open(t.Context(), maildrop.Ref{User: "alice"})
		if err != nil {
			t.Fatal(err)
		}
		seen := make(map[string]int)
		for _, m := range messages(t, d) {
			seen[m.UID]++
		}
		for uid, n := range seen {
			if n != 1 || committed[uid] {
				t.Errorf("%q is listed %d times, removed: %v", uid, n, committed[uid])
			}
		}
		var del []int
		for j, m := range messages(t, d) {
			got, err := read(d, j)
			switch {
			case err == nil && got != text(m.UID):
				t.Errorf("%q holds %q", m.UID, got)
			case err != nil && (strings.HasSuffix(m.UID, ".steady") || !errors.Is(err, maildrop.ErrGone)):
				t.Errorf("%q: %v", m.UID, err)
			}
			if strings.HasSuffix(m.UID, ".steady") && i%10 == 9 && len(del) < 2 {
				del = append(del, j)
				committed[m.UID] = true
			}
		}
		if n := len(committed) - len(del); countSteady(seen) != steady-n {
			t.Errorf("session %d lists %d of %d messages", i, countSteady(seen), steady-n)
		}
		if err := d.Commit(t.Context(), del); err != nil {
			t.Error(err)
		}
	}
}

func countSteady(seen map[string]int) (n int) {
	for uid := range seen {
		if strings.HasSuffix(uid, ".steady") {
			n++
		}
	}
	return n
}

func read(d maildrop.Drop, i int) (string, error) {
	r, err := d.Content(context.Background(), i)
	if err != nil {
		return "", err
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	return string(b), err
}
