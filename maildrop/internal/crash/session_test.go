package crash

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/plain"
	"github.com/kpopd/kpopd/maildrop"
	"github.com/kpopd/kpopd/pop3"
	"github.com/kpopd/kpopd/pop3/client"
)

// anyone may log in.
type anyone struct{}

func (anyone) Name() string { return "anyone" }

func (anyone) VerifyPassword(_ context.Context, r *authn.PasswordRequest) (*authn.Identity, error) {
	return &authn.Identity{User: r.Login}, nil
}

type backend struct {
	*authn.Policy
	store maildrop.Store
}

func (b *backend) Open(ctx context.Context, id *authn.Identity) (maildrop.Drop, error) {
	return b.store.Open(ctx, maildrop.Ref{User: id.User})
}

// session is the process that is killed and whose calls fail: one session that
// reads the whole maildrop and removes every second message.
func session(s store, root string, l *ledger) {
	st, err := s.open(root)
	if err != nil {
		l.say("stopped", err) // the server does not start, and says why
		return
	}
	before := descriptors()
	visit(st, l, func(i int) bool { return i%2 == 1 })
	l.say("leaked", descriptors()-before)
}

// descriptors counts this process's, by calls that no test makes fail.
func descriptors() (n int) {
	for fd := range 256 {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
			n++
		}
	}
	return n
}

// visit serves one session to a client that reads all and removes what pick
// says, by index. It says to the ledger what came of each command:
//
//	login, read, quit: what the server said, "+OK" or its error
//	mail N UID: message N was read whole and has this unique-id
//	marked N, quitting: before DELE and QUIT are sent
//	broke: the connection ended without an answer
func visit(st maildrop.Store, l *ledger, pick func(i int) bool) (well bool) {
	everywhere := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	srv := &pop3.Server{Backend: &backend{
		&authn.Policy{
			Name: "test", Plain: authn.PlainTrusted, Trusted: everywhere,
			Offers: []authn.Mechanism{plain.USER(authn.Chain{{Verifier: anyone{}}}, false)},
		}, st,
	}}
	here, there := net.Pipe()
	ended := make(chan bool, 1)
	go func() {
		ended <- talk(here, l, pick)
		here.Close()
	}()
	t := &authn.Transport{Session: "s1", Listener: "test", Remote: netip.MustParseAddrPort("127.0.0.1:1")}
	_ = srv.ServeConn(context.Background(), there, t) // what it says is in the replies
	return <-ended
}

// talk is the client.
func talk(conn net.Conn, l *ledger, pick func(i int) bool) (well bool) {
	ctx := context.Background()
	c, err := client.New(ctx, conn, nil)
	if err != nil {
		return tell(l, "login", err)
	}
	if !tell(l, "login", c.UserPass(ctx, user, "secret")) {
		return false
	}
	ids, err := c.UIDL(ctx)
	if err != nil {
		return tell(l, "read", err)
	}
	well = true
	for i, id := range ids {
		n, err := retrieve(ctx, c, id.Number)
		if !tell(l, "read", err) {
			if well = false; !answered(err) {
				return false
			}
			continue
		}
		l.say("mail", n, id.UID)
		if !pick(i) {
			continue
		}
		l.say("marked", n)
		if err := c.Dele(ctx, id.Number); err != nil {
			return tell(l, "read", err)
		}
	}
	l.say("quitting")
	return tell(l, "quit", c.Quit(ctx)) && well
}

func retrieve(ctx context.Context, c *client.Client, i int) (n int, err error) {
	r, err := c.Retr(ctx, i)
	if err != nil {
		return 0, err
	}
	text, err := io.ReadAll(r)
	if err != nil {
		return 0, err
	}
	if n = numberOf(string(text)); n == 0 {
		return 0, fmt.Errorf("message %d is none that was delivered: %.200q", i, text)
	}
	return n, nil
}

func answered(err error) bool {
	var refusal *client.ServerError
	return errors.As(err, &refusal)
}

func tell(l *ledger, what string, err error) (well bool) {
	switch {
	case err == nil:
		l.say(what, "+OK")
	case answered(err):
		l.say(what, err)
	default:
		l.say("broke", what, err)
	}
	return err == nil
}
