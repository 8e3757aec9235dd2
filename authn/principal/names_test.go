package principal

import (
	"context"
	"crypto/tls"
	"testing"

	"github.com/kpopd/kpopd/authn"
)

// asked is a mechanism that asks a mapper about a principal, for whom the client
// says.
type asked struct {
	m  *Mapper
	p  *authn.Principal
	id *authn.Identity
}

func (asked) Name() string         { return "ASKED" }
func (asked) Traits() authn.Traits { return 0 }

func (a asked) Start(context.Context, *authn.Transport) (authn.Exchange, error) { return &a, nil }
func (a *asked) Identity() *authn.Identity                                      { return a.id }

func (a *asked) Next(ctx context.Context, authzid []byte) (_ []byte, done bool, err error) {
	a.id, err = authn.Chain{{Verifier: a.m}}.MapPrincipal(ctx, a.p, string(authzid))
	return nil, err == nil, err
}

// Names that are one to the policy are one to the mapper, whoever gives them:
// client, ticket, rule or map file.
func TestRule176_Names(t *testing.T) {
	t.Parallel()
	full := &authn.Names{FoldCase: true, DefaultDomain: "example.org", StripDomains: []string{"old.example"}}
	bare := &authn.Names{FoldCase: true, StripDomains: []string{"example.org"}}
	byDefault := Options{LocalRealms: []string{realm}}
	byMap := Options{LocalRealms: []string{realm}, Map: mapFile(t, "carol@"+realm+" Carol, Shared@old.example\n")}
	for _, tt := range []struct {
		mapping
		names *authn.Names
		o     Options
	}{
		{mapping{"no wish", of(realm, "Alice"), "", "alice@example.org"}, full, byDefault},
		{mapping{"bare wish", of(realm, "alice"), "ALICE", "alice@example.org"}, full, byDefault},
		{mapping{"wish with the default domain", of(realm, "alice"), "alice@Example.ORG", "alice@example.org"}, full, byDefault},
		{mapping{"wish with the realm", of(realm, "alice"), "alice@" + realm, "alice@example.org"}, full, byDefault},
		{mapping{"wish with another domain", of(realm, "alice"), "alice@other.example", ""}, full, byDefault},
		{mapping{"another's name", of(realm, "alice"), "bob", ""}, full, byDefault},
		{mapping{"mapped, no wish", of(realm, "carol"), "", "carol@example.org"}, full, byMap},
		{mapping{"mapped", of(realm, "carol"), "shared", "shared@example.org"}, full, byMap},
		{mapping{"not mapped", of(realm, "carol"), "alice", ""}, full, byMap},
		{mapping{"domain stripped", of(realm, "ALICE"), "alice@EXAMPLE.org", "alice"}, bare, byDefault},
		{mapping{"no names", of(realm, "Alice"), "alice", ""}, nil, byDefault},
	} {
		p := &authn.Policy{Offers: []authn.Mechanism{asked{m: newMapper(t, tt.o), p: tt.p}}, Names: tt.names}
		l, err := p.Start(t.Context(), &authn.Transport{TLS: &tls.ConnectionState{}}, "ASKED")
		if err != nil {
			t.Fatal(err)
		}
		_, done, err := l.Next(t.Context(), []byte(tt.authzid))
		if done != (tt.want != "") || !done && authn.KindOf(err) != authn.Denied {
			t.Errorf("%s: done %v, %v", tt.name, done, err)
		}
		if done && l.Identity().User != tt.want {
			t.Errorf("%s: user %s, want %s", tt.name, l.Identity().User, tt.want)
		}
	}
}
