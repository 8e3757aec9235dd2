package ldap

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-ldap/ldap/v3"
)

const (
	maxReply = 4 << 20         // octets that a server may send in answer to one request
	maxIdle  = 1 * time.Minute // after which a connection is not trusted to be there still
)

// server is one of a directory.
type server struct {
	url      string // as configured
	network  string
	addr     string
	scheme   string
	tls      *tls.Config
	searches pool // bound as the verifier
	binds    pool // bound as users
}

// newServer takes a URL apart.
func newServer(text string) (*server, error) {
	if host, ok := strings.CutPrefix(text, "ldapi://"); ok {
		// to net/url a host with an escaped slash is none
		path, err := url.PathUnescape(host)
		if err != nil || !strings.HasPrefix(path, "/") {
			return nil, fmt.Errorf("%q is no unix socket; write ldapi://%%2Frun%%2Fslapd%%2Fldapi", text)
		}
		return &server{url: text, scheme: "ldapi", network: "unix", addr: path}, nil
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, err
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Path != "" && u.Path != "/":
		return nil, fmt.Errorf("%q has more than a scheme and a host", text)
	}
	port, known := map[string]string{"ldaps": ldap.DefaultLdapsPort, "ldap": ldap.DefaultLdapPort}[u.Scheme]
	if !known || u.Hostname() == "" {
		return nil, fmt.Errorf("%q is neither ldaps://host, ldap://host nor ldapi://path", text)
	}
	return &server{url: text, scheme: u.Scheme, network: "tcp", addr: net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), port))}, nil
}

// prepare gives a server what its connections need. identify is the verifier's
// own bind.
func (s *server) prepare(c *tls.Config, connections int, identify bindFunc) {
	if s.network == "tcp" && c != nil {
		s.tls = c.Clone()
		s.tls.ServerName, _, _ = net.SplitHostPort(s.addr)
	}
	s.searches.slots = make(chan struct{}, connections)
	s.searches.dial = func(ctx context.Context) (*conn, error) { return s.connect(ctx, identify) }
	s.binds.slots = make(chan struct{}, connections)
	s.binds.dial = func(ctx context.Context) (*conn, error) { return s.connect(ctx, nil) }
}

// connect makes a connection, with TLS where it is not a unix socket.
func (s *server) connect(ctx context.Context, identify bindFunc) (*conn, error) {
	raw, err := (&net.Dialer{}).DialContext(ctx, s.network, s.addr)
	if err != nil {
		return nil, err
	}
	c := &conn{raw: &metered{Conn: raw}}
	c.raw.left.Store(maxReply)
	if s.scheme == "ldaps" {
		t := tls.Client(c.raw, s.tls)
		if err := t.HandshakeContext(ctx); err != nil {
			raw.Close()
			return nil, fmt.Errorf("TLS: %w", err)
		}
		c.l = ldap.NewConn(t, true)
	} else {
		c.l = ldap.NewConn(c.raw, false)
	}
	c.l.Start()
	defer func() {
		if c.lost {
			c.close()
		}
	}()
	return c, s.open(ctx, c, identify)
}

// open starts TLS and binds, where that is asked for. The connection is lost when
// an error is returned.
func (s *server) open(ctx context.Context, c *conn, identify bindFunc) error {
	if s.scheme == "ldap" {
		if err := c.do(ctx, func(l *ldap.Conn) error { return l.StartTLS(s.tls) }); err != nil {
			c.lost = true
			return fmt.Errorf("StartTLS: %w", err)
		}
	}
	if identify != nil {
		host, _, _ := net.SplitHostPort(s.addr)
		if err := c.do(ctx, func(l *ldap.Conn) error { return identify(ctx, host, l) }); err != nil {
			c.lost = true
			return fmt.Errorf("bind as the verifier: %w", err)
		}
	}
	return nil
}

// conn is a connection that does one thing at a time.
type conn struct {
	raw  *metered
	l    *ldap.Conn
	lost bool      // must not be used again
	idle time.Time // since when, in a pool
}

// do runs f, which returns when ctx ends: its socket is closed under it then.
func (c *conn) do(ctx context.Context, f func(*ldap.Conn) error) error {
	c.raw.left.Store(maxReply)
	c.lost = true // also when f panics
	stop := context.AfterFunc(ctx, func() { c.raw.Close() })
	err := f(c.l)
	inTime := stop()
	c.lost = !inTime || !answered(err)
	if err != nil && !inTime {
		return fmt.Errorf("no answer in time: %w", context.Cause(ctx))
	}
	return err
}

// close does not wait for the other side.
func (c *conn) close() {
	c.raw.Close()
	c.l.Close()
}

// answered reports whether a server answered, with a refusal or not: everything
// else leaves a connection in a state that nobody knows.
func answered(err error) bool {
	var e *ldap.Error
	return err == nil || errors.As(err, &e) && e.ResultCode < ldap.LDAPResultServerDown
}

// elsewhere reports whether a server answered that another should be asked.
func elsewhere(err error) bool {
	return ldap.IsErrorAnyOf(err, ldap.LDAPResultBusy, ldap.LDAPResultUnavailable)
}

// metered is a connection that does not bring more than it may.
type metered struct {
	net.Conn
	left atomic.Int64
}

var errTooLong = fmt.Errorf("more than %d octets in answer to one request", maxReply)

func (m *metered) Read(p []byte) (int, error) {
	if m.left.Load() <= 0 {
		return 0, errTooLong
	}
	n, err := m.Conn.Read(p)
	m.left.Add(-int64(n))
	return n, err
}

// pool is connections that are bound alike.
type pool struct {
	dial  func(context.Context) (*conn, error)
	slots chan struct{} // one for each connection in use

	mu     sync.Mutex // guards what follows
	idle   []*conn    // the one used last is the last
	closed bool
}

// with runs f on a connection. An error that is no answer of the server's is a
// [downError].
func (p *pool) with(ctx context.Context, f func(*ldap.Conn) error) error {
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return &downError{fmt.Errorf("every connection is in use: %w", context.Cause(ctx)), true}
	}
	defer func() { <-p.slots }()
	if c := p.take(); c != nil {
		// the server may have closed it meanwhile: then a new one is asked
		err := p.use(ctx, c, f)
		if answered(err) && !elsewhere(err) {
			return err
		}
		if ctx.Err() != nil || elsewhere(err) {
			return &downError{err: err}
		}
	}
	c, err := p.dial(ctx)
	if err != nil {
		return &downError{err: err} // and no connection
	}
	if err = p.use(ctx, c, f); !answered(err) || elsewhere(err) {
		return &downError{err: err}
	}
	return err
}

func (p *pool) use(ctx context.Context, c *conn, f func(*ldap.Conn) error) error {
	defer p.put(c)
	return c.do(ctx, f)
}

// take returns an idle connection, or nil.
func (p *pool) take() *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	for n := len(p.idle); n > 0; n = len(p.idle) {
		c := p.idle[n-1]
		p.idle = p.idle[:n-1]
		if time.Since(c.idle) < maxIdle && !c.l.IsClosing() {
			return c
		}
		c.close()
	}
	return nil
}

func (p *pool) put(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.lost || p.closed {
		c.close()
		return
	}
	c.idle = time.Now()
	p.idle = append(p.idle, c)
}

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, c := range p.idle {
		c.close()
	}
	p.idle = nil
}
