package remote

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/authntest"
)

func people() *authntest.Fake {
	return &authntest.Fake{Passwords: map[string]string{"alice": "pw-alice"}}
}

// A helper that is started anew is found by the next login; while it is away
// logins are told of an outage, at once.
func TestHelperRestarts(t *testing.T) {
	t.Parallel()
	h := serve(t, &Judge{Chain: people().Chain()})
	c := h.client(Options{Timeout: time.Hour})
	login := func(when string, want authn.Kind, ok bool) {
		t.Helper()
		id, err := verify(within(t), c, "alice", "pw-alice")
		if ok != (err == nil && id.User == "alice") || !ok && authn.KindOf(err) != want {
			t.Errorf("%s: got %+v, %v", when, id, err)
		}
	}
	login("well", 0, true)
	for range 5 {
		h.stop()
		login("away", authn.Unavailable, false)
		h.start()
		login("back", 0, true)
		// not noticed in between
		h.stop()
		h.start()
		login("restarted", 0, true)
	}
}

// Who waits for an answer when the helper goes is told at once, all of them.
func TestHelperDiesInMidLogin(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{})
	var cancelled atomic.Int32
	f := &authntest.Fake{Hook: func(ctx context.Context, _ *authn.PasswordRequest) {
		asked <- struct{}{}
		<-ctx.Done()
		cancelled.Add(1)
	}}
	h := serve(t, &Judge{Chain: f.Chain()})
	c := h.client(Options{Timeout: time.Hour})
	const logins = 20
	outcomes := make(chan error, logins)
	for range logins {
		go func() {
			_, err := verify(context.Background(), c, "alice", "pw-alice")
			outcomes <- err
		}()
		<-asked
	}
	h.stop()
	for range logins {
		if err := <-outcomes; authn.KindOf(err) != authn.Unavailable {
			t.Errorf("got %v", err)
		}
	}
	if n := cancelled.Load(); n != logins {
		t.Errorf("%d of %d verifiers were told to stop", n, logins)
	}
}

// A login that nobody waits for ends in the helper too, by its deadline or
// because the client went away.
func TestCancellation(t *testing.T) {
	t.Parallel()
	const most = 16 // attempts
	ends := make(chan error, most)
	asked := make(chan struct{}, most)
	f := &authntest.Fake{Err: context.DeadlineExceeded, Hook: func(ctx context.Context, _ *authn.PasswordRequest) {
		asked <- struct{}{}
		<-ctx.Done()
		ends <- ctx.Err()
	}}
	h := serve(t, &Judge{Chain: f.Chain()})
	c := h.client(Options{Timeout: time.Hour})
	ctx, cancel := context.WithCancel(context.Background())
	outcome := make(chan error, 1)
	go func() { _, err := verify(ctx, c, "alice", "pw-alice"); outcome <- err }()
	<-asked
	cancel()
	if err := <-outcome; authn.KindOf(err) != authn.Unavailable {
		t.Errorf("cancelled: %v", err)
	}
	if err := <-ends; !errors.Is(err, context.Canceled) {
		t.Errorf("the helper: %v", err)
	}
	// a deadline on a busy machine may be over before the helper hears of the login
	reached := false
	for wait := 10 * time.Millisecond; !reached && wait < time.Minute; wait *= 2 {
		ctx, cancel := context.WithTimeout(context.Background(), wait)
		_, err := verify(ctx, c, "alice", "pw-alice")
		cancel()
		if authn.KindOf(err) != authn.Unavailable {
			t.Errorf("deadline: %v", err)
		}
		select {
		case err := <-ends:
			reached = true
			if err == nil {
				t.Error("the helper's verifier had no deadline")
			}
		default:
		}
	}
	if !reached {
		t.Error("no deadline met the helper's verifier")
	}
	// the connection is as good as before
	if _, err := c.Ask(within(t)); err != nil {
		t.Error(err)
	}
}

// silent is a helper that takes connections and says nothing, or what it is
// given.
func silent(t *testing.T, says []byte) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "silent")
	if err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(dir, "socket")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var conns []net.Conn
	wg.Go(func() { // ended by Close
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write(says)
			conns = append(conns, c)
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
		for _, c := range conns {
			c.Close()
		}
		os.RemoveAll(dir)
	})
	return socket
}

