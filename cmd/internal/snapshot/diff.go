package snapshot

import (
	"cmp"
	"slices"
)

// Kind says what became of a message.
type Kind string

// The kinds of a [Change].
const (
	Moved   Kind = "moved"   // same unique-id, another place among those that stay
	Renamed Kind = "renamed" // another unique-id; by its size or number it is the same message
	Resized Kind = "resized" // the same message, another size
	Missing Kind = "missing" // gone
	New     Kind = "new"
)

// Change is one message that differs. Number, UID and size are zero on the side
// that does not have it. A message that moved or was renamed and has another
// size, too, has two changes.
type Change struct {
	Kind   Kind     `json:"kind"`
	Before *Message `json:"before,omitempty"`
	After  *Message `json:"after,omitempty"`
}

// Counts is how two snapshots differ in numbers of messages.
type Counts struct {
	Before  int `json:"before"`
	After   int `json:"after"`
	Same    int `json:"same"` // unique-id and place
	Moved   int `json:"moved"`
	Renamed int `json:"renamed"`
	Missing int `json:"missing"`
	New     int `json:"new"`
	Resized int `json:"resized"` // of those that are same, moved or renamed

	DuplicatesBefore int `json:"duplicates_before"`
	DuplicatesAfter  int `json:"duplicates_after"`
	IllegalBefore    int `json:"illegal_before"`
	IllegalAfter     int `json:"illegal_after"`

	// Again is what a client that has everything of before, and remembers its
	// unique-ids, would fetch a second time after; Fetch is all that it would
	// fetch, new mail included.
	Again       int   `json:"again"`
	AgainOctets int64 `json:"again_octets"`
	Fetch       int   `json:"fetch"`
	FetchOctets int64 `json:"fetch_octets"`
}

// Difference is what became of one user's maildrop.
type Difference struct {
	User          string `json:"user"`
	FailureBefore string `json:"failure_before,omitempty"` // why there is no listing
	FailureAfter  string `json:"failure_after,omitempty"`
	Counts
	Changes []Change `json:"changes,omitempty"`
}

// Equal reports whether no client would notice: everything is the same, sizes
// too. Duplicates and illegal unique-ids that are on both sides are told and
// are no difference.
func (d *Difference) Equal() bool {
	return d.FailureBefore == "" && d.FailureAfter == "" &&
		d.Same == d.Before && d.Same == d.After && d.Resized == 0
}

// Add adds up the counts of maildrops.
func (c *Counts) Add(x *Counts) {
	c.Before += x.Before
	c.After += x.After
	c.Same += x.Same
	c.Moved += x.Moved
	c.Renamed += x.Renamed
	c.Missing += x.Missing
	c.New += x.New
	c.Resized += x.Resized
	c.DuplicatesBefore += x.DuplicatesBefore
	c.DuplicatesAfter += x.DuplicatesAfter
	c.IllegalBefore += x.IllegalBefore
	c.IllegalAfter += x.IllegalAfter
	c.Again += x.Again
	c.AgainOctets += x.AgainOctets
	c.Fetch += x.Fetch
	c.FetchOctets += x.FetchOctets
}

// Compare says what became of a user's maildrop; nil is one that is not in a
// snapshot.
//
// Messages belong together when they have the same unique-id. Of those that are
// left, the ones with the same size belong together, first to first; and when
// there are as many messages before as after, so do those with the same number.
// That is a guess, made without reading mail: what the protocol tells is no more.
func Compare(user string, before, after *Maildrop) *Difference {
	d := &Difference{User: user, FailureBefore: failure(before), FailureAfter: failure(after)}
	if d.FailureBefore != "" || d.FailureAfter != "" {
		return d
	}
	d.Before, d.After = len(before.Messages), len(after.Messages)
	d.DuplicatesBefore, d.DuplicatesAfter = len(before.Duplicates), len(after.Duplicates)
	d.IllegalBefore, d.IllegalAfter = len(before.Illegal), len(after.Illegal)
	p := &pairing{before: before.Messages, after: after.Messages, to: unpaired(len(before.Messages)), from: unpaired(len(after.Messages))}
	p.byUID()
	d.order(p)
	p.bySize()
	if d.Before == d.After {
		p.byPlace()
	}
	d.rest(p)
	slices.SortStableFunc(d.Changes, func(a, b Change) int { return cmp.Compare(place(a), place(b)) })
	return d
}

