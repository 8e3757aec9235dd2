package authn_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/authntest"
)

// fakeMech is a mechanism whose exchange answers from a script.
type fakeMech struct {
	name   string
	traits authn.Traits
	start  error
	panics bool
	ex     *fakeExchange
}

func (m fakeMech) Name() string         { return m.name }
func (m fakeMech) Traits() authn.Traits { return m.traits }
func (m fakeMech) Start(context.Context, *authn.Transport) (authn.Exchange, error) {
	if m.panics {
		panic("start")
	}
	if m.ex == nil {
		return nil, m.start
	}
	ex := *m.ex
	return &ex, m.start
}

type fakeExchange struct {
	challenge []byte
	done      bool
	err       error
	panics    bool
	id        *authn.Identity
	login     string
	note      string
	layer     bool
	wiped     *int
}

func (e *fakeExchange) Next(context.Context, []byte) ([]byte, bool, error) {
	if e.panics {
		panic("next")
	}
	return e.challenge, e.done, e.err
}
func (e *fakeExchange) Identity() *authn.Identity           { return e.id }
func (e *fakeExchange) Claimed() (string, *authn.Principal) { return e.login, nil }
func (e *fakeExchange) Note() string                        { return e.note }
func (e *fakeExchange) Wipe() {
	if e.wiped != nil {
		*e.wiped++
	}
}

func (e *fakeExchange) Layer() func(net.Conn) net.Conn {
	if !e.layer {
		return nil
	}
	return func(c net.Conn) net.Conn { return c }
}

var (
	mechGSSAPI = fakeMech{name: "GSSAPI", ex: &fakeExchange{}}
	mechPLAIN  = fakeMech{name: "PLAIN", traits: authn.Plaintext, ex: &fakeExchange{}}
	mechUSER   = fakeMech{name: "USER", traits: authn.Plaintext | authn.Command, ex: &fakeExchange{}}
	mechAPOP   = fakeMech{name: "APOP", traits: authn.Command | authn.NeedsStamp, ex: &fakeExchange{}}
	mechKPOP   = fakeMech{name: "KPOP", traits: authn.Command | authn.NeedsPeer, ex: &fakeExchange{}}
)

var everyone = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}

func remote(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func TestRule137PolicyOffers(t *testing.T) {
	t.Parallel()
	all := []authn.Mechanism{mechGSSAPI, mechAPOP, mechPLAIN, mechUSER, mechKPOP}
	clear := &authn.Transport{Remote: remote("192.0.2.1:1"), Stamp: "<1.2@h>"}
	inside := &authn.Transport{Remote: remote("10.1.2.3:1"), Stamp: "<1.2@h>"}
	mapped := &authn.Transport{Remote: remote("[::ffff:10.1.2.3]:1"), Stamp: "<1.2@h>"}
	noStamp := &authn.Transport{Remote: remote("192.0.2.1:1")}
	secure := &authn.Transport{Remote: remote("192.0.2.1:1"), Stamp: "<1.2@h>", TLS: &tls.ConnectionState{}}
	ticket := &authn.Transport{Remote: remote("192.0.2.1:1"), Peer: &authn.Principal{}}
	ticketTLS := &authn.Transport{Remote: remote("192.0.2.1:1"), Peer: &authn.Principal{}, TLS: &tls.ConnectionState{}}
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}

	for _, tt := range []struct {
		name   string
		policy authn.Policy
		t      *authn.Transport
		want   string
	}{
		{"no password in the clear", authn.Policy{}, clear, "GSSAPI APOP"},
		{"everything but KPOP inside TLS", authn.Policy{}, secure, "GSSAPI APOP PLAIN USER"},
		{"rule 37: no APOP without a timestamp", authn.Policy{}, noStamp, "GSSAPI"},
		{"a ticket shuts everything else", authn.Policy{}, ticket, "KPOP"},
		{"a ticket shuts everything else inside TLS", authn.Policy{}, ticketTLS, "KPOP"},
		{"trusted networks are for PlainTrusted", authn.Policy{Trusted: trusted}, inside, "GSSAPI APOP"},
		{"passwords from a trusted network", authn.Policy{Plain: authn.PlainTrusted, Trusted: trusted}, inside, "GSSAPI APOP PLAIN USER"},
		{"the same in an IPv6 socket", authn.Policy{Plain: authn.PlainTrusted, Trusted: trusted}, mapped, "GSSAPI APOP PLAIN USER"},
		{"none from elsewhere", authn.Policy{Plain: authn.PlainTrusted, Trusted: trusted}, clear, "GSSAPI APOP"},
		{"trusting nobody", authn.Policy{Plain: authn.PlainTrusted}, inside, "GSSAPI APOP"},
		{"a list for the clear", authn.Policy{BeforeTLS: []string{"APOP"}}, clear, "APOP"},
		{"an empty list for the clear", authn.Policy{BeforeTLS: []string{}}, clear, ""},
		{"a list does not open the clear to passwords", authn.Policy{BeforeTLS: []string{"PLAIN"}}, clear, ""},
		{"the list is over inside TLS", authn.Policy{BeforeTLS: []string{}}, secure, "GSSAPI APOP PLAIN USER"},
		{"the list is not about KPOP", authn.Policy{BeforeTLS: []string{}}, ticket, "KPOP"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := tt.policy
			p.Offers = all
			var names []string
			for _, m := range p.Mechanisms(tt.t) {
				names = append(names, m.Name())
			}
			if got := strings.Join(names, " "); got != tt.want {
				t.Errorf("offers %q, want %q", got, tt.want)
			}
			for _, v := range p.Explain(tt.t) {
				name := v.Mechanism.Name()
				offered := slices.Contains(names, name)
				l, err := p.Start(t.Context(), tt.t, name)
				if (v.Reason == nil) != offered || (err == nil) != offered || (l == nil) == offered {
					t.Errorf("%s: offered %v, explained as %v, started with %v", name, offered, v.Reason, err)
				}
				var e *authn.Error
				if err != nil && (!errors.As(err, &e) || e.Kind != authn.Denied || !strings.Contains(e.Text, v.Reason.Error())) {
					t.Errorf("%s: refused with %v", name, err)
				}
			}
		})
	}
}

