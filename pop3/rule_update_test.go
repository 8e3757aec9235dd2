package pop3_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/kpopd/kpopd/maildrop"
	"github.com/kpopd/kpopd/pop3/client"
)

// Rules of the UPDATE state.

// endings are the ways in which a session can end without QUIT. The client has
// logged in and marked message 1.
var endings = map[string]func(t *testing.T, w *world, c *client.Client){
	"hang up":                 func(_ *testing.T, _ *world, c *client.Client) { c.Close() },
	"hang up inside a line":   func(_ *testing.T, _ *world, c *client.Client) { io.WriteString(c.Conn(), "QUI"); c.Close() },
	"QUIT without a line end": func(_ *testing.T, _ *world, c *client.Client) { io.WriteString(c.Conn(), "QUIT"); c.Close() },
	"QUIT with an argument":   func(t *testing.T, _ *world, c *client.Client) { c.Cmd(t.Context(), "QUIT now"); c.Close() },
	"QUIT with NUL":           func(t *testing.T, _ *world, c *client.Client) { c.Cmd(t.Context(), "QUIT\x00"); c.Close() },
	"reset": func(t *testing.T, _ *world, c *client.Client) {
		if err := c.Conn().(*net.TCPConn).SetLinger(0); err != nil {
			t.Fatal(err)
		}
		c.Close()
	},
	"half close": func(t *testing.T, _ *world, c *client.Client) {
		if err := c.Conn().(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(c); len(got) > 0 || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
		c.Close()
	},
	"too many refusals": func(t *testing.T, _ *world, c *client.Client) {
		for range 20 {
			if _, err := c.Cmd(t.Context(), "XYZZY"); err == nil {
				t.Error("XYZZY is a command")
			}
		}
		io.ReadAll(c)
		c.Close()
	},
}

// marked begins a session of alice over loopback, with message 1 of two marked.
func marked(t *testing.T, w *world) *client.Client {
	t.Helper()
	w.store.Deliver("alice", "Subject: one\n\n")
	w.store.Deliver("alice", "Subject: two\n\n")
	c := w.dialTCP(t)
	if err := c.UserPass(t.Context(), "alice", "open sesame"); err != nil {
		t.Fatal(err)
	}
	if err := c.Dele(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	return c
}

// untouched checks that nothing was removed and that the lock is free.
func untouched(t *testing.T, w *world) {
	t.Helper()
	w.wait(t)
	if n, free := w.free(t, "alice"); n != 2 || !free || w.committed.Load() != 0 {
		t.Errorf("%d messages, free %t, %d commits", n, free, w.committed.Load())
	}
}

// Only QUIT removes: no other end of a session does.
func TestRule073_OnlyQuitUpdates(t *testing.T) {
	t.Parallel()
	for name, end := range endings {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			c := marked(t, w)
			end(t, w, c)
			untouched(t, w)
		})
	}
	for name, end := range map[string]func(*tls.Conn){
		"TLS close notify": func(c *tls.Conn) { c.CloseWrite() },
		"TLS record broken": func(c *tls.Conn) {
			io.WriteString(c.NetConn(), "\x17\x03\x03\x00\x20QUIT\r\nQUIT\r\nQUIT\r\nQUIT\r\nQUIT\r\nQU")
		},
		"TLS alert":       func(c *tls.Conn) { io.WriteString(c.NetConn(), "\x15\x03\x03\x00\x02\x02\x28") },
		"no TLS any more": func(c *tls.Conn) { io.WriteString(c.NetConn(), "QUIT\r\n") },
		"TLS cut":         func(c *tls.Conn) { c.NetConn().Close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			w.store.Deliver("alice", "Subject: one\n\n")
			w.store.Deliver("alice", "Subject: two\n\n")
			c := w.dialTCP(t)
			if err := c.StartTLS(t.Context(), &tls.Config{InsecureSkipVerify: true}); err != nil {
				t.Fatal(err)
			}
			if err := c.UserPass(t.Context(), "alice", "open sesame"); err != nil {
				t.Fatal(err)
			}
			if err := c.Dele(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
			end(c.Conn().(*tls.Conn))
			untouched(t, w)
		})
	}
	t.Run("timeout", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld()
			for range 2 {
				w.store.Deliver("alice", "Subject: x\n\n")
			}
			c := w.login(t)
			if err := c.Dele(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
			io.ReadAll(c)
			untouched(t, w)
		})
	})
}

