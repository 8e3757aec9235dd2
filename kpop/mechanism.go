package kpop

import (
	"context"
	"errors"
	"unicode/utf8"

	"github.com/kpopd/kpopd/authn"
)

// Mechanism makes the mechanism KPOP: the chain judges which login the
// principal of the handshake may have. Its one response is the name given to
// USER.
func Mechanism(chain authn.Chain) authn.Mechanism { return mechanism{chain} }

type mechanism struct{ chain authn.Chain }

func (mechanism) Name() string         { return "KPOP" }
func (mechanism) Traits() authn.Traits { return authn.Command | authn.NeedsPeer }

func (m mechanism) Start(_ context.Context, t *authn.Transport) (authn.Exchange, error) {
	if t.Peer == nil {
		return nil, &authn.Error{Kind: authn.Denied, Step: step, Err: errors.New("no ticket was shown")}
	}
	return &exchange{chain: m.chain, peer: t.Peer}, nil
}

type exchange struct {
	chain authn.Chain
	peer  *authn.Principal
	login string
	id    *authn.Identity
}

func (e *exchange) Next(ctx context.Context, response []byte) ([]byte, bool, error) {
	if response == nil || !utf8.Valid(response) {
		return nil, false, malformed(errors.New("USER gave no name in UTF-8"))
	}
	e.login = string(response)
	id, err := e.chain.MapPrincipal(ctx, e.peer, authn.TakeView(ctx, e.login))
	if err != nil {
		return nil, false, err
	}
	e.id = id
	return nil, true, nil
}

func (e *exchange) Identity() *authn.Identity           { return e.id }
func (e *exchange) Claimed() (string, *authn.Principal) { return e.login, e.peer }

var (
	_ authn.Mechanism = mechanism{}
	_ authn.Claimer   = (*exchange)(nil)
)
