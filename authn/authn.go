// Package authn decides who a client is.
//
// A [Mechanism] says how a client proves itself on the wire (PLAIN, GSSAPI, a
// KPOP ticket); a [Verifier] says who checks the proof (a password file, a
// principal map, a certificate map). A [Chain] asks verifiers in order; a [Policy] says which
// mechanisms a listener offers and leads every login through one door.
//
// # Design notes
//
// Outcomes are errors of a [Kind] whose zero value is Internal, so an error
// that nobody classified never reads as "wrong password" and never as success.
//
// The function that CAPA asks is the function that a login passes: [Policy.Explain]
// prints its verdicts, [Policy.Start] obeys them.
//
// The rules of a policy are asked twice. Before the login some facts are open:
// the user, his groups, realm and enctype of the ticket, the channel binding. A
// rule that looks at them may match or not, so it neither offers nor hides a
// mechanism by itself; it is noted that it might decide, and the next rule is
// asked. A mechanism is hidden when every way leads to a denial, and offered
// when one is left that does not:
//
//	rules before the first that matches   first that matches   the mechanism is
//	none may match                        denies               hidden
//	none may match                        allows, or is none   offered
//	some may match, all deny              denies               hidden
//	some may match, one allows            denies               offered
//	some may match                        allows, or is none   offered
//
// After the proof nothing is open, and the first rule that matches decides. What
// a mechanism can never bring is known to be absent before: a password has no
// ticket. Rules look at who proved himself; whom he acts for is decided by
// Policy.Act alone. No rule opens what the protocol or Policy.Plain closes.
//
// A mechanism whose client asks to act for another says so in Identity.For, and
// decides nothing: [Login] asks Policy.Act, looks up the other one, and makes
// the identity his. What the verifier knows of the one who acts (where his mail
// is) does not go along.
//
// A step that vouches and knows no accounts (of a ticket, a certificate, a token)
// is not the one to say that the account is open: every step of the chain that
// knows accounts is asked about it. One that is closed there is closed to every
// mechanism; where nobody could be asked, that is an outage. CAPA does not wait for
// that.
//
// Groups come with the answer of the step that vouched, or of one that was asked
// about the account. When none knows any and rules look at groups, the steps of
// Policy.Users that know users are asked, so that a rule on a group holds for every
// mechanism.
//
// A login name is prepared by [CanonicalLogin] in the mechanism that took it from
// the client, an authzid in the mapper that reads it; a [Chain] prepares what it
// is asked for again, and [Login] whatever identity comes out. No lock, path or
// query meets another spelling.
//
// A name may ask for a view beside the user ("alice+Sent"). [TakeView] takes it off
// what the client sent, before the name is prepared, so that nobody but the store
// learns of it. Nobody else's names ask for one: a name of a verifier, a map or a
// principal that reads like it is none that can be prepared.
//
// A [Throttle] is asked by the chain, before a verifier sees a password or hands out
// a secret: with a name in that form, once for each attempt.
//
// A Trace is told facts and decides nothing. Secrets are of type [Password] or
// stay inside the package that needs them.
package authn

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Transport is what is known of a connection before anyone logs in.
type Transport struct {
	Listener string               // name in the configuration, for policy and logs
	Session  string               // id of the session, the same in every log line
	Remote   netip.AddrPort       // client
	Local    netip.AddrPort       // server
	TLS      *tls.ConnectionState // nil on a cleartext connection; KPOP alone leaves it nil
	EndPoint []byte               // hash of the server certificate for tls-server-end-point (RFC 5929 section 4); nil when TLS is
	Client   *Certificate         // that the client showed in the TLS handshake; nil when it showed none
	Peer     *Principal           // proven before the first command by a KPOP ticket; nil otherwise
	Stamp    string               // APOP timestamp of the greeting with its angle brackets (RFC 1939 section 7); "" when APOP is off
}

// Bindable reports whether a login can be bound to the connection: whether TLS
// ends here, and not at somebody in front of us who tells us of it.
func (t *Transport) Bindable() bool { return t.TLS != nil && t.EndPoint != nil }

// Certificate is what a client showed in a TLS handshake. It holds the key: that
// much TLS has proven. Who it is depends on Chain.
type Certificate struct {
	Leaf  *x509.Certificate
	Chain []*x509.Certificate // from Leaf to an authority that the listener trusts; nil when there is none, and then Err says why
	Err   error               // an [*Error] for whoever reads the log; its Text is for the client
}

// trusted reports whether an authority vouches for c.
func (c *Certificate) trusted() bool { return c != nil && c.Err == nil && len(c.Chain) > 0 }

