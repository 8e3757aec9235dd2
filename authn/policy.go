package authn

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
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
	Trace     *Trace
}

// Verdict is what a policy says of one mechanism.
type Verdict struct {
	Mechanism Mechanism
	Reason    error // nil when it may be used
}

// Explain judges every mechanism for t, in order of preference. It is the one
// place that knows when a mechanism may be used.
func (p *Policy) Explain(t *Transport) []Verdict {
	vs := make([]Verdict, len(p.Offers))
	for i, m := range p.Offers {
		vs[i] = Verdict{m, p.allows(m, t)}
	}
	return vs
}

// Mechanisms lists what t may use now, first choice first.
func (p *Policy) Mechanisms(t *Transport) []Mechanism {
	ms := make([]Mechanism, 0, len(p.Offers))
	for _, m := range p.Offers {
		if p.allows(m, t) == nil {
			ms = append(ms, m)
		}
	}
	return ms
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
	case t.TLS != nil || tr&NeedsPeer != 0:
		return nil
	case tr&Plaintext != 0 && !p.trusts(t.Remote.Addr()):
		return errors.New("it shows a password in the clear, start TLS first")
	case p.BeforeTLS != nil && !slices.Contains(p.BeforeTLS, m.Name()):
		return errors.New("start TLS first")
	}
	return nil
}

func (p *Policy) trusts(a netip.Addr) bool {
	return p.Plain == PlainTrusted &&
		slices.ContainsFunc(p.Trusted, func(n netip.Prefix) bool { return n.Contains(a.Unmap()) })
}

// Start begins a login. It judges again what Mechanisms said: a client may ask
// for what it was not offered. The refusal is traced as an attempt.
func (p *Policy) Start(ctx context.Context, t *Transport, mech string) (*Login, error) {
	i := slices.IndexFunc(p.Offers, func(m Mechanism) bool { return m.Name() == mech })
	if i < 0 {
		l := newLogin(p, t, "")
		err := &Error{Kind: Denied, Step: p.Name, Err: fmt.Errorf("%q is not in the policy", mech)}
		l.end(ctx, err)
		return nil, err
	}
	l := newLogin(p, t, mech)
	if err := l.begin(ctx, p.Offers[i]); err != nil {
		l.end(ctx, err)
		return nil, err
	}
	return l, nil
}
