package authntest

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/emersion/go-sasl"

	"github.com/kpopd/kpopd/authn"
)

// Case is a mechanism under test.
type Case struct {
	Mechanism authn.Mechanism
	Transport authn.Transport
	User      string                         // whom Good lets in
	Good      func(t *testing.T) sasl.Client // a client that gets in
	Bad       func(t *testing.T) sasl.Client // one that the mechanism refuses, with nothing wrong in its syntax
}

// RunMechanism checks what every mechanism keeps to, through a policy as a
// server would.
func RunMechanism(t *testing.T, c Case) {
	t.Helper()
	t.Run("lets the right one in", func(t *testing.T) {
		var r Recorder
		l, err := c.converse(t, &r, c.Good(t))
		if err != nil {
			t.Fatal(err)
		}
		if id := l.Identity(); id == nil || id.User != c.User || id.Mechanism != c.Mechanism.Name() {
			t.Errorf("identity %+v, want user %s", id, c.User)
		}
		a := r.only(t)
		if a.Err != nil || a.Identity == nil || a.Mechanism != c.Mechanism.Name() {
			t.Errorf("traced %+v", a)
		}
		if _, _, err := l.Next(t.Context(), nil); err == nil {
			t.Error("goes on after its end")
		}
		l.Abort(t.Context(), nil)
		r.only(t)
	})
	t.Run("keeps the wrong one out", func(t *testing.T) {
		var r Recorder
		l, err := c.converse(t, &r, c.Bad(t))
		switch authn.KindOf(err) {
		case authn.UnknownUser, authn.Rejected, authn.Denied, authn.Expired:
		default:
			t.Errorf("refused with %v", err)
		}
		if l != nil && (l.Identity() != nil || l.Layer() != nil) {
			t.Error("has an identity or a layer after a refusal")
		}
		if a := r.only(t); a.Err == nil || a.Identity != nil {
			t.Errorf("traced %+v", a)
		}
	})
	t.Run("has nobody before the end", func(t *testing.T) {
		ex, err := c.Mechanism.Start(t.Context(), &c.Transport)
		if err != nil {
			t.Fatal(err)
		}
		if ex.Identity() != nil {
			t.Error("identity before the first response")
		}
	})
	t.Run("refuses garbage", func(t *testing.T) {
		for _, s := range [][]byte{{0}, bytes.Repeat([]byte{0xFF}, 300), []byte("\x00\x00\x00\x00"), bytes.Repeat([]byte("a "), 40_000)} {
			c.garbage(t, s)
		}
	})
	t.Run("leaves the response alone", func(t *testing.T) {
		s := bytes.Repeat([]byte{'x'}, 64)
		ex, err := c.Mechanism.Start(t.Context(), &c.Transport)
		if err != nil {
			t.Fatal(err)
		}
		_, _, _ = ex.Next(t.Context(), s)
		if !bytes.Equal(s, bytes.Repeat([]byte{'x'}, 64)) {
			t.Error("changed the response")
		}
	})
}

// converse runs a client against the mechanism as a server would.
func (c *Case) converse(t *testing.T, r *Recorder, client sasl.Client) (*authn.Login, error) {
	t.Helper()
	p := &authn.Policy{Name: "test", Offers: []authn.Mechanism{c.Mechanism}, Plain: authn.PlainTLS, Trace: r.Trace()}
	l, err := p.Start(t.Context(), &c.Transport, c.Mechanism.Name())
	if err != nil {
		t.Fatal(err)
	}
	err = Converse(t.Context(), l, client)
	return l, err
}

func (c *Case) garbage(t *testing.T, response []byte) {
	t.Helper()
	var r Recorder
	p := &authn.Policy{Name: "test", Offers: []authn.Mechanism{c.Mechanism}, Trace: r.Trace()}
	l, err := p.Start(t.Context(), &c.Transport, c.Mechanism.Name())
	if err != nil {
		t.Fatal(err)
	}
	first := response
	if c.Mechanism.Traits()&authn.ServerFirst != 0 {
		first = nil
	}
	for range 10 {
		_, done, err := l.Next(t.Context(), first)
		if done {
			t.Fatalf("%.16q got in as %+v", response, l.Identity())
		}
		if err != nil {
			if k := authn.KindOf(err); k == authn.Internal || k == authn.Unavailable {
				t.Errorf("%.16q: %v", response, err)
			}
			r.only(t)
			return
		}
		first = response
	}
	t.Errorf("%.16q: still going after ten responses", response)
}

// Converse leads an exchange between l and client to its end.
func Converse(ctx context.Context, l *authn.Login, client sasl.Client) error {
	_, response, err := client.Start()
	if err != nil {
		return err
	}
	for {
		challenge, done, err := l.Next(ctx, response)
		if err != nil || done {
			return err
		}
		if response, err = client.Next(challenge); err != nil {
			return errors.Join(&authn.Error{Kind: authn.Cancelled, Step: "client"}, err)
		}
		if response == nil {
			response = []byte{}
		}
	}
}

// Recorder keeps what a policy traces.
type Recorder struct {
	Attempts []*authn.Attempt
	Steps    []*authn.StepDone
}

// Trace tells r.
func (r *Recorder) Trace() *authn.Trace {
	return &authn.Trace{
		Attempt: func(_ context.Context, a *authn.Attempt) { r.Attempts = append(r.Attempts, a) },
		Step:    func(_ context.Context, s *authn.StepDone) { r.Steps = append(r.Steps, s) },
	}
}

func (r *Recorder) only(t *testing.T) *authn.Attempt {
	t.Helper()
	if len(r.Attempts) != 1 {
		t.Fatalf("traced %d attempts, want 1", len(r.Attempts))
	}
	return r.Attempts[0]
}
