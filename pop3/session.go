package pop3

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/maildrop"
)

const (
	maxBadBefore = 3  // refused commands before login
	maxBadAfter  = 20 // refused commands in a row after login
)

// discard is the log of servers without one.
var discard = slog.New(slog.DiscardHandler)

type session struct {
	srv  *Server
	base net.Conn // as accepted; deadlines set on it hold for all that wraps it
	conn net.Conn // base, or TLS or a security layer on it
	t    *authn.Transport
	log  *slog.Logger
	in   reader
	out  writer
	argv [maxArgs][]byte

	start   time.Time
	drainBy atomic.Int64 // UnixNano when a drain ends; 0 while none is on

	state    state
	why      Reason // of closing
	offers   []authn.Mechanism
	username string // from USER, until PASS
	bad      int    // refused commands
	failures int    // refused logins
	attempts int    // logins begun

	identity *authn.Identity
	drop     maildrop.Drop    // set in transaction
	listed   maildrop.Listing // of drop; nil until it is needed
	deleted  []bool           // by index; nil while nothing is
	count    int              // messages not deleted
	size     uint64           // octets of those
	gone     map[int]bool     // asked for and found to be gone, by index

	done SessionDone

	end     *ending // how the session ended
	cancel  context.CancelFunc
	unwatch func() bool // stops waiting for a drain
}

func newSession(srv *Server, c net.Conn, t *authn.Transport) *session {
	s := &session{
		srv: srv, base: c, conn: c, t: t, log: cmp.Or(srv.Log, discard),
		in:    reader{buf: make([]byte, idleBuffer)},
		start: time.Now(), state: authorization, why: Quit,
	}
	s.out.send = s.send
	return s
}

// run serves the session to its end and clears up. An idle session stands on
// this frame and those below it, so they hold no more than they must.
func (s *session) run(ctx context.Context) error {
	work := s.watch(ctx)
	s.end = &ending{reason: Panicked}
	defer s.cleanUp(ctx)
	s.end = s.loop(work)
	return s.leave()
}

// leave ends a session that has run out of commands.
func (s *session) leave() error {
	s.out.flush()
	err := s.releaseDrop() // before the client can see that the session is over
	s.hangUp(s.end.reason)
	if s.end.reason == Torn || s.end.reason == NoTLS {
		return errors.Join(s.end, err)
	}
	return err
}

// watch makes the session drain when ctx is cancelled. What it returns is the
// context to work under: a drain cancels it later.
func (s *session) watch(ctx context.Context) context.Context {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	s.unwatch = context.AfterFunc(ctx, func() { s.drain(cancel) })
	return work
}

// cleanUp runs also when a handler panics: the buffers that were borrowed are
// then lost to the pools, because something may still hold on to them, and
// with the panic on its way nobody is left to tell of the maildrop's error.
func (s *session) cleanUp(ctx context.Context) {
	defer s.finish(ctx, s.end)
	defer s.base.Close()
	s.unwatch()
	s.cancel()
	_ = s.releaseDrop()
}

// releaseDrop frees the maildrop and removes nothing: a session that ends
// without QUIT never enters the UPDATE state (RFC 1939 section 6).
func (s *session) releaseDrop() error {
	drop := s.drop
	if drop == nil {
		return nil
	}
	s.drop, s.listed = nil, nil
	return drop.Close()
}

// hangUp says goodbye to a client that may still be listening.
func (s *session) hangUp(why Reason) {
	if why == Refused || why == Mismatch {
		s.linger()
	}
	if s.conn != s.base && s.out.err == nil {
		s.conn.Close()
	}
}

// loop runs commands until the session ends.
func (s *session) loop(ctx context.Context) *ending {
	s.armRead(s.loginDeadline()) // the first write may be what makes the TLS handshake
	s.greet()
	for s.state != closing {
		var err error
		if len(s.in.buffered()) == 0 {
			s.in.makeRoom(idleBuffer)
			err = s.fill(ctx, s.readDeadline())
		}
		if err == nil {
			err = s.next(ctx)
		}
		if err == nil {
			continue
		}
		if end := (*ending)(nil); errors.As(err, &end) {
			return end
		}
		s.refuse(ctx, err)
	}
	return &ending{reason: s.why}
}

