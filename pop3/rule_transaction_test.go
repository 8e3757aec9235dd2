package pop3_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kpopd/kpopd/maildrop"
	"github.com/kpopd/kpopd/pop3/client"
)

// Rules of the TRANSACTION state.

func TestRule040_NumbersAreFixed(t *testing.T) { play(t, "rule040-*.txt") }

func TestRule041_STAT(t *testing.T) { play(t, "rule041-*.txt") }

func TestRule042_STATWithoutDeleted(t *testing.T) { play(t, "rule042-*.txt") }

func TestRule043_LIST(t *testing.T) { play(t, "rule043-*.txt") }

func TestRule044_ListEmpty(t *testing.T) { play(t, "rule044-*.txt") }

func TestRule045_NothingAfterSize(t *testing.T) { play(t, "rule045-*.txt") }

// oddMessages are all octets that mail should not have and has.
func oddMessages() []string {
	r := rand.New(rand.NewPCG(1, 2))
	ms := []string{
		"", "\n", "\r", "\r\n", ".", "..", ".\n", "\n.\n", "\r\n.\r\n", "\n.\r\n", "\r.\r", "a\rb\nc\r\nd",
		"Subject: NUL \x00 and \xff\xfe\n\n\x00\n", "Subject: no end", "Subject: x\n\n\r", "a\r\r\nb\n\r",
		"Subject: long\n\n" + strings.Repeat("x", 1<<20) + "\n.\n",
		"Subject: at the edge\n\n" + strings.Repeat("x", 64<<10-28) + "\r\n.\r\n",
		strings.Repeat(".\n", 50_000), strings.Repeat("\r", 70_000), strings.Repeat("\n", 70_000),
	}
	for range 50 {
		b := make([]byte, r.IntN(200))
		for i := range b {
			b[i] = "\r\n.a"[r.IntN(4)]
		}
		ms = append(ms, string(b))
	}
	return ms
}

// sentForm is the definition of RFC 1939 section 11 octet by octet: CRLF at
// every line end, one at the end of the last line, before stuffing.
func sentForm(stored string) string {
	var b strings.Builder
	for i := range len(stored) {
		if stored[i] == '\n' && (i == 0 || stored[i-1] != '\r') {
			b.WriteByte('\r')
		}
		b.WriteByte(stored[i])
	}
	if s := b.String(); s != "" && s[len(s)-1] != '\n' {
		b.WriteString("\r\n")
	}
	return b.String()
}

// retrAll reads all messages as they are sent, without stuffing.
func retrAll(t *testing.T, c *client.Client, command string) (all []string) {
	t.Helper()
	list, err := c.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range list {
		if err := c.Send(t.Context(), strings.ReplaceAll(command, "N", fmt.Sprint(l.Number))); err != nil {
			t.Fatal(err)
		}
		r, err := c.ReadBody(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, string(b))
	}
	return all
}

// LIST tells the octets that RETR sends: CRLF at each line end, before
// stuffing, without the terminator.
func TestRule046_SizeIsWhatRetrSends(t *testing.T) {
	t.Parallel()
	w := newWorld()
	for _, m := range oddMessages() {
		w.store.Deliver("alice", m)
	}
	c := w.login(t)
	list, err := c.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, got := range retrAll(t, c, "RETR N") {
		if list[i].Size != int64(len(got)) {
			t.Errorf("message %d: LIST says %d, RETR sends %d octets", i+1, list[i].Size, len(got))
		}
		if size, err := c.Size(t.Context(), i+1); err != nil || size != list[i].Size {
			t.Errorf("message %d: LIST says %d of all and %d, %v of one", i+1, list[i].Size, size, err)
		}
	}
}

