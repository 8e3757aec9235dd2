package snapshot

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/kpopd/kpopd/authn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a server that answers lines as a test says.
type fake struct {
	net.Listener
	answer func(line string) (reply string, ok bool) // not ok: silence

	wg       sync.WaitGroup
	mu       sync.Mutex // guards what follows
	heard    []string
	now, max int // sessions
}

// listen starts a server that answers with the first entry whose key begins
// the line. "" as a reply is silence.
func listen(t *testing.T, replies ...[2]string) *fake {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{Listener: l, answer: func(line string) (string, bool) {
		for _, r := range replies {
			if strings.HasPrefix(line, r[0]) {
				return r[1], r[1] != ""
			}
		}
		return "-ERR what", true
	}}
	f.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f.wg.Go(func() { f.serve(c) })
		}
	})
	t.Cleanup(func() { l.Close(); f.wg.Wait() })
	return f
}

func (f *fake) serve(c net.Conn) {
	defer c.Close()
	f.enter(1)
	defer f.enter(-1)
	io.WriteString(c, "+OK\r\n")
	for r := bufio.NewReader(c); ; {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimRight(line, "\r\n")
		f.mu.Lock()
		f.heard = append(f.heard, line)
		f.mu.Unlock()
		if reply, ok := f.answer(line); ok {
			io.WriteString(c, reply+"\r\n")
		}
	}
}

func (f *fake) enter(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now += n
	f.max = max(f.max, f.now)
}

func (f *fake) source() *Source {
	return &Source{Address: f.Addr().String(), TLS: None, Timeout: time.Minute}
}

