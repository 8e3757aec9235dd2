package authn

import (
	"crypto/tls"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// monday is a Monday, 10:05.
var monday = time.Date(2027, 1, 4, 10, 5, 0, 0, time.UTC)

func window(t testing.TB, s string) Window {
	t.Helper()
	w, err := ParseWindow(s)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func prefixes(s ...string) (ps []netip.Prefix) {
	for _, p := range s {
		ps = append(ps, netip.MustParsePrefix(p))
	}
	return ps
}

// known is a login of which everything is known, and everything can be asked.
func known() Facts {
	return Facts{
		Transport: &Transport{
			Listener: "pop3s", Remote: netip.MustParseAddrPort("[::ffff:10.1.2.3]:4711"),
			TLS: &tls.ConnectionState{Version: tls.VersionTLS13},
		},
		Mechanism: "GSSAPI", Time: monday, User: "alice", Groups: []string{"staff", "admins"},
		Principal:   &Principal{Components: []string{"alice"}, Realm: "DEMO.TEST", Ticket: &Ticket{Enctype: "aes256-cts-hmac-sha1-96"}},
		Certificate: true, Bound: true, As: "support",
	}
}

// Each condition holds, does not hold, and is open when its fact is.
func TestConditions(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		holds Rule
		not   Rule
		about Fact
	}{
		{"listener", Rule{Listeners: []string{"pop3", "pop3s"}}, Rule{Listeners: []string{"pop3"}}, ListenerFact},
		{"network", Rule{Networks: prefixes("192.0.2.0/24", "10.0.0.0/8")}, Rule{Networks: prefixes("10.2.0.0/16", "::/0")}, NetworkFact},
		{"TLS version", Rule{TLS: []uint16{tls.VersionTLS12, tls.VersionTLS13}}, Rule{TLS: []uint16{0, tls.VersionTLS12}}, TLSFact},
		{"client certificate", Rule{Certificate: Present}, Rule{Certificate: Absent}, TLSFact},
		{"mechanism", Rule{Mechanisms: []string{"PLAIN", "GSSAPI"}}, Rule{Mechanisms: []string{"GSSAPI-PLUS"}}, MechanismFact},
		{"user", Rule{Users: []string{"bob", "alice"}}, Rule{Users: []string{"Alice"}}, UserFact},
		{"group", Rule{Groups: []string{"admins"}}, Rule{Groups: []string{"students"}}, GroupsFact},
		{"realm", Rule{Realms: []string{"DEMO.TEST"}}, Rule{Realms: []string{"demo.test"}}, RealmFact},
		{"enctype", Rule{Enctypes: []string{"aes256-cts-hmac-sha1-96"}}, Rule{Enctypes: []string{"rc4-hmac"}}, EnctypeFact},
		{"channel binding", Rule{Binding: Present}, Rule{Binding: Absent}, BindingFact},
		{"hours", Rule{Times: []Window{window(t, "mon 10:00-10:10")}}, Rule{Times: []Window{window(t, "10:06-10:10"), window(t, "tue")}}, TimeFact},
		{"sunset", Rule{Sunset: &Sunset{Date: monday.AddDate(0, 1, 0), Brownouts: []Window{window(t, "mon 10:00-10:10")}}}, Rule{Sunset: &Sunset{Date: monday.Add(1)}}, TimeFact},
		{"whom to act for", Rule{As: []string{"info", "support"}}, Rule{As: []string{"info"}}, 0},
		{"anybody to act for", Rule{As: []string{"*"}}, Rule{As: []string{"supp*"}}, 0},
		{"two conditions", Rule{Users: []string{"alice"}, Groups: []string{"staff"}}, Rule{Users: []string{"bob"}, Groups: []string{"staff"}}, GroupsFact},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := known()
			if got := tt.holds.match(&f); got != certainly {
				t.Errorf("what holds: %d", got)
			}
			if got := tt.not.match(&f); got != never {
				t.Errorf("what does not hold: %d", got)
			}
			if f.Open = tt.about; f.Open == 0 {
				return
			}
			if got := tt.holds.match(&f); got != possibly {
				t.Errorf("what holds, and is open: %d", got)
			}
			want := possibly
			if tt.not.Users != nil && tt.not.Groups != nil {
				want = never // the other condition is known to fail
			}
			if got := tt.not.match(&f); got != want {
				t.Errorf("what does not hold, and is open: %d", got)
			}
			f.Open = ^tt.about
			if got := tt.holds.match(&f); got == never || tt.holds.Users == nil && got != certainly {
				t.Errorf("what holds, and everything else is open: %d", got)
			}
		})
	}
	t.Run("no conditions", func(t *testing.T) {
		t.Parallel()
		if got := (&Rule{}).match(&Facts{Transport: &Transport{}, Open: ^Fact(0)}); got != certainly {
			t.Errorf("got %d", got)
		}
	})
	t.Run("no ticket, no TLS", func(t *testing.T) {
		t.Parallel()
		for _, r := range []Rule{{Realms: []string{""}}, {Enctypes: []string{""}}, {Certificate: Present}, {Networks: prefixes("0.0.0.0/0", "::/0")}} {
			if got := r.match(&Facts{Transport: &Transport{}}); got != never {
				t.Errorf("%+v: got %d", r, got)
			}
		}
		if got := (&Rule{TLS: []uint16{0}, Certificate: Absent}).match(&Facts{Transport: &Transport{}}); got != certainly {
			t.Errorf("got %d", got)
		}
	})
}

