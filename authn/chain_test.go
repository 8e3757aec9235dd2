package authn

import (
	"context"
	"crypto/x509"
	"errors"
	"slices"
	"strconv"
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

func (f fake) MapPrincipal(ctx context.Context, _ *Principal, _ string) (*Identity, error) {
	return f.answer(ctx)
}

func (f fake) MapCertificate(ctx context.Context, _ []*x509.Certificate) (*Identity, error) {
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

// A row says what becomes of an attempt that meets these steps in this order,
// and which of them are asked. Steps are words:
//
//	yes            vouches
//	wrong          knows the user, the proof is wrong
//	unknown        does not know the user
//	denied         the user may not log in, whatever the proof
//	expired        the user's password, ticket or account is out of date
//	throttled      refuses to look
//	pass           finds that this attempt is not its to judge
//	other          is of a type that judges other proofs
//	down           could not ask
//	slow           does not answer within its own deadline
//	stuck          does not answer within the attempt's
//	bug            panics
//	odd            fails in a way that nobody classified
//	nobody, blank  vouches for no identity, for no name
//	*              after a word: on_reject: return, on_unavailable: return
//	yes+           vouches and knows accounts
//	open           judges no proof; has the account
//	closed         ... and it is disabled
//	over           ... and it ran out
//	absent         judges no proof; does not have the account
//	dark           judges no proof; could not be asked about the account
//	late           judges no proof; does not answer within its own deadline
//	crash          judges no proof; panics
//
// The outcome is a kind, or "yes" and the number of the step that vouched.
var chainTable = []struct{ steps, outcome, asked string }{
	// Nobody vouches for anybody by default.
	{"", "unknown-user", ""},
	{"other", "unknown-user", ""},
	{"pass", "unknown-user", "1"},
	{"other pass other", "unknown-user", "2"},

	// One yes ends it, wherever it comes.
	{"yes", "yes 1", "1"},
	{"yes wrong", "yes 1", "1"},
	{"yes denied", "yes 1", "1"},
	{"yes down", "yes 1", "1"},
	{"yes bug", "yes 1", "1"},
	{"yes yes", "yes 1", "1"},
	{"other yes", "yes 2", "2"},
	{"pass yes", "yes 2", "1 2"},
	{"unknown yes", "yes 2", "1 2"},
	{"wrong yes", "yes 2", "1 2"},
	{"down yes", "yes 2", "1 2"},
	{"slow yes", "yes 2", "1 2"},
	{"bug yes", "yes 2", "1 2"},
	{"odd yes", "yes 2", "1 2"},
	{"nobody yes", "yes 2", "1 2"},
	{"wrong unknown pass down yes", "yes 5", "1 2 3 4 5"},

	// A refusal is the answer when nobody vouches. "Wrong password" says more
	// than "not here", in any order.
	{"wrong", "rejected", "1"},
	{"unknown", "unknown-user", "1"},
	{"wrong unknown", "rejected", "1 2"},
	{"unknown wrong", "rejected", "1 2"},
	{"unknown unknown", "unknown-user", "1 2"},
	{"pass wrong", "rejected", "1 2"},
	{"wrong pass", "rejected", "1 2"},
	{"other unknown other", "unknown-user", "2"},

	// A user who is disabled or out of date stays refused, whatever follows, and
	// nobody else is asked. What came before does not help him.
	{"denied", "denied", "1"},
	{"denied yes", "denied", "1"},
	{"denied down", "denied", "1"},
	{"expired", "expired", "1"},
	{"expired yes", "expired", "1"},
	{"expired bug", "expired", "1"},
	{"throttled", "throttled", "1"},
	{"throttled yes", "throttled", "1"},
	{"wrong denied yes", "denied", "1 2"},
	{"unknown expired yes", "expired", "1 2"},
	{"pass denied yes", "denied", "1 2"},
	{"down denied yes", "denied", "1 2"},
	{"bug expired yes", "expired", "1 2"},
	{"down throttled yes", "throttled", "1 2"},

	// An outage outranks a refusal: the step that was down may have held the
	// right password.
	{"down", "unavailable", "1"},
	{"down wrong", "unavailable", "1 2"},
	{"down unknown", "unavailable", "1 2"},
	{"wrong down", "unavailable", "1 2"},
	{"unknown down", "unavailable", "1 2"},
	{"pass down", "unavailable", "1 2"},
	{"down pass", "unavailable", "1 2"},
	{"down other", "unavailable", "1"},
	{"down down", "unavailable", "1 2"},
	{"slow", "unavailable", "1"},
	{"slow wrong", "unavailable", "1 2"},
	{"wrong slow", "unavailable", "1 2"},

	// When the attempt's own time is over nobody else is asked.
	{"stuck", "unavailable", "1"},
	{"stuck yes", "unavailable", "1"},
	{"wrong stuck yes", "unavailable", "1 2"},
	{"stuck denied", "unavailable", "1"},

	// A bug is an outage, and told as a bug: a panic, no answer, an answer about
	// nobody, an error that nobody classified.
	{"bug", "internal", "1"},
	{"bug wrong", "internal", "1 2"},
	{"wrong bug", "internal", "1 2"},
	{"odd", "internal", "1"},
	{"odd unknown", "internal", "1 2"},
	{"nobody", "internal", "1"},
	{"nobody wrong", "internal", "1 2"},
	{"blank", "internal", "1"},
	{"wrong blank", "internal", "1 2"},
	{"down bug", "internal", "1 2"},
	{"bug down", "internal", "1 2"},
	{"slow odd wrong", "internal", "1 2 3"},

	// on_reject: return. The first to refuse is the last to be asked; what was
	// down before him still outranks him.
	{"wrong* yes", "rejected", "1"},
	{"unknown* yes", "unknown-user", "1"},
	{"unknown wrong* yes", "rejected", "1 2"},
	{"wrong unknown* yes", "unknown-user", "1 2"},
	{"down wrong* yes", "unavailable", "1 2"},
	{"bug unknown* yes", "internal", "1 2"},
	{"pass* yes", "yes 2", "1 2"},
	{"other* yes", "yes 2", "2"},
	{"yes* wrong", "yes 1", "1"},
	{"denied* yes", "denied", "1"},

	// on_unavailable: return.
	{"down* yes", "unavailable", "1"},
	{"slow* yes", "unavailable", "1"},
	{"bug* yes", "internal", "1"},
	{"odd* yes", "internal", "1"},
	{"nobody* yes", "internal", "1"},
	{"wrong down* yes", "unavailable", "1 2"},
	{"bug down* yes", "internal", "1 2"},

	// A closed account stays closed to every proof: when who vouches knows nothing
	// of accounts, those who do are asked, before him in the chain or behind.
	{"yes open", "yes 1", "1 2"},
	{"yes absent", "yes 1", "1 2"},
	{"yes closed", "denied", "1 2"},
	{"yes over", "expired", "1 2"},
	{"open yes", "yes 2", "2 1"},
	{"closed yes", "denied", "2 1"},
	{"over yes", "expired", "2 1"},
	{"absent yes", "yes 2", "2 1"},
	{"yes open closed", "denied", "1 2 3"},
	{"yes closed open", "denied", "1 2"},
	{"yes absent over", "expired", "1 2 3"},
	{"wrong yes closed", "denied", "1 2 3"},
	{"down yes closed", "denied", "1 2 3"},
	{"yes closed* yes", "denied", "1 2"},
	{"yes* closed", "denied", "1 2"},

	// Who has told with his yes is not asked again, nor is anybody else: one yes
	// of somebody who knows accounts ends it.
	{"yes+", "yes 1", "1"},
	{"yes+ closed", "yes 1", "1"},
	{"closed yes+", "yes 2", "2"},
	{"yes+ dark", "yes 1", "1"},
	{"yes yes+", "yes 1", "1 2"},

	// The account may be closed where nobody can be asked. It is closed all the
	// same when somebody else says so.
	{"yes dark", "unavailable", "1 2"},
	{"dark yes", "unavailable", "2 1"},
	{"yes late", "unavailable", "1 2"},
	{"yes crash", "internal", "1 2"},
	{"yes dark open", "unavailable", "1 2 3"},
	{"yes dark closed", "denied", "1 2 3"},
	{"yes crash over", "expired", "1 2 3"},
	{"yes dark crash", "internal", "1 2 3"},
	{"yes dark* open", "unavailable", "1 2 3"},

	// Nobody is asked about the account of who did not prove himself.
	{"wrong closed", "rejected", "1"},
	{"wrong dark", "rejected", "1"},
	{"unknown closed", "unknown-user", "1"},
	{"denied open", "denied", "1"},
	{"down open", "unavailable", "1"},
	{"closed", "unknown-user", ""},
}

// others judges no proof that the table is about.
type others struct{ name string }

func (o others) Name() string { return o.name }

// knower judges no proof and knows accounts; both judges, too.
type (
	knower struct{ f fake }
	both   struct{ fake }
)

func (k knower) Name() string { return k.f.name }

func (k knower) FindUser(ctx context.Context, _ string) (*Identity, error) { return k.f.answer(ctx) }

func (b both) FindUser(ctx context.Context, _ string) (*Identity, error) { return b.answer(ctx) }

func stepsOf(t *testing.T, words string) Chain {
	t.Helper()
	fails := func(k Kind) fake { return fake{err: &Error{Kind: k, Step: k.String()}} }
	vouches := fake{id: &Identity{User: "a"}, secret: Password("s")}
	known := map[string]fake{
		"yes": vouches, "wrong": fails(Rejected), "unknown": fails(UnknownUser), "denied": fails(Denied), "expired": fails(Expired),
		"throttled": fails(Throttled), "pass": fails(Decline), "down": fails(Unavailable), "slow": {wait: true}, "stuck": {wait: true},
		"bug": {panics: "boom"}, "odd": {err: errors.New("connection refused")},
		"nobody": {secret: Password("s")}, "blank": {id: &Identity{}, secret: Password("s")},
	}
	knowers := map[string]fake{
		"open": vouches, "closed": fails(Denied), "over": fails(Expired), "absent": fails(UnknownUser),
		"dark": fails(Unavailable), "late": {wait: true}, "crash": {panics: "boom"},
	}
	var c Chain
	for i, word := range strings.Fields(words) {
		s := Step{Verifier: others{strconv.Itoa(i + 1)}}
		if strings.HasSuffix(word, "*") {
			s.OnReject, s.OnUnavailable = Return, Return
		}
		word = strings.TrimSuffix(word, "*")
		if f, ok := known[word]; ok {
			f.name, f.secret = strconv.Itoa(i+1), slices.Clone(f.secret)
			s.Verifier = f
		} else if f, ok := knowers[word]; ok {
			f.name = strconv.Itoa(i + 1)
			s.Verifier = knower{f}
		} else if word == "yes+" {
			f := vouches
			f.name, f.secret = strconv.Itoa(i+1), slices.Clone(f.secret)
			s.Verifier = both{f}
		} else if word != "other" {
			t.Fatalf("no step is called %q", word)
		}
		if word == "slow" || word == "late" {
			s.Timeout = time.Second
		}
		c = append(c, s)
	}
	return c
}

// TestChain holds the five walks to the table.
func TestChain(t *testing.T) {
	t.Parallel()
	asks := map[string]func(context.Context, Chain) (*Identity, error){
		"password": func(ctx context.Context, c Chain) (*Identity, error) {
			return c.VerifyPassword(ctx, &PasswordRequest{Login: "a"})
		},
		"secret": func(ctx context.Context, c Chain) (*Identity, error) {
			s, id, err := c.Secret(ctx, "a", "CRAM-MD5")
			if (err == nil) != (len(s) > 0) {
				t.Errorf("a secret of %d octets with %v", len(s), err)
			}
			return id, err
		},
		"token": func(ctx context.Context, c Chain) (*Identity, error) {
			return c.VerifyToken(ctx, &TokenRequest{Login: "a"})
		},
		"certificate": func(ctx context.Context, c Chain) (*Identity, error) { return c.MapCertificate(ctx, nil) },
		"principal":   func(ctx context.Context, c Chain) (*Identity, error) { return c.MapPrincipal(ctx, &Principal{}, "") },
	}
	for what, ask := range asks {
		for _, row := range chainTable {
			t.Run(what+": "+row.steps, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					defer cancel()
					var asked []string
					ctx = WithPolicy(ctx, &Policy{Trace: &Trace{Step: func(_ context.Context, s *StepDone) { asked = append(asked, s.Step) }}})
					id, err := ask(ctx, stepsOf(t, row.steps))
					got := outcome(err)
					if err == nil {
						got = "yes " + id.Step
					}
					if got != row.outcome || strings.Join(asked, " ") != row.asked || err != nil && id != nil {
						t.Errorf("got %s after asking %v, want %s after asking %s (%v)", got, asked, row.outcome, row.asked, err)
					}
				})
			})
		}
	}
}

