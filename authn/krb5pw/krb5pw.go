// Package krb5pw checks passwords against a Kerberos realm: PLAIN, LOGIN and
// USER for clients that cannot show a ticket.
//
// # Design notes
//
// The exchange with the KDC is [krb5.Passwords]'s, beside the acceptor that
// judges what comes of it; here a login becomes a principal, and the other way
// round. A verifier is for one realm. Users of a second realm need a second
// verifier and a key of that realm in the keytab.
//
// A login is a principal of one component, always: "alice/admin" is no login,
// and no password of hers opens alice's maildrop.
//
// Only what the KDC said of the user is a refusal. A KDC that is down, slow,
// false, out of step with our keytab or with our clock is an outage, and so is
// an account that cannot be asked about with the enctypes that are taken.
package krb5pw

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/krb5"
)

// Options say which principal a login is.
type Options struct {
	MailDomains []string // "alice@" any of these, or the realm in any case, means alice
	FoldCase    bool     // logins differ in nothing but case: Active Directory
}

// Verifier is an [authn.PasswordVerifier].
type Verifier struct {
	name      string
	passwords *krb5.Passwords
	o         Options
}

var _ authn.PasswordVerifier = (*Verifier)(nil)

// New makes a verifier; name is the chain step's.
func New(name string, p *krb5.Passwords, o Options) *Verifier { return &Verifier{name, p, o} }

// Name implements [authn.Verifier].
func (v *Verifier) Name() string { return v.name }

// VerifyPassword implements [authn.PasswordVerifier].
func (v *Verifier) VerifyPassword(ctx context.Context, r *authn.PasswordRequest) (*authn.Identity, error) {
	// an empty password has a key like any other, and must open nothing
	if n := len(r.Password); n == 0 || n > authn.MaxPassword {
		return nil, v.fail(authn.Rejected, fmt.Errorf("password of %d octets", n))
	}
	user, ok := v.user(r.Login)
	if !ok {
		return nil, v.fail(authn.UnknownUser, fmt.Errorf("no login of realm %s", v.passwords.Realm()))
	}
	p, err := v.passwords.Verify(ctx, user, r.Password)
	if err != nil {
		return nil, v.fail(authn.KindOf(err), err)
	}
	return &authn.Identity{User: user, Authn: p.String()}, nil
}

func (v *Verifier) fail(kind authn.Kind, err error) error {
	return &authn.Error{Kind: kind, Step: v.name, Err: err}
}

// user is the name of the principal, which is the canonical login too.
func (v *Verifier) user(login string) (string, bool) {
	user := login
	if v.o.FoldCase {
		user = strings.ToLower(user)
	}
	if i := strings.LastIndexByte(user, '@'); i >= 0 {
		domain := user[i+1:]
		same := func(d string) bool { return strings.EqualFold(d, domain) }
		if !same(v.passwords.Realm()) && !slices.ContainsFunc(v.o.MailDomains, same) {
			return "", false
		}
		user = user[:i]
	}
	// as the name is part of no path and no query here, this is for callers that
	// did not prepare it
	if prepared, err := authn.PrepareLogin(user); err != nil || prepared != user || strings.ContainsRune(user, '@') {
		return "", false
	}
	return user, true
}
