package listen

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// option is what the kernel has for a connection.
func option(t *testing.T, c *Conn, opt int) int {
	t.Helper()
	raw, err := c.Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var n int
	e := raw.Control(func(fd uintptr) { n, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, opt) })
	if err := errors.Join(e, err); err != nil {
		t.Fatal(err)
	}
	return n
}

// The bound on a peer that is gone is the kernel's: probes that add up to it, and
// as long for octets on the way. A connection has the one of its beginning.
func TestDeadPeerOptions(t *testing.T) {
	t.Parallel()
	conns := make(chan *Conn)
	s := start(t, Limits{}, func(ctx context.Context, c *Conn) { conns <- c; <-ctx.Done() })
	for _, d := range []time.Duration{0, 8 * time.Second, 12 * time.Hour} {
		s.Gate.SetLimits(Limits{DeadPeer: d})
		near, err := net.Dial("tcp", s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer near.Close()
		c := <-conns
		want := d
		if d == 0 {
			want = 4 * time.Minute
		}
		idle, interval, count := option(t, c, unix.TCP_KEEPIDLE), option(t, c, unix.TCP_KEEPINTVL), option(t, c, unix.TCP_KEEPCNT)
		if got := time.Duration(idle+interval*count) * time.Second; got != want {
			t.Errorf("%v: %d s, then %d probes, one each %d s", d, idle, count, interval)
		}
		if got := time.Duration(option(t, c, unix.TCP_USER_TIMEOUT)) * time.Millisecond; got != want {
			t.Errorf("%v: octets on the way have %v", d, got)
		}
	}
}

// A peer whose network drops everything is found out without a word to him; one
// that only says nothing is not.
func TestUnanswered(t *testing.T) {
	t.Parallel()
	conns := make(chan *Conn)
	s := start(t, Limits{DeadPeer: 8 * time.Second}, func(ctx context.Context, c *Conn) { conns <- c; <-ctx.Done() })
	dial := func() (*net.TCPConn, *Conn) {
		near, err := net.Dial("tcp", s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { near.Close() })
		return near.(*net.TCPConn), <-conns
	}
	_, silent := dial()
	near, dead := dial()
	raw, err := near.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	drop := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	e := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop[0]})
	})
	if err := errors.Join(e, err); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	late := time.After(time.Minute)
	for !dead.Unanswered() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatal("the peer is taken for alive")
		}
	}
	if silent.Unanswered() {
		t.Error("a silent peer is taken for dead")
	}
}
