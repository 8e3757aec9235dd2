package pop3

import (
	"context"
	"errors"
)

// stls puts TLS on the connection (RFC 2595 section 4). What the client said
// before, in clear, is forgotten: somebody else may have said it. The identity
// from a KPOP ticket stays: it belongs to the connection.
func (s *session) stls(ctx context.Context, _ args) error {
	switch {
	case s.srv.StartTLS == nil:
		return errNotOffered
	case s.t.TLS != nil:
		return errTLSActive
	case len(s.in.buffered()) > 0:
		// Sent before the client could know that TLS would start: either it
		// was put there by someone else, or it is to be taken as such.
		s.log.WarnContext(ctx, "data after STLS", s.attrs()...)
		s.close(Refused)
		return errInjected
	}
	s.ok("Begin TLS")
	if err := s.out.flush(); err != nil {
		return err
	}
	return s.startTLS(ctx)
}

// startTLS makes the handshake. There is no way back to clear text.
func (s *session) startTLS(ctx context.Context) error {
	by := s.loginDeadline()
	ctx, cancel := context.WithDeadline(ctx, by)
	defer cancel()
	s.armWrite(by)
	s.armRead(by)
	t := *s.t // login attempts made so far keep the one they saw
	tc, err := s.srv.StartTLS(ctx, s.conn, &t)
	if err != nil && s.drainBy.Load() != 0 {
		return &ending{Drained, err}
	}
	if err != nil {
		return &ending{NoTLS, err}
	}
	if tc == nil || t.TLS == nil {
		return &ending{NoTLS, errors.New("no TLS connection")}
	}
	s.conn, s.t, s.username = tc, &t, ""
	s.offers = s.srv.Backend.Mechanisms(s.t)
	return nil
}
