// Package gssapi is the SASL mechanism GSSAPI (RFC 4752) with Kerberos 5
// tokens (RFC 4121), on both sides.
//
// A login is a ticket, an answer to it when the client wants the server to
// prove itself, and then one wrapped message each way to agree on a security
// layer and on the login:
//
//	C: AUTH GSSAPI
//	S: +                                          unless the token came with AUTH
//	C: 60 LL 06 09 <krb5> 01 00 AP-REQ
//	S: 60 LL 06 09 <krb5> 02 00 AP-REP            only when mutual authentication was asked for
//	C:                                            and then an empty line
//	S: wrap( layers offered, our longest token )
//	C: wrap( layer chosen, its longest token, authzid )
//	S: +OK                                        the layer begins behind its CRLF
//
// [Negotiated] is GSS-SPNEGO (RFC 4178) in the dialect of Microsoft and Cyrus
// SASL, which says all of that in fewer words:
//
//	C: AUTH GSS-SPNEGO
//	S: +
//	C: NegTokenInit ( list of mechanisms, AP-REQ )
//	S: NegTokenResp ( accept-completed, AP-REP )  with an AP-REP as above
//	C:                                            an empty line
//	S: +OK                                        a layer begins, or none
//
// # Design notes
//
// The layer "none" alone is offered unless the configuration says otherwise,
// and inside TLS always: some clients choose the strongest layer on offer and
// then do not use it (Perl's Authen::SASL). Integrity and privacy are offered
// only to clients whose context has what they need.
//
// Whenever there is an AP-REP it brings a subkey of ours. Replaying a recorded
// conversation then fails even where the replay cache does not know it: the
// recorded answers are wrapped in another key.
//
// Tokens are those of RFC 4121, so session keys are AES; the older ones of
// RFC 1964 (DES, RC4) are refused, as are DCE style contexts, which need a
// third token. Delegated credentials are neither wanted nor looked at.
//
// GSS-SPNEGO is for clients that can do nothing else, and is there inside TLS only.
// Its layer is that of the flags in the client's ticket message, privacy before
// integrity; nobody asks the other for it, so that it is also there inside TLS,
// and tokens are of the size that the least client takes. There is no authzid.
// Dovecot means another protocol by the same name, with the messages of RFC 4752
// behind the negotiation. Where Kerberos is not the first on the client's list,
// both sides sign the list, which is all that keeps a third from shortening it;
// where it is the first, nothing was lost. NTLM, and whatever else is no Kerberos,
// is refused.
package gssapi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/emersion/go-sasl"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/krb5"
)

// Name of the mechanism.
const Name = "GSSAPI"

// Layers is a set of security layers, in the bits of RFC 4752 section 3.3.
type Layers uint8

const (
	None      Layers = 1 << iota // the connection goes on as it is
	Integrity                    // each message is signed
	Privacy                      // each message is sealed
)

// Binding says what to make of channel bindings (RFC 5929): whether the
// client's TLS connection ends here, or at somebody in between.
type Binding uint8

const (
	BindingIfOffered Binding = iota // a client that sends a binding must send the right one
	BindingOff                      // not looked at: something in front of us ends TLS
	BindingRequired                 // nobody logs in without
)

// Tickets takes AP-REQs: a [krb5.Acceptor], or one in another process.
type Tickets interface {
	Accept(ctx context.Context, apReq []byte, o krb5.Options) (*krb5.Context, error)
}

// Mechanism is the server side. Its fields are only read.
type Mechanism struct {
	Acceptor Tickets
	Chain    authn.Chain
	Binding  Binding
	Layers   Layers // to offer outside TLS; None when zero
	MaxToken int    // octets of the longest token that a layer takes; 64 KiB when zero, 16 MiB - 1 at most
}

var (
	_ authn.Mechanism = (*Mechanism)(nil)
	_ authn.Claimer   = (*exchange)(nil)
	_ authn.Layered   = (*exchange)(nil)
	_ authn.Binder    = (*exchange)(nil)
	_ authn.Noter     = (*exchange)(nil)
	_ sasl.Server     = (*offer)(nil)
)

// Name implements [authn.Mechanism].
func (m *Mechanism) Name() string { return Name }

// Traits implements [authn.Mechanism].
func (m *Mechanism) Traits() authn.Traits { return 0 }

