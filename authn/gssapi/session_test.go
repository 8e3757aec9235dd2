package gssapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/krb5"
	"github.com/kpopd/kpopd/krb5test"
	"github.com/kpopd/kpopd/maildrop"
	"github.com/kpopd/kpopd/maildrop/memory"
	"github.com/kpopd/kpopd/pop3"
	"github.com/kpopd/kpopd/pop3/client"
)

// backend lets one client in by GSSAPI, to a maildrop of memory.
type backend struct {
	*authn.Policy
	store memory.Store
}

func (b *backend) Open(ctx context.Context, id *authn.Identity) (maildrop.Drop, error) {
	return b.store.Open(ctx, maildrop.Ref{User: id.User})
}

// session is a POP3 session with m, over TCP.
func session(t testing.TB, m *Mechanism, o *client.Options) (*client.Client, *backend) {
	t.Helper()
	b := &backend{Policy: &authn.Policy{Name: "test", Offers: []authn.Mechanism{m}}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan struct{})
	go func() { // ends with the connection
		defer close(served)
		_ = (&pop3.Server{Backend: b}).ServeConn(ctx, s, &authn.Transport{})
		s.Close()
	}()
	t.Cleanup(func() { cancel(); c.Close(); <-served })
	p, err := client.New(t.Context(), c, o)
	if err != nil {
		t.Fatal(err)
	}
	return p, b
}

// TestRule135Session: the layer begins after the CRLF of +OK, and a message
// of any size comes through it.
func TestRule135Session(t *testing.T) {
	t.Parallel()
	s := newSite(t, 20)
	text := "Subject: long\r\n\r\n" + strings.Repeat(strings.Repeat("x", 70)+"\r\n", 20_000)
	for _, layer := range []Layers{None, Integrity, Privacy} {
		for _, long := range []bool{false, true} {
			for _, size := range []int{1024, 0} {
				t.Run(fmt.Sprintf("layer %d, long initial response %v, tokens of %d", layer, long, size), func(t *testing.T) {
					t.Parallel()
					m := &Mechanism{Acceptor: s.acceptor, Chain: chain, Layers: None | Integrity | Privacy}
					c, b := session(t, m, &client.Options{LongInitial: long})
					b.store.Deliver("alice", text)
					ctx := t.Context()
					if err := c.Auth(ctx, s.newClient(t, Options{Mutual: true, Layers: layer, MaxToken: size})); err != nil {
						t.Fatal(err)
					}
					body, err := c.Retr(ctx, 1)
					if err != nil {
						t.Fatal(err)
					}
					if got, err := io.ReadAll(body); err != nil || string(got) != text {
						t.Errorf("%d octets, %v", len(got), err)
					}
					if n, _, err := c.Stat(ctx); n != 1 || err != nil {
						t.Errorf("then STAT %d, %v", n, err)
					}
					if err := c.Quit(ctx); err != nil {
						t.Error(err)
					}
				})
			}
		}
	}
}

// What the client is told, in the words that its user sees.
func TestRefusalTexts(t *testing.T) {
	t.Parallel()
	s := newSite(t, 18)
	m := &Mechanism{Acceptor: s.acceptor, Chain: chain}
	c, _ := session(t, m, nil)
	var se *client.ServerError
	err := c.Auth(t.Context(), s.newClient(t, Options{Authzid: "bob"}))
	if !errors.As(err, &se) || se.Code != "AUTH" || se.Text != "alice@EXAMPLE.TEST may not read bob" {
		t.Errorf("other maildrop: %v", err)
	}
	used := s.newClient(t, Options{})
	if _, _, err := login(t, m, &authn.Transport{}, s.again(t, used)); err != nil {
		t.Fatal(err)
	}
	if err = c.Auth(t.Context(), used); !errors.As(err, &se) || se.Code != "AUTH" || se.Text == "" {
		t.Errorf("replay: %v", err)
	}
	if err = c.Auth(t.Context(), s.newClient(t, Options{})); err != nil {
		t.Errorf("after that: %v", err)
	}
}

// again is a second client with the same ticket and authenticator.
func (s *site) again(t *testing.T, c *Client) *Client {
	t.Helper()
	twin, err := newClient(c.in, c.o)
	if err != nil {
		t.Fatal(err)
	}
	return twin
}

// TestTicketFromKDC is the whole way of a client: password, tickets, login.
func TestTicketFromKDC(t *testing.T) {
	t.Parallel()
	kdc := krb5test.NewKDC("EXAMPLE.TEST")
	kdc.AddUser("alice", "pw-alice")
	kdc.AddService("pop/localhost")
	if err := kdc.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = kdc.Close() })
	kc, err := krb5.NewClient(kdc.Krb5Conf(), "alice", "EXAMPLE.TEST", authn.Password("pw-alice"))
	if err != nil {
		t.Fatal(err)
	}
	defer kc.Close()
	c, err := NewClient(t.Context(), kc, "pop/localhost", Options{Mutual: true})
	if err != nil {
		t.Fatal(err)
	}
	p, _ := session(t, &Mechanism{Acceptor: acceptorOf(t, kdc), Chain: chain}, nil)
	if err := p.Auth(t.Context(), c); err != nil {
		t.Error(err)
	}
	if _, err := NewClient(t.Context(), kc, "imap/localhost", Options{}); err == nil {
		t.Error("a ticket for a service that is not there")
	}
}

// BenchmarkLogin is the exchange of both sides, without a network.
func BenchmarkLogin(b *testing.B) {
	for _, mutual := range []bool{false, true} {
		b.Run(fmt.Sprintf("mutual=%v", mutual), func(b *testing.B) {
			s := newSite(b, 20)
			m := &Mechanism{Acceptor: s.acceptor, Chain: chain}
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := login(b, m, &authn.Transport{}, s.newClient(b, Options{Mutual: mutual})); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkSession is connect, login, STAT, QUIT over TCP, each a round trip,
// with a ticket that is there and the client in the same process.
func BenchmarkSession(b *testing.B) {
	s := newSite(b, 20)
	m := &Mechanism{Acceptor: s.acceptor, Chain: chain}
	b.ReportAllocs()
	for b.Loop() {
		c, _ := session(b, m, nil)
		if err := c.Auth(b.Context(), s.newClient(b, Options{Mutual: true})); err != nil {
			b.Fatal(err)
		}
		if _, _, err := c.Stat(b.Context()); err != nil {
			b.Fatal(err)
		}
		if err := c.Quit(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
