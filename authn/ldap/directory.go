package ldap

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/go-ldap/ldap/v3"
)

const (
	defaultTimeout     = 3 * time.Second
	defaultRetry       = 5 * time.Second
	defaultConnections = 8

	threshold = 3           // failures in a row after which a server is not even the last resort
	fairWait  = time.Second // a time-out after less says more about the client than about the server
)

// directory is servers that hold the same.
type directory struct {
	name    string // the verifier's
	log     *slog.Logger
	timeout time.Duration
	retry   time.Duration
	servers []*server

	mu     sync.Mutex // guards health
	health []health   // as servers
}

// health is what the breaker knows of a server.
type health struct {
	failures int // in a row
	err      error
	until    time.Time // left alone until then when it failed
}

// bind runs f on a connection that nobody searches on.
func (d *directory) bind(ctx context.Context, f func(*ldap.Conn) error) error {
	return d.try(ctx, func(ctx context.Context, s *server) error { return s.binds.with(ctx, f) })
}

// search runs f on a connection that is bound as the verifier.
func (d *directory) search(ctx context.Context, f func(*ldap.Conn) error) error {
	return d.try(ctx, func(ctx context.Context, s *server) error { return s.searches.with(ctx, f) })
}

func (d *directory) close() {
	for _, s := range d.servers {
		s.binds.close()
		s.searches.close()
	}
}

// try asks one server after the other until one answers. What it returns is that
// answer, or why there is none.
func (d *directory) try(ctx context.Context, ask func(context.Context, *server) error) error {
	tried := make([]bool, len(d.servers))
	var errs []error
	for left := len(d.servers); left > 0; left-- {
		i := d.next(tried)
		if i < 0 {
			break
		}
		tried[i] = true
		err := d.ask(ctx, i, left, ask)
		var down *downError
		if !errors.As(err, &down) {
			return err
		}
		errs = append(errs, fmt.Errorf("%s: %w", d.servers[i].url, err))
		if ctx.Err() != nil {
			break
		}
	}
	if errs == nil {
		return d.rest()
	}
	return errors.Join(errs...)
}

// ask asks server i, one of the left that may be asked yet. A server that hangs
// must not use up the time of the others.
func (d *directory) ask(ctx context.Context, i, left int, ask func(context.Context, *server) error) error {
	start := time.Now()
	share := d.timeout
	if deadline, ok := ctx.Deadline(); ok {
		share = min(share, time.Until(deadline)/time.Duration(left))
	}
	own, cancel := context.WithTimeout(ctx, share)
	defer cancel()
	err := ask(own, d.servers[i])
	var down *downError
	switch {
	case !errors.As(err, &down):
		d.well(i)
	case errors.Is(ctx.Err(), context.Canceled), own.Err() != nil && time.Since(start) < min(d.timeout, fairWait):
		// the client went away, or came with too little time
	case down.busy:
		// all connections are at work; whether they get answers is for them to say
	default:
		d.fail(i, err)
	}
	return err
}

// next is the server to ask: the first that is well or whose time to be tried
// again has come, else the first that has not failed too often. It is -1 when
// there is none.
func (d *directory) next(tried []bool) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	resort := -1
	for i := range d.health {
		h := &d.health[i]
		switch {
		case tried[i]:
		case h.failures == 0:
			return i
		case !now.Before(h.until):
			h.until = now.Add(d.retry) // the others go elsewhere meanwhile
			return i
		case resort < 0 && h.failures < threshold:
			resort = i
		}
	}
	return resort
}

// well notes that a server answered. It is told when that is news.
func (d *directory) well(i int) {
	d.mu.Lock()
	was := d.health[i]
	d.health[i] = health{}
	d.mu.Unlock()
	if was.failures > 0 {
		d.log.Info("directory server is back", "verifier", d.name, "server", d.servers[i].url, "failures", was.failures)
	}
}

// fail notes that a server did not answer, whether another did or not. A lasting
// fault is told once.
func (d *directory) fail(i int, err error) {
	d.mu.Lock()
	was := d.health[i]
	d.health[i] = health{failures: was.failures + 1, err: err, until: time.Now().Add(d.retry)}
	d.mu.Unlock()
	if was.failures == 0 {
		d.log.Warn("directory server failed", "verifier", d.name, "server", d.servers[i].url, "err", err)
	}
}

// rest is why no server is asked.
func (d *directory) rest() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	errs := []error{errors.New("no server is asked until it has been left alone for a while")}
	for i, h := range d.health {
		if h.failures == 0 {
			continue // it has come back meanwhile
		}
		errs = append(errs, fmt.Errorf("%s failed %d times, the last time: %w", d.servers[i].url, h.failures, h.err))
	}
	return errors.Join(errs...)
}

// downError is a question that got no answer from a server. It does not unwrap: a
// result code in it, as of the verifier's own bind, is about something else than
// the question.
type downError struct {
	err  error
	busy bool // it was not even asked: every connection is at work
}

func (e *downError) Error() string { return e.err.Error() }
