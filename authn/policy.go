package authn

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"
)

// Plain says where a mechanism that shows the server a password may be used.
type Plain uint8

const (
	PlainTLS     Plain = iota // inside TLS only; the zero value is the safe one
	PlainTrusted              // also in the clear from Policy.Trusted networks
)

// Policy is what one listener offers. It is only read once it is built, so a
// reload swaps a pointer and running sessions keep theirs.
type Policy struct {
	Name      string
	Offers    []Mechanism    // first choice first: the order of CAPA
	BeforeTLS []string       // names usable in the clear; nil means all that do not show a password
	Plain     Plain          //
	Trusted   []netip.Prefix // for PlainTrusted
	Throttle  Throttle       // asked before a guess is judged; nil admits all
	Rules     []*Rule        // in order, the first that matches decides; who meets none is allowed
	Act       []*Rule        // who may act as whom, the same way; but who meets none may act for nobody
	Users     Chain          // whose UserFinders know those whom somebody acts for, and the groups of those whom another step vouched for; may be nil
	Shadow    *Policy        // judged beside this one and never obeyed; Policy.Shadow of it is not looked at
	Names     *Names         // spellings of a login that are one; nil leaves each its own
	Trace     *Trace
}

// Verdict is what a policy says of one mechanism.
type Verdict struct {
	Mechanism Mechanism
	Reason    error   // nil when it may be used
	Rule      *Rule   // that decided; nil when none did
	Open      []*Rule // before Rule, that decide instead if what is not known yet turns out so
	Sunset    *Rule   // that will refuse once its date has come; nil when none will, or when that is open
}

// Explain judges every mechanism for t, in order of preference, as CAPA and a
// login do.
func (p *Policy) Explain(t *Transport) []Verdict { return p.Judge(Before(t, time.Now())) }

// Judge is Explain for what f says of a login, whose mechanism is not looked
// at.
func (p *Policy) Judge(f Facts) []Verdict {
	vs := make([]Verdict, len(p.Offers))
	for i, m := range p.Offers {
		mf := f.with(m)
		r, reason := p.permits(m, &mf)
		vs[i] = Verdict{Mechanism: m, Reason: reason, Rule: r.rule}
		if reason == nil || r.rule != nil {
			vs[i].Open = openRules(p.Rules, &mf)
		}
		if reason == nil {
			vs[i].Sunset = ahead(p.Rules, &mf)
		}
	}
	return vs
}

// Mechanisms lists what t may use now, first choice first.
func (p *Policy) Mechanisms(t *Transport) []Mechanism { return p.Usable(Before(t, time.Now())) }

// Usable is Mechanisms for what f says of a login, whose mechanism is not looked
// at.
func (p *Policy) Usable(f Facts) []Mechanism {
	ms := make([]Mechanism, 0, len(p.Offers))
	for _, m := range p.Offers {
		mf := f.with(m)
		if _, reason := p.permits(m, &mf); reason == nil {
			ms = append(ms, m)
		}
	}
	return ms
}

var errRule = errors.New("a rule refuses it")

// permits returns why m may not be used, and what the rules say. It is the one
// place that knows when a mechanism may be used: first what m needs and what a
// password must not be shown to, which no rule can change; then the rules.
func (p *Policy) permits(m Mechanism, f *Facts) (ruling, error) {
	if err := p.allows(m, f.Transport); err != nil {
		return ruling{}, err
	}
	r := judge(p.Rules, f)
	if !r.allowed {
		return r, errRule
	}
	return r, nil
}

