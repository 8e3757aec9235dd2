package listen

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// deadPeer is the zero value of [Limits.DeadPeer].
const deadPeer = 4 * time.Minute

// keepAlive finds out after d that a peer has gone: half of d without a word,
// then four probes.
func keepAlive(d time.Duration) net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: d / 2, Interval: d / 8, Count: 4}
}

// keepAlive bounds for how long a peer that has gone keeps the connection, with
// octets on the way to him too, for which the kernel would try a quarter of an
// hour. A connection that is no TCP, or gone already, has nothing to bound.
func (c *Conn) keepAlive() {
	t, ok := c.Conn.(*net.TCPConn)
	if !ok {
		return
	}
	d := c.deadPeer
	if d == 0 {
		d = deadPeer
	}
	if d != deadPeer { // else as the listener has it
		_ = t.SetKeepAliveConfig(keepAlive(d))
	}
	if raw, err := t.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
		})
	}
}

// Unanswered reports whether the peer's network has left two probes or two
// retransmissions without an answer. A client that is there and reads slowly
// answers both.
func (c *Conn) Unanswered() bool {
	t, ok := c.Conn.(*net.TCPConn)
	if !ok {
		return false
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return false
	}
	var info *unix.TCPInfo
	if e := raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }); e != nil || err != nil {
		return false // it is closed
	}
	return info.Probes >= 2 || info.Retransmits >= 2
}
