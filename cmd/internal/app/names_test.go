package app

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/emersion/go-sasl"

	"github.com/kpopd/kpopd/cmd/internal/config"
	"github.com/kpopd/kpopd/pop3/client"
)

// Two spellings of a user meet one lock, and one maildrop.
func TestRule176_SpellingsMeetOneLock(t *testing.T) {
	t.Parallel()
	text := strings.Replace(base, "offers: [USER]", "offers: [PLAIN, USER]", 1) +
		"names: {fold_case: true, strip_domains: [example.org]}\n"
	s, log := serve(t, folder(t, text))
	first := dial(t, s)
	if err := first.UserPass(t.Context(), "Alice@EXAMPLE.org", password); err != nil {
		t.Fatal(err)
	}
	for _, spelling := range []string{"alice", "ALICE", "alice@example.org", "\uff21lice"} {
		for how, logIn := range map[string]func(*client.Client) error{
			"USER":  func(c *client.Client) error { return c.UserPass(t.Context(), spelling, password) },
			"PLAIN": func(c *client.Client) error { return c.Auth(t.Context(), sasl.NewPlainClient("", spelling, password)) },
			"PLAIN for herself": func(c *client.Client) error {
				return c.Auth(t.Context(), sasl.NewPlainClient("aLICE@example.ORG", spelling, password))
			},
		} {
			err := logIn(dial(t, s))
			var refused *client.ServerError
			if !errors.As(err, &refused) || refused.Code != "IN-USE" {
				t.Errorf("%s as %q: %v, want [IN-USE]", how, spelling, err)
			}
		}
	}
	if err := first.Quit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := dial(t, s).UserPass(t.Context(), "alice@other.example", password); err == nil {
		t.Error("another domain is the same user")
	}
	s.Shutdown(nil)
	if n := strings.Count(log.String(), "kind=accepted"); n != strings.Count(log.String(), " user=alice step=") || n != 13 {
		t.Errorf("%d logins, not all of alice:\n%s", n, log)
	}
}

// Without names two spellings are two users.
func TestRule152_CaseIsKept(t *testing.T) {
	t.Parallel()
	s, _ := serve(t, folder(t, base))
	var refused *client.ServerError
	if err := dial(t, s).UserPass(t.Context(), "Alice", password); !errors.As(err, &refused) || refused.Code != "AUTH" {
		t.Errorf("got %v", err)
	}
}

// A reload takes names over.
func TestReloadOfNames(t *testing.T) {
	t.Parallel()
	path := folder(t, base)
	s, _ := serve(t, path)
	if err := os.WriteFile(path, []byte(base+"names: {fold_case: true}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", s.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c, err := client.New(t.Context(), conn, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.UserPass(t.Context(), "ALICE", password); err != nil {
		t.Error(err)
	}
}

// Users whom nobody could log in as are mistakes, told before anybody tries.
func TestUsersThatNamesHide(t *testing.T) {
	t.Parallel()
	path := folder(t, base+"names: {fold_case: true, strip_domains: [example.org]}\n")
	dir := filepath.Dir(path)
	if err := os.WriteFile(filepath.Join(dir, "users"), []byte("alice:*\nBob:*\ncarol@example.org:*\n@example.org:*\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Check(path)
	var p *config.Problem
	if !errors.As(err, &p) {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{
		`k.yaml:8: verifiers[0]: nobody can log in as "Bob", which names make "bob"; write it so`,
		`k.yaml:8: verifiers[0]: nobody can log in as "carol@example.org", which names make "carol"; write it so`,
		`k.yaml:8: verifiers[0]: nobody can log in as "@example.org", of which names make no login; rename or remove it`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got:\n%v\nwant %s", err, want)
		}
	}
	if strings.Contains(err.Error(), `"alice"`) {
		t.Errorf("alice is blamed too:\n%v", err)
	}
}
