package authn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// Login is one attempt under a policy: the exchange of a mechanism, and the
// record of how it ended, traced exactly once.
type Login struct {
	policy *Policy
	t      *Transport
	mech   string // "" when the policy has none that the client asked for
	start  time.Time
	ex     Exchange
	id     *Identity // set when the attempt succeeded
	proven bool      // the exchange succeeded; its last challenge waits for the empty response
	ended  bool
	told   func(error) // what the throttle wants to know at the end; nil until it admitted the attempt

	refusal error // the exchange failed; its last challenge waits for any response

	facts  Facts  // of one moment: an attempt does not meet two policies when the hour strikes
	ruling ruling // of the policy's rules on facts
	reason error  // why the policy refuses, as far as it has been asked; nil when it does not
	act    *Rule  // that decided whether the client may act for another
	view   View   // that the client asks for, as far as it has said
}

// newLogin also returns the mechanism, nil when the policy has none of that
// name.
func newLogin(p *Policy, t *Transport, mech string) (*Login, Mechanism) {
	now := time.Now()
	l := &Login{policy: p, t: t, start: now, facts: Before(t, now)}
	l.facts.Mechanism = mech
	m := p.mechanism(mech)
	if m != nil {
		l.mech, l.facts = mech, l.facts.with(m)
	}
	return l, m
}

var errNotInPolicy = errors.New("not in the policy")

// permit asks the policy before the mechanism is.
func (l *Login) permit(m Mechanism) error {
	if m == nil {
		l.reason = errNotInPolicy
		return &Error{Kind: Denied, Step: l.policy.Name, Err: fmt.Errorf("%q is %w", l.facts.Mechanism, errNotInPolicy)}
	}
	l.ruling, l.reason = l.policy.permits(m, &l.facts)
	return l.barred()
}

// barred is the refusal for l.reason, before a proof was looked at; nil when
// there is no reason.
func (l *Login) barred() error {
	switch {
	case l.reason == nil:
		return nil
	case l.reason == errRule && l.ruling.rule.Text != "":
		return l.refused()
	}
	return &Error{
		Kind: Denied, Step: l.policy.Name, Err: fmt.Errorf("%s: %w", l.mech, l.reason),
		Text: fmt.Sprintf("%s cannot be used here: %v", l.mech, l.reason),
	}
}

// refused is the refusal by the rule that decided. It has no text but the
// site's: who guessed a password is not to learn that it was right.
func (l *Login) refused() error {
	return &Error{
		Kind: Denied, Step: l.policy.Name, Text: l.ruling.rule.Text,
		Err: fmt.Errorf("%s: rule %s: %w", l.mech, l.ruling.rule.Source, errRule),
	}
}

func (l *Login) begin(ctx context.Context, m Mechanism) (err error) {
	defer l.recovered(&err)
	if err := l.permit(m); err != nil {
		return err
	}
	ex, err := m.Start(l.within(ctx), l.t)
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
// done, or with an error: it asks for the response itself. A client that
// cancels after the challenge of RFC 5034 section 4 has not logged in, and
// nothing that it answers to the one of RFC 7628 section 3.2.2 meets the
// mechanism. A panic inside the mechanism is an Internal error.
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
	if l.refusal != nil {
		return nil, false, l.refusal
	}
	if l.proven {
		if len(response) > 0 {
			return nil, false, &Error{Kind: Malformed, Step: l.mech, Err: errors.New("data after the last challenge")}
		}
		return nil, true, l.succeed(ctx)
	}
	challenge, done, err = l.ex.Next(&loginContext{ctx, l, l.policy.Throttle != nil}, response)
	switch {
	case err != nil && challenge != nil:
		l.refusal = err
		return challenge, false, nil
	case err != nil:
		return nil, false, err
	case done && challenge != nil:
		l.proven = true
		return challenge, false, nil
	case done:
		return nil, true, l.succeed(ctx)
	}
	return challenge, false, nil
}

// within is ctx for what the mechanism and its chain do beside the proof.
func (l *Login) within(ctx context.Context) context.Context { return &loginContext{ctx, l, false} }

// loginContext is a context as of [WithPolicy] and [WithTransport], in one. Where
// a client proves itself the chain finds the throttle by it, as the first place
// that all mechanisms pass with the name that the client claims.
type loginContext struct {
	context.Context
	l         *Login
	throttled bool
}

