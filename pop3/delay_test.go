package pop3

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/authntest"
	"github.com/kpopd/kpopd/maildrop"
	"github.com/kpopd/kpopd/maildrop/memory"
)

// visit is a session that says lines and gets one reply for each; it returns the
// replies, the last is that of the last line. The session is over then.
func visit(t *testing.T, srv *Server, lines ...string) (replies []string) {
	t.Helper()
	p := talk(t, srv)
	p.want("+OK")
	for _, l := range lines {
		p.say(l)
		replies = append(replies, p.line())
	}
	p.Close()
	p.ended()
	return replies
}

// enterAs is the reply to PASS.
func enterAs(t *testing.T, srv *Server, user, password string) string {
	t.Helper()
	return visit(t, srv, "USER "+user, "PASS "+password)[1]
}

func delayed(b Backend, d time.Duration) *Server {
	return &Server{Backend: b, LoginDelay: &LoginDelay{Longest: d, Logins: &Logins{}}}
}

const (
	welcome = "+OK 0 messages (0 octets)"
	minute  = "-ERR [LOGIN-DELAY] Log in again in 60 s"
)

// RFC 2449 section 6.5: the delay counts from +OK, of each user alone, and is
// told after the proof only.
func TestRule088LoginDelay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		srv := delayed(newBackend(&memory.Store{}), time.Minute)
		for _, step := range []struct {
			after                time.Duration
			user, password, want string
		}{
			{0, "alice", "wrong", "-ERR [AUTH] Authentication failed"},
			{0, "alice", word, welcome},
			{0, "alice", word, minute},
			{0, "alice", "wrong", "-ERR [AUTH] Authentication failed"},
			{0, "bob", word, welcome},
			{30500 * time.Millisecond, "alice", word, "-ERR [LOGIN-DELAY] Log in again in 30 s"},
			{29 * time.Second, "alice", word, "-ERR [LOGIN-DELAY] Log in again in 1 s"},
			{500 * time.Millisecond, "alice", word, welcome},
			{0, "alice", word, minute},
			{time.Minute, "bob", word, welcome},
		} {
			time.Sleep(step.after) // of the fake clock
			if got := enterAs(t, srv, step.user, step.password); got != step.want {
				t.Errorf("%+v: got %q", step, got)
			}
		}
	})
}

// A user who is refused so has not left the AUTHORIZATION state, and USER never
// tells who logged in.
func TestRule088RefusedAfterTheProof(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		srv := delayed(newBackend(&memory.Store{}), time.Minute)
		enterAs(t, srv, "alice", word)
		got := visit(t, srv, "USER alice", "PASS "+word, "STAT", "USER alice", "PASS "+word, "USER bob", "PASS "+word, "STAT")
		want := []string{"+OK Send PASS", minute, "-ERR STAT is not valid now", "+OK Send PASS", minute, "+OK Send PASS", welcome, "+OK 0 0"}
		if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
			t.Errorf("got %q", got)
		}
	})
}

// The delay runs from the +OK of the login, however long the session lasts.
func TestRule088CountsFromOK(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		srv := delayed(newBackend(&memory.Store{}), time.Minute)
		p := talk(t, srv)
		p.login("alice")
		time.Sleep(50 * time.Second) // of the fake clock
		p.say("QUIT")
		p.want("+OK")
		p.ended()
		time.Sleep(10 * time.Second) // of the fake clock
		if got := enterAs(t, srv, "alice", word); got != welcome {
			t.Errorf("got %q", got)
		}
	})
}

// busy is a store whose maildrops cannot be had until they are free.
type busy struct {
	memory.Store
	free atomic.Bool
	slow time.Duration
}

func (b *busy) Open(ctx context.Context, r maildrop.Ref) (maildrop.Drop, error) {
	time.Sleep(b.slow) // of the fake clock
	if !b.free.Load() {
		return nil, maildrop.ErrInUse
	}
	return b.Store.Open(ctx, r)
}

// Without +OK no delay begins, and a login that was refused as too soon leaves
// the one before it as it was.
func TestRule088NoDelayWithoutOK(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &busy{slow: 5 * time.Second}
		srv := delayed(newBackend(store), time.Minute)
		for range 3 {
			if got := enterAs(t, srv, "alice", word); !strings.HasPrefix(got, "-ERR [IN-USE]") {
				t.Errorf("got %q", got)
			}
		}
		store.free.Store(true)
		if got := enterAs(t, srv, "alice", word); got != welcome {
			t.Errorf("got %q", got)
		}
		// what the maildrop took to open is not part of the delay
		if got := enterAs(t, srv, "alice", word); got != minute {
			t.Errorf("got %q", got)
		}
		time.Sleep(time.Minute) // of the fake clock
		store.free.Store(false)
		enterAs(t, srv, "alice", word)
		store.free.Store(true)
		if got := enterAs(t, srv, "alice", word); got != welcome {
			t.Errorf("after a maildrop in use: %q", got)
		}
	})
}

