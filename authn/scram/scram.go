// Package scram is the mechanisms SCRAM-SHA-1 and SCRAM-SHA-256 (RFC 5802,
// RFC 7677) and their -PLUS forms, which are bound to the TLS connection
// (RFC 5929, RFC 9266). It has the server's side, and the keys that a server
// stores in place of a password.
//
//	C: AUTH SCRAM-SHA-256
//	S: +                                unless the message came with AUTH
//	C: n,,n=alice,r=NONCE
//	S: r=NONCEMORE,s=SALT,i=4096
//	C: c=biws,r=NONCEMORE,p=PROOF
//	S: v=SIGNATURE                      the server has the keys too
//	C:                                  and then an empty line
//	S: +OK
//
// # Design notes
//
// What is stored is salt, iterations, StoredKey and ServerKey: a thief of them
// has to guess passwords as with any hash, and can pretend to be the server to
// that user. They come from an [authn.SecretSource] as text ([Keys.Text]); the
// scheme is the name of the mechanism without -PLUS.
//
// A name that nobody has is answered like one that somebody has: with a salt
// made of a key file and the name, so that it is the same tomorrow and on the
// next server, with the iterations that real users have, with the same work,
// and with the refusal at the end only. An outage is told at once.
//
// Bindings are tls-exporter, in TLS 1.3, and tls-server-end-point. tls-unique
// is never taken: it is not defined for TLS 1.3, and crypto/tls gives it for
// TLS 1.2 only without the extended master secret that makes it safe.
//
// The exchange is written here and not taken from xdg-go/scram, which the tests
// use as the client. Its server binds a conversation to one type where a client
// may choose, takes "p=" under the name without -PLUS, ignores "m=" in the last
// message, quotes the binding in its errors, and leaves the ClientKey, which is
// as good as the password, in memory. To guard it would take the parser that
// makes up most of this package, and two parsers of one message can disagree.
package scram

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/kpopd/kpopd/authn"
)

const plusSuffix = "-PLUS"

// Binding says what to make of channel bindings.
type Binding uint8

const (
	BindingIfOffered Binding = iota // a client that binds must bind to this connection
	BindingOff                      // the -PLUS forms are not to be had, and nobody notes who could
	BindingRequired                 // nobody logs in without
)

// Options are what the mechanisms of one policy have in common. They are only
// read.
type Options struct {
	Chain   authn.Chain
	Binding Binding
	// Offers are the names that the policy has, from which a form without -PLUS
	// knows whether one with it was there to be chosen.
	Offers []string
	// SaltKey makes the salts of names that nobody has, at least 16 octets.
	// Servers with one name in common need the same.
	SaltKey authn.Password
	// Iterations that such names have when no verifier of Chain is a
	// [Surveyor] that knows better; [DefaultIterations] when zero.
	Iterations int
}

// New returns the mechanism of a name in [Names].
func New(name string, o Options) (authn.Mechanism, error) {
	if !slices.Contains(Names(), name) {
		return nil, fmt.Errorf("no SCRAM mechanism is named %q", name)
	}
	if len(o.SaltKey) < 16 {
		return nil, errors.New("the key for salts is shorter than 16 octets")
	}
	base, plus := strings.CutSuffix(name, plusSuffix)
	return &mechanism{Options: o, name: name, base: base, h: hashOf(base), plus: plus}, nil
}

// Names are the mechanisms that there are, the best first.
func Names() []string {
	return []string{"SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-1"}
}

type mechanism struct {
	Options
	name, base string
	h          *hasher
	plus       bool
}

func (m *mechanism) Name() string { return m.name }

func (m *mechanism) Traits() authn.Traits {
	if m.plus {
		return authn.NeedsBinding
	}
	return 0
}

