package maildir

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/maildrop"
)

// known is what the cache or the index knows of the maildrop at fd: an empty
// listing when that is nothing.
func (s *Store) known(fd int, path string) *listing {
	if l := s.cache.get(path); l != nil {
		return l
	}
	l, err := readIndex(fd, s.lazy)
	if err != nil {
		if err != unix.ENOENT {
			s.log.Warn("index rebuilt: it cannot be used", "maildrop", path, "err", err)
		}
		return new(listing)
	}
	s.cache.put(path, l)
	return l
}

// vouched says that l is the listing still, as two stats can tell.
func (s *Store) vouched(fd int, l *listing) (bool, error) {
	if !l.settled.all() || l.named && !s.trusts(l) || l.loose && s.options.UIDs != nil {
		return false, nil
	}
	at, err := stampsAt(fd)
	return at == l.at, err
}

// trusts says that sizes in names are taken. One that was wrong is put right in
// the cache, or would be wrong for ever.
func (s *Store) trusts(l *listing) bool { return s.options.TrustSizes && l.full() <= s.cache.limit }

// load is l with its records. An index that does not have them any more costs
// what a rebuild does.
func (s *Store) load(fd int, path string, l *listing) *listing {
	if l.loaded() {
		return l
	}
	full, err := loadIndex(fd, l)
	if err != nil {
		s.log.Warn("index rebuilt: it cannot be used", "maildrop", path, "err", err)
		s.cache.put(path, nil)
		return new(listing)
	}
	return full
}

// settle is how long directories must have been left alone before their stamps
// alone vouch for a listing. The coarsest file clocks go in steps of 2 s.
const settle = 2500 * time.Millisecond

// tries is how often a message that others keep renaming is looked for.
const tries = 20

var errMoving = fmt.Errorf("%w: others keep moving messages", maildrop.ErrTemporary)

// look lists d, taking from old what did not change. What is new has no size
// yet.
func (s *Store) look(ctx context.Context, fd int, path string, d *dirs, old *listing) (*listing, error) {
	now := time.Now()
	f, err := d.scanUntilStill(old)
	if err != nil {
		return nil, err
	}
	if err := s.identify(ctx, fd, path, f); err != nil {
		return nil, err
	}
	var l *listing
	if f.unchanged() {
		same := *f.old
		if l = &same; l.named {
			l = f.old.clone() // sizes may be taken back
		}
		l.file.same = l.file.same && l.at == f.at && f.old == old
	} else {
		l = f.merge(now, func(int) bool { return false })
	}
	var settled settledDirs
	for i := range settled {
		settled[i] = f.still && f.at[i].olderThan(settle, now)
	}
	l.file.same = l.file.same && l.settled == settled
	l.at, l.settled, l.uids = f.at, settled, f.uids
	s.sizeByName(l)
	return l, nil
}

// sizeByName takes sizes from names, or takes them back when names are trusted
// no longer.
func (s *Store) sizeByName(l *listing) {
	trust := s.trusts(l)
	for i := range l.records {
		r := &l.records[i]
		if r.is(sized) && r.stored < 0 && !trust {
			r.set(sized, false)
			l.file.differs(1)
		}
		if !trust || r.is(sized) {
			continue
		}
		if size, ok := wireSize(l.base(i)); ok {
			r.set(sized, true)
			r.set(wireForm, false)
			r.stored, r.modified, r.size, r.header = -1, 0, size, 0
		}
	}
}

// measure reads what has no size in l, a listing that nobody else has. A
// message that is moved between its listing and its measuring is looked for
// again. With an error comes what is known until then.
func (s *Store) measure(ctx context.Context, d *dirs, l *listing, progress *atomic.Int64) (*listing, error) {
	for range tries {
		m := measuring{store: s, dirs: d, listing: l, todo: l.unsized(), progress: progress}
		if len(m.todo) == 0 {
			l.total()
			return l, nil
		}
		if err := m.run(ctx); err != nil {
			return l, err
		}
		at, settled := l.at, l.settled
		if m.missing.Load() {
			f, err := d.scanUntilStill(l)
			if err != nil {
				return l, err
			}
			f.places() // leaves out what came later
			l = f.merge(time.Now(), func(i int) bool { return l.records[i].is(sized) })
		}
		if m.strange.Load() {
			l = l.without(func(i int) bool { return l.records[i].is(gone) })
		}
		l.at, l.settled = at, settled
	}
	return l, errMoving
}

// measuring is the work of one session at its unmeasured messages.
type measuring struct {
	store    *Store
	dirs     *dirs
	listing  *listing
	todo     []int
	progress *atomic.Int64 // messages that were read
	next     atomic.Int64  // in todo
	missing  atomic.Bool   // a file is no longer where it was listed
	strange  atomic.Bool   // a file is no message
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
			m.progress.Add(1)
		case isMissing(err):
			m.missing.Store(true)
		case errors.Is(err, errStrange):
			m.listing.records[i].set(gone, true)
			m.strange.Store(true)
		default:
			return wrap("measure", m.listing.path(i), err)
		}
	}
}

func (m *measuring) one(i int, buf []byte) error {
	if hold := m.store.hold; hold != nil {
		if err := hold(m.listing.name(i)); err != nil {
			return err
		}
	}
	c, err := m.store.openMessage(m.dirs[m.listing.records[i].dir()], m.listing.name(i))
	if err != nil {
		return err
	}
	defer c.Close()
	meter, err := c.measure(buf)
	if err == nil {
		m.listing.records[i].measured(c, &meter)
	}
	return err
}

// measured takes what was found in c.
func (r *record) measured(c *content, m *maildrop.Meter) {
	r.set(sized, true)
	r.set(wireForm, m.WireForm())
	r.stored, r.modified, r.size = c.size, c.modified, m.Size()
	r.header = uint32(min(m.Header(), math.MaxUint32))
}
