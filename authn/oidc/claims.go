package oidc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kpopd/kpopd/authn"
)

// claims are an object of JSON by its names, to the letter: the package folds
// case where it fills a struct, and "ISS" is not "iss".
type claims map[string]json.RawMessage

func parseClaims(b []byte) (claims, error) {
	var c claims
	if err := json.Unmarshal(b, &c); err != nil || c == nil {
		return nil, errors.New("no object of JSON") // the error of the package quotes the input
	}
	return c, nil
}

// text is a claim that is one, "" otherwise.
func (c claims) text(name string) string {
	var s string
	if json.Unmarshal(c[name], &s) != nil {
		return ""
	}
	return s
}

// list is a claim that is a text or a list of texts.
func (c claims) list(name string) []string {
	var l []string
	if json.Unmarshal(c[name], &l) == nil && l != nil {
		return l
	}
	if s := c.text(name); s != "" {
		return []string{s}
	}
	return nil
}

// words is list with each text taken apart at spaces: "scope" is one text of
// them (RFC 8693 section 4.2), "scp" either.
func (c claims) words(name string) []string {
	var words []string
	for _, s := range c.list(name) {
		words = append(words, strings.Fields(s)...)
	}
	return words
}

// date is a claim that is a NumericDate (RFC 7519 section 2), the zero time when
// there is none.
func (c claims) date(name string) (time.Time, error) {
	raw, there := c[name]
	if !there {
		return time.Time{}, nil
	}
	var seconds *float64
	const year5000 = 95_617_584_000
	if json.Unmarshal(raw, &seconds) != nil || seconds == nil || *seconds < 1 || *seconds > year5000 {
		return time.Time{}, fmt.Errorf("%s is no date", name)
	}
	return time.Unix(int64(*seconds), 0), nil
}

// isTrue takes "true" in quotes too, as some issuers write it.
func (c claims) isTrue(name string) bool {
	return string(c[name]) == "true" || c.text(name) == "true"
}

// judge decides whether what the issuer says of a token lets login in.
func (v *Verifier) judge(ctx context.Context, c claims, login string, now time.Time) (*authn.Identity, error) {
	expires, err := v.inTime(c, now)
	if err != nil {
		return nil, err
	}
	if err := v.forUs(c); err != nil {
		return nil, v.fail(authn.Rejected, err)
	}
	name := c.text(v.o.User)
	if v.o.User == "email" && c["email_verified"] != nil && !c.isTrue("email_verified") {
		// its owner may have written there what he liked
		return nil, v.fail(authn.Rejected, fmt.Errorf("address %s is not verified", shown(name)))
	}
	user, err := v.user(name)
	if err != nil {
		return nil, v.fail(authn.UnknownUser, fmt.Errorf("%s %s: %w", v.o.User, shown(name), err))
	}
	if login != "" && !v.means(login, user) && !authn.SameLogin(ctx, login, user) {
		return nil, v.fail(authn.Denied, fmt.Errorf("the token of %s is not good for %s", user, shown(login)))
	}
	id := &authn.Identity{User: user, Expires: expires}
	if name != user {
		id.Authn = name
	}
	return id, nil
}

// inTime checks dates. A signed token must run out: it cannot be withdrawn.
func (v *Verifier) inTime(c claims, now time.Time) (expires time.Time, err error) {
	expires, err = c.date("exp")
	if err != nil {
		return time.Time{}, v.fail(authn.Rejected, err)
	}
	begins, err := c.date("nbf")
	switch {
	case err != nil:
		return time.Time{}, v.fail(authn.Rejected, err)
	case expires.IsZero() && v.keys != nil:
		return time.Time{}, v.fail(authn.Rejected, errors.New("the token never runs out"))
	case !expires.IsZero() && !now.Before(expires.Add(v.o.Leeway)):
		return time.Time{}, v.fail(authn.Expired, fmt.Errorf("ran out at %s", expires.UTC().Format(time.RFC3339)))
	case now.Before(begins.Add(-v.o.Leeway)):
		return time.Time{}, v.fail(authn.Rejected, fmt.Errorf("good from %s on", begins.UTC().Format(time.RFC3339)))
	}
	return expires, nil
}

// forUs checks that the token is our issuer's, and for mail here.
func (v *Verifier) forUs(c claims) error {
	if iss := c.text("iss"); v.o.Issuer != "" && iss != v.o.Issuer {
		return fmt.Errorf("issuer %s", shown(iss))
	}
	aud := c.list("aud")
	if len(v.o.Audiences) > 0 && !slices.ContainsFunc(aud, func(a string) bool { return slices.Contains(v.o.Audiences, a) }) {
		return fmt.Errorf("audience %s", shown(strings.Join(aud, " ")))
	}
	has := append(c.words("scope"), c.words("scp")...)
	for _, s := range v.o.Scopes {
		if !slices.Contains(has, s) {
			return fmt.Errorf("scope %s is missing", s)
		}
	}
	return nil
}

// user is the login that a name stands for.
func (v *Verifier) user(name string) (string, error) {
	local, domain, found := cutLast(name)
	if found && len(v.o.Domains) > 0 {
		if !v.ours(domain) {
			return "", errors.New("of another domain")
		}
		if strings.Contains(local, "@") {
			return "", errors.New("of two domains")
		}
		name = local
	}
	user, err := authn.PrepareLogin(name)
	if err != nil {
		return "", err
	}
	return v.fold(user), nil
}

// means reports whether a client that asks for login, which was prepared, wants
// user.
func (v *Verifier) means(login, user string) bool {
	if v.fold(login) == user {
		return true
	}
	local, domain, found := cutLast(login)
	return found && v.ours(domain) && v.fold(local) == user
}

func cutLast(name string) (local, domain string, found bool) {
	i := strings.LastIndexByte(name, '@')
	if i < 0 {
		return name, "", false
	}
	return name[:i], name[i+1:], true
}

func (v *Verifier) ours(domain string) bool {
	return slices.ContainsFunc(v.o.Domains, func(d string) bool { return strings.EqualFold(d, domain) })
}

func (v *Verifier) fold(s string) string {
	if v.o.FoldCase {
		return strings.ToLower(s)
	}
	return s
}

// shown is a text from outside as an error may have it.
func shown(s string) string { return fmt.Sprintf("%.128q", s) }
