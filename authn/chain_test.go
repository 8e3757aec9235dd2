package authn

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

type fake struct {
	name   string
	id     *Identity
	secret Password
	err    error
	wait   bool
	panics any
	asked  *int
}

func (f fake) Name() string { return f.name }

func (f fake) answer(ctx context.Context) (*Identity, error) {
	if f.asked != nil {
		*f.asked++
	}
	if f.wait {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if f.panics != nil {
		panic(f.panics)
	}
	return f.id, f.err
}

func (f fake) VerifyPassword(ctx context.Context, _ *PasswordRequest) (*Identity, error) {
	return f.answer(ctx)
}

func (f fake) VerifyToken(ctx context.Context, _ *TokenRequest) (*Identity, error) {
	return f.answer(ctx)
}

func (f fake) Secret(ctx context.Context, _, _ string) (Password, *Identity, error) {
	id, err := f.answer(ctx)
	return f.secret, id, err
}

func yes(name string) Step { return Step{Verifier: fake{name: name, id: &Identity{User: "a"}}} }

func is(k Kind) Step {
	return Step{Verifier: fake{name: k.String(), err: &Error{Kind: k, Step: k.String()}}}
}

func TestChain(t *testing.T) {
	t.Parallel()
	slow := Step{Verifier: fake{name: "slow", wait: true}, Timeout: time.Second}
	bug := Step{Verifier: fake{name: "bug", panics: "boom"}}
	nobody := Step{Verifier: fake{name: "nobody"}}
	noName := Step{Verifier: fake{name: "no name", id: &Identity{}}}
	unclassified := Step{Verifier: fake{name: "unclassified", err: errors.New("connection refused")}}
	stop := func(s Step) Step { s.OnReject, s.OnUnavailable = Return, Return; return s }

	for _, tt := range []struct {
		name  string
		chain Chain
		want  Kind // when step is ""
		step  string
	}{
		{"empty", nil, UnknownUser, ""},
		{"first says yes", Chain{yes("yes"), is(Unavailable)}, 0, "yes"},
		{"refusal then yes", Chain{is(Rejected), yes("yes")}, 0, "yes"},
		{"outage then yes", Chain{is(Unavailable), yes("yes")}, 0, "yes"},
		{"unknown here then yes", Chain{is(UnknownUser), yes("yes")}, 0, "yes"},
		{"outage outranks refusal", Chain{is(Unavailable), is(Rejected)}, Unavailable, ""},
		{"refusal then outage", Chain{is(Rejected), is(Unavailable)}, Unavailable, ""},
		{"timeout is an outage", Chain{slow, is(UnknownUser)}, Unavailable, ""},
		{"panic is an outage", Chain{bug, is(Rejected)}, Internal, ""},
		{"a bug among outages is told as one", Chain{is(Unavailable), bug, is(Unavailable), is(Rejected)}, Internal, ""},
		{"panic then yes", Chain{bug, yes("yes")}, 0, "yes"},
		{"vouching for nobody is a bug", Chain{nobody}, Internal, ""},
		{"vouching for no name is a bug", Chain{noName}, Internal, ""},
		{"an unclassified error is an outage", Chain{unclassified, is(Rejected)}, Internal, ""},
		{"locked stays locked", Chain{is(Denied), yes("yes")}, Denied, ""},
		{"expired stays expired", Chain{is(Expired), yes("yes")}, Expired, ""},
		{"throttled asks nobody else", Chain{is(Throttled), yes("yes")}, Throttled, ""},
		{"decline is silent", Chain{is(Decline), is(Rejected)}, Rejected, ""},
		{"nobody took it", Chain{is(Decline)}, UnknownUser, ""},
		{"wrong password says more than unknown", Chain{is(Rejected), is(UnknownUser)}, Rejected, ""},
		{"unknown says less than wrong password", Chain{is(UnknownUser), is(Rejected)}, Rejected, ""},
		{"stop at a refusal", Chain{stop(is(Rejected)), yes("yes")}, Rejected, ""},
		{"stop at a refusal after an outage", Chain{is(Unavailable), stop(is(Rejected)), yes("yes")}, Unavailable, ""},
		{"stop at an outage", Chain{stop(is(Unavailable)), yes("yes")}, Unavailable, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				check := func(id *Identity, err error) {
					switch {
					case tt.step != "" && (err != nil || id.Step != tt.step):
						t.Errorf("got %v, %v, want yes from %s", id, err, tt.step)
					case tt.step == "" && (err == nil || id != nil || KindOf(err) != tt.want):
						t.Errorf("got %v, %v, want %s", id, err, tt.want)
					}
				}
				check(tt.chain.VerifyPassword(t.Context(), &PasswordRequest{Login: "a"}))
				check(tt.chain.VerifyToken(t.Context(), &TokenRequest{Login: "a"}))
			})
		})
	}
}

