package pop3_test

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/kpopd/kpopd/pop3/client"
)

// Rules of CAPA, pipelining and response codes (RFC 2449).

func TestRule082_CAPA(t *testing.T)                { play(t, "rule082-*.txt") }
func TestRule083_CapaTakesNoArgument(t *testing.T) { play(t, "rule083-*.txt") }

// capaBeforeAndAfter asks for the capabilities in both states.
func capaBeforeAndAfter(t *testing.T) (before, after client.Capabilities) {
	t.Helper()
	c := newWorld().dial(t)
	before, err := c.Capa(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.UserPass(t.Context(), "alice", "open sesame"); err != nil {
		t.Fatal(err)
	}
	if after, err = c.Capa(t.Context()); err != nil {
		t.Fatal(err)
	}
	return before, after
}

// What is announced before login is announced after it.
func TestRule084_AnnouncedInBothStates(t *testing.T) {
	t.Parallel()
	before, after := capaBeforeAndAfter(t)
	for tag := range before {
		if !after.Has(tag) {
			t.Errorf("%s is announced before login only", tag)
		}
	}
	for _, tag := range []string{"USER", "SASL", "STLS"} {
		if !before.Has(tag) {
			t.Errorf("%s is not announced", tag)
		}
	}
}

// Tags are registered ones, in the case of their registration.
func TestRule085_RegisteredTags(t *testing.T) {
	t.Parallel()
	registered := " TOP USER SASL RESP-CODES LOGIN-DELAY PIPELINING EXPIRE UIDL IMPLEMENTATION AUTH-RESP-CODE STLS UTF8 LANG "
	lines, err := newWorld().dial(t).CmdLines(t.Context(), "CAPA")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lines {
		tag, _, _ := strings.Cut(l, " ")
		if !strings.Contains(registered, " "+tag+" ") && !strings.HasPrefix(tag, "X") {
			t.Errorf("%q is no registered capability", l)
		}
	}
}

// These say the same before login and after it.
func TestRule086_NoDifference(t *testing.T) {
	t.Parallel()
	before, after := capaBeforeAndAfter(t)
	for _, tag := range []string{"TOP", "UIDL", "USER", "SASL", "RESP-CODES", "PIPELINING"} {
		if !before.Has(tag) || !cmp.Equal(before[tag], after[tag]) {
			t.Errorf("%s: %q before login, %q after", tag, before[tag], after[tag])
		}
	}
}

// notAnnounced is for what a server may promise and this one does not do.
func notAnnounced(t *testing.T, tag string) {
	t.Helper()
	t.Parallel()
	before, after := capaBeforeAndAfter(t)
	if before.Has(tag) || after.Has(tag) {
		t.Errorf("%s is announced", tag)
	}
}

func TestRule087_NoExpireBeforeLogin(t *testing.T) { notAnnounced(t, "EXPIRE") }

// Nobody is told to wait, and the code for it is never sent.
func TestRule088_NoLoginDelay(t *testing.T) {
	t.Parallel()
	w := newWorld()
	for range 5 {
		c := w.login(t)
		if err := c.Quit(t.Context()); err != nil {
			t.Error(err)
		}
		w.wait(t)
	}
}

func TestRule089_LoginDelayNotAnnounced(t *testing.T) { notAnnounced(t, "LOGIN-DELAY") }

// Where nothing expires no day count is announced. That a retrieved message
// stays is shown for rule 80.
func TestRule090_ExpireNotAnnounced(t *testing.T) { notAnnounced(t, "EXPIRE") }

func TestRule091_Pipelining(t *testing.T) { play(t, "rule091-*.txt") }

func TestRule092_InUseAfterPassword(t *testing.T) { play(t, "rule092-*.txt") }

// A response code is the first text of a reply, in capitals, with its levels
// divided by slashes, and only registered ones are sent.
func TestRule093_CodeIsFirstText(t *testing.T) {
	t.Parallel()
	code := regexp.MustCompile(`^-ERR (\[(AUTH|IN-USE|SYS/TEMP|SYS/PERM)\] )?[^\[\]]+\r\n$`)
	for _, script := range []string{
		"USER alice\r\nPASS wrong", "USER busy\r\nPASS x", "USER nodisk\r\nPASS x", "USER unsafe\r\nPASS x", "USER odd\r\nPASS x",
		"USER down\r\nPASS x", "USER throttled\r\nPASS x", "USER crash\r\nPASS x", "AUTH PLAIN AA==", "AUTH [AUTH]", "XYZZY [AUTH]",
	} {
		w := newWorld()
		c := w.dial(t)
		lines := strings.Split(script, "\r\n")
		if err := c.Send(t.Context(), lines...); err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(c)
		var last string
		for range lines {
			var err error
			if last, err = r.ReadString('\n'); err != nil {
				t.Fatal(script, err)
			}
		}
		if !code.MatchString(last) {
			t.Errorf("%q: %q", script, last)
		}
		c.Close()
		w.wait(t)
	}
}

// IMPLEMENTATION names the server and says nothing that helps an attacker: no
// version before login.
func TestRule094_Implementation(t *testing.T) {
	t.Parallel()
	before, _ := capaBeforeAndAfter(t)
	if got := strings.Join(before["IMPLEMENTATION"], " "); got != "kpopd" {
		t.Errorf("IMPLEMENTATION is %q", got)
	}
}

// There is no APOP capability: the greeting shows it.
func TestRule095_NoAPOPCapability(t *testing.T) { notAnnounced(t, "APOP") }

// Codes are sent, so RESP-CODES is announced, before login and after it.
func TestRule096_ResponseCodesAnnounced(t *testing.T) {
	t.Parallel()
	before, after := capaBeforeAndAfter(t)
	if !before.Has("RESP-CODES") || !after.Has("RESP-CODES") {
		t.Errorf("before login %v, after it %v", before, after)
	}
}

// A client that sends 100,000 commands and reads nothing stops the server from
// reading, and costs it no memory; when it reads, all answers are there.
func TestRule097_BackPressure(t *testing.T) {
	const n = 100_000
	batch := bytes.Repeat([]byte("NOOP\r\n"), n)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.server.Log = nil
		c := w.login(t)
		before := heap()
		go c.Conn().Write(batch) // ends when all is read
		synctest.Wait()          // until the server waits for the client, who reads nothing
		if after := heap(); after > before+64<<10 {
			t.Errorf("the heap grew by %d octets", after-before)
		}
		r := bufio.NewReader(c)
		for i := range n {
			if line, err := r.ReadString('\n'); line != "+OK\r\n" {
				t.Fatalf("answer %d: %q, %v", i+1, line, err)
			}
		}
	})
}

