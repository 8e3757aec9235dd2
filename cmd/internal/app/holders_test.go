package app

import (
	"errors"
	"io"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/authn/file"
	"github.com/kpopd/kpopd/pop3/client"
)

// patience is how long a test waits for what happens soon.
const patience = time.Minute

// acting has bob act for everybody.
var acting = strings.NewReplacer(
	"offers: [USER]", "offers: [PLAIN, USER]", "127.0.0.0/8]}", `127.0.0.0/8], act: [{users: [bob], as: ["*"], action: allow}]}`,
).Replace(base)

// inUse is what a login that must not go well hears.
func inUse(t *testing.T, err error) string {
	t.Helper()
	var refused *client.ServerError
	if !errors.As(err, &refused) || refused.Code != "IN-USE" {
		t.Fatalf("got %v, want [IN-USE]", err)
	}
	return refused.Text
}

// Who has the maildrop, since when and from where is told to the same person,
// once the password was right; another who may act for him is not told from
// where. The log has it all.
func TestRule171_InUseSaysWho(t *testing.T) {
	t.Parallel()
	path := folder(t, acting)
	if err := file.SetHash(filepath.Join(filepath.Dir(path), "users"), "bob", hash); err != nil {
		t.Fatal(err)
	}
	s, log := serve(t, path)
	first := dial(t, s)
	if err := first.UserPass(t.Context(), "alice", password); err != nil {
		t.Fatal(err)
	}
	const since = `^Maildrop is in use by another session since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC`
	if got := inUse(t, dial(t, s).UserPass(t.Context(), "alice", password)); !regexp.MustCompile(since + `, from 127\.0\.0\.1$`).MatchString(got) {
		t.Error(got)
	}
	if got := inUse(t, dial(t, s).Auth(t.Context(), sasl.NewPlainClient("alice", "bob", password))); !regexp.MustCompile(since + `$`).MatchString(got) {
		t.Error(got)
	}
	if code := loginCode(t, s, "alice", "wrong"); code != "AUTH" {
		t.Errorf("a wrong password hears [%s]", code)
	}
	if err := s.Reload(t.Context()); err != nil { // who has it is not forgotten
		t.Fatal(err)
	}
	if got := inUse(t, dial(t, s).UserPass(t.Context(), "alice", password)); !strings.HasSuffix(got, ", from 127.0.0.1") {
		t.Error("after a reload:", got)
	}
	if err := first.Quit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if code := loginCode(t, s, "alice", password); code != "" {
		t.Errorf("after QUIT: [%s]", code)
	}
	s.Shutdown(nil)
	session := regexp.MustCompile(`msg=login kind=accepted session=(\w+)`).FindStringSubmatch(log.String())
	if n := strings.Count(log.String(), "in use by session "+session[1]+" from "+first.Conn().LocalAddr().String()+" since "); n != 3 {
		t.Errorf("the log tells %d times:\n%s", n, log.String())
	}
}

// A maildrop is free after QUIT, and however else a session ends.
func TestRule172_FreeAfterTheEnd(t *testing.T) {
	t.Parallel()
	s, _ := serve(t, folder(t, base))
	for name, end := range map[string]func(*client.Client) error{
		"QUIT": func(c *client.Client) error { return c.Quit(t.Context()) },
		"EOF":  func(c *client.Client) error { return c.Hangup(t.Context()) },
		"RST": func(c *client.Client) error {
			err := c.Conn().(*net.TCPConn).SetLinger(0)
			return errors.Join(err, c.Close())
		},
	} {
		c := dial(t, s)
		if err := c.UserPass(t.Context(), "alice", password); err != nil {
			t.Fatal(name, err)
		}
		if err := end(c); err != nil {
			t.Fatal(name, err)
		}
		waitFree(t, s, name)
	}
}

// waitFree logs alice in and out, as soon as that goes.
func waitFree(t *testing.T, s *Server, after string) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(patience); ; {
		c := dial(t, s)
		if err := c.UserPass(t.Context(), "alice", password); err == nil {
			if err := c.Quit(t.Context()); err != nil {
				t.Fatal(after, err)
			}
			return
		}
		c.Close()
		select {
		case <-tick.C:
		case <-late:
			t.Fatal("still in use after", after)
		}
	}
}

// deafen makes the client's machine take no packet any more, and answer none: as
// if a NAT had forgotten the connection.
func deafen(t *testing.T, c *client.Client) {
	t.Helper()
	raw, err := c.Conn().(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	drop := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	e := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop[0]})
	})
	if err := errors.Join(e, err); err != nil {
		t.Fatal(err)
	}
}

// A client that has gone without a word keeps its maildrop for no longer than
// limits.dead_peer, also when a reply is on its way to him; his user gets it
// before that where the policy says so.
func TestRule173_DeadPeer(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, takeover, deadPeer string
		speaks                   bool // the server has sent what nobody acknowledged
		taken                    bool // by the policy, long before the time is over
	}{
		{"never", "never", "8s", false, false},
		{"never, with a reply on its way", "never", "8s", true, false},
		{"dead peer, with a reply on its way", "dead_peer", "12h", true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			text := strings.Replace(base, "{root: mail}", "{root: mail, takeover: "+tt.takeover+"}", 1)
			s, log := serve(t, folder(t, text+"limits: {dead_peer: "+tt.deadPeer+", write_timeout: 8s}\n"))
			first := dial(t, s)
			if err := first.UserPass(t.Context(), "alice", password); err != nil {
				t.Fatal(err)
			}
			deafen(t, first)
			if tt.speaks {
				if err := first.Send(t.Context(), "NOOP"); err != nil {
					t.Fatal(err)
				}
			}
			waitFree(t, s, "death")
			if got := strings.Contains(log.String(), `msg="session taken over"`); got != tt.taken {
				t.Errorf("taken over: %v\n%s", got, log.String())
			}
		})
	}
}

// With same_address a user gets his maildrop back from a session of his own, which
// ends without deleting; others who may read it do not get it.
func TestTakeoverFromTheSameAddress(t *testing.T) {
	t.Parallel()
	path := folder(t, strings.Replace(acting, "{root: mail}", "{root: mail, takeover: same_address}", 1))
	if err := file.SetHash(filepath.Join(filepath.Dir(path), "users"), "bob", hash); err != nil {
		t.Fatal(err)
	}
	s, log := serve(t, path)
	first := dial(t, s)
	if err := first.UserPass(t.Context(), "alice", password); err != nil {
		t.Fatal(err)
	}
	inUse(t, dial(t, s).Auth(t.Context(), sasl.NewPlainClient("alice", "bob", password)))
	if _, err := first.Cmd(t.Context(), "NOOP"); err != nil {
		t.Error("the session has ended for another:", err)
	}
	second := dial(t, s)
	if err := second.UserPass(t.Context(), "alice", password); err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, first); err != nil && !errors.Is(err, unix.ECONNRESET) || n > 0 {
		t.Errorf("the first session was told %d octets, %v", n, err)
	}
	if err := second.Quit(t.Context()); err != nil {
		t.Error(err)
	}
	s.Shutdown(nil)
	if !regexp.MustCompile(`msg="session taken over" session=\w+ user=alice remote=127\.0\.0\.1:\d+ from_session=\w+ from_remote=`).MatchString(log.String()) {
		t.Error(log.String())
	}
}
