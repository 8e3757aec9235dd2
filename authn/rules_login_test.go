package authn_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/authntest"
	"github.com/kpopd/kpopd/authn/plain"
)

// proof is a mechanism that proves what it is told to.
type proof struct {
	name   string
	traits authn.Traits
	id     authn.Identity
	peer   *authn.Principal
	bound  bool
	err    error
}

func (p proof) Name() string                                                    { return p.name }
func (p proof) Traits() authn.Traits                                            { return p.traits }
func (p proof) Start(context.Context, *authn.Transport) (authn.Exchange, error) { return &p, nil }
func (p *proof) Next(context.Context, []byte) (challenge []byte, d bool, e error) {
	return nil, true, p.err
}

func (p *proof) Identity() *authn.Identity { id := p.id; return &id }

func (p *proof) Claimed() (string, *authn.Principal) { return p.id.User, p.peer }
func (p *proof) Bound() bool                         { return p.bound }

// attempted logs in by the one mechanism of p inside TLS.
func attempted(t *testing.T, p *authn.Policy) (*authn.Attempt, *authn.Identity) {
	t.Helper()
	var r authntest.Recorder
	p.Trace = r.Trace()
	tr := &authn.Transport{Listener: "pop3s", TLS: &tls.ConnectionState{Version: tls.VersionTLS13}, Remote: remote("10.1.2.3:1")}
	l, err := p.Start(t.Context(), tr, p.Offers[0].Name())
	var id *authn.Identity
	if err == nil {
		_, _, err = l.Next(t.Context(), []byte{})
		id = l.Identity()
		if err != nil && l.Layer() != nil {
			t.Error("a layer after a refusal")
		}
	}
	if len(r.Attempts) != 1 || !errors.Is(r.Attempts[0].Err, err) || (err == nil) != (r.Attempts[0].Err == nil) || r.Attempts[0].Identity != id {
		t.Fatalf("traced %+v, want one with %v", r.Attempts, err)
	}
	return r.Attempts[0], id
}

func named(source string, r authn.Rule) *authn.Rule { r.Source = source; return &r }

func source(r *authn.Rule) string {
	if r == nil {
		return ""
	}
	return r.Source
}

