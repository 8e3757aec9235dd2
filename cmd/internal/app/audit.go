package app

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/external"
)

// Octets of a name and of an error in a log line.
const (
	maxName  = 128
	maxError = 2048
)

// mostAttrs is more than the line of a login mostly has.
const mostAttrs = 32

// attemptLog writes one line for each login attempt, refused or not, with all
// that is known of it. What a client sent is bounded; slog escapes it. Panics of
// mechanisms and verifiers are added to panics.
func attemptLog(log *slog.Logger, panics *atomic.Int64) *authn.Trace {
	return &authn.Trace{
		Attempt: func(ctx context.Context, a *authn.Attempt) {
			var e *authn.Error
			if errors.As(a.Err, &e) && isPanic(e.Err) { // that of a step is counted there
				panics.Add(1)
			}
			kind, level := "accepted", slog.LevelInfo
			if a.Err != nil {
				kind, level = authn.KindOf(a.Err).String(), levelOf(a.Err)
			}
			msg := "login"
			if a.Exposed { // somebody should tell the user to change it
				msg, level = "password exposed", slog.LevelWarn
			}
			if !log.Enabled(ctx, level) {
				return
			}
			attrs := make([]slog.Attr, 0, mostAttrs)
			attrs = append(
				attrs,
				slog.String("kind", kind),
				slog.String("session", a.Transport.Session), slog.String("listener", a.Transport.Listener),
				slog.String("remote", a.Transport.Remote.String()),
				slog.String("policy", a.Policy), slog.String("mechanism", bounded(a.Mechanism, maxName)),
				slog.String("login", bounded(a.Login, maxName)),
			)
			attrs = appendIdentity(attrs, a.Identity)
			if v := a.View.String(); v != "" {
				attrs = append(attrs, slog.String("view", bounded(v, maxName)))
			}
			attrs = appendTicket(attrs, a.Principal)
			attrs = appendTLS(attrs, a.Transport.TLS)
			attrs = append(attrs, certificateAttrs(a.Transport.Client)...)
			attrs = appendPolicy(attrs, a)
			if a.Layer {
				attrs = append(attrs, slog.Bool("layer", true))
			}
			if a.Note != "" {
				attrs = append(attrs, slog.String("note", a.Note))
			}
			attrs = append(attrs, slog.Duration("duration", a.Duration))
			if a.Err != nil {
				attrs = append(attrs, slog.String("err", bounded(a.Err.Error(), maxError)))
			}
			log.LogAttrs(ctx, level, msg, attrs...)
		},
		Step: func(ctx context.Context, s *authn.StepDone) {
			var p *authn.PanicError
			if errors.As(s.Err, &p) {
				panics.Add(1)
			}
			logStep(ctx, log, s)
		},
	}
}

func isPanic(err error) bool {
	_, ok := err.(*authn.PanicError)
	return ok
}

// logStep tells of a step that was down also when a later one vouched, or
// nobody would learn of it.
func logStep(ctx context.Context, log *slog.Logger, s *authn.StepDone) {
	outcome, level := "vouched", slog.LevelDebug
	if s.Err != nil {
		outcome = authn.KindOf(s.Err).String()
		if l := levelOf(s.Err); l > slog.LevelInfo {
			level = l
		}
	}
	if !log.Enabled(ctx, level) {
		return
	}
	attrs := []slog.Attr{slog.String("step", s.Step), slog.String("outcome", outcome), slog.Duration("duration", s.Duration)}
	if s.Err != nil {
		attrs = append(attrs, slog.String("err", bounded(s.Err.Error(), maxError)))
	}
	log.LogAttrs(ctx, level, "step", attrs...)
}

// levelOf: a refusal is daily business, an outage is for somebody to look at,
// a bug for somebody to mend.
func levelOf(err error) slog.Level {
	switch authn.KindOf(err) {
	case authn.Unavailable:
		return slog.LevelWarn
	case authn.Internal:
		return slog.LevelError
	default:
		return slog.LevelInfo
	}
}

