package config

import (
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/kpopd/kpopd/authn/oidc"
)

// OIDC are the keys of a verifier of type oidc.
type OIDC struct {
	Issuer     string        `mapstructure:"issuer"`     // oidc: the claim "iss", to the letter
	Audiences  []string      `mapstructure:"audiences"`  // oidc: one of them must be in the claim "aud"
	Scopes     []string      `mapstructure:"scopes"`     // oidc: each must be in the claim "scope" or "scp"
	UserClaim  string        `mapstructure:"user_claim"` // oidc: claim that names the user: preferred_username, upn, email, sub
	Leeway     time.Duration `mapstructure:"leeway"`     // oidc: allowed difference to the issuer's clock; 30s when zero
	Algorithms []string      `mapstructure:"algorithms"` // oidc: of signatures, of RS256, PS256, ES256, EdDSA; all of them when empty

	Keys     string `mapstructure:"keys"`      // oidc: path or URL of the issuer's key set, that signed tokens are checked with
	KeyCache string `mapstructure:"key_cache"` // oidc: path of a file of kpopd's own, which keeps what came from the URL

	Introspection string `mapstructure:"introspection"` // oidc: URL that is asked about each token instead
	ClientID      string `mapstructure:"client_id"`     // oidc: who kpopd is there
	ClientSecret  string `mapstructure:"client_secret"` // oidc: path of the file with kpopd's password there
}

// oidcKeys are all that a verifier of type oidc takes.
func oidcKeys() []string {
	keys := []string{"mail_domains", "fold_case", "ca", "timeout"}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[OIDC]()) {
		keys = append(keys, f.Tag.Get("mapstructure"))
	}
	return keys
}

// OAuth is what a refused client of OAUTHBEARER or XOAUTH2 is told, so that it
// can get a better token.
type OAuth struct {
	Scope  string `mapstructure:"scope"`                // scopes that a token needs, with spaces between; nothing is said when empty
	Config string `mapstructure:"openid_configuration"` // URL of the issuer's OpenID configuration (RFC 7628 section 3.2.2); nothing is said when empty
}

// oidc checks what can be told without files and URLs.
func (p *problems) oidc(at string, v *Verifier) {
	o := &v.OIDC
	if o.UserClaim == "" {
		p.add(at+".user_claim", "missing; name the claim that has the login, preferred_username or upn")
	}
	for i, a := range o.Algorithms {
		p.oneOf(fmt.Sprintf("%s.algorithms[%d]", at, i), a, oidc.Algorithms()...)
	}
	p.notNegative(at+".leeway", o.Leeway)
	p.notNegative(at+".timeout", v.Timeout)
	switch {
	case o.Keys == "" && o.Introspection == "":
		p.add(at+".keys", "missing; name the issuer's key set, a file or a URL, or set introspection")
	case o.Keys != "" && o.Introspection != "":
		p.add(at+".introspection", "signed tokens are checked with keys, others are asked about; set one of the two")
	case o.Keys != "":
		p.oidcKeySet(at, o)
	default:
		p.oidcIntrospection(at, o)
	}
	if v.CA != "" && !oidc.IsURL(o.Keys) && o.Introspection == "" {
		p.add(at+".ca", "has no effect without a URL in keys or introspection")
	}
}

func (p *problems) oidcKeySet(at string, o *OIDC) {
	if o.Issuer == "" {
		p.add(at+".issuer", `missing; write what the tokens have in "iss"`)
	}
	if len(o.Audiences) == 0 {
		p.add(at+".audiences", `missing; write what tokens for this server have in "aud", or those for any other service would open mail`)
	}
	if o.ClientID != "" || o.ClientSecret != "" {
		p.add(at, "client_id and client_secret have no effect without introspection")
	}
	if !oidc.IsURL(o.Keys) {
		if o.KeyCache != "" {
			p.add(at+".key_cache", "has no effect with keys in a file")
		}
		return
	}
	p.url(at+".keys", o.Keys)
	if o.KeyCache == "" {
		p.add(at+".key_cache", "missing; name a file for kpopd to keep the keys in, so that it starts when the issuer is down")
	}
	for i, other := range p.c.Verifiers {
		if here := fmt.Sprintf("verifiers[%d]", i); o.KeyCache != "" && other.KeyCache == o.KeyCache && here != at {
			p.add(at+".key_cache", "is that of %s too; name another file", here)
		}
	}
}

func (p *problems) oidcIntrospection(at string, o *OIDC) {
	p.url(at+".introspection", o.Introspection)
	p.need(at+".client_id", o.ClientID, "who kpopd is to the issuer")
	p.need(at+".client_secret", o.ClientSecret, "the file with kpopd's password there")
	if o.KeyCache != "" || o.Algorithms != nil {
		p.add(at, "key_cache and algorithms have no effect with introspection")
	}
}

func (p *problems) url(key, u string) {
	if err := oidc.CheckURL(u); err != nil {
		p.add(key, "%w; write https://host/path", err)
	}
}

// anyService reports whether tokens for any service of the issuer open mail.
func (o *OIDC) anyService() bool {
	return o.Introspection != "" && len(o.Audiences) == 0 && len(o.Scopes) == 0
}

func (p *problems) oauth(o OAuth) {
	if o.Config != "" {
		p.url("oauth.openid_configuration", o.Config)
	}
	offered := slices.ContainsFunc(p.c.Policies, func(x Policy) bool {
		return slices.ContainsFunc(x.Offers, func(name string) bool {
			m, _ := mechanismNamed(name)
			return m.token
		})
	})
	if o != (OAuth{}) && !offered {
		p.add("oauth", "has no effect: no policy offers OAUTHBEARER or XOAUTH2")
	}
}
