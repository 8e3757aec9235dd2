package gssapi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/kpopd/kpopd/authn"
)

// NameSPNEGO is that of the mechanism which negotiates that Kerberos is used.
const NameSPNEGO = "GSS-SPNEGO"

// negotiatedLimit is how many octets of a token a client behind GSS-SPNEGO is
// believed to take: nothing is said about it, and Cyrus SASL's own programs take
// no more.
const negotiatedLimit = 1024

// Negotiated is GSS-SPNEGO over m, without m's layers: what of them is used the
// client's context says. See the package comment.
func Negotiated(m *Mechanism) authn.Mechanism { return negotiated{m} }

type negotiated struct{ m *Mechanism }

var (
	_ authn.Mechanism = negotiated{}
	_ authn.Claimer   = (*negotiation)(nil)
	_ authn.Layered   = (*negotiation)(nil)
	_ authn.Binder    = (*negotiation)(nil)
	_ authn.Noter     = (*negotiation)(nil)
)

// Name implements [authn.Mechanism].
func (negotiated) Name() string { return NameSPNEGO }

// Traits implements [authn.Mechanism].
func (negotiated) Traits() authn.Traits { return authn.NeedsTLS }

// Start implements [authn.Mechanism].
func (n negotiated) Start(_ context.Context, t *authn.Transport) (authn.Exchange, error) {
	e, err := n.m.start(NameSPNEGO, t)
	if err != nil {
		return nil, err
	}
	x := &negotiation{exchange: e}
	e.next = x.begin
	return x, nil
}

// negotiation is one login by GSS-SPNEGO.
type negotiation struct {
	*exchange
	w      *wrapper
	list   []byte // of mechanisms, as the MICs are over it
	micDue bool   // the client's: it would have liked another mechanism better
}

// begin takes the list of mechanisms, and the ticket when Kerberos is the first.
func (n *negotiation) begin(ctx context.Context, response []byte) ([]byte, bool, error) {
	if len(response) == 0 && !n.prompted {
		n.prompted = true
		return []byte{}, false, nil
	}
	i, err := parseNegInit(response)
	if err != nil {
		return nil, false, n.unreadable(err)
	}
	at := slices.IndexFunc(i.mechs, isKerberos)
	if at < 0 {
		return n.reject(i)
	}
	n.list = i.list
	if at == 0 && i.token != nil {
		return n.context(ctx, i.token, i.mic, i.mechs[0])
	}
	r := &negResp{state: acceptIncomplete, mech: i.mechs[at]}
	if at > 0 { // the token, if any, is of another mechanism
		n.micDue, r.state = true, requestMIC
	}
	n.next = n.proceed
	return n.say(r)
}

// reject tells the client so before it is refused.
func (n *negotiation) reject(i *negInit) ([]byte, bool, error) {
	why := fmt.Errorf("none of the client's %d mechanisms is Kerberos", len(i.mechs))
	if slices.ContainsFunc(i.mechs, func(m []byte) bool { return string(m) == string(oidNTLM) }) {
		why = errors.New("the client has no Kerberos ticket to use, and NTLM is not taken")
	}
	r := &negResp{state: reject}
	challenge, err := r.format()
	if err != nil {
		return nil, false, err
	}
	return challenge, false, &authn.Error{Kind: authn.Denied, Step: n.name, Err: why, Text: "GSS-SPNEGO takes Kerberos only"}
}

// proceed takes the ticket after Kerberos was chosen.
func (n *negotiation) proceed(ctx context.Context, response []byte) ([]byte, bool, error) {
	r, err := parseNegResp(response)
	if err != nil {
		return nil, false, n.unreadable(err)
	}
	return n.context(ctx, r.token, r.mic, nil)
}

// context takes the ticket, with the MIC that came with it. mech is to be told the
// client as what was chosen, where that was not told before.
func (n *negotiation) context(ctx context.Context, token, mic, mech []byte) ([]byte, bool, error) {
	apReq, err := parseToken(token, tokAPReq)
	if err != nil {
		return nil, false, n.unreadable(err)
	}
	w, apRep, err := n.accept(ctx, apReq)
	if err != nil {
		return nil, false, err
	}
	n.w = w
	r := &negResp{state: acceptCompleted, mech: mech}
	if apRep != nil {
		r.token = formatToken(tokAPRep, apRep)
		if mic != nil { // made before there was a context
			return nil, false, n.malformed(errors.New("a MIC before the AP-REP"))
		}
	}
	n.next = n.finish
	switch {
	case mic != nil:
		if err := w.checkMIC(n.list, mic); err != nil {
			return nil, false, n.badList(err)
		}
	case n.micDue:
		r.state, n.next = acceptIncomplete, n.confirm
	default:
		// "the mechlistMIC token exchange is then optional" (RFC 4178 section 5)
		return n.say(r)
	}
	if r.mic, err = w.mic(n.list); err != nil {
		return nil, false, err
	}
	return n.say(r)
}

// confirm takes the client's MIC in answer to ours.
func (n *negotiation) confirm(_ context.Context, response []byte) ([]byte, bool, error) {
	r, err := parseNegResp(response)
	if err != nil {
		return nil, false, n.unreadable(err)
	}
	if r.token != nil {
		return nil, false, n.malformed(errors.New("a token after the last one"))
	}
	if err := n.w.checkMIC(n.list, r.mic); err != nil {
		return nil, false, n.badList(err)
	}
	n.next = n.finish
	return n.say(&negResp{state: acceptCompleted})
}

// badList is a list of mechanisms that is not, or not proven to be, the one that
// the client sent: somebody may have struck out the better ones.
func (n *negotiation) badList(err error) error {
	return &authn.Error{
		Kind: authn.Denied, Step: n.name, Err: fmt.Errorf("list of mechanisms: %w", err),
		Text: "The list of mechanisms was changed on its way",
	}
}

// finish takes the empty line that answers the last message, then asks the chain.
func (n *negotiation) finish(ctx context.Context, response []byte) ([]byte, bool, error) {
	if len(response) != 0 {
		return nil, false, n.malformed(errors.New("octets where the last token is answered by none"))
	}
	id, err := n.m.Chain.MapPrincipal(ctx, n.peer, "")
	if err != nil {
		return nil, false, err
	}
	n.id = id
	return nil, true, nil
}

func (n *negotiation) say(r *negResp) ([]byte, bool, error) {
	b, err := r.format()
	return b, false, err
}

// Layer implements [authn.Layered].
func (n *negotiation) Layer() func(net.Conn) net.Conn {
	if n.id == nil || n.flags&(flagInteg|flagConf) == 0 {
		return nil
	}
	return func(c net.Conn) net.Conn {
		return newConn(c, n.w, n.flags&flagConf != 0, n.m.limit(), negotiatedLimit)
	}
}
