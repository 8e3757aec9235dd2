package client_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/google/go-cmp/cmp"

	"github.com/kpopd/kpopd/pop3/client"
)

// serve plays script against the other end of the connection that it returns:
// "S: " is sent with CRLF, "C: " must come. It hangs up at the end.
func serve(t *testing.T, script string) net.Conn {
	t.Helper()
	near, far := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer far.Close()
		r := bufio.NewReader(far)
		for step := range strings.Lines(script) {
			step = strings.TrimSuffix(step, "\n")
			text := strings.TrimPrefix(step[2:], " ")
			if step[:2] == "S:" {
				if _, err := io.WriteString(far, text+"\r\n"); err != nil {
					t.Errorf("%s: %v", step, err)
					return
				}
				continue
			}
			got, err := r.ReadString('\n')
			if err != nil || got != text+"\r\n" {
				t.Errorf("client sent %q, %v, want %q", got, err, text)
				return
			}
		}
	}()
	t.Cleanup(func() { near.Close(); <-done })
	return near
}

func dial(t *testing.T, o *client.Options, script string) *client.Client {
	t.Helper()
	c, err := client.New(t.Context(), serve(t, script), o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestSession(t *testing.T) {
	t.Parallel()
	c := dial(t, nil, `S: +OK POP3 ready
C: CAPA
S: +OK
S: top
S: SASL PLAIN GSSAPI
S: .
C: USER alice
S: +OK
C: PASS two  words 
S: +OK
C: STAT
S: +OK 2 3221225472
C: LIST
S: +OK
S: 1 3221225470
S: 2 2
S: .
C: LIST 2
S: +OK 2 2
C: UIDL
S: +OK
S: 1 a
S: 2 !~
S: .
C: UIDL 2
S: +OK 2 !~
C: DELE 1
S: +OK
C: RSET
S: +OK
C: NOOP
S: +OK
C: QUIT
S: -ERR [SYS/PERM] Some are left
`)
	ctx := t.Context()
	check := func(what string, err error, got, want any) {
		t.Helper()
		if err != nil || !cmp.Equal(got, want) {
			t.Fatalf("%s: got %v, %v, want %v", what, got, err, want)
		}
	}
	caps, err := c.Capa(ctx)
	check("capa", err, caps, client.Capabilities{"TOP": {}, "SASL": {"PLAIN", "GSSAPI"}})
	if !caps.Has("Top") || caps.Has("STLS") {
		t.Error("capabilities do not know what they have")
	}
	check("login", c.UserPass(ctx, "alice", "two  words "), nil, nil)
	n, size, err := c.Stat(ctx)
	check("stat", err, []int64{int64(n), size}, []int64{2, 3221225472})
	list, err := c.List(ctx)
	check("list", err, list, []client.Scan{{Number: 1, Size: 3221225470}, {Number: 2, Size: 2}})
	size, err = c.Size(ctx, 2)
	check("list 2", err, size, int64(2))
	ids, err := c.UIDL(ctx)
	check("uidl", err, ids, []client.UniqueID{{Number: 1, UID: "a"}, {Number: 2, UID: "!~"}})
	id, err := c.UID(ctx, 2)
	check("uidl 2", err, id, "!~")
	check("dele", c.Dele(ctx, 1), nil, nil)
	check("rset", c.Rset(ctx), nil, nil)
	check("noop", c.Noop(ctx), nil, nil)
	var se *client.ServerError
	if err := c.Quit(ctx); !errors.As(err, &se) || *se != (client.ServerError{Code: "SYS/PERM", Text: "Some are left"}) {
		t.Errorf("quit: %v", err)
	}
}

// TestApop is the example of RFC 1939 section 7.
func TestApop(t *testing.T) {
	t.Parallel()
	c := dial(t, nil, `S: +OK POP3 server ready <1896.697170952@dbc.mtview.ca.us>
C: APOP mrose c4c9334bac560ecc979e58001b3e22fb
S: +OK
`)
	if err := c.Apop(t.Context(), "mrose", "tanstaaf"); err != nil {
		t.Error(err)
	}
	if err := dial(t, nil, "S: +OK ready <no timestamp>\n").Apop(t.Context(), "mrose", "tanstaaf"); err == nil {
		t.Error("APOP went ahead without a timestamp")
	}
}

func TestMessage(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 4095) // with its CR at the end of the read buffer
	c := dial(t, nil, "S: +OK\nC: RETR 1\nC: TOP 2 0\nC: NOOP\nS: +OK\nS: a\nS: ..b\nS: "+long+
		"\nS: \nS: .\nS: +OK\nS: unread\nS: .\nS: +OK still in step\n")
	if err := c.Send(t.Context(), "RETR 1", "TOP 2 0", "NOOP"); err != nil {
		t.Fatal(err)
	}
	r, err := c.ReadBody(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if want := "a\r\n.b\r\n" + long + "\r\n\r\n"; err != nil || string(got) != want {
		t.Errorf("got %d octets, %v, want %d", len(got), err, len(want))
	}
	if _, err := c.ReadBody(t.Context()); err != nil {
		t.Fatal(err)
	}
	if text, err := c.Reply(t.Context()); err != nil || text != "still in step" {
		t.Errorf("after a body that was not read: %q, %v", text, err)
	}
}

func TestTornMessage(t *testing.T) {
	t.Parallel()
	r, err := dial(t, nil, "S: +OK\nC: RETR 1\nS: +OK\nS: half\n").Retr(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a message without its terminator read as %q, %v", got, err)
	}
}

func TestReplies(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, line, want string }{
		{"code", "-ERR [IN-USE] locked", "pop3 server: [IN-USE] locked"},
		{"no code", "-ERR no", "pop3 server: no"},
		{"bare", "-ERR", "pop3 server: "},
		{"bracket later is no code", "-ERR see [1]", "pop3 server: see [1]"},
		{"unfinished code", "-ERR [AUTH no", "pop3 server: [AUTH no"},
		{"made up status", "+ERR no", `pop3 client: reply is neither +OK nor -ERR: "+ERR no"`},
		{"lower case", "+ok", `pop3 client: reply is neither +OK nor -ERR: "+ok"`},
		{"glued", "+OKAY", `pop3 client: reply is neither +OK nor -ERR: "+OKAY"`},
		{"continuation", "+ ", `pop3 client: continuation "+ " outside of AUTH`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := dial(t, nil, "S: +OK\nC: X\nS: "+tt.line+"\n").Cmd(t.Context(), "X")
			if err == nil || err.Error() != tt.want {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
	if err := dial(t, nil, "S: +OK\n").Send(t.Context(), "NOOP\r\nDELE 1"); err == nil {
		t.Error("a command with a line break was sent")
	}
}

func TestAuth(t *testing.T) {
	t.Parallel()
	fits, long := strings.Repeat("p", 170), strings.Repeat("p", 180)
	b64 := func(p string) string {
		_, ir, _ := sasl.NewPlainClient("", "u", p).Start()
		return encode(ir)
	}
	for _, tt := range []struct {
		name   string
		o      *client.Options
		m      sasl.Client
		script string
		want   string
	}{
		{"initial response", nil, sasl.NewPlainClient("", "u", fits), "C: AUTH PLAIN " + b64(fits) + "\nS: +OK\n", ""},
		{"too long for one line", nil, sasl.NewPlainClient("", "u", long), "C: AUTH PLAIN\nS: + \nC: " + b64(long) + "\nS: +OK\n", ""},
		{"too long but asked for", &client.Options{LongInitial: true}, sasl.NewPlainClient("", "u", long), "C: AUTH PLAIN " + b64(long) + "\nS: +OK\n", ""},
		{"empty initial response", nil, sasl.NewExternalClient(""), "C: AUTH EXTERNAL =\nS: +OK\n", ""},
		{"refused", nil, sasl.NewPlainClient("", "u", "p"), "C: AUTH PLAIN AHUAcA==\nS: -ERR [AUTH] no\n", "pop3 server: [AUTH] no"},
		{"server first", nil, serverFirst{}, "C: AUTH FIRST\nS: + cQ==\nC: YQ==\nS: + \nC: \nS: +OK\n", ""},
		{"client gives up", nil, serverFirst{}, "C: AUTH FIRST\nS: + eA==\nC: *\nS: -ERR cancelled\n", "odd challenge"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := dial(t, tt.o, "S: +OK\n"+tt.script).Auth(t.Context(), tt.m)
			if fmt.Sprint(err) != tt.want && (err != nil || tt.want != "") {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

// serverFirst answers "q" with "a" and nothing with nothing.
type serverFirst struct{}

func (serverFirst) Start() (string, []byte, error) { return "FIRST", nil, nil }

func (serverFirst) Next(challenge []byte) ([]byte, error) {
	switch string(challenge) {
	case "q":
		return []byte("a"), nil
	case "":
		return nil, nil
	}
	return nil, errors.New("odd challenge")
}

// layered negotiates a layer that swaps the case of ASCII letters.
type layered struct{ sasl.Client }

func (layered) Layer() func(net.Conn) net.Conn {
	return func(c net.Conn) net.Conn { return swapCase{c} }
}

type swapCase struct{ net.Conn }

func (s swapCase) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	copy(p, swap(p[:n]))
	return n, err
}

func (s swapCase) Write(p []byte) (int, error) { return s.Conn.Write(swap(p)) }

func swap(p []byte) []byte {
	return bytes.Map(func(r rune) rune {
		if 'a' <= r|0x20 && r|0x20 <= 'z' {
			return r ^ 0x20
		}
		return r
	}, p)
}

func TestSecurityLayer(t *testing.T) {
	t.Parallel()
	c := dial(t, nil, "S: +OK\nC: AUTH PLAIN AHUAcA==\nS: +OK plain\nC: noop\nS: +ok UNDER THE LAYER\n")
	if err := c.Auth(t.Context(), layered{sasl.NewPlainClient("", "u", "p")}); err != nil {
		t.Fatal(err)
	}
	if text, err := c.Cmd(t.Context(), "NOOP"); err != nil || text != "under the layer" {
		t.Errorf("got %q, %v", text, err)
	}
}

func TestLogMasksSecrets(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	o := &client.Options{Log: func(k client.Kind, line string) { fmt.Fprintf(&log, "%c: %s\n", k, line) }}
	c := dial(t, o, `S: +OK <1@h>
C: USER u
S: +OK
C: PASS hunter2 x
S: -ERR
C: APOP u 5eefb3acb3e9bfcb3b5e2d9d5d6a0f0a
S: -ERR
C: AUTH PLAIN AHUAcA==
S: -ERR
C: AUTH FIRST
S: + cQ==
C: YQ==
S: +OK
C: RETR 1
S: +OK
S: ..
S: .
`)
	ctx := t.Context()
	c.UserPass(ctx, "u", "hunter2 x")
	c.Cmd(ctx, "APOP u 5eefb3acb3e9bfcb3b5e2d9d5d6a0f0a")
	c.Auth(ctx, sasl.NewPlainClient("", "u", "p"))
	c.Auth(ctx, serverFirst{})
	if r, err := c.Retr(ctx, 1); err == nil {
		io.Copy(io.Discard, r)
	}
	want := `S: +OK <1@h>
C: USER u
S: +OK
C: PASS ***
S: -ERR
C: APOP u ***
S: -ERR
C: AUTH PLAIN ***
S: -ERR
C: AUTH FIRST
S: + cQ==
C: ***
S: +OK
C: RETR 1
S: +OK
B: ..
B: .
`
	if d := cmp.Diff(want, log.String()); d != "" {
		t.Error(d)
	}
}

// A lenient client takes listings that RFC 1939 does not allow as they come.
func TestLenient(t *testing.T) {
	t.Parallel()
	const script = `S: +OK
C: LIST
S: +OK
S: 1 10 octets
S: 2 20
S: .
C: UIDL
S: +OK
S: 1 two words
S: 2
S: .
`
	c := dial(t, &client.Options{Lenient: true}, script)
	sizes, err := c.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ids, err := c.UIDL(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]client.Scan{{1, 10}, {2, 20}}, sizes) + cmp.Diff([]client.UniqueID{{1, "two words"}, {2, ""}}, ids); d != "" {
		t.Error(d)
	}
	for list, read := range map[string]func(*client.Client) error{
		"LIST": func(c *client.Client) error { _, err := c.List(t.Context()); return err },
		"UIDL": func(c *client.Client) error { _, err := c.UIDL(t.Context()); return err },
	} {
		for name, o := range map[string]*client.Options{"1 10 octets": nil, "x 10": {Lenient: true}} {
			if err := read(dial(t, o, "S: +OK\nC: "+list+"\nS: +OK\nS: "+name+"\nS: .\n")); err == nil {
				t.Errorf("%s takes %q with %+v", list, name, o)
			}
		}
	}
}

// Hangup says nothing and returns when the server has ended the session, too.
func TestHangup(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var ended atomic.Bool
	served := make(chan struct{})
	go func() {
		defer close(served)
		c, err := l.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		io.WriteString(c, "+OK\r\n")
		if b, err := io.ReadAll(c); err != nil || len(b) > 0 {
			t.Errorf("the server heard %q, %v", b, err)
		}
		ended.Store(true)
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(t.Context(), conn, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Hangup(t.Context()); err != nil || !ended.Load() {
		t.Errorf("%v, the server has ended: %v", err, ended.Load())
	}
	<-served
}

// A server that does not hang up is waited for no longer than ctx says.
func TestHangupDeadline(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	io.WriteString(server, "+OK\r\n")
	c, err := client.New(t.Context(), conn, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := c.Hangup(ctx); err == nil {
		t.Error("a server that stays is taken for one that has gone")
	}
}

func TestContext(t *testing.T) {
	t.Parallel()
	t.Run("deadline", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			near, far := net.Pipe()
			defer far.Close()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			start := time.Now()
			if _, err := client.New(ctx, near, nil); err == nil || time.Since(start) != time.Minute {
				t.Errorf("silence ended with %v after %v", err, time.Since(start))
			}
		})
	})
	t.Run("cancelled while a body is read", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			near, far := net.Pipe()
			defer far.Close()
			go func() {
				io.WriteString(far, "+OK\r\n")
				io.ReadFull(far, make([]byte, len("RETR 1\r\n")))
				io.WriteString(far, "+OK\r\nhalf\r\n")
			}()
			c, err := client.New(t.Context(), near, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			ctx, cancel := context.WithCancel(t.Context())
			r, err := c.Retr(ctx, 1)
			if err != nil {
				t.Fatal(err)
			}
			time.AfterFunc(time.Hour, cancel)
			if _, err := io.ReadAll(r); err == nil {
				t.Error("the body ended without an error")
			}
		})
	})
}