// STAT is the sum of LIST, also after DELE and RSET.
func TestRule047_SumOfSizes(t *testing.T) {
	t.Parallel()
	w := newWorld()
	for _, m := range oddMessages() {
		w.store.Deliver("alice", m)
	}
	c := w.login(t)
	check := func(when string) {
		t.Helper()
		list, err := c.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var sum int64
		for _, l := range list {
			sum += l.Size
		}
		if n, size, err := c.Stat(t.Context()); err != nil || n != len(list) || size != sum {
			t.Errorf("%s: STAT says %d %d, %v; LIST has %d with %d", when, n, size, err, len(list), sum)
		}
	}
	check("at first")
	for _, n := range []int{17, 1, 20, 3} {
		if err := c.Dele(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		check("after DELE")
	}
	if err := c.Rset(t.Context()); err != nil {
		t.Fatal(err)
	}
	check("after RSET")
}

func TestRule048_RetrRefused(t *testing.T) { play(t, "rule048-*.txt") }

// A message that cannot be sent as announced, because the store fails or says
// something else than before, ends the connection without a terminator, and
// the session removes nothing.
func TestRule049_TornMessage(t *testing.T) {
	t.Parallel()
	fails := errors.New("input/output error")
	for _, tt := range []struct {
		name     string
		content  io.Reader
		size     int64
		wireForm bool
		command  string
	}{
		{"error in the middle", io.MultiReader(strings.NewReader("a\r\nb\r\n"), broken{fails}), 100, true, "RETR 1"},
		{"error in the middle, LF", io.MultiReader(strings.NewReader("a\nb\n"), broken{fails}), 100, false, "RETR 1"},
		{"error after the last octet", io.MultiReader(strings.NewReader("a\nb\n"), broken{fails}), 6, false, "RETR 1"},
		{"too short", strings.NewReader("a\r\nb\r\n"), 7, true, "RETR 1"},
		{"too short, LF", strings.NewReader("a\nb\n"), 7, false, "RETR 1"},
		{"too long", strings.NewReader("a\r\nb\r\n"), 5, true, "RETR 1"},
		{"too long, LF", strings.NewReader("a\nb\n"), 5, false, "RETR 1"},
		{"no wire form", strings.NewReader("a\r\nb"), 4, true, "RETR 1"},
		{"TOP of all", io.MultiReader(strings.NewReader("a\n\nb\n"), broken{fails}), 100, false, "TOP 1 100"},
		{"TOP of some", io.MultiReader(strings.NewReader("a\n\nb\n"), broken{fails}), 100, false, "TOP 1 2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			d := &oddDrop{
				messages: []maildrop.Message{{UID: "1", Size: tt.size, WireForm: tt.wireForm}, {UID: "2"}},
				content:  func(int) (io.ReadCloser, error) { return io.NopCloser(tt.content), nil },
			}
			w.has(d)
			c := w.login(t)
			if err := c.Dele(t.Context(), 2); err != nil {
				t.Fatal(err)
			}
			if err := c.Send(t.Context(), tt.command); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Reply(t.Context()); err != nil {
				t.Fatal(err)
			}
			got, _ := io.ReadAll(c)
			if bytes.HasPrefix(got, []byte(".\r\n")) || bytes.Contains(got, []byte("\r\n.\r\n")) {
				t.Errorf("sent %q, with a terminator", got)
			}
			w.wait(t)
			if d := cmp.Diff([]string{"close"}, d.calls); d != "" {
				t.Error(d)
			}
		})
	}
}

// broken fails at once.
type broken struct{ err error }

func (e broken) Read([]byte) (int, error) { return 0, e.err }

func TestRule050_DELE(t *testing.T) { play(t, "rule050-*.txt") }

// A mark is a mark: the message is there until QUIT.
func TestRule051_NothingGoesBeforeUpdate(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.store.Deliver("alice", "Subject: one\n\n")
	c := w.login(t)
	if err := c.Dele(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if w.committed.Load() != 0 {
		t.Error("DELE went to the store")
	}
	if err := c.Quit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, _ := w.free(t, "alice"); n != 0 || w.committed.Load() != 1 {
		t.Errorf("%d messages left, %d commits", n, w.committed.Load())
	}
}

func TestRule052_RSET(t *testing.T) { play(t, "rule052-*.txt") }

func TestRule053_NOOP(t *testing.T) { play(t, "rule053-*.txt") }

func TestRule054_TOP(t *testing.T) { play(t, "rule054-*.txt") }

func TestRule055_Top0(t *testing.T) { play(t, "rule055-*.txt") }

// TOP counts lines of the body and nothing else, whatever the line ends in the
// store are.
func TestRule056_TopCountsBodyLines(t *testing.T) {
	play(t, "rule056-*.txt")
	w := newWorld()
	messages := append(oddMessages(), "a: b\r\n\r\nc\r\n\r\nd\r\ne\r\n", "a: b\n\r\nc\n", "a: b\r\n\r\r\nno body\r\n", "\r\nc\r\nd")
	for _, m := range messages {
		w.store.Deliver("alice", m)
	}
	c := w.login(t)
	for k := range 4 {
		for i, got := range retrAll(t, c, fmt.Sprintf("TOP N %d", k)) {
			if want := topForm(messages[i], k); got != want {
				t.Errorf("%.60q: TOP %d sends %.60q, want %.60q", messages[i], k, got, want)
			}
		}
	}
}

// topForm is the definition of TOP in RFC 1939 section 7, line by line.
func topForm(stored string, k int) string {
	var b strings.Builder
	header := true
	for line := range strings.Lines(sentForm(stored)) {
		if !header {
			if k == 0 {
				break
			}
			k--
		}
		b.WriteString(line)
		header = header && line != "\r\n"
	}
	return b.String()
}

func TestRule057_TopStuffs(t *testing.T) { play(t, "rule057-*.txt") }

// TOP reads and changes nothing: at QUIT the store is told of no message.
func TestRule058_TopLeavesNoTrace(t *testing.T) {
	t.Parallel()
	w := newWorld()
	d := &oddDrop{
		messages: []maildrop.Message{{UID: "1", Size: 3}},
		content:  func(int) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("a\n")), nil },
	}
	w.has(d)
	c := w.login(t)
	if _, err := c.Top(t.Context(), 1, 5); err != nil {
		t.Fatal(err)
	}
	if err := c.Quit(t.Context()); err != nil || len(d.del) != 0 {
		t.Errorf("QUIT: %v, removed %v", err, d.del)
	}
}