// Start implements [authn.Mechanism].
func (m *Mechanism) Start(_ context.Context, t *authn.Transport) (authn.Exchange, error) {
	e, err := m.start(Name, t)
	if err != nil {
		return nil, err
	}
	e.next = e.ticket
	return e, nil
}

func (m *Mechanism) start(name string, t *authn.Transport) (*exchange, error) {
	if m.Binding == BindingRequired && t.EndPoint == nil {
		return nil, &authn.Error{
			Kind: authn.Denied, Step: name, Err: errors.New("no TLS to bind to"),
			Text: name + " needs TLS here",
		}
	}
	return &exchange{m: m, t: t, name: name}, nil
}

// exchange is one login. next takes the client's next message.
type exchange struct {
	m        *Mechanism
	t        *authn.Transport
	name     string // of the mechanism
	next     func(ctx context.Context, response []byte) (challenge []byte, done bool, err error)
	prompted bool
	peer     *authn.Principal // as soon as it is proven
	flags    uint32           // of the context
	bound    bool             // the client proved that TLS ends here
	offer    *offer
	id       *authn.Identity
}

func (e *exchange) Next(ctx context.Context, response []byte) ([]byte, bool, error) {
	return e.next(ctx, response)
}

// ticket takes the first token. No initial response and an empty one are the
// same to a mechanism whose first message is never empty.
func (e *exchange) ticket(ctx context.Context, response []byte) ([]byte, bool, error) {
	if len(response) == 0 && !e.prompted {
		e.prompted = true
		return []byte{}, false, nil
	}
	apReq, err := parseToken(response, tokAPReq)
	if err != nil {
		return nil, false, e.unreadable(err)
	}
	w, apRep, err := e.accept(ctx, apReq)
	if err != nil {
		return nil, false, err
	}
	e.offer = &offer{wrapper: w, layers: e.layers(), limit: e.m.limit()}
	if apRep == nil {
		// curl wants no AP-REP and takes no empty challenge in its place
		return e.negotiate(ctx, nil)
	}
	e.next = e.acknowledge
	return formatToken(tokAPRep, apRep), false, nil
}

// accept takes an AP-REQ. The AP-REP is nil when the client asked for none.
func (e *exchange) accept(ctx context.Context, apReq []byte) (w *wrapper, apRep []byte, err error) {
	kc, err := e.m.Acceptor.Accept(ctx, apReq, krb5.Options{Remote: e.t.Remote.Addr(), Check: e.check})
	if err != nil {
		return nil, nil, e.refused(err)
	}
	w = &wrapper{key: kc.Subkey, acceptor: true, send: uint64(kc.Seq), recv: uint64(kc.Seq)}
	if w.key.IsZero() {
		w.key = kc.Session
	}
	if e.flags&flagMutual != 0 {
		if apRep, err = prove(kc, w); err != nil {
			return nil, nil, fmt.Errorf("make AP-REP: %w", err)
		}
	}
	return w, apRep, nil
}

// prove makes an AP-REP with a subkey and an initial sequence number of our
// own, and has w use them.
func prove(kc *krb5.Context, w *wrapper) ([]byte, error) {
	key, err := krb5.NewKey(w.key.Enctype())
	if err != nil {
		return nil, err
	}
	seq := newSequence()
	w.key, w.subkey, w.send = key, true, uint64(seq)
	return kc.APRep(&key, &seq)
}

// acknowledge takes the empty line that answers the AP-REP.
func (e *exchange) acknowledge(ctx context.Context, response []byte) ([]byte, bool, error) {
	if len(response) != 0 {
		return nil, false, e.malformed(errors.New("octets where the AP-REP is answered by none"))
	}
	return e.negotiate(ctx, nil)
}

// negotiate leads the exchange of RFC 4752 section 3.1, then asks the chain.
func (e *exchange) negotiate(ctx context.Context, response []byte) ([]byte, bool, error) {
	e.next = e.negotiate
	challenge, done, err := e.offer.Next(response)
	if err != nil {
		return nil, false, e.malformed(err)
	}
	if !done {
		return challenge, false, nil
	}
	if e.id, err = e.m.Chain.MapPrincipal(ctx, e.peer, authn.TakeView(ctx, e.offer.authzid)); err != nil {
		return nil, false, err
	}
	return nil, true, nil
}

func (e *exchange) Identity() *authn.Identity { return e.id }

