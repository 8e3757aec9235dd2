package remote

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/kpopd/kpopd/authn"
)

// patience is how long a test waits for what should happen at once.
const patience = time.Minute

var everything = []Proof{Passwords, Secrets, Principals, Tickets, Users}

// helper is a server that a test can stop and start again.
type helper struct {
	t      *testing.T
	socket string
	server *Server
	stop   func()
}

// serve starts a helper whose socket is in a directory of its own, as a name of
// t.TempDir may be too long for one.
func serve(t *testing.T, j *Judge) *helper {
	t.Helper()
	dir, err := os.MkdirTemp("", "helper")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	h := &helper{t: t, socket: filepath.Join(dir, "socket"), server: &Server{Clients: []uint32{uint32(os.Getuid())}, Log: slog.New(slog.DiscardHandler)}}
	h.server.SetJudge(j)
	h.start()
	t.Cleanup(func() { h.stop() })
	return h
}

func (h *helper) start() {
	h.t.Helper()
	l, err := Listen(h.t.Context(), h.socket)
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.server.Serve(ctx, l) }() // ended by stop
	h.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			h.t.Error(err)
		}
		h.stop = func() {}
	}
}

// client is a front of the helper.
func (h *helper) client(o Options) *Client {
	o.Socket = h.socket
	if o.Judges == nil {
		o.Judges = everything
	}
	c := New("helper", o)
	h.t.Cleanup(func() { c.Close() })
	return c
}

// within returns a context that ends before the test's patience does.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func verify(ctx context.Context, v authn.PasswordVerifier, login, password string) (*authn.Identity, error) {
	return v.VerifyPassword(ctx, &authn.PasswordRequest{Transport: &authn.Transport{}, Login: login, Password: authn.Password(password)})
}
