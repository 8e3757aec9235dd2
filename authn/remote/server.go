package remote

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/krb5"
)

const (
	maxConns    = 64   // at once; a front has one
	maxRequests = 1024 // at once on a connection; more are told to come later
	stallTime   = 5 * time.Second
)

// Acceptor takes AP-REQs: a [krb5.Acceptor].
type Acceptor interface {
	Accept(ctx context.Context, apReq []byte, o krb5.Options) (*krb5.Context, error)
}

// Judge is who judges what a front asks about.
type Judge struct {
	Names   *authn.Names // of the front, for what the steps call users; as they are when nil
	Chain   authn.Chain
	Tickets Acceptor // nil without a keytab
}

// Judges lists the proofs that j can judge.
func (j *Judge) Judges() []Proof {
	var list []Proof
	for _, x := range []struct {
		can   bool
		proof Proof
	}{
		{authn.Can[authn.PasswordVerifier](j.Chain), Passwords},
		{authn.Can[authn.SecretSource](j.Chain), Secrets},
		{authn.Can[authn.PrincipalMapper](j.Chain), Principals},
		{j.Tickets != nil, Tickets},
		{authn.Can[authn.UserFinder](j.Chain), Users},
	} {
		if x.can {
			list = append(list, x.proof)
		}
	}
	return list
}

// Server is the helper's side.
type Server struct {
	Clients []uint32     // uids of fronts; others are refused
	Log     *slog.Logger // of connections; required
	Trace   *authn.Trace // is told of steps, as those of fronts are; may be nil

	judge atomic.Pointer[Judge]
}

// SetJudge has later requests judged by j.
func (s *Server) SetJudge(j *Judge) { s.judge.Store(j) }

// Serve answers fronts until ctx ends, then closes l and all connections: what
// they wait for is an outage to them. SetJudge comes first.
func (s *Server) Serve(ctx context.Context, l *Listener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer l.Close()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	room := make(chan struct{}, maxConns)
	for {
		c, err := l.AcceptUnix()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				c.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil: // no descriptor is free, or the front went away
			s.Log.Error("connection not accepted", "err", err)
			pause(ctx)
			continue
		}
		select {
		case room <- struct{}{}:
		default:
			s.Log.Error("connection refused: there are too many", "connections", maxConns)
			c.Close()
			continue
		}
		wg.Go(func() { // ended by ctx or the front
			defer func() { <-room }()
			s.admit(ctx, c)
		})
	}
}

