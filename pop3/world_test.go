package pop3_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/cram"
	"github.com/kpopd/kpopd/authn/plain"
	"github.com/kpopd/kpopd/maildrop"
	"github.com/kpopd/kpopd/maildrop/memory"
	"github.com/kpopd/kpopd/pop3"
	"github.com/kpopd/kpopd/pop3/client"
)

// world is what a session of a test lives in: a server, its policy, its users
// and their maildrops, a transport to begin with, and what was recorded. Tests
// change it before the first connection.
type world struct {
	server *pop3.Server
	policy *authn.Policy
	store  memory.Store
	people *people
	t      authn.Transport
	log    syncBuffer

	// open replaces the store, for maildrops that misbehave.
	open func(ctx context.Context, id *authn.Identity) (maildrop.Drop, error)

	opened, committed atomic.Int32
	mu                sync.Mutex
	attempts          []authn.Attempt
	sessions          sync.WaitGroup
	waits             sync.Once
	errs              []error // of ServeConn
}

func newWorld() *world {
	w := &world{people: &people{}}
	chain := authn.Chain{{Verifier: w.people}}
	w.policy = &authn.Policy{
		Name: "test",
		Offers: []authn.Mechanism{
			plain.PLAIN(chain), plain.LOGIN(chain), cram.New(chain, "pop.example"),
			plain.USER(chain, true), plain.APOP(chain),
		},
		Plain:   authn.PlainTrusted,
		Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
		Trace:   &authn.Trace{Attempt: w.attempt},
	}
	w.server = &pop3.Server{
		Backend: w, StartTLS: startTLS, Hostname: "pop.example", MaxFailures: 100,
		Log: slog.New(slog.NewJSONHandler(&w.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	w.t = authn.Transport{
		Listener: "pop3", Session: "s1",
		Remote: netip.MustParseAddrPort("127.0.0.1:40000"), Local: netip.MustParseAddrPort("127.0.0.1:110"),
	}
	return w
}

// option does what an O: line of a transcript asks for.
func (w *world) option(text string) error {
	word, arg, _ := strings.Cut(text, " ")
	switch word {
	case "strict": // plaintext mechanisms inside TLS only, as by default
		w.policy.Plain = authn.PlainTLS
	case "deny": // a mechanism, with a text
		mech, text, _ := strings.Cut(arg, " ")
		w.policy.Rules = append(w.policy.Rules, &authn.Rule{Mechanisms: []string{mech}, Text: text})
	case "no-stls":
		w.server.StartTLS = nil
	case "implicit-tls": // a listener like 995, after its handshake
		w.t.TLS = &tls.ConnectionState{Version: tls.VersionTLS13, HandshakeComplete: true}
	case "offers": // these mechanisms and no others
		var offers []authn.Mechanism
		for _, m := range append(w.policy.Offers, script(w.people)...) {
			if strings.Contains(" "+arg+" ", " "+m.Name()+" ") {
				offers = append(offers, m)
			}
		}
		w.policy.Offers = offers
	case "kpop": // a ticket of this user was shown
		w.t.Peer = &authn.Principal{Components: strings.Split(arg, "/"), Realm: "POP.EXAMPLE"}
		w.policy.Offers = append(w.policy.Offers, kpopMechanism{authn.Chain{{Verifier: w.people}}})
	case "failures":
		n, err := strconv.Atoi(arg)
		w.server.MaxFailures = n
		return err
	case "envelopes":
		w.server.Envelopes = true
	case "folders":
		w.policy.Names = &authn.Names{Views: authn.Views{Folders: "+"}}
	case "lenient-utf8":
		w.server.LenientUTF8 = true
	default:
		return errors.New("no such option")
	}
	return nil
}

// Mechanisms implements [pop3.Backend].
func (w *world) Mechanisms(t *authn.Transport) []authn.Mechanism { return w.policy.Mechanisms(t) }

// Start implements [pop3.Backend].
func (w *world) Start(ctx context.Context, t *authn.Transport, mech string) (*authn.Login, error) {
	return w.policy.Start(ctx, t, mech)
}

// Refuse implements [pop3.Backend].
func (w *world) Refuse(ctx context.Context, t *authn.Transport, mech string) error {
	return w.policy.Refuse(ctx, t, mech)
}

// Exposed implements [pop3.Backend].
func (w *world) Exposed(ctx context.Context, t *authn.Transport, mech, login string) {
	w.policy.Exposed(ctx, t, mech, login)
}

// Open implements [pop3.Backend]. Some users have maildrops that cannot be had.
func (w *world) Open(ctx context.Context, id *authn.Identity) (maildrop.Drop, error) {
	w.opened.Add(1)
	switch id.User {
	case "busy":
		return nil, fmt.Errorf("lock: %w", maildrop.ErrInUse)
	case "nodisk":
		return nil, fmt.Errorf("secret-path: %w", maildrop.ErrTemporary)
	case "unsafe":
		return nil, fmt.Errorf("secret-path: %w", maildrop.ErrPermanent)
	case "odd":
		return nil, errors.New("secret-path: nobody thought of this")
	}
	if w.open != nil {
		return w.open(ctx, id)
	}
	d, err := w.store.Open(ctx, maildrop.Ref{User: id.User, Folder: id.View.Folder})
	if err != nil {
		return nil, err
	}
	return countedDrop{d, w}, nil
}

type countedDrop struct {
	maildrop.Drop
	w *world
}

func (d countedDrop) Commit(ctx context.Context, del []int) error {
	d.w.committed.Add(1)
	return d.Drop.Commit(ctx, del)
}

func (w *world) attempt(_ context.Context, a *authn.Attempt) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.attempts = append(w.attempts, *a)
}

// kinds says how the login attempts so far ended: "ok" or the kind of error.
func (w *world) kinds() (ks []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range w.attempts {
		k := "ok"
		if a.Err != nil {
			k = authn.KindOf(a.Err).String()
		}
		ks = append(ks, k)
	}
	return ks
}

// serve runs a session on c.
func (w *world) serve(ctx context.Context, c net.Conn) {
	w.sessions.Go(func() {
		err := w.server.ServeConn(ctx, c, w.transport())
		w.mu.Lock()
		defer w.mu.Unlock()
		w.errs = append(w.errs, err)
	})
}

// connect begins a session and returns the client's end of a pipe to it.
func (w *world) connect(t testing.TB) net.Conn {
	near, far := net.Pipe()
	w.serve(t.Context(), far)
	return near
}

// dial begins a session for a client that has read the greeting.
func (w *world) dial(t testing.TB) *client.Client {
	t.Helper()
	return w.client(t, w.connect(t))
}

// dialTCP is dial over a socket of loopback, where a test needs one: a pipe
// has no buffer, so that both ends of TLS wait for the other's goodbye.
func (w *world) dialTCP(t testing.TB) *client.Client {
	t.Helper()
	near, far := socketPair(t)
	w.serve(t.Context(), far)
	return w.client(t, near)
}

func (w *world) client(t testing.TB, conn net.Conn) *client.Client {
	t.Helper()
	c, err := client.New(t.Context(), conn, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.waits.Do(func() { t.Cleanup(func() { w.wait(t) }) }) // after all have hung up
	t.Cleanup(func() { c.Close() })
	return c
}

// login begins a session of alice.
func (w *world) login(t testing.TB) *client.Client {
	t.Helper()
	c := w.dial(t)
	if err := c.UserPass(t.Context(), "alice", "open sesame"); err != nil {
		t.Fatal(err)
	}
	return c
}

// wait waits for the sessions to end.
func (w *world) wait(t testing.TB) {
	t.Helper()
	done := make(chan struct{})
	go func() { w.sessions.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Error("a session did not end")
	}
}

// free says whether user's maildrop is unlocked, and how many messages it has.
func (w *world) free(t testing.TB, user string) (n int, free bool) {
	t.Helper()
	d, err := w.store.Open(t.Context(), maildrop.Ref{User: user})
	if errors.Is(err, maildrop.ErrInUse) {
		return 0, false
	}
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	n, _ = d.Totals()
	return n, true
}

// syncBuffer is a log that sessions write and a test reads.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// testCert is a throw-away certificate.
var testCert = sync.OnceValue(func() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"pop.example"}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
})

func startTLS(ctx context.Context, c net.Conn, t *authn.Transport) (net.Conn, error) {
	tc := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{testCert()}})
	if err := tc.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	state := tc.ConnectionState()
	t.TLS, t.EndPoint = &state, make([]byte, 32)
	return tc, nil
}

