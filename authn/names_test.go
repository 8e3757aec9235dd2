package authn_test

import (
	"context"
	"crypto/tls"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/authntest"
	"github.com/kpopd/kpopd/authn/cram"
	"github.com/kpopd/kpopd/authn/plain"
)

func TestRule176_Names(t *testing.T) {
	t.Parallel()
	fold := &authn.Names{FoldCase: true}
	strip := &authn.Names{StripDomains: []string{"example.org", "mail.example.org"}}
	add := &authn.Names{DefaultDomain: "example.org"}
	all := &authn.Names{FoldCase: true, DefaultDomain: "Example.ORG", StripDomains: []string{"old.example"}}
	for _, tt := range []struct {
		name     string
		n        *authn.Names
		in, want string // want "" is a refusal
	}{
		{"no names", nil, "Alice@Example.org", "Alice@Example.org"},
		{"nothing set", &authn.Names{}, "Alice@Example.org", "Alice@Example.org"},
		{"case", fold, "Alice@Example.ORG", "alice@example.org"},
		{"case of other letters", fold, "\u00dcMIT", "\u00fcmit"},
		{"case of full width letters", fold, "\uff21lice", "alice"},
		{"dotted I becomes two runes", fold, "\u0130x", "i\u0307x"},
		{"domain", strip, "alice@example.org", "alice"},
		{"domain in another case", strip, "alice@EXAMPLE.org", "alice"},
		{"another domain", strip, "alice@mail.example.org", "alice"},
		{"a domain that only ends like it", strip, "alice@xexample.org", "alice@xexample.org"},
		{"two domains", strip, "alice@example.org@mail.example.org", "alice"},
		{"nothing before the domain", strip, "@example.org", ""},
		{"case stays", strip, "Alice", "Alice"},
		{"default domain", add, "alice", "alice@example.org"},
		{"default domain in another case", add, "alice@EXAMPLE.ORG", "alice@example.org"},
		{"own domain", add, "alice@b.example", "alice@b.example"},
		{"too long with the domain", add, strings.Repeat("a", 250), ""},
		{"all: bare", all, "ALICE", "alice@example.org"},
		{"all: with the default", all, "alice@EXAMPLE.org", "alice@example.org"},
		{"all: with a stripped one", all, "Alice@OLD.example", "alice@example.org"},
		{"no login", all, "../alice", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := tt.n.Prepare(tt.in)
			if got != tt.want || (err == nil) != (tt.want != "") {
				t.Errorf("%q becomes %q, %v, want %q", tt.in, got, err, tt.want)
			}
		})
	}
}

func TestNamesCheck(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		n    authn.Names
		want string // in the error; "" when there is none
	}{
		{authn.Names{DefaultDomain: "example.org", StripDomains: []string{"old.example"}, FoldCase: true}, ""},
		{authn.Names{DefaultDomain: "example.org", StripDomains: []string{"EXAMPLE.org"}}, "stripped and added"},
		{authn.Names{FoldCase: true}, ""},
		{authn.Names{StripDomains: []string{""}}, "is no domain"},
		{authn.Names{DefaultDomain: "@example.org"}, "is no domain"},
		{authn.Names{DefaultDomain: "exam ple.org"}, "is no domain"},
		{authn.Names{StripDomains: []string{"a/b"}}, "is no domain"},
		{authn.Names{StripDomains: []string{"\uff41.example"}}, "is no domain"},
	} {
		err := tt.n.Check()
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %q", tt.n, err, tt.want)
		}
	}
}

// FuzzNames: what is prepared is a login, prepared again the same, and the same
// for another case where case does not count.
func FuzzNames(f *testing.F) {
	for _, s := range []string{"Alice", "alice@EXAMPLE.org", "a@old.example@old.example", "\u0130@old.example", "@old.example", "a@b@Example.ORG"} {
		f.Add(s, true, "Example.ORG", "old.example")
		f.Add(s, false, "", "old.example")
	}
	f.Fuzz(func(t *testing.T, login string, fold bool, add, strip string) {
		n := &authn.Names{FoldCase: fold, DefaultDomain: add, StripDomains: []string{strip}}
		if n.Check() != nil {
			return
		}
		once, err := n.Prepare(login)
		if err != nil {
			return
		}
		if p, err := authn.PrepareLogin(once); err != nil || p != once {
			t.Errorf("%q becomes %q, which is no login", login, once)
		}
		if twice, err := n.Prepare(once); err != nil || twice != once {
			t.Errorf("%q becomes %q, then %q, %v", login, once, twice, err)
		}
		if upper, err := n.Prepare(strings.ToUpper(once)); fold && isASCII(once) && (err != nil || upper != once) {
			t.Errorf("%q in capitals becomes %q, %v", once, upper, err)
		}
	})
}

