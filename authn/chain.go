package authn

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"
)

// Next is what a chain does after a step that did not vouch.
type Next uint8

const (
	Continue Next = iota
	Return
)

// Step is one verifier in a chain and what its answers lead to.
type Step struct {
	Verifier
	Timeout       time.Duration // zero means the attempt's own deadline
	OnReject      Next          // after UnknownUser or Rejected
	OnUnavailable Next          // after Unavailable or Internal
}

// chainStep stands in errors that are of no single step.
const chainStep = "chain"

// Chain asks its steps in order until one vouches.
//
// One yes ends it. Denied and Expired end it too: a later step must not let in
// a user whom an earlier one locked. When nobody says yes, an outage outranks
// a refusal: the step that was down may have held the right password, so the
// client hears "try later" and keeps it.
//
// A [Guard] has a word on each yes, so that no order of steps and no name that a
// directory knows a user by gets past a list. So has each [UserFinder] when who
// vouched knows nothing of accounts: one that is closed stays closed to tickets,
// certificates and tokens.
type Chain []Step

// VerifyPassword asks every step that can check passwords, once the policy's
// throttle has admitted the attempt.
func (c Chain) VerifyPassword(ctx context.Context, r *PasswordRequest) (*Identity, error) {
	login, err := canonical(ctx, r.Login)
	if err != nil {
		return nil, err
	}
	if login != r.Login {
		other := *r
		other.Login = login
		r = &other
	}
	if err := admitted(ctx, r.Login); err != nil {
		return nil, err
	}
	return accept(ctx, c, func(ctx context.Context, v PasswordVerifier) (*Identity, error) {
		return v.VerifyPassword(ctx, r)
	})
}

// MapPrincipal asks every step that can map principals. An identity with
// Identity.For is of a principal who may not have authzid by himself. A ticket is
// no guess: the throttle is not asked.
func (c Chain) MapPrincipal(ctx context.Context, p *Principal, authzid string) (*Identity, error) {
	id, err := c.MapOwn(ctx, p, authzid)
	if err != nil && authzid != "" && KindOf(err) == Denied {
		return c.asAnother(ctx, p, authzid, err)
	}
	return id, err
}

// MapOwn is MapPrincipal without acting for another. It is for the chain behind a
// [Relay]: the one in front of it asks again without authzid.
func (c Chain) MapOwn(ctx context.Context, p *Principal, authzid string) (*Identity, error) {
	return accept(ctx, c, func(ctx context.Context, v PrincipalMapper) (*Identity, error) {
		return v.MapPrincipal(ctx, p, authzid)
	})
}

// VerifyToken asks every step that can check tokens. A token is no guess either.
func (c Chain) VerifyToken(ctx context.Context, r *TokenRequest) (*Identity, error) {
	if r.Login != "" {
		login, err := canonical(ctx, r.Login)
		if err != nil {
			return nil, err
		}
		other := *r
		other.Login = login
		r = &other
	}
	return accept(ctx, c, func(ctx context.Context, v TokenVerifier) (*Identity, error) {
		return v.VerifyToken(ctx, r)
	})
}

// MapCertificate asks every step that can map client certificates.
func (c Chain) MapCertificate(ctx context.Context, chain []*x509.Certificate) (*Identity, error) {
	return accept(ctx, c, mapCertificate(chain))
}

// OwnsCertificate is MapCertificate for CAPA, which must not wait: nobody is asked
// about the account.
func (c Chain) OwnsCertificate(ctx context.Context, chain []*x509.Certificate) (*Identity, error) {
	id, _, err := walk(ctx, c, mapCertificate(chain))
	return id, err
}

func mapCertificate(chain []*x509.Certificate) func(context.Context, CertificateMapper) (*Identity, error) {
	return func(ctx context.Context, v CertificateMapper) (*Identity, error) { return v.MapCertificate(ctx, chain) }
}

// Secret asks every step that stores secrets, once the policy's throttle has
// admitted the attempt.
func (c Chain) Secret(ctx context.Context, login, scheme string) (Password, *Identity, error) {
	login, err := canonical(ctx, login)
	if err == nil {
		err = admitted(ctx, login)
	}
	if err != nil {
		return nil, nil, err
	}
	var secret Password
	id, err := accept(ctx, c, func(ctx context.Context, v SecretSource) (*Identity, error) {
		s, id, err := v.Secret(ctx, login, scheme)
		if err == nil && len(s) == 0 {
			// anyone can prove that he knows nothing
			return nil, &Error{Kind: Internal, Step: v.Name(), Err: errors.New("handed out an empty secret")}
		}
		if err != nil {
			s.Wipe()
			return nil, err
		}
		secret.Wipe()
		secret = s
		return id, nil
	})
	if err != nil {
		secret.Wipe()
		return nil, nil, err
	}
	return secret, id, nil
}

// canonical makes sure that no verifier meets a spelling that a mechanism has
// overlooked.
func canonical(ctx context.Context, login string) (string, error) {
	n := namesOf(ctx)
	if n == nil {
		return login, nil
	}
	login, err := n.Prepare(login)
	if err != nil {
		return "", &Error{Kind: UnknownUser, Step: "chain", Err: err}
	}
	return login, nil
}

