package maildir

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/maildrop"
)

// mixed makes a maildrop with messages 0 and 1 in new and 2 and 3 in cur.
func mixed(t *testing.T, root string) (dir string) {
	t.Helper()
	dir = makeMaildir(t, root, "alice")
	for i, flags := range []string{"", "", ":2,S", ":2,"} {
		base := fmt.Sprintf("%d.a", i+1)
		put(t, dir, base, "a\n")
		if flags != "" {
			if err := os.Rename(filepath.Join(dir, "new", base), filepath.Join(dir, "cur", base+flags)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

func openAlice(t *testing.T, s *Store) maildrop.Drop {
	t.Helper()
	d, err := s.Open(t.Context(), maildrop.Ref{User: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// The directories from which something was removed are synced, after the last
// removal and before Commit returns, once each.
func TestCommitSyncsWhatItChanged(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		del  []int
		want []string
	}{
		{"nothing removed", nil, nil},
		{"from new", []int{0, 1}, []string{"new"}},
		{"from cur", []int{2}, []string{"cur"}},
		{"from both", []int{1, 2, 3}, []string{"new", "cur"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			dir := mixed(t, root)
			s := newStore(t, root, Options{})
			var synced []string
			s.fsync = func(fd int) error {
				path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
				synced = append(synced, filepath.Base(path))
				if n := countFiles(t, dir); n != 4-len(tt.del) {
					t.Errorf("%d messages at the time of fsync", n)
				}
				return err
			}
			d := openAlice(t, s)
			if err := d.Commit(t.Context(), tt.del); err != nil {
				t.Error(err)
			}
			if !slices.Equal(synced, tt.want) {
				t.Errorf("synced %q, want %q", synced, tt.want)
			}
		})
	}
}

func countFiles(t *testing.T, dir string) (n int) {
	t.Helper()
	for _, sub := range dirNames {
		files, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil {
			t.Error(err)
		}
		n += len(files)
	}
	return n
}

// After a failed fsync nobody knows what is on disk: it is told as not
// removed, and not tried again, since a second fsync may succeed without
// having written anything.
func TestFailedSyncIsNotSuccess(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	mixed(t, root)
	s := newStore(t, root, Options{})
	calls := 0
	s.fsync = func(fd int) error {
		calls++
		path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		if filepath.Base(path) == "cur" {
			err = unix.EIO
		}
		return err
	}
	d := openAlice(t, s)
	err := d.Commit(t.Context(), []int{0, 2, 3})
	var ce *maildrop.CommitError
	if !errors.As(err, &ce) || !slices.Equal(ce.Left, []int{2, 3}) || !errors.Is(err, unix.EIO) {
		t.Errorf("Commit: %v, want a CommitError that leaves [2 3]", err)
	}
	if calls != 2 {
		t.Errorf("%d calls of fsync, want one for each directory", calls)
	}
	wantMessages(t, s, "2.a") // and the lock is free
}

// A maildrop whose directories are gone at QUIT has lost everything but an
// answer.
func TestCommitWithoutDirectories(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	mixed(t, root)
	s := newStore(t, root, Options{})
	d := openAlice(t, s)
	if err := os.Rename(filepath.Join(root, "alice"), filepath.Join(root, "moved")); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Content(t.Context(), 0); !errors.Is(err, maildrop.ErrTemporary) {
		t.Errorf("Content: %v", err)
	}
	err := d.Commit(t.Context(), []int{0, 1})
	var ce *maildrop.CommitError
	if !errors.As(err, &ce) || !slices.Equal(ce.Left, []int{0, 1}) {
		t.Errorf("Commit: %v", err)
	}
	if n := countFiles(t, filepath.Join(root, "moved")); n != 4 {
		t.Errorf("%d messages are left", n)
	}
}

// Message files may be hard links: the other name keeps its octets.
func TestHardLinkedMessages(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	dir := mixed(t, root)
	kept := filepath.Join(root, "kept")
	if err := os.Link(filepath.Join(dir, "new/1.a"), kept); err != nil {
		t.Fatal(err)
	}
	d := openAlice(t, newStore(t, root, Options{}))
	r, err := d.Content(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := d.Commit(t.Context(), []int{0}); err != nil {
		t.Fatal(err)
	}
	for _, open := range []func() (io.ReadCloser, error){
		func() (io.ReadCloser, error) { return os.Open(kept) },
		func() (io.ReadCloser, error) { return r, nil }, // an open message outlives its removal
	} {
		f, err := open()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(f)
		f.Close()
		if string(b) != "a\n" || err != nil {
			t.Errorf("%q, %v", b, err)
		}
	}
}

func TestMessageThatShrinksWhileItIsRead(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	dir := makeMaildir(t, root, "alice")
	put(t, dir, "1.a", strings.Repeat("x\n", 1000))
	d := openAlice(t, newStore(t, root, Options{}))
	r, err := d.Content(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := os.Truncate(filepath.Join(dir, "new/1.a"), 100); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(r); len(b) != 100 || err != io.ErrUnexpectedEOF {
		t.Errorf("%d octets, %v", len(b), err)
	}
	r.Close()
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Read after Close: %v", err)
	}
}

// A file changed in place is refused in the session that listed it otherwise,
// and right in the next.
func TestMessageChangedInPlace(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, before, after, file string
		options                   Options
		listed, then              int64
		refused                   bool
	}{
		{"grown", "a\n", "a\nb\n", "1.a", Options{}, 3, 6, true},
		{"of the same length, with other line ends", "ab\n\n", "a\r\n\n", "1.a", Options{}, 6, 5, true},
		{"touched only", "a\n", "a\n", "1.a", Options{}, 3, 3, false},
		{"wrong from the start", "a\nb\n", "a\nb\n", "1.a,S=4,W=7", Options{TrustSizes: true}, 7, 6, true},
		{"wrong from the start, and too much for the cache", "a\nb\n", "a\nb\n", "1.a,S=4,W=7", Options{TrustSizes: true, CacheOctets: 314}, 6, 6, false},
		{"wrong from the start, and just enough for the cache", "a\nb\n", "a\nb\n", "1.a,S=4,W=7", Options{TrustSizes: true, CacheOctets: 315}, 7, 6, true},
		{"wrong from the start, without a cache", "a\nb\n", "a\nb\n", "1.a,S=4,W=7", Options{TrustSizes: true, CacheOctets: -1}, 6, 6, false},
		{"right from the start", "a\nb\n", "a\nb\n", "1.a,S=4,W=6", Options{TrustSizes: true}, 6, 6, false},
		{"named wrongly, but not trusted", "a\nb\n", "a\nb\n", "1.a,S=4,W=7", Options{}, 6, 6, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			dir := makeMaildir(t, root, "alice")
			put(t, dir, tt.file, tt.before)
			then := time.Unix(1_700_000_000, 0) // not the tick of the change below
			if err := os.Chtimes(filepath.Join(dir, "new", tt.file), then, then); err != nil {
				t.Fatal(err)
			}
			s := newStore(t, root, tt.options)
			d := openAlice(t, s)
			if got := messages(t, d)[0].Size; got != tt.listed {
				t.Errorf("listed with %d octets, want %d", got, tt.listed)
			}
			if err := os.WriteFile(filepath.Join(dir, "new", tt.file), []byte(tt.after), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := read(d, 0); (err != nil) != tt.refused {
				t.Errorf("read: %v, want an error: %v", err, tt.refused)
			} else if err != nil && !errors.Is(err, maildrop.ErrTemporary) {
				t.Errorf("read: %v, want ErrTemporary", err)
			}
			if got := messages(t, d)[0].Size; got != tt.listed {
				t.Errorf("the listing changed to %d octets", got)
			}
			d.Close()

			d = openAlice(t, s)
			if got := messages(t, d)[0].Size; got != tt.then {
				t.Errorf("the next session lists %d octets, want %d", got, tt.then)
			}
			if text, err := read(d, 0); text != tt.after || err != nil {
				t.Errorf("the next session reads %q, %v", text, err)
			}
		})
	}
}
