// Package oidc checks bearer tokens of one issuer: signed ones (JWT, RFC 7519)
// against the issuer's key set, or any by asking the issuer (token introspection,
// RFC 7662).
//
// # Design notes
//
// A token of another issuer, and what is no signed token at all, is declined and
// not refused: the next step of the chain may know it. It costs no question to
// anybody either, so that nobody can make us ask for keys with tokens of his own
// making.
//
// The key set is asked for at the first token, when a token names a key that is
// not in it, and every hour, so that withdrawn keys go. Nobody waits for the
// last. Between two questions are 10 seconds at least, whatever clients send. A
// key that is missing from a set of such an age is one that the issuer does not
// have.
//
// Keys of a URL are kept in a file, so that neither a restart nor a reload needs
// the issuer. A set that could not be renewed for a day is not used any more. An
// issuer who does not answer, or not as he should, is an outage: it never makes a
// token wrong.
//
// No redirect is followed and no proxy of the environment asked: the
// configuration names whom we trust. Answers have a bound in time and size.
//
// Algorithms are those that the options name out of four, with keys of the kind
// and size that go with them; "none" and those with a shared secret do not exist
// here. RFC 8725 says why.
//
// What is decoded of a token stays for the garbage collector: go-jose takes a
// string and net/http may still read the body of a request that it has answered.
// Errors tell claims, never a token or a part of one.
//
// go-jose is what parses keys and checks signatures; nothing else imports it.
// go-oidc on top of it was not taken: its key set is not kept on disk, asks the
// issuer for each unknown key, and follows redirects.
package oidc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"slices"
	"time"

	"github.com/kpopd/kpopd/authn"
)

// Defaults of options.
const (
	DefaultLeeway  = 30 * time.Second
	DefaultTimeout = 5 * time.Second
)

// Options say whose tokens are taken, and for whom. Either Keys or Introspection
// must be named.
type Options struct {
	Issuer    string   // the claim "iss", to the letter; "" takes any from Introspection
	Audiences []string // one of them must be in the claim "aud"; may be empty with Introspection
	Scopes    []string // each must be in the claim "scope" or "scp"
	User      string   // claim that names the user: "preferred_username", "email", "upn", "sub"
	Domains   []string // "alice@" any of these means alice, and a name of another domain is nobody's; names stay as they are when empty
	FoldCase  bool     // names differ in nothing but case
	Leeway    time.Duration

	Keys       string   // path or https URL of the issuer's key set (RFC 7517)
	Cache      string   // path of a file of ours, which keeps what came from the URL
	Algorithms []string // of signatures, out of [Algorithms]; all of them when empty

	Introspection string // https URL to ask about each token
	ClientID      string // who we are there
	ClientSecret  string // path of the file with our password there

	CA      string        // path of PEM certificates that URLs are verified with; the system's when empty
	Timeout time.Duration // for an answer
	Log     *slog.Logger  // told of key sets; nil means nobody
}

// Verifier is an [authn.TokenVerifier].
type Verifier struct {
	name   string
	o      Options
	web    *web
	keys   *keyring      // nil with introspection
	client *introspector // nil with keys
}

var _ authn.TokenVerifier = (*Verifier)(nil)

// New checks the options and reads the files that they name. It asks no URL.
// name is the chain step's.
func New(name string, o Options) (*Verifier, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if o.Leeway == 0 {
		o.Leeway = DefaultLeeway
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if len(o.Algorithms) == 0 {
		o.Algorithms = Algorithms()
	}
	web, err := newWeb(o.CA, o.Timeout)
	if err != nil {
		return nil, err
	}
	v := &Verifier{name: name, o: o, web: web}
	if o.Introspection != "" {
		v.client, err = newIntrospector(o, web)
	} else {
		v.keys, err = newKeyring(name, o, web)
	}
	if err != nil {
		return nil, err
	}
	return v, nil
}

func (o *Options) check() error {
	switch {
	case (o.Keys == "") == (o.Introspection == ""):
		return errors.New("either a key set or introspection is needed, and not both")
	case o.User == "":
		return errors.New("no claim names the user")
	case o.Keys != "" && o.Issuer == "":
		return errors.New("an issuer is needed to check signed tokens")
	case o.Keys != "" && len(o.Audiences) == 0:
		// a token for somebody else's service would open mail here
		return errors.New("an audience is needed to check signed tokens")
	case IsURL(o.Keys) && o.Cache == "":
		return errors.New("a file is needed to keep the keys in that come from a URL")
	}
	for _, a := range o.Algorithms {
		if !slices.Contains(Algorithms(), a) {
			return fmt.Errorf("algorithm %q is not taken: %q are", a, Algorithms())
		}
	}
	for _, u := range []string{o.Keys, o.Introspection} {
		if IsURL(u) {
			if err := CheckURL(u); err != nil {
				return err
			}
		}
	}
	return nil
}

// IsURL reports whether a key set is at a URL, and not in a file.
func IsURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Host != ""
}

// CheckURL wants https, but for what is on this machine.
func CheckURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return errors.New("not a URL")
	case u.Host == "" || u.User != nil || u.Fragment != "" || u.Opaque != "":
		return fmt.Errorf("%q is not https://host/path", u.Redacted())
	case u.Scheme == "https":
		return nil
	case u.Scheme == "http" && isLoopback(u.Hostname()):
		return nil
	}
	return fmt.Errorf("%q is not https, and whoever is on the way could forge the answer", u.Redacted())
}

func isLoopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback() || host == "localhost"
}

// Name implements [authn.Verifier].
func (v *Verifier) Name() string { return v.name }

func (v *Verifier) fail(kind authn.Kind, err error) error {
	return &authn.Error{Kind: kind, Step: v.name, Err: err}
}

// VerifyToken implements [authn.TokenVerifier].
func (v *Verifier) VerifyToken(ctx context.Context, r *authn.TokenRequest) (*authn.Identity, error) {
	if len(r.Token) == 0 {
		return nil, v.fail(authn.Rejected, errors.New("no token"))
	}
	c, err := v.claims(ctx, r.Token)
	if err != nil {
		return nil, err
	}
	id, err := v.judge(ctx, c, r.Login, time.Now())
	if err != nil {
		return nil, err
	}
	return id, nil
}

// claims are what the issuer says of a token.
func (v *Verifier) claims(ctx context.Context, token authn.Password) (claims, error) {
	if v.client != nil {
		return v.introspect(ctx, token)
	}
	return v.signed(ctx, string(token))
}
