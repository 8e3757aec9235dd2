package app

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/kpopd/kpopd/cmd/internal/config"
	"github.com/kpopd/kpopd/maildrop"
)

// idsOf gives ids to base names in a maildrop with files.
func idsOf(t *testing.T, m config.Maildrops, prepare func(dir string), bases ...string) ([]string, error) {
	t.Helper()
	path := t.TempDir()
	prepare(path)
	dir, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	give, err := uniqueIDs(m)
	if err != nil {
		t.Fatal(err)
	}
	return give(t.Context(), int(dir.Fd()), bases, map[string]string{"0.z": "gone"})
}

func put(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestUniqueIDsOfAnotherServer(t *testing.T) {
	t.Parallel()
	dup := strings.Repeat("x", 70)
	for _, tt := range []struct {
		name string
		m    config.Maildrops
		list string
		want []string
	}{
		{"as they were", config.Maildrops{UIDL: "list"}, "1.a id\n", []string{"id", "2.b", "3.c"}},
		{"one that is a name", config.Maildrops{UIDL: "list"}, "2.b 1.a\n", []string{"1.a-2", "1.a", "3.c"}},
		{"one that was given", config.Maildrops{UIDL: "list"}, "2.b gone\n", []string{"1.a", "gone-2", "3.c"}},
		{"one that was given, allowed", config.Maildrops{UIDL: "list", UIDLDuplicates: "allow"}, "2.b gone\n", []string{"1.a", "gone", "3.c"}},
		{"suffixed", config.Maildrops{UIDL: "list"}, "1.a id\n2.b id\n3.c id-2\n", []string{"id", "id-2", "id-2-2"}},
		{"allowed", config.Maildrops{UIDL: "list", UIDLDuplicates: "allow"}, "1.a id\n2.b id\n", []string{"id", "id", "3.c"}},
		{"illegal ones are the store's matter", config.Maildrops{UIDL: "list"}, "1.a caf\xe9\n2.b " + dup + "x\n", []string{"caf\xe9", dup + "x", "3.c"}},
	} {
		got, err := idsOf(t, tt.m, func(dir string) { put(t, dir, "kpopd-uidl", tt.list) }, "1.a", "2.b", "3.c")
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, %v, want %q", tt.name, got, err, tt.want)
		}
	}
}

// A list that cannot be read refuses the login: staff must act where it is
// broken or something else, and must not where it could not be read just then.
func TestUniqueIDsThatCannotBeRead(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name      string
		prepare   func(dir string)
		permanent bool
	}{
		{"broken", func(dir string) { put(t, dir, "dovecot-uidlist", "3 V1 N1\nx\n") }, true},
		{"a directory", func(dir string) {
			if err := os.Mkdir(filepath.Join(dir, "dovecot-uidlist"), 0o700); err != nil {
				t.Fatal(err)
			}
		}, true},
		{"a FIFO", func(dir string) {
			if err := syscall.Mkfifo(filepath.Join(dir, "dovecot-uidlist"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, true},
		{"a link to somebody else's", func(dir string) {
			put(t, dir, "other", "3 V1 N1\n1 :1.a\n")
			if err := os.Symlink("other", filepath.Join(dir, "dovecot-uidlist")); err != nil {
				t.Fatal(err)
			}
		}, false},
	} {
		got, err := idsOf(t, config.Maildrops{UIDL: "auto"}, tt.prepare, "1.a")
		if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, maildrop.ErrPermanent) != tt.permanent {
			t.Errorf("%s: %q, %v", tt.name, got, err)
		}
	}
	if got, err := idsOf(t, config.Maildrops{UIDL: "auto"}, func(string) {}, "1.a"); err != nil || !slices.Equal(got, []string{"1.a"}) {
		t.Errorf("no list: %q, %v", got, err)
	}
}

func TestUniqueIDsOfOurOwn(t *testing.T) {
	t.Parallel()
	give, err := uniqueIDs(config.Maildrops{})
	if give != nil || err != nil {
		t.Errorf("%v", err)
	}
}
