package authn_test

import (
	"context"
	"crypto/tls"
	"testing"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/authntest"
	"github.com/kpopd/kpopd/authn/plain"
)

// door returns a login with a verifier that costs nothing: what policy, chain
// and trace cost by themselves.
func door(tb testing.TB) func() {
	f := &authntest.Fake{Passwords: map[string]string{"alice": "tanstaaf"}}
	traced := 0
	p := &authn.Policy{
		Name: "p", Offers: []authn.Mechanism{plain.LOGIN(f.Chain()), plain.PLAIN(f.Chain())},
		Trace: authn.Join(
			&authn.Trace{Attempt: func(context.Context, *authn.Attempt) { traced++ }},
			&authn.Trace{Step: func(context.Context, *authn.StepDone) { traced++ }},
		),
	}
	t := &authn.Transport{TLS: &tls.ConnectionState{}}
	message := []byte("\x00alice\x00tanstaaf")
	return func() {
		l, err := p.Start(tb.Context(), t, "PLAIN")
		if err != nil {
			tb.Fatal(err)
		}
		if _, done, err := l.Next(tb.Context(), message); !done || err != nil {
			tb.Fatal(done, err)
		}
	}
}

func TestDoorAllocatesLittle(t *testing.T) {
	if n := testing.AllocsPerRun(100, door(t)); n > 30 {
		t.Errorf("%v allocations a login, at most 30 are meant to be", n)
	}
}

func BenchmarkDoor(b *testing.B) {
	login := door(b)
	b.ReportAllocs()
	for b.Loop() {
		login()
	}
}
