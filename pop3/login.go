package pop3

import (
	"context"
	"errors"
	"net"

	"github.com/kpopd/kpopd/authn"
)

// user takes any name, known or not (RFC 1939 section 7 allows that, and
// anything else would tell which names exist).
func (s *session) user(ctx context.Context, a args) error {
	if hasControl(a[0]) {
		return errControl
	}
	s.username = string(a[0])
	if !s.mayPass() {
		// the name is kept for the record of a PASS that follows all the same
		return s.notOffered(ctx, s.passMechanism(), errNotOffered)
	}
	return s.ok("Send PASS")
}

// mayPass reports whether USER and PASS are commands of this session.
func (s *session) mayPass() bool { return s.offered("USER") || s.offered("KPOP") }

// passMechanism is what USER and PASS would lead to.
func (s *session) passMechanism() string {
	if s.t.Peer != nil {
		return "KPOP"
	}
	return "USER"
}

// notOffered is the refusal of a mechanism that was not offered: in the words
// of the backend when it has some. What is a proof in the line is not read.
func (s *session) notOffered(ctx context.Context, mech string, otherwise error) error {
	err := s.srv.Backend.Refuse(ctx, s.t, mech)
	if err == nil {
		return otherwise
	}
	s.logLogin(ctx, mech, "", err)
	return err
}

// pass logs in. On a KPOP connection the ticket is the proof: what stands
// after PASS may be a password typed by habit, and nobody reads it.
func (s *session) pass(ctx context.Context, a args) error {
	name := s.username
	if !s.mayPass() {
		s.exposed(ctx, "USER", name, a)
		return errUserFirst
	}
	if name == "" {
		return errUserFirst
	}
	if s.offered("KPOP") {
		return s.login(ctx, "KPOP", name, []byte(name))
	}
	if len(a) == 0 {
		return errNoPassword
	}
	plain := make([]byte, 0, 2+len(name)+len(a[0])) // RFC 4616 section 2
	plain = append(plain, 0)
	plain = append(plain, name...)
	plain = append(plain, 0)
	plain = append(plain, a[0]...)
	defer clear(plain)
	return s.login(ctx, "USER", name, plain)
}

// exposed has it recorded when arguments that nobody will read have shown a
// password to the network: it should be changed.
func (s *session) exposed(ctx context.Context, mech, name string, a args) {
	if s.t.TLS == nil && len(a) > 0 && len(a[0]) > 1 { // "=" is an empty response
		s.srv.Backend.Exposed(ctx, s.t, mech, name)
	}
}

// rpop is PASS of KPOP clients that have kept the command of RFC 1081.
func (s *session) rpop(ctx context.Context, a args) error {
	if !s.offered("KPOP") {
		return errUnknownCommand
	}
	return s.pass(ctx, a)
}

func (s *session) apop(ctx context.Context, a args) error {
	if !s.offered("APOP") {
		return s.notOffered(ctx, "APOP", errNotOffered)
	}
	if hasControl(a[0]) {
		return errControl
	}
	response := make([]byte, 0, len(a[0])+1+len(a[1]))
	response = append(response, a[0]...)
	response = append(response, ' ')
	response = append(response, a[1]...)
	return s.login(ctx, "APOP", string(a[0]), response)
}

// login runs a mechanism that has a command of its own and one response.
func (s *session) login(ctx context.Context, mech, name string, response []byte) error {
	attempt, cancel := s.attempt(ctx)
	defer cancel()
	l, err := s.srv.Backend.Start(attempt, s.t, mech)
	if err == nil {
		err = finishLogin(attempt, l, mech, response)
	}
	if err != nil {
		s.logLogin(ctx, mech, name, err)
		return err
	}
	return s.enter(ctx, l, mech)
}

// finishLogin takes the one step of a mechanism with a command of its own.
func finishLogin(ctx context.Context, l *authn.Login, mech string, response []byte) error {
	challenge, done, err := l.Next(ctx, response)
	if err == nil && (!done || challenge != nil) {
		err = &authn.Error{Kind: authn.Internal, Step: mech, Err: errors.New("a command cannot carry a challenge")}
		l.Abort(ctx, err)
	}
	return err
}

// attempt counts a login and is the context of it. A drain does not cancel it, because its
// own deadline is near; a child of ctx would leave ctx larger for as long as
// the session lasts.
func (s *session) attempt(ctx context.Context) (context.Context, context.CancelFunc) {
	s.attempts++
	return context.WithDeadline(context.WithoutCancel(ctx), s.loginDeadline())
}

// enter opens the maildrop; only then does the session leave AUTHORIZATION.
// It opens under ctx, not under the attempt's deadline: the first look at a
// large maildrop may take its time.
func (s *session) enter(ctx context.Context, l *authn.Login, mech string) error {
	id := l.Identity()
	s.logLogin(ctx, mech, id.User, nil)
	settle, err := s.mayEnter(ctx, id)
	if err != nil {
		return err
	}
	drop, err := s.srv.Backend.Open(ctx, id)
	if err != nil {
		settle(false)
		s.logNotOpened(ctx, id.User, err)
		return err
	}
	s.identity, s.drop, s.state = id, drop, transaction
	s.username, s.bad = "", 0
	s.recount()
	s.okCounts()
	settle(true)
	if layer := l.Layer(); layer != nil {
		return s.wrap(layer)
	}
	return nil
}

// wrap puts a security layer on the connection, from the octet after +OK on
// (RFC 5034 section 4). What the client said before it is to be forgotten: that
// is the name given to USER, gone by now. What arrived after the last response
// is input of the layer.
func (s *session) wrap(layer func(net.Conn) net.Conn) error {
	if err := s.out.flush(); err != nil {
		return err
	}
	inner := s.conn
	if ahead := s.in.buffered(); len(ahead) > 0 {
		inner = &replay{Conn: s.conn, ahead: append([]byte(nil), ahead...)}
		s.in.r = s.in.w
	}
	s.conn = layer(inner)
	return nil
}

func hasControl(b []byte) bool {
	for _, c := range b {
		if c < 0x20 || c == 0x7f {
			return true
		}
	}
	return false
}
