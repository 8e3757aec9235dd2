package pop3

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/maildrop"
)

// Backend is what the engine asks of the rest of the daemon. An
// [authn.Policy] has all methods but Open.
type Backend interface {
	// Mechanisms lists what t may use now, first choice first. It is asked
	// when a session starts and again under TLS.
	Mechanisms(t *authn.Transport) []authn.Mechanism
	// Start begins one attempt; every login goes through here. PASS becomes
	// mechanism USER with a PLAIN message (RFC 4616), or KPOP with the name
	// given to USER; APOP becomes APOP with "name SP digest".
	Start(ctx context.Context, t *authn.Transport, mech string) (*authn.Login, error)
	// Refuse says why a mechanism that a client asks for is not among
	// Mechanisms: a rule of the site, which may have a text for the client. It
	// is nil when there is nothing to say.
	Refuse(ctx context.Context, t *authn.Transport, mech string) error
	// Exposed records that a client has shown the password of login, "" when
	// that was not read either, in the clear and where it is not taken: with
	// mechanism mech, which may be anything.
	Exposed(ctx context.Context, t *authn.Transport, mech, login string)
	// Open locks the maildrop of an identity that Start led to.
	Open(ctx context.Context, id *authn.Identity) (maildrop.Drop, error)
}

// Server holds what sessions share. Fields are only read once the first
// session runs. All but Backend may be left zero.
type Server struct {
	Backend Backend

	// StartTLS makes the server's side of a handshake for STLS, and tells t of
	// it: TLS, EndPoint and Client. STLS is hidden when it is nil.
	StartTLS func(ctx context.Context, c net.Conn, t *authn.Transport) (net.Conn, error)

	Hostname string // in the APOP timestamp; "localhost" when empty
	Log      *slog.Logger

	// LoginsTraced says that an authn.Trace writes of each login attempt, and
	// more than is known here, so that Log is not told of them.
	LoginsTraced bool

	Trace *Trace

	LoginTimeout time.Duration // for all of the AUTHORIZATION state; 1 min when zero
	IdleTimeout  time.Duration // between commands after login; 10 min when zero, the least RFC 1939 section 3 allows
	WriteTimeout time.Duration // for the client to take 64 KiB; 1 min when zero
	DrainTimeout time.Duration // for replies on their way once ctx is cancelled; 30 s when zero
	MaxFailures  int           // refused logins before hanging up; 3 when zero
	MaxAttempts  int           // logins begun before hanging up, whatever became of them; 128 when zero

	// LoginDelay is the time between logins of a user; nil for none.
	LoginDelay *LoginDelay

	// Expire is the argument of the EXPIRE capability (RFC 2449 section 6.7), as
	// the store enforces it for every user: days, NEVER, or 0 where retrieved
	// messages go at QUIT. Nothing is announced when it is empty.
	Expire string

	// LenientUTF8 answers UTF8 after login with +OK, as Outlook expects,
	// where RFC 6856 section 2.1 wants -ERR.
	LenientUTF8 bool

	// Envelopes answers *ENV, by which fetchmail's protocol sdps asks for the
	// envelope of a message. CAPA does not tell of it: no client looks there.
	Envelopes bool
}

func (s *Server) loginTimeout() time.Duration { return cmp.Or(s.LoginTimeout, time.Minute) }
func (s *Server) idleTimeout() time.Duration  { return cmp.Or(s.IdleTimeout, 10*time.Minute) }
func (s *Server) writeTimeout() time.Duration { return cmp.Or(s.WriteTimeout, time.Minute) }
func (s *Server) drainTimeout() time.Duration { return cmp.Or(s.DrainTimeout, 30*time.Second) }
func (s *Server) maxFailures() int            { return cmp.Or(s.MaxFailures, 3) }
func (s *Server) maxAttempts() int            { return cmp.Or(s.MaxAttempts, 128) }

// ServeConn runs one session on c and closes c. t is what is known of the
// client before its first command. It is the session's from now on, which
// makes t.Stamp and keeps t.TLS up to date.
//
// Messages are removed when the client says QUIT, and in no other case. When
// ctx is cancelled the session drains. The error is nil when the client left,
// was told to go, idled out or was drained; otherwise it says what went wrong
// on our side, which the log has as well. A panic of a store or a mechanism
// passes through, after the maildrop was released and c closed.
func (s *Server) ServeConn(ctx context.Context, c net.Conn, t *authn.Transport) error {
	return newSession(s, c, t).run(ctx)
}

// Trace is told what happens to sessions. Funcs may be nil; they run on the
// session's goroutine and must not wait.
type Trace struct {
	Session func(context.Context, *SessionDone) // once for each session, at its end
}

// SessionDone is the record of a session.
type SessionDone struct {
	Transport *authn.Transport // as it was at the end: with TLS after STLS
	Identity  *authn.Identity  // nil when nobody logged in
	Reason    Reason
	Err       error // nil when the client left in order

	Commands  int   // lines taken as commands
	Retrieved int   // messages sent whole
	Deleted   int   // messages removed by QUIT
	Octets    int64 // sent to the client, inside TLS and security layers
	Duration  time.Duration
}

// Reason says why a session ended.
type Reason string

const (
	Quit         Reason = "quit"          // the client said so
	Hangup       Reason = "hangup"        // the client went without QUIT
	LoginTimeout Reason = "login-timeout" // no login in time
	IdleTimeout  Reason = "idle-timeout"  // no command in time
	SlowReader   Reason = "slow-reader"   // replies not taken in time
	Drained      Reason = "drained"       // the server is stopping
	Refused      Reason = "refused"       // too many refusals, or one that ends the session
	Mismatch     Reason = "mismatch"      // the client speaks another protocol
	NoTLS        Reason = "no-tls"        // the handshake after STLS went wrong
	Torn         Reason = "torn"          // a message could not be sent to its end
	Panicked     Reason = "panicked"      // a store or a mechanism panicked
)
