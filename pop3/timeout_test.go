package pop3

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/maildrop"
	"github.com/kpopd/kpopd/maildrop/memory"
)

// traced has srv report the end of its session.
func traced(srv *Server) (*Server, <-chan *SessionDone) {
	ch := make(chan *SessionDone, 1)
	srv.Trace = &Trace{Session: func(_ context.Context, d *SessionDone) { ch <- d }}
	return srv, ch
}

// TestSilence: the server closes without a word when the time is over, and
// nothing but a command after login extends it.
func TestSilence(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		say    string
		every  time.Duration // repeats say
		after  time.Duration
		reason Reason
	}{
		{"before login", "", 0, time.Minute, LoginTimeout},
		{"an unfinished line before login", "USER al", 0, time.Minute, LoginTimeout},
		{"commands do not extend the login time", "CAPA\r\n", 20 * time.Second, time.Minute, LoginTimeout},
		{"an AUTH exchange does not extend it", "AUTH PLAIN\r\n*\r\n", 40 * time.Second, time.Minute, LoginTimeout},
		{"an unfinished AUTH exchange", "AUTH PLAIN\r\nAAAA", 0, time.Minute, LoginTimeout},
		{"after login", "USER a\r\nPASS " + word + "\r\n", 0, 10 * time.Minute, IdleTimeout},
		{"an unfinished line after login", "USER a\r\nPASS " + word + "\r\nNOO", 0, 10 * time.Minute, IdleTimeout},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				srv, done := traced(&Server{Backend: newBackend(&memory.Store{})})
				p := talk(t, srv)
				start := time.Now()
				var saying sync.WaitGroup
				defer saying.Wait()
				saying.Go(func() {
					for {
						if _, err := io.WriteString(p, tt.say); err != nil || tt.every == 0 {
							return
						}
						time.Sleep(tt.every)
					}
				})
				all, _ := io.ReadAll(p.r)
				d := <-done
				if got := time.Since(start); got != tt.after || d.Reason != tt.reason {
					t.Errorf("ended after %v by %s, want %v by %s", got, d.Reason, tt.after, tt.reason)
				}
				lines := strings.Split(strings.TrimSuffix(string(all), "\r\n"), "\r\n")
				if last := lines[len(lines)-1]; strings.HasPrefix(last, "-ERR") && !strings.Contains(last, "cancelled") {
					t.Errorf("said %q at the end", last)
				}
				p.Close()
			})
		})
	}
}

// TestActivity: each command restarts the autologout timer.
func TestActivity(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := talk(t, &Server{Backend: newBackend(&memory.Store{})})
		p.login("alice")
		for range 5 {
			time.Sleep(10*time.Minute - time.Second)
			p.say("NOOP")
			p.want("+OK")
		}
		p.say("QUIT")
		p.want("+OK")
		p.ended()
	})
}

// slowly is the server's end of a connection whose peer takes so many octets
// a second, through a window of 4 KiB.
type slowly struct {
	net.Conn
	rate int
}

func (c slowly) Write(p []byte) (n int, err error) {
	for n < len(p) {
		time.Sleep(time.Second)
		m, err := c.Conn.Write(p[n:min(len(p), n+c.rate)])
		if n += m; err != nil {
			return n, err
		}
	}
	return n, nil
}

// TestSlowReader: one octet a second is cut, two kibibytes a second are not.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		rate   int
		reason Reason
	}{
		{"an octet a second", 1, SlowReader},
		{"two kibibytes a second", 2 << 10, Quit},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				const size = 1 << 20
				drop := &endless{m: maildrop.Message{Size: size + 2}, size: size}
				srv, done := traced(&Server{Backend: newBackend(openAs(drop))})
				client, server := net.Pipe()
				p := serve(t, srv, client, slowly{server, tt.rate})
				// greeting and replies before RETR are slow as well
				p.say("USER alice", "PASS "+word, "RETR 1", "QUIT")
				start := time.Now()
				io.Copy(io.Discard, p.r)
				d := <-done
				if d.Reason != tt.reason {
					t.Errorf("ended by %s after %v", d.Reason, time.Since(start))
				}
				if tt.reason == SlowReader && time.Since(start) > 3*time.Minute {
					t.Errorf("took %v", time.Since(start))
				}
				if read := drop.read.Load(); tt.reason == SlowReader && read > 256<<10 {
					t.Errorf("%d octets were read ahead", read)
				}
				if !drop.closed.Load() {
					t.Error("the maildrop is still locked")
				}
			})
		})
	}
}

// endless is a maildrop with one message of one line that takes no memory.
type endless struct {
	m       maildrop.Message
	size    int64
	read    atomic.Int64
	closed  atomic.Bool
	removed atomic.Int64
}

func (d *endless) Totals() (int, int64) { return 1, d.m.Size }
func (d *endless) Listing(context.Context) (maildrop.Listing, error) {
	return maildrop.Messages{d.m}, nil
}
func (d *endless) Close() error { d.closed.Store(true); return nil }
func (d *endless) Commit(_ context.Context, del []int) error {
	d.removed.Add(int64(len(del)))
	return nil
}

func (d *endless) Content(context.Context, int) (io.ReadCloser, error) {
	return io.NopCloser(io.TeeReader(io.LimitReader(xs{}, d.size), (*counter)(&d.read))), nil
}

type counter atomic.Int64

func (c *counter) Write(p []byte) (int, error) {
	(*atomic.Int64)(c).Add(int64(len(p)))
	return len(p), nil
}

// storeFunc is a store made of its one method.
type storeFunc func(context.Context, maildrop.Ref) (maildrop.Drop, error)

func (f storeFunc) Open(ctx context.Context, r maildrop.Ref) (maildrop.Drop, error) { return f(ctx, r) }