func (e *exchange) Claimed() (string, *authn.Principal) {
	if e.offer == nil {
		return "", e.peer
	}
	return e.offer.authzid, e.peer
}

// Layer implements [authn.Layered].
func (e *exchange) Layer() func(net.Conn) net.Conn {
	if e.id == nil || e.offer.chosen == None {
		return nil
	}
	return e.offer.layer
}

// Bound implements [authn.Binder].
func (e *exchange) Bound() bool { return e.bound }

// Note implements [authn.Noter]: who could have bound the login to TLS, and did
// not. The notes of all mechanisms about it begin with the same words, so that one
// search counts them.
func (e *exchange) Note() string {
	if e.peer != nil && !e.bound && e.t.EndPoint != nil && e.m.Binding != BindingOff {
		return "no channel binding, though TLS has one"
	}
	return ""
}

// layers is what this client can be offered. Outside TLS it may be nothing.
func (e *exchange) layers() Layers {
	l := cmp.Or(e.m.Layers, None)
	if e.t.TLS != nil {
		return None
	}
	if e.flags&(flagSequence|flagInteg) != flagSequence|flagInteg {
		l &^= Integrity
	}
	if e.flags&(flagSequence|flagConf) != flagSequence|flagConf {
		l &^= Privacy
	}
	return l
}

// limit fits into the three octets that tell it.
func (m *Mechanism) limit() int { return min(cmp.Or(m.MaxToken, 64<<10), maxSize) }

// check is what RFC 4121 section 4.1.1 and the configuration ask of an
// authenticator that is otherwise good. It runs before the replay cache
// remembers it.
func (e *exchange) check(kc *krb5.Context) error {
	peer := kc.Principal // a copy: a trace is not to keep the keys
	e.peer = &peer
	for _, k := range []krb5.Key{kc.Session, kc.Subkey} {
		if !k.IsZero() && !hasTokens(k.Enctype()) {
			return &krb5.Error{Code: krb5.CodeEtypeNoSupp, Text: "GSSAPI needs an AES session key", Kind: authn.Denied}
		}
	}
	sum, err := checksumOf(kc)
	if err != nil {
		return &krb5.Error{Code: krb5.CodeInappCksum, Text: "The authenticator has no GSSAPI checksum", Kind: authn.Malformed, Err: err}
	}
	e.flags = sum.flags
	if e.flags&flagDCE != 0 {
		return &krb5.Error{Code: krb5.CodeGeneric, Text: "DCE style contexts are not supported", Kind: authn.Malformed}
	}
	if err := e.checkBinding(sum.binding, demandsBinding(kc)); err != nil {
		return err
	}
	if e.layers() == 0 {
		return &krb5.Error{Code: krb5.CodeGeneric, Text: "A security layer is required, and the client can do none", Kind: authn.Denied}
	}
	return nil
}

// checkBinding compares what the client believes to be the channel with what
// is. One that sends nothing does not check, which is its right unless it or
// the configuration says otherwise.
func (e *exchange) checkBinding(got [16]byte, demanded bool) error {
	if e.m.Binding == BindingOff {
		return nil
	}
	if got == [16]byte{} {
		if e.m.Binding == BindingRequired || demanded && e.t.EndPoint != nil {
			return &krb5.Error{Code: krb5.CodeGeneric, Text: "Channel binding is required", Kind: authn.Denied}
		}
		return nil
	}
	if e.t.EndPoint == nil || got != bindingHash(e.t.EndPoint) {
		return &krb5.Error{Code: krb5.CodeGeneric, Text: "The client's TLS connection does not end at this server", Kind: authn.Denied}
	}
	e.bound = true
	return nil
}

// refused gives Kerberos' reasons to the client: they speak of its own ticket
// and clock.
func (e *exchange) refused(err error) error {
	var ke *krb5.Error
	if !errors.As(err, &ke) {
		return &authn.Error{Kind: authn.KindOf(err), Step: e.name, Err: err}
	}
	return &authn.Error{Kind: ke.Kind, Step: e.name, Err: err, Text: ke.Text}
}

func (e *exchange) malformed(err error) error {
	return &authn.Error{Kind: authn.Malformed, Step: e.name, Err: err}
}

// unreadable is malformed in a token, of which the client is told.
func (e *exchange) unreadable(err error) error {
	return &authn.Error{Kind: authn.Malformed, Step: e.name, Err: err, Text: err.Error()}
}