func (m *mechanism) Start(_ context.Context, t *authn.Transport) (authn.Exchange, error) {
	switch {
	case m.plus && m.Binding == BindingOff:
		return nil, m.fail(authn.Denied, errors.New("channel binding is off"))
	case m.plus && !t.Bindable():
		return nil, m.fail(authn.Denied, errors.New("no TLS to bind to"))
	case !m.plus && m.Binding == BindingRequired:
		return nil, &authn.Error{
			Kind: authn.Denied, Step: m.name, Err: errors.New("channel binding is required"),
			Text: "Channel binding is required, use " + m.base + plusSuffix,
		}
	}
	e := &exchange{m: m, t: t, nonce: rand.Text()}
	e.next = e.begin
	return e, nil
}

func (m *mechanism) fail(kind authn.Kind, err error) error {
	return &authn.Error{Kind: kind, Step: m.name, Err: err}
}

// plusOffered reports whether a client on t could have chosen a -PLUS form. With
// another hash counts too: whoever strips a list may strip the better hash first.
func (m *mechanism) plusOffered(t *authn.Transport) bool {
	return m.Binding != BindingOff && t.Bindable() &&
		slices.ContainsFunc(m.Offers, func(name string) bool { return strings.HasSuffix(name, plusSuffix) })
}

// exchange is one login. next takes the client's next message.
type exchange struct {
	m        *mechanism
	t        *authn.Transport
	next     func(context.Context, []byte) ([]byte, bool, error)
	prompted bool
	nonce    string // ours, then the client's with ours behind it
	first    clientFirst
	offer    string // server-first-message
	bind     []byte // what the client's c= must be
	keys     *Keys  // the user's, or those of nobody
	refusal  error  // the proof will be of no use
	user     string // the login in canonical form
	vouched  *authn.Identity
	id       *authn.Identity
}

var (
	_ authn.Claimer = (*exchange)(nil)
	_ authn.Noter   = (*exchange)(nil)
	_ authn.Wiper   = (*exchange)(nil)
	_ authn.Binder  = (*exchange)(nil)
)

func (e *exchange) Identity() *authn.Identity { return e.id }

// Claimed implements [authn.Claimer].
func (e *exchange) Claimed() (string, *authn.Principal) { return e.first.user, nil }

// Bound implements [authn.Binder].
func (e *exchange) Bound() bool { return e.m.plus }

// Wipe implements [authn.Wiper].
func (e *exchange) Wipe() {
	if e.keys != nil {
		e.keys.Wipe()
	}
}

// Note implements [authn.Noter]: who could have bound the login to TLS, and did
// not.
func (e *exchange) Note() string {
	switch {
	case e.m.Binding == BindingOff || !e.t.Bindable():
		return ""
	case e.m.plus && e.first.flag == 0:
		return "the client chose channel binding and sent none"
	case e.first.flag == 'n':
		return "no channel binding, the client says it can do none"
	case e.first.flag == 'y':
		return "no channel binding, the client says it could"
	}
	return ""
}

func (e *exchange) Next(ctx context.Context, response []byte) ([]byte, bool, error) {
	return e.next(ctx, response)
}

// begin takes client-first-message. No initial response and an empty one are
// the same to a mechanism whose first message is never empty.
func (e *exchange) begin(ctx context.Context, response []byte) ([]byte, bool, error) {
	if len(response) == 0 && !e.prompted {
		e.prompted = true
		return []byte{}, false, nil
	}
	first, err := parseFirst(response)
	if err != nil {
		return nil, false, e.m.fail(authn.Malformed, err)
	}
	e.first = first
	if err := e.bindings(); err != nil {
		return nil, false, err
	}
	if err := e.lookup(ctx); err != nil {
		return nil, false, err
	}
	e.nonce = first.nonce + e.nonce
	e.offer = fmt.Sprintf("r=%s,s=%s,i=%d", e.nonce, base64.StdEncoding.EncodeToString(e.keys.Salt), e.keys.Iterations)
	e.next = e.finish
	return []byte(e.offer), false, nil
}