// What is known only after the proof refuses after the proof.
func TestRulesAfterProof(t *testing.T) {
	t.Parallel()
	rc4 := &authn.Principal{Components: []string{"alice"}, Realm: "OLD.TEST", Ticket: &authn.Ticket{Enctype: "rc4-hmac"}}
	alice := authn.Identity{User: "alice", Groups: []string{"staff"}}
	gssapi := proof{name: "GSSAPI", id: alice, peer: rc4}
	for _, tt := range []struct {
		name  string
		m     proof
		rules []*authn.Rule
		want  authn.Kind // 0: let in
		rule  string
		text  string
	}{
		{"no rules", gssapi, nil, 0, "", ""},
		{"no rule matches", gssapi, []*authn.Rule{named("1", authn.Rule{Users: []string{"bob"}})}, 0, "", ""},
		{"user denied", gssapi, []*authn.Rule{named("1", authn.Rule{Users: []string{"alice"}})}, authn.Denied, "1", ""},
		{"user denied in words", gssapi, []*authn.Rule{named("1", authn.Rule{Users: []string{"alice"}, Text: "See https://help.example"})}, authn.Denied, "1", "See https://help.example"},
		{"user warned of", gssapi, []*authn.Rule{named("1", authn.Rule{Users: []string{"alice"}, Action: authn.Warn})}, 0, "1", ""},
		{"group denied", gssapi, []*authn.Rule{named("1", authn.Rule{Groups: []string{"staff"}})}, authn.Denied, "1", ""},
		{"group let in before all are denied", gssapi, []*authn.Rule{
			named("1", authn.Rule{Groups: []string{"staff"}, Action: authn.Allow}), named("2", authn.Rule{}),
		}, 0, "1", ""},
		{"who is in another group is denied", proof{name: "M", id: authn.Identity{User: "eve", Groups: []string{"students"}}}, []*authn.Rule{
			named("1", authn.Rule{Groups: []string{"staff"}, Action: authn.Allow}), named("2", authn.Rule{}),
		}, authn.Denied, "2", ""},
		{"realm denied", gssapi, []*authn.Rule{named("1", authn.Rule{Realms: []string{"OLD.TEST"}})}, authn.Denied, "1", ""},
		{"enctype denied", gssapi, []*authn.Rule{named("1", authn.Rule{Enctypes: []string{"rc4-hmac"}})}, authn.Denied, "1", ""},
		{"no binding denied", gssapi, []*authn.Rule{named("1", authn.Rule{Binding: authn.Absent})}, authn.Denied, "1", ""},
		{"binding lets in", proof{name: "GSSAPI", id: alice, bound: true}, []*authn.Rule{named("1", authn.Rule{Binding: authn.Absent})}, 0, "", ""},
		{"wrong proof is no matter of rules", proof{name: "M", err: &authn.Error{Kind: authn.Rejected, Step: "M"}}, []*authn.Rule{
			named("1", authn.Rule{Users: []string{"alice"}}),
		}, authn.Rejected, "", ""},
		{"an outage is no matter of rules", proof{name: "M", err: &authn.Error{Kind: authn.Unavailable, Step: "M"}}, []*authn.Rule{
			named("1", authn.Rule{Users: []string{"alice"}}),
		}, authn.Unavailable, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a, id := attempted(t, &authn.Policy{Name: "p", Offers: []authn.Mechanism{tt.m}, Rules: tt.rules})
			if source(a.Rule) != tt.rule {
				t.Errorf("decided by rule %q, want %q", source(a.Rule), tt.rule)
			}
			if tt.want == 0 {
				if a.Err != nil || id == nil {
					t.Errorf("got %v", a.Err)
				}
				return
			}
			var e *authn.Error
			if id != nil || !errors.As(a.Err, &e) || e.Kind != tt.want || e.Text != tt.text {
				t.Errorf("got %+v, %v, want %s with text %q", id, a.Err, tt.want, tt.text)
			}
			if tt.rule != "" && !strings.Contains(e.Error(), "rule "+tt.rule) {
				t.Errorf("the log does not learn which rule: %v", e)
			}
		})
	}
}

// What a rule knows before the login hides the mechanism, refuses it unasked,
// and is told to who asks nevertheless.
func TestRulesBeforeLogin(t *testing.T) {
	t.Parallel()
	m := proof{name: "CRAM-MD5", id: authn.Identity{User: "alice"}}
	for _, tt := range []struct {
		name string
		rule authn.Rule
		text string // "" means that rules have nothing to do with it
	}{
		{"mechanism", authn.Rule{Mechanisms: []string{"CRAM-MD5"}}, "CRAM-MD5 cannot be used here: a rule refuses it"},
		{"in words", authn.Rule{Mechanisms: []string{"CRAM-MD5"}, Text: "Retired, see https://help.example"}, "Retired, see https://help.example"},
		{"network", authn.Rule{Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Text: "Not from here"}, "Not from here"},
		{"another listener", authn.Rule{Listeners: []string{"pop3"}}, ""},
		{"warned of", authn.Rule{Action: authn.Warn}, ""},
		{"who knows", authn.Rule{Users: []string{"alice"}}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var r authntest.Recorder
			p := &authn.Policy{Name: "p", Offers: []authn.Mechanism{m}, Rules: []*authn.Rule{named("k.yaml:9", tt.rule)}, Trace: r.Trace()}
			tr := &authn.Transport{Listener: "pop3s", TLS: &tls.ConnectionState{}, Remote: remote("10.1.2.3:1")}
			if offered := len(p.Mechanisms(tr)) == 1; offered != (tt.text == "") {
				t.Errorf("offered: %v", offered)
			}
			err := p.Refuse(t.Context(), tr, "CRAM-MD5")
			if tt.text == "" {
				if err != nil || len(r.Attempts) > 0 {
					t.Errorf("refused with %v", err)
				}
				return
			}
			var e *authn.Error
			if !errors.As(err, &e) || e.Kind != authn.Denied || e.Text != tt.text {
				t.Errorf("refused with %v, text %q", err, e.Text)
			}
			if l, err := p.Start(t.Context(), tr, "CRAM-MD5"); l != nil || authn.KindOf(err) != authn.Denied {
				t.Errorf("started: %v", err)
			}
			if len(r.Attempts) != 2 || source(r.Attempts[0].Rule) != "k.yaml:9" || source(r.Attempts[1].Rule) != "k.yaml:9" {
				t.Errorf("traced %+v", r.Attempts)
			}
			if err := p.Refuse(t.Context(), tr, "X-UNKNOWN"); err != nil || len(r.Attempts) != 2 {
				t.Errorf("a mechanism that is not there is refused by a rule: %v", err)
			}
		})
	}
}

