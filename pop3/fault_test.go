package pop3_test

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kpopd/kpopd/maildrop"
	"github.com/kpopd/kpopd/pop3/client"
)

// Faults that were found in other servers, most of them while they ran. Each
// test is named after the server that had it.

// Courier counted anew after DELE, so that LIST and UIDL gave message 2 the
// number 1.
func TestFault01_Courier(t *testing.T) {
	t.Parallel()
	w := newWorld()
	for i := range 3 {
		w.store.Deliver("alice", strings.Repeat("x", i+1)+"\n")
	}
	c := w.login(t)
	c.Dele(t.Context(), 1)
	list, err := c.List(t.Context())
	if d := cmp.Diff([]client.Scan{{Number: 2, Size: 4}, {Number: 3, Size: 5}}, list); d != "" || err != nil {
		t.Error(d, err)
	}
	ids, err := c.UIDL(t.Context())
	if d := cmp.Diff([]client.UniqueID{{Number: 2, UID: "2"}, {Number: 3, UID: "3"}}, ids); d != "" || err != nil {
		t.Error(d, err)
	}
}

// Stalwart listed and sent what was deleted, took message 0, counted the lines
// of TOP wrongly, took UTF8 after login, wrote no space before unique-ids, cut
// passwords at a blank, refused SASL lines over 1024 octets and had sizes of 32
// bits.
func TestFault02_Stalwart(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.play(t, `S~ \+OK .*
C: USER spaces
S: +OK Send PASS
C: PASS a b
S: -ERR [AUTH] Authentication failed
N:
S~ \+OK .*
C: USER alice
S: +OK Send PASS
C: PASS open sesame
S~ \+OK .*
C: UTF8
S~ -ERR .*
C: RETR 0
S~ -ERR .*`)
	w.store.Deliver("alice", "a: b\n\nfirst\nsecond\n")
	d := &oddDrop{messages: []maildrop.Message{{UID: "1", Size: 5 << 30}}}
	long := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("z", 2000) + "\x00alice\x00open sesame"))
	var se *client.ServerError
	c := w.dial(t)
	if _, err := c.Cmd(t.Context(), "AUTH PLAIN "+long); !errors.As(err, &se) || se.Code != "AUTH" {
		t.Errorf("a response of %d octets: %v", len(long), err)
	}
	c.Close()
	c = w.login(t)
	if uid, err := c.Cmd(t.Context(), "UIDL 1"); uid != "1 1" || err != nil {
		t.Errorf("UIDL 1: %q, %v", uid, err)
	}
	if all := retrAll(t, c, "TOP N 0"); all[0] != "a: b\r\n\r\n" {
		t.Errorf("TOP 1 0 sends %q", all[0])
	}
	c.Dele(t.Context(), 1)
	if list, err := c.List(t.Context()); len(list) > 0 || err != nil {
		t.Errorf("LIST shows %v, %v", list, err)
	}
	if _, err := c.Cmd(t.Context(), "RETR 1"); err == nil {
		t.Error("RETR sends what is deleted")
	}
	c.Close()
	w.wait(t)
	w.has(d)
	if size, err := w.login(t).Size(t.Context(), 1); size != 5<<30 || err != nil {
		t.Errorf("size %d, %v", size, err)
	}
}

// Dovecot lists neither USER nor SASL after login, says why when it ends an
// idle session, and locks no maildrop by default.
func TestFault03_Dovecot(t *testing.T) {
	t.Parallel()
	_, after := capaBeforeAndAfter(t)
	if !after.Has("SASL") || !after.Has("USER") {
		t.Errorf("after login CAPA has %v", after)
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		c := w.login(t)
		if _, free := w.free(t, "alice"); free {
			t.Error("the maildrop is not locked")
		}
		if said, err := io.ReadAll(c); len(said) > 0 || err != nil {
			t.Errorf("at the end of an idle session: %q, %v", said, err)
		}
	})
}

// Cyrus said +OK to QUIT though the removal went wrong, added sizes up in 32
// bits, cut lines at NUL, told of a lock before it had one, announced EXPIRE,
// and had a timestamp that no client could use.
func TestFault04_Cyrus(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.has(&oddDrop{
		messages: []maildrop.Message{{UID: "1", Size: 3 << 30}, {UID: "2", Size: 3 << 30}},
		commit:   &maildrop.CommitError{Left: []int{0}, Err: errors.New("read-only file system")},
	})
	c := w.login(t)
	if strings.Contains(strings.ToLower(c.Greeting()), "lock") {
		t.Errorf("greeting %q", c.Greeting())
	}
	if _, sum, err := c.Stat(t.Context()); sum != 6<<30 || err != nil {
		t.Errorf("STAT %d, %v", sum, err)
	}
	if caps, err := c.Capa(t.Context()); caps.Has("EXPIRE") || err != nil {
		t.Errorf("CAPA %v, %v", caps, err)
	}
	if _, err := c.Cmd(t.Context(), "DELE 1\x001"); err == nil {
		t.Error("DELE 1 with NUL and more was taken")
	}
	c.Dele(t.Context(), 1)
	if err := c.Quit(t.Context()); err == nil {
		t.Error("QUIT says that the message is gone")
	}
	w.open = nil
	if err := w.dial(t).Apop(t.Context(), "mrose", "tanstaaf"); err != nil {
		t.Error(err)
	}
	if last := w.attempts[len(w.attempts)-1]; last.Mechanism != "APOP" {
		t.Errorf("the record of APOP has mechanism %q", last.Mechanism)
	}
}

