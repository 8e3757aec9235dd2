package plain

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/subtle"
	"encoding/hex"
	"errors"

	"github.com/kpopd/kpopd/authn"
)

const apopName = "APOP"

// APOP is the command of RFC 1939 section 7. Its one response is the argument
// of the command: name, space, digest.
//
// MD5 is what the RFC asks for. A listener in the middle who may choose the
// timestamp learns three characters of the secret (CVE-2007-1558), so APOP is
// for use inside TLS and its secrets are nobody's password.
func APOP(chain authn.Chain) authn.Mechanism { return &apop{chain: chain} }

type apop struct{ chain authn.Chain }

func (*apop) Name() string         { return apopName }
func (*apop) Traits() authn.Traits { return authn.Command | authn.NeedsStamp }

func (m *apop) Start(_ context.Context, t *authn.Transport) (authn.Exchange, error) {
	if t.Stamp == "" {
		return nil, &authn.Error{Kind: authn.Denied, Step: apopName, Err: errors.New("the greeting has no timestamp")}
	}
	return &apopExchange{chain: m.chain, stamp: t.Stamp}, nil
}

type apopExchange struct {
	chain authn.Chain
	stamp string
	login string
	upper bool
	id    *authn.Identity
}

var (
	_ authn.Claimer = (*apopExchange)(nil)
	_ authn.Noter   = (*apopExchange)(nil)
)

func (e *apopExchange) Identity() *authn.Identity { return e.id }

// Claimed implements [authn.Claimer].
func (e *apopExchange) Claimed() (string, *authn.Principal) { return e.login, nil }

// Note implements [authn.Noter].
func (e *apopExchange) Note() string {
	if e.upper {
		return "digest in upper case, RFC 1939 section 7 says lower case"
	}
	return ""
}

// Next implements [authn.Exchange].
func (e *apopExchange) Next(ctx context.Context, response []byte) ([]byte, bool, error) {
	i := bytes.LastIndexByte(response, ' ')
	var digest [md5.Size]byte
	if i < 0 || len(response)-i-1 != hex.EncodedLen(md5.Size) {
		return nil, false, &authn.Error{Kind: authn.Malformed, Step: apopName, Err: errors.New("not a name and 32 hexadecimal digits")}
	}
	if _, err := hex.Decode(digest[:], response[i+1:]); err != nil {
		return nil, false, &authn.Error{Kind: authn.Malformed, Step: apopName, Err: err}
	}
	e.upper = bytes.ContainsAny(response[i+1:], "ABCDEF")
	e.login = string(response[:i])
	user, err := authn.CanonicalLogin(ctx, authn.TakeView(ctx, e.login))
	if err != nil {
		return nil, false, &authn.Error{Kind: authn.UnknownUser, Step: apopName, Err: err}
	}
	secret, id, err := e.chain.Secret(ctx, user, apopName)
	if err != nil {
		secret = make(authn.Password, 16) // the same work for nothing
	}
	defer secret.Wipe()
	same := subtle.ConstantTimeCompare(digest[:], sum(e.stamp, secret)) == 1
	switch {
	case err != nil:
		return nil, false, err
	case !same:
		return nil, false, &authn.Error{Kind: authn.Rejected, Step: apopName, Err: errors.New("wrong digest")}
	}
	e.id = id
	return nil, true, nil
}

// sum is MD5 of the timestamp with its angle brackets and the secret.
func sum(stamp string, secret authn.Password) []byte {
	h := md5.New()
	h.Write([]byte(stamp))
	h.Write(secret)
	return h.Sum(nil)
}