// spelled is the one spelling of what a step calls a user, so that no list meets
// another.
func spelled(ctx context.Context, step, user string) (string, error) {
	n := namesOf(ctx)
	if n == nil {
		return user, nil
	}
	name, err := n.Prepare(user)
	if err != nil {
		return "", &Error{Kind: Internal, Step: step, Err: fmt.Errorf("vouched for %.*q, of which the configured names make no login", MaxLogin, user)}
	}
	return name, nil
}

// Can reports whether a step of the chain is a V, so that a policy with a
// mechanism that nothing can judge is refused when it is loaded.
func Can[V Verifier](c Chain) bool {
	for _, s := range c {
		if _, ok := s.Verifier.(V); ok {
			return true
		}
	}
	return false
}

// accept is walk, and then what is known of the account.
func accept[V Verifier](ctx context.Context, c Chain, ask func(context.Context, V) (*Identity, error)) (*Identity, error) {
	id, by, err := walk(ctx, c, ask)
	if err == nil {
		err = c.account(ctx, by, id)
	}
	if err != nil {
		return nil, err
	}
	return id, nil
}

// walk also returns who vouched.
func walk[V Verifier](ctx context.Context, c Chain, ask func(context.Context, V) (*Identity, error)) (*Identity, Verifier, error) {
	if err := c.admit(ctx, nil); err != nil {
		return nil, nil, err
	}
	var refused error
	var outages []error
	for _, s := range c {
		v, ok := s.Verifier.(V)
		if !ok {
			continue
		}
		id, err := s.ask(ctx, func(ctx context.Context) (*Identity, error) { return ask(ctx, v) })
		if err == nil {
			vouched := *id // the verifier may hand the same one to others
			if _, ok := s.Verifier.(Relay); !ok || vouched.Step == "" {
				vouched.Step = s.Name()
			}
			if vouched.User, err = spelled(ctx, s.Name(), id.User); err != nil {
				return nil, nil, err
			}
			if err := c.admit(ctx, &vouched); err != nil {
				return nil, nil, err
			}
			return &vouched, s.Verifier, nil
		}
		switch KindOf(err) {
		case Decline:
		case UnknownUser, Rejected:
			// "wrong password" says more than "not here"
			if refused == nil || KindOf(refused) == UnknownUser {
				refused = err
			}
			if s.OnReject == Return {
				return nil, nil, outageOr(outages, err)
			}
		case Unavailable, Internal:
			outages = append(outages, err)
			if s.OnUnavailable == Return || ctx.Err() != nil {
				return nil, nil, outageOr(outages, err)
			}
		default:
			return nil, nil, err
		}
	}
	switch {
	case len(outages) > 0:
		return nil, nil, outageOr(outages, nil)
	case refused != nil:
		return nil, nil, refused
	default:
		return nil, nil, &Error{Kind: UnknownUser, Step: chainStep, Err: errors.New("no step took the attempt")}
	}
}

// admit asks the guards.
func (c Chain) admit(ctx context.Context, id *Identity) error {
	for _, s := range c {
		if g, ok := s.Verifier.(Guard); ok {
			if err := s.admit(ctx, g, id); err != nil {
				return err
			}
		}
	}
	return nil
}

// admit traces a refusal. A panic is Internal.
func (s Step) admit(ctx context.Context, g Guard, id *Identity) (err error) {
	start := time.Now()
	defer func() {
		if v := recover(); v != nil {
			err = &Error{Kind: Internal, Step: s.Name(), Err: &PanicError{v, debug.Stack()}}
		}
		if err != nil {
			traceOf(ctx).step(ctx, &StepDone{Step: s.Name(), Duration: time.Since(start), Err: err})
		}
	}()
	return g.Admit(ctx, id)
}

// outageOr is outages as one error, Internal when a bug is among them, or err
// when there are none.
func outageOr(outages []error, err error) error {
	if len(outages) == 0 {
		return err
	}
	kind := Unavailable
	if slices.ContainsFunc(outages, func(e error) bool { return KindOf(e) == Internal }) {
		kind = Internal
	}
	for i, e := range outages {
		if c, ok := e.(*Error); ok && c.Step == chainStep { // of a Relay: its steps speak for themselves
			outages[i] = c.Err
		}
	}
	return &Error{Kind: kind, Step: chainStep, Err: errors.Join(outages...)}
}

// ask runs one step under its own deadline and traces it. A panic, and an
// answer that is neither an identity nor an error, are Internal.
func (s Step) ask(ctx context.Context, f func(context.Context) (*Identity, error)) (id *Identity, err error) {
	start := time.Now()
	if s.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.Timeout)
		defer cancel()
	}
	relayed := false
	if _, ok := s.Verifier.(Relay); ok {
		ctx = context.WithValue(ctx, relayKey{}, &relayed)
	}
	defer func() {
		if v := recover(); v != nil {
			id, err = nil, &Error{Kind: Internal, Step: s.Name(), Err: &PanicError{v, debug.Stack()}}
		}
		if !relayed {
			traceOf(ctx).step(ctx, &StepDone{Step: s.Name(), Duration: time.Since(start), Err: err})
		}
	}()
	id, err = f(ctx)
	if err == nil && (id == nil || id.User == "") {
		return nil, &Error{Kind: Internal, Step: s.Name(), Err: errors.New("vouched for nobody")}
	}
	return id, err
}
