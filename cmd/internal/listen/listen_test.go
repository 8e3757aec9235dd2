package listen

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv("LISTEN_TEST_FILES") != "" {
		os.Exit(exhaust())
	}
	goleak.VerifyTestMain(m)
}

// logs is a log that a test can read while it is written.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

type server struct {
	*Listener
	log *logs
}

// start serves handle on a free loopback port.
func start(t *testing.T, limits Limits, handle func(context.Context, *Conn)) *server {
	t.Helper()
	s := &server{log: &logs{}}
	s.Listener = &Listener{
		Name: "test", Gate: NewGate(limits), Handle: handle, Panics: new(atomic.Int64),
		Log: slog.New(slog.NewTextHandler(s.log, nil)), Refusal: func() []byte { return []byte("-ERR full\r\n") },
	}
	// Nobody else is at this address: at 127.0.0.1 another program may get the
	// port of a socket that was closed, and a client may even get itself.
	if err := s.Bind(t.Context(), "127.0.87.1:0"); err != nil {
		t.Fatal(err)
	}
	s.Start(t.Context())
	t.Cleanup(func() {
		s.Close()
		s.Gate.CloseAll()
		<-s.Gate.Empty()
	})
	return s
}

// dial connects and waits for the handler's greeting, "hi\n".
func (s *server) dial(t *testing.T) (net.Conn, string) {
	t.Helper()
	c, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, line(c)
}

func line(c net.Conn) string {
	c.SetReadDeadline(time.Now().Add(time.Minute))
	var b strings.Builder
	one := make([]byte, 1)
	for !strings.HasSuffix(b.String(), "\n") {
		if _, err := io.ReadFull(c, one); err != nil {
			return b.String()
		}
		b.Write(one)
	}
	return b.String()
}

// greet says hi and stays until the client or the gate ends it.
func greet(_ context.Context, c *Conn) {
	io.WriteString(c, "hi\n")
	io.Copy(io.Discard, c)
}

func TestTotalAndPerAddress(t *testing.T) {
	t.Parallel()
	for name, l := range map[string]Limits{"total": {Connections: 2}, "per address": {PerAddress: 2}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, l, greet)
			first, _ := s.dial(t)
			s.dial(t)
			if _, got := s.dial(t); got != "-ERR full\r\n" {
				t.Errorf("the third is told %q", got)
			}
			first.Close()
			for got := ""; got != "hi\n"; { // until the first has left
				_, got = s.dial(t)
			}
		})
	}
}

// The oldest connection that has not logged in makes room; one that has stays.
func TestPreAuthDropsTheOldest(t *testing.T) {
	t.Parallel()
	s := start(t, Limits{PreAuth: 2}, func(ctx context.Context, c *Conn) {
		io.WriteString(c, "hi\n")
		one := make([]byte, 1)
		for {
			if _, err := c.Read(one); err != nil {
				return
			}
			c.LoggedIn()
			io.WriteString(c, "in\n")
		}
	})
	member, _ := s.dial(t)
	io.WriteString(member, "x")
	if got := line(member); got != "in\n" {
		t.Fatal(got)
	}
	oldest, _ := s.dial(t)
	younger, _ := s.dial(t)
	s.dial(t)
	if got := line(oldest); got != "" {
		t.Errorf("the oldest is told %q", got)
	}
	for _, c := range []net.Conn{member, younger} {
		io.WriteString(c, "x")
		if got := line(c); got != "in\n" {
			t.Errorf("a connection that should stay answers %q", got)
		}
	}
}

func TestPanicEndsOneSession(t *testing.T) {
	t.Parallel()
	s := start(t, Limits{}, func(ctx context.Context, c *Conn) {
		io.WriteString(c, "hi\n")
		one := make([]byte, 1)
		c.Read(one)
		if one[0] == '!' {
			panic("boom")
		}
		io.WriteString(c, "ok\n")
	})
	bad, _ := s.dial(t)
	good, _ := s.dial(t)
	io.WriteString(bad, "!")
	if got := line(bad); got != "" {
		t.Errorf("after the panic: %q", got)
	}
	io.WriteString(good, "x")
	if got := line(good); got != "ok\n" {
		t.Errorf("the other session: %q", got)
	}
	if s.Panics.Load() != 1 || !strings.Contains(s.log.String(), "boom") || !strings.Contains(s.log.String(), "listen_test.go") {
		t.Errorf("%d panics, log:\n%s", s.Panics.Load(), s.log)
	}
}