// What is not marked stays.
func TestRule074_UnmarkedStays(t *testing.T) {
	t.Parallel()
	w := newWorld()
	var uids []string
	for i := range 5 {
		uids = append(uids, w.store.Deliver("alice", fmt.Sprintf("Subject: %d\n\n", i)))
	}
	c := w.login(t)
	for _, command := range []string{"DELE 1", "DELE 5", "RSET", "DELE 2", "DELE 4", "RETR 5", "TOP 3 1", "DELE 9", "DELE 2"} {
		if err := c.Send(t.Context(), command); err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(command, "RETR") || strings.HasPrefix(command, "TOP") {
			c.ReadBody(t.Context())
		} else {
			c.Reply(t.Context())
		}
	}
	if err := c.Quit(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.wait(t)
	left, err := w.login(t).UIDL(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, u := range left {
		got = append(got, u.UID)
	}
	if want := []string{uids[0], uids[2], uids[4]}; !slices.Equal(got, want) {
		t.Errorf("left %q, want %q", got, want)
	}
}

// QUIT says +OK when all marked messages are gone, and -ERR when some are not.
func TestRule075_QuitTellsTheTruth(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		commit error
		want   string
	}{
		"all":        {nil, "+OK Bye\r\n"},
		"some":       {&maildrop.CommitError{Left: []int{1}, Err: errors.New("input/output error")}, "-ERR Some deleted messages not removed\r\n"},
		"wrapped":    {fmt.Errorf("x: %w", &maildrop.CommitError{Left: []int{0, 1}, Err: maildrop.ErrPermanent}), "-ERR Some deleted messages not removed\r\n"},
		"unknown":    {errors.New("/var/mail/alice: input/output error"), "-ERR [SYS/TEMP] Maildrop is unavailable, try later\r\n"},
		"lost mount": {maildrop.ErrTemporary, "-ERR [SYS/TEMP] Maildrop is unavailable, try later\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			d := &oddDrop{messages: make([]maildrop.Message, 3), commit: tt.commit}
			w.has(d)
			c := w.login(t)
			c.Dele(t.Context(), 2)
			c.Dele(t.Context(), 1)
			c.Send(t.Context(), "QUIT")
			if got, err := io.ReadAll(c); string(got) != tt.want || err != nil {
				t.Errorf("QUIT: %q, %v, want %q and the end", got, err, tt.want)
			}
			if d := cmp.Diff([]int{0, 1}, d.del); d != "" {
				t.Error(d)
			}
		})
	}
}

// What was removed is removed: a maildrop that cannot be closed after it is for
// the log, and no reason to tell the client otherwise.
func TestRule075_CloseFailsAfterRemoval(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.has(&oddDrop{messages: make([]maildrop.Message, 2), closing: errors.New("input/output error")})
	c := w.login(t)
	c.Dele(t.Context(), 2)
	if err := c.Quit(t.Context()); err != nil {
		t.Error(err)
	}
	w.wait(t)
	for _, want := range []string{`"msg":"maildrop not closed"`, `"deleted":1`} {
		if !strings.Contains(w.log.String(), want) {
			t.Errorf("%s is not in the log: %s", want, w.log.String())
		}
	}
}

// Whether the removal went well or not, the lock is free before the client
// reads the reply, and the connection ends.
func TestRule076_LockReleased(t *testing.T) {
	t.Parallel()
	for name, commit := range map[string]error{"removed": nil, "left": &maildrop.CommitError{Err: errors.New("no")}, "unknown": errors.New("no")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			d := &oddDrop{messages: make([]maildrop.Message, 1), commit: commit}
			w.has(d)
			c := w.login(t)
			c.Dele(t.Context(), 1)
			c.Cmd(t.Context(), "QUIT")
			d.mu.Lock()
			if got := strings.Join(d.calls, " "); got != "commit close" {
				t.Errorf("at the reply to QUIT the store has seen %q", got)
			}
			d.mu.Unlock()
			if rest, err := io.ReadAll(c); len(rest) > 0 || err != nil {
				t.Errorf("after the reply: %q, %v", rest, err)
			}
		})
	}
}

func TestRule078_RemovedByTwo(t *testing.T) { play(t, "rule078-*.txt") }

// Mail that came during the session is there after it.
func TestRule079_NewMailStays(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.store.Deliver("alice", "Subject: old\n\n")
	c := w.login(t)
	uid := w.store.Deliver("alice", "Subject: new\n\n")
	c.Dele(t.Context(), 1)
	if err := c.Quit(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.wait(t)
	if got, err := w.login(t).UID(t.Context(), 1); err != nil || got != uid {
		t.Errorf("left %q, %v, want %q", got, err, uid)
	}
}

// RETR removes nothing: EXPIRE 0 is not announced and not done.
func TestRule080_RetrRemovesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.store.Deliver("alice", "Subject: one\n\n")
	c := w.login(t)
	if _, err := c.Retr(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if err := c.Quit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, _ := w.free(t, "alice"); n != 1 {
		t.Errorf("%d messages left", n)
	}
}

// A QUIT that arrived counts, though the client did not stay for the answer.
func TestRule081_QuitThenClose(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		last string
		left int
	}{"QUIT": {"DELE 2\r\nQUIT\r\n", 0}, "no QUIT": {"DELE 2\r\n", 2}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			c := marked(t, w)
			io.WriteString(c.Conn(), tt.last)
			c.Close()
			w.wait(t)
			if n, free := w.free(t, "alice"); n != tt.left || !free {
				t.Errorf("%d messages left, free %t, want %d", n, free, tt.left)
			}
		})
	}
}
