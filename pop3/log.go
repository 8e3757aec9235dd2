package pop3

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/maildrop"
)

const (
	maxLoggedName  = 128  // octets of what a client sent, escaped
	maxLoggedError = 2048 // octets of an error, escaped; room for a stack
)

// attrs are the attributes of every line about this session. They are put
// together when a line is written: an idle session keeps none.
func (s *session) attrs(more ...any) []any {
	a := []any{
		slog.String("session", s.t.Session),
		slog.String("listener", s.t.Listener),
		slog.String("remote", s.t.Remote.String()),
	}
	if s.identity != nil {
		a = append(a, slog.String("user", printable(s.identity.User, maxLoggedName)), slog.String("mechanism", s.identity.Mechanism))
		if v := s.identity.View.String(); v != "" {
			a = append(a, slog.String("view", printable(v, maxLoggedName)))
		}
	}
	return append(a, more...)
}

func errAttr(err error) slog.Attr {
	return slog.String("err", printable(err.Error(), maxLoggedError))
}

func (s *session) logCommand(ctx context.Context, c *command, text []byte) {
	if !s.log.Enabled(ctx, slog.LevelDebug) {
		return
	}
	shown := "***"
	if c.flags&secret == 0 {
		shown = printable(string(text), maxLoggedName)
	}
	s.log.DebugContext(ctx, "command", s.attrs(slog.String("name", c.name), slog.String("args", shown))...)
}

// logLogin writes the one line of a login attempt. name is as claimed, "" when
// only the mechanism knows it.
func (s *session) logLogin(ctx context.Context, mech, name string, err error) {
	level, msg := slog.LevelInfo, "login accepted"
	if err != nil {
		level, msg = loginLevel(err), "login refused"
	}
	if s.srv.LoginsTraced || !s.log.Enabled(ctx, level) {
		return
	}
	a := s.attrs(slog.String("mechanism", mech))
	if state := s.t.TLS; state != nil { // RFC 8314 wants these logged with each login
		a = append(a, slog.String("tls", tls.VersionName(state.Version)),
			slog.String("cipher", tls.CipherSuiteName(state.CipherSuite)),
			slog.String("sni", printable(state.ServerName, maxLoggedName)))
	}
	if name != "" {
		a = append(a, slog.String("user", printable(name, maxLoggedName)))
	}
	if err != nil {
		a = append(a, slog.String("kind", kindOf(err).String()), errAttr(err))
	}
	s.log.Log(ctx, level, msg, a...)
}

// logNotOpened writes of a login that was good and a maildrop that was not.
func (s *session) logNotOpened(ctx context.Context, user string, err error) {
	level := slog.LevelError
	if errors.Is(err, maildrop.ErrInUse) || errors.Is(err, maildrop.ErrNoFolder) {
		level = slog.LevelInfo
	}
	s.log.Log(ctx, level, "maildrop not opened", s.attrs(slog.String("user", printable(user, maxLoggedName)), errAttr(err))...)
}

// loginLevel: a refusal is daily business, an outage is for somebody to look
// at, a bug for somebody to mend.
func loginLevel(err error) slog.Level {
	switch kindOf(err) {
	case authn.Unavailable:
		return slog.LevelWarn
	case authn.Internal, authn.Decline:
		return slog.LevelError
	default:
		return slog.LevelInfo
	}
}

func (s *session) logRefusal(ctx context.Context, err error) {
	if s.log.Enabled(ctx, slog.LevelDebug) {
		s.log.DebugContext(ctx, "refused", s.attrs(errAttr(err))...)
	}
}

// finish writes the one line of the session and tells the trace.
func (s *session) finish(ctx context.Context, end *ending) {
	d := &s.done
	d.Transport, d.Identity = s.t, s.identity
	d.Reason, d.Err, d.Duration = end.reason, end.err, time.Since(s.start)
	if level := endLevel(end.reason); s.log.Enabled(ctx, level) {
		a := s.attrs(
			slog.String("reason", string(d.Reason)), slog.Int("commands", d.Commands),
			slog.Int("retrieved", d.Retrieved), slog.Int("deleted", d.Deleted),
			slog.Int64("octets", d.Octets), slog.Duration("duration", d.Duration),
		)
		if d.Err != nil {
			a = append(a, errAttr(d.Err))
		}
		s.log.Log(ctx, level, "session ended", a...)
	}
	if tr := s.srv.Trace; tr != nil && tr.Session != nil {
		done := *d // the session's memory goes, the record may stay
		tr.Session(ctx, &done)
	}
}

func endLevel(r Reason) slog.Level {
	switch r {
	case Torn, Panicked:
		return slog.LevelError
	case Mismatch, NoTLS, SlowReader:
		return slog.LevelWarn
	default:
		return slog.LevelInfo
	}
}

// printable is text with everything but printable ASCII escaped, cut at limit
// octets: no client can break a log line or a reply.
func printable(text string, limit int) string {
	cut := text[:min(len(text), limit)]
	if strings.ContainsFunc(cut, func(r rune) bool { return r < 0x20 || r > 0x7e }) {
		q := strconv.QuoteToASCII(cut)
		cut = q[1 : len(q)-1]
		cut = cut[:min(len(cut), limit)]
	}
	if len(text) > limit {
		return cut + "..."
	}
	return cut
}