func TestChainAsksNobodyWhenTheAttemptIsOver(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	asked := 0
	c := Chain{{Verifier: fake{name: "slow", wait: true}}, {Verifier: fake{name: "next", asked: &asked, id: &Identity{User: "a"}}}}
	if _, err := c.VerifyPassword(ctx, &PasswordRequest{}); KindOf(err) != Unavailable || asked != 0 {
		t.Errorf("got %v after asking %d more", err, asked)
	}
}

func TestChainSkipsStepsThatCannotJudge(t *testing.T) {
	t.Parallel()
	c := Chain{yes("passwords only")}
	if _, err := c.MapPrincipal(t.Context(), &Principal{}, ""); KindOf(err) != UnknownUser {
		t.Errorf("got %v", err)
	}
	if Can[PrincipalMapper](c) || !Can[PasswordVerifier](c) || !Can[SecretSource](c) {
		t.Error("Can is wrong about the steps")
	}
}

func TestChainKeepsTheIdentityOfTheVerifier(t *testing.T) {
	t.Parallel()
	shared := &Identity{User: "a"}
	c := Chain{{Verifier: fake{name: "s", id: shared}}}
	id, err := c.VerifyPassword(t.Context(), &PasswordRequest{})
	if err != nil || id == shared || shared.Step != "" {
		t.Errorf("got %p %v, verifier's own is %p %+v", id, err, shared, shared)
	}
}

func TestChainSecret(t *testing.T) {
	t.Parallel()
	id := &Identity{User: "a"}
	first, second := Password("first"), Password("second")
	refused := Step{Verifier: fake{name: "refused", secret: first, err: &Error{Kind: Rejected, Step: "refused"}}}
	found := Step{Verifier: fake{name: "found", secret: second, id: id}}

	got, _, err := Chain{refused, found}.Secret(t.Context(), "a", "APOP")
	if err != nil || string(got) != "second" {
		t.Errorf("got %d octets, %v", len(got), err)
	}
	if string(first) == "first" {
		t.Error("the secret that came with a refusal was not wiped")
	}

	third := Password("third")
	if _, _, err := (Chain{{Verifier: fake{name: "vouches for nobody", secret: third}}}).Secret(t.Context(), "a", "APOP"); KindOf(err) != Internal {
		t.Errorf("a secret of nobody: %v", err)
	}
	if string(third) == "third" {
		t.Error("the secret that came without an identity was not wiped")
	}

	// HMAC and MD5 take an empty key, so an empty secret would let anybody in
	empty := Chain{{Verifier: fake{name: "empty", id: id}}}
	if s, id, err := empty.Secret(t.Context(), "a", "APOP"); err == nil || s != nil || id != nil {
		t.Errorf("an empty secret passed: %v, %v", id, err)
	}
}

// gate is a guard that answers with err, or panics, from its nth question on.
type gate struct {
	err   error
	from  int
	panic bool
	asked []*Identity
}

func (g *gate) Name() string { return "gate" }

func (g *gate) Admit(_ context.Context, id *Identity) error {
	g.asked = append(g.asked, id)
	switch {
	case len(g.asked) < g.from:
		return nil
	case g.panic:
		panic("gate")
	}
	return g.err
}

