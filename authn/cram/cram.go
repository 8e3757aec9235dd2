// Package cram is the mechanism CRAM-MD5 (RFC 2195).
//
// # Design notes
//
// The stored secret is as good as a password to whoever reads it, so it has a
// scheme of its own in the [authn.SecretSource] and is never a login password.
package cram

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/md5"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/kpopd/kpopd/authn"
)

const name = "CRAM-MD5"

// New returns CRAM-MD5 over the secrets of chain. hostname stands in the
// challenge, "localhost" when empty.
func New(chain authn.Chain, hostname string) authn.Mechanism {
	if hostname == "" {
		hostname = "localhost"
	}
	return &mechanism{chain, hostname}
}

type mechanism struct {
	chain    authn.Chain
	hostname string
}

func (*mechanism) Name() string         { return name }
func (*mechanism) Traits() authn.Traits { return authn.ServerFirst }

func (m *mechanism) Start(context.Context, *authn.Transport) (authn.Exchange, error) {
	return &exchange{m: m}, nil
}

type exchange struct {
	m         *mechanism
	challenge []byte
	login     string
	id        *authn.Identity
}

var _ authn.Claimer = (*exchange)(nil)

func (e *exchange) Identity() *authn.Identity { return e.id }

// Claimed implements [authn.Claimer].
func (e *exchange) Claimed() (string, *authn.Principal) { return e.login, nil }

func fail(kind authn.Kind, err error) error { return &authn.Error{Kind: kind, Step: name, Err: err} }

// Next implements [authn.Exchange].
func (e *exchange) Next(ctx context.Context, response []byte) ([]byte, bool, error) {
	if e.challenge == nil {
		if response != nil {
			return nil, false, fail(authn.Malformed, errors.New("takes no initial response"))
		}
		e.challenge = newChallenge(e.m.hostname)
		return bytes.Clone(e.challenge), false, nil
	}
	login, digest, err := split(response)
	if err != nil {
		return nil, false, fail(authn.Malformed, err)
	}
	e.login = login
	user, err := authn.CanonicalLogin(ctx, authn.TakeView(ctx, login))
	if err != nil {
		return nil, false, fail(authn.UnknownUser, err)
	}
	secret, id, err := e.m.chain.Secret(ctx, user, name)
	if err != nil {
		secret = make(authn.Password, 16) // the same work for nothing
	}
	defer secret.Wipe()
	mac := hmac.New(md5.New, secret)
	mac.Write(e.challenge)
	same := hmac.Equal(digest, mac.Sum(nil))
	switch {
	case err != nil:
		return nil, false, err
	case !same:
		return nil, false, fail(authn.Rejected, errors.New("wrong digest"))
	}
	e.id = id
	return nil, true, nil
}

// newChallenge makes what RFC 2195 section 2 wants: the msg-id of RFC 822 with
// random digits, a timestamp and the name of the host. Some clients take
// nothing but digits and a dot on the left.
func newChallenge(hostname string) []byte {
	var b [8]byte
	_, _ = rand.Read(b[:])
	return fmt.Appendf(nil, "<%d.%d@%s>", binary.BigEndian.Uint64(b[:]), time.Now().UnixNano(), hostname)
}

// split takes a response apart at its last space: a name may have some.
func split(b []byte) (login string, digest []byte, err error) {
	i := bytes.LastIndexByte(b, ' ')
	if i < 0 || len(b)-i-1 != hex.EncodedLen(md5.Size) || bytes.ContainsAny(b[i+1:], "ABCDEF") {
		return "", nil, errors.New("not a name and 32 lower case hexadecimal digits")
	}
	digest = make([]byte, md5.Size)
	if _, err := hex.Decode(digest, b[i+1:]); err != nil {
		return "", nil, err
	}
	return string(b[:i]), digest, nil
}