// A rule cannot open what a password must not be shown to.
func TestRulesDoNotOpenTheClear(t *testing.T) {
	t.Parallel()
	p := &authn.Policy{Offers: []authn.Mechanism{mechPLAIN}, Rules: []*authn.Rule{{Action: authn.Allow}}}
	if ms := p.Mechanisms(&authn.Transport{}); len(ms) > 0 {
		t.Errorf("offers %v", ms)
	}
	if err := p.Refuse(t.Context(), &authn.Transport{}, "PLAIN"); err != nil {
		t.Errorf("and a rule is to blame: %v", err)
	}
}

// A brown-out closes and opens again.
func TestBrownout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now() // midnight UTC on 2000-01-01, a Saturday
		w, err := authn.ParseWindow(start.Add(time.Hour).Format("15:04") + "-" + start.Add(time.Hour+10*time.Minute).Format("15:04"))
		if err != nil {
			t.Fatal(err)
		}
		p := &authn.Policy{
			Offers: []authn.Mechanism{mechGSSAPI},
			Rules:  []*authn.Rule{{Sunset: &authn.Sunset{Date: start.AddDate(1, 0, 0), Brownouts: []authn.Window{w}}}},
		}
		for _, tt := range []struct {
			minute  int
			offered bool
		}{{0, true}, {59, true}, {60, false}, {69, false}, {70, true}} {
			<-time.After(time.Until(start.Add(time.Duration(tt.minute) * time.Minute)))
			if got := len(p.Mechanisms(&authn.Transport{})) == 1; got != tt.offered {
				t.Errorf("offered after %d minutes: %v", tt.minute, got)
			}
		}
	})
}

// An attempt is judged by the moment at which it began.
func TestAttemptMeetsOnePolicy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &authn.Policy{
			Offers: []authn.Mechanism{proof{name: "M", id: authn.Identity{User: "alice"}}},
			Rules:  []*authn.Rule{{Sunset: &authn.Sunset{Date: time.Now().Add(time.Minute)}}},
		}
		l, err := p.Start(t.Context(), &authn.Transport{}, "M")
		if err != nil {
			t.Fatal(err)
		}
		<-time.After(2 * time.Minute)
		if _, done, err := l.Next(t.Context(), nil); !done || err != nil {
			t.Errorf("got %v", err)
		}
		if _, err := p.Start(t.Context(), &authn.Transport{}, "M"); authn.KindOf(err) != authn.Denied {
			t.Errorf("the next one: %v", err)
		}
	})
}

