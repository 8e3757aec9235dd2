package pop3

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/maildrop"
	"github.com/kpopd/kpopd/maildrop/memory"
)

// ticket is the mechanism of a KPOP connection: alice's ticket was shown, and
// the one response is the name given to USER. greedy tickets ask for more.
type ticket struct{ greedy bool }

func (ticket) Name() string         { return "KPOP" }
func (ticket) Traits() authn.Traits { return authn.Command | authn.NeedsPeer }
func (k ticket) Start(context.Context, *authn.Transport) (authn.Exchange, error) {
	return k, nil
}
func (ticket) Identity() *authn.Identity { return &authn.Identity{User: "alice"} }
func (k ticket) Next(_ context.Context, response []byte) ([]byte, bool, error) {
	if k.greedy {
		return []byte("more"), false, nil
	}
	if string(response) != "alice" {
		return nil, false, &authn.Error{Kind: authn.Denied, Step: "KPOP", Text: "alice@R may not read " + string(response)}
	}
	return nil, true, nil
}

// talkKPOP serves a session of a client that has shown a ticket.
func talkKPOP(t *testing.T, m authn.Mechanism) *peer {
	client, server := net.Pipe()
	p := &peer{t: t, Conn: client, done: make(chan error, 1)}
	p.r = bufio.NewReader(client)
	srv := &Server{Backend: newBackend(&memory.Store{}, m)}
	go func() { // ends when client is closed
		p.done <- srv.ServeConn(t.Context(), server, &authn.Transport{Remote: anywhere, Peer: &authn.Principal{}})
	}()
	t.Cleanup(func() { client.Close() })
	p.want("+OK kpopd ready")
	return p
}

// TestTicket: on a KPOP connection PASS and RPOP need no argument and look at
// none, and a refusal says why.
func TestTicket(t *testing.T) {
	t.Parallel()
	for _, pass := range []string{"PASS", "PASS ", "PASS krb_ticket", "RPOP alice", "rpop", "PASS  a b  "} {
		p := talkKPOP(t, ticket{})
		p.say("USER bob", pass, "USER alice", pass, "QUIT")
		p.want("+OK")
		p.want("-ERR [AUTH] alice@R may not read bob")
		p.want("+OK")
		p.want("+OK 0 messages")
		p.want("+OK Bye")
		p.ended()
	}
}

// TestCommandsAreOneStep: PASS and APOP cannot carry a challenge; a mechanism
// that wants to send one is broken, and the client is not to blame.
func TestCommandsAreOneStep(t *testing.T) {
	t.Parallel()
	p := talkKPOP(t, ticket{greedy: true})
	p.say("USER alice", "PASS", "QUIT")
	p.want("+OK")
	p.want("-ERR [SYS/TEMP]")
	p.want("+OK Bye")
	p.ended()
}

// TestRPOPElsewhere: without a ticket there is no such command.
func TestRPOPElsewhere(t *testing.T) {
	t.Parallel()
	p := talk(t, &Server{Backend: newBackend(&memory.Store{})})
	p.want("+OK")
	p.say("USER alice", "RPOP "+word, "QUIT")
	p.want("+OK")
	p.want("-ERR Unknown command")
	p.want("+OK Bye")
	p.ended()
}

// TestHangupDuringRetr: a client that goes in the middle of a message frees
// the maildrop, in either form of the message.
func TestHangupDuringRetr(t *testing.T) {
	t.Parallel()
	for _, wire := range []bool{false, true} {
		drop := &endless{m: maildrop.Message{Size: 1 << 40, WireForm: wire}, size: 1 << 40}
		srv, done := traced(&Server{Backend: newBackend(openAs(drop))})
		p := talk(t, srv)
		p.login("alice")
		p.say("RETR 1", "DELE 1", "QUIT")
		p.want("+OK")
		io.CopyN(io.Discard, p.r, 1<<20)
		p.Close()
		if err := p.ended(); err != nil {
			t.Error(err)
		}
		if d := <-done; d.Reason != Hangup || !drop.closed.Load() || drop.removed.Load() != 0 || d.Retrieved != 0 {
			t.Errorf("%+v, closed %v", d, drop.closed.Load())
		}
	}
}

// TestSilentTLS: a client that connects and says nothing is cut in time, also
// when its handshake was left to the first write.
func TestSilentTLS(t *testing.T) {
	t.Parallel()
	cfg := certificate(t)
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		p := serve(t, &Server{Backend: newBackend(&memory.Store{})}, client, tls.Server(server, cfg))
		start := time.Now()
		io.Copy(io.Discard, p.r)
		p.ended()
		if d := time.Since(start); d > time.Minute+5*time.Second { // the goodbye of TLS takes up to 5 s
			t.Errorf("took %v", d)
		}
	})
}

// TestRefusalArrives: a client that goes on talking still gets to read why it
// was cut.
func TestRefusalArrives(t *testing.T) {
	t.Parallel()
	for range 20 {
		client, server := loopback(t)
		p := serve(t, &Server{Backend: newBackend(&memory.Store{})}, client, server)
		if _, err := io.WriteString(client, "GET / HTTP/1.1\r\n"+strings.Repeat("X-Header: y\r\n", 20_000)); err != nil {
			t.Fatal(err)
		}
		all, err := io.ReadAll(p.r)
		if err != nil || !bytes.HasSuffix(all, []byte("-ERR This is a POP3 server\r\n")) {
			t.Fatalf("read %q, %v", all, err)
		}
		p.Close()
		p.ended()
	}
}
