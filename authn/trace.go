package authn

import (
	"context"
	"time"
)

// Trace is told what happens, in the manner of net/http/httptrace: nil funcs
// are skipped. They run on the session's goroutine and must not wait. Metrics,
// audit and logs each bring one; [Join] makes one of several.
type Trace struct {
	Attempt func(context.Context, *Attempt) // once for each login attempt, refused or not
	Step    func(context.Context, *StepDone)
}

// Attempt is the record of one login attempt.
type Attempt struct {
	Transport *Transport
	Policy    string
	Mechanism string     // as the policy names it; "" when it has none that the client asked for
	Login     string     // as claimed, unchecked, cut at 255 octets; "" when the client named nobody
	Principal *Principal // proven by a ticket, also when the login was refused
	Identity  *Identity  // nil when refused
	For       string     // whom the client asked to act for and is not himself; also when refused
	View      View       // of the maildrop, that the client asked for; also when refused
	Layer     bool       // a SASL security layer follows
	Rule      *Rule      // of the policy, that decided, as far as the attempt went; nil when none did
	Act       *Rule      // of the policy, that said whether the client may act for For; nil when none did
	Sunset    *Rule      // of the policy, that will refuse such a login once its date has come; nil when none will
	Shadow    *Difference
	Exposed   bool   // a password was shown in the clear where none is taken; nobody read it
	Note      string // what is odd about the client, "" mostly
	Duration  time.Duration
	Err       error // nil when accepted; [KindOf] says which kind
}

// StepDone is the record of one verifier's answer.
type StepDone struct {
	Step     string
	Duration time.Duration
	Err      error // nil when the step vouched
}

// Join tells each of traces in order.
func Join(traces ...*Trace) *Trace {
	return &Trace{
		Attempt: func(ctx context.Context, a *Attempt) {
			for _, t := range traces {
				t.attempt(ctx, a)
			}
		},
		Step: func(ctx context.Context, s *StepDone) {
			for _, t := range traces {
				t.step(ctx, s)
			}
		},
	}
}

func (t *Trace) attempt(ctx context.Context, a *Attempt) {
	if t != nil && t.Attempt != nil {
		t.Attempt(ctx, a)
	}
}

func (t *Trace) step(ctx context.Context, s *StepDone) {
	if t != nil && t.Step != nil {
		t.Step(ctx, s)
	}
}

type policyKey struct{}

// WithPolicy returns a context in which chains go by the names and the trace of p.
// The throttle is for a [Login] to ask.
func WithPolicy(ctx context.Context, p *Policy) context.Context {
	return context.WithValue(ctx, policyKey{}, p)
}

type relayKey struct{}

// TraceRelayed tells the trace of ctx what the steps of a [Relay]'s chain
// answered.
func TraceRelayed(ctx context.Context, steps []StepDone) {
	if relayed, ok := ctx.Value(relayKey{}).(*bool); ok {
		*relayed = true
	}
	t := traceOf(ctx)
	for i := range steps {
		t.step(ctx, &steps[i])
	}
}

func traceOf(ctx context.Context) *Trace {
	if p, ok := ctx.Value(policyKey{}).(*Policy); ok {
		return p.Trace
	}
	return nil
}

func namesOf(ctx context.Context) *Names {
	if p, ok := ctx.Value(policyKey{}).(*Policy); ok {
		return p.Names
	}
	return nil
}

type transportKey struct{}

// WithTransport returns a context in which a login that came on t is under way.
func WithTransport(ctx context.Context, t *Transport) context.Context {
	return context.WithValue(ctx, transportKey{}, t)
}

// TransportOf is the connection that a login under way in ctx came on, nil when
// there is none.
func TransportOf(ctx context.Context) *Transport {
	t, _ := ctx.Value(transportKey{}).(*Transport)
	return t
}
