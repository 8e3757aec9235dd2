package remote

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/authntest"
	"github.com/kpopd/kpopd/authn/plain"
)

// every is a verifier of every sort that always answers the same.
type every struct {
	name   string
	id     *authn.Identity
	secret string
	err    error
	panics any
	waits  bool
}

func (v every) Name() string { return v.name }

func (v every) answer(ctx context.Context) (*authn.Identity, error) {
	if v.panics != nil {
		panic(v.panics)
	}
	if v.waits {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return v.id, v.err
}

func (v every) VerifyPassword(ctx context.Context, _ *authn.PasswordRequest) (*authn.Identity, error) {
	return v.answer(ctx)
}

func (v every) Secret(ctx context.Context, _, _ string) (authn.Password, *authn.Identity, error) {
	id, err := v.answer(ctx)
	return authn.Password(v.secret), id, err
}

func (v every) MapPrincipal(ctx context.Context, _ *authn.Principal, _ string) (*authn.Identity, error) {
	return v.answer(ctx)
}

func (v every) FindUser(ctx context.Context, _ string) (*authn.Identity, error) {
	return v.answer(ctx)
}

// own lets principals have their own login only.
type own struct{}

func (own) Name() string { return "own" }

func (own) MapPrincipal(_ context.Context, p *authn.Principal, authzid string) (*authn.Identity, error) {
	if authzid != "" && authzid != p.Components[0] {
		return nil, &authn.Error{Kind: authn.Denied, Step: "own", Text: "Not yours", Err: errors.New("of " + p.Components[0])}
	}
	return &authn.Identity{User: p.Components[0]}, nil
}

// here refuses who does not come by a listener of that name.
type here string

func (h here) Name() string { return "here" }

func (h here) Admit(ctx context.Context, id *authn.Identity) error {
	if t := authn.TransportOf(ctx); t == nil || t.Listener != string(h) {
		return &authn.Error{Kind: authn.Denied, Step: "here", Err: errors.New("by another way")}
	}
	return nil
}

// passwords is one sort of a verifier only.
type passwords struct{ authn.PasswordVerifier }

func step1(v authn.Verifier) authn.Step { return authn.Step{Verifier: v} }

// outcome is all that whoever asks a chain and whoever reads the log can see.
type outcome struct {
	Identity *authn.Identity
	Secret   string
	Kind     authn.Kind
	Text     string
	Error    string
	Steps    []string
}

func outcomeOf(id *authn.Identity, secret authn.Password, err error, r *authntest.Recorder) outcome {
	o := outcome{Identity: id, Secret: string(secret)}
	var e *authn.Error
	if errors.As(err, &e) {
		o.Text = e.Text
	}
	if err != nil {
		o.Kind, o.Error = authn.KindOf(err), shown(err)
	}
	for _, s := range r.Steps {
		line := s.Step + ": yes"
		if s.Err != nil {
			line = fmt.Sprintf("%s: %v: %s", s.Step, authn.KindOf(s.Err), shown(s.Err))
		}
		var p *authn.PanicError
		if errors.As(s.Err, &p) {
			line += " (counted as a panic)"
		}
		o.Steps = append(o.Steps, line)
	}
	return o
}

// shown is the text of an error without a stack, which is another every time.
func shown(err error) string {
	text, _, _ := strings.Cut(err.Error(), "\ngoroutine ")
	return text
}

// ofFront is what the front alone notes of an identity: a view is asked for in a
// login name, which the helper never sees.
var ofFront = cmp.Options{cmpopts.IgnoreUnexported(authn.Identity{}), cmpopts.IgnoreFields(authn.Identity{}, "View")}

// What a chain answers and traces is the same with and without a socket in
// between.
func TestSameAsInOneProcess(t *testing.T) {
	t.Parallel()
	full := &authn.Identity{
		User: "alice", Authn: "alice/mail@EXAMPLE.TEST", Expires: time.Unix(2e9, 0).UTC(),
		Attrs:  map[string]string{authn.AttrMaildrop: "stra\xdfe/alice", "empty": ""},
		Groups: []string{}, Mechanisms: []string{"PLAIN"}, Note: "password expires",
	}
	yes := step1(every{name: "yes", id: full, secret: "s\x00\xff"})
	fails := func(k authn.Kind) authn.Step {
		return step1(every{name: k.String(), err: &authn.Error{Kind: k, Step: k.String(), Text: "Text of " + k.String(), Err: errors.New("why\xff: " + k.String())}})
	}
	chains := map[string]authn.Chain{
		"nobody is asked":        {},
		"one vouches":            {yes},
		"the second vouches":     {fails(authn.Rejected), fails(authn.Unavailable), yes},
		"one panics":             {step1(every{name: "bug", panics: "boom"}), fails(authn.Rejected)},
		"one says nothing":       {step1(every{name: "nobody"})},
		"one takes too long":     {{Verifier: every{name: "slow", waits: true}, Timeout: time.Millisecond}, fails(authn.UnknownUser)},
		"an unclassified error":  {step1(every{name: "odd", err: errors.New("connection refused")})},
		"an error without words": {step1(every{name: "terse", err: &authn.Error{Kind: authn.Denied, Step: "terse"}})},
		"an error with words around it": {step1(every{
			name: "wordy", err: fmt.Errorf("ask the moon: %w", &authn.Error{Kind: authn.Expired, Step: "moon", Text: "It set"}),
		})},
		"two outages":            {fails(authn.Unavailable), fails(authn.Internal), fails(authn.Unavailable)},
		"a step for a password":  {step1(passwords{every{name: "pw", id: full}}), fails(authn.UnknownUser)},
		"of one's own":           {step1(own{})},
		"a list that admits":     {yes, step1(here("pop3s"))},
		"a list that refuses":    {yes, step1(here("pop3"))},
		"return after a refusal": {{Verifier: fails(authn.Rejected).Verifier, OnReject: authn.Return}, yes},
	}
	for _, name := range kinds() {
		k := kindNamed(name)
		chains["kind "+name] = authn.Chain{fails(k), fails(authn.UnknownUser)}
	}
	request := &authn.PasswordRequest{Transport: &authn.Transport{Listener: "pop3s"}, Login: "alice", Password: authn.Password("pw")}
	peer := &authn.Principal{Components: []string{"alice"}, Realm: "EXAMPLE.TEST"}
	for name, chain := range chains {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := serve(t, &Judge{Chain: chain})
			judges := (&Judge{Chain: chain}).Judges()
			relayed := authn.Chain{step1(h.client(Options{Judges: append(judges, Tickets)}).Verifier())}
			for what, ask := range map[string]func(authn.Chain, context.Context) (*authn.Identity, authn.Password, error){
				"password": func(c authn.Chain, ctx context.Context) (*authn.Identity, authn.Password, error) {
					id, err := c.VerifyPassword(ctx, request)
					return id, nil, err
				},
				"secret": func(c authn.Chain, ctx context.Context) (*authn.Identity, authn.Password, error) {
					s, id, err := c.Secret(ctx, "alice", "CRAM-MD5")
					return id, s, err
				},
				"principal": func(c authn.Chain, ctx context.Context) (*authn.Identity, authn.Password, error) {
					id, err := c.MapPrincipal(ctx, peer, "alice")
					return id, nil, err
				},
				"principal for another": func(c authn.Chain, ctx context.Context) (*authn.Identity, authn.Password, error) {
					id, err := c.MapPrincipal(ctx, peer, "bob")
					return id, nil, err
				},
				"user": func(c authn.Chain, ctx context.Context) (*authn.Identity, authn.Password, error) {
					id, err := c.FindUser(ctx, "alice")
					return id, nil, err
				},
			} {
				var direct, far authntest.Recorder
				ctx := authn.WithTransport(within(t), request.Transport)
				id, secret, err := ask(chain, authn.WithPolicy(ctx, &authn.Policy{Trace: direct.Trace()}))
				want := outcomeOf(id, secret, err, &direct)
				id, secret, err = ask(relayed, authn.WithPolicy(ctx, &authn.Policy{Trace: far.Trace()}))
				if diff := cmp.Diff(want, outcomeOf(id, secret, err, &far), ofFront); diff != "" {
					t.Errorf("%s: (-here +there)\n%s", what, diff)
				}
			}
		})
	}
}

