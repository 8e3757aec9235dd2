// Package plain holds the mechanisms that need nothing but a name and a
// password: PLAIN (RFC 4616), LOGIN, the USER and PASS commands and APOP
// (RFC 1939 section 7).
//
// # Design notes
//
// Exchanges keep to the contract of go-sasl's Server. Its own PLAIN server is
// not used: it turns the password into a string, and a string cannot be wiped.
//
// Passwords are copied out of the response once, handed to the chain, wiped.
//
// A refusal says nothing about which half was wrong: a name that cannot be a
// login is refused like one that nobody has.
package plain

import (
	"bytes"
	"context"
	"errors"
	"unicode/utf8"

	"github.com/kpopd/kpopd/authn"
)

// PLAIN is the SASL mechanism of RFC 4616.
func PLAIN(chain authn.Chain) authn.Mechanism { return &mechanism{name: "PLAIN", chain: chain} }

// LOGIN is the SASL mechanism of draft-murchison-sasl-login: name and password
// as the answers to two questions.
func LOGIN(chain authn.Chain) authn.Mechanism { return &mechanism{name: "LOGIN", chain: chain} }

// USER is the pair of commands USER and PASS, whose engine hands them over as
// one message of PLAIN. Octets that are no UTF-8 are taken in the password.
//
// exclusive obeys RFC 1939 section 7 where APOP is offered too: "for a given
// user, an implementation may use only one": who has a secret for APOP is
// denied here, after his password proved right.
func USER(chain authn.Chain, exclusive bool) authn.Mechanism {
	return &mechanism{name: "USER", chain: chain, command: true, exclusive: exclusive}
}

type mechanism struct {
	name      string
	chain     authn.Chain
	command   bool
	exclusive bool
}

func (m *mechanism) Name() string { return m.name }

func (m *mechanism) Traits() authn.Traits {
	if m.command {
		return authn.Plaintext | authn.Command
	}
	return authn.Plaintext
}

func (m *mechanism) Start(_ context.Context, t *authn.Transport) (authn.Exchange, error) {
	if m.name == "LOGIN" {
		return &login{attempt: attempt{m: m, t: t}}, nil
	}
	return &plain{attempt: attempt{m: m, t: t}}, nil
}

// attempt is what PLAIN, LOGIN and USER have in common: one question to the
// chain.
type attempt struct {
	m     *mechanism
	t     *authn.Transport
	login string // as claimed
	id    *authn.Identity
}

func (a *attempt) Identity() *authn.Identity { return a.id }

// Claimed implements [authn.Claimer].
func (a *attempt) Claimed() (string, *authn.Principal) { return a.login, nil }

func (a *attempt) fail(kind authn.Kind, text string) error {
	return &authn.Error{Kind: kind, Step: a.m.name, Err: errors.New(text)}
}

// verify asks the chain. authzid is the user to act for, "" for the login.
func (a *attempt) verify(ctx context.Context, authzid, login string, password []byte) error {
	a.login = login
	switch {
	case len(password) > authn.MaxPassword:
		return a.fail(authn.Rejected, "password too long")
	case !a.m.command && !utf8.Valid(password):
		return a.fail(authn.Malformed, "password is no UTF-8")
	}
	p := authn.PreparePassword(password)
	defer p.Wipe()
	if login == "" || len(p) == 0 {
		// "verification SHALL fail" (RFC 4616 section 2). An empty password
		// must meet no verifier: to LDAP it is an anonymous bind, which
		// succeeds (RFC 4513 section 5.1.2).
		return a.fail(authn.Rejected, "empty name or password")
	}
	user, err := authn.CanonicalLogin(ctx, authn.TakeView(ctx, login))
	if err != nil {
		return a.fail(authn.UnknownUser, err.Error())
	}
	id, err := a.m.chain.VerifyPassword(ctx, &authn.PasswordRequest{Transport: a.t, Mechanism: a.m.name, Login: user, Password: p})
	if err != nil {
		return err
	}
	if err := a.authorize(ctx, authzid, user, id); err != nil {
		return err
	}
	a.id = id
	return nil
}

func (a *attempt) authorize(ctx context.Context, authzid, user string, id *authn.Identity) error {
	if authzid != "" {
		z, err := authn.CanonicalLogin(ctx, authn.TakeView(ctx, authzid))
		if err != nil {
			return a.fail(authn.Denied, "acts for no login name")
		}
		if z != user && !authn.SameLogin(ctx, z, id.User) {
			id.For = z
		}
	}
	if !a.m.exclusive {
		return nil
	}
	secret, _, err := a.m.chain.Secret(ctx, user, apopName)
	if err == nil {
		secret.Wipe()
		return a.fail(authn.Denied, "has a secret for APOP, so USER and PASS are closed")
	}
	switch authn.KindOf(err) {
	case authn.UnknownUser, authn.Rejected, authn.Denied, authn.Expired:
		return nil // no secret that APOP would take
	}
	return err
}

// plain is PLAIN and USER.
type plain struct{ attempt }

var _ authn.Claimer = (*plain)(nil)

// Next implements [authn.Exchange].
func (p *plain) Next(ctx context.Context, response []byte) ([]byte, bool, error) {
	if response == nil {
		return []byte{}, false, nil
	}
	authzid, login, password, ok := split(response)
	if !ok {
		return nil, false, p.fail(authn.Malformed, "not two NULs")
	}
	// after a command a bad name is one that nobody has, not a broken mechanism
	if !p.m.command && !(utf8.ValidString(authzid) && utf8.ValidString(login)) {
		return nil, false, p.fail(authn.Malformed, "name is no UTF-8")
	}
	if err := p.verify(ctx, authzid, login, password); err != nil {
		return nil, false, err
	}
	return nil, true, nil
}

// split takes a message of PLAIN apart: message = [authzid] UTF8NUL authcid
// UTF8NUL passwd (RFC 4616 section 2). password shares memory with b.
func split(b []byte) (authzid, login string, password []byte, ok bool) {
	z, rest, one := bytes.Cut(b, []byte{0})
	c, password, two := bytes.Cut(rest, []byte{0})
	if !one || !two || bytes.IndexByte(password, 0) >= 0 {
		return "", "", nil, false
	}
	return string(z), string(c), password, true
}
