package throttle

import (
	"container/list"
	"math"
	"time"

	"golang.org/x/time/rate"
)

// table holds values by the hash of what they are about. What was used longest
// ago makes room.
type table[V any] struct {
	byKey  map[uint64]*list.Element // of *entry[V]
	recent list.List                // last used first
}

type entry[V any] struct {
	key  uint64
	used time.Time
	v    V
}

// find returns nil when there is nothing.
func (t *table[V]) find(key uint64) *V {
	if e := t.byKey[key]; e != nil {
		return &e.Value.(*entry[V]).v
	}
	return nil
}

// get makes what is not there, the zero value, in place of the oldest when there
// are size entries.
func (t *table[V]) get(key uint64, now time.Time, size int) *V {
	e := t.byKey[key]
	if e == nil {
		for len(t.byKey) > 0 && len(t.byKey) >= size {
			t.remove(t.recent.Back())
		}
		if t.byKey == nil {
			t.byKey = make(map[uint64]*list.Element)
		}
		e = t.recent.PushFront(&entry[V]{key: key})
		t.byKey[key] = e
	}
	t.recent.MoveToFront(e)
	x := e.Value.(*entry[V])
	x.used = now
	return &x.v
}

// sweep takes away up to two old entries that are as good as new ones, so that
// a table shrinks again after an attack.
func (t *table[V]) sweep(asNew func(v *V, used time.Time) bool) {
	for range 2 {
		e := t.recent.Back()
		if e == nil {
			return
		}
		if x := e.Value.(*entry[V]); !asNew(&x.v, x.used) {
			return
		}
		t.remove(e)
	}
}

func (t *table[V]) remove(e *list.Element) {
	delete(t.byKey, t.recent.Remove(e).(*entry[V]).key)
}

// count is how often something failed of late.
type count struct {
	score   float64       // as of at
	at      time.Time     // of the last failure
	next    time.Time     // when the next attempt may be judged
	pending int           // attempts that have no outcome yet
	rate    *rate.Limiter // of all attempts, of addresses only
}

// decayed is the score now.
func (c *count) decayed(now time.Time, halfLife time.Duration) float64 {
	if c.score == 0 {
		return 0
	}
	return c.score * math.Exp2(-float64(now.Sub(c.at))/float64(halfLife))
}

// level is what limits look at: an attempt is a failure until it ends as
// something else.
func (c *count) level(now time.Time, halfLife time.Duration) float64 {
	return math.Round(c.decayed(now, halfLife)) + float64(c.pending)
}

// places are where a user has succeeded, the last of them at most.
type places [maxPlaces]struct {
	place uint64
	until int64 // Unix time
}

func (p *places) has(place uint64, now time.Time) bool {
	for _, x := range p {
		if x.place == place && x.until > now.Unix() {
			return true
		}
	}
	return false
}

// add takes the entry of place, or the one that runs out first.
func (p *places) add(place uint64, now time.Time) {
	oldest := 0
	for i, x := range p {
		if x.place == place {
			oldest = i
			break
		}
		if x.until < p[oldest].until {
			oldest = i
		}
	}
	p[oldest].place, p[oldest].until = place, now.Add(Familiar).Unix()
}
