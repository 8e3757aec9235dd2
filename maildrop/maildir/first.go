package maildir

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kpopd/kpopd/maildrop"
)

// every is how often a long reading is told of.
const every = 10 * time.Second

// readings are the maildrops that are being read for the first time.
type readings struct {
	ctx    context.Context // ended by Close
	cancel context.CancelCauseFunc
	slots  chan struct{} // one token for each reading
	wg     sync.WaitGroup

	reading sync.Mutex
	byPath  map[string]*reading
}

// reading is one maildrop being measured. It ends with its work, or with the
// store.
type reading struct {
	path     string
	of       int
	progress atomic.Int64
	done     chan struct{} // closed when the maildrop is the login's again, or nobody's

	mu      sync.Mutex
	left    bool // the login that began it does not wait any more
	ended   bool
	listing *listing
	err     error
}

var errClosed = fmt.Errorf("%w: the store is closed", maildrop.ErrTemporary)

func (r *readings) init() {
	r.ctx, r.cancel = context.WithCancelCause(context.Background())
	r.slots = make(chan struct{}, 2*runtime.GOMAXPROCS(0))
	r.byPath = make(map[string]*reading)
}

// Close ends the readings of maildrops that nobody waits for. What they have
// read is in the indexes then, and the next login goes on from there. Sessions
// are not ended, and maildrops that need no long reading can be opened still.
func (s *Store) Close() error {
	s.readings.reading.Lock()
	s.cancel(errClosed)
	s.readings.reading.Unlock()
	s.wg.Wait()
	return nil
}

// tooLong is what a login hears that the reading has not ended for.
func (r *reading) tooLong() error {
	return fmt.Errorf("%w: it is being read for the first time: %d of %d messages", maildrop.ErrTemporary, r.progress.Load(), r.of)
}

// join waits for the reading of a maildrop whose login has gone.
func (s *Store) join(ctx context.Context, path string) error {
	s.readings.reading.Lock()
	r := s.byPath[path]
	s.readings.reading.Unlock()
	if r == nil || !r.abandoned() {
		return nil
	}
	return s.await(ctx, r)
}

func (r *reading) abandoned() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.left
}

// await waits until r is done, no longer than a login does.
func (s *Store) await(ctx context.Context, r *reading) error {
	limit := time.NewTimer(s.options.ScanWait)
	defer limit.Stop()
	select {
	case <-r.done:
		return nil
	case <-limit.C:
		return r.tooLong()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// readAside measures l, of which n messages have no size. The login waits for
// it as long as its client may be thought to; then the reading goes on and
// keeps o. A login that finds too many readings under way waits for one of them
// to end.
func (s *Store) readAside(ctx context.Context, o *opened, l *listing, n int) (*listing, error) {
	r := &reading{path: o.path, of: n, done: make(chan struct{})}
	limit := time.NewTimer(s.options.ScanWait)
	defer limit.Stop()
	select {
	case s.slots <- struct{}{}:
	case <-limit.C:
		return nil, fmt.Errorf("%w: too many maildrops are being read for the first time", maildrop.ErrTemporary)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-s.ctx.Done():
		return nil, errClosed
	}
	if !s.start(r, *o, l) {
		<-s.slots
		return nil, errClosed
	}
	err := s.await(ctx, r)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return r.listing, r.err
	}
	r.left = true
	o.lock = -1
	return nil, err
}

// start is false when the store is closed.
func (s *Store) start(r *reading, o opened, l *listing) bool {
	s.readings.reading.Lock()
	defer s.readings.reading.Unlock()
	if s.ctx.Err() != nil {
		return false
	}
	s.byPath[r.path] = r
	s.wg.Go(func() { // ended by its work or by Close
		defer func() { <-s.slots }()
		s.read(r, &o, l)
	})
	return true
}

// read measures l, and hands the maildrop back to the login, or closes it.
func (s *Store) read(r *reading, o *opened, l *listing) {
	start := time.Now()
	stop := s.tell(r)
	l, err := s.measure(s.ctx, &o.dirs, l, &r.progress)
	stop()
	if err != nil {
		// the next login goes on from here
		known := l.without(func(i int) bool { return !l.records[i].is(sized) })
		s.cache.put(o.path, known)
		s.save(o.fd, o.path, known)
		s.log.Warn("maildrop not read to its end", "maildrop", r.path, "read", r.progress.Load(), "of", r.of, "err", err)
	} else {
		s.log.Info("maildrop read for the first time", "maildrop", r.path, "messages", r.of, "octets", l.octets, "took", time.Since(start).Round(time.Millisecond))
	}
	s.end(r, o, l, err)
}

// end gives o to the login if it still waits.
func (s *Store) end(r *reading, o *opened, l *listing, err error) {
	r.mu.Lock()
	r.listing, r.err, r.ended = l, err, !r.left
	left := r.left
	r.mu.Unlock()
	if left {
		if err == nil {
			s.cache.put(o.path, l)
			s.save(o.fd, o.path, l)
		}
		o.leave()
	}
	s.readings.reading.Lock()
	delete(s.byPath, r.path)
	s.readings.reading.Unlock()
	close(r.done)
}

// tell logs how far r has got, until stop is called.
func (s *Store) tell(r *reading) (stop func()) {
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() { // ended by stop
		defer close(ended)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				return
			case <-tick.C:
				s.log.Info("maildrop is being read for the first time", "maildrop", r.path, "read", r.progress.Load(), "of", r.of)
			}
		}
	}()
	return func() { close(quit); <-ended }
}
