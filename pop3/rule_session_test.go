package pop3_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emersion/go-sasl"

	"github.com/kpopd/kpopd/pop3"
	"github.com/kpopd/kpopd/pop3/client"
)

// Rules of sessions, locks, hostile peers and KPOP.

func TestRule171_InUse(t *testing.T) { play(t, "rule171-*.txt") }

// However a session ends, the lock is free after it.
func TestRule172_LockFreedAtAnyEnd(t *testing.T) {
	t.Parallel()
	all := map[string]func(*testing.T, *world, *client.Client){"QUIT": func(t *testing.T, _ *world, c *client.Client) {
		c.Rset(t.Context())
		if err := c.Quit(t.Context()); err != nil {
			t.Error(err)
		}
	}}
	for name, end := range endings {
		all[name] = end
	}
	for name, end := range all {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			c := marked(t, w)
			if _, free := w.free(t, "alice"); free {
				t.Fatal("the maildrop is not locked")
			}
			end(t, w, c)
			w.wait(t)
			if n, free := w.free(t, "alice"); n != 2 || !free {
				t.Errorf("%d messages, free %t", n, free)
			}
		})
	}
}

// A peer that is gone without a word keeps the lock no longer than the
// autologout timer.
func TestRule173_DeadPeer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.login(t)
		time.Sleep(10*time.Minute - time.Second)
		if _, free := w.free(t, "alice"); free {
			t.Error("the lock was given up early")
		}
		time.Sleep(2 * time.Second)
		if _, free := w.free(t, "alice"); !free {
			t.Error("the lock is still held")
		}
	})
}

func TestRule174_DeliveryWhileLocked(t *testing.T) { play(t, "rule174-*.txt") }
func TestRule175_RemovedUnderUs(t *testing.T)      { play(t, "rule175-*.txt") }

// Two spellings of one name are one maildrop and one lock.
func TestRule176_OneLockForOneUser(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.login(t)
	var se *client.ServerError
	for _, name := range []string{"ａlice", "ＡＬＩＣＥ", "alice"} {
		err := w.dial(t).UserPass(t.Context(), name, "open sesame")
		if !errors.As(err, &se) || se.Code == "AUTH" && name != "ＡＬＩＣＥ" || se.Code != "AUTH" && se.Code != "IN-USE" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What is no POP3 ends soon: bad commands by their number, one octet every 30
// seconds and a handshake that does not come by the time for login.
func TestRule181_NoTimeForStrangers(t *testing.T) {
	play(t, "rule181-*.txt")
	for name, stranger := range map[string]func(*testing.T, *client.Client){
		"one octet every 30 seconds": func(_ *testing.T, c *client.Client) {
			for {
				time.Sleep(30 * time.Second)
				if _, err := io.WriteString(c.Conn(), "C"); err != nil {
					return
				}
			}
		},
		"a command every 30 seconds": func(t *testing.T, c *client.Client) {
			for {
				time.Sleep(30 * time.Second)
				if _, err := c.Capa(t.Context()); err != nil {
					return
				}
			}
		},
		"silence after STLS":  func(t *testing.T, c *client.Client) { c.Cmd(t.Context(), "STLS"); io.ReadAll(c) },
		"silence inside AUTH": func(t *testing.T, c *client.Client) { c.Cmd(t.Context(), "AUTH PLAIN"); io.ReadAll(c) },
		"half a TLS handshake": func(t *testing.T, c *client.Client) {
			c.Cmd(t.Context(), "STLS")
			io.WriteString(c.Conn(), "\x16\x03")
			io.ReadAll(c)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testCert()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				start := time.Now()
				var end time.Duration
				w.server.Trace = &pop3.Trace{Session: func(context.Context, *pop3.SessionDone) { end = time.Since(start) }}
				c := w.dial(t)
				stranger(t, c)
				c.Close()
				w.wait(t)
				if end != time.Minute {
					t.Errorf("the session ended after %v", end)
				}
			})
		})
	}
}

// Another protocol gets one refusal, and the log says so.
func TestRule182_OtherProtocols(t *testing.T) {
	play(t, "rule182-*.txt")
	w := newWorld()
	w.play(t, "S~ .*\nC: GET / HTTP/1.0\nS~ -ERR .*\nE:")
	if !strings.Contains(w.log.String(), `"reason":"mismatch"`) {
		t.Errorf("the log does not tell:\n%s", w.log.String())
	}
}

func TestRule183_ProxyHeader(t *testing.T) { play(t, "rule183-*.txt") }
func TestRule184_XCLIENT(t *testing.T)     { play(t, "rule184-*.txt") }

// rawLog keeps the attributes of log lines as they were handed over, before
// any handler escapes them.
type rawLog struct {
	mu     sync.Mutex
	values []string
}