// No rule is without a row for each answer that it is about.
func TestChainTableIsComplete(t *testing.T) {
	t.Parallel()
	if len(chainTable) < 60 {
		t.Errorf("%d rows", len(chainTable))
	}
	rows := map[string]bool{}
	for _, row := range chainTable {
		if rows[row.steps] {
			t.Errorf("%q stands there twice", row.steps)
		}
		rows[row.steps] = true
	}
	for _, a := range []string{"wrong", "unknown", "pass", "down", "bug"} {
		if !rows[a+" yes"] || !rows[a+"* yes"] {
			t.Errorf("no row says what %s leads to", a)
		}
	}
	for _, a := range []string{"denied", "expired", "throttled"} {
		if !rows[a+" yes"] {
			t.Errorf("no row says what %s leads to", a)
		}
	}
	for _, a := range []string{"open", "closed", "over", "absent", "dark"} {
		if !rows[a+" yes"] || !rows["yes "+a] {
			t.Errorf("no row says what %s leads to", a)
		}
	}
	for _, refusal := range []string{"wrong", "unknown"} {
		if !rows["down "+refusal] || !rows[refusal+" down"] {
			t.Errorf("no row has an outage before and after %s", refusal)
		}
	}
}

// relay has a chain of its own.
type relay struct {
	fake
	steps []StepDone
	quiet bool
}

