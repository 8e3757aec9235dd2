package pop3

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/plain"
	"github.com/kpopd/kpopd/maildrop"
	"github.com/kpopd/kpopd/maildrop/memory"
)

var (
	anywhere   = netip.MustParseAddrPort("192.0.2.1:40000")
	everywhere = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
)

// word is the password of every user of the tests.
const word = "correct horse"

// anyone vouches for every login whose password is word.
type anyone struct{}

func (anyone) Name() string { return "anyone" }

func (anyone) VerifyPassword(_ context.Context, r *authn.PasswordRequest) (*authn.Identity, error) {
	if string(r.Password) != word {
		return nil, &authn.Error{Kind: authn.Rejected, Step: "anyone", Err: errors.New("wrong password")}
	}
	return &authn.Identity{User: r.Login}, nil
}

// fakeBackend is a policy and a store.
type fakeBackend struct {
	*authn.Policy
	store maildrop.Store
}

func (b *fakeBackend) Open(ctx context.Context, id *authn.Identity) (maildrop.Drop, error) {
	return b.store.Open(ctx, maildrop.Ref{User: id.User})
}

// newBackend offers USER and PLAIN, and what else it is given, to everyone.
func newBackend(store maildrop.Store, more ...authn.Mechanism) *fakeBackend {
	offers := append(newOffers(authn.Chain{{Verifier: anyone{}}}), more...)
	return &fakeBackend{&authn.Policy{Name: "test", Offers: offers, Plain: authn.PlainTrusted, Trusted: everywhere}, store}
}

func newOffers(chain authn.Chain) []authn.Mechanism {
	return []authn.Mechanism{plain.USER(chain, false), plain.PLAIN(chain)}
}

// talk serves one session on a pipe, and ends it with the test.
func talk(t testing.TB, srv *Server) *peer {
	t.Helper()
	client, server := net.Pipe()
	return serve(t, srv, client, server)
}

func serve(t testing.TB, srv *Server, client, server net.Conn) *peer {
	t.Helper()
	p := &peer{t: t, Conn: client, r: bufio.NewReader(client), done: make(chan error, 1)}
	go func() { // ends when client is closed
		p.done <- srv.ServeConn(t.Context(), server, &authn.Transport{Session: "s1", Listener: "test", Remote: anywhere})
	}()
	t.Cleanup(func() { client.Close() })
	return p
}

// peer is the other end of a session.
type peer struct {
	net.Conn
	t    testing.TB
	r    *bufio.Reader
	done chan error // result of ServeConn
}

// say sends lines in one write. It does not wait for it to end: a pipe has no
// buffer, and the server may be writing.
func (p *peer) say(lines ...string) {
	p.t.Helper()
	text := strings.Join(lines, "\r\n") + "\r\n"
	go p.Write([]byte(text)) // ends when the server read it, or closed the pipe
}

// line reads one line without its end.
func (p *peer) line() string {
	p.t.Helper()
	s, err := p.r.ReadString('\n')
	if err != nil {
		p.t.Fatalf("read: %v after %q", err, s)
	}
	return strings.TrimSuffix(s, "\r\n")
}

// want reads a line and checks how it starts.
func (p *peer) want(prefix string) {
	p.t.Helper()
	if got := p.line(); !strings.HasPrefix(got, prefix) {
		p.t.Fatalf("got %q, want %q...", got, prefix)
	}
}

// login reads the greeting and logs in.
func (p *peer) login(user string) {
	p.t.Helper()
	p.want("+OK")
	p.say("USER "+user, "PASS "+word)
	p.want("+OK")
	p.want("+OK")
}

// ended waits for the session's end.
func (p *peer) ended() error {
	p.t.Helper()
	return <-p.done
}

func TestSession(t *testing.T) {
	t.Parallel()
	var store memory.Store
	store.Deliver("alice", "Subject: one\n\n.dot\nlast")
	store.Deliver("alice", "")
	p := talk(t, &Server{Backend: newBackend(&store)})
	p.login("alice")
	p.say("STAT", "LIST", "RETR 1", "TOP 1 1", "RETR 2", "DELE 1", "UIDL", "QUIT")
	want := `+OK 2 28
+OK 2 messages (28 octets)
1 28
2 0
.
+OK 28 octets
Subject: one

..dot
last
.
+OK Top of message follows
Subject: one

..dot
.
+OK 0 octets
.
+OK Marked as deleted
+OK 1 messages (0 octets)
2 2
.
+OK Bye`
	for _, l := range strings.Split(want, "\n") {
		if got := p.line(); got != l {
			t.Errorf("got %q, want %q", got, l)
		}
	}
	if err := p.ended(); err != nil {
		t.Error(err)
	}
}