// What a guard refuses no step can give, wherever either stands; and a guard that
// fails lets nobody in.
func TestGuard(t *testing.T) {
	t.Parallel()
	denied := &Error{Kind: Denied, Step: "gate"}
	for _, tt := range []struct {
		name  string
		gate  gate
		want  string
		asked int
	}{
		{"admits", gate{}, "yes", 2},
		{"refuses the connection", gate{err: denied, from: 1}, "denied", 1},
		{"refuses the user", gate{err: denied, from: 2}, "denied", 2},
		{"fails without a kind", gate{err: errors.New("bug"), from: 2}, "internal", 2},
		{"is down", gate{err: context.DeadlineExceeded, from: 2}, "unavailable", 2},
		{"panics", gate{panic: true, from: 2}, "internal", 2},
		{"panics at once", gate{panic: true, from: 1}, "internal", 1},
	} {
		for _, first := range []bool{true, false} {
			t.Run(tt.name, func(t *testing.T) {
				g := tt.gate
				c := Chain{yes("first"), {Verifier: &g}, yes("second")}
				if first {
					c[0], c[1] = c[1], c[0]
				}
				id, err := c.VerifyPassword(t.Context(), &PasswordRequest{})
				if got := outcome(err); got != tt.want || (id != nil) != (err == nil) {
					t.Errorf("got %+v, %v", id, err)
				}
				if len(g.asked) != tt.asked || g.asked[0] != nil || tt.asked == 2 && g.asked[1].Step != "first" {
					t.Errorf("asked about %+v", g.asked)
				}
				secret := Password("secret")
				g.asked = nil
				c[0], c[1] = Step{Verifier: &g}, Step{Verifier: fake{name: "secrets", secret: secret, id: &Identity{User: "a"}}}
				s, _, err := c.Secret(t.Context(), "a", "APOP")
				if (s != nil) != (tt.want == "yes") || outcome(err) != tt.want {
					t.Errorf("a secret: %v", err)
				}
				if tt.want != "yes" && tt.asked == 2 && string(secret) == "secret" {
					t.Error("a secret that was refused was not wiped")
				}
			})
		}
	}
}

func TestChainTracesEachStepOnce(t *testing.T) {
	t.Parallel()
	var steps []string
	tr := &Trace{Step: func(_ context.Context, s *StepDone) { steps = append(steps, s.Step+" "+outcome(s.Err)) }}
	c := Chain{{Verifier: fake{name: "bug", panics: "boom"}}, is(Rejected), is(Decline), yes("yes"), yes("never")}
	if _, err := c.VerifyPassword(withPolicy(t.Context(), &Policy{Trace: Join(tr, nil, &Trace{})}), &PasswordRequest{}); err != nil {
		t.Fatal(err)
	}
	want := "bug internal, rejected rejected, decline decline, yes yes"
	if got := strings.Join(steps, ", "); got != want {
		t.Errorf("traced %s, want %s", got, want)
	}
}

func outcome(err error) string {
	if err == nil {
		return "yes"
	}
	return KindOf(err).String()
}

func TestKindOf(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		err  error
		want Kind
	}{
		{"an error that nobody classified", errors.New("x"), Internal},
		{"the zero error", &Error{}, Internal},
		{"wrapped", errors.Join(errors.New("x"), &Error{Kind: Expired}), Expired},
		{"a deadline", context.DeadlineExceeded, Unavailable},
		{"a cancelled context", context.Canceled, Unavailable},
		{"a kind outranks its cause", &Error{Kind: Rejected, Err: context.Canceled}, Rejected},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := KindOf(tt.err); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
	if s := Kind(200).String(); s != "kind-200" {
		t.Errorf("a kind without a name prints %q", s)
	}
	for k := Internal; k <= Aborted; k++ {
		if k.String() == "" || strings.HasPrefix(k.String(), "kind-") {
			t.Errorf("kind %d has no name", k)
		}
	}
}