func appendIdentity(attrs []slog.Attr, id *authn.Identity) []slog.Attr {
	if id == nil {
		return attrs
	}
	return append(attrs, slog.String("user", bounded(id.User, maxName)), slog.String("step", id.Step))
}

// appendPolicy tells of the rules that had to do with an attempt, and of who acted
// for whom.
func appendPolicy(attrs []slog.Attr, a *authn.Attempt) []slog.Attr {
	if a.For != "" {
		attrs = append(attrs, slog.String("acting_for", bounded(a.For, maxName)))
		if a.Identity != nil {
			attrs = append(attrs, slog.String("actor", bounded(a.Identity.Authn, maxName)))
		}
	}
	rule := func(key string, r *authn.Rule) {
		if r != nil {
			attrs = append(attrs, slog.String(key, r.Source))
		}
	}
	rule("act_rule", a.Act)
	if rule("rule", a.Rule); a.Rule != nil {
		attrs = append(attrs, slog.String("action", a.Rule.Action.String()))
	}
	if rule("sunset_rule", a.Sunset); a.Sunset != nil {
		attrs = append(attrs, slog.Time("sunset", a.Sunset.Sunset.Date))
	}
	if d := a.Shadow; d != nil {
		attrs = append(attrs, slog.String("shadow", d.Policy), slog.String("shadow_action", d.Action.String()))
		rule("shadow_rule", d.Rule)
		if d.Reason != nil {
			attrs = append(attrs, slog.String("shadow_reason", d.Reason.Error()))
		}
	}
	return attrs
}

func appendTicket(attrs []slog.Attr, p *authn.Principal) []slog.Attr {
	if p == nil {
		return attrs
	}
	attrs = append(attrs, slog.String("principal", bounded(p.String(), maxName)), slog.String("realm", bounded(p.Realm, maxName)))
	if t := p.Ticket; t != nil {
		attrs = append(attrs,
			slog.String("service", bounded(t.Service, maxName)), slog.String("enctype", t.Enctype),
			slog.String("session_enctype", t.SessionEnctype), slog.Int("kvno", t.KVNO),
			slog.Duration("lifetime", t.End.Sub(t.Start).Round(time.Second)))
	}
	return attrs
}

// appendTLS tells version, cipher and server name (RFC 8314 section 4.4).
func appendTLS(attrs []slog.Attr, s *tls.ConnectionState) []slog.Attr {
	if s == nil {
		return append(attrs, slog.String("tls", "none"))
	}
	return append(
		attrs,
		slog.String("tls", tls.VersionName(s.Version)), slog.String("cipher", cipherName(s.CipherSuite)),
		slog.String("sni", bounded(s.ServerName, maxName)),
	)
}

// cipherName is [tls.CipherSuiteName], which makes lists of all suites each time
// that it is asked, with those of TLS 1.3 at hand.
func cipherName(id uint16) string {
	switch id {
	case tls.TLS_AES_128_GCM_SHA256:
		return "TLS_AES_128_GCM_SHA256"
	case tls.TLS_AES_256_GCM_SHA384:
		return "TLS_AES_256_GCM_SHA384"
	case tls.TLS_CHACHA20_POLY1305_SHA256:
		return "TLS_CHACHA20_POLY1305_SHA256"
	}
	return tls.CipherSuiteName(id)
}

// certificateAttrs name a client certificate as a map file can.
func certificateAttrs(c *authn.Certificate) []slog.Attr {
	if c == nil {
		return nil
	}
	sum := sha256.Sum256(c.Leaf.Raw)
	return []slog.Attr{
		slog.String("certificate", bounded(external.DN(c.Leaf.RawSubject), maxName)), slog.String("sha256", hex.EncodeToString(sum[:])),
	}
}

// bounded cuts text so that no client can fill the log.
func bounded(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	return text[:limit] + "..."
}