func TestSunsetIsTracedBeforeItsDate(t *testing.T) {
	t.Parallel()
	p := &authn.Policy{
		Offers: []authn.Mechanism{proof{name: "CRAM-MD5", id: authn.Identity{User: "alice"}}},
		Rules:  []*authn.Rule{named("k.yaml:9", authn.Rule{Mechanisms: []string{"CRAM-MD5"}, Sunset: &authn.Sunset{Date: time.Now().AddDate(1, 0, 0)}})},
	}
	a, id := attempted(t, p)
	if id == nil || a.Rule != nil || source(a.Sunset) != "k.yaml:9" {
		t.Errorf("traced %+v", a)
	}
}

// A shadow is judged for every login, changes nothing, and its differences are
// told with the rule and the reason.
func TestShadow(t *testing.T) {
	t.Parallel()
	student := proof{name: "PLAIN", traits: authn.Plaintext, id: authn.Identity{User: "eve", Groups: []string{"students"}}}
	wrong := student
	wrong.err = &authn.Error{Kind: authn.Rejected, Step: "m"}
	offers := []authn.Mechanism{student}
	students := named("s:1", authn.Rule{Groups: []string{"students"}})
	everyone := named("s:2", authn.Rule{})
	acts := student
	acts.id.For = "support"
	for _, tt := range []struct {
		name   string
		m      proof
		real   authn.Policy
		shadow authn.Policy
		in     bool
		want   string // action, rule, reason
	}{
		{"the same", student, authn.Policy{}, authn.Policy{Offers: offers}, true, ""},
		{"mechanism that it lacks", student, authn.Policy{}, authn.Policy{}, true, "deny  not in the policy"},
		{"would be denied by group", student, authn.Policy{}, authn.Policy{Offers: offers, Rules: []*authn.Rule{students}}, true, "deny s:1 a rule refuses it"},
		{"would be warned of", student, authn.Policy{}, authn.Policy{Offers: offers, Rules: []*authn.Rule{named("s:3", authn.Rule{Action: authn.Warn})}}, true, "warn s:3 "},
		{"would not be warned of", student, authn.Policy{Rules: []*authn.Rule{{Action: authn.Warn}}}, authn.Policy{Offers: offers}, true, "allow  "},
		{"both warn", student, authn.Policy{Rules: []*authn.Rule{{Action: authn.Warn}}}, authn.Policy{Offers: offers, Rules: []*authn.Rule{{Action: authn.Warn}}}, true, ""},
		{"would be let in after the proof", student, authn.Policy{Rules: []*authn.Rule{students}}, authn.Policy{Offers: offers}, false, "allow  "},
		{"would be let in before", student, authn.Policy{Rules: []*authn.Rule{everyone}}, authn.Policy{Offers: offers}, false, "allow  "},
		{"both deny", student, authn.Policy{Rules: []*authn.Rule{students}}, authn.Policy{Offers: offers, Rules: []*authn.Rule{everyone}}, false, ""},
		{"wrong password, and it would not have been asked for", wrong, authn.Policy{}, authn.Policy{Offers: offers, Rules: []*authn.Rule{everyone}}, false, "deny s:2 a rule refuses it"},
		{"wrong password, and nobody knows whose", wrong, authn.Policy{}, authn.Policy{Offers: offers, Rules: []*authn.Rule{students}}, false, ""},
		{"may act for another there", acts, authn.Policy{}, authn.Policy{Offers: offers, Act: []*authn.Rule{{Action: authn.Allow, As: []string{"*"}}}}, false, "allow  "},
		{
			"may not act for another there", acts,
			authn.Policy{Act: []*authn.Rule{{Action: authn.Allow, As: []string{"*"}}}},
			authn.Policy{Offers: offers, Act: []*authn.Rule{named("s:4", authn.Rule{As: []string{"support"}})}},
			true, "deny s:4 may act for nobody else",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := tt.real
			tt.shadow.Name, p.Name, p.Shadow, p.Offers = "tomorrow", "today", &tt.shadow, []authn.Mechanism{tt.m}
			a, id := attempted(t, &p)
			if (id != nil) != tt.in {
				t.Errorf("got %+v, %v", id, a.Err)
			}
			got := ""
			if d := a.Shadow; d != nil {
				got = d.Action.String() + " " + source(d.Rule) + " "
				if d.Reason != nil {
					got += d.Reason.Error()
				}
				if d.Policy != "tomorrow" {
					t.Errorf("the shadow is called %q", d.Policy)
				}
			}
			if got != tt.want {
				t.Errorf("difference %q, want %q", got, tt.want)
			}
		})
	}
}