func (c *loginContext) Value(key any) any {
	switch key.(type) {
	case policyKey:
		return c.l.policy
	case transportKey:
		return c.l.t
	case loginKey:
		return c.l
	case throttleKey:
		if c.throttled {
			return c.l
		}
	}
	return c.Context.Value(key)
}

// succeed judges the login by all that the proof has brought, and lets it in.
func (l *Login) succeed(ctx context.Context) error {
	id := l.ex.Identity()
	if id == nil {
		return &Error{Kind: Internal, Step: l.mech, Err: errors.New("succeeded for nobody")}
	}
	if err := l.name(id); err != nil {
		return err
	}
	if len(id.Mechanisms) > 0 && !slices.Contains(id.Mechanisms, l.mech) {
		return &Error{Kind: Denied, Step: id.Step, Err: fmt.Errorf("%s may not log in with %s", id.User, l.mech)}
	}
	l.facts.Open = 0
	if err := l.findGroups(ctx, id); err != nil {
		return err
	}
	l.learn(id)
	if l.ruling = judge(l.policy.Rules, &l.facts); !l.ruling.allowed {
		l.reason = errRule
		return l.refused()
	}
	if id.For != "" {
		var err error
		if id, err = l.actFor(ctx, id); err != nil {
			return err
		}
	}
	id.Mechanism, id.View = l.mech, l.view
	l.id = id
	return nil
}

// name gives id the one spelling of its names: whatever a verifier calls the
// user, rules, one lock and one path are his.
func (l *Login) name(id *Identity) error {
	if u, err := PrepareLogin(id.User); err != nil || u != id.User {
		return &Error{Kind: Internal, Step: l.mech, Err: fmt.Errorf("succeeded for %.*q, which is no login in canonical form", MaxLogin, id.User)}
	}
	user, err := l.policy.Names.Prepare(id.User)
	if err != nil {
		return &Error{Kind: Internal, Step: l.mech, Err: fmt.Errorf("succeeded for %.*q, of which the configured names make no login", MaxLogin, id.User)}
	}
	id.User = user
	if id.For == "" {
		return nil
	}
	if id.For, err = l.policy.Names.Prepare(id.For); err != nil {
		return &Error{Kind: Internal, Step: l.mech, Err: errors.New("acts for no login name")}
	}
	return nil
}

// learn takes from the proof what was open.
func (l *Login) learn(id *Identity) {
	l.facts.User, l.facts.Groups = id.User, id.Groups
	if c, ok := l.ex.(Claimer); ok && l.t.Peer == nil {
		_, l.facts.Principal = c.Claimed()
	}
	if b, ok := l.ex.(Binder); ok {
		l.facts.Bound = b.Bound()
	}
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
// or went away. It does nothing when the attempt has ended already. An attempt
// that was refused before, so that only the client's answer was wanting, is
// recorded as refused: the refusal is returned, which is nil mostly.
func (l *Login) Abort(ctx context.Context, err error) (refused error) {
	switch {
	case l.refusal != nil:
		err = l.refusal
	case err == nil:
		err = &Error{Kind: Aborted, Step: l.mech}
	}
	l.end(ctx, err)
	return l.refusal
}

func (l *Login) end(ctx context.Context, err error) {
	if l.ended {
		return
	}
	l.ended = true
	if l.told != nil {
		l.told(err)
	}
	a := &Attempt{
		Transport: l.t, Policy: l.policy.Name, Mechanism: l.mech, Principal: l.t.Peer,
		Identity: l.id, Layer: l.Layer() != nil, Duration: time.Since(l.start), Err: err,
		Rule: l.decided(), Act: l.act, For: l.facts.As, View: l.view, Shadow: l.difference(),
	}
	if err == nil {
		a.Sunset = ahead(l.policy.Rules, &l.facts)
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
	if l.id != nil && l.id.Note != "" {
		a.Note = strings.TrimPrefix(a.Note+"; "+l.id.Note, "; ")
	}
	if w, ok := l.ex.(Wiper); ok {
		w.Wipe()
	}
	l.policy.Trace.attempt(ctx, a)
}

// decided is the rule that let the login in or kept it out; nil when none did,
// or when it was never asked about all that it looks at.
func (l *Login) decided() *Rule {
	if l.ruling.open {
		return nil
	}
	return l.ruling.rule
}
