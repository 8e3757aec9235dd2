package app

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/cmd/internal/config"
)

// A users file that changed is obeyed without a signal; a broken one leaves the
// old in force and is told of once. What a cache had of it is forgotten.
func TestUsersFileChanges(t *testing.T) {
	t.Parallel()
	path := filepath.Join(filepath.Dir(folder(t, base)), "users")
	a := newAssembly(&config.Config{
		Verifiers: []config.Verifier{{Name: "local", Type: config.VerifierFile, Users: path, Cached: config.Cached{Accepted: time.Minute, Refused: time.Minute}}},
		Chains:    []config.Chain{{Name: "staff", Steps: []config.Step{{Use: "local"}}}},
	}, slog.New(slog.DiscardHandler), nil)
	if err := a.buildChains(&parts{}); err != nil {
		t.Fatal(err)
	}
	log := &syncBuffer{}
	n := 0
	change := func(text string) {
		t.Helper()
		n++ // a time of its own, whatever the clock's steps are
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		when := time.Now().Add(time.Duration(n) * time.Hour)
		if err := os.Chtimes(path, when, when); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			a.watched[0].look(slog.New(slog.NewTextHandler(log, nil)))
		}
	}
	want := func(when, kind string) {
		t.Helper()
		_, err := a.chains["staff"].VerifyPassword(t.Context(), &authn.PasswordRequest{
			Mechanism: "PLAIN", Login: "alice", Password: authn.Password(password),
		})
		got := "yes"
		if err != nil {
			got = authn.KindOf(err).String()
		}
		if got != kind {
			t.Errorf("%s: got %s, want %s", when, got, kind)
		}
	}
	want("as it was", "yes")
	change("bob:*\n")
	want("removed", "unknown-user")
	change("alice:" + hash + "\n")
	want("back", "yes")
	change("alice\n")
	change("alice alice\n")
	want("broken", "yes")
	if got := strings.Count(log.String(), "users not reloaded, the old ones stay"); got != 1 {
		t.Errorf("told %d times:\n%s", got, log)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	a.watched[0].look(slog.New(slog.NewTextHandler(log, nil)))
	want("gone for a moment", "yes")
	change("alice:" + hash + ":disabled\n")
	want("mended", "denied")
	change("alice\n")
	want("broken again", "denied")
	if got := strings.Count(log.String(), "users not reloaded, the old ones stay"); got != 2 {
		t.Errorf("told %d times:\n%s", got, log)
	}
	if got := strings.Count(log.String(), "users reloaded"); got != 3 {
		t.Errorf("reloaded %d times:\n%s", got, log)
	}
}