func TestRule059_UIDL(t *testing.T) { play(t, "rule059-*.txt") }

// A unique-id is 1 to 70 octets from ! to ~, and goes out as the store has it.
func TestRule060_UniqueIDs(t *testing.T) {
	t.Parallel()
	w := newWorld()
	var all strings.Builder
	for b := byte(0x21); b <= 0x7e; b++ {
		all.WriteByte(b)
	}
	uids := []string{"!", all.String()[:70], all.String()[24:], strings.Repeat("~", 70)}
	d := &oddDrop{}
	for _, u := range uids {
		d.messages = append(d.messages, maildrop.Message{UID: u})
	}
	w.has(d)
	c := w.login(t)
	got, err := c.UIDL(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, u := range got {
		if u.Number != i+1 || u.UID != uids[i] || len(u.UID) > 70 {
			t.Errorf("got %v, want %q", u, uids[i])
		}
	}
}

// Unique-ids are the same in the next session, with and without QUIT between,
// and after others were removed.
func TestRule061_UniqueIDsPersist(t *testing.T) {
	t.Parallel()
	w := newWorld()
	for range 3 {
		w.store.Deliver("alice", "Subject: the same\n\n")
	}
	c := w.login(t)
	first, err := c.UIDL(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	w.wait(t)
	c = w.login(t)
	if again, err := c.UIDL(t.Context()); err != nil || !cmp.Equal(first, again) {
		t.Errorf("after a lost connection: %v, %v, were %v", again, err, first)
	}
	c.Dele(t.Context(), 1)
	if err := c.Quit(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.wait(t)
	last, err := w.login(t).UIDL(t.Context())
	if err != nil || len(last) != 2 || last[0].UID != first[1].UID || last[1].UID != first[2].UID {
		t.Errorf("after DELE 1: %v, %v, were %v", last, err, first)
	}
}

// A unique-id is given once, also when its message is gone and another one
// with the same content comes.
func TestRule062_UniqueIDsAreNotReused(t *testing.T) {
	t.Parallel()
	w := newWorld()
	seen := map[string]bool{}
	for range 3 {
		w.store.Deliver("alice", "Subject: the same\n\n")
		c := w.login(t)
		uid, err := c.UID(t.Context(), 1)
		if err != nil || seen[uid] {
			t.Fatalf("unique-id %q, %v, seen before: %t", uid, err, seen[uid])
		}
		seen[uid] = true
		c.Dele(t.Context(), 1)
		if err := c.Quit(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.wait(t)
	}
}

func TestRule063_NothingAfterUniqueID(t *testing.T) { play(t, "rule063-*.txt") }

// TOP and UIDL are there and are announced.
func TestRule064_OptionalCommands(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.store.Deliver("alice", "Subject: one\n\n")
	c := w.login(t)
	caps, err := c.Capa(t.Context())
	if err != nil || !caps.Has("TOP") || !caps.Has("UIDL") {
		t.Errorf("CAPA says %v, %v", caps, err)
	}
	if _, err := c.Top(t.Context(), 1, 0); err != nil {
		t.Error(err)
	}
	if _, err := c.UIDL(t.Context()); err != nil {
		t.Error(err)
	}
}

// The autologout timer has ten minutes, and any command starts it anew, a
// refused one as well.
func TestRule065_Autologout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		c := w.login(t)
		for _, command := range []string{"NOOP", "STAT", "XYZZY", "RETR 9", ""} {
			time.Sleep(10*time.Minute - time.Second)
			var se *client.ServerError
			if _, err := c.Cmd(t.Context(), command); err != nil && !errors.As(err, &se) {
				t.Fatalf("%s after less than ten minutes: %v", command, err)
			}
		}
		start := time.Now()
		if _, err := io.ReadAll(c); err != nil {
			t.Error(err)
		}
		if d := time.Since(start); d != 10*time.Minute {
			t.Errorf("hung up after %v", d)
		}
	})
}

// The timer ends a session without a word and without UPDATE.
func TestRule066_SilentTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.store.Deliver("alice", "Subject: one\n\n")
		c := w.login(t)
		if err := c.Dele(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(c); err != nil || len(got) > 0 {
			t.Errorf("said %q, %v", got, err)
		}
		w.wait(t)
		if n, free := w.free(t, "alice"); n != 1 || !free || w.committed.Load() != 0 {
			t.Errorf("%d messages, free %t, %d commits", n, free, w.committed.Load())
		}
	})
}

