package authn_test

import (
	"context"
	"crypto/tls"
	"net/netip"
	"testing"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/authntest"
	"github.com/kpopd/kpopd/authn/plain"
	"github.com/kpopd/kpopd/authn/throttle"
)

// door returns a login with a verifier that costs nothing: what policy, throttle,
// chain and trace cost by themselves, and with them whatever change makes of p.
func door(tb testing.TB, change func(p *authn.Policy)) func() {
	f := &authntest.Fake{Passwords: map[string]string{"alice": "tanstaaf"}}
	traced := 0
	p := &authn.Policy{
		Name: "p", Offers: []authn.Mechanism{plain.LOGIN(f.Chain()), plain.PLAIN(f.Chain())},
		Throttle: throttle.New(throttle.Options{Rate: -1}),
		Trace: authn.Join(
			&authn.Trace{Attempt: func(context.Context, *authn.Attempt) { traced++ }},
			&authn.Trace{Step: func(context.Context, *authn.StepDone) { traced++ }},
		),
	}
	if change != nil {
		change(p)
	}
	t := &authn.Transport{TLS: &tls.ConnectionState{}, Remote: netip.MustParseAddrPort("192.0.2.1:1")}
	message := []byte("\x00alice\x00tanstaaf")
	return func() {
		if len(p.Mechanisms(t)) != 2 {
			tb.Fatal("not offered")
		}
		l, err := p.Start(tb.Context(), t, "PLAIN")
		if err != nil {
			tb.Fatal(err)
		}
		if _, done, err := l.Next(tb.Context(), message); !done || err != nil {
			tb.Fatal(done, err)
		}
	}
}

// ruled gives p twenty rules of every sort, none of which matches, and a shadow
// with the same ones.
func ruled(p *authn.Policy) {
	later := &authn.Sunset{
		Date: time.Now().AddDate(1, 0, 0), ShareFrom: time.Now().AddDate(-1, 0, 0).Add(-1),
		Brownouts: []authn.Window{{}},
	}
	for range 4 {
		p.Rules = append(
			p.Rules,
			&authn.Rule{Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}},
			&authn.Rule{Groups: []string{"students", "guests"}},
			&authn.Rule{Users: []string{"bob", "carol", "dave"}},
			&authn.Rule{Mechanisms: []string{"CRAM-MD5"}, Sunset: later},
			&authn.Rule{Users: []string{"bob"}, Sunset: later},
		)
	}
	p.Shadow = &authn.Policy{Name: "shadow", Offers: p.Offers, Rules: p.Rules}
}

var doors = []struct {
	name   string
	change func(*authn.Policy)
}{{"plain", nil}, {"rules", ruled}}

func TestDoorAllocatesLittle(t *testing.T) {
	for _, d := range doors {
		if n := testing.AllocsPerRun(100, door(t, d.change)); n > 30 {
			t.Errorf("%s: %v allocations a login, at most 30 are meant to be", d.name, n)
		}
	}
}

// Rules and a shadow that does the same allocate nothing.
func TestRulesAllocateNothing(t *testing.T) {
	without := testing.AllocsPerRun(100, door(t, nil))
	if with := testing.AllocsPerRun(100, door(t, ruled)); with > without {
		t.Errorf("%v allocations a login with rules, %v without", with, without)
	}
}

func BenchmarkDoor(b *testing.B) {
	for _, d := range doors {
		b.Run(d.name, func(b *testing.B) {
			login := door(b, d.change)
			b.ReportAllocs()
			for b.Loop() {
				login()
			}
		})
	}
}