// A client that was not offered a mechanism and asks for it is traced when the
// shadow would have let it.
func TestShadowOfWhatIsNotOffered(t *testing.T) {
	t.Parallel()
	var r authntest.Recorder
	p := &authn.Policy{Name: "today", Shadow: &authn.Policy{Name: "tomorrow", Offers: []authn.Mechanism{mechGSSAPI}}, Trace: r.Trace()}
	if err := p.Refuse(t.Context(), &authn.Transport{}, "GSSAPI"); err != nil {
		t.Errorf("refused by a rule: %v", err)
	}
	if err := p.Refuse(t.Context(), &authn.Transport{}, "X-OTHER"); err != nil {
		t.Errorf("refused by a rule: %v", err)
	}
	if len(r.Attempts) != 1 || r.Attempts[0].Shadow == nil || r.Attempts[0].Shadow.Action != authn.Allow || r.Attempts[0].Mechanism != "" {
		t.Errorf("traced %+v", r.Attempts)
	}
}

// Nobody may act for another but by a rule; each use is traced with both names.
func TestActing(t *testing.T) {
	t.Parallel()
	users := &finder{users: map[string]*authn.Identity{
		"alice":   {User: "alice", Attrs: map[string]string{authn.AttrMaildrop: "a/alice"}},
		"support": {User: "support", Attrs: map[string]string{authn.AttrMaildrop: "roles/support"}},
	}, err: map[string]error{
		"locked": &authn.Error{Kind: authn.Denied, Step: "users"},
		"down":   &authn.Error{Kind: authn.Unavailable, Step: "users"},
	}}
	backup := []*authn.Rule{
		named("k:1", authn.Rule{As: []string{"provost"}, Text: "Not the provost's"}),
		named("k:2", authn.Rule{Users: []string{"backup"}, As: []string{"*"}, Action: authn.Allow}),
		named("k:3", authn.Rule{Groups: []string{"helpdesk"}, As: []string{"support", "info"}, Action: authn.Warn}),
	}
	for _, tt := range []struct {
		name, who, whom string
		groups          []string
		rules           []*authn.Rule
		want            authn.Kind // 0: lets in
		rule, text      string
	}{
		{"nobody by default", "backup", "alice", nil, nil, authn.Denied, "", ""},
		{"a master user", "backup", "alice", nil, backup, 0, "k:2", ""},
		{"not for everybody", "backup", "provost", nil, backup, authn.Denied, "k:1", "Not the provost's"},
		{"a role mailbox", "bob", "support", []string{"staff", "helpdesk"}, backup, 0, "k:3", ""},
		{"another mailbox", "bob", "alice", []string{"helpdesk"}, backup, authn.Denied, "", ""},
		{"who is in no group", "bob", "support", nil, backup, authn.Denied, "", ""},
		{"for somebody who is locked", "backup", "locked", nil, backup, authn.Denied, "k:2", ""},
		{"for nobody there is", "backup", "nobody", nil, backup, authn.UnknownUser, "k:2", ""},
		{"while the directory is down", "backup", "down", nil, backup, authn.Unavailable, "k:2", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := proof{name: "M", id: authn.Identity{
				User: tt.who, For: tt.whom, Step: "step", Groups: tt.groups, Attrs: map[string]string{authn.AttrMaildrop: "own"},
			}}
			a, id := attempted(t, &authn.Policy{Name: "p", Offers: []authn.Mechanism{m}, Act: tt.rules, Users: authn.Chain{{Verifier: users}}})
			if a.For != tt.whom || a.Login != tt.who || source(a.Act) != tt.rule {
				t.Errorf("traced as %q for %q by rule %q", a.Login, a.For, source(a.Act))
			}
			if tt.want != 0 {
				var e *authn.Error
				if id != nil || !errors.As(a.Err, &e) || e.Kind != tt.want || e.Text != tt.text {
					t.Errorf("got %+v, %v", id, a.Err)
				}
				return
			}
			if a.Err != nil || id.User != tt.whom || id.Authn != tt.who || id.For != "" || id.Step != "step" || id.Mechanism != "M" {
				t.Fatalf("got %+v, %v", id, a.Err)
			}
			if got, want := id.Attrs[authn.AttrMaildrop], users.users[tt.whom].Attrs[authn.AttrMaildrop]; got != want {
				t.Errorf("opens %q, want %q", got, want)
			}
		})
	}
	t.Run("nothing known of whom", func(t *testing.T) {
		t.Parallel()
		m := proof{name: "M", id: authn.Identity{User: "backup", Authn: "backup@DEMO.TEST", For: "alice", Attrs: map[string]string{authn.AttrMaildrop: "own"}}}
		_, id := attempted(t, &authn.Policy{Offers: []authn.Mechanism{m}, Act: backup})
		if id == nil || id.User != "alice" || id.Authn != "backup@DEMO.TEST" || len(id.Attrs) > 0 {
			t.Errorf("got %+v", id)
		}
	})
	t.Run("whoever is denied acts for nobody", func(t *testing.T) {
		t.Parallel()
		m := proof{name: "M", id: authn.Identity{User: "backup", For: "alice"}}
		a, id := attempted(t, &authn.Policy{Offers: []authn.Mechanism{m}, Act: backup, Rules: []*authn.Rule{named("k:9", authn.Rule{Users: []string{"backup"}})}})
		if id != nil || authn.KindOf(a.Err) != authn.Denied || source(a.Rule) != "k:9" || a.Act != nil {
			t.Errorf("got %+v, %v", id, a.Err)
		}
	})
}

