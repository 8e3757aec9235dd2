package authn

import "context"

// Throttle stands before what a client could guess: a password, or a proof made
// with a stored secret. Package throttle has one.
type Throttle interface {
	// Admit is asked once for each attempt, before a verifier judges a guess
	// at the password or secret of login, known or not. It may wait, no longer
	// than ctx. An error, of kind Throttled, ends the attempt unjudged;
	// otherwise done is called once with the outcome, nil for a success.
	Admit(ctx context.Context, t *Transport, login string) (done func(error), err error)
}

type throttleKey struct{}

// admitted asks the throttle of the attempt that ctx belongs to, once.
func admitted(ctx context.Context, login string) error {
	l, _ := ctx.Value(throttleKey{}).(*Login)
	if l == nil || l.told != nil {
		return nil
	}
	done, err := l.policy.Throttle.Admit(ctx, l.t, login)
	if err != nil {
		return err
	}
	l.told = done
	return nil
}
