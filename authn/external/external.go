// Package external is the SASL mechanism EXTERNAL (RFC 4422 appendix A): the
// client has proven itself with a certificate in the TLS handshake, and says
// here at most whose mail it wants.
//
//	C: AUTH EXTERNAL =          whoever the certificate belongs to
//	S: +OK
//
//	C: AUTH EXTERNAL
//	S: +                        unless the name came with AUTH
//	C: YWxpY2U=                 alice: if the certificate is not hers, the policy decides
//	S: +OK
//
// [Mapper] says to whom a certificate belongs.
//
// # Design notes
//
// Whether an authority vouches for a certificate is judged once, when the
// handshake is over, by whoever made it; [authn.Certificate] carries the verdict
// here. Nothing in this package looks at a certificate without one.
//
// EXTERNAL is there only for a certificate that belongs to somebody. An outage
// (nobody knows which certificates have been revoked) does not hide it: the
// client would take a server that cannot judge now for one that never could.
package external

import (
	"bytes"
	"context"
	"errors"
	"unicode/utf8"

	"github.com/kpopd/kpopd/authn"
)

// Name of the mechanism.
const Name = "EXTERNAL"

// New returns EXTERNAL over the mappers of chain.
func New(chain authn.Chain) authn.Mechanism { return &mechanism{chain} }

type mechanism struct{ chain authn.Chain }

var (
	_ authn.Conditional = (*mechanism)(nil)
	_ authn.Claimer     = (*exchange)(nil)
)

func (*mechanism) Name() string         { return Name }
func (*mechanism) Traits() authn.Traits { return 0 }

// Usable implements [authn.Conditional].
func (m *mechanism) Usable(ctx context.Context, t *authn.Transport) error {
	if err := proven(t.Client); err != nil {
		return unlessOutage(err, "the client certificate is not accepted")
	}
	_, err := m.chain.OwnsCertificate(ctx, t.Client.Chain)
	if err != nil {
		return unlessOutage(err, "the client certificate belongs to nobody here")
	}
	return nil
}

// unlessOutage is what a client may know of err, or nil when Start had better
// tell it.
func unlessOutage(err error, text string) error {
	var e *authn.Error
	switch k := authn.KindOf(err); {
	case k == authn.Unavailable || k == authn.Internal:
		return nil
	case errors.As(err, &e) && e.Text != "":
		text = e.Text
	}
	return errors.New(text)
}

// proven is nil when an authority vouches for c.
func proven(c *authn.Certificate) error {
	switch {
	case c == nil:
		return &authn.Error{Kind: authn.Denied, Step: Name, Err: errors.New("no client certificate"), Text: "no client certificate came with TLS"}
	case c.Err != nil:
		return c.Err
	case len(c.Chain) == 0:
		return &authn.Error{Kind: authn.Denied, Step: Name, Err: errors.New("no authority vouches for the certificate")}
	}
	return nil
}

// Start implements [authn.Mechanism].
func (m *mechanism) Start(_ context.Context, t *authn.Transport) (authn.Exchange, error) {
	if err := proven(t.Client); err != nil {
		return nil, err
	}
	return &exchange{m: m, t: t}, nil
}

type exchange struct {
	m       *mechanism
	t       *authn.Transport
	authzid string
	id      *authn.Identity
}

func (e *exchange) Identity() *authn.Identity { return e.id }

// Claimed implements [authn.Claimer].
func (e *exchange) Claimed() (string, *authn.Principal) { return e.authzid, nil }

// Next implements [authn.Exchange]. An empty response is a wish for no name in
// particular; none at all is a client that waits to be asked.
func (e *exchange) Next(ctx context.Context, response []byte) ([]byte, bool, error) {
	if response == nil {
		return []byte{}, false, nil
	}
	if !utf8.Valid(response) || bytes.IndexByte(response, 0) >= 0 {
		// "extern-resp = *( UTF8-char-no-nul )" (RFC 4422 appendix A.1)
		return nil, false, &authn.Error{Kind: authn.Malformed, Step: Name, Err: errors.New("name is no UTF-8 or has a NUL")}
	}
	e.authzid = string(response)
	id, err := e.m.chain.MapCertificate(ctx, e.t.Client.Chain)
	if err != nil {
		return nil, false, err
	}
	if authzid := authn.TakeView(ctx, e.authzid); authzid != "" && !authn.SameLogin(ctx, authzid, id.User) {
		// the policy says whether he may
		if id.For, err = authn.CanonicalLogin(ctx, authzid); err != nil {
			return nil, false, &authn.Error{Kind: authn.Denied, Step: Name, Err: errors.New("acts for no login name")}
		}
	}
	e.id = id
	return nil, true, nil
}
