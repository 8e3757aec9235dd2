package remote

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/krb5"
	"github.com/kpopd/kpopd/authn/scram"
)

// maxTravel is how much earlier the helper's time is up, so that its answer, which
// says which step was slow, comes in time.
const maxTravel = 100 * time.Millisecond

// defaultTimeout is for an answer, and for a connection.
const defaultTimeout = 10 * time.Second

// Options say where the helper is and what it is for.
type Options struct {
	Socket  string        // path
	Judges  []Proof       // what the helper is asked about; a chain passes over it for anything else
	Timeout time.Duration // for an answer, when the attempt's own deadline is not sooner; 10 s when zero
}

// Client is the front's side: a verifier that has the helper's chain judge, and
// an acceptor of tickets. It connects when it is first asked, and again whenever
// the connection broke.
type Client struct {
	name string
	o    Options

	ctx   context.Context // ended by Close
	close context.CancelFunc
	wg    sync.WaitGroup

	mu     sync.Mutex
	link   *link                  // nil, or the last one, which may be broken
	dial   *dial                  // nil unless one is under way
	shapes map[string]scram.Shape // by scheme, as the helper told last
}

var (
	_ authn.PasswordVerifier = (*Client)(nil)
	_ authn.SecretSource     = (*Client)(nil)
	_ scram.Surveyor         = (*Client)(nil)
	_ authn.PrincipalMapper  = (*Client)(nil)
	_ authn.Relay            = (*Client)(nil)
	_ authn.UserFinder       = finder{}
	_ authn.Relay            = finder{}
	_ Acceptor               = (*Client)(nil)
)

// New makes a client; name is the chain step's. It does not connect.
func New(name string, o Options) *Client {
	o.Timeout = cmp.Or(o.Timeout, defaultTimeout)
	c := &Client{name: name, o: o, shapes: map[string]scram.Shape{}}
	c.ctx, c.close = context.WithCancel(context.Background())
	return c
}

// Close ends the connection. Who waits for an answer is told of an outage.
func (c *Client) Close() error {
	c.close()
	c.wg.Wait()
	return nil
}

// Name implements [authn.Verifier].
func (c *Client) Name() string { return c.name }

// Relays implements [authn.Relay].
func (*Client) Relays() {}

// Verifier is c for a chain: an [authn.UserFinder] too when the helper tells of
// users. Who acts for another could not if he were looked for in vain.
func (c *Client) Verifier() authn.Verifier {
	if slices.Contains(c.o.Judges, Users) {
		return finder{c}
	}
	return c
}

// finder is a Client whose helper tells of users.
type finder struct{ *Client }

// FindUser implements [authn.UserFinder].
func (f finder) FindUser(ctx context.Context, login string) (*authn.Identity, error) {
	id, secret, err := f.ask(ctx, Users, &message{Op: opFind, Login: []byte(login)}, nil)
	clear(secret)
	return id, err
}

// Ask connects and returns what the helper says that it can judge.
func (c *Client) Ask(ctx context.Context) ([]Proof, error) {
	l, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	return l.judges, nil
}

// VerifyPassword implements [authn.PasswordVerifier].
func (c *Client) VerifyPassword(ctx context.Context, r *authn.PasswordRequest) (*authn.Identity, error) {
	id, secret, err := c.ask(ctx, Passwords, &message{
		Op: opPassword, Transport: transportOf(r.Transport), Mechanism: r.Mechanism, Login: []byte(r.Login),
	}, r.Password)
	clear(secret)
	return id, err
}

// Secret implements [authn.SecretSource].
func (c *Client) Secret(ctx context.Context, login, scheme string) (authn.Password, *authn.Identity, error) {
	id, secret, err := c.ask(ctx, Secrets, &message{Op: opSecret, Login: []byte(login), Scheme: scheme}, nil)
	if err != nil {
		clear(secret)
		return nil, nil, err
	}
	return secret, id, nil
}

// KeyShape implements [scram.Surveyor] with what came with the last answer about
// a secret.
func (c *Client) KeyShape(scheme string) (s scram.Shape, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok = c.shapes[scheme]
	return s, ok
}

// learn takes what an answer about a secret tells of the keys of its scheme.
func (c *Client) learn(scheme string, s *shape) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s == nil || s.Iterations < scram.MinIterations || s.Iterations > scram.MaxIterations || s.Salt < 1 || s.Salt > scram.MaxSalt {
		delete(c.shapes, scheme)
		return
	}
	c.shapes[scheme] = scram.Shape{Iterations: s.Iterations, Salt: s.Salt}
}

// MapPrincipal implements [authn.PrincipalMapper].
func (c *Client) MapPrincipal(ctx context.Context, p *authn.Principal, authzid string) (*authn.Identity, error) {
	id, secret, err := c.ask(ctx, Principals, &message{Op: opPrincipal, Principal: principalOf(p), Authzid: []byte(authzid)}, nil)
	clear(secret)
	return id, err
}