// capability is the line of CAPA that begins with name, before login and after.
func capability(t *testing.T, srv *Server, user, name string) (before, after string) {
	t.Helper()
	p := talk(t, srv)
	p.want("+OK")
	list := func() (found string) {
		p.say("CAPA")
		p.want("+OK")
		for l := p.line(); l != "."; l = p.line() {
			if strings.HasPrefix(l, name) {
				found = l
			}
		}
		return found
	}
	before = list()
	p.say("USER "+user, "PASS "+word)
	p.want("+OK")
	p.want("+OK")
	after = list()
	p.Close()
	p.ended()
	return before, after
}

// own are the delays of some users.
func own(id *authn.Identity) time.Duration {
	return map[string]time.Duration{
		"hasty": 0, "common": 90 * time.Second, "slow": 15 * time.Minute, "slower": time.Hour, "odd": 1500 * time.Millisecond, "broken": -time.Second,
	}[id.User]
}

func TestRule087LoginDelayByUser(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		srv := delayed(newBackend(&memory.Store{}), 15*time.Minute)
		srv.LoginDelay.Of = own
		for user, seconds := range map[string]int{"hasty": 0, "common": 90, "slow": 900, "slower": 900, "odd": 2, "broken": 0} {
			before, after := capability(t, srv, user, "LOGIN-DELAY")
			if before != "LOGIN-DELAY 900 USER" || after != fmt.Sprint("LOGIN-DELAY ", seconds) {
				t.Errorf("%s: %q, then %q", user, before, after)
			}
			// what is announced is what is enforced
			got := enterAs(t, srv, user, word)
			if want := fmt.Sprintf("-ERR [LOGIN-DELAY] Log in again in %d s", seconds); seconds > 0 && got != want || seconds == 0 && got != welcome {
				t.Errorf("%s: %q", user, got)
			}
			time.Sleep(time.Duration(seconds) * time.Second) // of the fake clock
			if got := enterAs(t, srv, user, word); got != welcome {
				t.Errorf("%s after %d s: %q", user, seconds, got)
			}
		}
	})
}

func TestRule089AnnouncedWhenEnforced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		srv := delayed(newBackend(&memory.Store{}), 90*time.Second)
		if before, after := capability(t, srv, "alice", "LOGIN-DELAY"); before != "LOGIN-DELAY 90" || after != before {
			t.Errorf("%q, then %q", before, after)
		}
		if got := enterAs(t, srv, "alice", word); got != "-ERR [LOGIN-DELAY] Log in again in 90 s" {
			t.Errorf("announced, and %q", got)
		}
		srv = &Server{Backend: newBackend(&memory.Store{})}
		if before, after := capability(t, srv, "alice", "LOGIN-DELAY"); before != "" || after != "" {
			t.Errorf("%q, then %q", before, after)
		}
		if got := enterAs(t, srv, "alice", word); got != welcome {
			t.Errorf("not announced, and %q", got)
		}
	})
}

// Who logs in many times at once gets in once.
func TestRule088LoginsAtOnce(t *testing.T) {
	t.Parallel()
	var l Logins
	var in atomic.Int32
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if settle, err := l.enter("alice", time.Hour, time.Hour); err == nil {
				in.Add(1)
				settle(true)
			}
		})
	}
	wg.Wait()
	if in.Load() != 1 {
		t.Errorf("in %d times", in.Load())
	}
}

// Logins are forgotten when their delay is over, and there is a bound.
func TestLoginsAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var l Logins
		for n := range maxLogins + 10 {
			if _, err := l.enter(fmt.Sprint("user", n), time.Minute, time.Minute); err != nil {
				t.Fatal(err)
			}
		}
		if len(l.byUser) != maxLogins || l.order.Len() != maxLogins || l.byUser["user9"] != nil {
			t.Errorf("%d users, %d in order", len(l.byUser), l.order.Len())
		}
		time.Sleep(time.Minute) // of the fake clock
		if _, err := l.enter("user20", time.Minute, time.Minute); err != nil {
			t.Error(err)
		}
		if len(l.byUser) != 1 || l.order.Len() != 1 {
			t.Errorf("%d users, %d in order after a minute", len(l.byUser), l.order.Len())
		}
	})
}

