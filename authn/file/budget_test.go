package file

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kpopd/kpopd/authn"
)

// slow is a hash that takes a second of the fake clock.
type slow struct {
	octets int64
	used   *usage
}

// usage is what runs at the same time.
type usage struct {
	running, most, octets, mostOctets atomic.Int64
}

func (s slow) memory() int64 { return s.octets }

func (s slow) MatchBytesAdvanced([]byte) (bool, error) {
	raise(&s.used.most, s.used.running.Add(1))
	raise(&s.used.mostOctets, s.used.octets.Add(s.octets))
	time.Sleep(time.Second) // of the fake clock
	s.used.running.Add(-1)
	s.used.octets.Add(-s.octets)
	return true, nil
}

func raise(most *atomic.Int64, now int64) {
	for m := most.Load(); now > m && !most.CompareAndSwap(m, now); m = most.Load() {
	}
}

// crowd has n users log in at once, by turns to one and the other of two
// verifiers with one budget, and counts the answers. octets is what each hash
// needs.
func crowd(t *testing.T, o BudgetOptions, n int, octets func(i int) int64) (u *usage, in, out int, took time.Duration) {
	t.Helper()
	u = &usage{}
	b := NewBudget(o)
	var verifiers [2]*files
	for i := range verifiers {
		byLogin := map[string]user{}
		for j := range n {
			byLogin[fmt.Sprint("user", j)] = user{hash: slow{octets(j), u}}
		}
		verifiers[i] = &files{name: fmt.Sprint("f", i), budget: b, users: &users{byLogin: byLogin}}
	}
	start := time.Now()
	var wg sync.WaitGroup
	var mu sync.Mutex
	for i := range n {
		wg.Go(func() {
			_, err := check(t, passwords{verifiers[i%2]}, fmt.Sprint("user", i), "p")
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				in++
			case authn.KindOf(err) == authn.Unavailable:
				out++
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if b.waiting.Load() != 0 || !b.slots.TryAcquire(int64(b.o.Hashes)) || !b.memory.TryAcquire(b.o.Memory) {
		t.Error("something was not given back")
	}
	return u, in, out, time.Since(start)
}

// All verifiers together compute so many hashes at once.
func TestBudgetCountsHashes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u, in, out, took := crowd(t, BudgetOptions{Hashes: 2}, 16, func(int) int64 { return 1 })
		if u.most.Load() != 2 || in != 16 || out != 0 || took != 8*time.Second {
			t.Errorf("%d at once, %d in, %d unavailable, %v", u.most.Load(), in, out, took)
		}
	})
}

// Memory bounds them too: 64 logins of 100 MiB do not take 6 GiB. One that
// needs more than there is comes in alone.
func TestBudgetCountsMemory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct{ each, atOnce int64 }{{100, 2}, {256, 1}, {300, 1}, {10, 25}, {1, 64}} {
			u, in, out, _ := crowd(t, BudgetOptions{Hashes: 64, Wait: time.Minute * 2, Memory: 256 << 20}, 64, func(int) int64 { return tt.each << 20 })
			if u.most.Load() != tt.atOnce || in != 64 || out != 0 {
				t.Errorf("%d MiB: %d at once, %d in, %d unavailable", tt.each, u.most.Load(), in, out)
			}
		}
		u, in, _, _ := crowd(t, BudgetOptions{Hashes: 64, Wait: time.Minute * 2, Memory: 256 << 20}, 64, func(i int) int64 { return int64(i%200+1) << 20 })
		if got := u.mostOctets.Load(); got > 256<<20 || in != 64 {
			t.Errorf("%d MiB at once, %d in", got>>20, in)
		}
	})
}

// Who waits too long, or finds too many waiting, has met an outage and no
// refusal.
func TestBudgetEndsWaiting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		one := func(int) int64 { return 1 }
		if _, in, out, took := crowd(t, BudgetOptions{Hashes: 1, Wait: 3500 * time.Millisecond}, 16, one); in != 4 || out != 12 || took != 4*time.Second {
			t.Errorf("with 3.5 s: %d in, %d unavailable, %v", in, out, took)
		}
		if _, in, out, _ := crowd(t, BudgetOptions{Hashes: 1, Queue: 5}, 16, one); in != 6 || out != 10 {
			t.Errorf("with a queue of 5: %d in, %d unavailable", in, out)
		}
		b := NewBudget(BudgetOptions{Hashes: 1})
		leave, err := b.enter(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if _, err := b.enter(ctx, 1); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("past the deadline of the attempt: %v after %v", err, time.Since(start))
		}
		leave()
	})
}

// What a hash needs follows from its parameters.
func TestMemoryOfAHash(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		prefix, params string
		want           int64
	}{
		{"$6$", "rounds=100000$", leastMemory},
		{"$2b$", "10", leastMemory},
		{"$pbkdf2$", "100000", leastMemory},
		{"$argon2id$", "m=65536,t=3,p=4", 64 << 20},
		{"$argon2i$", "m=8,t=1,p=1", leastMemory},
		{"$scrypt$", "ln=16,r=8,p=1", 64<<20 + 1<<10},
		{"$y$", "j9T", 16 << 20}, // crypt(5): N 4096, r 32
		{"$y$", "jDT", 256 << 20},
		{"$y$", "j..", leastMemory},
	} {
		if got := memoryOf(tt.prefix, tt.params); got != tt.want {
			t.Errorf("%s%s: %d octets, want %d", tt.prefix, tt.params, got, tt.want)
		}
	}
	for _, scheme := range Schemes() {
		hash, err := MakeHash(scheme, authn.Password("p"))
		if err != nil {
			t.Fatal(err)
		}
		h, _, err := parseHash(hash)
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]int64{"yescrypt": 16 << 20, "argon2id": 19 << 20}[scheme]
		if got := h.memory(); got != max(want, leastMemory) {
			t.Errorf("%s: %d octets", scheme, got)
		}
	}
}
