package app

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/plain"
)

func told(a *authn.Attempt, level slog.Level) string {
	var b bytes.Buffer
	if a.Transport == nil {
		a.Transport = &authn.Transport{Session: "s1", Listener: "pop3", Remote: netip.MustParseAddrPort("192.0.2.7:4711")}
	}
	attemptLog(plainLog(&b, level), new(atomic.Int64)).Attempt(nil, a)
	return b.String()
}

// plainLog writes lines without the time.
func plainLog(w io.Writer, level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

// The one line of a login says all that is known of it.
func TestAttemptLine(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 10, 5, 9, 0, 0, 0, time.UTC)
	principal := &authn.Principal{Components: []string{"alice"}, Realm: "DEMO.TEST", Ticket: &authn.Ticket{
		Service: "pop/localhost@DEMO.TEST", Enctype: "aes256-cts-hmac-sha384-192", SessionEnctype: "aes128-cts-hmac-sha1-96",
		KVNO: 3, Start: start, End: start.Add(10 * time.Hour),
	}}
	for _, c := range []struct {
		name    string
		attempt authn.Attempt
		want    string
	}{
		{
			"accepted with a ticket inside TLS",
			authn.Attempt{
				Policy: "internet", Mechanism: "GSSAPI", Login: "alice", Principal: principal, Layer: true, Duration: time.Millisecond,
				Identity: &authn.Identity{User: "alice", Step: "tickets"},
				Transport: &authn.Transport{
					Session: "s1", Listener: "pop3", Remote: netip.MustParseAddrPort("[2001:db8::1]:4711"),
					TLS: &tls.ConnectionState{Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_128_GCM_SHA256, ServerName: "localhost"},
				},
			},
			`level=INFO msg=login kind=accepted session=s1 listener=pop3 remote=[2001:db8::1]:4711 policy=internet mechanism=GSSAPI login=alice ` +
				`user=alice step=tickets principal=alice@DEMO.TEST realm=DEMO.TEST service=pop/localhost@DEMO.TEST ` +
				`enctype=aes256-cts-hmac-sha384-192 session_enctype=aes128-cts-hmac-sha1-96 kvno=3 lifetime=10h0m0s ` +
				`tls="TLS 1.3" cipher=TLS_AES_128_GCM_SHA256 sni=localhost layer=true duration=1ms` + "\n",
		},
		{
			"refused",
			authn.Attempt{Policy: "p", Mechanism: "PLAIN", Login: "alice", Err: &authn.Error{Kind: authn.Rejected, Step: "local"}},
			`level=INFO msg=login kind=rejected session=s1 listener=pop3 remote=192.0.2.7:4711 policy=p mechanism=PLAIN login=alice tls=none duration=0s err="local: rejected"` + "\n",
		},
		{
			"for another, by a rule, before a sunset, and not so by the shadow",
			authn.Attempt{
				Policy: "p", Mechanism: "PLAIN", Login: "backup", For: "alice",
				Identity: &authn.Identity{User: "alice", Authn: "backup", Step: "local"},
				Rule:     &authn.Rule{Source: "k.yaml:3", Action: authn.Warn}, Act: &authn.Rule{Source: "k.yaml:9"},
				Sunset: &authn.Rule{Source: "k.yaml:2", Sunset: &authn.Sunset{Date: start}},
				Shadow: &authn.Difference{Policy: "s", Action: authn.Deny, Rule: &authn.Rule{Source: "k.yaml:20"}, Reason: errors.New("no")},
			},
			`level=INFO msg=login kind=accepted session=s1 listener=pop3 remote=192.0.2.7:4711 policy=p mechanism=PLAIN login=backup user=alice step=local tls=none ` +
				`acting_for=alice actor=backup act_rule=k.yaml:9 rule=k.yaml:3 action=warn sunset_rule=k.yaml:2 sunset=2026-10-05T09:00:00.000Z ` +
				`shadow=s shadow_action=deny shadow_rule=k.yaml:20 shadow_reason=no duration=0s` + "\n",
		},
		{
			"an outage is a warning",
			authn.Attempt{Policy: "p", Mechanism: "PLAIN", Err: &authn.Error{Kind: authn.Unavailable, Step: "local", Err: errors.New("down")}},
			`level=WARN msg=login kind=unavailable session=s1 listener=pop3 remote=192.0.2.7:4711 policy=p mechanism=PLAIN login="" tls=none duration=0s err="local: unavailable: down"` + "\n",
		},
		{
			"an error that nobody classified is an error",
			authn.Attempt{Policy: "p", Mechanism: "PLAIN", Err: errors.New("boom")},
			`level=ERROR msg=login kind=internal session=s1 listener=pop3 remote=192.0.2.7:4711 policy=p mechanism=PLAIN login="" tls=none duration=0s err=boom` + "\n",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got := told(&c.attempt, slog.LevelInfo); got != c.want {
				t.Errorf("got  %swant %s", got, c.want)
			}
		})
	}
}

