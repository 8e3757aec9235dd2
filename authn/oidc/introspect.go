package oidc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/sitefile"
)

const (
	maxQuestions = 32       // asked at once
	maxAnswer    = 64 << 10 // octets
	maxSecret    = 4 << 10  // octets of the file of the client's password
)

// introspector asks the issuer about tokens (RFC 7662).
type introspector struct {
	web   *web
	url   string
	user  string // client id and password as RFC 6749 section 2.3.1 has them, not in a file any more
	pass  string
	slots chan struct{} // holds one for each question under way
}

func newIntrospector(o Options, web *web) (*introspector, error) {
	i := &introspector{web: web, url: o.Introspection, slots: make(chan struct{}, maxQuestions)}
	switch {
	case !IsURL(o.Introspection):
		return nil, fmt.Errorf("introspection: %w", CheckURL(o.Introspection))
	case o.ClientID == "" || o.ClientSecret == "":
		// "the authorization server MUST require some form of authorization" (section 2.1)
		return nil, errors.New("introspection needs a client id and a file with its secret")
	}
	secret, err := sitefile.Read(o.ClientSecret, maxSecret, sitefile.WorldUsable)
	if err != nil {
		return nil, err
	}
	defer clear(secret)
	word := bytes.TrimRight(secret, "\r\n")
	if len(word) == 0 {
		return nil, fmt.Errorf("%s: it is empty", o.ClientSecret)
	}
	i.user, i.pass = url.QueryEscape(o.ClientID), url.QueryEscape(string(word))
	return i, nil
}

// introspect are the claims of a token that the issuer calls active.
func (v *Verifier) introspect(ctx context.Context, token authn.Password) (claims, error) {
	b, err := v.client.ask(ctx, token)
	if err != nil {
		return nil, v.fail(authn.Unavailable, err)
	}
	c, err := parseClaims(b)
	switch active := string(c["active"]); {
	case err != nil:
		return nil, v.fail(authn.Unavailable, fmt.Errorf("introspection: answer: %w", err))
	case active == "false":
		return nil, v.fail(authn.Rejected, errors.New("the issuer calls the token not active"))
	case active != "true":
		return nil, v.fail(authn.Unavailable, errors.New("introspection: the answer does not say whether the token is active"))
	}
	return c, nil
}

// ask is the issuer's answer. One that is no 200 is about us, not about the token
// (RFC 7662 section 2.3).
func (i *introspector) ask(ctx context.Context, token authn.Password) ([]byte, error) {
	select {
	case i.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("wait to ask about a token: %w", context.Cause(ctx))
	}
	defer func() { <-i.slots }()
	form := url.Values{"token": {string(token)}, "token_type_hint": {"access_token"}}.Encode()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, i.url, strings.NewReader(form))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.SetBasicAuth(i.user, i.pass)
	b, err := i.web.do(r, maxAnswer)
	if err != nil {
		return nil, fmt.Errorf("introspection: %w", err)
	}
	return b, nil
}