type finder struct {
	users map[string]*authn.Identity
	err   map[string]error
}

func (*finder) Name() string { return "users" }
func (f *finder) FindUser(_ context.Context, login string) (*authn.Identity, error) {
	if id := f.users[login]; id != nil {
		return id, nil
	}
	if err := f.err[login]; err != nil {
		return nil, err
	}
	return nil, &authn.Error{Kind: authn.UnknownUser, Step: "users"}
}

// PLAIN, GSSAPI and KPOP leave it to the policy for whom their client may act.
func TestActingByPLAIN(t *testing.T) {
	t.Parallel()
	f := &authntest.Fake{Passwords: map[string]string{"backup": "tanstaaf"}}
	tr := &authn.Transport{TLS: &tls.ConnectionState{}}
	for _, tt := range []struct {
		message, user string
		act           []*authn.Rule
	}{
		{"alice\x00backup\x00tanstaaf", "", nil},
		{"backup\x00backup\x00tanstaaf", "backup", nil},
		{"alice\x00backup\x00tanstaaf", "alice", []*authn.Rule{{Action: authn.Allow, As: []string{"alice"}}}},
		{"alice\x00backup\x00wrong", "", []*authn.Rule{{Action: authn.Allow, As: []string{"alice"}}}},
		{"../x\x00backup\x00tanstaaf", "", []*authn.Rule{{Action: authn.Allow, As: []string{"*"}}}},
	} {
		p := &authn.Policy{Offers: []authn.Mechanism{plain.PLAIN(f.Chain())}, Act: tt.act}
		l, err := p.Start(t.Context(), tr, "PLAIN")
		if err != nil {
			t.Fatal(err)
		}
		_, done, err := l.Next(t.Context(), []byte(tt.message))
		id := l.Identity()
		if tt.user == "" && (done || err == nil || id != nil) || tt.user != "" && (!done || err != nil || id.User != tt.user) {
			t.Errorf("%q: got %+v, %v", tt.message, id, err)
		}
	}
}

