package maildir

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kpopd/kpopd/maildrop"
)

// listing is what a session shows. It is not changed once it is made, and is
// shared by sessions that follow one another.
type listing struct {
	messages []maildrop.Message
	files    []file // of messages, index by index
	at       stamps
	settled  bool // as long as the stamps are the same, so is the listing
}

// file is where a message was seen last.
type file struct {
	entry
	sized    bool
	drop     bool  // while the listing is made: no message, or gone
	stored   int64 // octets in the file when it was measured; -1 when the size is from its name
	modified int64 // its mtime then, Unix nanoseconds
}

// weight is what a listing counts in the cache: an empty one is not free.
func (l *listing) weight() int { return len(l.messages) + 4 }

// list returns the listing of the maildrop at fd. Nobody reads a message that
// an earlier session measured.
func (s *Store) list(ctx context.Context, fd int, path string) (*listing, error) {
	old := s.cache.get(path)
	if old != nil && old.settled {
		at, err := stampsAt(fd)
		if err != nil {
			return nil, err
		}
		if at == old.at {
			return old, nil
		}
	}
	d, err := openDirs(fd)
	if err != nil {
		return nil, err
	}
	defer d.close()
	l, err := s.read(ctx, &d, old)
	if err != nil {
		return nil, err
	}
	s.cache.put(path, l)
	return l, nil
}

// settle is how long directories must have been left alone before their stamps
// alone vouch for a listing. The coarsest file clocks go in steps of 2 s.
const settle = 2500 * time.Millisecond

// tries is how often a message that others keep renaming is looked for.
const tries = 20

var errMoving = fmt.Errorf("%w: others keep moving messages", maildrop.ErrTemporary)

// read lists d, taking from old what did not change. A message that is moved
// between its listing and its measuring is looked for again.
func (s *Store) read(ctx context.Context, d *dirs, old *listing) (*listing, error) {
	now := time.Now()
	entries, at, still, err := d.scanUntilStill()
	if err != nil {
		return nil, err
	}
	l := s.newListing(entries, old)
	l.at, l.settled = at, still && at.olderThan(settle, now)
	for range tries {
		m := measuring{store: s, dirs: d, listing: l, todo: l.unsized()}
		if len(m.todo) == 0 {
			return l, nil
		}
		if err := m.run(ctx); err != nil {
			return nil, err
		}
		if m.missing.Load() {
			if entries, _, _, err = d.scanUntilStill(); err != nil {
				return nil, err
			}
			for i, found := range place(l.files, entries) {
				l.files[i].drop = l.files[i].drop || !found && !l.files[i].sized
			}
		}
		l.compact()
	}
	return nil, errMoving
}

// newListing gives the entries what old knows of them. Both are in order.
func (s *Store) newListing(entries []entry, old *listing) *listing {
	l := &listing{
		messages: make([]maildrop.Message, len(entries)),
		files:    make([]file, len(entries)),
	}
	if old == nil {
		old = new(listing)
	}
	trust := s.options.TrustSizes && s.cache.holds(l) // or a wrong size would be wrong for ever
	k := 0
	for i, e := range entries {
		l.files[i].entry = e
		l.messages[i].UID = uidOf(e.base)
		for k < len(old.files) && compareEntries(old.files[k].entry, e) < 0 {
			k++
		}
		if k < len(old.files) && old.files[k].base == e.base && old.files[k].ino == e.ino {
			l.files[i] = old.files[k]
			l.files[i].entry = e
			l.messages[i].Size, l.messages[i].WireForm = old.messages[k].Size, old.messages[k].WireForm
		} else if size, ok := wireSize(e.base); ok && trust {
			l.files[i].sized, l.files[i].stored = true, -1
			l.messages[i].Size = size
		}
	}
	return l
}

func (l *listing) unsized() (todo []int) {
	for i := range l.files {
		if !l.files[i].sized {
			todo = append(todo, i)
		}
	}
	return todo
}

// compact takes out the files that are marked to be dropped.
func (l *listing) compact() {
	kept := l.messages[:0]
	for i := range l.files {
		if !l.files[i].drop {
			kept = append(kept, l.messages[i])
		}
	}
	l.messages = kept
	l.files = slices.DeleteFunc(l.files, func(f file) bool { return f.drop })
}

// place tells files where they are now. Both are in order. found says which
// of them there are.
func place(files []file, entries []entry) (found []bool) {
	found = make([]bool, len(files))
	k := 0
	for i := range files {
		for k < len(entries) && compareEntries(entries[k], files[i].entry) < 0 {
			k++
		}
		if k < len(entries) && entries[k].base == files[i].base {
			files[i].entry = entries[k]
			found[i] = true
		}
	}
	return found
}

// measuring is the work of one session at its unmeasured messages.
type measuring struct {
	store   *Store
	dirs    *dirs
	listing *listing
	todo    []int
	next    atomic.Int64 // in todo
	missing atomic.Bool  // a file is no longer where it was listed
}

// run works through todo. The session does the work itself, and has as many
// goroutines help it as there are tokens to be had: reading in parallel is
// bounded for the whole store, and no session waits for another's. The helpers
// end with todo, with the first error, and with ctx.
func (m *measuring) run(ctx context.Context) error {
	const worth = 16 // messages for one more helper
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	work := func() {
		if err := m.work(ctx); err != nil {
			cancel(err)
		}
	}
	var helpers sync.WaitGroup
	for range len(m.todo) / worth {
		if !m.store.takeHelper() {
			break
		}
		helpers.Go(func() {
			defer m.store.releaseHelper()
			work()
		})
	}
	work()
	helpers.Wait()
	return context.Cause(ctx)
}

func (s *Store) takeHelper() bool {
	select {
	case s.helpers <- struct{}{}:
		return true
	default:
		return false
	}
}

func (s *Store) releaseHelper() { <-s.helpers }

var readBuffers = sync.Pool{New: func() any { return new([64 << 10]byte) }}

func (m *measuring) work(ctx context.Context) error {
	buf := readBuffers.Get().(*[64 << 10]byte)
	defer readBuffers.Put(buf)
	for {
		k := m.next.Add(1) - 1
		if k >= int64(len(m.todo)) {
			return nil
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		i := m.todo[k]
		switch err := m.one(i, buf[:]); {
		case err == nil:
		case isMissing(err):
			m.missing.Store(true)
		case errors.Is(err, errStrange):
			m.listing.files[i].drop = true
		default:
			return wrap("measure", dirNames[m.listing.files[i].dir]+"/"+m.listing.files[i].name, err)
		}
	}
}

func (m *measuring) one(i int, buf []byte) error {
	f := &m.listing.files[i]
	c, err := m.store.openMessage(m.dirs[f.dir], f.name)
	if err != nil {
		return err
	}
	defer c.Close()
	meter, err := c.measure(buf)
	if err != nil {
		return err
	}
	f.sized, f.stored, f.modified = true, c.size, c.modified
	m.listing.messages[i].Size, m.listing.messages[i].WireForm = meter.Size(), meter.WireForm()
	return nil
}
