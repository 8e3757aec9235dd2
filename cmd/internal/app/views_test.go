package app

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-sasl"

	"github.com/kpopd/kpopd/maildrop/maildir"
	"github.com/kpopd/kpopd/pop3/client"
)

const views = `views:
  folders: "+"
  recent: 720h
  envelopes: true
  hosts:
    - {user: physics, domains: [physics.example.org]}
`

// viewed has a maildrop with folders and old mail, and one of a domain.
func viewed(t *testing.T, configuration string) (path string) {
	t.Helper()
	path = folder(t, strings.Replace(configuration, "offers: [USER]", "offers: [PLAIN, USER]", 1))
	dir := filepath.Dir(path)
	deliver := func(text string, parts ...string) string {
		box := filepath.Join(append([]string{dir, "mail"}, parts...)...)
		if err := maildir.Make(box); err != nil {
			t.Fatal(err)
		}
		base, err := maildir.Deliver(box, strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		return base
	}
	deliver("Subject: new\n\n", "alice")
	old := filepath.Join(dir, "mail", "alice", "new", "1000000000.old")
	if err := os.WriteFile(old, []byte("Subject: old\n\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	deliver("Subject: sent\n\n", "alice", ".Sent.2026")
	deliver("Return-Path: <bob@x>\nDelivered-To: alice@physics.example.org\n\n", "physics")
	deliver("Return-Path: <bob@x>\nDelivered-To: carol@physics.example.org\n\n", "physics")
	if err := os.WriteFile(filepath.Join(dir, "users"), []byte("alice:"+hash+"\nphysics:"+hash+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestViews(t *testing.T) {
	t.Parallel()
	s, log := serve(t, viewed(t, base+views))
	for _, tt := range []struct {
		login    string
		messages int
		view     string // in the log
	}{
		{"alice", 2, ""},
		{"alice+Sent/2026", 1, "user=alice step=local view=folder:Sent/2026 "},
		{"recent:alice", 1, "user=alice step=local view=recent "},
		{"recent:alice+Sent.2026", 1, "user=alice step=local view=folder:Sent.2026,recent "},
		{"physics", 2, ""},
		{"carol+physics", 1, "user=physics step=local view=recipient:carol "},
		{"carol@physics.example.org", 1, "user=physics step=local view=recipient:carol "},
		{"nobody@physics", 0, "user=physics step=local view=recipient:nobody "},
	} {
		for how, logIn := range map[string]func(*client.Client) error{
			"USER":  func(c *client.Client) error { return c.UserPass(t.Context(), tt.login, password) },
			"PLAIN": func(c *client.Client) error { return c.Auth(t.Context(), sasl.NewPlainClient("", tt.login, password)) },
			"PLAIN for himself": func(c *client.Client) error {
				return c.Auth(t.Context(), sasl.NewPlainClient(tt.login, tt.login, password))
			},
		} {
			c := dial(t, s)
			if err := logIn(c); err != nil {
				t.Errorf("%s as %s: %v", how, tt.login, err)
				continue
			}
			n, _, err := c.Stat(t.Context())
			if err != nil || n != tt.messages {
				t.Errorf("%s as %s: %d messages, %v, want %d", how, tt.login, n, err, tt.messages)
			}
			if err := c.Quit(t.Context()); err != nil {
				t.Error(err)
			}
		}
	}
	s.Shutdown(nil)
	for _, want := range []string{"view=folder:Sent/2026 ", "view=recent ", "view=folder:Sent.2026,recent ", "view=recipient:carol "} {
		if n := strings.Count(log.String(), want); n < 6 { // three logins and their ends
			t.Errorf("%d lines with %s:\n%s", n, want, log)
		}
	}
	if strings.Count(log.String(), " user=alice ") < 12 || strings.Contains(log.String(), "user=alice+") {
		t.Errorf("the user is not alice:\n%s", log)
	}
}

// The lock is on what is opened, however it is called and however little of it is
// seen; who has it is told.
func TestViewsAndTheLock(t *testing.T) {
	t.Parallel()
	s, _ := serve(t, viewed(t, base+views))
	logIn := func(login string) error { return dial(t, s).UserPass(t.Context(), login, password) }
	for _, login := range []string{"recent:alice", "alice+Sent.2026", "carol@physics"} {
		if err := logIn(login); err != nil {
			t.Fatalf("%s: %v", login, err)
		}
	}
	for _, login := range []string{"alice", "alice+INBOX", "alice+INBOX.Sent.2026", "recent:alice+Sent/2026", "physics", "dave+physics"} {
		var refused *client.ServerError
		if err := logIn(login); !errors.As(err, &refused) || refused.Code != "IN-USE" || !strings.Contains(refused.Text, "127.0.0.1") {
			t.Errorf("%s: %v, want [IN-USE] and from where", login, err)
		}
	}
}

// What is not there is no wrong password, and what is not on is no login.
func TestViewsThatAreNotThere(t *testing.T) {
	t.Parallel()
	on, _ := serve(t, viewed(t, base+views))
	off, _ := serve(t, viewed(t, base))
	for _, tt := range []struct {
		s                     *Server
		login, password, code string
	}{
		{on, "alice+Nowhere", password, "SYS/PERM"},
		{on, "alice+../physics", password, "SYS/PERM"},
		{on, "alice+Nowhere", "wrong", "AUTH"},
		{on, "alice+", password, "AUTH"},
		{on, "recent:nobody", password, "AUTH"},
		{off, "alice+Sent.2026", password, "AUTH"},
		{off, "recent:alice", password, "AUTH"},
		{off, "carol@physics", password, "AUTH"},
	} {
		var refused *client.ServerError
		if err := dial(t, tt.s).UserPass(t.Context(), tt.login, tt.password); !errors.As(err, &refused) || refused.Code != tt.code {
			t.Errorf("%s: %v, want [%s]", tt.login, err, tt.code)
		}
	}
}

// Unique-ids are the same in all views, and what one of them deletes is gone from
// the others.
func TestViewsShareMessages(t *testing.T) {
	t.Parallel()
	s, _ := serve(t, viewed(t, base+views))
	uids := func(login string, del int) (uids []string) {
		t.Helper()
		c := dial(t, s)
		if err := c.UserPass(t.Context(), login, password); err != nil {
			t.Fatal(err)
		}
		list, err := c.UIDL(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range list {
			uids = append(uids, u.UID)
		}
		if del > 0 {
			err = c.Dele(t.Context(), del)
		}
		if err := errors.Join(err, c.Quit(t.Context())); err != nil {
			t.Fatal(err)
		}
		return uids
	}
	all := uids("alice", 0)
	if recent := uids("recent:alice", 1); len(recent) != 1 || recent[0] != all[1] {
		t.Fatalf("recent are %q of %q", recent, all)
	}
	if left := uids("alice", 0); len(left) != 1 || left[0] != all[0] {
		t.Errorf("%q are left of %q", left, all)
	}
}

// Rules look at the user.
func TestViewsAndRules(t *testing.T) {
	t.Parallel()
	text := strings.Replace(base, "trusted: [127.0.0.0/8]}", "trusted: [127.0.0.0/8], rules: [{users: [alice], action: deny, text: no mail today}]}", 1)
	s, _ := serve(t, viewed(t, text+views))
	var refused *client.ServerError
	if err := dial(t, s).UserPass(t.Context(), "recent:alice+Sent.2026", password); !errors.As(err, &refused) || !strings.Contains(refused.Text, "no mail today") {
		t.Errorf("got %v", err)
	}
	if err := dial(t, s).UserPass(t.Context(), "recent:carol@physics", password); err != nil {
		t.Error(err)
	}
}

// A reload takes views over, and keeps the store.
func TestReloadOfViews(t *testing.T) {
	t.Parallel()
	path := viewed(t, base)
	s, _ := serve(t, path)
	if err := dial(t, s).UserPass(t.Context(), "alice+Sent.2026", password); err == nil {
		t.Fatal("folders are off")
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(text, views...), 0o600); err != nil {
		t.Fatal(err)
	}
	store := s.current.parts.store
	if err := s.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := dial(t, s).UserPass(t.Context(), "alice+Sent.2026", password); err != nil {
		t.Error(err)
	}
	if s.current.parts.store != store {
		t.Error("the store is another one")
	}
}

func TestExplainViews(t *testing.T) {
	t.Parallel()
	path := viewed(t, base+views)
	r, err := Check(path)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	r.Explain(&b)
	q := Question{Listener: "inside", Address: "127.0.0.1", User: "recent:alice+Sent", Time: time.Unix(1_700_000_000, 0)}
	if err := r.Answer(t.Context(), &b, q); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"views: USER+FOLDER opens a folder\n", "views: recent:USER sees what arrived in the last 720h0m0s\n",
		"views: NAME+physics sees of the maildrop of physics what is for NAME at physics.example.org\n",
		"views: *ENV tells sender and recipient of a message\n", "\nview folder:Sent,recent\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in:\n%s", want, &b)
		}
	}
}

// Users whom nobody could log in as, since their names ask for a folder.
func TestUsersThatViewsHide(t *testing.T) {
	t.Parallel()
	path := viewed(t, base+views)
	if err := os.WriteFile(filepath.Join(filepath.Dir(path), "users"), []byte("alice:*\na+b:*\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Check(path); err == nil || !strings.Contains(err.Error(), `nobody can log in as "a+b", of which names make no login; rename or remove it`) {
		t.Errorf("got %v", err)
	}
}
