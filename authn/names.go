package authn

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/text/secure/precis"
)

// Names says which spellings of a login name one user. A nil or zero Names
// keeps to [PrepareLogin]: every spelling is a user of its own.
//
// What a verifier, a lock and a path are asked for is the spelling that Prepare
// returns, so files and directories have to know users by that.
type Names struct {
	FoldCase      bool     // "Alice" is "alice"
	DefaultDomain string   // "alice" is "alice@example.org"; "" leaves names without a domain as they are
	StripDomains  []string // "alice@" any of these is "alice"
	Views         Views    // what names may ask for beside the user
}

// Prepare is [PrepareLogin], and then the one spelling of all that mean the same
// user. Prepared again it stays the same. A name that asks for a view is refused:
// were it the user, "alice+x" of a realm or a directory would be alice.
func (n *Names) Prepare(login string) (string, error) {
	user, view, err := n.Split(login)
	if view != (View{}) {
		return "", errLogin
	}
	return user, err
}

// Split is Prepare of the user in a name, and the view that it asks for beside him.
func (n *Names) Split(login string) (user string, view View, err error) {
	if n == nil {
		user, err = PrepareLogin(login)
		return user, view, err
	}
	var host *Host
	if n.Views.Any() {
		if login, view, host, err = n.take(login); err != nil {
			return "", View{}, err
		}
	}
	if login, err = PrepareLogin(login); err != nil {
		return "", View{}, err
	}
	login = n.stripped(login)
	if local, domain, has := cutDomain(login); has && host == nil && view.Folder == "" {
		if host = n.Views.host(domain); host != nil {
			if local == "" {
				return "", View{}, errLogin
			}
			login, view.Recipient = host.User, local
		}
	}
	if view.Recipient != "" {
		if view.Recipient, err = PrepareLogin(view.Recipient); err != nil {
			return "", View{}, err
		}
	}
	if login = n.added(login); n.FoldCase {
		if login, err = lower(login); err != nil {
			return "", View{}, errLogin
		}
	}
	if user, err = PrepareLogin(login); err != nil {
		return "", View{}, err
	}
	return user, view, nil
}

// stripped is login without the domains that are none.
func (n *Names) stripped(login string) string {
	local, domain, has := cutDomain(login)
	for has && contains(n.StripDomains, domain) {
		login = local
		local, domain, has = cutDomain(login)
	}
	return login
}

// added is login with the default domain. A domain has no case (RFC 5321 section
// 2.4), so the default one is spelled as it is configured.
func (n *Names) added(login string) string {
	local, domain, has := cutDomain(login)
	switch {
	case n.DefaultDomain == "":
		return login
	case !has:
		return login + "@" + n.DefaultDomain
	case strings.EqualFold(domain, n.DefaultDomain):
		return local + "@" + n.DefaultDomain
	}
	return login
}

// same reports whether domains make no difference between two logins.
func (n *Names) same(a, b string) bool { return n.added(n.stripped(a)) == n.added(n.stripped(b)) }

// cutDomain takes a login apart at its last at-sign.
func cutDomain(login string) (local, domain string, has bool) {
	i := strings.LastIndexByte(login, '@')
	if i < 0 {
		return login, "", false
	}
	return login[:i], login[i+1:], true
}

func contains(domains []string, domain string) bool {
	return slices.ContainsFunc(domains, func(d string) bool { return strings.EqualFold(d, domain) })
}

// lower is RFC 8265's UsernameCaseMapped.
func lower(login string) (string, error) {
	if isASCII(login) {
		return strings.ToLower(login), nil
	}
	return precis.UsernameCaseMapped.String(login)
}

// Check says why the settings contradict each other, or make a name that is no
// login.
func (n *Names) Check() error {
	domains := n.StripDomains
	if n.DefaultDomain != "" {
		domains = append(slices.Clone(domains), n.DefaultDomain)
	}
	for _, d := range domains {
		if err := checkDomain(d); err != nil {
			return err
		}
	}
	if contains(n.StripDomains, n.DefaultDomain) {
		return fmt.Errorf("%s is stripped and added; take one of them out", n.DefaultDomain)
	}
	return n.Views.check(n)
}

// CanonicalLogin prepares a login name that a client sent under the names of the
// policy whose attempt ctx belongs to. All mechanisms call it, before they ask a
// chain.
func CanonicalLogin(ctx context.Context, login string) (string, error) {
	return namesOf(ctx).Prepare(login)
}

// SameLogin reports whether two login names are spellings of one.
func SameLogin(ctx context.Context, a, b string) bool {
	x, errX := CanonicalLogin(ctx, a)
	y, errY := CanonicalLogin(ctx, b)
	return errX == nil && errY == nil && x == y
}
