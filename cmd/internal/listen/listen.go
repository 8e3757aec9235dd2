// Package listen accepts connections and bounds how many there are.
//
// It knows nothing of protocols: a handler gets each connection. What a full
// server tells a client it refuses is handed in.
//
// # Design notes
//
// An accept loop ends only when it is told to. Running out of file descriptors
// makes it wait, longer each time, and sheds one connection through a spare
// descriptor so that the client is not left hanging.
//
// A panic in a handler ends that connection only; it is logged with its stack
// and counted.
package listen

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	firstPause = 5 * time.Millisecond // after a failed accept; doubles
	lastPause  = time.Second
	shedWait   = 50 * time.Millisecond // for the connection that is to be shed
)

// Listener is one socket.
type Listener struct {
	Name    string
	Gate    *Gate
	Log     *slog.Logger
	Handle  func(context.Context, *Conn) // on a goroutine of its own; the connection is closed after it
	Refusal func() []byte                // sent to a client that is not admitted; nothing when nil
	Panics  *atomic.Int64

	socket net.Listener
	spare  *os.File
	wg     sync.WaitGroup // the accept loop
	closed atomic.Bool
}

// Bind opens the socket at address.
func (l *Listener) Bind(ctx context.Context, address string) error {
	cfg := net.ListenConfig{KeepAliveConfig: keepAlive(deadPeer)}
	socket, err := cfg.Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listener %s: %w", l.Name, err)
	}
	l.socket = socket
	l.spare, _ = os.Open(os.DevNull) // without it nothing can be shed
	return nil
}

// Addr is where the socket is bound.
func (l *Listener) Addr() net.Addr { return l.socket.Addr() }

// Start accepts until Close, on a goroutine that ends with it. ctx is handed
// to the handlers.
func (l *Listener) Start(ctx context.Context) {
	l.wg.Go(func() { l.accept(ctx) })
}

// Close closes the socket and waits for the accept loop. Connections stay.
//
// A child that is being started holds a copy of the socket until it executes
// its program: without the shutdown the address would stay taken, and clients
// would connect to nobody, for as long as that lasts.
func (l *Listener) Close() error {
	l.closed.Store(true)
	if s, ok := l.socket.(syscall.Conn); ok {
		if raw, err := s.SyscallConn(); err == nil {
			raw.Control(func(fd uintptr) { syscall.Shutdown(int(fd), syscall.SHUT_RD) })
		}
	}
	err := l.socket.Close()
	l.wg.Wait()
	if l.spare != nil {
		l.spare.Close()
	}
	return err
}

func (l *Listener) accept(ctx context.Context) {
	pause := firstPause
	for {
		c, err := l.socket.Accept()
		switch {
		case err == nil:
			pause = firstPause
			l.admit(ctx, c)
		case l.closed.Load(), errors.Is(err, net.ErrClosed), ctx.Err() != nil:
			return
		case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
			l.shed()
			l.Log.Warn("out of file descriptors", "listener", l.Name, "pause", pause, "open", l.Gate.Open(), "err", err)
			pause = wait(ctx, pause)
		case errors.Is(err, os.ErrDeadlineExceeded):
			// of shed; the next accept has none
		default:
			l.Log.Warn("accept failed", "listener", l.Name, "pause", pause, "err", err)
			pause = wait(ctx, pause)
		}
	}
}

// wait pauses and returns the next pause.
func wait(ctx context.Context, pause time.Duration) time.Duration {
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
	return min(2*pause, lastPause)
}

// shed accepts one connection with the spare descriptor and closes it.
func (l *Listener) shed() {
	if l.spare == nil {
		return
	}
	l.spare.Close()
	if d, ok := l.socket.(interface{ SetDeadline(time.Time) error }); ok {
		d.SetDeadline(time.Now().Add(shedWait))
		if c, err := l.socket.Accept(); err == nil {
			c.Close()
		}
		d.SetDeadline(time.Time{})
	}
	l.spare, _ = os.Open(os.DevNull)
}

func (l *Listener) admit(ctx context.Context, c net.Conn) {
	admitted, why := l.Gate.enter(c)
	if admitted == nil {
		l.Log.Warn("connection refused", "listener", l.Name, "remote", c.RemoteAddr().String(), "why", why)
		if l.Refusal != nil {
			c.SetWriteDeadline(time.Now().Add(shedWait)) // a new socket's buffer takes it at once
			c.Write(l.Refusal())
		}
		c.Close()
		return
	}
	admitted.keepAlive()
	go l.run(ctx, admitted) // ends with the session; Gate.CloseAll ends it early
}

func (l *Listener) run(ctx context.Context, c *Conn) {
	defer l.ended(c)
	defer l.recovered(c)
	l.Handle(ctx, c)
}

// recovered ends a panic of the handler.
func (l *Listener) recovered(c *Conn) {
	if v := recover(); v != nil {
		l.Panics.Add(1)
		l.Log.Error("session panicked", "listener", l.Name, "remote", c.RemoteAddr().String(),
			"panic", fmt.Sprint(v), "panics", l.Panics.Load(), "stack", string(debug.Stack()))
	}
}

func (l *Listener) ended(c *Conn) {
	c.Close()
	if c.Displaced() {
		l.Log.Info("closed to make room", "listener", l.Name, "remote", c.RemoteAddr().String())
	}
	l.Gate.leave(c)
}