// Heimdal's popper took unique-ids from Message-ID, so that two copies of a
// mail had the same, and hung up after two minutes.
func TestFault05_Heimdal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		for range 2 {
			w.store.Deliver("alice", "Message-ID: <1@pop.example>\nX-UIDL: 7\n\n")
		}
		c := w.login(t)
		ids, err := c.UIDL(t.Context())
		if err != nil || len(ids) != 2 || ids[0].UID == ids[1].UID {
			t.Errorf("unique-ids %v, %v", ids, err)
		}
		time.Sleep(9 * time.Minute)
		if err := c.Noop(t.Context()); err != nil {
			t.Errorf("after nine minutes: %v", err)
		}
	})
}

// UW announced LOGIN-DELAY 180 without delaying anybody, and let a second
// session end the first.
func TestFault06_UW(t *testing.T) {
	t.Parallel()
	w := newWorld()
	first := w.login(t)
	if caps, err := first.Capa(t.Context()); caps.Has("LOGIN-DELAY") || err != nil {
		t.Errorf("CAPA %v, %v", caps, err)
	}
	if err := w.dial(t).UserPass(t.Context(), "alice", "open sesame"); err == nil {
		t.Error("a second session has the maildrop too")
	}
	if err := first.Noop(t.Context()); err != nil {
		t.Errorf("the first session: %v", err)
	}
}

// qmail-pop3d listed the size of the file, and sent an empty line before the
// final dot.
func TestFault07_Qmail(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.store.Deliver("alice", "a: b\n\nc\n")
	c := w.login(t)
	if size, err := c.Size(t.Context(), 1); size != 11 || err != nil {
		t.Errorf("LIST 1: %d, %v", size, err)
	}
	for _, command := range []string{"RETR 1", "TOP 1 9"} {
		if got := rawBody(t, c, command); got != "a: b\r\n\r\nc\r\n.\r\n" {
			t.Errorf("%s: %q", command, got)
		}
	}
}

// hMailServer unlocked somebody else's maildrop at a QUIT before login,
// answered +ERR, and wrote sizes as numbers of 32 bits.
func TestFault08_HMailServer(t *testing.T) {
	t.Parallel()
	w := newWorld()
	first := w.login(t)
	second := w.dial(t)
	if err := second.UserPass(t.Context(), "alice", "open sesame"); err == nil {
		t.Fatal("two sessions have the maildrop")
	}
	if err := second.Quit(t.Context()); err != nil {
		t.Error(err)
	}
	if _, free := w.free(t, "alice"); free {
		t.Error("QUIT of another session released the lock")
	}
	for _, command := range []string{"XYZZY", "RETR 1", "DELE x", "UTF8", "LANG xx"} {
		var se *client.ServerError // any other status is another error
		if _, err := first.Cmd(t.Context(), command); !errors.As(err, &se) {
			t.Errorf("%s: %v", command, err)
		}
	}
	w.has(&oddDrop{messages: []maildrop.Message{{UID: "1", Size: 1<<31 + 1}}})
	if got, err := w.login(t).Cmd(t.Context(), "LIST 1"); got != "1 2147483649" || err != nil {
		t.Errorf("LIST 1: %q, %v", got, err)
	}
}

// Inbucket kept whether TLS was on in a place that all connections shared, and
// took any password. Mailpit listed what was deleted, and cut passwords at a
// blank.
func TestFault09_Inbucket(t *testing.T) {
	t.Parallel()
	w := newWorld()
	if err := w.option("strict"); err != nil {
		t.Fatal(err)
	}
	script := `S~ \+OK .*
C: STLS
S: +OK Begin TLS
T:
C: USER spaces
S: +OK Send PASS
C: PASS a
S: -ERR [AUTH] Authentication failed`
	w.play(t, script)
	w.play(t, `S~ \+OK .*
C: USER alice
S~ -ERR .*
C: STLS
S: +OK Begin TLS`)
	if _, err := w.dial(t).Cmd(t.Context(), "USER alice"); err == nil {
		t.Error("a connection in the clear may send passwords after another one had TLS")
	}
	w = newWorld()
	w.store.Deliver("alice", "Subject: one\n\n")
	c := w.login(t)
	c.Dele(t.Context(), 1)
	if list, err := c.List(t.Context()); len(list) > 0 || err != nil {
		t.Errorf("LIST shows %v, %v", list, err)
	}
}

