package file

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kpopd/kpopd/authn"
)

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestSetHash(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, before, after string }{
		{"new file line", "", "alice:" + hashP + "\n"},
		{"appended", "bob:*\n", "bob:*\nalice:" + hashP + "\n"},
		{"appended where the last line has no end", "bob:*", "bob:*\nalice:" + hashP + "\n"},
		{"replaced", "# c\n\nalice:old\nbob:*\n", "# c\n\nalice:" + hashP + "\nbob:*\n"},
		{"other fields are kept", "alice:old:1000::maildrop=a b:\r\nbob:*", "alice:" + hashP + ":1000::maildrop=a b:\r\nbob:*"},
		{"other lines are kept octet for octet", "al\xff\x00 \r\r\nalice:$1$x\n  \n#\n", "al\xff\x00 \r\r\nalice:" + hashP + "\n  \n#\n"},
		{"a comment is no user", "#alice:old\n", "#alice:old\nalice:" + hashP + "\n"},
		{"a longer name is another user", "alice2:*\nAlice:*\n", "alice2:*\nAlice:*\nalice:" + hashP + "\n"},
		{"a user who stood there twice stands there once", "alice:a\nbob:*\nalice:b\n", "alice:" + hashP + "\nbob:*\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path := write(t, "users", tt.before, 0o640)
			if err := SetHash(path, "alice", hashP); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.after, content(t, path)); diff != "" {
				t.Error(diff)
			}
			st, err := os.Stat(path)
			if err != nil || st.Mode().Perm() != 0o640 {
				t.Errorf("mode %v, %v", st.Mode(), err)
			}
		})
	}
}

func TestSetHashRefuses(t *testing.T) {
	t.Parallel()
	path := write(t, "users", "bob:*\n", 0o600)
	for _, tt := range []struct{ login, hash string }{
		{"", hashP},
		{"a:b", hashP},
		{"a\nb", hashP},
		{"#a", hashP},
		{"a/b", hashP},
		{"alice", ""},
		{"alice", "secret"},
		{"alice", hashP + ":x"},
		{"alice", hashP + "\nroot:" + hashP},
	} {
		if err := SetHash(path, tt.login, tt.hash); err == nil {
			t.Errorf("took %q with %q", tt.login, tt.hash)
		}
	}
	if got := content(t, path); got != "bob:*\n" {
		t.Errorf("the file became %q", got)
	}
}

func TestRemoveUser(t *testing.T) {
	t.Parallel()
	path := write(t, "users", "# alice\nalice:a\r\nbob:*\nalice:b", 0o600)
	for _, want := range []bool{true, false} {
		if found, err := RemoveUser(path, "alice"); found != want || err != nil {
			t.Errorf("got %v, %v, want %v", found, err, want)
		}
	}
	if got := content(t, path); got != "# alice\nbob:*\n" {
		t.Errorf("left %q", got)
	}
}

func TestSecrets(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "digests")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(SetSecret(path, "", "alice", "APOP", authn.Password("a:b ")))
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("made with mode %v, %v", st.Mode(), err)
	}
	must(SetSecret(path, "", "alice", "CRAM-MD5", authn.Password("c")))
	must(SetSecret(path, "", "bob", "APOP", authn.Password("d")))
	must(SetSecret(path, "", "alice", "APOP", authn.Password("e")))
	if got, want := content(t, path), "alice:APOP:e\nalice:CRAM-MD5:c\nbob:APOP:d\n"; got != want {
		t.Errorf("got %q", got)
	}
	all, err := Secrets(path)
	if diff := cmp.Diff([]Secret{{Login: "alice", Scheme: "APOP"}, {Login: "alice", Scheme: "CRAM-MD5"}, {Login: "bob", Scheme: "APOP"}}, all); diff != "" || err != nil {
		t.Error(diff, err)
	}
	for _, tt := range []struct {
		scheme string
		want   bool
	}{{"APOP", true}, {"APOP", false}, {"", true}, {"", false}} {
		if found, err := RemoveSecret(path, "alice", tt.scheme); found != tt.want || err != nil {
			t.Errorf("%q: %v, %v", tt.scheme, found, err)
		}
	}
	if got := content(t, path); got != "bob:APOP:d\n" {
		t.Errorf("left %q", got)
	}
	for _, s := range []string{"", "a\nroot:APOP:x", "a\r", "a\x00", strings.Repeat("x", 1025)} {
		if err := SetSecret(path, "", "carol", "APOP", authn.Password(s)); err == nil {
			t.Errorf("took the secret %.10q", s)
		}
	}
	if err := SetSecret(path, "", "carol", "PLAIN", authn.Password("x")); err == nil {
		t.Error("took a scheme that there is not")
	}
}

func TestEditFollowsNoLink(t *testing.T) {
	t.Parallel()
	target := write(t, "target", "bob:*\n", 0o600)
	link := filepath.Join(t.TempDir(), "users")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	if err := SetHash(link, "alice", hashP); err == nil || !strings.Contains(err.Error(), "symbolic link") {
		t.Errorf("got %v", err)
	}
	if got := content(t, target); got != "bob:*\n" {
		t.Errorf("target became %q", got)
	}
	if err := SetHash(t.TempDir(), "alice", hashP); err == nil {
		t.Error("edited a directory")
	}
	if err := SetHash(filepath.Join(t.TempDir(), "none", "users"), "alice", hashP); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("directory that is not there: %v", err)
	}
}

// Readers see whole files only, writers lose nothing of each other, nothing is
// left over.
func TestConcurrentEdits(t *testing.T) {
	t.Parallel()
	path := write(t, "users", "# kept\n", 0o600)
	const writers = 20
	var wg, reader sync.WaitGroup
	done := make(chan struct{})
	reader.Go(func() {
		for {
			if _, err := loadUsers(path); err != nil {
				t.Error(err)
				return
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	for i := range writers {
		wg.Go(func() {
			if err := SetHash(path, fmt.Sprintf("user%d", i), hashP); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	close(done)
	reader.Wait()
	us, err := loadUsers(path)
	if err != nil || len(us.byLogin) != writers || !strings.HasPrefix(content(t, path), "# kept\n") {
		t.Errorf("%d users, %v", len(us.byLogin), err)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("left over: %v, %v", left, err)
	}
}

func FuzzRewrite(f *testing.F) {
	f.Add([]byte("alice:x:y\r\nbob:*"))
	f.Add([]byte("# alice:\n\nalice"))
	f.Fuzz(func(t *testing.T, old []byte) {
		path := write(t, "users", string(old), 0o600)
		if err := SetHash(path, "zoe", hashP); err != nil {
			t.Fatal(err)
		}
		if found, err := RemoveUser(path, "zoe"); !found || err != nil {
			t.Fatal(found, err)
		}
		// what is left is what was there without zoe, but for a line end at
		// the end
		got, want := content(t, path), ""
		for l := range strings.Lines(string(old)) {
			if !strings.HasPrefix(l, "zoe:") {
				want += l
			}
		}
		if strings.TrimSuffix(got, "\n") != strings.TrimSuffix(want, "\n") {
			t.Errorf("%q became %q", old, got)
		}
	})
}