func isASCII(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r > 0x7F }) < 0
}

// verifier keeps what it is asked for, and calls users what it likes.
type verifier struct {
	authntest.Fake
	asked []string
	calls string // its name for everybody
}

func (v *verifier) VerifyPassword(_ context.Context, r *authn.PasswordRequest) (*authn.Identity, error) {
	v.asked = append(v.asked, r.Login)
	return &authn.Identity{User: v.calls}, nil
}

func (v *verifier) Secret(_ context.Context, login, _ string) (authn.Password, *authn.Identity, error) {
	v.asked = append(v.asked, login)
	return authn.Password("secret"), &authn.Identity{User: v.calls}, nil
}

// careless is a mechanism that hands names on as they came.
type careless struct {
	authn.Mechanism
	chain authn.Chain
	id    *authn.Identity
}

func (c careless) Start(context.Context, *authn.Transport) (authn.Exchange, error) { return &c, nil }
func (c *careless) Identity() *authn.Identity                                      { return c.id }
func (c *careless) Next(ctx context.Context, r []byte) (_ []byte, done bool, err error) {
	if c.id, err = c.chain.VerifyPassword(ctx, &authn.PasswordRequest{Login: string(r)}); err == nil {
		_, c.id, err = c.chain.Secret(ctx, string(r), "X")
	}
	return nil, err == nil, err
}

// Whatever a client writes and whatever a verifier calls its users, one spelling
// reaches the verifier, and one the lock and the path.
func TestRule176_OneSpelling(t *testing.T) {
	t.Parallel()
	names := &authn.Names{FoldCase: true, DefaultDomain: "example.org", StripDomains: []string{"old.example"}}
	for _, tt := range []struct {
		name     string
		mech     func(authn.Chain) authn.Mechanism
		response string
		ok       bool
	}{
		{"PLAIN", plain.PLAIN, "\x00Alice\x00pw", true},
		{"PLAIN for herself", plain.PLAIN, "ALICE@old.example\x00Alice\x00pw", true},
		{"PLAIN for another", plain.PLAIN, "bob\x00Alice\x00pw", false},
		{"USER", func(c authn.Chain) authn.Mechanism { return plain.USER(c, false) }, "\x00aLICE@Old.Example\x00pw", true},
		{"a mechanism that does not care", func(c authn.Chain) authn.Mechanism { return careless{Mechanism: plain.PLAIN(c), chain: c} }, "ALICE", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			v := &verifier{calls: "Alice@old.example"}
			m := tt.mech(authn.Chain{{Verifier: v}})
			p := &authn.Policy{Offers: []authn.Mechanism{m}, Names: names}
			l, err := p.Start(t.Context(), &authn.Transport{TLS: &tls.ConnectionState{}}, m.Name())
			if err != nil {
				t.Fatal(err)
			}
			_, done, err := l.Next(t.Context(), []byte(tt.response))
			if done != tt.ok {
				t.Fatalf("done %v, %v", done, err)
			}
			for _, asked := range v.asked {
				if asked != "alice@example.org" {
					t.Errorf("the verifier was asked for %s", asked)
				}
			}
			if tt.ok && l.Identity().User != "alice@example.org" {
				t.Errorf("user %s", l.Identity().User)
			}
		})
	}
}