func failure(m *Maildrop) string {
	switch {
	case m == nil:
		return "not in the snapshot"
	case m.Failure != nil:
		return m.Failure.String()
	}
	return ""
}

// place is where a change stands in a list of them.
func place(c Change) int {
	if c.Before != nil {
		return c.Before.Number
	}
	return c.After.Number
}

// order counts the pairs with one unique-id.
func (d *Difference) order(p *pairing) {
	stays := p.rising()
	for i, j := range p.to {
		switch {
		case j < 0:
			continue
		case stays[i]:
			d.Same++
		default:
			d.Moved++
			d.change(Moved, p, i, j)
		}
		d.size(p, i, j)
	}
}

// rest counts the messages that have no unique-id in common.
func (d *Difference) rest(p *pairing) {
	known := make(map[string]bool, len(p.before))
	for _, m := range p.before {
		known[m.UID] = true
	}
	for i, j := range p.to {
		switch {
		case j < 0:
			d.Missing++
			d.change(Missing, p, i, j)
		case p.before[i].UID != p.after[j].UID:
			d.Renamed++
			d.change(Renamed, p, i, j)
			d.size(p, i, j)
		}
	}
	for j, i := range p.from {
		m := p.after[j]
		if i < 0 {
			d.New++
			d.change(New, p, i, j)
		}
		if known[m.UID] {
			continue
		}
		d.Fetch++
		d.FetchOctets += m.Size
		if i >= 0 {
			d.Again++
			d.AgainOctets += m.Size
		}
	}
}

func (d *Difference) size(p *pairing, i, j int) {
	if p.before[i].Size != p.after[j].Size {
		d.Resized++
		d.change(Resized, p, i, j)
	}
}

func (d *Difference) change(k Kind, p *pairing, i, j int) {
	c := Change{Kind: k}
	if i >= 0 {
		c.Before = &p.before[i]
	}
	if j >= 0 {
		c.After = &p.after[j]
	}
	d.Changes = append(d.Changes, c)
}

// pairing says which messages are the same, by index; -1 is none.
type pairing struct {
	before, after []Message
	to, from      []int
}

func unpaired(n int) []int { return slices.Repeat([]int{-1}, n) }

func (p *pairing) pair(i, j int) { p.to[i], p.from[j] = j, i }

func (p *pairing) byUID()  { match(p, func(m Message) string { return m.UID }) }
func (p *pairing) bySize() { match(p, func(m Message) int64 { return m.Size }) }

// match pairs what has no pair yet and the same key, first to first.
func match[K comparable](p *pairing, key func(Message) K) {
	queue := map[K][]int{}
	for j, m := range p.after {
		if p.from[j] < 0 {
			queue[key(m)] = append(queue[key(m)], j)
		}
	}
	for i, m := range p.before {
		if q := queue[key(m)]; p.to[i] < 0 && len(q) > 0 {
			p.pair(i, q[0])
			queue[key(m)] = q[1:]
		}
	}
}

// byPlace pairs what has no pair yet and the same place.
func (p *pairing) byPlace() {
	for i := range p.before {
		if p.to[i] < 0 && p.from[i] < 0 {
			p.pair(i, i)
		}
	}
}

// rising marks as many paired messages of before as possible that are in the
// same order after: the others have moved. It keeps, for each length, the run
// of that length which ends earliest.
func (p *pairing) rising() []bool {
	var ends []int // by length less one: index in before of the last message of that run
	previous := unpaired(len(p.before))
	for i, j := range p.to {
		if j < 0 {
			continue
		}
		at, _ := slices.BinarySearchFunc(ends, j, func(e, j int) int { return cmp.Compare(p.to[e], j) })
		if at > 0 {
			previous[i] = ends[at-1]
		}
		if at == len(ends) {
			ends = append(ends, i)
		} else {
			ends[at] = i
		}
	}
	stays := make([]bool, len(p.before))
	if len(ends) > 0 {
		for i := ends[len(ends)-1]; i >= 0; i = previous[i] {
			stays[i] = true
		}
	}
	return stays
}