// ruleOf makes a rule of its two letters: what it does (a, w, d) and whether it
// matches (!, ?, -) while the user is not known and in fact alice.
func ruleOf(s string) *Rule {
	r := &Rule{Source: s, Action: map[byte]Action{'a': Allow, 'w': Warn, 'd': Deny}[s[0]]}
	switch s[1] {
	case '?':
		r.Users = []string{"alice"}
	case '-':
		r.Listeners = []string{"none"}
	}
	return r
}

// What rules make of a login before it is known whose it is, in every order of
// rules that matter: the specification of three-valued matching.
func TestTruthTable(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		rules   string // ! matches, ? may match, - does not
		offered bool
		open    bool   // it may turn out otherwise
		decides string // the rule that does unless one that may match does
	}{
		{"", true, false, ""},
		{"a!", true, false, "a!"},
		{"w!", true, false, "w!"},
		{"d!", false, false, "d!"},
		{"a-", true, false, ""},
		{"d-", true, false, ""},
		{"d- a!", true, false, "a!"},
		{"a- d!", false, false, "d!"},
		{"a! d!", true, false, "a!"},
		{"d! a!", false, false, "d!"},
		{"d! a?", false, false, "d!"},
		{"a! d?", true, false, "a!"},
		{"w! d?", true, false, "w!"},

		{"a?", true, false, ""},
		{"w?", true, false, ""},
		{"d?", true, true, ""},
		{"a? a!", true, false, "a!"},
		{"a? w!", true, false, "w!"},
		{"a? d!", true, true, "d!"},
		{"w? d!", true, true, "d!"},
		{"d? a!", true, true, "a!"},
		{"d? w!", true, true, "w!"},
		{"d? d!", false, false, "d!"},
		{"d? d? d!", false, false, "d!"},
		{"d? a? d!", true, true, "d!"},
		{"a? d? d!", true, true, "d!"},
		{"a? d?", true, true, ""},
		{"d- a? d- d!", true, true, "d!"},
		{"d? a- d!", false, false, "d!"},
	} {
		t.Run(tt.rules, func(t *testing.T) {
			t.Parallel()
			p := &Policy{Offers: []Mechanism{silent{}}}
			for s := range strings.FieldsSeq(tt.rules) {
				p.Rules = append(p.Rules, ruleOf(s))
			}
			tr := &Transport{TLS: &tls.ConnectionState{}}
			f := Before(tr, monday)
			r := judge(p.Rules, &f)
			decides := ""
			if r.rule != nil {
				decides = r.rule.Source
			}
			if r.allowed != tt.offered || r.open != tt.open || decides != tt.decides {
				t.Errorf("got offered %v, open %v, decided by %q", r.allowed, r.open, decides)
			}
			if got := len(p.Usable(Before(tr, monday))) == 1; got != tt.offered {
				t.Errorf("CAPA has it: %v", got)
			}
			v := p.Judge(f)[0]
			if (v.Reason == nil) != tt.offered || v.Rule != r.rule {
				t.Errorf("explained as %+v", v)
			}
			before, _, _ := strings.Cut(tt.rules, "!")
			if got := len(v.Open); got != strings.Count(before, "?") {
				t.Errorf("%d rules may decide otherwise", got)
			}
		})
	}
}