func TestCloseKeepsConnections(t *testing.T) {
	t.Parallel()
	s := start(t, Limits{}, func(ctx context.Context, c *Conn) {
		io.WriteString(c, "hi\n")
		io.Copy(c, c)
	})
	c, _ := s.dial(t)
	s.Listener.Close()
	if _, err := net.Dial("tcp", s.Addr().String()); err == nil {
		t.Error("still listening")
	}
	io.WriteString(c, "there?\n")
	if got := line(c); got != "there?\n" {
		t.Errorf("the open session answers %q", got)
	}
	select {
	case <-s.Gate.Empty():
		t.Error("empty with a session open")
	default:
	}
	c.Close()
	<-s.Gate.Empty()
}

// A child that has not yet executed its program has a copy of the socket.
func TestCloseThoughSomeoneHasACopy(t *testing.T) {
	t.Parallel()
	s := start(t, Limits{}, greet)
	held, err := s.socket.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	s.Listener.Close()
	if _, err := net.Dial("tcp", s.Addr().String()); err == nil {
		t.Error("still listening")
	}
	again, err := net.Listen("tcp", s.Addr().String())
	if err != nil {
		t.Fatalf("the address is not free: %v", err)
	}
	again.Close()
	if s.log.String() != "" {
		t.Errorf("the log says %s", s.log)
	}
}

// An address is one IPv4 address or one IPv6 /64.
func TestNetwork(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]string{
		"192.0.2.1:5":            "192.0.2.1/32",
		"[::ffff:192.0.2.1]:5":   "192.0.2.1/32",
		"[2001:db8:1:2:3::4]:5":  "2001:db8:1:2::/64",
		"[fe80::1%eth0]:5":       "fe80::/64",
		"[2001:db8:1:2:ffff::]:": "invalid Prefix",
	} {
		if got := network(address(addr)).String(); got != want {
			t.Errorf("%s counts as %s, want %s", addr, got, want)
		}
	}
	var _ netip.Prefix = network(address("pipe"))
}

type address string

func (a address) Network() string { return "tcp" }
func (a address) String() string  { return string(a) }

// With 24 file descriptors a server that is asked for more neither ends nor
// spins, and serves again when some are free. It runs in a process of its own,
// because the limit is the process's.
func TestOutOfFileDescriptors(t *testing.T) {
	t.Parallel()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), "LISTEN_TEST_FILES=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	addr := make([]byte, 64)
	n, err := out.Read(addr)
	if err != nil {
		t.Fatal(err)
	}
	var held []net.Conn
	shed := false
	for range 64 {
		c, err := net.Dial("tcp", string(addr[:n]))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		held = append(held, c)
		if line(c) == "" {
			shed = true
			break
		}
	}
	if !shed {
		t.Error("64 connections fit into 24 file descriptors")
	}
	for _, c := range held {
		c.Close()
	}
	for got, deadline := "", time.Now().Add(time.Minute); got != "hi\n"; {
		if time.Now().After(deadline) {
			t.Fatal("not served again")
		}
		c, err := net.Dial("tcp", string(addr[:n]))
		if err != nil {
			t.Fatal(err)
		}
		got = line(c)
		c.Close()
	}
	in.Close()
	log, err := io.ReadAll(out)
	if err != nil || cmd.Wait() != nil {
		t.Error(err)
	}
	if n := bytes.Count(log, []byte("out of file descriptors")); n == 0 || n > 50 {
		t.Errorf("the log tells it %d times", n)
	}
}

// exhaust serves with few file descriptors until its input ends.
func exhaust() int {
	limit := syscall.Rlimit{Cur: 24, Max: 24}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 2
	}
	l := &Listener{
		Name: "test", Gate: NewGate(Limits{}), Handle: greet, Panics: new(atomic.Int64),
		Log: slog.New(slog.NewTextHandler(os.Stdout, nil)),
	}
	if err := l.Bind(context.Background(), "127.0.0.1:0"); err != nil {
		return 2
	}
	os.Stdout.WriteString(l.Addr().String())
	l.Start(context.Background())
	io.Copy(io.Discard, os.Stdin)
	if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return 1
	}
	return 0
}

func TestMaxConnections(t *testing.T) {
	t.Parallel()
	if n := MaxConnections(); n < 16 {
		t.Errorf("room for %d connections", n)
	}
}