// pause waits a moment for what cannot be waited for otherwise.
func pause(ctx context.Context) {
	t := time.NewTimer(50 * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// admit serves the connection of a front that is on the list.
func (s *Server) admit(ctx context.Context, c *net.UnixConn) {
	defer c.Close()
	uid, err := peer(c)
	if err != nil || !slices.Contains(s.Clients, uid) {
		s.Log.Warn("connection refused: its uid is not on the list", "uid", uid, "err", err)
		return
	}
	s.Log.Info("front connected", "uid", uid)
	err = s.serve(ctx, c)
	s.Log.Info("front gone", "uid", uid, "err", err)
}

// session is one connection.
type session struct {
	*Server
	c    net.Conn
	send sync.Mutex

	mu       sync.Mutex
	requests map[uint64]*request
}

// request is one that is being judged.
type request struct {
	cancel  context.CancelFunc
	verdict chan *failure // for the Check of an accept; holds one
}

// serve reads frames until one is wrong or ctx ends. Answers are written by the
// goroutines of the requests, which it waits for.
func (s *Server) serve(ctx context.Context, c net.Conn) error {
	x := &session{Server: s, c: c, requests: map[uint64]*request{}}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	if err := x.hello(); err != nil {
		return err
	}
	for {
		m, payload, err := readFrame(c)
		if err != nil {
			return err
		}
		switch m.Op {
		case opCancel:
			x.finish(m.ID)
		case opVerdict:
			x.decide(m.ID, m.Failure)
		case opPassword, opSecret, opPrincipal, opFind, opAccept:
			err = x.begin(ctx, &wg, m, payload)
			payload = nil
		default:
			err = fmt.Errorf("a front does not send %.20q", m.Op)
		}
		clear(payload)
		if err != nil {
			return err
		}
	}
}

func (x *session) hello() error {
	if err := x.c.SetReadDeadline(time.Now().Add(stallTime)); err != nil {
		return err
	}
	m, payload, err := readFrame(x.c)
	clear(payload)
	if err != nil {
		return fmt.Errorf("hello: %w", err)
	}
	if err := x.write(&message{Op: opHello, Version: version, Judges: x.judge.Load().Judges()}, nil); err != nil {
		return err
	}
	if m.Op != opHello || m.Version != version {
		return fmt.Errorf("a front of another version: %.20q %d", m.Op, m.Version)
	}
	return x.c.SetReadDeadline(time.Time{})
}

// begin starts to judge a request.
func (x *session) begin(all context.Context, wg *sync.WaitGroup, m *message, payload []byte) error {
	r := &request{verdict: make(chan *failure, 1)}
	var ctx context.Context
	if m.Left > 0 {
		ctx, r.cancel = context.WithTimeout(all, m.Left)
	} else {
		ctx, r.cancel = context.WithCancel(all)
	}
	x.mu.Lock()
	_, taken := x.requests[m.ID]
	full := len(x.requests) >= maxRequests
	if !taken && !full {
		x.requests[m.ID] = r
	}
	x.mu.Unlock()
	switch {
	case taken:
		r.cancel()
		clear(payload)
		return fmt.Errorf("request %d is there already", m.ID)
	case full:
		r.cancel()
		clear(payload)
		err := fmt.Errorf("%d requests are being judged already", maxRequests)
		return x.write(&message{Op: opAnswer, ID: m.ID, Failure: ownFailure(authn.Unavailable, err)}, nil)
	}
	wg.Go(func() { // ended by ctx at the latest
		defer x.finish(m.ID)
		defer clear(payload)
		a, secret := x.answer(ctx, r, m, payload)
		defer clear(secret)
		a.Op, a.ID = opAnswer, m.ID
		if all.Err() != nil || x.cancelled(m.ID) {
			return // nobody waits, or what was found was found in a hurry
		}
		if err := x.write(a, secret); err != nil {
			x.Log.Warn("answer not sent", "err", err)
			x.c.Close() // ends serve
		}
	})
	return nil
}

// cancelled reports whether the front said that it does not wait for id.
func (x *session) cancelled(id uint64) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	_, waits := x.requests[id]
	return !waits
}

// finish ends a request, which may have ended already.
func (x *session) finish(id uint64) {
	x.mu.Lock()
	r := x.requests[id]
	delete(x.requests, id)
	x.mu.Unlock()
	if r != nil {
		r.cancel()
	}
}

func (x *session) decide(id uint64, f *failure) {
	x.mu.Lock()
	r := x.requests[id]
	x.mu.Unlock()
	if r == nil {
		return // it ended meanwhile
	}
	select {
	case r.verdict <- f:
	default: // one verdict counts
	}
}

// answer judges a request. A panic is one of the answer's, not the helper's end.
func (x *session) answer(ctx context.Context, r *request, m *message, payload []byte) (a *message, secret []byte) {
	defer func() {
		if v := recover(); v != nil {
			err := &authn.PanicError{Value: v, Stack: debug.Stack()}
			x.Log.Error("request not judged", "err", err)
			a, secret = &message{Failure: ownFailure(authn.Internal, err)}, nil
		}
	}()
	j := x.judge.Load()
	if proof := proofOf(m.Op); !slices.Contains(j.Judges(), proof) {
		return &message{Failure: ownFailure(authn.Unavailable, fmt.Errorf("no step judges %s, as the front's configuration says", proof))}, nil
	}
	if m.Op == opAccept {
		return x.accept(ctx, j, r, m, payload), nil
	}
	var steps []authn.StepDone
	ctx = authn.WithPolicy(ctx, &authn.Policy{Names: j.Names, Trace: authn.Join(x.Trace, &authn.Trace{
		Step: func(_ context.Context, s *authn.StepDone) { steps = append(steps, *s) },
	})})
	if m.Transport != nil {
		ctx = authn.WithTransport(ctx, m.Transport.restore())
	}
	var id *authn.Identity
	var err error
	switch m.Op {
	case opPassword:
		id, err = j.Chain.VerifyPassword(ctx, &authn.PasswordRequest{
			Transport: m.Transport.restore(), Mechanism: m.Mechanism, Login: string(m.Login), Password: payload,
		})
	case opSecret:
		secret, id, err = j.Chain.Secret(ctx, string(m.Login), m.Scheme)
	case opPrincipal:
		id, err = j.Chain.MapOwn(ctx, m.Principal.restore(), string(m.Authzid))
	case opFind:
		id, err = j.Chain.FindUser(ctx, string(m.Login))
	}
	a = &message{Identity: identityOf(id), Steps: stepsOf(steps), Failure: failureOf(err)}
	if m.Op == opSecret {
		a.Shape = shapeOf(j.Chain, m.Scheme)
	}
	return a, secret
}

func proofOf(o op) Proof {
	switch o {
	case opPassword:
		return Passwords
	case opSecret:
		return Secrets
	case opPrincipal:
		return Principals
	case opFind:
		return Users
	default:
		return Tickets
	}
}

// accept judges a ticket; the front, which knows the mechanism, is asked on the
// way.
func (x *session) accept(ctx context.Context, j *Judge, r *request, m *message, apReq []byte) *message {
	_, err := j.Tickets.Accept(ctx, apReq, krb5.Options{Remote: m.Remote, Check: func(c *krb5.Context) error {
		facts, keys := contextOf(c)
		defer clear(keys)
		if err := x.write(&message{Op: opCheck, ID: m.ID, Context: facts}, keys); err != nil {
			return &authn.Error{Kind: authn.Unavailable, Step: "helper", Err: err}
		}
		select {
		case f := <-r.verdict:
			return f.restore()
		case <-ctx.Done():
			return &authn.Error{Kind: authn.Unavailable, Step: "helper", Err: context.Cause(ctx)}
		}
	}})
	return &message{Failure: failureOf(err)}
}

// write sends a frame. A front that does not read must not hold us.
func (x *session) write(m *message, payload []byte) error {
	b, err := frame(m, payload)
	if err != nil { // a fact that is too long, such as the attributes of a user
		if b, err = frame(&message{Op: m.Op, ID: m.ID, Failure: ownFailure(authn.Internal, err)}, nil); err != nil {
			return err
		}
	}
	defer clear(b)
	x.send.Lock()
	defer x.send.Unlock()
	if err := x.c.SetWriteDeadline(time.Now().Add(stallTime)); err != nil {
		return err
	}
	_, err = x.c.Write(b)
	return err
}
