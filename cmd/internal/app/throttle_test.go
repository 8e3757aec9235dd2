package app

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kpopd/kpopd/authn/file"
	"github.com/kpopd/kpopd/maildrop/maildir"
)

// Guesses at a user are counted, over a reload too; then even the right password
// is refused unjudged, as a fault that passes, and nobody else is held.
func TestThrottle(t *testing.T) {
	t.Parallel()
	path := folder(t, base+"throttle: {user_failures: 20}\n")
	dir := filepath.Dir(path)
	if err := errors.Join(maildir.Make(filepath.Join(dir, "mail", "bob")), file.SetHash(filepath.Join(dir, "users"), "bob", hash)); err != nil {
		t.Fatal(err)
	}
	s, log := serve(t, path)
	for range 8 {
		if got := loginCode(t, s, "alice", "wrong"); got != "AUTH" {
			t.Fatalf("a free failure got %q", got)
		}
	}
	rewrite(t, s, path, base+"throttle: {user_failures: 2, max_delay: 1h}\n")
	// the first one under the new limit is spaced from the next by 128 s, and
	// nobody waits for more than 10 s
	if got := loginCode(t, s, "alice", "wrong"); got != "AUTH" {
		t.Errorf("the first one got %q", got)
	}
	if got := loginCode(t, s, "alice", password); got != "SYS/TEMP" {
		t.Errorf("the right password among guesses got %q", got)
	}
	if got := loginCode(t, s, "bob", password); got != "" {
		t.Errorf("bob got %q", got)
	}
	rewrite(t, s, path, base+"throttle: {off: true}\n")
	if got := loginCode(t, s, "alice", password); got != "" {
		t.Errorf("with the throttle off, alice got %q", got)
	}
	s.Shutdown(nil) // and with it the log
	if n := strings.Count(log.String(), "kind=throttled"); n != 1 || !strings.Contains(log.String(), "failures of the user: next attempt in ") {
		t.Errorf("%d logins logged as throttled:\n%s", n, log)
	}
}

func TestExplainThrottle(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"": "throttle: failed logins that are free: 200 of an address, 1000 of a network, 10 of a user, and half of them again every 10m0s\n" +
			"  then up to 30s between attempts, refused unjudged when that is more than 10s away\n",
		"throttle: {off: true}": "throttle: off\n",
		"throttle: {address_failures: 0, network_failures: 0, exempt: [192.0.2.1/32]}": "throttle: failed logins that are free: 10 of a user, and half of them again every 10m0s\n" +
			"  then up to 30s between attempts, refused unjudged when that is more than 10s away\n  addresses in 192.0.2.1/32 are not counted\n",
	} {
		r, err := Check(folder(t, base+text+"\n"))
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		r.Explain(&b)
		if !strings.HasSuffix(b.String(), "\n"+want) {
			t.Errorf("%s: explained as\n%s", text, b.String())
		}
	}
}