func openAs(d maildrop.Drop) maildrop.Store {
	return storeFunc(func(context.Context, maildrop.Ref) (maildrop.Drop, error) { return d, nil })
}

// TestDrain: a cancelled context ends waiting sessions at once and without a
// word, in every state.
func TestDrain(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		say  []string
	}{
		{"after the greeting", nil},
		{"in the middle of a line", []string{"US"}},
		{"in an exchange", []string{"AUTH PLAIN\r\n"}},
		{"after login", []string{"USER a\r\n", "PASS " + word + "\r\n", "NOOP\r\n"}},
		{"in the middle of a line after login", []string{"USER a\r\n", "PASS " + word + "\r\n", "NO"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				srv, done := traced(&Server{Backend: newBackend(&memory.Store{})})
				client, server := net.Pipe()
				go srv.ServeConn(ctx, server, &authn.Transport{Remote: anywhere}) // ends by cancel
				r := bufio.NewReader(client)
				r.ReadString('\n')
				for _, l := range tt.say {
					io.WriteString(client, l)
					if strings.HasSuffix(l, "\n") {
						r.ReadString('\n')
					}
				}
				start := time.Now()
				cancel()
				rest, _ := io.ReadAll(r)
				d := <-done
				if len(rest) > 0 || time.Since(start) > 0 || d.Reason != Drained {
					t.Errorf("said %q, ended after %v by %s", rest, time.Since(start), d.Reason)
				}
				client.Close()
			})
		})
	}
}

// TestDrainDuringHandshake: a handshake is input as well. A session that is
// drained in it, or before it has begun, ends at once and is no failure.
func TestDrainDuringHandshake(t *testing.T) {
	t.Parallel()
	cfg := certificate(t)
	for _, hello := range []string{"", "\x16\x03\x01\x02"} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			srv, done := traced(&Server{Backend: newBackend(&memory.Store{})})
			srv.StartTLS = func(ctx context.Context, c net.Conn, _ *authn.Transport) (net.Conn, error) {
				tc := tls.Server(c, cfg)
				return tc, tc.HandshakeContext(ctx)
			}
			client, server := net.Pipe()
			served := make(chan error, 1)
			go func() { served <- srv.ServeConn(ctx, server, &authn.Transport{Remote: anywhere}) }() // ends by cancel
			r := bufio.NewReader(client)
			r.ReadString('\n')
			io.WriteString(client, "STLS\r\n")
			r.ReadString('\n')
			io.WriteString(client, hello)
			synctest.Wait()
			start := time.Now()
			cancel()
			rest, _ := io.ReadAll(r)
			if d := <-done; len(rest) > 0 || time.Since(start) > 0 || d.Reason != Drained {
				t.Errorf("%q: said %q, ended after %v by %s", hello, rest, time.Since(start), d.Reason)
			}
			if err := <-served; err != nil {
				t.Errorf("%q: %v", hello, err)
			}
			client.Close()
		})
	}
}

// TestDrainDuringRetr: a message on its way may finish within DrainTimeout;
// what was read together with RETR is carried out, QUIT included.
func TestDrainDuringRetr(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		rate    int
		removed int64
	}{
		{"finishes in time", 8 << 10, 1},
		{"is too slow", 2 << 10, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				const size = 160 << 10
				ctx, cancel := context.WithCancel(t.Context())
				drop := &endless{m: maildrop.Message{Size: size + 2}, size: size}
				srv, done := traced(&Server{Backend: newBackend(openAs(drop)), DrainTimeout: 30 * time.Second})
				client, server := net.Pipe()
				go srv.ServeConn(ctx, slowly{server, tt.rate}, &authn.Transport{Remote: anywhere}) // ends by QUIT
				go io.WriteString(client, "USER a\r\nPASS "+word+"\r\nRETR 1\r\nDELE 1\r\nQUIT\r\n")
				go func() { // ends with time
					time.Sleep(8 * time.Second)
					cancel()
				}()
				all, _ := io.ReadAll(client)
				d := <-done
				whole := strings.Contains(string(all), "\r\n.\r\n")
				if whole != (tt.removed == 1) || drop.removed.Load() != tt.removed || !drop.closed.Load() {
					t.Errorf("whole %v, removed %d, closed %v, %s", whole, drop.removed.Load(), drop.closed.Load(), d.Reason)
				}
			})
		})
	}
}

// TestDrainRace: a drain that meets the session setting its deadline is not
// lost.
func TestDrainRace(t *testing.T) {
	t.Parallel()
	for range 200 {
		ctx, cancel := context.WithCancel(t.Context())
		client, server := net.Pipe()
		done := make(chan error, 1)
		go func() {
			done <- (&Server{Backend: newBackend(&memory.Store{})}).ServeConn(ctx, server, &authn.Transport{})
		}()
		go cancel()
		io.Copy(io.Discard, client)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		client.Close()
	}
}

// slowVerifier takes its time, but heeds its context.
type slowVerifier struct{ anyone }

func (slowVerifier) VerifyPassword(ctx context.Context, r *authn.PasswordRequest) (*authn.Identity, error) {
	select {
	case <-time.After(time.Hour):
		return nil, errors.New("too long")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TestSlowLogin: a verifier that hangs is not waited for longer than the
// client may take.
func TestSlowLogin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBackend(&memory.Store{})
		b.Offers = newOffers(authn.Chain{{Verifier: slowVerifier{}}})
		p := talk(t, &Server{Backend: b})
		start := time.Now()
		p.want("+OK")
		p.say("USER alice", "PASS "+word)
		p.want("+OK")
		p.want("-ERR [SYS/TEMP]")
		if _, err := p.r.ReadByte(); err != io.EOF || time.Since(start) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		p.ended()
	})
}
