package droptest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"github.com/kpopd/kpopd/maildrop"
)

// How much is done at once by [Crowd].
const (
	crowdSessions = 30                // of each of two programs
	crowdMessages = 3 * crowdSessions // half of them as sessions end
)

// Crowd says: sessions, deliveries and a mail client at the same time lose no
// message, double none, bring none back, and change no unique-id. It ends after
// so many operations, however long they take.
//
// The functions of the [Harness] must be what other programs do: they take the
// locks that those take.
func Crowd(t *testing.T, newHarness New) {
	h := newHarness(t)
	c := &crowd{t: t, h: h, ids: make(map[int]string), gone: make(map[int]bool), ended: make(chan struct{}, 2*crowdSessions)}
	var sessions, others sync.WaitGroup
	others.Go(c.deliver)
	others.Go(c.client)
	for k := range uint64(2) {
		sessions.Go(func() { c.sessions(rand.New(rand.NewPCG(k, 0))) })
	}
	sessions.Wait()
	close(c.ended)
	others.Wait()

	d := open(t, h.Store)
	listed := c.look(d, crowdMessages)
	for n := 1; n <= crowdMessages; n++ {
		if listed[n] == c.gone[n] {
			t.Errorf("message %d is listed: %v, was removed: %v", n, listed[n], c.gone[n])
		}
	}
}

// crowd is the ledger. What becomes of a message is up to its number: the mail
// client renames those that three divides, and removes the next ones; sessions
// remove the rest.
type crowd struct {
	t *testing.T
	h *Harness

	ended chan struct{} // holds one for each session that ended

	mu        sync.Mutex // guards what follows
	over      bool
	delivered int            // messages up to this one
	ids       map[int]string // as they were shown
	gone      map[int]bool   // surely removed
}

// deliver delivers some messages at once, and one whenever a session ends.
func (c *crowd) deliver() {
	for n := 1; n <= crowdMessages; n++ {
		if n > crowdMessages/2 {
			<-c.ended
		}
		c.h.Deliver(user, modelText(n))
		c.mu.Lock()
		c.delivered = n
		c.mu.Unlock()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
}

// client works on messages that sessions have shown, for as long as some are
// delivered.
func (c *crowd) client() {
	r := rand.New(rand.NewPCG(2, 0))
	for {
		n := 1 + r.IntN(crowdMessages)
		c.mu.Lock()
		id, gone, over := c.ids[n], c.gone[n], c.over
		c.mu.Unlock()
		switch {
		case over:
			return
		case id == "" || gone:
			runtime.Gosched()
		case n%3 == 0 && c.h.Rename != nil:
			c.h.Rename(user, id)
		case n%3 == 1 && r.IntN(8) == 0:
			c.h.Remove(user, id)
			c.remove(n)
		}
	}
}

func (c *crowd) remove(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone[n] = true
}

func (c *crowd) sessions(r *rand.Rand) {
	for n := 0; n < crowdSessions && !c.t.Failed(); {
		c.mu.Lock()
		delivered := c.delivered
		c.mu.Unlock()
		d, err := c.h.Store.Open(c.t.Context(), maildrop.Ref{User: user})
		switch {
		case errors.Is(err, maildrop.ErrInUse): // by the other program, which will end
			runtime.Gosched()
			continue
		case err != nil:
			c.t.Errorf("Open: %v", err)
			return
		}
		c.session(d, delivered, r)
		c.ended <- struct{}{}
		n++
	}
}

// session reads what is listed, and removes some of it.
func (c *crowd) session(d maildrop.Drop, delivered int, r *rand.Rand) {
	defer d.Close()
	c.look(d, delivered)
	var del, numbers []int
	for i, m := range c.list(d) {
		if n := c.number(m.UID); n%3 == 2 && r.IntN(4) == 0 {
			del, numbers = append(del, i), append(numbers, n)
		}
	}
	if err := d.Commit(c.t.Context(), del); err != nil {
		c.t.Errorf("Commit: %v", err)
		return
	}
	for _, n := range numbers {
		c.remove(n)
	}
}

func (c *crowd) list(d maildrop.Drop) maildrop.Messages {
	ms, err := maildrop.List(c.t.Context(), d)
	if err != nil {
		c.t.Errorf("Listing: %v", err)
	}
	return ms
}

// number is that of the message with a unique-id, 0 when it is not known.
func (c *crowd) number(uid string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	for n, id := range c.ids {
		if id == uid {
			return n
		}
	}
	return 0
}

// look compares a listing with the ledger. delivered is how many messages were
// there before it was made.
func (c *crowd) look(d maildrop.Drop, delivered int) (listed map[int]bool) {
	listed = make(map[int]bool)
	for i, m := range c.list(d) {
		n, err := crowdNumber(d, i)
		if errors.Is(err, maildrop.ErrGone) && c.number(m.UID)%3 == 1 {
			continue // by the mail client, just now
		}
		if errors.Is(err, maildrop.ErrGone) && c.number(m.UID) == 0 {
			c.t.Errorf("message %q went before anybody saw it", m.UID)
			continue
		}
		if err != nil {
			c.t.Errorf("message %q: %v", m.UID, err)
			continue
		}
		c.mu.Lock()
		switch old := c.ids[n]; {
		case listed[n]:
			c.t.Errorf("message %d is listed twice", n)
		case c.gone[n] && n%3 == 2:
			c.t.Errorf("message %d was removed by a session, and is listed", n)
		case old != "" && old != m.UID:
			c.t.Errorf("message %d has the unique-id %q, had %q", n, m.UID, old)
		}
		c.ids[n] = m.UID
		c.mu.Unlock()
		listed[n] = true
	}
	for n := 3; n <= delivered; n += 3 {
		if !listed[n] {
			c.t.Errorf("message %d is not listed", n)
		}
	}
	return listed
}

// crowdNumber reads the number of a message out of it.
func crowdNumber(d maildrop.Drop, i int) (n int, err error) {
	r, err := d.Content(context.Background(), i)
	if err != nil {
		return 0, err
	}
	defer r.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		return 0, err
	}
	if _, err = fmt.Sscanf(string(text), "X-Number: %d", &n); err == nil && string(text) != modelText(n) {
		err = errors.New("is none that was delivered")
	}
	return n, err
}