// allows returns why m may not be used on t. The client is told, so the reasons
// are ASCII and say nothing of the configuration.
func (p *Policy) allows(m Mechanism, t *Transport) error {
	tr := m.Traits()
	switch {
	case tr&NeedsPeer != 0 && t.Peer == nil:
		return errors.New("no ticket came before the first command")
	case tr&NeedsPeer == 0 && t.Peer != nil:
		return errors.New("a KPOP connection takes its ticket only")
	case tr&NeedsStamp != 0 && t.Stamp == "":
		return errors.New("the greeting has no timestamp")
	case tr&NeedsBinding != 0 && t.TLS == nil:
		return errors.New("it is bound to TLS, start TLS first")
	case tr&NeedsBinding != 0 && !t.Bindable():
		return errors.New("it is bound to TLS, which does not end here")
	case tr&NeedsTLS != 0 && t.TLS == nil:
		if tr&Plaintext == 0 {
			return errors.New("it is there inside TLS only, start TLS first")
		}
		return errors.New("it shows a token, start TLS first")
	case tr&NeedsPeer != 0:
		return nil
	}
	if c, ok := m.(Conditional); ok {
		if err := c.Usable(p.quiet(t), t); err != nil {
			return err
		}
	}
	switch {
	case t.TLS != nil:
		return nil
	case tr&Plaintext != 0 && !p.trusts(t.Remote.Addr()):
		return errors.New("it shows a password in the clear, start TLS first")
	case p.BeforeTLS != nil && !slices.Contains(p.BeforeTLS, m.Name()):
		return errors.New("start TLS first")
	}
	return nil
}

// quiet is the context of a question that is no attempt: names and connection are
// those of one, and nothing is traced.
func (p *Policy) quiet(t *Transport) context.Context {
	return WithTransport(WithPolicy(context.Background(), &Policy{Names: p.Names}), t)
}

// Exposed records an attempt that was refused unread and has shown a password
// to the network already: the client sent what mech takes without asking
// whether it may. login is who it claims to be, "" when that was not read. It
// does nothing when mech shows no password.
func (p *Policy) Exposed(ctx context.Context, t *Transport, mech, login string) {
	i := slices.IndexFunc(p.Offers, func(m Mechanism) bool { return m.Name() == mech })
	switch {
	case mech == "LOGIN": // begins with a name
		return
	case i >= 0 && p.Offers[i].Traits()&Plaintext == 0:
		return
	case i < 0 && mech != "PLAIN" && mech != "USER": // what clients try that ask nobody
		return
	}
	p.Trace.attempt(ctx, &Attempt{
		Transport: t, Policy: p.Name, Mechanism: mech, Login: login[:min(len(login), MaxLogin)], Exposed: true,
		Err: &Error{Kind: Denied, Step: p.Name, Err: errors.New("password exposed, unread")},
	})
}

func (p *Policy) trusts(a netip.Addr) bool {
	return p.Plain == PlainTrusted && inside(p.Trusted, a)
}

// Start begins a login. It judges again what Mechanisms said: a client may ask
// for what it was not offered. The refusal is traced as an attempt.
func (p *Policy) Start(ctx context.Context, t *Transport, mech string) (*Login, error) {
	l, m := newLogin(p, t, mech)
	if err := l.begin(ctx, m); err != nil {
		l.end(ctx, err)
		return nil, err
	}
	return l, nil
}

// Refuse is for a client that asks for a mechanism that it was not offered.
// When a rule is why, the error is for the client; it is nil when no rule has
// to do with it. The attempt is traced when a rule is why, or when it is news
// that the shadow would have let it go on.
func (p *Policy) Refuse(ctx context.Context, t *Transport, mech string) error {
	l, m := newLogin(p, t, mech)
	if r := judge(p.Rules, &l.facts); m != nil && !r.allowed {
		// also when there are other reasons: a timestamp is missing because
		// nobody was to use it
		l.ruling, l.reason = r, errRule
		err := l.barred()
		l.end(ctx, err)
		return err
	}
	if err := l.permit(m); err != nil && l.difference() != nil {
		l.end(ctx, err)
	}
	return nil
}

func (p *Policy) mechanism(name string) Mechanism {
	for _, m := range p.Offers {
		if m.Name() == name {
			return m
		}
	}
	return nil
}
