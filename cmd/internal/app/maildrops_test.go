package app

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kpopd/kpopd/pop3/client"
)

// A maildrop that takes longer to read for the first time than the client may
// be kept waiting is there after a few tries; each is told to come back. After
// a restart the index has it at once, and unique-ids are what they were.
func TestFirstReadingOfAMaildrop(t *testing.T) {
	t.Parallel()
	const n = 1000
	path := folder(t, strings.Replace(base, "root: mail", "root: mail, scan_wait: 1us", 1))
	alice := filepath.Join(filepath.Dir(path), "mail", "alice")
	for i := range n {
		name := filepath.Join(alice, "new", fmt.Sprintf("1700%06d.M1P2.host", i))
		if err := os.WriteFile(name, []byte("Subject: a\n\nb\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	log := &syncBuffer{}
	s, err := Start(t.Context(), path, log)
	if err != nil {
		t.Fatal(err)
	}
	before, tries := listAgain(t, s)
	if len(before) != n {
		t.Errorf("%d messages, want %d", len(before), n)
	}
	if got := strings.Count(log.String(), "maildrop read for the first time"); got != 1 {
		t.Errorf("read %d times in %d tries:\n%s", got, tries, log)
	}
	t.Logf("the maildrop was read after %d tries", tries)
	s.Shutdown(nil)
	if st, err := os.Stat(filepath.Join(alice, ".kpopd.index")); err != nil || st.Mode() != 0o600 {
		t.Errorf("the index: %v, %v", st, err)
	}

	s, log = serve(t, path)
	after, tries := listAgain(t, s)
	if !slices.Equal(after, before) || tries != 1 || strings.Contains(log.String(), "first time") {
		t.Errorf("after a restart: %d messages in %d tries, were %d\n%s", len(after), tries, len(before), log)
	}
	rewrite(t, s, path, strings.Replace(base, "root: mail", "root: mail, cache_memory: 0", 1))
	if again, _ := listAgain(t, s); !slices.Equal(again, before) {
		t.Errorf("without a cache: %d messages, were %d", len(again), len(before))
	}
}

// listAgain logs in until alice is let in, and says how often that was.
func listAgain(t *testing.T, s *Server) (uids []client.UniqueID, tries int) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		tries++
		c := dial(t, s)
		var refused *client.ServerError
		err := c.UserPass(t.Context(), "alice", password)
		if errors.As(err, &refused) && refused.Code == "SYS/TEMP" && time.Now().Before(deadline) {
			c.Close()
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		uids, err = c.UIDL(t.Context())
		if err := errors.Join(err, c.Quit(t.Context())); err != nil {
			t.Fatal(err)
		}
		return uids, tries
	}
}

// The log of a damaged index says whose it is; the user notices nothing.
func TestDamagedIndex(t *testing.T) {
	t.Parallel()
	path := folder(t, base)
	alice := filepath.Join(filepath.Dir(path), "mail", "alice")
	if err := os.WriteFile(filepath.Join(alice, "new", "1.a"), []byte("a\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(alice, ".kpopd.index"), []byte("kpopdidx, or so it says"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, log := serve(t, path)
	if uids, tries := listAgain(t, s); len(uids) != 1 || tries != 1 {
		t.Errorf("%d messages in %d tries", len(uids), tries)
	}
	s.Shutdown(nil) // and with it the log
	if got := log.String(); strings.Count(got, "index rebuilt") != 1 || !strings.Contains(got, "maildrop=alice") {
		t.Errorf("the log says %s", got)
	}
}
