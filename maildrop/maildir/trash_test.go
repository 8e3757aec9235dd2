package maildir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/maildrop"
	"github.com/kpopd/kpopd/maildrop/droptest"
)

var alice = maildrop.Ref{User: "alice"}

func TestStoreWithTrash(t *testing.T) {
	t.Parallel()
	droptest.RunStore(t, func(t *testing.T) *droptest.Harness {
		return harnessWith(t, Options{Trash: true}, func(string) string { return "" })
	})
}

// commit opens alice's maildrop and removes what del says.
func commit(t *testing.T, s *Store, del ...int) {
	t.Helper()
	if err := openAlice(t, s).Commit(t.Context(), del); err != nil {
		t.Fatal(err)
	}
}

func trashOf(t *testing.T, s *Store) []Trashed {
	t.Helper()
	all, err := s.Trash(t.Context(), alice)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// trashed is how many files the trash of a maildrop holds.
func trashed(t *testing.T, dir string) (n int) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(dir, trashDir), func(_ string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			n++
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return n
}

// A message that is given back, by Restore or by hand, is the one that it was.
func TestRestoreKeepsUniqueIDs(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"restore", "mv"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			dir := mixed(t, root)
			put(t, dir, "5.no id of a client's", "b\n") // a unique-id that is no name
			s := newStore(t, root, Options{Trash: true, UIDs: counting("v1")})
			before := openOnce(t, s)
			commit(t, s, 0, 2, 4)
			wantMessages(t, s, before[1].UID, before[3].UID)
			all := trashOf(t, s)
			var uids []string
			for _, m := range all {
				uids = append(uids, m.UID)
			}
			if want := []string{before[0].UID, before[2].UID, before[4].UID}; !slices.Equal(uids, want) {
				t.Fatalf("in the trash: %q, want %q", uids, want)
			}
			for _, m := range all {
				if how == "mv" {
					sub := "new"
					if strings.Contains(m.name, ":") {
						sub = "cur"
					}
					if err := os.Rename(filepath.Join(dir, trashDir, m.day, m.name), filepath.Join(dir, sub, m.name)); err != nil {
						t.Fatal(err)
					}
				} else if err := s.Restore(t.Context(), alice, m); err != nil {
					t.Fatal(err)
				}
			}
			after := openOnce(t, newStore(t, root, Options{Trash: true, UIDs: never(t)}))
			if !slices.Equal(after, before) {
				t.Errorf("%v\nwas\n%v", after, before)
			}
		})
	}
}

// What is not there any more, and what is back already, is told.
func TestRestoreReplacesNothing(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	dir := mixed(t, root)
	s := newStore(t, root, Options{Trash: true})
	commit(t, s, 0)
	m := trashOf(t, s)[0]
	put(t, dir, "1.a", "another\n")
	if err := s.Restore(t.Context(), alice, m); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over another file: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "new", "1.a")); err != nil {
		t.Fatal(err)
	}
	if err := s.Restore(t.Context(), alice, m); err != nil {
		t.Error(err)
	}
	if err := s.Restore(t.Context(), alice, m); !errors.Is(err, maildrop.ErrGone) {
		t.Errorf("again: %v", err)
	}
}

// A copy that was given back is deleted beside the original, and a second name
// of the same file is no second message.
func TestTrashKeepsFilesOfOneName(t *testing.T) {
	t.Parallel()
	synctest.Test(t, testTrashKeepsFilesOfOneName) // in which it is always the same day
}

func testTrashKeepsFilesOfOneName(t *testing.T) {
	root := t.TempDir()
	dir := makeMaildir(t, root, "alice")
	s := newStore(t, root, Options{Trash: true})
	for n := range maxSame {
		put(t, dir, "1.a", fmt.Sprintln(n))
		commit(t, s, 0)
		if got := trashed(t, dir); got != n+1 {
			t.Fatalf("%d files in the trash, want %d", got, n+1)
		}
	}
	put(t, dir, "1.a", "one too many\n")
	var ce *maildrop.CommitError
	if err := openAlice(t, s).Commit(t.Context(), []int{0}); !errors.As(err, &ce) || !slices.Equal(ce.Left, []int{0}) {
		t.Errorf("got %v", err)
	}
	if countFiles(t, dir) != 1 {
		t.Error("the message is gone")
	}

	linked := makeMaildir(t, root, "bob")
	put(t, linked, "2.b", "b\n")
	if err := os.Link(filepath.Join(linked, "new", "2.b"), filepath.Join(linked, "cur", "2.b")); err != nil {
		t.Fatal(err)
	}
	d, err := s.Open(t.Context(), maildrop.Ref{User: "bob"})
	if err == nil {
		err = d.Commit(t.Context(), []int{0})
	}
	if err != nil || countFiles(t, linked) != 0 || trashed(t, linked) != 1 {
		t.Errorf("%v: %d files, %d in the trash", err, countFiles(t, linked), trashed(t, linked))
	}
}