// Who reads slowly is not idle: a download may take longer than the timer, and
// the timer starts when it is over.
func TestRule067_SlowDownloadIsNotIdle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.store.Deliver("alice", strings.Repeat(strings.Repeat("x", 78)+"\n", 1<<15))
		c := w.login(t)
		start := time.Now()
		r, err := c.Retr(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		for p := make([]byte, 4<<10); err == nil; _, err = io.ReadFull(r, p) {
			time.Sleep(time.Second)
		}
		if err != io.EOF && err != io.ErrUnexpectedEOF || time.Since(start) < 10*time.Minute {
			t.Errorf("the download ended after %v with %v", time.Since(start), err)
		}
		time.Sleep(10*time.Minute - time.Minute)
		if err := c.Noop(t.Context()); err != nil {
			t.Errorf("after the download: %v", err)
		}
	})
}

func TestRule068_DeliveryDoesNotDisturb(t *testing.T) { play(t, "rule068-*.txt") }

func TestRule069_ListingIsSnapshot(t *testing.T) { play(t, "rule069-*.txt") }

// Sizes and their sum are 64-bit numbers.
func TestRule070_LargeSizes(t *testing.T) {
	t.Parallel()
	w := newWorld()
	const size = 3 << 30
	d := &oddDrop{
		messages: []maildrop.Message{{UID: "1", Size: size}, {UID: "2", Size: size}, {UID: "3", Size: 1 << 53}},
		content:  func(int) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("a\n")), nil },
	}
	w.has(d)
	c := w.login(t)
	for command, want := range map[string]string{"STAT": "3 9007205697191936", "LIST 1": "1 3221225472", "LIST 3": "3 9007199254740992"} {
		if got, err := c.Cmd(t.Context(), command); err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", command, got, err, want)
		}
	}
	c.Dele(t.Context(), 3)
	if _, sum, err := c.Stat(t.Context()); err != nil || sum != 2*size {
		t.Errorf("STAT: %d, %v, want %d", sum, err, 2*size)
	}
	if got, err := c.Cmd(t.Context(), "RETR 1"); err != nil || !strings.HasPrefix(got, "3221225472 ") {
		t.Errorf("RETR 1: %q, %v", got, err)
	}
}

// Whatever octets a message has, RETR sends them as sentForm says.
func TestRule071_AnyOctets(t *testing.T) {
	t.Parallel()
	w := newWorld()
	messages := oddMessages()
	for _, m := range messages {
		w.store.Deliver("alice", m)
	}
	for i, got := range retrAll(t, w.login(t), "RETR N") {
		if want := sentForm(messages[i]); got != want {
			t.Errorf("message %d: got %.60q with %d octets, want %.60q with %d", i+1, got, len(got), want, len(want))
		}
	}
}

// LIST, RETR and TOP agree with each other and with the next session.
func TestRule072_OneCanonicalForm(t *testing.T) {
	t.Parallel()
	w := newWorld()
	for _, m := range oddMessages() {
		w.store.Deliver("alice", m)
	}
	session := func(command string) ([]client.Scan, []string) {
		c := w.login(t)
		list, err := c.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		all := retrAll(t, c, command)
		c.Close()
		w.wait(t)
		return list, all
	}
	sizes, whole := session("RETR N")
	sizesAgain, top := session("TOP N 99999999")
	if d := cmp.Diff(sizes, sizesAgain); d != "" {
		t.Error(d)
	}
	for i := range whole {
		if whole[i] != top[i] {
			t.Errorf("message %d: RETR sends %.60q, TOP sends %.60q", i+1, whole[i], top[i])
		}
	}
}
