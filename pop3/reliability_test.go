package pop3_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emersion/go-sasl"

	"github.com/kpopd/kpopd/pop3"
	"github.com/kpopd/kpopd/pop3/client"
)

// Classes of faults that made other servers insecure, each as a statement.

// Octets pipelined after STLS are never run, wherever the segments end.
func TestS01_NothingRidesAlongWithSTLS(t *testing.T) {
	t.Parallel()
	for _, tail := range []string{"\n", "\x00", "U", "USER mallory\r\n", "\x16\x03\x01\x00\x05", strings.Repeat("NOOP\r\n", 1000), strings.Repeat("x", 5000)} {
		for _, stls := range []string{"STLS\r\n", "stls\n", "CAPA\r\nSTLS\r\n"} {
			w := newWorld()
			conn := w.connect(t)
			go io.WriteString(conn, stls+tail) // ends with the connection
			said, _ := io.ReadAll(conn)
			conn.Close()
			w.wait(t)
			if !bytes.HasSuffix(said, []byte("-ERR Data after STLS\r\n")) || bytes.Contains(said, []byte("Begin TLS")) {
				t.Errorf("%q: the server said %q", stls+tail[:min(len(tail), 20)], said)
			}
		}
	}
}

// What was said before TLS is gone after it, a half-done exchange as well.
func TestS02_NothingFromBeforeTLSCounts(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]string{
		"USER":           "C: USER alice\nS: +OK Send PASS",
		"cancelled AUTH": "C: USER alice\nS: +OK Send PASS\nC: AUTH LOGIN\nS~ .*\nC: YWxpY2U=\nS~ .*\nC: *\nS~ -ERR .*",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			w.play(t, "S~ .*\n"+before+"\nC: STLS\nS: +OK Begin TLS\nT:\nC: PASS open sesame\nS~ -ERR .*\nC: b3BlbiBzZXNhbWU=\nS~ -ERR .*")
			if len(w.kinds()) > 0 && w.kinds()[0] != "cancelled" {
				t.Errorf("attempts %q", w.kinds())
			}
		})
	}
}

// An argument may be as long as it likes and hold what it likes: the session
// goes on or ends, and memory stays where it is.
func TestS03_AnyArgument(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 0))
	for _, n := range []int{1, 254, 255, 512, 513, 4 << 10, 128 << 10, 1 << 20, 10 << 20} {
		for _, verb := range []string{"USER", "PASS", "APOP", "AUTH PLAIN", "AUTH", "LIST", "RETR", "TOP 1", "EUIDL"} {
			arg := make([]byte, n)
			for i := range arg {
				if arg[i] = byte(r.Uint32()); arg[i] == '\n' || arg[i] == ' ' {
					arg[i] = '%'
				}
			}
			w := newWorld()
			w.server.Log = nil
			c := w.dial(t)
			if r.IntN(2) == 0 {
				if err := c.UserPass(t.Context(), "alice", "open sesame"); err != nil {
					t.Fatal(err)
				}
			}
			go func() { // ends when all is read or the connection ends
				io.WriteString(c.Conn(), verb+" ")
				c.Conn().Write(arg)
				io.WriteString(c.Conn(), "\r\nCAPA\r\n")
			}()
			c.Reply(t.Context())
			if _, _, err := c.Lines(t.Context()); err != nil {
				t.Errorf("%s with %d octets: CAPA after it: %v", verb, n, err)
			}
			c.Close()
			w.wait(t)
		}
	}
}

// What a client sends is text and never a format.
func TestS04_NoFormatStrings(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.play(t, `S~ \+OK .*
C: %s%n%x
S: -ERR Unknown command
C: USER %s%s%s
S: +OK Send PASS
C: PASS %n
S: -ERR [AUTH] Authentication failed
C: LANG %d
S: -ERR No such language
C: USER carol
S: +OK Send PASS
C: PASS %s%n%x{{.}}
S: +OK 0 messages (0 octets)
C: RETR %d
S: -ERR Not a message number`)
	if log := w.log.String(); !strings.Contains(log, `%s%s%s`) || strings.Contains(log, "MISSING") || strings.Contains(log, "EXTRA") {
		t.Errorf("log:\n%s", log)
	}
}

// S-6: responses that are no base64, empty, too long or a star end the exchange and
// nothing else.
func TestS06_OddResponses(t *testing.T) {
	t.Parallel()
	for _, mech := range []string{"PLAIN", "LOGIN", "CRAM-MD5"} {
		for name, response := range map[string]string{
			"star": "*", "equals": "=", "empty": "", "no base64": "\xff\xfe", "half": "AAA", "NULs": "AAAAAA==", "star and more": "**",
			"long": base64.StdEncoding.EncodeToString(make([]byte, 90<<10)), "too long": strings.Repeat("A", 1<<20),
		} {
			t.Run(mech+" "+name, func(t *testing.T) {
				t.Parallel()
				w := newWorld()
				c := w.dial(t)
				c.Cmd(t.Context(), "AUTH "+mech)                       // a challenge is no reply
				go io.WriteString(c.Conn(), response+"\r\n*\r\n*\r\n") // ends when it was read
				for range 3 {                                          // LOGIN may have asked for the password by then
					c.Reply(t.Context())
				}
				if err := w.login(t).Quit(t.Context()); err != nil {
					t.Errorf("another session: %v", err)
				}
			})
		}
	}
}