// silent is a mechanism that brings what a ticket does.
type silent struct{ Mechanism }

func (silent) Name() string   { return "SILENT" }
func (silent) Traits() Traits { return 0 }

type shaped struct {
	Mechanism
	traits Traits
}

func (shaped) Name() string     { return "SHAPED" }
func (s shaped) Traits() Traits { return s.traits }

// What a mechanism can never bring is known before the login, so that a
// password is not asked for and then refused for having no ticket.
func TestKnownBeforeLogin(t *testing.T) {
	t.Parallel()
	inTLS := &Transport{TLS: &tls.ConnectionState{}}
	inClear := &Transport{}
	ticket := &Transport{Peer: &Principal{Realm: "DEMO.TEST", Ticket: &Ticket{Enctype: "rc4-hmac"}}}
	const always = UserFact | GroupsFact
	for _, tt := range []struct {
		name string
		t    *Transport
		m    Traits
		want Fact // open
	}{
		{"a ticket inside TLS", inTLS, 0, afterLogin},
		{"a ticket in the clear has nothing to bind to", inClear, 0, always | RealmFact | EnctypeFact},
		{"a password", inTLS, Plaintext, always},
		{"what is bound to TLS", inTLS, NeedsBinding, always | RealmFact | EnctypeFact},
		{"APOP", inTLS, Command | NeedsStamp, always},
		{"a ticket that came first", ticket, Command | NeedsPeer, always},
	} {
		f := Before(tt.t, monday).with(shaped{traits: tt.m})
		if f.Open != tt.want || f.Mechanism != "SHAPED" {
			t.Errorf("%s: open %b, want %b", tt.name, f.Open, tt.want)
		}
		if f.Bound != (tt.m == NeedsBinding) {
			t.Errorf("%s: bound %v", tt.name, f.Bound)
		}
		if (f.Principal == nil) != (tt.t.Peer == nil) {
			t.Errorf("%s: principal %v", tt.name, f.Principal)
		}
	}
}

func TestAhead(t *testing.T) {
	t.Parallel()
	f := Facts{Transport: &Transport{}, Mechanism: "PLAIN", User: "alice", Time: monday}
	sunset := func(r Rule) *Rule { r.Sunset = &Sunset{Date: monday.AddDate(0, 1, 0)}; return &r }
	for _, tt := range []struct {
		name  string
		rules []*Rule
		want  int // -1: none
	}{
		{"none", nil, -1},
		{"one that will match", []*Rule{{Users: []string{"bob"}}, sunset(Rule{Mechanisms: []string{"PLAIN"}})}, 1},
		{"one for another user", []*Rule{sunset(Rule{Users: []string{"bob"}})}, -1},
		{"one behind a rule that decides", []*Rule{{Action: Allow, Users: []string{"alice"}}, sunset(Rule{})}, -1},
		{"one at some hours only", []*Rule{sunset(Rule{Times: []Window{window(t, "mon")}})}, -1},
		{"the first of two", []*Rule{sunset(Rule{}), sunset(Rule{})}, 0},
	} {
		got := ahead(tt.rules, &f)
		if tt.want < 0 && got != nil || tt.want >= 0 && got != tt.rules[tt.want] {
			t.Errorf("%s: got %+v", tt.name, got)
		}
	}
}