// greet sends the greeting. It has a timestamp only where somebody will use
// it: RFC 2449 section 3 has no other use for "<".
func (s *session) greet() {
	s.t.Stamp = stamp(s.srv.Hostname)
	s.offers = s.srv.Backend.Mechanisms(s.t)
	s.out.str("+OK kpopd ready")
	if slices.ContainsFunc(s.offers, func(m authn.Mechanism) bool { return m.Traits()&authn.NeedsStamp != 0 }) {
		s.out.str(" ")
		s.out.str(s.t.Stamp)
	} else {
		s.t.Stamp = ""
	}
	s.out.str("\r\n")
}

// stamp makes an APOP timestamp that nobody can guess. It has digits only
// before the "@": some clients take nothing else.
func stamp(host string) string {
	var r [16]byte
	rand.Read(r[:])
	b := make([]byte, 0, 64)
	b = append(b, '<')
	b = strconv.AppendUint(b, binary.NativeEndian.Uint64(r[:8]), 10)
	b = append(b, '.')
	b = strconv.AppendUint(b, binary.NativeEndian.Uint64(r[8:]), 10)
	b = append(b, '@')
	b = append(b, cmp.Or(host, "localhost")...)
	return string(append(b, '>'))
}

// next reads and runs one command. Its error is what the client hears.
func (s *session) next(ctx context.Context) error {
	var line []byte
	var err error
	if s.done.Commands == 0 {
		line, err = s.firstLine(ctx)
	} else {
		line, err = s.readLine(ctx, s.commandLimit)
	}
	s.done.Commands++
	if err != nil {
		return err
	}
	return s.dispatch(ctx, line)
}

// dispatch runs the command on line.
func (s *session) dispatch(ctx context.Context, line []byte) error {
	name, text, spaced := bytes.Cut(line, []byte{' '})
	cmd := lookup(name)
	if cmd != nil && cmd.flags&sdps != 0 && !s.srv.Envelopes {
		cmd = nil
	}
	if cmd == nil || cmd.flags&(keepUser|password) == 0 {
		s.username = ""
	}
	if cmd == nil {
		return errUnknownCommand
	}
	a, err := s.check(cmd, text, spaced)
	ran := err == nil
	if ran {
		s.logCommand(ctx, cmd, text)
		err = cmd.run(s, ctx, a)
	}
	if cmd.flags&password != 0 {
		s.username = ""
	}
	if cmd.flags&secret != 0 && !(ran && cmd.flags&reads != 0) {
		clear(text)
	}
	if err == nil && s.state == transaction {
		s.bad = 0
	}
	return err
}

// check does what does not need the handler of cmd.
func (s *session) check(cmd *command, text []byte, spaced bool) (args, error) {
	if bytes.IndexByte(text, 0) >= 0 {
		return nil, errNUL
	}
	if cmd.in&s.state == 0 {
		return nil, wrongState(cmd.name)
	}
	return cmd.parseArgs(text, spaced, &s.argv)
}

// refuse tells the client of err, and ends the session after too many.
func (s *session) refuse(ctx context.Context, err error) {
	s.out.str("-ERR ")
	s.out.str(reply(err))
	s.out.str("\r\n")
	s.logRefusal(ctx, err)
	var pe protocolError
	var ae *authn.Error
	switch {
	case errors.As(err, &pe):
		s.bad++
	case errors.As(err, &ae):
		switch ae.Kind {
		case authn.UnknownUser, authn.Rejected, authn.Denied, authn.Expired, authn.Malformed:
			s.failures++
		case authn.Cancelled:
			s.bad++
		case authn.Throttled:
			s.close(Refused)
		}
	}
	limit := maxBadAfter
	if s.state == authorization {
		limit = maxBadBefore
	}
	tooMany := s.bad >= limit || s.failures >= s.srv.maxFailures() || s.attempts >= s.srv.maxAttempts()
	if s.state != closing && tooMany {
		s.close(Refused)
	}
}