// The trash is on disk before its absence from the maildrop is, and at no time
// is a message in none of both.
func TestTrashIsSyncedFirst(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	dir := mixed(t, root)
	s := newStore(t, root, Options{Trash: true})
	var synced []string
	s.fsync = func(fd int) error {
		path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		synced = append(synced, strings.TrimPrefix(path, root))
		if n := countFiles(t, dir) + trashed(t, dir); n != 4 {
			t.Errorf("%d messages at the time of fsync", n)
		}
		return err
	}
	commit(t, s, 1, 2)
	day := filepath.Base(filepath.Dir(globOne(t, filepath.Join(dir, trashDir, "*", "2.a"))))
	want := []string{"/alice/kpopd-trash/" + day, "/alice/kpopd-trash", "/alice", "/alice/new", "/alice/cur"}
	if !slices.Equal(synced, want) {
		t.Errorf("synced %q, want %q", synced, want)
	}
}

func globOne(t *testing.T, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) != 1 {
		t.Fatalf("%s: %q, %v", pattern, found, err)
	}
	return found[0]
}

// When the trash may not be on disk nothing is said to be deleted, and new and
// cur are not synced.
func TestTrashThatCannotBeSynced(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	dir := mixed(t, root)
	s := newStore(t, root, Options{Trash: true})
	calls := 0
	s.fsync = func(int) error { calls++; return unix.EIO }
	var ce *maildrop.CommitError
	err := openAlice(t, s).Commit(t.Context(), []int{0, 3})
	if !errors.As(err, &ce) || !slices.Equal(ce.Left, []int{0, 3}) || !errors.Is(err, unix.EIO) || calls != 1 {
		t.Errorf("%v after %d calls of fsync", err, calls)
	}
	if n := countFiles(t, dir) + trashed(t, dir); n != 4 {
		t.Errorf("%d messages in both places", n)
	}
}

// A trash that is no directory of ours lets nothing be deleted, by anybody.
func TestTrashThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	for name, plant := range map[string]func(path string) error{
		"a file":          func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"a symbolic link": func(path string) error { return os.Symlink(os.TempDir(), path) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			dir := mixed(t, root)
			if err := plant(filepath.Join(dir, trashDir)); err != nil {
				t.Fatal(err)
			}
			var ce *maildrop.CommitError
			err := openAlice(t, newStore(t, root, Options{Trash: true})).Commit(t.Context(), []int{0, 1, 2, 3})
			if !errors.As(err, &ce) || len(ce.Left) != 4 || !errors.Is(err, maildrop.ErrPermanent) || !strings.Contains(err.Error(), trashDir) {
				t.Errorf("got %v", err)
			}
			if countFiles(t, dir) != 4 {
				t.Error("messages are gone")
			}
		})
	}
}

func TestPurge(t *testing.T) {
	t.Parallel()
	synctest.Test(t, testPurge)
}

func testPurge(t *testing.T) {
	root := t.TempDir()
	dir := makeMaildir(t, root, "alice")
	s := newStore(t, root, Options{Trash: true})
	today := time.Now().UTC()
	for name, age := range map[string]int{"5.kept": 5, "8.old": 8, "400.older": 400} {
		day := filepath.Join(dir, trashDir, today.AddDate(0, 0, -age).Format(dayForm))
		if err := errors.Join(os.MkdirAll(day, 0o700), os.WriteFile(filepath.Join(day, name), []byte("abc\n"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	other := filepath.Join(dir, trashDir, "notes", "keep")
	if err := errors.Join(os.MkdirAll(filepath.Dir(other), 0o700), os.WriteFile(other, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, dry := range []bool{true, false} {
		var told []string
		err := s.Expire(t.Context(), "alice", 6*Day, dry, func(m Expired) {
			told = append(told, fmt.Sprint(m.UID, m.Octets, m.After, int(m.Age/Day)))
		})
		slices.Sort(told)
		if want := []string{"400.older4deletion400", "8.old4deletion8"}; err != nil || !slices.Equal(told, want) {
			t.Errorf("dry run %v: %q, %v, want %q", dry, told, err, want)
		}
		if n, want := trashed(t, dir), map[bool]int{true: 4, false: 2}[dry]; n != want {
			t.Errorf("dry run %v: %d files are left, want %d", dry, n, want)
		}
	}
	if days, _ := os.ReadDir(filepath.Join(dir, trashDir)); len(days) != 2 {
		t.Errorf("directories that are left: %v", days)
	}
}

// A full disk does not keep users from deleting, with a trash or without room
// for one.
func TestTrashOnAFullDisk(t *testing.T) {
	t.Parallel()
	for name, inodes := range map[string]string{"no room for a trash": "10", "a trash": "12"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := smallDisk(t, inodes) // root, alice, new, cur, tmp, three messages, lock, filler
			dir := makeMaildir(t, root, "alice")
			for _, base := range []string{"1.a", "2.b", "3.c"} {
				put(t, dir, base, "a\n")
			}
			var log logged
			s := newStore(t, root, Options{Trash: true, Log: log.logger()})
			openOnce(t, s)
			_ = os.Remove(filepath.Join(dir, indexFile))
			if inodes == "12" {
				if err := os.MkdirAll(filepath.Join(dir, trashDir, time.Now().UTC().Format(dayForm)), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			fill(t, filepath.Join(root, "filler"))
			commit(t, s, 0, 2)
			wantMessages(t, s, "2.b")
			want := map[string]int{"10": 0, "12": 2}[inodes]
			if got := trashed(t, dir); got != want {
				t.Errorf("%d messages in the trash, want %d", got, want)
			}
			if got := len(log.lines("no room in the trash")); got != 2-want {
				t.Errorf("told %d times:\n%q", got, log.lines())
			}
		})
	}
}
