package kpop

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/krb5"
	"github.com/kpopd/kpopd/maildrop"
	"github.com/kpopd/kpopd/maildrop/memory"
	"github.com/kpopd/kpopd/pop3"
	"github.com/kpopd/kpopd/pop3/client"
)

const message = "Subject: a ticket\r\n\r\n.one dot\r\n"

// server is a KPOP listener whose alice has one message.
type server struct {
	*authn.Policy
	acceptor *Acceptor
	engine   *pop3.Server
	store    memory.Store
	addr     net.Addr

	mu       sync.Mutex
	log      bytes.Buffer
	attempts []*authn.Attempt
}

func (s *server) Open(ctx context.Context, id *authn.Identity) (maildrop.Drop, error) {
	return s.store.Open(ctx, maildrop.Ref{User: id.User})
}

func (s *server) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.Write(b)
}

// serve runs until the test ends.
func serve(t testing.TB, k *krb5.Acceptor, versions ...string) *server {
	t.Helper()
	s := &server{}
	s.store.Deliver("alice", message)
	trace := &authn.Trace{Attempt: func(_ context.Context, a *authn.Attempt) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.attempts = append(s.attempts, a)
	}}
	s.Policy = &authn.Policy{Name: "campus", Offers: []authn.Mechanism{Mechanism(chain)}, Trace: trace}
	s.acceptor = &Acceptor{Krb5: k, Versions: versions, Trace: trace}
	s.engine = &pop3.Server{Backend: s, MaxFailures: 20, Log: slog.New(slog.NewTextHandler(s, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr()
	ctx, cancel := context.WithCancel(context.Background())
	var sessions sync.WaitGroup
	sessions.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			sessions.Go(func() { s.session(ctx, c) })
		}
	})
	t.Cleanup(func() {
		cancel()
		l.Close()
		sessions.Wait()
	})
	return s
}

func (s *server) session(ctx context.Context, c net.Conn) {
	defer c.Close()
	transport := authn.Transport{Listener: "kpop", Session: "s1"}
	inner, peer, err := s.acceptor.Accept(ctx, c, &transport)
	if err != nil {
		return
	}
	transport.Peer = peer
	_ = s.engine.ServeConn(ctx, inner, &transport)
}

// dial shows the server a ticket and reads the greeting.
func (s *server) dial(t *testing.T, in *krb5.Initiator) *client.Client {
	t.Helper()
	c, err := net.Dial("tcp", s.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := (&Client{}).Handshake(t.Context(), c, in); err != nil {
		t.Fatal(err)
	}
	p, err := client.New(t.Context(), c, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func retrieve(t *testing.T, c *client.Client) {
	t.Helper()
	body, err := c.Retr(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(body); err != nil || string(got) != message {
		t.Errorf("message %q, %v", got, err)
	}
	if err := c.Quit(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestRule194Session(t *testing.T) {
	t.Parallel()
	k := newSite(t, 20)
	s := serve(t, k.acceptor)
	c := s.dial(t, k.initiate(t, krb5.InitOptions{Mutual: true}))
	if err := c.UserPass(t.Context(), "alice", "hunter2"); err != nil {
		t.Fatal(err)
	}
	retrieve(t, c)
	s.mu.Lock()
	defer s.mu.Unlock()
	if strings.Contains(s.log.String(), "hunter2") {
		t.Error("the log tells what PASS said")
	}
	if len(s.attempts) != 1 || s.attempts[0].Identity.Authn != "alice@EXAMPLE.TEST" {
		t.Errorf("traced %+v", s.attempts)
	}
}

func TestRule195OtherMaildropInSession(t *testing.T) {
	t.Parallel()
	k := newSite(t, 18)
	c := serve(t, k.acceptor).dial(t, k.initiate(t, krb5.InitOptions{}))
	err := c.UserPass(t.Context(), "bob", "krb_ticket")
	var se *client.ServerError
	if !errors.As(err, &se) || se.Code != "AUTH" || !strings.Contains(se.Text, "alice@EXAMPLE.TEST may not read bob") {
		t.Fatalf("refused with %v", err)
	}
	for _, line := range []string{"APOP alice 0123456789abcdef0123456789abcdef", "AUTH GSSAPI"} {
		if _, err := c.Cmd(t.Context(), line); !errors.As(err, &se) {
			t.Errorf("%s: %v", line, err)
		}
	}
	if err := c.UserPass(t.Context(), "alice", "krb_ticket"); err != nil {
		t.Errorf("after that: %v", err)
	}
}

// The identity of the ticket outlives STLS, the name given to USER does not.
func TestRule196TLSAfterTheHandshake(t *testing.T) {
	t.Parallel()
	k := newSite(t, 18)
	s := serve(t, k.acceptor)
	web := httptest.NewTLSServer(nil)
	defer web.Close()
	s.engine.StartTLS = func(ctx context.Context, c net.Conn, t *authn.Transport) (net.Conn, error) {
		tc := tls.Server(c, &tls.Config{Certificates: web.TLS.Certificates})
		if err := tc.HandshakeContext(ctx); err != nil {
			return nil, err
		}
		state := tc.ConnectionState()
		t.TLS = &state
		return tc, nil
	}
	c := s.dial(t, k.initiate(t, krb5.InitOptions{Mutual: true}))
	capa, err := c.Capa(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"USER": true, "STLS": true, "SASL": false} {
		if _, has := capa[name]; has != want {
			t.Errorf("CAPA lists %s: %v", name, has)
		}
	}
	if _, err := c.Cmd(t.Context(), "USER alice"); err != nil {
		t.Fatal(err)
	}
	if err := c.StartTLS(t.Context(), &tls.Config{InsecureSkipVerify: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Cmd(t.Context(), "PASS krb_ticket"); err == nil {
		t.Fatal("USER was remembered across STLS")
	}
	if err := c.UserPass(t.Context(), "alice", "krb_ticket"); err != nil {
		t.Fatal(err)
	}
	retrieve(t, c)
}

// A client that is turned away reads why, however much of what it has sent
// nobody has read.
func TestPipelinedRefusalsArrive(t *testing.T) {
	t.Parallel()
	k := newSite(t, 18)
	s := serve(t, k.acceptor)
	c, err := net.Dial("tcp", s.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	refused := s.engine.MaxFailures
	sent := opened(k.initiate(t, krb5.InitOptions{}).APReq) +
		strings.Repeat("USER bob\r\nPASS x\r\n", refused) + strings.Repeat("NOOP\r\n", 20_000)
	if _, err := io.WriteString(c, sent); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if err != nil {
		t.Error(err)
	}
	if n := bytes.Count(got, []byte("-ERR [AUTH]")); n != refused {
		t.Errorf("%d refusals arrived, want %d", n, refused)
	}
}