func policyOf(r *authntest.Recorder, m authn.Mechanism) *authn.Policy {
	return &authn.Policy{Name: "p", Offers: []authn.Mechanism{m}, Trace: r.Trace()}
}

func TestStartIsTracedWhenRefused(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		m    fakeMech
		ask  string
		mech string // traced
		want authn.Kind
	}{
		{"not in the policy", mechGSSAPI, "X-EVIL\nNAME", "", authn.Denied},
		{"not now", mechPLAIN, "PLAIN", "PLAIN", authn.Denied},
		{"does not start", fakeMech{name: "M", start: &authn.Error{Kind: authn.Unavailable, Step: "M"}}, "M", "M", authn.Unavailable},
		{"starts nothing", fakeMech{name: "M"}, "M", "M", authn.Internal},
		{"panics", fakeMech{name: "M", panics: true}, "M", "M", authn.Internal},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var r authntest.Recorder
			l, err := policyOf(&r, tt.m).Start(t.Context(), &authn.Transport{}, tt.ask)
			if l != nil || authn.KindOf(err) != tt.want {
				t.Fatalf("got %v, %v", l, err)
			}
			if len(r.Attempts) != 1 || r.Attempts[0].Mechanism != tt.mech || !errors.Is(r.Attempts[0].Err, err) {
				t.Errorf("traced %+v", r.Attempts)
			}
		})
	}
}

func TestRule161BindingNeedsTLSHere(t *testing.T) {
	t.Parallel()
	m := fakeMech{name: "S-PLUS", traits: authn.NeedsBinding, ex: &fakeExchange{}}
	p := &authn.Policy{Offers: []authn.Mechanism{m}, BeforeTLS: []string{"S-PLUS"}}
	for _, tt := range []struct {
		name string
		t    authn.Transport
		why  string
	}{
		{"in the clear", authn.Transport{}, "it is bound to TLS, start TLS first"},
		{"inside TLS that ends elsewhere", authn.Transport{TLS: &tls.ConnectionState{}}, "it is bound to TLS, which does not end here"},
		{"inside TLS", authn.Transport{TLS: &tls.ConnectionState{}, EndPoint: []byte("x")}, ""},
		{"after a ticket", authn.Transport{TLS: &tls.ConnectionState{}, EndPoint: []byte("x"), Peer: &authn.Principal{}}, "a KPOP connection takes its ticket only"},
	} {
		why := ""
		if v := p.Explain(&tt.t)[0]; v.Reason != nil {
			why = v.Reason.Error()
		}
		if _, err := p.Start(t.Context(), &tt.t, "S-PLUS"); why != tt.why || (err == nil) != (why == "") {
			t.Errorf("%s: %q, %v", tt.name, why, err)
		}
	}
}

// attempt is a login whose mechanism answers every response with ex.
type attempt struct {
	name      string
	ex        fakeExchange
	responses []string
	abort     error
	ok        bool
	want      authn.Kind
}

func alice() *authn.Identity { return &authn.Identity{User: "alice"} }