// What a verifier is asked about is the same, too. Every field of what crosses
// is told apart, so that one that is added is not forgotten.
func TestNothingIsLost(t *testing.T) {
	t.Parallel()
	p := fill[authn.Principal](t)
	p.Components = []string{"al\xffice", "", "\ufffd"}
	if diff := cmp.Diff(p, *principalOf(&p).restore()); diff != "" {
		t.Error("principal:", diff)
	}
	id := fill[authn.Identity](t)
	id.Attrs["octets"] = "\xff\x00"
	if diff := cmp.Diff(&id, identityOf(&id).restore(), ofFront); diff != "" {
		t.Error("identity:", diff)
	}
	tr := authn.Transport{
		Listener: "pop3s", Session: "01", Remote: netip.MustParseAddrPort("[2001:db8::1]:9"), Local: netip.MustParseAddrPort("192.0.2.1:995"),
		TLS:      &tls.ConnectionState{Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_128_GCM_SHA256, ServerName: "mail\xff", HandshakeComplete: true},
		EndPoint: []byte{1, 2},
	}
	got := transportOf(&tr).restore()
	if got.TLS == nil || !reflect.DeepEqual(*got.TLS, *tr.TLS) {
		t.Errorf("TLS: got %+v", got.TLS)
	}
	got.TLS, tr.TLS = nil, nil
	if diff := cmp.Diff(tr, *got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Error("transport:", diff)
	}
}