// S-32: one line for any octets, and not a long one.
func TestRule185_OneBoundedLine(t *testing.T) {
	t.Parallel()
	for _, login := range []string{
		"a\r\nlevel=ERROR msg=forged", "\x1b[31mred", "\xff\xfe", strings.Repeat("x", 100_000), strings.Repeat("\xff", 100_000), "user=\"root\" kind=accepted",
	} {
		got := told(&authn.Attempt{Mechanism: login, Login: login, Err: &authn.Error{Kind: authn.Rejected, Step: "local", Err: errors.New(login)}}, slog.LevelInfo)
		if strings.Count(got, "\n") != 1 || len(got) > 16<<10 {
			t.Errorf("%.20q takes %d lines of %d octets in all", login, strings.Count(got, "\n"), len(got))
		}
		if strings.ContainsFunc(strings.TrimSuffix(got, "\n"), func(r rune) bool { return r < ' ' || r == 0x7f }) {
			t.Errorf("%.20q reaches the log as it is: %.300q", login, got)
		}
		if strings.Count(got, " kind=") > 1 && !strings.Contains(got, `\" kind=`) {
			t.Errorf("%.20q forges an attribute: %.300q", login, got)
		}
	}
}

// A step that was down is told of also when a later one vouches; what it refused
// is in the line of the attempt.
func TestStepLine(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		err  error
		want string
	}{
		{"vouched", nil, ""},
		{"refused", &authn.Error{Kind: authn.Rejected, Step: "local"}, ""},
		{"down", &authn.Error{Kind: authn.Unavailable, Step: "ldap", Err: errors.New("no route")}, `level=WARN msg=step step=s outcome=unavailable duration=0s err="ldap: unavailable: no route"` + "\n"},
		{"broken", errors.New("boom"), `level=ERROR msg=step step=s outcome=internal duration=0s err=boom` + "\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var b bytes.Buffer
			attemptLog(plainLog(&b, slog.LevelInfo), new(atomic.Int64)).Step(t.Context(), &authn.StepDone{Step: "s", Err: c.err})
			if got := b.String(); got != c.want {
				t.Errorf("got  %swant %s", got, c.want)
			}
		})
	}
}

type panicky struct{}

func (panicky) Name() string { return "panicky" }

func (panicky) VerifyPassword(context.Context, *authn.PasswordRequest) (*authn.Identity, error) {
	panic("boom")
}

type panickyMechanism struct{ authn.Mechanism }

func (panickyMechanism) Start(context.Context, *authn.Transport) (authn.Exchange, error) {
	panic("boom")
}

// A panic is counted once, wherever it comes from, and its stack is told.
func TestPanicsAreCounted(t *testing.T) {
	t.Parallel()
	verifier := plain.PLAIN(authn.Chain{{Verifier: panicky{}}})
	for name, m := range map[string]authn.Mechanism{"verifier": verifier, "mechanism": panickyMechanism{verifier}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var b bytes.Buffer
			var panics atomic.Int64
			p := &authn.Policy{Offers: []authn.Mechanism{m}, Trace: attemptLog(plainLog(&b, slog.LevelInfo), &panics)}
			tr := &authn.Transport{TLS: &tls.ConnectionState{}}
			l, err := p.Start(t.Context(), tr, "PLAIN")
			if err == nil {
				_, _, err = l.Next(t.Context(), []byte("\x00alice\x00pw"))
			}
			if authn.KindOf(err) != authn.Internal || panics.Load() != 1 {
				t.Errorf("%d panics, %v", panics.Load(), err)
			}
			if !strings.Contains(b.String(), "level=ERROR") || !strings.Contains(b.String(), "audit_test.go:") {
				t.Errorf("the log does not say where: %s", b.String())
			}
		})
	}
}

func TestQuietLog(t *testing.T) {
	t.Parallel()
	if got := told(&authn.Attempt{Err: &authn.Error{Kind: authn.Rejected}}, slog.LevelError); got != "" {
		t.Errorf("a refusal at level error: %s", got)
	}
}