// bindings checks the flag of the GS2 header (RFC 5802 section 6) and notes
// what the client must bind to.
func (e *exchange) bindings() error {
	e.bind = []byte(e.first.header)
	switch {
	case e.m.plus != (e.first.flag == 'p'):
		return e.m.fail(authn.Malformed, fmt.Errorf("flag %q does not go with the name of the mechanism", e.first.flag))
	case e.first.flag == 'y' && e.m.plusOffered(e.t):
		// "If the flag is set to "y" and the server supports channel binding,
		// the server MUST fail authentication" (RFC 5802 section 6)
		return &authn.Error{
			Kind: authn.Denied, Step: e.m.name, Err: errors.New("the client can bind and did not see the -PLUS form: a list of mechanisms that was changed on its way?"),
			Text: "This server does offer channel binding, and your client did not see it",
		}
	case !e.m.plus:
		return nil
	}
	data, err := e.m.channelBinding(e.t, e.first.binding)
	if err != nil {
		return err
	}
	e.bind = append(e.bind, data...)
	return nil
}

// lookup finds the user's keys. Of a refusal nothing shows until the end: the
// keys of nobody go the same way.
func (e *exchange) lookup(ctx context.Context) error {
	user, err := authn.CanonicalLogin(ctx, authn.TakeView(ctx, e.first.user))
	if err != nil {
		e.keys, e.refusal = e.m.nobody(e.first.user), e.m.fail(authn.UnknownUser, err)
		return nil
	}
	e.user = user
	secret, id, err := e.m.Chain.Secret(ctx, user, e.m.base)
	nobody := e.m.nobody(user) // now that a verifier that is far away has told what keys look like
	if err != nil {
		switch authn.KindOf(err) {
		case authn.UnknownUser, authn.Rejected, authn.Denied, authn.Expired:
			e.refusal, secret = err, nobody.Text()
		default:
			return err
		}
	}
	defer secret.Wipe()
	keys, err := Parse(secret)
	if err == nil && keys.Scheme != e.m.base {
		err = fmt.Errorf("they are for %s", keys.Scheme)
	}
	if err != nil {
		return e.m.fail(authn.Internal, fmt.Errorf("keys of %s: %w", user, err))
	}
	e.keys, e.vouched = keys, id
	return nil
}

// finish takes client-final-message. The proof of somebody who is to be refused
// is computed too.
func (e *exchange) finish(ctx context.Context, response []byte) ([]byte, bool, error) {
	final, err := parseFinal(response)
	if err != nil {
		return nil, false, e.m.fail(authn.Malformed, err)
	}
	defer clear(final.proof)
	if !hmac.Equal([]byte(final.nonce), []byte(e.nonce)) {
		return nil, false, e.m.fail(authn.Malformed, errors.New("the nonce is another one"))
	}
	if !hmac.Equal(final.binding, e.bind) {
		return nil, false, e.unbound()
	}
	message := []byte(e.first.bare + "," + e.offer + "," + final.withoutProof)
	proven := e.keys.prove(e.m.h, message, final.proof)
	switch {
	case e.refusal != nil:
		return nil, false, e.refusal
	case !proven:
		return nil, false, e.m.fail(authn.Rejected, errors.New("wrong proof"))
	}
	if err := e.authorize(ctx); err != nil {
		return nil, false, err
	}
	e.id = e.vouched
	signature := e.m.h.mac(e.keys.Server, message)
	return []byte("v=" + base64.StdEncoding.EncodeToString(signature)), true, nil
}

// unbound is the refusal of a c= that is not what it must be.
func (e *exchange) unbound() error {
	if !e.m.plus {
		return e.m.fail(authn.Denied, errors.New("the GS2 header is not the one that the client sent first: changed on its way?"))
	}
	return &authn.Error{
		Kind: authn.Denied, Step: e.m.name, Err: fmt.Errorf("%s is that of another connection", e.first.binding),
		Text: "The client's TLS connection does not end at this server",
	}
}

// authorize leaves it to the policy whether the client may act for another.
func (e *exchange) authorize(ctx context.Context) error {
	if e.first.authzid == "" {
		return nil
	}
	z, err := authn.CanonicalLogin(ctx, authn.TakeView(ctx, e.first.authzid))
	if err != nil {
		return e.m.fail(authn.Denied, errors.New("acts for no login name"))
	}
	if z != e.user && !authn.SameLogin(ctx, z, e.vouched.User) {
		e.vouched.For = z
	}
	return nil
}