// Whatever is at the other end, an outage is told within the deadline.
func TestSilentHelper(t *testing.T) {
	t.Parallel()
	other, err := frame(&message{Op: opHello, Version: version + 1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	hello, err := frame(&message{Op: opHello, Version: version}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		says []byte
		want string // "": that the time is over
	}{
		"says nothing":           {nil, ""},
		"says hello only":        {hello, ""},
		"speaks another version": {other, "speaks version 2, this is 1"},
		"speaks POP3":            {[]byte("+OK POP3 ready\r\n"), "too long"},
		"says no JSON":           {[]byte("\x00\x00\x00\x02\x00\x00\x00\x00{["), "read a frame"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := Options{Socket: silent(t, tt.says), Judges: everything}
			if tt.want == "" {
				o.Timeout = 50 * time.Millisecond
			}
			c := New("helper", o)
			defer c.Close()
			for range 2 {
				if _, err := verify(within(t), c, "alice", "pw-alice"); authn.KindOf(err) != authn.Unavailable || !strings.Contains(err.Error(), tt.want) ||
					tt.want == "" && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("got %v, want %q", err, tt.want)
				}
			}
		})
	}
}

// A front whose uid is not on the list learns nothing and is told why.
func TestUidOffTheList(t *testing.T) {
	t.Parallel()
	f := people()
	h := serve(t, &Judge{Chain: f.Chain()})
	h.stop()
	h.server.Clients = []uint32{uint32(os.Getuid()) + 1}
	h.start()
	_, err := verify(within(t), h.client(Options{}), "alice", "pw-alice")
	if authn.KindOf(err) != authn.Unavailable || !strings.Contains(err.Error(), "is this uid among its clients?") {
		// the helper may have closed before the hello went out
		if !strings.Contains(err.Error(), "broken pipe") && !strings.Contains(err.Error(), "reset by peer") {
			t.Errorf("got %v", err)
		}
	}
	if f.Asked.Load() != 0 {
		t.Error("a verifier was asked")
	}
}

// Many logins share the one connection, and each gets its own answer.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	f := &authntest.Fake{Passwords: map[string]string{}}
	name := func(i int) string { return strings.Repeat("u", i+1) }
	for i := range 100 {
		f.Passwords[name(i)] = "pw-" + name(i)
	}
	h := serve(t, &Judge{Chain: f.Chain()})
	c := h.client(Options{})
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			for j := range 10 {
				password, want := "pw-"+name(i), authn.Kind(0)
				if j%2 == 1 {
					password, want = "pw-"+name((i+1)%100), authn.Rejected
				}
				id, err := verify(context.Background(), c, name(i), password)
				if want == 0 && (err != nil || id.User != name(i)) || want != 0 && authn.KindOf(err) != want {
					t.Errorf("%d: got %+v, %v", i, id, err)
				}
			}
		})
	}
	wg.Wait()
	if n := f.Asked.Load(); n != 1000 {
		t.Errorf("asked %d times", n)
	}
}

// More requests than a helper takes are outages, and the others go on.
func TestTooManyAtOnce(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	f := people()
	f.Hook = func(context.Context, *authn.PasswordRequest) { <-release }
	h := serve(t, &Judge{Chain: f.Chain()})
	c := h.client(Options{Timeout: time.Hour})
	const more = 10
	outcomes := make(chan error, maxRequests+more)
	for range maxRequests + more {
		go func() { _, err := verify(context.Background(), c, "alice", "pw-alice"); outcomes <- err }()
	}
	for range more {
		if err := <-outcomes; authn.KindOf(err) != authn.Unavailable || !strings.Contains(err.Error(), "being judged already") {
			t.Errorf("got %v", err)
		}
	}
	close(release)
	for range maxRequests {
		if err := <-outcomes; err != nil {
			t.Error(err)
		}
	}
}

// A socket that is left behind is replaced, one that is in use is not, and
// nothing is put where everybody could put another.
func TestListen(t *testing.T) {
	t.Parallel()
	h := serve(t, &Judge{Chain: people().Chain()})
	st, err := os.Stat(h.socket)
	if err != nil || st.Mode() != os.ModeSocket|socketMode {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if _, err := Listen(t.Context(), h.socket); err == nil || !strings.Contains(err.Error(), "another helper listens there") {
		t.Errorf("the socket of another helper: %v", err)
	}
	h.stop()
	if _, err := os.Lstat(h.socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after the end: %v", err)
	}
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: h.socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false)
	left.Close()
	h.start() // in its place
	h.stop()
	if err := os.WriteFile(h.socket, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(t.Context(), h.socket); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("in the place of a file: %v", err)
	}
	open := filepath.Join(filepath.Dir(h.socket), "open")
	if err := errors.Join(os.Mkdir(open, 0o700), os.Chmod(open, 0o777)); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(t.Context(), filepath.Join(open, "socket")); err == nil || !strings.Contains(err.Error(), "chmod o-w it") {
		t.Errorf("where everybody may write: %v", err)
	}
}
