package app

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kpopd/kpopd/maildrop/maildir"
	"github.com/kpopd/kpopd/pop3/client"
)

// code is that of the reply to a login, "" when it was accepted.
func loginCode(t *testing.T, s *Server, user, password string) string {
	t.Helper()
	err := dial(t, s).UserPass(t.Context(), user, password)
	var refused *client.ServerError
	if err != nil && !errors.As(err, &refused) {
		t.Fatal(err)
	}
	if err == nil {
		return ""
	}
	return refused.Code
}

func rewrite(t *testing.T, s *Server, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// Users wait for as long as the users file says, at most as long as the
// configuration does; a reload forgets nobody.
func TestLoginDelay(t *testing.T) {
	t.Parallel()
	path := folder(t, base+"limits: {login_delay: 1h, login_delay_max: 2h}\n")
	dir := filepath.Dir(path)
	users := "alice:" + hash + "\nfree:" + hash + ":login_delay=0s\nslow:" + hash + ":login_delay=24h\n"
	err := os.WriteFile(filepath.Join(dir, "users"), []byte(users), 0o600)
	for _, user := range []string{"free", "slow"} {
		err = errors.Join(err, maildir.Make(filepath.Join(dir, "mail", user)))
	}
	if err != nil {
		t.Fatal(err)
	}
	s, log := serve(t, path)
	for user, want := range map[string]string{"alice": "3600", "free": "0", "slow": "7200"} {
		c := dial(t, s)
		before, err := c.Capa(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := c.UserPass(t.Context(), user, password); err != nil {
			t.Fatal(err)
		}
		after, err := c.Capa(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(before["LOGIN-DELAY"], " "); got != "7200 USER" {
			t.Errorf("before login: LOGIN-DELAY %s", got)
		}
		if got := strings.Join(after["LOGIN-DELAY"], " "); got != want {
			t.Errorf("%s: LOGIN-DELAY %s", user, got)
		}
		if err := c.Quit(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	for user, want := range map[string]string{"alice": "LOGIN-DELAY", "free": "", "slow": "LOGIN-DELAY"} {
		if got := loginCode(t, s, user, password); got != want {
			t.Errorf("%s again: %q", user, got)
		}
	}
	if got := loginCode(t, s, "alice", "wrong"); got != "AUTH" {
		t.Errorf("a wrong password too soon: %q", got)
	}
	rewrite(t, s, path, base)
	if got := loginCode(t, s, "alice", password); got != "" {
		t.Errorf("without a delay: %q", got)
	}
	s.Shutdown(nil) // and with it the log
	if n := strings.Count(log.String(), "login too soon"); n != 2 {
		t.Errorf("%d logins were logged as too soon:\n%s", n, log)
	}
}

// A password in the clear is refused unread, and the log says whose it was and
// not what.
func TestExposedPassword(t *testing.T) {
	t.Parallel()
	text := strings.Replace(base, "127.0.0.0/8", "192.0.2.0/24", 1)
	s, log := serve(t, folder(t, text))
	var refused *client.ServerError
	if err := dial(t, s).UserPass(t.Context(), "alice", password); !errors.As(err, &refused) {
		t.Errorf("USER got %v", err) // our own client stops there
	}
	for _, line := range []string{"PASS " + password, "AUTH PLAIN AGFsaWNlAHB3LWFsaWNl"} {
		c := dial(t, s)
		_, _ = c.Cmd(t.Context(), "USER alice")
		if _, err := c.Cmd(t.Context(), line); !errors.As(err, &refused) {
			t.Errorf("%s got %v", line, err)
		}
	}
	s.Shutdown(nil) // and with it the log
	exposed := 0
	for line := range strings.Lines(log.String()) {
		if strings.Contains(line, `msg="password exposed"`) && strings.Contains(line, "level=WARN") {
			exposed++
		}
	}
	if exposed != 2 || !strings.Contains(log.String(), "mechanism=USER login=alice") ||
		strings.Contains(log.String(), password) || strings.Contains(log.String(), "AGFsaWNl") {
		t.Errorf("%d passwords were logged as exposed:\n%s", exposed, log)
	}
}

// A session has so many logins, whatever becomes of them.
func TestAttempts(t *testing.T) {
	t.Parallel()
	s, _ := serve(t, folder(t, base+"limits: {attempts: 2, login_delay: 1h}\n"))
	if got := loginCode(t, s, "alice", password); got != "" {
		t.Fatalf("got %q", got)
	}
	c := dial(t, s)
	for range 2 {
		var refused *client.ServerError
		if err := c.UserPass(t.Context(), "alice", password); !errors.As(err, &refused) || refused.Code != "LOGIN-DELAY" {
			t.Errorf("got %v", err)
		}
	}
	if err := c.Noop(t.Context()); err == nil {
		t.Error("goes on after two logins")
	}
}