// James ended a message with one LF so that the client waited for the dot for
// ever (PROTOCOLS-106), ran commands from before TLS under TLS (JAMES-1862),
// and broke down when a message was removed meanwhile (JAMES-3709).
func TestFault10_James(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.store.Deliver("alice", "a: b\n\nc\n\n")
	uid := w.store.Deliver("alice", "a: b\n\nd\n")
	w.play(t, "S~ .*\nC+ STLS | STLS | USER alice\nS~ -ERR .*\nE:")
	c := w.login(t)
	if got := rawBody(t, c, "RETR 1"); got != "a: b\r\n\r\nc\r\n\r\n.\r\n" {
		t.Errorf("RETR 1: %q", got)
	}
	w.store.Remove("alice", uid)
	var se *client.ServerError
	if _, err := c.Cmd(t.Context(), "RETR 2"); !errors.As(err, &se) || se.Code == "AUTH" {
		t.Errorf("RETR of what is gone: %v", err)
	}
	c.Dele(t.Context(), 1)
	if err := c.Dele(t.Context(), 2); err != nil {
		t.Error(err)
	}
	if err := c.Quit(t.Context()); err != nil {
		t.Error(err)
	}
}

// Perdition told of a locked maildrop as of a wrong password, and had no SASL.
func TestFault11_Perdition(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.play(t, `S~ \+OK .*
C: AUTH PLAIN AGJ1c3kAeA==
S~ -ERR \[IN-USE\] .*
C: USER busy
S: +OK Send PASS
C: PASS x
S~ -ERR \[IN-USE\] .*`)
	if got := w.kinds(); !slices.Equal(got, []string{"ok", "ok"}) {
		t.Errorf("the attempts are told as %q", got)
	}
}

// WildDuck (#950) and clients of MailKit (#174) fell out of step when commands
// were pipelined and cut into segments anywhere.
func TestFault12_WildDuck(t *testing.T) {
	t.Parallel()
	var batch, want strings.Builder
	batch.WriteString("USER alice\r\nAUTH PLAIN\r\n*\r\nPASS open sesame\r\n")
	want.WriteString("+OK Send PASS\r\n+ \r\n-ERR Authentication cancelled\r\n+OK 1 messages (10 octets)\r\n")
	for i := range 200 {
		fmt.Fprintf(&batch, "LIST 1\r\nRETR 1\r\nDELE 1\r\nLIST 1\r\nXYZZY %d\r\nRSET\r\n", i)
		want.WriteString("+OK 1 10\r\n+OK 10 octets\r\n..\r\n\r\nabc\r\n.\r\n+OK Marked as deleted\r\n-ERR Message is marked as deleted\r\n-ERR Unknown command\r\n+OK 1 messages (10 octets)\r\n")
	}
	batch.WriteString("QUIT\r\n")
	want.WriteString("+OK Bye\r\n")
	for seed := range uint64(5) {
		w := newWorld()
		w.store.Deliver("alice", ".\n\nabc")
		near, far := net.Pipe()
		w.serve(t.Context(), far)
		r := rand.New(rand.NewPCG(seed, 0))
		go func() { // ends when all is read
			for rest := batch.String(); rest != ""; {
				n := min(len(rest), 1+r.IntN(40))
				io.WriteString(near, rest[:n])
				rest = rest[n:]
			}
		}()
		br := bufio.NewReader(near)
		br.ReadString('\n')
		got, err := io.ReadAll(br)
		if d := cmp.Diff(want.String(), string(got)); d != "" || err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, d)
		}
		near.Close()
		w.wait(t)
	}
}

// A store that cannot tell its listing any more fails what needs it, and lets
// the client ask for the totals and leave.
func TestListingThatCannotBeHad(t *testing.T) {
	t.Parallel()
	w := newWorld()
	d := &oddDrop{
		messages: []maildrop.Message{{UID: "1", Size: 3}, {UID: "2", Size: 4}},
		content:  func(int) (io.ReadCloser, error) { return nil, errors.New("nobody should come here") },
		listing:  fmt.Errorf("%w: lost", maildrop.ErrTemporary),
	}
	w.has(d)
	c := w.login(t)
	for _, command := range []string{"LIST", "LIST 1", "UIDL", "UIDL 2", "RETR 1", "TOP 1 0", "DELE 1"} {
		var se *client.ServerError
		if _, err := c.Cmd(t.Context(), command); !errors.As(err, &se) || se.Code != "SYS/TEMP" {
			t.Errorf("%s: %v, want [SYS/TEMP]", command, err)
		}
	}
	if n, size, err := c.Stat(t.Context()); n != 2 || size != 7 || err != nil {
		t.Errorf("STAT: %d, %d, %v", n, size, err)
	}
	if _, err := c.Cmd(t.Context(), "LIST 3"); err == nil {
		t.Error("LIST 3 of two messages")
	}
	if err := c.Quit(t.Context()); err != nil {
		t.Error(err)
	}
	if len(d.del) != 0 {
		t.Errorf("Commit removes %d", d.del)
	}
}