// An exchange that is broken off at any octet leaves nothing behind: the
// session ends, its attempt is told of once, and no goroutine stays (TestMain
// looks for those).
func TestS07_BrokenOffAnywhere(t *testing.T) {
	t.Parallel()
	script := "AUTH PLAIN\r\nAGFsaWNlAHdyb25n\r\nAUTH LOGIN\r\nYWxpY2U=\r\nd3Jvbmc=\r\nAUTH CRAM-MD5\r\ndGltIDAw\r\n"
	for n := range len(script) + 1 {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld()
			conn := w.connect(t)
			go io.Copy(io.Discard, conn) // ends with the connection
			io.WriteString(conn, script[:n])
			synctest.Wait()
			conn.Close()
			w.wait(t)
			starts := 0
			for line := range strings.Lines(script[:n]) {
				if strings.HasPrefix(line, "AUTH ") && strings.HasSuffix(line, "\n") {
					starts++
				}
			}
			if len(w.kinds()) != starts {
				t.Errorf("broken off after %q: attempts %q, want %d", script[:n], w.kinds(), starts)
			}
		})
	}
}

// Who has not logged in holds no more than 64 KiB of memory, or 128 KiB inside
// an exchange, TLS included: neither with a line that never ends nor with
// commands whose replies are not read.
func TestS10_MemoryBeforeLogin(t *testing.T) {
	const (
		any     = 64 << 10
		inAUTH  = 128 << 10
		endless = 20 << 20
	)
	testCert()
	capas := strings.Repeat("CAPA\r\n", 50_000)
	for _, tt := range []struct {
		name  string
		say   string
		more  int // octets of a line that does not end
		limit int64
	}{
		{"a line without end", "", endless, any},
		{"a name without end", "USER ", endless, any},
		{"a password without end", "USER alice\r\nPASS ", endless, any},
		{"all of a command line but its end", "USER ", 500, any},
		{"replies that nobody reads", capas, 0, any},
		{"an initial response without end", "AUTH PLAIN ", endless, inAUTH},
		{"a response without end", "AUTH PLAIN\r\n", endless, inAUTH},
		{"half of the longest response", "AUTH PLAIN\r\n", 48<<10 + 1, inAUTH},
		{"all of the longest initial response but its end", "AUTH PLAIN ", 96<<10 - 13, inAUTH},
		{"all of the longest response but its end", "AUTH PLAIN\r\n", 96<<10 - 2, inAUTH},
		{"a long response and replies that nobody reads", "AUTH X-UNKNOWN " + strings.Repeat("A", 64<<10) + "\r\n" + capas, 0, inAUTH},
	} {
		for _, under := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/TLS %t", tt.name, under), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld()
					w.server.Log = nil
					c := w.dial(t)
					if under {
						if err := c.StartTLS(t.Context(), &tls.Config{InsecureSkipVerify: true}); err != nil {
							t.Fatal(err)
						}
					}
					say := []byte(tt.say)
					before := int64(heap())
					go func() { // ends with the connection, which is blocked or waits for more
						c.Conn().Write(say)
						for left := tt.more; left > 0; left -= len(as) {
							c.Conn().Write(as[:min(left, len(as))])
						}
					}()
					synctest.Wait()
					if tt.more > 0 && strings.Contains(tt.say, "\r\n") {
						io.ReadFull(c, make([]byte, 1)) // the reply to the line before
						synctest.Wait()
					}
					limit := tt.limit
					if under {
						limit += 17 << 10 // the record that the client is writing
					}
					if grown := int64(heap()) - before; grown > limit {
						t.Errorf("the heap grew by %d octets", grown)
					}
				})
			})
		}
	}
}

// as is a piece of a line.
var as = bytes.Repeat([]byte("A"), 32<<10)

// S-20: sessions that run side by side and one after the other, on buffers from one
// pool, each see their own user and mail.
func TestS20_NoSharedIdentity(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.store.Deliver("alice", "Subject: for alice\n\n"+strings.Repeat("alice\n", 20_000))
	w.store.Deliver("bob", "Subject: for bob\n\n"+strings.Repeat("bob\n", 30_000))
	w.store.Deliver("mrose", "Subject: for mrose\n\n"+strings.Repeat("mrose\n", 10))
	var users sync.WaitGroup
	for user, login := range map[string]func(*client.Client) error{
		"alice": func(c *client.Client) error { return c.UserPass(t.Context(), "alice", "open sesame") },
		"bob":   func(c *client.Client) error { return c.Auth(t.Context(), sasl.NewPlainClient("", "bob", "b")) },
		"mrose": func(c *client.Client) error { return c.Apop(t.Context(), "mrose", "tanstaaf") },
	} {
		users.Go(func() {
			for range 50 {
				if err := oneSession(t.Context(), w, user, login); err != nil {
					t.Errorf("%s: %v", user, err)
				}
			}
		})
	}
	users.Wait()
}