// heap is the memory in use, in octets.
func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // empties the pools
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// A batch is answered the same in one piece and octet by octet.
func TestRule098_AnySegments(t *testing.T) {
	t.Parallel()
	batch := "USER alice\r\nPASS open sesame\r\nSTAT\r\nUIDL\r\nRETR 1\r\nAUTH\r\nDELE 2\r\nTOP 1 1\r\nQUIT\r\n"
	answers := func(write func(net.Conn)) string {
		w := newWorld()
		w.policy.Offers = w.policy.Offers[:4] // no timestamp, which differs
		w.store.Deliver("alice", "Subject: one\n\n.\n.a\nb")
		w.store.Deliver("alice", "")
		near, far := net.Pipe()
		w.serve(t.Context(), far)
		go write(near) // ends when all is read
		all, err := io.ReadAll(near)
		if err != nil {
			t.Error(err)
		}
		near.Close()
		w.wait(t)
		if n, _ := w.free(t, "alice"); n != 1 {
			t.Errorf("%d messages left", n)
		}
		return string(all)
	}
	whole := answers(func(c net.Conn) { io.WriteString(c, batch) })
	octets := answers(func(c net.Conn) {
		for i := range batch {
			io.WriteString(c, batch[i:i+1])
		}
	})
	if d := cmp.Diff(whole, octets); d != "" {
		t.Error(d)
	}
	if !strings.HasSuffix(whole, ".\r\n+OK Bye\r\n") {
		t.Errorf("the batch ended with %q", whole)
	}
}
