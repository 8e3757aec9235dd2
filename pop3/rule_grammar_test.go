package pop3_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/pop3/client"
)

// Rules of greeting, grammar and replies.

// The greeting is one line of at most 512 octets, whatever the host is called.
func TestRule001_Greeting(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"", "pop.example", strings.Repeat("h", 255)} {
		w := newWorld()
		w.server.Hostname = host
		c := w.connect(t)
		r := bufio.NewReader(c)
		line, err := r.ReadString('\n')
		if err != nil || !strings.HasPrefix(line, "+OK ") || !strings.HasSuffix(line, "\r\n") || len(line) > 512 {
			t.Errorf("greeting %q, %v", line, err)
		}
		io.WriteString(c, "XYZZY\r\n")
		if line, _ := r.ReadString('\n'); !strings.HasPrefix(line, "-ERR ") {
			t.Errorf("the second line is %q and not the answer to the first command", line)
		}
		c.Close()
		w.wait(t)
	}
}

func TestRule002_StatusUpperCase(t *testing.T) { play(t, "rule002-*.txt") }

func TestRule003_KeywordsAnyCase(t *testing.T) { play(t, "rule003-*.txt") }

func TestRule004_KeywordLength(t *testing.T) { play(t, "rule004-*.txt") }

// No reply line has more than 512 octets, or is more than one line, whatever a
// client or a mechanism puts in.
func TestRule005_ReplyLines(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.policy.Offers = append(w.policy.Offers, wordy{})
	long := strings.Repeat("%s[", 160)
	for _, line := range []string{
		long, "USER " + long, "PASS " + long, "APOP " + long + " x", "AUTH " + long, "AUTH X-WORDY AA==", "STLS " + long, "LANG " + long,
		"STAT " + long, "LIST " + long, "RETR " + long, "TOP " + long + " 1", "TOP 1 " + long, "DELE " + long, "UIDL " + long, "LANG " + long,
		"LIST 99999999999999999999", "QUIT " + long,
	} {
		c := w.dial(t)
		if strings.Contains("STAT LIST RETR TOP DELE UIDL", strings.Fields(line)[0]) {
			if err := c.UserPass(t.Context(), "alice", "open sesame"); err != nil {
				t.Fatal(err)
			}
		}
		conn := c.Conn()
		go io.WriteString(conn, line+"\r\nCAPA\r\n") // ends when it was read or the connection ends
		r := bufio.NewReader(conn)
		reply, err := r.ReadString('\n')
		if err != nil || !strings.HasSuffix(reply, "\r\n") || len(reply) > 512 {
			t.Errorf("%.20s: got %d octets, %v: %q", line, len(reply), err, reply)
		}
		if next, err := r.ReadString('\n'); err != nil || !strings.HasPrefix(next, "+OK ") {
			t.Errorf("%.20s: the line after its reply is %q, %v", line, next, err)
		}
		c.Close()
		w.wait(t)
	}
}

// wordy refuses in a text that is far too long and more than one line.
type wordy struct{}

func (wordy) Name() string         { return "X-WORDY" }
func (wordy) Traits() authn.Traits { return 0 }

func (wordy) Start(context.Context, *authn.Transport) (authn.Exchange, error) {
	return nil, &authn.Error{Kind: authn.Denied, Step: "X-WORDY", Text: "no\r\n+OK yes" + strings.Repeat("\x00", 1000)}
}

// A command line may have 255 octets with its CRLF.
func TestRule006_LineOf255Octets(t *testing.T) {
	t.Parallel()
	pass := passwords["long"]
	if n := len("PASS " + pass + "\r\n"); n != 255 {
		t.Fatalf("the line has %d octets", n)
	}
	if err := newWorld().dial(t).UserPass(t.Context(), "long", pass); err != nil {
		t.Error(err)
	}
}

func TestRule007_UnknownCommands(t *testing.T) { play(t, "rule007-*.txt") }

func TestRule008_WrongState(t *testing.T) { play(t, "rule008-*.txt") }

// A line that is too long is read to its end, refused once, and forgotten.
func TestRule009_LineTooLong(t *testing.T) {
	t.Parallel()
	for _, begin := range []string{"", "USER ", "PASS ", "AUTH PLAIN ", "RETR "} {
		for _, login := range []bool{false, true} {
			t.Run(fmt.Sprintf("%q/%t", begin, login), func(t *testing.T) {
				t.Parallel()
				w := newWorld()
				c := w.dial(t)
				if login {
					if err := c.UserPass(t.Context(), "alice", "open sesame"); err != nil {
						t.Fatal(err)
					}
				}
				for _, n := range []int{600 / 7, 1 << 17} { // the first fits into a read
					if n < 1000 && strings.HasPrefix(begin, "AUTH") && !login {
						continue // may be longer than other commands
					}
					go io.WriteString(c.Conn(), begin+strings.Repeat("DELE 1 ", n)+"\r\n") // ends with the connection
					var se *client.ServerError
					if text, err := c.Reply(t.Context()); !errors.As(err, &se) || se.Text != "Line too long" {
						t.Fatalf("got %q, %v", text, err)
					}
					if _, err := c.Capa(t.Context()); err != nil {
						t.Fatalf("the next line: %v", err)
					}
				}
			})
		}
	}
}