func (*rawLog) Enabled(context.Context, slog.Level) bool { return true }
func (l *rawLog) WithAttrs([]slog.Attr) slog.Handler     { return l }
func (l *rawLog) WithGroup(string) slog.Handler          { return l }

func (l *rawLog) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.values = append(l.values, r.Message)
	r.Attrs(func(a slog.Attr) bool {
		if a.Value.Kind() != slog.KindDuration { // written with µ, by the handler
			l.values = append(l.values, a.Value.String())
		}
		return true
	})
	return nil
}

// Nothing that a client sends can break a line of the log or make it long.
func TestRule185_LogInjection(t *testing.T) {
	t.Parallel()
	w := newWorld()
	var log rawLog
	w.server.Log = slog.New(&log)
	for _, evil := range []string{"a\x1b[31mred", "a\rb", "a\x07", "\xff\xfe", "\u2028\u202e", "%s%n", `a" user="root`, strings.Repeat("x", 400), strings.Repeat("\x01", 400), "a\x00b"} {
		for _, line := range []string{evil, "USER " + evil, "APOP " + evil + " c4c9334bac560ecc979e58001b3e22fb", "AUTH " + evil, "CAPA " + evil} {
			conn := w.connect(t)
			go io.WriteString(conn, line+"\r\nPASS x\r\nQUIT\r\n") // ends when it was read
			io.ReadAll(conn)
			conn.Close()
		}
		c := w.dial(t)
		c.Auth(t.Context(), sasl.NewPlainClient("", evil, "x"))
		c.Close()
	}
	w.wait(t)
	log.mu.Lock()
	defer log.mu.Unlock()
	if len(log.values) < 100 {
		t.Errorf("%d values in the log", len(log.values))
	}
	for _, v := range log.values {
		if len(v) > 4096 || strings.ContainsFunc(v, func(r rune) bool { return r < 0x20 || r > 0x7e }) {
			t.Errorf("in the log: %.200q (%d octets)", v, len(v))
		}
	}
}

// No password, digest or response of a mechanism is in any line of the log, in
// any record of an attempt, or in what a session ends with.
func TestRule186_NoSecretInTheLog(t *testing.T) {
	t.Parallel()
	w := newWorld()
	var log rawLog
	w.server.Log = slog.New(&log)
	secrets := []string{"open sesame", "AGFsaWNlAG9wZW4gc2VzYW1l", "tanstaaf", "swordfish", "c3dvcmRmaXNo", "c4c9334bac560ecc979e58001b3e22fb", "AGNyYXNoAHN3b3JkZmlzaA"}
	for _, script := range []string{
		"USER alice\r\nPASS open sesame\r\nPASS open sesame\r\nAUTH PLAIN AGFsaWNlAG9wZW4gc2VzYW1l\r\nQUIT",
		"USER alice\r\nPASS swordfish\r\nPASS swordfish\r\nPASSswordfish\r\nQUIT",
		"PASS swordfish\x00\r\nPASS\tswordfish\r\nQUIT",
		"USER crash\r\nPASS swordfish\r\nAUTH PLAIN AGNyYXNoAHN3b3JkZmlzaA==\r\nQUIT",
		"USER down\r\nPASS swordfish\r\nUSER alice swordfish\r\nQUIT",
		"APOP mrose c4c9334bac560ecc979e58001b3e22fb\r\nAPOP mrose c4c9334bac560ecc979e58001b3e22fb x\r\nQUIT",
		"AUTH PLAIN AGFsaWNlAG9wZW4gc2VzYW1l=\r\nAUTH PLAIN\r\nAGFsaWNlAG9wZW4gc2VzYW1l=\r\nAUTH PLAIN AGFsaWNlAG9wZW4gc2VzYW1l AA==\r\nQUIT",
		"AUTH LOGIN\r\nYWxpY2U=\r\nc3dvcmRmaXNo\r\nAUTH X-UNKNOWN c3dvcmRmaXNo\r\nQUIT",
		"PASS " + strings.Repeat("swordfish", 1000) + "\r\nQUIT",
	} {
		conn := w.connect(t)
		go io.WriteString(conn, script+"\r\n") // ends when it was read
		said, _ := io.ReadAll(conn)
		conn.Close()
		w.wait(t)
		log.values = append(log.values, string(said))
	}
	for _, a := range w.attempts {
		if a.Err != nil {
			log.values = append(log.values, a.Err.Error())
		}
		log.values = append(log.values, a.Login)
	}
	for _, v := range log.values {
		for _, s := range secrets {
			if strings.Contains(v, s) {
				t.Errorf("%q is in %.300q", s, v)
			}
		}
	}
}

func TestRule195_KPOP(t *testing.T)     { play(t, "rule195-*.txt") }
func TestRule196_KPOPCapa(t *testing.T) { play(t, "rule196-*.txt") }