// people are the users of the world: some log in, some cannot.
type people struct {
	mu     sync.Mutex
	logins []string // as the verifier was asked for them
}

// passwords are for USER, PLAIN and LOGIN. Those who have a secret below have
// none here.
var passwords = map[string]string{
	"alice": "open sesame", "bob": "b", "spaces": "a b  c ", "lead": " x", "long": strings.Repeat("p", 248),
	"carol": "%s%n%x{{.}}", "zoë": "pässword",
	"busy": "x", "nodisk": "x", "unsafe": "x", "odd": "x",
}

// secrets are for APOP and CRAM-MD5: the users of RFC 1939 and RFC 2195.
var secrets = map[string]string{"mrose": "tanstaaf", "tim": "tanstaaftanstaaf", "jörg": "geheim"}

var (
	_ authn.PasswordVerifier = (*people)(nil)
	_ authn.SecretSource     = (*people)(nil)
	_ authn.PrincipalMapper  = (*people)(nil)
)

func (*people) Name() string { return "people" }

func (p *people) asked(login string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.logins = append(p.logins, login)
}

func (p *people) VerifyPassword(_ context.Context, r *authn.PasswordRequest) (*authn.Identity, error) {
	p.asked(r.Login)
	fail := func(k authn.Kind) (*authn.Identity, error) {
		return nil, &authn.Error{Kind: k, Step: "people", Err: errors.New("ldap.internal.example said so")}
	}
	want, ok := passwords[r.Login]
	switch {
	case r.Login == "down":
		return fail(authn.Unavailable)
	case r.Login == "locked":
		return fail(authn.Denied)
	case r.Login == "expired":
		return fail(authn.Expired)
	case r.Login == "throttled":
		return fail(authn.Throttled)
	case r.Login == "crash":
		panic("a verifier has a bug")
	case secrets[r.Login] != "" && secrets[r.Login] == string(r.Password):
		return &authn.Identity{User: r.Login}, nil // for rule 36
	case !ok:
		return fail(authn.UnknownUser)
	case string(r.Password) != want:
		return fail(authn.Rejected)
	}
	return &authn.Identity{User: r.Login}, nil
}

func (p *people) Secret(_ context.Context, login, scheme string) (authn.Password, *authn.Identity, error) {
	p.asked(login)
	if s := secrets[login]; s != "" {
		return authn.Password(s), &authn.Identity{User: login}, nil
	}
	return nil, nil, &authn.Error{Kind: authn.UnknownUser, Step: "people"}
}

func (*people) MapPrincipal(_ context.Context, p *authn.Principal, authzid string) (*authn.Identity, error) {
	if len(p.Components) != 1 || authzid != "" && authzid != p.Components[0] {
		return nil, &authn.Error{Kind: authn.Denied, Step: "people"}
	}
	return &authn.Identity{User: p.Components[0]}, nil
}

// socketPair is a connection over loopback: near is the client's end.
func socketPair(t testing.TB) (near, far net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if near, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if far, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return near, far
}

// transport is what a session of its own knows of its client.
func (w *world) transport() *authn.Transport {
	t := w.t
	return &t
}