// fill sets every field of a T, and those of what it points to, to something.
func fill[T any](t *testing.T) T {
	t.Helper()
	var x T
	fillValue(t, reflect.ValueOf(&x).Elem())
	return x
}

func fillValue(t *testing.T, v reflect.Value) {
	t.Helper()
	switch x := v.Addr().Interface().(type) {
	case *time.Time:
		*x = time.Unix(1.8e9, 5).UTC()
		return
	case *map[string]string:
		*x = map[string]string{"key": "value"}
		return
	case *[]string:
		*x = []string{"one", "two"}
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString("text")
	case reflect.Int:
		v.SetInt(7)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fillValue(t, v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fillValue(t, v.Field(i))
			}
		}
	default:
		t.Fatalf("a field of type %v crosses in a way that no test knows", v.Type())
	}
}

// A verifier on the other side keeps to what every verifier keeps to, and a
// mechanism does not notice.
func TestConformance(t *testing.T) {
	t.Parallel()
	f := &authntest.Fake{
		Passwords: map[string]string{"alice": "pw-alice"},
		Hook: func(_ context.Context, r *authn.PasswordRequest) {
			if len(r.Password) == 0 || len(r.Password) > authn.MaxPassword {
				clear(r.Password) // which matches nothing, as the conformance suite asks
			}
		},
	}
	h := serve(t, &Judge{Chain: f.Chain()})
	c := h.client(Options{})
	t.Run("verifier", func(t *testing.T) {
		authntest.RunVerifier(t, c, authntest.Account{Login: "alice", Password: "pw-alice"})
	})
	authntest.RunMechanism(t, authntest.Case{
		Mechanism: plain.PLAIN(authn.Chain{step1(c)}),
		Transport: authn.Transport{TLS: &tls.ConnectionState{}},
		User:      "alice",
		Good:      func(*testing.T) sasl.Client { return sasl.NewPlainClient("", "alice", "pw-alice") },
		Bad:       func(*testing.T) sasl.Client { return sasl.NewPlainClient("", "alice", "pw-bob") },
	})
}

// A proof that the front's configuration does not name is passed over in
// silence, as by a step that cannot judge it, and the helper is not asked.
func TestPassedOver(t *testing.T) {
	t.Parallel()
	f := &authntest.Fake{Passwords: map[string]string{"alice": "pw-alice"}}
	h := serve(t, &Judge{Chain: f.Chain()})
	var r authntest.Recorder
	chain := authn.Chain{{Verifier: h.client(Options{Judges: []Proof{Principals}}), OnReject: authn.Return}, step1(&authntest.Fake{Passwords: f.Passwords})}
	id, err := verify(authn.WithPolicy(within(t), &authn.Policy{Trace: r.Trace()}), chain[1].Verifier.(authn.PasswordVerifier), "alice", "pw-alice")
	if err != nil || id.User != "alice" {
		t.Fatal(err)
	}
	id, err = chain.VerifyPassword(authn.WithPolicy(within(t), &authn.Policy{Trace: r.Trace()}), &authn.PasswordRequest{Login: "alice", Password: authn.Password("pw-alice")})
	if err != nil || id.Step != "fake" || len(r.Steps) != 1 || f.Asked.Load() != 0 {
		t.Errorf("got %+v, %v, %d steps traced, asked %d times", id, err, len(r.Steps), f.Asked.Load())
	}
}

// What the front says that the helper judges, and it cannot, is an outage and
// not a wrong password.
func TestHelperThatCannotJudge(t *testing.T) {
	t.Parallel()
	h := serve(t, &Judge{Chain: authn.Chain{step1(passwords{every{name: "pw"}})}})
	c := h.client(Options{})
	_, err := authn.Chain{step1(c)}.MapPrincipal(within(t), &authn.Principal{}, "")
	if authn.KindOf(err) != authn.Unavailable || !strings.Contains(err.Error(), "no step judges principals") {
		t.Errorf("got %v", err)
	}
	proofs, err := c.Ask(within(t))
	if diff := cmp.Diff([]Proof{Passwords}, proofs); diff != "" || err != nil {
		t.Error(diff, err)
	}
}

// The password is gone on the other side when the answer is there.
func TestPasswordIsWiped(t *testing.T) {
	t.Parallel()
	var kept authn.Password
	f := &authntest.Fake{Hook: func(_ context.Context, r *authn.PasswordRequest) { kept = r.Password }}
	h := serve(t, &Judge{Chain: f.Chain()})
	if _, err := verify(within(t), h.client(Options{}), "alice", "pw-alice"); authn.KindOf(err) != authn.UnknownUser {
		t.Fatal(err)
	}
	h.stop() // and with it all that it did
	if len(kept) != len("pw-alice") || strings.Trim(string(kept), "\x00") != "" {
		t.Errorf("%d octets, not all of them zero", len(kept))
	}
}