func TestLogin(t *testing.T) {
	t.Parallel()
	rejected := &authn.Error{Kind: authn.Rejected, Step: "m"}
	for _, tt := range []attempt{
		{"success", fakeExchange{done: true, id: alice()}, []string{""}, nil, true, 0},
		{"refusal", fakeExchange{err: rejected}, []string{""}, nil, false, authn.Rejected},
		{"refusal with done", fakeExchange{err: rejected, done: true, id: alice(), layer: true}, []string{""}, nil, false, authn.Rejected},
		{"panic", fakeExchange{panics: true}, []string{""}, nil, false, authn.Internal},
		{"success for nobody", fakeExchange{done: true}, []string{""}, nil, false, authn.Internal},
		{"success for no name", fakeExchange{done: true, id: &authn.Identity{}}, []string{""}, nil, false, authn.Internal},
		{"success for a name that is a path", fakeExchange{done: true, id: &authn.Identity{User: "../bob"}}, []string{""}, nil, false, authn.Internal},
		{"success for another spelling of a name", fakeExchange{done: true, id: &authn.Identity{User: "u\u0308mit"}}, []string{""}, nil, false, authn.Internal},
		{"mechanism that the user may use", fakeExchange{done: true, id: &authn.Identity{User: "alice", Mechanisms: []string{"X", "M"}}}, []string{""}, nil, true, 0},
		{"mechanism that the user may not use", fakeExchange{done: true, id: &authn.Identity{User: "alice", Mechanisms: []string{"X", "M-PLUS"}}, layer: true}, []string{""}, nil, false, authn.Denied},
		{"abort in the middle", fakeExchange{challenge: []byte("c")}, []string{""}, &authn.Error{Kind: authn.Cancelled, Step: "s"}, false, authn.Cancelled},
		{"abort without a reason", fakeExchange{challenge: []byte("c")}, []string{""}, nil, false, authn.Aborted},
	} {
		t.Run(tt.name, tt.run)
	}
}

func TestRule133DataWithSuccess(t *testing.T) {
	t.Parallel()
	for _, tt := range []attempt{
		{"data with success is a challenge", fakeExchange{challenge: []byte("v="), done: true, id: alice()}, []string{"", ""}, nil, true, 0},
		{"and its answer is empty", fakeExchange{challenge: []byte("v="), done: true, id: alice()}, []string{"", "x"}, nil, false, authn.Malformed},
		{"cancelled there is no login", fakeExchange{challenge: []byte("v="), done: true, id: alice(), layer: true}, []string{""}, &authn.Error{Kind: authn.Cancelled, Step: "s"}, false, authn.Cancelled},
	} {
		t.Run(tt.name, tt.run)
	}
}

func TestRule164RefusalIsAChallenge(t *testing.T) {
	t.Parallel()
	refuse := fakeExchange{challenge: []byte("{}"), err: &authn.Error{Kind: authn.Rejected, Step: "s"}, id: alice(), layer: true}
	for _, tt := range []attempt{
		{"an empty answer", refuse, []string{"", ""}, nil, false, authn.Rejected},
		{"any answer", refuse, []string{"", "\x01"}, nil, false, authn.Rejected},
		{"a cancelled refusal is a refusal", refuse, []string{""}, &authn.Error{Kind: authn.Cancelled, Step: "s"}, false, authn.Rejected},
		{"and so is one whose client went away", refuse, []string{""}, nil, false, authn.Rejected},
		{"an error outranks done", fakeExchange{challenge: []byte("{}"), done: true, err: refuse.err, id: alice()}, []string{"", ""}, nil, false, authn.Rejected},
	} {
		t.Run(tt.name, tt.run)
	}
}

