package file

import (
	"cmp"
	"context"
	"fmt"
	"hash/maphash"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
)

// BudgetOptions are what hashes may use at the same time.
type BudgetOptions struct {
	Hashes int           // computed at once; the number of processors when zero
	Memory int64         // octets that those need together; 256 MiB when zero. A hash that needs more is computed alone
	Queue  int           // that wait; 1024 when zero
	Wait   time.Duration // for one that waits; 10 s when zero
}

// Budget bounds what the hashes cost that are computed at the same time, for
// all verifiers that share it. Who finds no room in time has met an outage. A
// verifier of a file that changed needs the budget of the one before it, or logins
// that nobody has would cost something else from then on, which those of users
// never do.
type Budget struct {
	o       BudgetOptions
	slots   *semaphore.Weighted
	memory  *semaphore.Weighted
	waiting atomic.Int64
	seed    maphash.Seed // says what logins that nobody has cost, for as long as there is the budget
}

// NewBudget returns a budget that nobody uses yet.
func NewBudget(o BudgetOptions) *Budget {
	o.Hashes = cmp.Or(o.Hashes, runtime.GOMAXPROCS(0))
	o.Memory = cmp.Or(o.Memory, 256<<20)
	o.Queue = cmp.Or(o.Queue, 1024)
	o.Wait = cmp.Or(o.Wait, 10*time.Second)
	return &Budget{o: o, slots: semaphore.NewWeighted(int64(o.Hashes)), memory: semaphore.NewWeighted(o.Memory), seed: maphash.MakeSeed()}
}

// enter takes room for a hash that needs so much memory, and returns what gives
// it back. Both are served in the order of arrival, so that small hashes do not
// keep a large one waiting for ever.
func (b *Budget) enter(ctx context.Context, memory int64) (leave func(), err error) {
	memory = min(memory, b.o.Memory)
	if !b.slots.TryAcquire(1) {
		if err := b.wait(ctx, b.slots, 1); err != nil {
			return nil, err
		}
	}
	if !b.memory.TryAcquire(memory) {
		if err := b.wait(ctx, b.memory, memory); err != nil {
			b.slots.Release(1)
			return nil, err
		}
	}
	return b.leave(memory), nil
}

// tryEnter is enter for who does not wait; ok is false when there is no room.
func (b *Budget) tryEnter(memory int64) (leave func(), ok bool) {
	memory = min(memory, b.o.Memory)
	if !b.slots.TryAcquire(1) {
		return nil, false
	}
	if !b.memory.TryAcquire(memory) {
		b.slots.Release(1)
		return nil, false
	}
	return b.leave(memory), true
}

func (b *Budget) leave(memory int64) func() {
	return func() {
		b.memory.Release(memory)
		b.slots.Release(1)
	}
}

func (b *Budget) wait(ctx context.Context, s *semaphore.Weighted, n int64) error {
	defer b.waiting.Add(-1)
	if b.waiting.Add(1) > int64(b.o.Queue) {
		return fmt.Errorf("wait to compute a hash: %d wait already", b.o.Queue)
	}
	ctx, cancel := context.WithTimeout(ctx, b.o.Wait)
	defer cancel()
	if err := s.Acquire(ctx, n); err != nil {
		return fmt.Errorf("wait to compute a hash: %w", context.Cause(ctx))
	}
	return nil
}

// leastMemory is what the cheapest hash needs.
const leastMemory = 64 << 10

// memoryOf is the octets that a hash needs while it is computed. params are
// what format.class finds.
func memoryOf(prefix, params string) int64 {
	var n []int64 // the numbers in params, in order
	for _, s := range digits.FindAllString(params, -1) {
		v, _ := strconv.ParseInt(s, 10, 64) // checked against format.max
		n = append(n, v)
	}
	memory := int64(0)
	switch prefix {
	case "$argon2id$", "$argon2i$": // RFC 9106 section 3.1: m in KiB
		memory = n[0] << 10
	case "$scrypt$": // RFC 7914 section 2: a vector of N blocks of 128 r octets, p blocks besides
		memory = 128 * n[1] * (1<<n[0] + n[2])
	case "$y$": // flavour, N and r, as crypt(5) writes them
		memory = 128 << (yescryptNumber(params[1]) + 1) * (yescryptNumber(params[2]) + 1)
	}
	return max(memory, leastMemory)
}

func yescryptNumber(c byte) int64 {
	return int64(strings.IndexByte("./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", c))
}
