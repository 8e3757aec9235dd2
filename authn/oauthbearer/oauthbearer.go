// Package oauthbearer holds the mechanisms whose proof is a bearer token:
// OAUTHBEARER (RFC 7628), and XOAUTH2, the form that Google and Microsoft had
// before it.
//
// It takes the message apart and asks the chain; what a token is worth, and for
// whom, is the business of an [authn.TokenVerifier].
//
// # Design notes
//
// Whoever sees a token can use it, so neither mechanism is there without TLS,
// whatever network the policy trusts (RFC 7628 section 4).
//
// A refusal is a challenge first, in JSON, and -ERR only after the client has
// answered it (RFC 7628 section 3.2.2). The exchange is over by then: what the
// client answers, nothing or "*" as well, meets no parser. go-sasl's server is
// not used because it indexes that answer, and panics when it is empty.
//
// That challenge says "invalid_token" and makes clients throw the token away and
// ask a person for another, so it is for refusals alone. An outage, and a message
// that is no message of the mechanism, end the exchange at once.
//
// A token is copied out of the response once, handed to the chain, wiped.
package oauthbearer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"

	"github.com/kpopd/kpopd/authn"
)

// Names of the mechanisms.
const (
	OAUTHBEARER = "OAUTHBEARER"
	XOAUTH2     = "XOAUTH2"
)

// MaxToken is the length of the longest token, in octets. Those of a directory
// with many groups have come to 20 KiB.
const MaxToken = 48 << 10

// Hints are what a refused client is told of how to get a better token. Both may
// be empty.
type Hints struct {
	Scope  string // scopes that the token needs, with spaces between
	Config string // URL of the issuer's OpenID configuration; OAUTHBEARER only
}

// Bearer is OAUTHBEARER over chain.
func Bearer(chain authn.Chain, h Hints) authn.Mechanism {
	refusal := marshal(struct {
		Status string `json:"status"`
		Scope  string `json:"scope,omitempty"`
		Config string `json:"openid-configuration,omitempty"`
	}{"invalid_token", h.Scope, h.Config}) // RFC 7628 section 3.2.2
	return &mechanism{OAUTHBEARER, chain, parseBearer, refusal}
}

// Legacy is XOAUTH2 over chain.
func Legacy(chain authn.Chain, h Hints) authn.Mechanism {
	refusal := marshal(struct {
		Status  string `json:"status"`
		Schemes string `json:"schemes"`
		Scope   string `json:"scope,omitempty"`
	}{"401", "bearer", h.Scope})
	return &mechanism{XOAUTH2, chain, parseLegacy, refusal}
}

func marshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings marshal
	}
	return b
}

type mechanism struct {
	name    string
	chain   authn.Chain
	parse   func([]byte) (message, error)
	refusal []byte // challenge before -ERR
}

func (m *mechanism) Name() string { return m.name }

func (*mechanism) Traits() authn.Traits { return authn.Plaintext | authn.NeedsTLS }

func (m *mechanism) Start(_ context.Context, t *authn.Transport) (authn.Exchange, error) {
	return &exchange{m: m, t: t}, nil
}

type exchange struct {
	m     *mechanism
	t     *authn.Transport
	login string // as claimed
	id    *authn.Identity
}

var _ authn.Claimer = (*exchange)(nil)

func (e *exchange) Identity() *authn.Identity { return e.id }

// Claimed implements [authn.Claimer].
func (e *exchange) Claimed() (string, *authn.Principal) { return e.login, nil }

func (e *exchange) fail(kind authn.Kind, err error) error {
	return &authn.Error{Kind: kind, Step: e.m.name, Err: err}
}

// Next implements [authn.Exchange]. A client without an initial response, as one
// whose token is too long for a command line, gets an empty challenge.
func (e *exchange) Next(ctx context.Context, response []byte) ([]byte, bool, error) {
	if response == nil {
		return []byte{}, false, nil
	}
	m, err := e.m.parse(response)
	if err != nil {
		return nil, false, e.fail(authn.Malformed, err)
	}
	e.login = m.login
	id, err := e.verify(ctx, m)
	switch authn.KindOf(err) {
	case authn.UnknownUser, authn.Rejected, authn.Denied, authn.Expired:
		return bytes.Clone(e.m.refusal), false, err
	}
	if err != nil {
		return nil, false, err
	}
	e.id = id
	return nil, true, nil
}

// verify asks the chain about a message, whose token shares memory with the
// response.
func (e *exchange) verify(ctx context.Context, m message) (*authn.Identity, error) {
	login := ""
	if m.login != "" {
		var err error
		if login, err = authn.CanonicalLogin(ctx, authn.TakeView(ctx, m.login)); err != nil {
			return nil, e.fail(authn.UnknownUser, err)
		}
	}
	switch {
	case len(m.token) == 0:
		// a client may ask this way what it needs (RFC 7628 section 4.3)
		return nil, e.fail(authn.Rejected, errors.New("no bearer token"))
	case len(m.token) > MaxToken:
		return nil, e.fail(authn.Rejected, errors.New("token too long"))
	}
	token := authn.Password(bytes.Clone(m.token))
	defer token.Wipe()
	return e.m.chain.VerifyToken(ctx, &authn.TokenRequest{Transport: e.t, Login: login, Token: token})
}
