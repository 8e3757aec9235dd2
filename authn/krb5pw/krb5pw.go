// Package krb5pw checks passwords against a Kerberos realm: PLAIN, LOGIN and
// USER for clients that cannot show a ticket.
//
// # Design notes
//
// The exchange with the KDC is [krb5.Passwords]'s, beside the acceptor that
// judges what comes of it; here a login becomes a principal, and the other way
// round. A verifier is for one realm. Users of a second realm need a second
// verifier, a key of that realm in the keytab, and logins that say whose they
// are: alice of one realm is not alice of the other.
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
	Domain      string   // when set, logins are "alice@" it and nothing else, and name the maildrop so: for a realm beside the site's own
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
func New(name string, p *krb5.Passwords, o Options) (*Verifier, error) {
	login := "x@" + o.Domain
	if prepared, err := authn.PrepareLogin(login); o.Domain != "" && (err != nil || prepared != login || strings.Count(login, "@") != 1) {
		return nil, fmt.Errorf("domain %q: a login cannot end in it", o.Domain)
	}
	return &Verifier{name, p, o}, nil
}

// Name implements [authn.Verifier].
func (v *Verifier) Name() string { return v.name }

// VerifyPassword implements [authn.PasswordVerifier].
func (v *Verifier) VerifyPassword(ctx context.Context, r *authn.PasswordRequest) (*authn.Identity, error) {
	// an empty password has a key like any other, and must open nothing
	if n := len(r.Password); n == 0 || n > authn.MaxPassword {
		return nil, v.fail(authn.Rejected, fmt.Errorf("password of %d octets", n))
	}
	user, client, ok := v.names(r.Login)
	if !ok {
		return nil, v.fail(authn.UnknownUser, fmt.Errorf("no login of realm %s", v.passwords.Realm()))
	}
	p, err := v.passwords.Verify(ctx, client, r.Password)
	if err != nil {
		return nil, v.fail(authn.KindOf(err), err)
	}
	return &authn.Identity{User: user, Authn: p.String()}, nil
}

func (v *Verifier) fail(kind authn.Kind, err error) error {
	return &authn.Error{Kind: kind, Step: v.name, Err: err}
}

// names are the canonical login, and the principal's name without its realm.
func (v *Verifier) names(login string) (user, client string, ok bool) {
	client = login
	if v.o.FoldCase {
		client = strings.ToLower(client)
	}
	if i := strings.LastIndexByte(client, '@'); i >= 0 {
		if !v.ours(client[i+1:]) {
			return "", "", false
		}
		client = client[:i]
	} else if v.o.Domain != "" {
		return "", "", false
	}
	// for callers that did not prepare the login, and for what is left of it
	if prepared, err := authn.PrepareLogin(client); err != nil || prepared != client || strings.ContainsRune(client, '@') {
		return "", "", false
	}
	if v.o.Domain != "" {
		return client + "@" + v.o.Domain, client, true
	}
	return client, client, true
}

func (v *Verifier) ours(domain string) bool {
	same := func(d string) bool { return strings.EqualFold(d, domain) }
	if v.o.Domain != "" {
		return same(v.o.Domain)
	}
	return same(v.passwords.Realm()) || slices.ContainsFunc(v.o.MailDomains, same)
}

// String says what the verifier does, for whoever checks a configuration.
func (v *Verifier) String() string {
	return fmt.Sprintf("passwords of realm %s, proven by a ticket for %s", v.passwords.Realm(), v.passwords.Service())
}