// Principal is a name that a ticket proved.
type Principal struct {
	Components []string // of the name, as in the ticket: {"alice", "admin"}
	Realm      string   // of the client, always from the ticket and never from the authenticator
	Expires    time.Time
	Ticket     *Ticket
}

// String is the name as Kerberos writes it, "alice/admin@EXAMPLE": no two
// principals with a component have the same. A slash, an at-sign or a backslash
// inside a component has a backslash before it, and what does not print is
// escaped, so that the text is one line and may stand in a log.
func (p *Principal) String() string {
	b := make([]byte, 0, 64)
	for i, c := range p.Components {
		if i > 0 {
			b = append(b, '/')
		}
		b = appendQuoted(b, c)
	}
	return string(appendQuoted(append(b, '@'), p.Realm))
}

func appendQuoted(b []byte, s string) []byte {
	for i, r := range s {
		switch {
		case r == '/' || r == '@' || r == '\\':
			b = append(b, '\\', byte(r))
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], string(utf8.RuneError)), r < ' ', r == 0x7F:
			b = fmt.Appendf(b, "\\x%02x", s[i])
		case !unicode.IsPrint(r):
			b = fmt.Appendf(b, "\\u{%x}", r)
		default:
			b = utf8.AppendRune(b, r)
		}
	}
	return b
}

// Ticket is what the trace tells of a Kerberos service ticket.
type Ticket struct {
	Service        string // principal that it was issued for, "pop/mail.example@EXAMPLE"
	Enctype        string // of the ticket, "aes256-cts-hmac-sha384-192"
	SessionEnctype string
	KVNO           int // key version number of the service key
	Start, End     time.Time
}

// Identity is the outcome of a successful attempt.
type Identity struct {
	User       string            // canonical login name; names the maildrop
	Authn      string            // who proved itself, when that is not User: "alice@CORP.EXAMPLE"
	Mechanism  string            // "PLAIN", "GSSAPI", "USER", "APOP", "KPOP"
	Step       string            // chain step that vouched
	Groups     []string          // that the user is in, as the verifier calls them; nil when it does not know
	Mechanisms []string          // that the user may log in with; all when empty
	For        string            // another user whom the client asks to act for, in canonical form; "" once a [Login] has decided
	View       View              // of the maildrop, that the client asked for; set by [Login]
	Attrs      map[string]string // what else the verifier knows of the user; keys in [AttrMaildrop] and its neighbours
	Expires    time.Time         // when the proof runs out; zero for passwords
	Note       string            // for whoever reads the log: "password expires in 48h0m0s"; mostly ""

	refusal error // of For by a verifier
}

// Keys of Identity.Attrs.
const (
	AttrMaildrop = "maildrop"  // location of the maildrop relative to the root of the store
	AttrMailHost = "mail-host" // server that has the user's mail
)

// AttrLoginDelay is the key in Identity.Attrs of the time between two logins of
// the user: "15m", "0s" for none.
const AttrLoginDelay = "login_delay"

// Exchange is one login attempt, used by one goroutine.
type Exchange interface {
	// Next takes the client's decoded response, nil when the client sent no
	// initial response (an empty one is []byte{}), and returns the next
	// challenge. done with a nil error means success: Identity is set. A
	// challenge together with done is sent and answered by an empty response
	// before the client is told (RFC 5034 section 4). A challenge together with
	// an error is sent too, and whatever the client answers, the attempt ends
	// with that error (RFC 7628 section 3.2.2). Errors are [*Error].
	// Next neither keeps nor changes response after it returns.
	Next(ctx context.Context, response []byte) (challenge []byte, done bool, err error)
	// Identity is nil until Next was done without an error.
	Identity() *Identity
}

// Claimer is an Exchange that knows who the client claims to be, for the
// trace of a refused attempt. Either may be its zero value.
type Claimer interface {
	Claimed() (login string, p *Principal)
}

// Noter is an Exchange that has something to tell whoever reads the log, such
// as a client that does what the RFC does not say.
type Noter interface {
	Note() string // "" when there is nothing to tell
}

// Wiper is an Exchange that keeps secrets between two responses. Wipe is called
// once, however the attempt ends.
type Wiper interface {
	Wipe()
}

// Binder is an Exchange that can bind the client's proof to its TLS connection.
type Binder interface {
	Bound() bool // meaningful once Next was done
}

// Layered is an Exchange that can negotiate a security layer.
type Layered interface {
	// Layer wraps the connection from the octet after the CRLF of +OK on
	// (RFC 5034 section 4). It is nil when no layer was negotiated.
	Layer() func(net.Conn) net.Conn
}

// Mechanism starts exchanges. Implementations are safe for concurrent use.
type Mechanism interface {
	Name() string // as in CAPA and in the configuration
	Traits() Traits
	Start(ctx context.Context, t *Transport) (Exchange, error)
}