// An outage is no failure of the client's, and still a session has so many
// logins and no more.
func TestRule033AttemptsClose(t *testing.T) {
	t.Parallel()
	srv, done := traced(&Server{Backend: newBackend(&busy{}), MaxAttempts: 5})
	p := talk(t, srv)
	p.want("+OK")
	for range 5 {
		p.say("USER alice", "PASS "+word)
		p.want("+OK")
		p.want("-ERR [IN-USE]")
	}
	if line, err := p.r.ReadString('\n'); err == nil {
		t.Errorf("after five logins: %q", line)
	}
	p.ended()
	if d := <-done; d.Reason != Refused {
		t.Errorf("ended with %s", d.Reason)
	}
	if n := (&Server{}).maxAttempts(); n != 128 {
		t.Errorf("%d attempts when nothing is set", n)
	}
}

// A password that was shown where none is taken is read by nobody, and recorded.
func TestRule107ExposedPasswords(t *testing.T) {
	t.Parallel()
	const plain = "AHZlcmEAc2VjcmV0" // NUL vera NUL secret
	for _, tt := range []struct {
		name  string
		lines []string
		want  string // mechanism and login of the record, "" for none
	}{
		{"PASS", []string{"USER vera", "PASS secret"}, "USER vera"},
		{"PASS of nobody", []string{"PASS secret"}, "USER "},
		{"the name is forgotten by other commands", []string{"USER vera", "UTF8", "PASS secret"}, "USER "},
		{"PASS without a password", []string{"USER vera", "PASS"}, ""},
		{"USER alone", []string{"USER vera"}, ""},
		{"initial response", []string{"AUTH PLAIN " + plain}, "PLAIN "},
		{"initial response in lower case", []string{"auth plain " + plain}, "PLAIN "},
		{"refused before it was sent", []string{"AUTH PLAIN"}, ""},
		{"empty initial response", []string{"AUTH PLAIN ="}, ""},
		{"LOGIN begins with a name", []string{"AUTH LOGIN dmVyYQ=="}, ""},
		{"mechanism that nobody knows", []string{"AUTH FOO " + plain}, ""},
		{"digest", []string{"APOP vera 0123456789abcdef0123456789abcdef"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var r authntest.Recorder
			b := newBackend(&memory.Store{})
			b.Plain, b.Trace = authn.PlainTLS, r.Trace()
			for _, reply := range visit(t, &Server{Backend: b}, tt.lines...) {
				if !strings.HasPrefix(reply, "-ERR ") && !strings.HasPrefix(reply, "+OK UTF8") {
					t.Errorf("got %q", reply)
				}
			}
			got := ""
			for _, a := range r.Attempts {
				got += a.Mechanism + " " + a.Login
				if !a.Exposed || a.Identity != nil || authn.KindOf(a.Err) != authn.Denied || strings.Contains(fmt.Sprintf("%+v %v", a, a.Err), "secret") {
					t.Errorf("recorded %+v", a)
				}
			}
			if got != tt.want {
				t.Errorf("recorded %q, want %q", got, tt.want)
			}
		})
	}
}

// What a rule keeps closed shows a password all the same: the client hears the
// site's words, and both are recorded.
func TestExposedPasswordsUnderARule(t *testing.T) {
	t.Parallel()
	for _, lines := range [][]string{{"AUTH PLAIN AHZlcmEAc2VjcmV0"}, {"USER vera", "PASS secret"}} {
		var r authntest.Recorder
		b := newBackend(&memory.Store{})
		b.Trace, b.Rules = r.Trace(), []*authn.Rule{{Text: "Use a ticket"}}
		if reply := visit(t, &Server{Backend: b}, lines...)[0]; !strings.HasSuffix(reply, "Use a ticket") {
			t.Errorf("%q: got %q", lines, reply)
		}
		if len(r.Attempts) != 2 || r.Attempts[0].Rule == nil || r.Attempts[0].Exposed || !r.Attempts[1].Exposed {
			t.Errorf("%q: recorded %+v", lines, r.Attempts)
		}
	}
}

// Inside TLS a password that nobody takes is not exposed.
func TestRule107NotExposedInsideTLS(t *testing.T) {
	t.Parallel()
	var r authntest.Recorder
	b := newBackend(&memory.Store{})
	b.Offers, b.Trace = nil, r.Trace()
	client, server := net.Pipe()
	p := &peer{t: t, Conn: client, r: bufio.NewReader(client), done: make(chan error, 1)}
	go func() { // ends when client is closed
		p.done <- (&Server{Backend: b}).ServeConn(t.Context(), server, &authn.Transport{Remote: anywhere, TLS: &tls.ConnectionState{}})
	}()
	p.want("+OK")
	p.say("USER vera", "PASS secret")
	p.want("-ERR Not offered here")
	p.want("-ERR Send USER first")
	p.Close()
	p.ended()
	if len(r.Attempts) != 0 {
		t.Errorf("recorded %+v", r.Attempts[0])
	}
}