// close ends the session after the reply that is being made.
func (s *session) close(why Reason) { s.state, s.why = closing, why }

// ok sends a reply of one line. text may be empty.
func (s *session) ok(text string) error {
	s.out.str("+OK")
	if text != "" {
		s.out.str(" ")
		s.out.str(text)
	}
	s.out.str("\r\n")
	return nil
}

// okNumber sends a reply of one line that starts with a number.
func (s *session) okNumber(n uint64, text string) error {
	s.out.str("+OK ")
	s.out.num(n)
	s.out.str(text)
	s.out.str("\r\n")
	return nil
}

// offered reports whether the client may log in by the mechanism name.
func (s *session) offered(name string) bool { return s.mechanism(name) != nil }

func (s *session) mechanism(name string) authn.Mechanism {
	for _, m := range s.offers {
		if m.Name() == name {
			return m
		}
	}
	return nil
}

// past is a deadline that has gone by.
var past = time.Unix(1, 0)

// readDeadline is when to give up on the next line: a fixed time for all of
// AUTHORIZATION, so that one octet a minute does not hold a connection, and an
// autologout timer that each command restarts after it (RFC 1939 section 3).
func (s *session) readDeadline() time.Time {
	if s.state == authorization {
		return s.loginDeadline()
	}
	return time.Now().Add(s.srv.idleTimeout())
}

func (s *session) loginDeadline() time.Time { return s.start.Add(s.srv.loginTimeout()) }

// armRead sets the read deadline. Whichever of it and drain comes second
// leaves the connection expired.
func (s *session) armRead(d time.Time) {
	s.base.SetReadDeadline(d)
	if s.drainBy.Load() != 0 {
		s.base.SetReadDeadline(past)
	}
}

// armWrite sets the write deadline, no later than the end of a drain.
func (s *session) armWrite(d time.Time) {
	s.base.SetWriteDeadline(d)
	if by := s.drainBy.Load(); by != 0 && by < d.UnixNano() {
		s.base.SetWriteDeadline(time.Unix(0, by))
	}
}

// drain takes no further input and bounds the output that is left. It runs on
// a goroutine of its own, once.
func (s *session) drain(cancel context.CancelFunc) {
	by := time.Now().Add(s.srv.drainTimeout())
	s.drainBy.Store(by.UnixNano())
	s.base.SetReadDeadline(past)
	s.base.SetWriteDeadline(by)
	time.AfterFunc(s.srv.drainTimeout(), cancel)
}

// send writes p, at most bodyBuffer octets. A client that does not take them
// in time is cut: at the default that is one that takes less than a kibibyte
// a second for a minute.
func (s *session) send(p []byte) error {
	s.armWrite(time.Now().Add(s.srv.writeTimeout()))
	n, err := s.conn.Write(p)
	s.done.Octets += int64(n)
	switch {
	case err == nil:
		return nil
	case s.drainBy.Load() != 0:
		return &ending{Drained, err}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &ending{SlowReader, err}
	default:
		return &ending{Hangup, err}
	}
}

const (
	lingerTime   = time.Second
	lingerOctets = 1 << 20
)

// linger takes what the client is still sending, for a moment: closing with
// unread input resets the connection, and the reset can overtake the reply.
func (s *session) linger() {
	c, ok := s.conn.(interface{ CloseWrite() error })
	if !ok || c.CloseWrite() != nil {
		return
	}
	s.armRead(time.Now().Add(lingerTime))
	for n := 0; n < lingerOctets; {
		m, err := s.conn.Read(s.in.buf)
		if err != nil {
			return
		}
		n += m
	}
}
