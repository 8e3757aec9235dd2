package ldap

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// farm is a directory whose servers are functions; it notes who is asked.
func farm(o ...func(context.Context) error) (d *directory, ask func(context.Context) error, asked func() []int) {
	d = &directory{name: "dir", log: slog.New(slog.DiscardHandler), timeout: defaultTimeout, retry: defaultRetry, health: make([]health, len(o))}
	for range o {
		d.servers = append(d.servers, &server{url: "ldap://test"})
	}
	var who []int
	ask = func(ctx context.Context) error {
		return d.try(ctx, func(ctx context.Context, s *server) error {
			i := slices.Index(d.servers, s)
			who = append(who, i)
			return o[i](ctx)
		})
	}
	asked = func() []int {
		defer func() { who = nil }()
		return who
	}
	return d, ask, asked
}

var errAnswer = errors.New("an answer")

func well(context.Context) error { return errAnswer }

func dead(context.Context) error { return &downError{err: errors.New("connection refused")} }

func hung(ctx context.Context) error {
	<-ctx.Done()
	return &downError{err: context.Cause(ctx)}
}

func TestBreaker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		down := true
		var log bytes.Buffer
		d, ask, asked := farm(func(ctx context.Context) error {
			if down {
				return dead(ctx)
			}
			return well(ctx)
		}, well)
		d.log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}}))
		expect := func(what string, want error, who ...int) {
			t.Helper()
			err := ask(t.Context())
			if got := asked(); !slices.Equal(got, who) || !errors.Is(err, want) {
				t.Errorf("%s: asked %v, want %v: %v", what, got, who, err)
			}
		}
		expect("the first fails", errAnswer, 0, 1)
		expect("it is left alone", errAnswer, 1)
		time.Sleep(defaultRetry)
		expect("it is tried again", errAnswer, 0, 1)
		expect("by one only", errAnswer, 1)
		down = false
		time.Sleep(defaultRetry)
		expect("it is well", errAnswer, 0)
		expect("it stays the first", errAnswer, 0)
		if d.health[0] != (health{}) {
			t.Errorf("health %+v", d.health[0])
		}
		want := `level=WARN msg="directory server failed" verifier=dir server=ldap://test err="connection refused"
level=INFO msg="directory server is back" verifier=dir server=ldap://test failures=2
`
		if log.String() != want {
			t.Errorf("told\n%swant\n%s", log.String(), want)
		}
	})
}

func TestBreakerOpens(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, ask, asked := farm(hung)
		for range threshold {
			if err := ask(t.Context()); err == nil {
				t.Fatal("no outage")
			}
		}
		if n := len(asked()); n != threshold {
			t.Fatalf("asked %d times, want %d", n, threshold)
		}
		start := time.Now()
		err := ask(t.Context())
		if len(asked()) != 0 || time.Since(start) != 0 || !strings.Contains(err.Error(), "failed 3 times") {
			t.Errorf("a server that is known to hang is asked: %v", err)
		}
		time.Sleep(defaultRetry)
		_ = ask(t.Context())
		if n := len(asked()); n != 1 {
			t.Errorf("asked %d times when its time has come", n)
		}
	})
}

// A server that hangs does not use up the time of the others, nor more of a
// login's than Options.Timeout.
func TestShare(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ deadline, took time.Duration }{
		"long deadline":  {time.Minute, defaultTimeout},
		"short deadline": {3 * time.Second, 1500 * time.Millisecond},
		"no deadline":    {0, defaultTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				_, ask, asked := farm(hung, well)
				ctx := t.Context()
				if tt.deadline > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, tt.deadline)
					defer cancel()
				}
				start := time.Now()
				if err := ask(ctx); !errors.Is(err, errAnswer) || time.Since(start) != tt.took || len(asked()) != 2 {
					t.Errorf("got %v after %v, want %v", err, time.Since(start), tt.took)
				}
			})
		})
	}
}

// Clients that come without time, or go away, say nothing about a server: one
// that keeps at it must not shut out the others.
func TestNotTheServersFault(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(context.Context) (context.Context, context.CancelFunc){
		"too little time": func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 10*time.Millisecond)
		},
		"gone": func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(2*time.Second, cancel)
			return ctx, cancel
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d, ask, _ := farm(hung)
				for range 2 * threshold {
					ctx, cancel := end(t.Context())
					if err := ask(ctx); err == nil {
						t.Error("no outage")
					}
					cancel()
				}
				if d.health[0].failures != 0 {
					t.Errorf("counted %d failures", d.health[0].failures)
				}
			})
		})
	}
}

// A busy pool sends a login to the next server and says nothing about this one.
func TestBusyIsNotDown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, ask, _ := farm(func(ctx context.Context) error {
			<-ctx.Done()
			return &downError{context.Cause(ctx), true}
		}, well)
		if err := ask(t.Context()); !errors.Is(err, errAnswer) || d.health[0].failures != 0 {
			t.Errorf("got %v, %+v", err, d.health[0])
		}
	})
}

// A pool has no more connections than it may, and nobody waits past his time.
func TestPoolIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var dials atomic.Int64
		p := pool{slots: make(chan struct{}, 2), dial: func(ctx context.Context) (*conn, error) {
			dials.Add(1)
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		errs := make(chan error)
		for range 5 {
			go func() { errs <- p.with(ctx, nil) }()
		}
		busy := 0
		for range 5 {
			var down *downError
			if err := <-errs; !errors.As(err, &down) {
				t.Error(err)
			} else if down.busy {
				busy++
			}
		}
		if dials.Load() != 2 || busy != 3 {
			t.Errorf("%d dialled and %d waited, want 2 and 3", dials.Load(), busy)
		}
		if len(p.slots) != 0 {
			t.Error("slots are lost")
		}
	})
}
