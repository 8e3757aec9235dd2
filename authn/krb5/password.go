package krb5

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/kpopd/kpopd/authn"
)

// PasswordOptions say which KDCs are asked about passwords.
type PasswordOptions struct {
	Realm    string
	KDCs     []string      // host or host:port, in the order in which they are asked; port 88 when there is none
	Keytab   *Keytab       // has the key of Service
	Service  string        // principal without realm that tickets are asked for, "pop/mail.example"; see [Keytab.ServiceIn] when empty
	Enctypes []int32       // of the password's key, the ticket and its session key; the four of AES when empty
	Skew     time.Duration // allowed difference to the KDC's clock; 5 min when zero
}

// Passwords checks passwords by getting a ticket with them, as kinit does. It
// is safe for concurrent use.
//
// A ticket proves nothing by itself: who runs a KDC of his own and stands on
// the way to the real one gets tickets for any password. So the ticket is for
// our own service, and must be made with the key in our keytab, for this user,
// a moment ago and by a password, with the session key that the reply promised.
// The last keeps out who replays another user's ticket that he saw go by.
type Passwords struct {
	realm    string
	kdcs     []*kdc
	service  name
	enctypes []int32
	skew     time.Duration
	accept   *Acceptor
	learned  atomic.Pointer[hint] // how keys of this realm are made, for users that it does not have
}

// NewPasswords looks for the service's key in the keytab.
func NewPasswords(o PasswordOptions) (*Passwords, error) {
	p := &Passwords{realm: o.Realm, enctypes: o.Enctypes, skew: o.Skew}
	if o.Realm == "" || len(o.KDCs) == 0 {
		return nil, errors.New("a realm and its KDCs are needed")
	}
	for _, address := range o.KDCs {
		a, err := withPort(address)
		if err != nil {
			return nil, err
		}
		p.kdcs = append(p.kdcs, &kdc{address: a, dial: new(net.Dialer).DialContext})
	}
	if len(p.enctypes) == 0 {
		p.enctypes = DefaultEnctypes()
	}
	if p.skew == 0 {
		p.skew = defaultSkew
	}
	if o.Keytab == nil {
		return nil, errors.New("without a keytab a false KDC could let anybody in")
	}
	service := o.Service
	if service == "" {
		if service = o.Keytab.ServiceIn(o.Realm); service == "" {
			return nil, fmt.Errorf("the keytab has no key of pop/HOST or pop3/HOST in realm %s, with which to tell a false KDC", o.Realm)
		}
	}
	p.service = name{strings.Split(service, "/"), o.Realm}
	if len(p.service.components) != 2 {
		return nil, fmt.Errorf("service %q is not of the form pop/HOST", service)
	}
	if len((*o.Keytab.keys.Load())[p.service.key()]) == 0 {
		return nil, fmt.Errorf("the keytab has no key of %s, with which to tell a false KDC", p.service)
	}
	p.accept = &Acceptor{
		Keytab: o.Keytab, Services: p.service.components[:1], Hosts: p.service.components[1:],
		Enctypes: p.enctypes, Skew: p.skew, Replay: unseen{},
	}
	return p, nil
}

// unseen is the replay cache for requests that never leave the process.
type unseen struct{}

func (unseen) Seen(context.Context, [32]byte, time.Time) (bool, error) { return false, nil }

// Realm is where its users are.
func (p *Passwords) Realm() string { return p.realm }

// Service is the principal that tickets are asked for.
func (p *Passwords) Service() string { return p.service.String() }

// PasswordError is why a password was not taken.
type PasswordError struct {
	Kind authn.Kind
	Code int32 // of the KDC's KRB-ERROR; 0 when it sent none
	Err  error

	down bool // the KDC did not answer, or no sense
}

func (e *PasswordError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *PasswordError) Unwrap() error { return e.Err }

// As makes an [authn.Error] of e, so that [authn.KindOf] knows it.
func (e *PasswordError) As(target any) bool {
	t, ok := target.(**authn.Error)
	if ok {
		*t = &authn.Error{Kind: e.Kind, Step: "krb5", Err: e.Err}
	}
	return ok
}

func cannot(format string, a ...any) *PasswordError {
	return &PasswordError{Kind: unavailable, Err: fmt.Errorf(format, a...)}
}

// Verify asks the KDCs whether the password is that of user, a principal of one
// component. The first that answers decides; when none does, the error says
// what was wrong with each. All errors are [*PasswordError].
//
// A KDC's refusal is not proven to be the KDC's: who stands on the way to it can
// have a user refused, but let nobody in.
func (p *Passwords) Verify(ctx context.Context, user string, password authn.Password) (*authn.Principal, error) {
	ctx, cancel := context.WithTimeout(ctx, kdcTotal)
	defer cancel()
	var failures []error
	kdcs := inOrder(p.kdcs, time.Now())
	for i, k := range kdcs {
		principal, err := p.verifyAt(ctx, k, len(kdcs)-i, user, password)
		if err == nil {
			return principal, nil
		}
		err.Err = fmt.Errorf("KDC %s: %w", k.address, err.Err)
		if err.Kind != unavailable {
			return nil, err
		}
		failures = append(failures, err)
		if ctx.Err() != nil {
			break
		}
	}
	if len(failures) == 1 {
		return nil, failures[0]
	}
	return nil, &PasswordError{Kind: unavailable, Err: errors.Join(failures...)}
}

func (p *Passwords) verifyAt(ctx context.Context, k *kdc, left int, user string, password authn.Password) (*authn.Principal, *PasswordError) {
	his, cancel := turn(ctx, left)
	defer cancel()
	x := &asExchange{p: p, client: name{[]string{user}, p.realm}, password: password, send: k.ask}
	principal, err := x.run(his)
	switch {
	case err == nil || !err.down:
		k.answered()
	case ctx.Err() == nil: // it had its turn; a caller who went away says nothing of the KDC
		k.failed(time.Now())
	}
	return principal, err
}
