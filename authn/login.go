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
	ended  bool
}

func newLogin(p *Policy, t *Transport, mech string) *Login {
	return &Login{policy: p, t: t, mech: mech, start: time.Now()}
}

// Next is [Exchange].Next. A panic inside the mechanism is an Internal error.
func (l *Login) Next(ctx context.Context, response []byte) (challenge []byte, done bool, err error) {
	defer func() {
		if v := recover(); v != nil {
			challenge, done = nil, false
			err = &Error{Kind: Internal, Step: l.mech, Err: fmt.Errorf("panic: %v\n%s", v, debug.Stack())}
		}
		if err != nil || done {
			l.end(ctx, err)
		}
	}()
	challenge, done, err = l.ex.Next(withTrace(ctx, l.policy.Trace), response)
	if err == nil && done {
		id := l.ex.Identity()
		if id == nil || id.User == "" {
			return nil, false, &Error{Kind: Internal, Step: l.mech, Err: errors.New("succeeded for nobody")}
		}
		id.Mechanism = l.mech
	}
	return challenge, done, err
}

// Identity is nil until Next was done without an error.
func (l *Login) Identity() *Identity { return l.ex.Identity() }

// Layer is the security layer that follows +OK, nil when there is none.
func (l *Login) Layer() func(net.Conn) net.Conn {
	if x, ok := l.ex.(Layered); ok {
		return x.Layer()
	}
	return nil
}

// Abort records that the attempt ended from outside: the client cancelled it
// or went away. It does nothing when the attempt has ended already.
func (l *Login) Abort(ctx context.Context, err error) { l.end(ctx, err) }

func (l *Login) end(ctx context.Context, err error) {
	if l.ended {
		return
	}
	l.ended = true
	a := &Attempt{
		Transport: l.t, Policy: l.policy.Name, Mechanism: l.mech,
		Principal: l.t.Peer, Duration: time.Since(l.start), Err: err,
	}
	if c, ok := l.ex.(Claimer); ok {
		login, p := c.Claimed()
		a.Login = login
		if p != nil {
			a.Principal = p
		}
	}
	if err == nil {
		a.Identity = l.ex.Identity()
		a.Layer = l.Layer() != nil
	}
	l.policy.Trace.attempt(ctx, a)
}