// run checks the outcome, and that it is traced once.
func (tt attempt) run(t *testing.T) {
	t.Parallel()
	var r authntest.Recorder
	tt.ex.login, tt.ex.note, tt.ex.wiped = strings.Repeat("x", 1000), "odd", new(int)
	l, err := policyOf(&r, fakeMech{name: "M", ex: &tt.ex}).Start(t.Context(), &authn.Transport{}, "M")
	if err != nil {
		t.Fatal(err)
	}
	done := false
	for _, s := range tt.responses {
		var challenge []byte
		challenge, done, err = l.Next(t.Context(), []byte(s))
		if done && challenge != nil {
			t.Error("a challenge with done")
		}
		if !done && l.Identity() != nil {
			t.Error("an identity before the end")
		}
	}
	if done != tt.ok {
		t.Errorf("done %v, %v", done, err)
	}
	l.Abort(t.Context(), tt.abort)
	l.Abort(t.Context(), nil)
	if _, done, err := l.Next(t.Context(), nil); done || err == nil {
		t.Error("goes on after its end")
	}
	if len(r.Attempts) != 1 {
		t.Fatalf("traced %d attempts", len(r.Attempts))
	}
	if *tt.ex.wiped != 1 {
		t.Errorf("its secrets were wiped %d times", *tt.ex.wiped)
	}
	a := r.Attempts[0]
	if len(a.Login) != authn.MaxLogin || a.Note != "odd" || a.Policy != "p" || a.Mechanism != "M" {
		t.Errorf("traced %+v", a)
	}
	if tt.ok {
		if a.Err != nil || a.Identity == nil || a.Identity.Mechanism != "M" || l.Identity() != a.Identity {
			t.Errorf("traced %+v", a)
		}
		return
	}
	if a.Err == nil || authn.KindOf(a.Err) != tt.want || a.Identity != nil || l.Identity() != nil || a.Layer || l.Layer() != nil {
		t.Errorf("traced %+v, want %s", a, tt.want)
	}
}

// The note of a verifier is told beside the mechanism's, of a login only.
func TestLoginTellsTheVerifiersNote(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ mechanism, verifier, want string }{
		{"", "", ""},
		{"", "expires", "expires"},
		{"odd", "", "odd"},
		{"odd", "expires", "odd; expires"},
	} {
		var r authntest.Recorder
		ex := &fakeExchange{done: true, note: tt.mechanism, id: &authn.Identity{User: "alice", Note: tt.verifier}}
		l, err := policyOf(&r, fakeMech{name: "M", ex: ex}).Start(t.Context(), &authn.Transport{}, "M")
		if err != nil {
			t.Fatal(err)
		}
		if _, done, err := l.Next(t.Context(), nil); !done || err != nil {
			t.Fatal(done, err)
		}
		if got := r.Attempts[0].Note; got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}

func TestLoginTellsOfItsLayer(t *testing.T) {
	t.Parallel()
	var r authntest.Recorder
	ex := &fakeExchange{done: true, id: &authn.Identity{User: "alice"}, layer: true}
	l, err := policyOf(&r, fakeMech{name: "M", ex: ex}).Start(t.Context(), &authn.Transport{}, "M")
	if err != nil {
		t.Fatal(err)
	}
	if l.Layer() != nil {
		t.Error("a layer before the end")
	}
	if _, done, err := l.Next(t.Context(), nil); !done || err != nil {
		t.Fatal(done, err)
	}
	if l.Layer() == nil || !r.Attempts[0].Layer {
		t.Error("no layer")
	}
}

// conditional is a mechanism that asks for more than its traits say.
type conditional struct {
	fakeMech
	why    error
	panics bool
}

func (c conditional) Usable(_ context.Context, _ *authn.Transport) error {
	if c.panics {
		panic("usable")
	}
	return c.why
}

// What a mechanism says of a connection is asked where CAPA asks and where a
// login passes, and never on a KPOP connection.
func TestConditional(t *testing.T) {
	t.Parallel()
	why := errors.New("not on a Monday")
	inside, kpop := &authn.Transport{TLS: &tls.ConnectionState{}}, &authn.Transport{Peer: &authn.Principal{}}
	ex := &fakeExchange{done: true, id: alice()}
	var r authntest.Recorder
	p := policyOf(&r, conditional{fakeMech: fakeMech{name: "M", ex: ex}, why: why})
	if got := p.Explain(inside)[0].Reason; !errors.Is(got, why) {
		t.Errorf("explained as %v", got)
	}
	if got := p.Explain(kpop)[0].Reason; got == nil || errors.Is(got, why) {
		t.Errorf("on a KPOP connection: %v", got)
	}
	l, err := p.Start(t.Context(), inside, "M")
	var e *authn.Error
	if l != nil || !errors.As(err, &e) || e.Kind != authn.Denied || e.Text != "M cannot be used here: not on a Monday" {
		t.Errorf("started %v, %v", l, err)
	}
	p.Offers[0] = conditional{fakeMech: fakeMech{name: "M", ex: ex}}
	if l, err = p.Start(t.Context(), inside, "M"); l == nil || err != nil {
		t.Errorf("started %v, %v", l, err)
	}
	p.Offers[0] = conditional{fakeMech: fakeMech{name: "M", ex: ex}, panics: true}
	if l, err = p.Start(t.Context(), inside, "M"); l != nil || authn.KindOf(err) != authn.Internal {
		t.Errorf("started %v, %v", l, err)
	}
	if len(r.Attempts) != 2 {
		t.Errorf("traced %d refusals", len(r.Attempts))
	}
}