func TestMapPrincipalForAnother(t *testing.T) {
	t.Parallel()
	p := &authn.Principal{Components: []string{"backup"}, Realm: "DEMO.TEST"}
	f := &authntest.Fake{Principals: map[string][]string{"backup@DEMO.TEST": {"backup", "shared"}}}
	for _, tt := range []struct{ authzid, user, whom string }{
		{"", "backup", ""},
		{"shared", "shared", ""},
		{"alice", "backup", "alice"},
		{"../alice", "", ""},
	} {
		id, err := f.Chain().MapPrincipal(t.Context(), p, tt.authzid)
		if tt.user == "" {
			if err == nil || authn.KindOf(err) != authn.Denied {
				t.Errorf("%q: got %+v, %v", tt.authzid, id, err)
			}
			continue
		}
		if err != nil || id.User != tt.user || id.For != tt.whom {
			t.Errorf("%q: got %+v, %v", tt.authzid, id, err)
		}
	}
	stranger := &authn.Principal{Components: []string{"eve"}, Realm: "DEMO.TEST"}
	if id, err := f.Chain().MapPrincipal(t.Context(), stranger, "alice"); authn.KindOf(err) != authn.Denied {
		t.Errorf("a stranger: got %+v, %v", id, err)
	}
}

// A rule on groups is not passed by with a ticket: who vouched knows no groups,
// and another step of the chain does.
func TestGroupsOfAnotherStep(t *testing.T) {
	t.Parallel()
	students := []*authn.Rule{named("k:1", authn.Rule{Groups: []string{"students"}})}
	users := authn.Chain{{Verifier: &finder{users: map[string]*authn.Identity{
		"eve": {User: "eve", Groups: []string{"students"}}, "ann": {User: "ann", Groups: []string{"staff"}},
	}, err: map[string]error{
		"locked": &authn.Error{Kind: authn.Denied, Step: "users"},
		"down":   &authn.Error{Kind: authn.Unavailable, Step: "users"},
	}}}}
	for _, tt := range []struct {
		name, who, step string
		groups          []string
		rules, shadow   []*authn.Rule
		want            authn.Kind // 0: lets in
		differs         bool
	}{
		{"in the group", "eve", "tickets", nil, students, nil, authn.Denied, false},
		{"in another", "ann", "tickets", nil, students, nil, 0, false},
		{"in none", "nobody", "tickets", nil, students, nil, 0, false},
		{"locked there", "locked", "tickets", nil, students, nil, authn.Denied, false},
		{"an outage keeps out", "down", "tickets", nil, students, nil, authn.Unavailable, false},
		{"nobody asks without need", "down", "tickets", nil, nil, nil, 0, false},
		{"who vouched has told", "down", "users", nil, students, nil, 0, false},
		{"who vouched knows better", "eve", "tickets", []string{"staff"}, students, nil, 0, false},
		{"the shadow learns", "eve", "tickets", nil, nil, students, 0, true},
		{"an outage for the shadow keeps nobody out", "down", "tickets", nil, nil, students, 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := proof{name: "M", id: authn.Identity{User: tt.who, Step: tt.step, Groups: tt.groups}}
			p := &authn.Policy{Name: "p", Offers: []authn.Mechanism{m}, Rules: tt.rules, Users: users}
			if tt.shadow != nil {
				p.Shadow = &authn.Policy{Name: "s", Offers: p.Offers, Rules: tt.shadow}
			}
			a, id := attempted(t, p)
			if (id == nil) != (tt.want != 0) || id == nil && authn.KindOf(a.Err) != tt.want {
				t.Errorf("got %+v, %v, want %s", id, a.Err, tt.want)
			}
			if (a.Shadow != nil) != tt.differs {
				t.Errorf("the shadow differs: %+v", a.Shadow)
			}
		})
	}
}
