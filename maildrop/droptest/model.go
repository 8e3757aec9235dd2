package droptest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/kpopd/kpopd/maildrop"
)

// Environment variables of [Model]: the seed of its only run, or how many runs
// with random seeds it makes.
const (
	modelSeed = "KPOPD_MODEL_SEED"
	modelRuns = "KPOPD_MODEL_RUNS"
)

// Model says: whatever two sessions, a deliverer, a mail client and restarts
// do, in any order, a maildrop is what a small model of it says. The order is
// drawn from a seed, and is the same each time: a failure names its seed.
func Model(t *testing.T, newHarness New) {
	for _, seed := range modelSeeds(t) {
		t.Run(fmt.Sprintf("%s=%d", modelSeed, seed), func(t *testing.T) {
			h := newHarness(t)
			m := &model{
				t: t, h: h, store: h.Store, rand: rand.New(rand.NewPCG(seed, 0)),
				there: make(map[int]bool), ids: make(map[int]string), numbers: make(map[string]int),
			}
			for step := 0; step < 200 && !t.Failed(); step++ {
				m.step()
			}
			for k := range m.views {
				m.leave(k)
			}
			m.enter(0)
			if t.Failed() {
				t.Logf("what was done: %q", m.done)
			}
		})
	}
}

func modelSeeds(t *testing.T) []uint64 {
	t.Helper()
	if seed, err := strconv.ParseUint(os.Getenv(modelSeed), 10, 64); err == nil {
		return []uint64{seed}
	}
	seeds := []uint64{1, 2, 3, 4}
	if runs, err := strconv.Atoi(os.Getenv(modelRuns)); err == nil {
		seeds = make([]uint64, runs)
		for i := range seeds {
			seeds[i] = rand.Uint64()
		}
	}
	return seeds
}

// model is what a maildrop has to be.
type model struct {
	t     *testing.T
	h     *Harness
	store maildrop.Store
	rand  *rand.Rand
	done  []string // what was done, for the report

	last    int            // number of the message delivered last
	there   map[int]bool   // of each message
	ids     map[int]string // unique-ids that were shown
	numbers map[string]int // of unique-ids
	views   [2]view        // of the sessions
}

// view is a session's.
type view struct {
	drop    maildrop.Drop // nil when there is no session
	numbers []int         // of the messages listed
}

// modelText is a message that differs from all others, in size as well.
func modelText(n int) string {
	end := [...]string{"\n", "\r\n"}[n%2]
	text := fmt.Sprintf("X-Number: %d%s%s", n, end, end)
	for range n % 5 {
		text += "..." + end
	}
	return text
}

func (m *model) step() {
	k := m.rand.IntN(len(m.views))
	v := &m.views[k]
	switch what := m.rand.IntN(10); {
	case what < 2:
		m.last++
		m.did("deliver %d", m.last)
		m.h.Deliver(user, modelText(m.last))
		m.there[m.last] = true
	case what == 2:
		if n, known := m.any(); known {
			m.did("remove %d", n)
			m.h.Remove(user, m.ids[n])
			m.there[n] = false
		}
	case what == 3 && m.h.Rename != nil:
		if n, known := m.any(); known {
			m.did("rename %d", n)
			m.h.Rename(user, m.ids[n])
		}
	case what == 4 && m.h.Restart != nil:
		m.did("restart")
		m.store = m.h.Restart()
	case v.drop == nil:
		m.enter(k)
	case what < 8 && len(v.numbers) > 0:
		m.read(k, m.rand.IntN(len(v.numbers)))
	case what == 8:
		m.leave(k)
	default:
		m.commit(k)
	}
}

func (m *model) did(format string, a ...any) { m.done = append(m.done, fmt.Sprintf(format, a...)) }

// any draws a message that is there and has been shown.
func (m *model) any() (n int, known bool) {
	var all []int
	for n := range m.last + 1 {
		if m.there[n] && m.ids[n] != "" {
			all = append(all, n)
		}
	}
	if len(all) == 0 {
		return 0, false
	}
	return all[m.rand.IntN(len(all))], true
}

// enter opens the maildrop for session k, and compares the listing.
func (m *model) enter(k int) {
	m.t.Helper()
	m.did("session %d begins", k)
	if m.views[1-k].drop != nil {
		wantInUse(m.t, m.store)
		return
	}
	v := view{drop: open(m.t, m.store)}
	for i, msg := range messages(m.t, v.drop) {
		n := m.numbers[msg.UID]
		if n == 0 {
			n = m.learn(content(m.t, v.drop, i), msg.UID)
		}
		if !m.there[n] || slices.Contains(v.numbers, n) {
			m.t.Errorf("message %d is listed; it is there: %v, was listed before: %v", n, m.there[n], v.numbers)
		}
		if want := int64(len(Wire(modelText(n)))); msg.Size != want {
			m.t.Errorf("message %d is listed with %d octets, want %d", n, msg.Size, want)
		}
		v.numbers = append(v.numbers, n)
	}
	for n := range m.last + 1 {
		if m.there[n] && !slices.Contains(v.numbers, n) {
			m.t.Errorf("message %d is not listed", n)
		}
	}
	m.views[k] = v
}

// learn takes a new unique-id, and returns the number of its message.
func (m *model) learn(text, uid string) (n int) {
	m.t.Helper()
	for n = 1; n <= m.last && modelText(n) != text; n++ {
	}
	switch {
	case n > m.last:
		m.t.Fatalf("a message was never delivered: %.100q", text)
	case m.ids[n] != "":
		m.t.Errorf("message %d has the unique-id %q, had %q", n, uid, m.ids[n])
	}
	m.ids[n], m.numbers[uid] = uid, n
	return n
}

func (m *model) read(k, i int) {
	m.t.Helper()
	v := &m.views[k]
	n := v.numbers[i]
	m.did("session %d reads %d", k, n)
	if m.there[n] {
		if got := content(m.t, v.drop, i); got != modelText(n) {
			m.t.Errorf("message %d reads %.100q", n, got)
		}
	} else if r, err := v.drop.Content(m.t.Context(), i); !errors.Is(err, maildrop.ErrGone) {
		if err == nil {
			r.Close()
		}
		m.t.Errorf("message %d, which was removed: %v, want ErrGone", n, err)
	}
}

func (m *model) commit(k int) {
	m.t.Helper()
	v := &m.views[k]
	var del []int
	for i := range v.numbers {
		if m.rand.IntN(3) == 0 {
			del = append(del, i)
		}
	}
	m.did("session %d removes", k)
	for _, i := range del {
		m.did("%d", v.numbers[i])
		m.there[v.numbers[i]] = false
	}
	commit(m.t, v.drop, del...)
	*v = view{}
}

func (m *model) leave(k int) {
	m.t.Helper()
	if v := &m.views[k]; v.drop != nil {
		m.did("session %d is lost", k)
		shut(m.t, v.drop)
		*v = view{}
	}
}
