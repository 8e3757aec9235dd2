package maildir

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

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
	stored   int64 // octets in the file when it was measured
	modified int64 // its mtime then, Unix nanoseconds
	measured bool  // false: nobody has read it, the size is from its name
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
	for range tries {
		now := time.Now()
		entries, at, still, err := d.scanUntilStill()
		if err != nil {
			return nil, err
		}
		l := newListing(entries, old)
		l.at, l.settled = at, still && at.olderThan(settle, now)
		moved, err := s.measure(ctx, d, l)
		if err != nil {
			return nil, err
		}
		if !moved {
			return l, nil
		}
		old = l
	}
	return nil, errMoving
}

// newListing gives the entries what old knows of them. Both are in order.
func newListing(entries []entry, old *listing) *listing {
	l := &listing{
		messages: make([]maildrop.Message, len(entries)),
		files:    make([]file, len(entries)),
	}
	var known []file
	if old != nil {
		known = old.files
	}
	k := 0
	for i, e := range entries {
		l.files[i].entry = e
		l.messages[i].UID = uidOf(e.base)
		for k < len(known) && compareEntries(known[k].entry, e) < 0 {
			k++
		}
		if k < len(known) && known[k].base == e.base && known[k].ino == e.ino && known[k].measured {
			l.files[i] = known[k]
			l.files[i].entry = e
			l.messages[i].Size, l.messages[i].WireForm = old.messages[k].Size, old.messages[k].WireForm
		}
	}
	return l
}

// measure finds the sizes that l lacks. Files that are no messages leave the
// listing. moved says that some file was no longer where it was listed; l then
// knows the others.
func (s *Store) measure(ctx context.Context, d *dirs, l *listing) (moved bool, err error) {
	var todo []int
	for i := range l.files {
		if l.files[i].measured {
			continue
		}
		if size, ok := wireSize(l.files[i].base); ok && s.options.TrustSizes {
			l.messages[i].Size = size
			continue
		}
		todo = append(todo, i)
	}
	if len(todo) == 0 {
		return false, nil
	}
	m := measuring{store: s, dirs: d, listing: l, todo: todo}
	if err := m.run(ctx); err != nil {
		return false, err
	}
	if m.strange.Load() {
		l.dropStrange()
	}
	return m.moved.Load(), nil
}

// measuring is the work of one session at its unmeasured messages.
type measuring struct {
	store   *Store
	dirs    *dirs
	listing *listing
	todo    []int
	next    atomic.Int64 // in todo
	moved   atomic.Bool
	strange atomic.Bool
}

// run works through todo. The session does the work itself, and has as many
// goroutines help it as there are tokens to be had: reading in parallel is
// bounded for the whole store, and no session waits for another's. The helpers
// end with todo, with the first error, and with ctx.
func (m *measuring) run(ctx context.Context) error {
	const worth = 16 // messages for one more helper
	g, ctx := errgroup.WithContext(ctx)
	for range len(m.todo) / worth {
		if !m.store.takeHelper() {
			break
		}
		g.Go(func() error {
			defer func() { <-m.store.helpers }()
			return m.work(ctx)
		})
	}
	return errors.Join(m.work(ctx), g.Wait())
}

func (s *Store) takeHelper() bool {
	select {
	case s.helpers <- struct{}{}:
		return true
	default:
		return false
	}
}

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
			m.moved.Store(true)
		case errors.Is(err, errStrange):
			m.listing.files[i].name = ""
			m.strange.Store(true)
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
	f.stored, f.modified, f.measured = c.size, c.modified, true
	m.listing.messages[i].Size, m.listing.messages[i].WireForm = meter.Size(), meter.WireForm()
	return nil
}

// dropStrange takes out what [measuring.work] marked.
func (l *listing) dropStrange() {
	kept := l.messages[:0]
	for i, f := range l.files {
		if f.name != "" {
			kept = append(kept, l.messages[i])
		}
	}
	l.messages = kept
	l.files = slices.DeleteFunc(l.files, func(f file) bool { return f.name == "" })
}
