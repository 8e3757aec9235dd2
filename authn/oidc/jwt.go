package oidc

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"

	"github.com/kpopd/kpopd/authn"
)

// signed are the claims of a JWT whose signature is good.
func (v *Verifier) signed(ctx context.Context, token string) (claims, error) {
	header, body, err := peek(token)
	switch iss := body.text("iss"); {
	case err != nil:
		return nil, v.fail(authn.Decline, fmt.Errorf("no signed token: %w", err))
	case iss != v.o.Issuer:
		return nil, v.fail(authn.Decline, fmt.Errorf("issuer %s", shown(iss)))
	}
	alg := header.text("alg")
	switch {
	case !slices.Contains(v.o.Algorithms, alg):
		return nil, v.fail(authn.Rejected, fmt.Errorf("algorithm %s", shown(alg)))
	case header["crit"] != nil:
		return nil, v.fail(authn.Rejected, errors.New("a critical header that is not understood"))
	}
	keys, err := v.keys.find(ctx, header.text("kid"), alg)
	if err != nil {
		return nil, v.fail(kindOf(err), err)
	}
	payload, err := payloadOf(token, alg, keys)
	if err != nil {
		return nil, v.fail(authn.Rejected, err)
	}
	body, err = parseClaims(payload)
	if err != nil {
		return nil, v.fail(authn.Rejected, err)
	}
	return body, nil
}

// kindOf: a key that the issuer does not have makes a token wrong, all else is
// that we do not know.
func kindOf(err error) authn.Kind {
	if errors.Is(err, errNoKey) {
		return authn.Rejected
	}
	return authn.Unavailable
}

// peek reads header and claims of a JWT in compact form, unproven. Its three
// parts are base64url without padding or spare bits (RFC 7515 section 2), so that
// a token is written in one way only.
func peek(token string) (header, body claims, err error) {
	parts := strings.Split(token, ".")
	if strings.ContainsAny(token, "\r\n") { // which the decoder would skip
		return nil, nil, errors.New("line end")
	}
	if len(parts) != 3 {
		return nil, nil, fmt.Errorf("%d parts, not 3", len(parts))
	}
	var read [3][]byte
	for i, p := range parts {
		if read[i], err = base64.RawURLEncoding.Strict().DecodeString(p); err != nil || len(read[i]) == 0 {
			return nil, nil, errors.New("parts are no base64url")
		}
	}
	if header, err = parseClaims(read[0]); err != nil {
		return nil, nil, err
	}
	if body, err = parseClaims(read[1]); err != nil {
		return nil, nil, err
	}
	return header, body, nil
}

// payloadOf is the payload of token when one of keys signed it.
func payloadOf(token, alg string, keys []any) ([]byte, error) {
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(alg)})
	if err != nil {
		return nil, errors.New("header of the token is not understood")
	}
	for _, k := range keys {
		if payload, err := jws.Verify(k); err == nil {
			return payload, nil
		}
	}
	return nil, errors.New("wrong signature")
}
