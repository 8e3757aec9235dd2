package authn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"time"
)

// Login is one attempt under a policy: the exchange of a mechanism, and the
// record of how it ended, traced exactly once.
type Login struct {
	policy *Policy
	t      *Transport
	mech   string
	start  time.Time
	ex     Exchange
	id     *Identity // set when the attempt succeeded
	proven bool      // the exchange succeeded; its last challenge waits for the empty response
	ended  bool
}

func newLogin(p *Policy, t *Transport, mech string) *Login {
	return &Login{policy: p, t: t, mech: mech, start: time.Now()}
}

func (l *Login) begin(ctx context.Context, m Mechanism) (err error) {
	if why := l.policy.allows(m, l.t); why != nil {
		return &Error{
			Kind: Denied, Step: l.policy.Name, Err: fmt.Errorf("%s: %w", l.mech, why),
			Text: fmt.Sprintf("%s cannot be used here: %v", l.mech, why),
		}
	}
	defer l.recovered(&err)
	ex, err := m.Start(withTrace(ctx, l.policy.Trace), l.t)
	if err == nil && ex == nil {
		err = &Error{Kind: Internal, Step: l.mech, Err: errors.New("started nothing")}
	}
	if err != nil {
		return err
	}
	l.ex = ex
	return nil
}

// Next is [Exchange].Next, but that it never returns a challenge together with
// done: it asks for the empty response of RFC 5034 section 4 itself, so that a
// client that cancels there has not logged in. A panic inside the mechanism is
// an Internal error.
func (l *Login) Next(ctx context.Context, response []byte) (challenge []byte, done bool, err error) {
	if l.ended {
		return nil, false, &Error{Kind: Internal, Step: l.mech, Err: errors.New("the attempt is over")}
	}
	challenge, done, err = l.next(ctx, response)
	if err != nil || done {
		l.end(ctx, err)
	}
	if err != nil {
		return nil, false, err
	}
	return challenge, done, nil
}

func (l *Login) next(ctx context.Context, response []byte) (challenge []byte, done bool, err error) {
	defer l.recovered(&err)
	if l.proven {
		if len(response) > 0 {
			return nil, false, &Error{Kind: Malformed, Step: l.mech, Err: errors.New("data after the last challenge")}
		}
		return nil, true, l.succeed()
	}
	challenge, done, err = l.ex.Next(withTrace(ctx, l.policy.Trace), response)
	switch {
	case err != nil:
		return nil, false, err
	case done && challenge != nil:
		l.proven = true
		return challenge, false, nil
	case done:
		return nil, true, l.succeed()
	}
	return challenge, false, nil
}

func (l *Login) succeed() error {
	id := l.ex.Identity()
	if id == nil {
		return &Error{Kind: Internal, Step: l.mech, Err: errors.New("succeeded for nobody")}
	}
	if u, err := PrepareLogin(id.User); err != nil || u != id.User {
		return &Error{Kind: Internal, Step: l.mech, Err: fmt.Errorf("succeeded for %.*q, which is no login in canonical form", MaxLogin, id.User)}
	}
	id.Mechanism = l.mech
	l.id = id
	return nil
}

// recovered is deferred around what the mechanism does.
func (l *Login) recovered(err *error) {
	if v := recover(); v != nil {
		*err = &Error{Kind: Internal, Step: l.mech, Err: &PanicError{v, debug.Stack()}}
	}
}

// Identity is nil until Next was done without an error.
func (l *Login) Identity() *Identity { return l.id }

// Layer is the security layer that follows +OK, nil when there is none.
func (l *Login) Layer() func(net.Conn) net.Conn {
	if x, ok := l.ex.(Layered); ok && l.id != nil {
		return x.Layer()
	}
	return nil
}

// Abort records that the attempt ended from outside: the client cancelled it
// or went away. It does nothing when the attempt has ended already.
func (l *Login) Abort(ctx context.Context, err error) {
	if err == nil {
		err = &Error{Kind: Aborted, Step: l.mech}
	}
	l.end(ctx, err)
}

func (l *Login) end(ctx context.Context, err error) {
	if l.ended {
		return
	}
	l.ended = true
	a := &Attempt{
		Transport: l.t, Policy: l.policy.Name, Mechanism: l.mech, Principal: l.t.Peer,
		Identity: l.id, Layer: l.Layer() != nil, Duration: time.Since(l.start), Err: err,
	}
	if c, ok := l.ex.(Claimer); ok {
		login, p := c.Claimed()
		a.Login = login[:min(len(login), MaxLogin)]
		if p != nil {
			a.Principal = p
		}
	}
	if n, ok := l.ex.(Noter); ok {
		a.Note = n.Note()
	}
	if w, ok := l.ex.(Wiper); ok {
		w.Wipe()
	}
	l.policy.Trace.attempt(ctx, a)
}