// oneSession runs one session of user and looks at the mail it gets.
func oneSession(ctx context.Context, w *world, user string, login func(*client.Client) error) error {
	near, far := net.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- w.server.ServeConn(ctx, far, w.transport()) }() // ends with the session
	defer func() { near.Close(); <-ended }()
	c, err := client.New(ctx, near, nil)
	if err != nil {
		return err
	}
	if _, err := c.Cmd(ctx, "STAT"); err == nil {
		return errors.New("logged in before it did")
	}
	if err := login(c); err != nil {
		return err
	}
	r, err := c.Retr(ctx, 1)
	if err != nil {
		return err
	}
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	head, body, _ := strings.Cut(string(b), "\r\n\r\n")
	if head != "Subject: for "+user || strings.Trim(strings.ReplaceAll(body, user, ""), "\r\n") != "" {
		return fmt.Errorf("got the mail %.60q", b)
	}
	return c.Quit(ctx)
}

// Numbers at and beyond every edge are refused one by one, and nothing is
// marked or sent.
func TestS31_Numbers(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.store.Deliver("alice", "Subject: one\n\n")
	for _, n := range []string{
		"0", "-1", "-0", "2", "2147483647", "2147483648", "4294967295", "4294967296", "4294967297", "9223372036854775807", "9223372036854775808",
		"18446744073709551615", "18446744073709551616", "18446744073709551617", "1e3", "1.0", "+1", "01", "001", " 1", "1a", "0x1", "0b1", "1_0", "1,0",
		"١", "１", "²", "Ⅰ", "\t1", "1\t", "1\x00", "'1'", "1;", strings.Repeat("1", 400), strings.Repeat("0", 400) + "1",
	} {
		c := w.login(t)
		for _, verb := range []string{"LIST", "UIDL", "RETR", "DELE", "TOP"} {
			command := verb + " " + n
			if verb == "TOP" {
				command += " 0"
			}
			var se *client.ServerError
			if text, err := c.Cmd(t.Context(), command); !errors.As(err, &se) || se.Code != "" {
				t.Errorf("%q: %q, %v", command, text, err)
			}
		}
		if n, _, err := c.Stat(t.Context()); n != 1 || err != nil {
			t.Errorf("%d messages, %v", n, err)
		}
		c.Close()
		w.wait(t)
	}
}

// Whatever a client sends, each line of the log is one line.
func TestS32_OneLineEach(t *testing.T) {
	t.Parallel()
	w := newWorld()
	r := rand.New(rand.NewPCG(32, 0))
	for range 200 {
		conn := w.connect(t)
		go io.Copy(io.Discard, conn) // ends with the connection
		for _, verb := range []string{"USER ", "PASS ", "APOP x", "AUTH PLAIN ", "", "LANG "} {
			junk := make([]byte, r.IntN(60))
			for i := range junk {
				junk[i] = byte(r.Uint32())
			}
			io.WriteString(conn, verb)
			conn.Write(junk)
			io.WriteString(conn, "\r\n")
		}
		conn.Close()
		w.wait(t)
	}
	for line := range strings.Lines(w.log.String()) {
		if !strings.HasPrefix(line, `{"time":"`) || !strings.HasSuffix(line, "}\n") || strings.ContainsFunc(line[:len(line)-1], func(r rune) bool { return r < 0x20 || r == 0x7f || r == 0x2028 }) {
			t.Fatalf("in the log: %q", line)
		}
	}
}

// Who takes an octet a second of a large message is cut, and holds no more
// than two buffers until then.
func TestS33_SlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.server.Log = nil
		var done pop3.SessionDone
		w.server.Trace = &pop3.Trace{Session: func(_ context.Context, d *pop3.SessionDone) { done = *d }}
		w.store.Deliver("alice", strings.Repeat(strings.Repeat("x", 99)+"\n", 50<<20/100))
		c := w.login(t)
		before := heap()
		if err := c.Send(t.Context(), "RETR 1"); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		for p := make([]byte, 1); ; {
			if _, err := c.Conn().Read(p); err != nil {
				break
			}
			time.Sleep(time.Second)
			if time.Since(start) == 30*time.Second {
				if after := heap(); after > before+256<<10 {
					t.Errorf("the heap grew by %d KiB", (after-before)>>10)
				}
			}
		}
		w.wait(t)
		if done.Reason != pop3.SlowReader || time.Since(start) > 2*time.Minute {
			t.Errorf("ended as %s after %v", done.Reason, time.Since(start))
		}
	})
}