// take lists users and gives what was recorded by user, without the time.
func take(t *testing.T, s *Source, users ...Login) map[string]*Maildrop {
	t.Helper()
	all := map[string]*Maildrop{}
	if err := s.Take(t.Context(), users, 3, func(m *Maildrop) error {
		if m.Taken.IsZero() {
			t.Error("no time of", m.User)
		}
		m.Taken = time.Time{}
		all[m.User] = m
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

var (
	alice = Login{"alice", authn.Password("pw-alice")}
	bob   = Login{"bob", authn.Password("pw-bob")}
)

// Whatever a server lists is recorded, and what is not allowed is told.
func TestOddListings(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, list, uidl string
		want             Maildrop
	}{
		{"none", "+OK\r\n.", "+OK\r\n.", Maildrop{Messages: []Message{}}},
		{"plain", "+OK\r\n1 10\r\n2 20\r\n.", "+OK\r\n1 a\r\n2 b\r\n.", Maildrop{Messages: []Message{{1, "a", 10}, {2, "b", 20}}, Octets: 30}},
		{"out of order, more after the size", "+OK\r\n2 20 octets\r\n1 10 x y\r\n.", "+OK\r\n2 b\r\n1 a\r\n.", Maildrop{Messages: []Message{{1, "a", 10}, {2, "b", 20}}, Octets: 30}},
		{
			"illegal", "+OK\r\n1 1\r\n2 1\r\n3 1\r\n4 1\r\n5 1\r\n6 1\r\n.",
			"+OK\r\n1 a b\r\n2\r\n3 \xff\r\n4 " + strings.Repeat("x", 71) + "\r\n5 " + strings.Repeat("x", 70) + "\r\n.",
			Maildrop{
				Messages: []Message{{1, "a b", 1}, {2, "", 1}, {3, "\xff", 1}, {4, strings.Repeat("x", 71), 1}, {5, strings.Repeat("x", 70), 1}, {6, "", 1}},
				Octets:   6, Duplicates: []int{6}, Illegal: []int{1, 2, 3, 4, 6},
			},
		},
		{"duplicates", "+OK\r\n1 1\r\n2 1\r\n3 1\r\n.", "+OK\r\n1 a\r\n2 a\r\n3 a\r\n.", Maildrop{Messages: []Message{{1, "a", 1}, {2, "a", 1}, {3, "a", 1}}, Octets: 3, Duplicates: []int{2, 3}}},
		{"another message", "+OK\r\n1 1\r\n.", "+OK\r\n2 a\r\n.", Maildrop{Failure: &Failure{"UIDL", "", "message 2 is not in LIST"}}},
		{"twice in LIST", "+OK\r\n1 1\r\n1 1\r\n.", "+OK\r\n1 a\r\n.", Maildrop{Failure: &Failure{"UIDL", "", "LIST has a message twice"}}},
		{"twice in UIDL", "+OK\r\n1 1\r\n.", "+OK\r\n1 a\r\n1 b\r\n.", Maildrop{Failure: &Failure{"UIDL", "", "message 1 is there twice"}}},
		{"no number", "+OK\r\nx 1\r\n.", "+OK\r\n.", Maildrop{Failure: &Failure{"LIST", "", `scan listing "x 1": strconv.Atoi: parsing "x": invalid syntax`}}},
		{"less than nothing", "+OK\r\n1 -1\r\n.", "+OK\r\n.", Maildrop{Failure: &Failure{"UIDL", "", "message 1 has -1 octets"}}},
		{"no UIDL", "+OK\r\n.", "-ERR [SYS/PERM] none", Maildrop{Failure: &Failure{"UIDL", "SYS/PERM", "none"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := listen(t, [2]string{"USER", "+OK"}, [2]string{"PASS", "+OK"}, [2]string{"LIST", tt.list}, [2]string{"UIDL", tt.uidl})
			tt.want.User = "alice"
			if d := cmp.Diff(&tt.want, take(t, f.source(), alice)["alice"]); d != "" {
				t.Error(d)
			}
		})
	}
}

// One user's failure is his own, and what it says holds no password.
func TestFailures(t *testing.T) {
	t.Parallel()
	f := listen(t, [2]string{"USER", "+OK"}, [2]string{"PASS pw-bob", "-ERR [AUTH] pw-bob is wrong" + strings.Repeat("!", 2*maxText)},
		[2]string{"PASS", "+OK"}, [2]string{"LIST", "+OK\r\n.\r\n+OK"}, [2]string{"UIDL", "."})
	got := take(t, f.source(), bob, alice)
	if m := got["alice"]; m == nil || m.Failure != nil {
		t.Error("alice:", m)
	}
	want := &Failure{"login", "AUTH", "*** is wrong" + strings.Repeat("!", maxText-len("*** is wrong")) + "..."}
	if d := cmp.Diff(want, got["bob"].Failure); d != "" {
		t.Error(d)
	}
	f = listen(t, [2]string{"CAPA", "+OK\r\nSASL plain\r\n."}, [2]string{"AUTH", "-ERR no command AUTH PLAIN " + base64.StdEncoding.EncodeToString([]byte("\x00bob\x00pw-bob"))})
	if got := take(t, f.source(), bob)["bob"].Failure.String(); got != "login: no command AUTH PLAIN ***" {
		t.Error(got)
	}
}

// Nothing is retrieved or deleted, the session does not say QUIT, and it is
// over when the maildrop is recorded.
func TestOnlyLists(t *testing.T) {
	t.Parallel()
	plain := func(s string) string { return "AUTH PLAIN " + base64.StdEncoding.EncodeToString([]byte(s)) }
	master := &Login{"root", authn.Password("pw-root")}
	for _, tt := range []struct {
		name, capa string
		master     *Login
		separator  string
		want       []string
	}{
		{"USER", "-ERR", nil, "", []string{"CAPA", "USER alice", "PASS pw-alice", "LIST", "UIDL"}},
		{"PLAIN", "+OK\r\nSASL LOGIN PLAIN\r\n.", nil, "", []string{"CAPA", plain("\x00alice\x00pw-alice"), "LIST", "UIDL"}},
		{"master by PLAIN", "+OK\r\nSASL PLAIN\r\n.", master, "", []string{"CAPA", plain("alice\x00root\x00pw-root"), "LIST", "UIDL"}},
		{"master by name", "+OK\r\nUSER\r\n.", master, "*", []string{"CAPA", "USER alice*root", "PASS pw-root", "LIST", "UIDL"}},
		{"master who cannot", "+OK\r\nUSER\r\n.", master, "", []string{"CAPA"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := listen(t, [2]string{"CAPA", tt.capa}, [2]string{"USER", "+OK"}, [2]string{"PASS", "+OK"}, [2]string{"AUTH", "+OK"},
				[2]string{"LIST", "+OK\r\n."}, [2]string{"UIDL", "+OK\r\n."})
			s := f.source()
			s.Master, s.Separator = tt.master, tt.separator
			m := take(t, s, alice)["alice"]
			if failed := len(tt.want) == 1; failed != (m.Failure != nil) {
				t.Error(m.Failure)
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			if d := cmp.Diff(tt.want, f.heard); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestParallel(t *testing.T) {
	t.Parallel()
	f := listen(t, [2]string{"USER", "+OK"}, [2]string{"PASS", "+OK"}, [2]string{"LIST", "+OK\r\n."}, [2]string{"UIDL", "+OK\r\n."})
	var users []Login
	for i := range 20 {
		users = append(users, Login{fmt.Sprint("user", i), authn.Password("pw")})
	}
	if got := take(t, f.source(), users...); len(got) != len(users) {
		t.Errorf("%d maildrops of %d", len(got), len(users))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	// the server may see an end a moment after the next beginning
	if f.max > 2*3 {
		t.Errorf("%d sessions at a time", f.max)
	}
}

// A server that falls silent costs one maildrop its time; what is interrupted
// is not recorded, and what is there stays.
func TestSilence(t *testing.T) {
	t.Parallel()
	f := listen(t, [2]string{"USER", "+OK"}, [2]string{"PASS pw-bob", ""}, [2]string{"PASS", "+OK"}, [2]string{"LIST", "+OK\r\n."}, [2]string{"UIDL", "+OK\r\n."})
	s := f.source()
	s.Timeout = 50 * time.Millisecond
	if m := take(t, s, bob)["bob"]; m.Failure == nil || m.Messages != nil {
		t.Error(m.Failure)
	}
	s.Timeout = time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got []string
	err := s.Take(ctx, []Login{bob, alice}, 2, func(m *Maildrop) error {
		got = append(got, m.User)
		cancel() // bob waits by now or will, and neither is recorded
		return nil
	})
	if !errors.Is(err, context.Canceled) || !slices.Equal(got, []string{"alice"}) {
		t.Errorf("%v, recorded %q", err, got)
	}
}

// A full disk ends the run.
func TestNotWritten(t *testing.T) {
	t.Parallel()
	f := listen(t, [2]string{"USER", "+OK"}, [2]string{"PASS", "+OK"}, [2]string{"LIST", "+OK\r\n."}, [2]string{"UIDL", "+OK\r\n."})
	full := errors.New("full")
	if err := f.source().Take(t.Context(), []Login{alice, bob}, 1, func(*Maildrop) error { return full }); err != full {
		t.Error(err)
	}
}

func TestProbe(t *testing.T) {
	t.Parallel()
	f := listen(t)
	s := f.source()
	if err := s.Probe(t.Context()); err != nil {
		t.Error(err)
	}
	s.TLS, s.Config = StartTLS, &tls.Config{ServerName: "localhost"}
	if err := s.Probe(t.Context()); err == nil || !strings.HasSuffix(err.Error(), ": TLS: pop3 server: what") {
		t.Error(err)
	}
	f.Close()
	if err := s.Probe(t.Context()); err == nil || !strings.Contains(err.Error(), ": connect: ") {
		t.Error(err)
	}
	var b bytes.Buffer
	if err := Begin(&b, s.Address); err != nil || !strings.Contains(b.String(), s.Address) {
		t.Error(err, b.String())
	}
}
