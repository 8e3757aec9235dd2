package authn_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/authntest"
	"github.com/kpopd/kpopd/authn/cram"
	"github.com/kpopd/kpopd/authn/plain"
)

// doorman keeps what he was asked and told.
type doorman struct {
	refuse error
	asked  []string
	told   []error
}

func (d *doorman) Admit(_ context.Context, _ *authn.Transport, login string) (func(error), error) {
	d.asked = append(d.asked, login)
	if d.refuse != nil {
		return nil, d.refuse
	}
	return func(err error) { d.told = append(d.told, err) }, nil
}

// ticketed is a mechanism that maps a principal, as GSSAPI and KPOP do.
type ticketed struct{ chain authn.Chain }

func (ticketed) Name() string         { return "TICKET" }
func (ticketed) Traits() authn.Traits { return 0 }
func (m ticketed) Start(context.Context, *authn.Transport) (authn.Exchange, error) {
	return &ticketExchange{chain: m.chain}, nil
}

type ticketExchange struct {
	chain authn.Chain
	id    *authn.Identity
}

func (e *ticketExchange) Next(ctx context.Context, _ []byte) (_ []byte, done bool, err error) {
	e.id, err = e.chain.MapPrincipal(ctx, &authn.Principal{Components: []string{"alice"}, Realm: "R"}, "")
	return nil, err == nil, err
}
func (e *ticketExchange) Identity() *authn.Identity { return e.id }

func TestThrottle(t *testing.T) {
	t.Parallel()
	throttled := &authn.Error{Kind: authn.Throttled, Step: "doorman"}
	for _, tt := range []struct {
		name, mech string
		responses  []string // "" is none
		refuse     error
		asked      []string
		want       authn.Kind // of the outcome; of a success when told says so
		told       int
		verifier   int64 // questions to the verifier
		abort      bool
	}{
		{"success", "PLAIN", []string{"\x00alice\x00p"}, nil, []string{"alice"}, authn.Decline, 1, 1, false},
		{"asked once, though password and secret are looked at", "USER", []string{"\x00alice\x00p"}, nil, []string{"alice"}, authn.Decline, 1, 2, false},
		{"wrong password", "PLAIN", []string{"\x00alice\x00x"}, nil, []string{"alice"}, authn.Rejected, 1, 1, false},
		{"unknown user", "PLAIN", []string{"\x00bob\x00x"}, nil, []string{"bob"}, authn.UnknownUser, 1, 1, false},
		{"canonical form of the name", "PLAIN", []string{"\x00u\u0308mit\x00x"}, nil, []string{"ümit"}, authn.UnknownUser, 1, 1, false},
		{"refused unjudged", "PLAIN", []string{"\x00alice\x00p"}, throttled, []string{"alice"}, authn.Throttled, 0, 0, false},
		{"wrong digest", "CRAM-MD5", []string{"", "alice 0123456789abcdef0123456789abcdef"}, nil, []string{"alice"}, authn.Rejected, 1, 1, false},
		{"digest refused unjudged", "CRAM-MD5", []string{"", "alice 0123456789abcdef0123456789abcdef"}, throttled, []string{"alice"}, authn.Throttled, 0, 0, false},
		{"no name yet", "CRAM-MD5", []string{""}, nil, nil, authn.Aborted, 0, 0, true},
		{"a name that nobody can have", "PLAIN", []string{"\x00a/b\x00x"}, nil, nil, authn.UnknownUser, 0, 0, false},
		{"a ticket is no guess", "TICKET", []string{""}, throttled, nil, authn.Decline, 0, 1, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := &authntest.Fake{
				Passwords:  map[string]string{"alice": "p"},
				Secrets:    map[string]map[string]string{"CRAM-MD5": {"alice": "s"}},
				Principals: map[string][]string{"alice@R": {"alice"}},
			}
			c := f.Chain()
			d, r := &doorman{refuse: tt.refuse}, &authntest.Recorder{}
			p := &authn.Policy{
				Name: "test", Throttle: d, Trace: r.Trace(), Plain: authn.PlainTrusted, Trusted: everyone,
				Offers: []authn.Mechanism{plain.PLAIN(c), plain.USER(c, true), cram.New(c, "h"), ticketed{c}},
			}
			l, err := p.Start(t.Context(), &authn.Transport{Remote: remote("192.0.2.1:1")}, tt.mech)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range tt.responses {
				response := []byte(s)
				if s == "" {
					response = nil
				}
				_, _, err = l.Next(t.Context(), response)
			}
			if tt.abort {
				l.Abort(t.Context(), nil)
				err = r.Attempts[0].Err
			}
			switch success := l.Identity() != nil; {
			case success != (tt.want == authn.Decline), !success && authn.KindOf(err) != tt.want:
				t.Errorf("ended with %v", err)
			case !slices.Equal(d.asked, tt.asked), len(d.told) != tt.told, tt.told == 1 && !errors.Is(d.told[0], err):
				t.Errorf("asked about %q, told %v", d.asked, d.told)
			case f.Asked.Load() != tt.verifier:
				t.Errorf("the verifier was asked %d times", f.Asked.Load())
			}
			l.Abort(t.Context(), nil)
			if len(d.told) != tt.told {
				t.Errorf("told again: %v", d.told)
			}
		})
	}
}
