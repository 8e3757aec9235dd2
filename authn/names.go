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
}

// Prepare is [PrepareLogin], and then the one spelling of all that mean the same
// user. Prepared again it stays the same.
func (n *Names) Prepare(login string) (string, error) {
	login, err := PrepareLogin(login)
	if err != nil || n == nil {
		return login, err
	}
	login = n.domain(login)
	if n.FoldCase {
		if login, err = lower(login); err != nil {
			return "", errLogin
		}
	}
	return PrepareLogin(login)
}

// domain strips domains, then adds the default. A domain has no case (RFC 5321
// section 2.4), so the default one is spelled as it is configured.
func (n *Names) domain(login string) string {
	local, domain, has := cutDomain(login)
	for has && contains(n.StripDomains, domain) {
		login = local
		local, domain, has = cutDomain(login)
	}
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
		if p, err := PrepareLogin("x@" + d); err != nil || p != "x@"+d || d == "" || strings.Contains(d, "@") {
			return fmt.Errorf("%q is no domain; write what stands behind the @, as example.org", d)
		}
	}
	if contains(n.StripDomains, n.DefaultDomain) {
		return fmt.Errorf("%s is stripped and added; take one of them out", n.DefaultDomain)
	}
	return nil
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
