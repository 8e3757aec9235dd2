package listen

import (
	"container/list"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// Limits are how many connections there may be at once; zero means no limit.
type Limits struct {
	Connections int // in all
	PerAddress  int // from one IPv4 address or IPv6 /64
	PreAuth     int // not logged in; the oldest makes room for a newcomer

	// DeadPeer is after how long without an answer of its network a connection is
	// given up; whole multiples of 8 s are kept exactly. 4 min when zero.
	DeadPeer time.Duration
}

// Why a connection was refused or closed.
const (
	overTotal   = "too many connections"
	overAddress = "too many connections from this address"
)

// Gate counts the connections of all listeners that share it.
type Gate struct {
	mu      sync.Mutex // guards what follows
	limits  Limits
	open    map[*Conn]struct{}
	peers   map[netip.Prefix]int
	preAuth *list.List // of *Conn, oldest first
	empty   chan struct{}
}

// NewGate returns a gate that nobody has passed.
func NewGate(l Limits) *Gate {
	return &Gate{limits: l, open: map[*Conn]struct{}{}, peers: map[netip.Prefix]int{}, preAuth: list.New()}
}

// SetLimits changes the limits for those who come later.
func (g *Gate) SetLimits(l Limits) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.limits = l
}

// Open is the number of connections.
func (g *Gate) Open() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.open)
}

// enter admits a connection or says why not. The oldest connection that has
// not logged in is put out when there are too many of them: it is the one
// that has had the most time.
func (g *Gate) enter(c net.Conn) (admitted *Conn, why string) {
	peer := network(c.RemoteAddr())
	g.mu.Lock()
	defer g.mu.Unlock()
	switch l := g.limits; {
	case l.Connections > 0 && len(g.open) >= l.Connections:
		return nil, overTotal
	case l.PerAddress > 0 && g.peers[peer] >= l.PerAddress:
		return nil, overAddress
	case l.PreAuth > 0 && g.preAuth.Len() >= l.PreAuth:
		oldest := g.preAuth.Remove(g.preAuth.Front()).(*Conn)
		oldest.waiting = nil
		oldest.displaced = true
		oldest.Close()
	}
	admitted = &Conn{Conn: c, gate: g, peer: peer, deadPeer: g.limits.DeadPeer}
	admitted.waiting = g.preAuth.PushBack(admitted)
	g.open[admitted] = struct{}{}
	g.peers[peer]++
	return admitted, ""
}

func (g *Gate) leave(c *Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.settle(c)
	delete(g.open, c)
	if g.peers[c.peer]--; g.peers[c.peer] <= 0 {
		delete(g.peers, c.peer)
	}
	if len(g.open) == 0 && g.empty != nil {
		close(g.empty)
		g.empty = nil
	}
}

// settle takes c from the list of those not logged in.
func (g *Gate) settle(c *Conn) {
	if c.waiting != nil {
		g.preAuth.Remove(c.waiting)
		c.waiting = nil
	}
}

// Empty is closed when no connection is open.
func (g *Gate) Empty() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.open) == 0 {
		done := make(chan struct{})
		close(done)
		return done
	}
	if g.empty == nil {
		g.empty = make(chan struct{})
	}
	return g.empty
}

// CloseAll ends every connection at once and reports how many there were.
func (g *Gate) CloseAll() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	for c := range g.open {
		c.Close()
	}
	return len(g.open)
}

// Conn is a connection that was admitted.
type Conn struct {
	net.Conn
	gate      *Gate
	peer      netip.Prefix
	waiting   *list.Element // in gate.preAuth; nil once logged in
	displaced bool
	deadPeer  time.Duration
}

// LoggedIn says that the client is somebody: it no longer makes room for
// others.
func (c *Conn) LoggedIn() {
	c.gate.mu.Lock()
	defer c.gate.mu.Unlock()
	c.gate.settle(c)
}

// Displaced reports whether the connection was closed to make room.
func (c *Conn) Displaced() bool {
	c.gate.mu.Lock()
	defer c.gate.mu.Unlock()
	return c.displaced
}

// NetConn is the connection below, as crypto/tls calls it.
func (c *Conn) NetConn() net.Conn { return c.Conn }

// network is what counts as one address: a customer has a whole IPv6 /64.
func network(a net.Addr) netip.Prefix {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Prefix{} // no IP: all of these count as one
	}
	ip, bits := ap.Addr().Unmap(), 32
	if ip.Is6() {
		bits = 64
	}
	p, err := ip.WithZone("").Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

const (
	reservedFiles   = 64 // for listeners, logs, keytab, users files, certificates
	filesPerSession = 3  // a socket, a lock, a message that is being sent
)

// MaxConnections is how many connections the limit on open files leaves room
// for.
func MaxConnections() int {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 1024 / filesPerSession
	}
	const most = 1 << 20
	return (int(max(min(l.Cur, most), 2*reservedFiles)) - reservedFiles) / filesPerSession
}