// ask has the helper's chain judge, and traces its steps as if they were here.
func (c *Client) ask(ctx context.Context, proof Proof, m *message, payload []byte) (*authn.Identity, []byte, error) {
	if !slices.Contains(c.o.Judges, proof) {
		authn.TraceRelayed(ctx, nil) // a step that cannot judge is passed over without a word
		return nil, nil, &authn.Error{Kind: authn.Decline, Step: c.name}
	}
	if m.Transport == nil {
		m.Transport = transportOf(authn.TransportOf(ctx)) // for the guards of the helper's chain
	}
	a, secret, err := c.call(ctx, m, payload, nil)
	if err != nil {
		return nil, nil, c.outage(err)
	}
	if f := a.Failure; f != nil && f.Helper {
		return nil, secret, &authn.Error{Kind: kindNamed(f.Kind), Step: c.name, Err: f.restore()}
	}
	authn.TraceRelayed(ctx, restoreSteps(a.Steps))
	if m.Op == opSecret {
		c.learn(m.Scheme, a.Shape)
	}
	if err := a.Failure.restore(); err != nil {
		return nil, secret, err
	}
	return a.Identity.restore(), secret, nil
}

func (c *Client) outage(err error) error {
	return &authn.Error{Kind: authn.Unavailable, Step: c.name, Err: err}
}

// Accept is [krb5.Acceptor.Accept] with the helper's keytab and replay cache.
// o.Check runs here, in the caller's goroutine.
func (c *Client) Accept(ctx context.Context, apReq []byte, o krb5.Options) (*krb5.Context, error) {
	var accepted *krb5.Context
	check := func(m *message, keys []byte) (err error) {
		if accepted, err = m.Context.restore(keys); err == nil && o.Check != nil {
			err = o.Check(accepted)
		}
		return err
	}
	a, _, err := c.call(ctx, &message{Op: opAccept, Remote: o.Remote}, apReq[:min(len(apReq), maxPayload)], check)
	switch {
	case err != nil:
		return nil, noTickets(authn.Unavailable, err)
	case a.Failure != nil && a.Failure.Helper:
		return nil, noTickets(kindNamed(a.Failure.Kind), a.Failure.restore())
	case a.Failure != nil:
		return nil, a.Failure.restore()
	case accepted == nil:
		return nil, noTickets(authn.Internal, errContext)
	}
	return accepted, nil
}

func noTickets(kind authn.Kind, err error) error {
	return &krb5.Error{Code: krb5.CodeGeneric, Text: "This server cannot check tickets now, try later", Kind: kind, Err: err}
}

// call sends a request and waits for its answer. check judges what the helper
// asks on the way.
func (c *Client) call(ctx context.Context, m *message, payload []byte, check func(*message, []byte) error) (*message, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	l, id, replies, err := c.start(ctx, m, payload)
	if err != nil {
		return nil, nil, err
	}
	defer l.forget(id)
	for {
		r, err := l.wait(ctx, replies)
		switch {
		case err != nil:
			l.abandon(id)
			return nil, nil, err
		case r.m.Op == opAnswer:
			return r.m, r.payload, nil
		case check == nil || r.m.Op != opCheck:
			clear(r.payload)
			return nil, nil, fmt.Errorf("the helper answers with %.20q", r.m.Op)
		}
		verdict := check(r.m, r.payload)
		clear(r.payload)
		if err := l.write(ctx, &message{Op: opVerdict, ID: id, Failure: failureOf(verdict)}, nil); err != nil {
			return nil, nil, err
		}
	}
}

// start sends a request. Once more when its frame did not go out whole: the
// helper was started anew since the last one.
func (c *Client) start(ctx context.Context, m *message, payload []byte) (*link, uint64, chan reply, error) {
	for first := true; ; first = false {
		l, err := c.connect(ctx)
		if err != nil {
			return nil, 0, nil, err
		}
		id, replies := l.remember()
		m.ID = id
		if d, ok := ctx.Deadline(); ok {
			left := time.Until(d)
			m.Left = max(left-min(left/16, maxTravel), 1)
		}
		if err = l.write(ctx, m, payload); err == nil {
			return l, id, replies, nil
		}
		l.forget(id)
		if !first || !l.broken() {
			return nil, 0, nil, err
		}
	}
}

// dial is a connection being made, for all who wait for it.
type dial struct {
	done chan struct{}
	link *link
	err  error
}

// connect returns the connection, a new one when the last broke.
func (c *Client) connect(ctx context.Context) (*link, error) {
	c.mu.Lock()
	if c.link != nil && !c.link.broken() {
		defer c.mu.Unlock()
		return c.link, nil
	}
	if c.ctx.Err() != nil {
		c.mu.Unlock()
		return nil, net.ErrClosed
	}
	d := c.dial
	if d == nil {
		d = &dial{done: make(chan struct{})}
		c.dial = d
		c.wg.Go(func() { c.open(d) }) // ended by its deadline or Close
	}
	c.mu.Unlock()
	select {
	case <-d.done:
		return d.link, d.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// open makes a connection and, when it is good, keeps reading it.
func (c *Client) open(d *dial) {
	ctx, cancel := context.WithTimeout(c.ctx, c.o.Timeout)
	defer cancel()
	d.link, d.err = hello(ctx, c.o.Socket)
	c.mu.Lock()
	c.dial = nil
	if d.err == nil {
		c.link = d.link
	}
	c.mu.Unlock()
	close(d.done)
	if d.err == nil {
		stop := context.AfterFunc(c.ctx, func() { d.link.fail(net.ErrClosed) })
		defer stop()
		d.link.read()
	}
}
