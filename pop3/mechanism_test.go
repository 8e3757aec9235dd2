package pop3_test

import (
	"context"
	"errors"
	"net"
	"strconv"

	"github.com/kpopd/kpopd/authn"
)

// script are mechanisms that show what the engine does with an exchange.
func script(*people) []authn.Mechanism {
	return []authn.Mechanism{
		echo{name: "X-ECHO"},
		echo{name: "X-FINAL", final: true},
		echo{name: "X-LAYER", layer: true},
		echo{name: "X-LARGE", large: true},
		echo{name: "X-REASON", reason: true},
	}
}

// echo is a mechanism whose client sends first. It challenges with the
// response before, until the client sends "ok alice".
type echo struct {
	name   string
	final  bool // sends "v=proof" together with success, as SCRAM does
	layer  bool // negotiates a security layer that is a swapCase
	large  bool // challenges with the number of octets that came
	reason bool // sends "reason" before a refusal, as OAUTHBEARER does
}

func (e echo) Name() string       { return e.name }
func (echo) Traits() authn.Traits { return 0 }

func (e echo) Start(context.Context, *authn.Transport) (authn.Exchange, error) {
	return &echoExchange{echo: e}, nil
}

type echoExchange struct {
	echo
	id *authn.Identity
}

func (e *echoExchange) Identity() *authn.Identity { return e.id }

func (e *echoExchange) Layer() func(net.Conn) net.Conn {
	if !e.layer {
		return nil
	}
	return func(c net.Conn) net.Conn { return swapCase{c} }
}

func (e *echoExchange) Next(_ context.Context, response []byte) ([]byte, bool, error) {
	switch {
	case response == nil:
		return nil, false, nil
	case string(response) == "no":
		var reason []byte
		if e.reason {
			reason = []byte("reason")
		}
		return reason, false, &authn.Error{Kind: authn.Rejected, Step: e.name, Err: errors.New("the client wants it so")}
	case string(response) != "ok alice":
		if e.large {
			return []byte(strconv.Itoa(len(response))), false, nil
		}
		return append([]byte("echo "), response...), false, nil
	}
	e.id = &authn.Identity{User: "alice"}
	if e.final {
		return []byte("v=proof"), true, nil
	}
	return nil, true, nil
}

// swapCase is a security layer that anybody can read: capitals for small
// letters, nines for noughts.
type swapCase struct{ net.Conn }

func (s swapCase) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	swap(p[:n], p[:n])
	return n, err
}

func (s swapCase) Write(p []byte) (int, error) {
	q := make([]byte, len(p))
	swap(q, p)
	return s.Conn.Write(q)
}

func swap(dst, src []byte) {
	for i, b := range src {
		switch l := b | 0x20; {
		case 'a' <= l && l <= 'z':
			b ^= 0x20
		case '0' <= b && b <= '9':
			b = '0' + '9' - b
		}
		dst[i] = b
	}
}

// kpopMechanism judges the ticket that a transport has shown: its one response
// is the name given to USER.
type kpopMechanism struct{ chain authn.Chain }

func (kpopMechanism) Name() string { return "KPOP" }

func (kpopMechanism) Traits() authn.Traits { return authn.Command | authn.NeedsPeer }

func (k kpopMechanism) Start(_ context.Context, t *authn.Transport) (authn.Exchange, error) {
	return &kpopExchange{k.chain, t.Peer, nil}, nil
}

type kpopExchange struct {
	chain authn.Chain
	peer  *authn.Principal
	id    *authn.Identity
}

func (k *kpopExchange) Identity() *authn.Identity { return k.id }

func (k *kpopExchange) Next(ctx context.Context, user []byte) (_ []byte, _ bool, err error) {
	k.id, err = k.chain.MapPrincipal(ctx, k.peer, string(user))
	return nil, err == nil, err
}