// FuzzRules: a mechanism that is hidden is one that nobody could log in with,
// whatever turned out to be true of what is not known yet; and what is said to
// be certain is.
func FuzzRules(f *testing.F) {
	f.Add([]byte{0, 1, 1, 2, 4, 0, 0xFF}, uint16(afterLogin))
	f.Add([]byte("deny all but the staff, and warn of the rest"), uint16(UserFact|GroupsFact))
	f.Add([]byte{0x80, 0, 0, 0x80, 0x12, 0x34, 0x80, 0xFF, 0xFF}, ^uint16(0))
	f.Fuzz(func(t *testing.T, shape []byte, open uint16) {
		rules := fuzzRules(shape)
		before := completions(0)[0]
		before.Open = Fact(open)
		r := judge(rules, &before)
		for _, after := range completions(Fact(open)) {
			exact := judge(rules, &after)
			switch {
			case exact.open:
				t.Fatal("open although everything is known")
			case exact.allowed && !r.allowed:
				t.Fatalf("hidden, and %+v could log in", after)
			case !exact.allowed && r.allowed && !r.open:
				t.Fatalf("certain, and %+v is refused", after)
			case !r.open && r.rule != nil && exact.allowed != (r.rule.Action != Deny):
				t.Fatalf("decided by %v, and %+v ends otherwise", r.rule, after)
			}
		}
	})
}

// fuzzRules makes up to eight rules, of three octets each.
func fuzzRules(b []byte) (rules []*Rule) {
	for ; len(b) >= 3 && len(rules) < 8; b = b[3:] {
		r := &Rule{Action: Action(b[0] % 3)}
		set := func(bit byte, to func()) {
			if b[1]&(1<<bit) != 0 {
				to()
			}
		}
		one := b[2]&1 != 0
		pick := func(x, y string) []string {
			if one {
				return []string{x}
			}
			return []string{y}
		}
		set(0, func() { r.Users = pick("alice", "bob") })
		set(1, func() { r.Groups = pick("staff", "students") })
		set(2, func() { r.Realms = pick("A", "B") })
		set(3, func() { r.Enctypes = pick("aes", "rc4") })
		set(4, func() { r.Binding = Option(1 + b[2]%2) })
		set(5, func() { r.TLS = []uint16{uint16(b[2]%2) * tls.VersionTLS13} })
		set(6, func() { r.Listeners = pick("one", "two") })
		set(7, func() { r.Sunset = &Sunset{Date: monday.AddDate(0, 0, 7), ShareFrom: monday.AddDate(0, 0, -7)} })
		if b[0]&0x80 != 0 {
			r.Times = []Window{{days: 1 << time.Monday, to: day}}
		}
		rules = append(rules, r)
	}
	return rules
}

// completions are all ways in which what is open may turn out.
func completions(open Fact) []Facts {
	all := []Facts{{
		Transport: &Transport{Listener: "one"}, Time: monday, User: "alice", Groups: []string{"staff"},
		Principal: &Principal{Realm: "A", Ticket: &Ticket{Enctype: "aes"}},
	}}
	either := func(about Fact, change func(*Facts)) {
		if open&about == 0 {
			return
		}
		for _, f := range slices.Clone(all) {
			tr, p := *f.Transport, *f.Principal
			f.Transport, f.Principal = &tr, &p
			change(&f)
			all = append(all, f)
		}
	}
	either(UserFact, func(f *Facts) { f.User = "bob" })
	either(UserFact, func(f *Facts) { f.User += "x" })
	either(GroupsFact, func(f *Facts) { f.Groups = []string{"students", "staff"} })
	either(RealmFact, func(f *Facts) { f.Principal.Realm = "B" })
	either(EnctypeFact, func(f *Facts) { f.Principal.Ticket = &Ticket{Enctype: "rc4"} })
	either(BindingFact, func(f *Facts) { f.Bound = true })
	either(TLSFact, func(f *Facts) { f.Transport.TLS = &tls.ConnectionState{Version: tls.VersionTLS13} })
	either(ListenerFact, func(f *Facts) { f.Transport.Listener = "two" })
	either(TimeFact, func(f *Facts) { f.Time = monday.AddDate(0, 0, 8) })
	return all
}