func TestRule176_CramAndApop(t *testing.T) {
	t.Parallel()
	for _, m := range []func(authn.Chain) authn.Mechanism{
		plain.APOP,
		func(c authn.Chain) authn.Mechanism { return cram.New(c, "") },
	} {
		v := &verifier{calls: "x"}
		mech := m(authn.Chain{{Verifier: v}})
		p := &authn.Policy{Offers: []authn.Mechanism{mech}, Names: &authn.Names{FoldCase: true}}
		l, err := p.Start(t.Context(), &authn.Transport{TLS: &tls.ConnectionState{}, Stamp: "<1@x>"}, mech.Name())
		if err != nil {
			t.Fatal(err)
		}
		if mech.Traits()&authn.ServerFirst != 0 {
			if _, _, err := l.Next(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
		}
		_, _, err = l.Next(t.Context(), []byte("ALICE "+strings.Repeat("0", 32)))
		if authn.KindOf(err) != authn.Rejected {
			t.Errorf("%s: %v", mech.Name(), err)
		}
		if diff := cmp.Diff([]string{"alice"}, v.asked); diff != "" {
			t.Errorf("%s: asked for (-want +got):\n%s", mech.Name(), diff)
		}
	}
}

// A user of whose name the settings make no login has no lock to be under.
func TestNamesThatMakeNoLogin(t *testing.T) {
	t.Parallel()
	v := &verifier{calls: "@old.example"}
	p := &authn.Policy{Offers: []authn.Mechanism{plain.PLAIN(authn.Chain{{Verifier: v}})}, Names: &authn.Names{StripDomains: []string{"old.example"}}}
	l, err := p.Start(t.Context(), &authn.Transport{TLS: &tls.ConnectionState{}}, "PLAIN")
	if err != nil {
		t.Fatal(err)
	}
	_, done, err := l.Next(t.Context(), []byte("\x00alice\x00pw"))
	var e *authn.Error
	if done || l.Identity() != nil || !errors.As(err, &e) || e.Kind != authn.Internal {
		t.Errorf("done %v, %v", done, err)
	}
}

// Rules, and whom a client acts for, meet the one spelling too.
func TestNamesOfRules(t *testing.T) {
	t.Parallel()
	users := &finder{users: map[string]*authn.Identity{"bob": {User: "bob"}}}
	p := &authn.Policy{
		Names: &authn.Names{FoldCase: true}, Users: authn.Chain{{Verifier: users}},
		Offers: []authn.Mechanism{proof{name: "M", id: authn.Identity{User: "Alice", For: "BOB"}}},
		Rules:  []*authn.Rule{named("k:1", authn.Rule{Users: []string{"alice"}, Action: authn.Warn})},
		Act:    []*authn.Rule{named("k:2", authn.Rule{Users: []string{"alice"}, As: []string{"bob"}, Action: authn.Allow})},
	}
	a, id := attempted(t, p)
	if id == nil || id.User != "bob" || id.Authn != "alice" || a.For != "bob" || source(a.Rule) != "k:1" || source(a.Act) != "k:2" {
		t.Errorf("got %+v, %v, for %q by rules %s and %s", id, a.Err, a.For, source(a.Rule), source(a.Act))
	}
}

// bouncer is a guard that keeps whom it met.
type bouncer struct {
	met     []string
	unknown bool // asked about no connection
}

func (*bouncer) Name() string { return "list" }
func (b *bouncer) Admit(ctx context.Context, id *authn.Identity) error {
	if b.unknown = b.unknown || authn.TransportOf(ctx) == nil; id != nil {
		b.met = append(b.met, id.User)
	}
	return nil
}

// A list meets the one spelling, whatever a verifier calls the user.
func TestNamesOnLists(t *testing.T) {
	t.Parallel()
	b := &bouncer{}
	chain := authn.Chain{{Verifier: &verifier{calls: "Alice@old.example"}}, {Verifier: b}}
	p := &authn.Policy{Offers: []authn.Mechanism{plain.PLAIN(chain)}, Names: &authn.Names{FoldCase: true, StripDomains: []string{"old.example"}}}
	l, err := p.Start(t.Context(), &authn.Transport{TLS: &tls.ConnectionState{}}, "PLAIN")
	if err != nil {
		t.Fatal(err)
	}
	if _, done, err := l.Next(t.Context(), []byte("\x00alice\x00pw")); !done {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"alice"}, b.met); diff != "" || b.unknown {
		t.Errorf("without a connection: %v; met (-want +got):\n%s", b.unknown, diff)
	}
}