func TestRule010_Separators(t *testing.T) { play(t, "rule010-*.txt") }

func TestRule011_Numbers(t *testing.T) { play(t, "rule011-*.txt") }

func TestRule012_MessageNumberZero(t *testing.T) { play(t, "rule012-*.txt") }

func TestRule013_BareLineFeed(t *testing.T) { play(t, "rule013-*.txt") }

func TestRule014_NUL(t *testing.T) { play(t, "rule014-*.txt") }

func TestRule015_GreetingWithoutStamp(t *testing.T) { play(t, "rule015-*.txt") }

func TestRule016_BracketsAreCodes(t *testing.T) { play(t, "rule016-*.txt") }

func TestRule017_ByteStuffing(t *testing.T) { play(t, "rule017-*.txt") }

// Dots are stuffed at the start of a line, the first line included. A CR
// without LF ends no line.
func TestRule018_StuffingAtLineStarts(t *testing.T) {
	t.Parallel()
	w := newWorld()
	messages := []struct{ text, wire string }{
		{".", "..\r\n"},
		{"a.b\n.c.\n..\n", "a.b\r\n..c.\r\n...\r\n"},
		{"a\r.b\n", "a\r.b\r\n"},
		{"a\n\r.b\n", "a\r\n\r.b\r\n"},
		{"a\r\n.b\r\n", "a\r\n..b\r\n"},
		{"\r.\r\n.\r\n", "\r.\r\n..\r\n"},
	}
	for _, m := range messages {
		w.store.Deliver("alice", m.text)
	}
	c := w.login(t)
	for i, m := range messages {
		if got := rawBody(t, c, fmt.Sprintf("RETR %d", i+1)); got != m.wire+".\r\n" {
			t.Errorf("%q: RETR sends %q, want %q", m.text, got, m.wire+".\r\n")
		}
		want := int64(len(m.wire) - strings.Count("\n"+m.wire, "\n."))
		if size, err := c.Size(t.Context(), i+1); err != nil || size != want {
			t.Errorf("%q: LIST says %d, %v, want %d", m.text, size, err, want)
		}
		header, _, _ := strings.Cut(m.wire, "\r\n\r\n")
		if got := rawBody(t, c, fmt.Sprintf("TOP %d 9", i+1)); !strings.HasPrefix(got, header) {
			t.Errorf("%q: TOP sends %q, want %q", m.text, got, header)
		}
	}
}

// rawBody is what the server sends after the first line of its reply to cmd,
// the terminator included.
func rawBody(t *testing.T, c *client.Client, cmd string) string {
	t.Helper()
	if err := c.Send(t.Context(), cmd); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Reply(t.Context()); err != nil {
		t.Fatal(cmd, err)
	}
	var b strings.Builder
	for {
		p := make([]byte, 1)
		if _, err := c.Read(p); err != nil {
			t.Fatal(cmd, err)
		}
		b.Write(p)
		if s := b.String(); s == ".\r\n" || strings.HasSuffix(s, "\r\n.\r\n") {
			return s
		}
	}
}

// A message whose last line has no end gets one, and its size counts it.
func TestRule019_LastLineWithoutEnd(t *testing.T) {
	t.Parallel()
	w := newWorld()
	messages := []struct{ text, wire string }{
		{"", ""}, {"a", "a\r\n"}, {"a\n", "a\r\n"}, {"a\r\n", "a\r\n"}, {"a\r\n\r\nb", "a\r\n\r\nb\r\n"}, {"a\r", "a\r\r\n"}, {"\n", "\r\n"},
	}
	for _, m := range messages {
		w.store.Deliver("alice", m.text)
	}
	c := w.login(t)
	for i, m := range messages {
		if got := rawBody(t, c, fmt.Sprintf("RETR %d", i+1)); got != m.wire+".\r\n" {
			t.Errorf("%q: RETR sends %q, want %q", m.text, got, m.wire+".\r\n")
		}
		if size, err := c.Size(t.Context(), i+1); err != nil || size != int64(len(m.wire)) {
			t.Errorf("%q: LIST says %d, %v, want %d", m.text, size, err, len(m.wire))
		}
	}
}

func TestRule020_NoLineTooMany(t *testing.T) { play(t, "rule020-*.txt") }

// Both versions of IP get the same, and nothing that waits comes before the
// greeting: no time passes on a clock that only moves when all wait.
func TestRule021_SameForIPv4AndIPv6(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Skipf("no listener on %s: %v", address, err)
		}
		defer l.Close()
		w := newWorld()
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		far, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		w.t.Remote = c.LocalAddr().(*net.TCPAddr).AddrPort()
		w.t.Local = l.Addr().(*net.TCPAddr).AddrPort()
		w.serve(t.Context(), far)
		cl, err := client.New(t.Context(), c, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := cl.UserPass(t.Context(), "alice", "open sesame"); err != nil {
			t.Errorf("%s: %v", address, err)
		}
		if err := cl.Quit(t.Context()); err != nil {
			t.Errorf("%s: %v", address, err)
		}
		w.wait(t)
	}
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		newWorld().dial(t)
		if d := time.Since(start); d != 0 {
			t.Errorf("the greeting took %v", d)
		}
	})
}

func TestRule022_QuitCloses(t *testing.T) { play(t, "rule022-*.txt") }