func (relay) Relays() {}

func (r relay) VerifyPassword(ctx context.Context, q *PasswordRequest) (*Identity, error) {
	if !r.quiet {
		TraceRelayed(ctx, r.steps)
	}
	return r.fake.VerifyPassword(ctx, q)
}

// What a relay passes on stands in the trace in place of its own step, and the
// identity keeps the name of the step that vouched; a relay that fails itself is
// a step like any other.
func TestChainRelay(t *testing.T) {
	t.Parallel()
	steps := []StepDone{{Step: "far 1", Err: &Error{Kind: Rejected}}, {Step: "far 2"}}
	there := fake{name: "relay", id: &Identity{User: "a", Step: "far 2"}}
	outage := &Error{Kind: Unavailable, Step: chainStep, Err: errors.Join(errors.New("a: down"), errors.New("b: down"))}
	for _, tt := range []struct {
		name  string
		relay relay
		step  string
		asked string
		err   string
	}{
		{"vouched", relay{there, steps, false}, "far 2", "far 1 rejected, far 2 yes", ""},
		{"could not ask", relay{fake{name: "relay", err: context.DeadlineExceeded}, nil, true}, "", "relay unavailable, near rejected", "chain: unavailable: context deadline exceeded"},
		{"panicked", relay{fake{name: "relay", panics: "boom"}, nil, true}, "", "relay internal, near rejected", ""},
		{"names no step", relay{fake{name: "relay", id: &Identity{User: "a"}}, steps[1:], false}, "relay", "far 2 yes", ""},
		{"tells of outages", relay{fake{name: "relay", err: outage}, nil, false}, "", "near rejected", "chain: unavailable: a: down\nb: down"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var asked []string
			tr := &Trace{Step: func(_ context.Context, s *StepDone) { asked = append(asked, s.Step+" "+outcome(s.Err)) }}
			near := Step{Verifier: fake{name: "near", err: &Error{Kind: Rejected}}}
			id, err := Chain{{Verifier: tt.relay}, near}.VerifyPassword(WithPolicy(t.Context(), &Policy{Trace: tr}), &PasswordRequest{})
			if tt.step != "" && (err != nil || id.Step != tt.step) || tt.step == "" && err == nil || tt.err != "" && (err == nil || err.Error() != tt.err) {
				t.Errorf("got %+v, %v", id, err)
			}
			if got := strings.Join(asked, ", "); got != tt.asked {
				t.Errorf("traced %s, want %s", got, tt.asked)
			}
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
	c := Chain{{Verifier: struct{ PasswordVerifier }{fake{name: "passwords only", id: &Identity{User: "a"}}}}}
	if _, err := c.MapPrincipal(t.Context(), &Principal{}, ""); KindOf(err) != UnknownUser {
		t.Errorf("got %v", err)
	}
	if Can[PrincipalMapper](c) || !Can[PasswordVerifier](c) || Can[SecretSource](c) {
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
	if _, err := c.VerifyPassword(WithPolicy(t.Context(), &Policy{Trace: Join(tr, nil, &Trace{})}), &PasswordRequest{}); err != nil {
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
