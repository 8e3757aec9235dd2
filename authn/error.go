package authn

import (
	"context"
	"errors"
	"fmt"
)

// Kind says what an error means to the chain and to the client. The zero
// value is Internal.
type Kind uint8

const (
	Internal    Kind = iota // a bug or a broken invariant: [SYS/TEMP], logged as an error
	Decline                 // not mine to judge, ask the next; never reaches a client
	UnknownUser             // this source has no such user: [AUTH]
	Rejected                // user known, proof wrong: [AUTH]
	Denied                  // login not allowed, whatever the proof: [AUTH]
	Expired                 // password or ticket out of date: [AUTH]
	Throttled               // refused unchecked after too many failures: [SYS/TEMP], then close
	Unavailable             // could not ask: time-out, server down: [SYS/TEMP]
	Malformed               // the client broke the mechanism's rules: no code
	Cancelled               // the client sent "*": no code, no failure
	Aborted                 // the connection ended inside the exchange: nobody to tell
)

var kinds = [...]string{"internal", "decline", "unknown-user", "rejected", "denied", "expired", "throttled", "unavailable", "malformed", "cancelled", "aborted"}

func (k Kind) String() string {
	if int(k) < len(kinds) {
		return kinds[k]
	}
	return fmt.Sprintf("kind-%d", uint8(k))
}

// Error is every error that leaves this package, its mechanisms and its
// verifiers.
type Error struct {
	Kind Kind
	Step string // chain step or mechanism
	Err  error  // for the log only: its text is never sent to a client
	Text string // for the client, in place of the kind's fixed text: one ASCII line without secrets; mostly ""
}

func (e *Error) Error() string {
	if e.Err == nil {
		return e.Step + ": " + e.Kind.String()
	}
	return fmt.Sprintf("%s: %s: %v", e.Step, e.Kind, e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// PanicError is a panic of a mechanism or a verifier, in the Err of an
// [Error] of kind Internal: the session that met it goes on, and whoever keeps
// the log counts it.
type PanicError struct {
	Value any
	Stack []byte
}

func (p *PanicError) Error() string { return fmt.Sprintf("panic: %v\n%s", p.Value, p.Stack) }

// KindOf reports what err means. A context that ran out is Unavailable, an
// error that nobody classified is Internal.
func KindOf(err error) Kind {
	if e, ok := err.(*Error); ok { // as most are; errors.As allocates
		return e.Kind
	}
	var e *Error
	switch {
	case errors.As(err, &e):
		return e.Kind
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return Unavailable
	default:
		return Internal
	}
}