// Conditional is a Mechanism that some connections cannot use, for reasons that
// its Traits do not tell. The client hears the reason: ASCII, nothing of the
// configuration. Usable is asked for CAPA too and must not wait.
type Conditional interface {
	Mechanism
	Usable(ctx context.Context, t *Transport) error
}

// Traits is what a policy and the engine need to know of a mechanism.
type Traits uint8

const (
	Plaintext    Traits = 1 << iota // the server sees the password
	ServerFirst                     // takes no initial response (RFC 4422 section 5)
	Command                         // has a command of its own and is no SASL mechanism: USER, APOP, KPOP
	NeedsPeer                       // judges Transport.Peer: KPOP
	NeedsStamp                      // judges Transport.Stamp: APOP
	NeedsBinding                    // is bound to TLS: SCRAM-SHA-256-PLUS
	NeedsTLS                        // not in the clear, whomever the policy trusts: OAUTHBEARER, XOAUTH2, GSS-SPNEGO
)

// Verifier is one place that can vouch for a client. It implements one or
// more of the interfaces below; a [Chain] finds out by type assertion.
type Verifier interface {
	Name() string
}

// PasswordVerifier checks a password: PLAIN, LOGIN, USER.
type PasswordVerifier interface {
	Verifier
	VerifyPassword(ctx context.Context, r *PasswordRequest) (*Identity, error)
}

// SecretSource hands out stored secrets for challenge mechanisms: CRAM-MD5,
// APOP, SCRAM. The scheme is the mechanism's name without -PLUS. A source that has no secret of
// that scheme for the user returns UnknownUser; one that never has any
// returns Decline. The identity is what a proof of the secret is worth; the
// caller wipes the secret.
type SecretSource interface {
	Verifier
	Secret(ctx context.Context, login, scheme string) (Password, *Identity, error)
}

// PrincipalMapper turns a proven principal into a login: GSSAPI, KPOP.
// authzid is the login that the client asked for, "" when it asked for none.
type PrincipalMapper interface {
	Verifier
	MapPrincipal(ctx context.Context, p *Principal, authzid string) (*Identity, error)
}

// Guard vouches for nobody and can refuse everybody: a list of users, groups or
// networks. The guards of a chain are asked before its steps, when id is nil and
// only the connection is known, and again about the identity that a step vouched
// for, wherever in the chain either stands. An error is the end of the login.
type Guard interface {
	Verifier
	Admit(ctx context.Context, id *Identity) error
}

// TokenVerifier checks a bearer token (RFC 6750): OAUTHBEARER, XOAUTH2.
type TokenVerifier interface {
	Verifier
	VerifyToken(ctx context.Context, r *TokenRequest) (*Identity, error)
}

// TokenRequest is a token to check. The caller wipes Token when VerifyToken
// returns. The verifier judges whether the token is good for Login, whose
// domain it may strip: Identity.User is what came of it.
type TokenRequest struct {
	Transport *Transport
	Login     string // that the client asked for, "" when it asked for none
	Token     Password
}

// CertificateMapper turns a client certificate that an authority of the listener
// vouches for into a login: EXTERNAL. chain is [Certificate].Chain. Its answer
// decides what CAPA says too, so it must not wait.
type CertificateMapper interface {
	Verifier
	MapCertificate(ctx context.Context, chain []*x509.Certificate) (*Identity, error)
}

// Relay is a Verifier that has a chain in another process judge. What the steps
// of that chain answered it traces with [TraceRelayed], in place of a step of its
// own, and the identity names the step that vouched.
type Relay interface {
	Verifier
	Relays()
}

// PasswordRequest is a password to check. The caller wipes Password when
// VerifyPassword returns.
type PasswordRequest struct {
	Transport *Transport
	Mechanism string // that showed it: PLAIN, LOGIN, USER
	Login     string // as claimed
	Password  Password
}

// Password is a secret that does not print: fmt with any verb, slog, JSON and
// YAML show "***". No method helps where fmt asks none: in an unexported field of
// a struct, and in a struct printed with %p, which go vet refuses.
type Password []byte

const masked = "***"

func (Password) String() string { return masked }

// Format implements [fmt.Formatter]: without it %d would print the octets.
func (Password) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, masked) }

// MarshalText implements [encoding.TextMarshaler] for JSON and YAML.
func (Password) MarshalText() ([]byte, error) { return []byte(masked), nil }

// LogValue implements [slog.LogValuer].
func (Password) LogValue() slog.Value { return slog.StringValue(masked) }

// Wipe overwrites the secret.
func (p Password) Wipe() { clear(p) }
