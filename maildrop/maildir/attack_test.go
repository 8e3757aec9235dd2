package maildir

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/maildrop"
)

// outside makes a mail root with a maildrop "alice", and beside it what nobody
// must reach: a maildrop with one message.
func outside(t *testing.T) (root, victim string) {
	t.Helper()
	top := t.TempDir()
	root = filepath.Join(top, "mail")
	makeMaildir(t, root, "alice")
	victim = makeMaildir(t, top, "victim")
	put(t, victim, "1.secret", "secret\n")
	return root, victim
}

func symlink(t *testing.T, target string, parts ...string) {
	t.Helper()
	if err := os.Symlink(target, filepath.Join(parts...)); err != nil {
		t.Fatal(err)
	}
}

func wantKind(t *testing.T, d maildrop.Drop, err, kind error) {
	t.Helper()
	if err == nil {
		d.Close()
		t.Errorf("opened with %d messages, want %v", len(messages(t, d)), kind)
	} else if !errors.Is(err, kind) {
		t.Errorf("got %v, want %v", err, kind)
	}
}

// Each leads out of the mail root or to no user's place in it.
func TestPathsThatLeadAstray(t *testing.T) {
	root, victim := outside(t)
	symlink(t, victim, root, "link")
	symlink(t, "../victim", root, "relative-link")
	symlink(t, "/proc/self/root"+victim, root, "magic-link")
	symlink(t, "/", root, "slash")
	makeMaildir(t, root, "bob/Maildir")
	symlink(t, "bob", root, "inner-link")
	makeMaildir(t, root, ".hidden")
	s := newStore(t, root, Options{Create: true})

	before := descriptors(t)
	for _, r := range []maildrop.Ref{
		{User: ""},
		{User: "."},
		{User: ".."},
		{User: ".hidden"},
		{User: "../victim"},
		{User: "alice/../../victim"},
		{User: "bob/Maildir"},
		{User: victim},
		{User: "alice\x00"},
		{User: "alice\n"},
		{User: strings.Repeat("a", 256)},
		{User: "link"},
		{User: "relative-link"},
		{User: "magic-link"},
		{User: "u", Path: victim},
		{User: "u", Path: "../victim"},
		{User: "u", Path: "alice/../../victim"},
		{User: "u", Path: "alice/../.."},
		{User: "u", Path: "link"},
		{User: "u", Path: "slash" + victim},
		{User: "u", Path: "slash/proc/self/root" + victim},
		{User: "u", Path: "inner-link/Maildir"},
		{User: "u", Path: "alice\x00/x"},
		{User: "u", Path: "/"},
		{User: "u", Path: strings.Repeat("a/", 3000)},
	} {
		d, err := s.Open(t.Context(), r)
		if err == nil {
			d.Close()
			t.Errorf("%q opened with %d messages", r, len(messages(t, d)))
		} else if !errors.Is(err, maildrop.ErrPermanent) {
			t.Errorf("%q: %v, want ErrPermanent", r, err)
		}
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors are open, were %d", after, before)
	}
	if files, err := os.ReadDir(victim); err != nil || len(files) != 3 {
		t.Errorf("the directory outside holds %v, %v", files, err)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

// The kernel holds to the root what a mistake of ours would let out of it.
func TestOpenStaysBeneath(t *testing.T) {
	t.Parallel()
	root, err := unix.Open(t.TempDir(), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(root)
	for _, path := range []string{"..", "../..", "/", "/etc/passwd", "./../x"} {
		if fd, err := openat2(root, path, unix.O_PATH, 0); err != unix.EXDEV {
			t.Errorf("%q: %d, %v", path, fd, err)
		}
	}
}

func TestDirectoriesThatAreLinks(t *testing.T) {
	t.Parallel()
	for _, name := range dirNames {
		root, victim := outside(t)
		dir := filepath.Join(root, "alice", name)
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
		symlink(t, filepath.Join(victim, name), dir)
		d, err := newStore(t, root, Options{}).Open(t.Context(), maildrop.Ref{User: "alice"})
		wantKind(t, d, err, maildrop.ErrPermanent)
	}
}

// What is no regular file is no message, and is not waited for.
func TestFilesThatAreNoMessages(t *testing.T) {
	root, victim := outside(t)
	alice := filepath.Join(root, "alice")
	put(t, alice, "1.message", "a\n")
	for _, name := range dirNames {
		dir := filepath.Join(alice, name)
		symlink(t, filepath.Join(victim, "new/1.secret"), dir, "2.link")
		symlink(t, "nowhere", dir, "2.dangling")
		symlink(t, "/proc/self/environ", dir, "2.proc")
		if err := errors.Join(
			unix.Mkfifo(filepath.Join(dir, "3.fifo"), 0o600),
			unix.Mknod(filepath.Join(dir, "3.socket"), unix.S_IFSOCK|0o600, 0),
			os.Mkdir(filepath.Join(dir, "3.directory"), 0o700),
			os.WriteFile(filepath.Join(dir, ".nfs0001"), []byte("x"), 0o600),
		); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"dovecot.index.cache", "courierimapuiddb", "maildirsize"} {
		if err := os.WriteFile(filepath.Join(alice, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	makeMaildir(t, alice, ".Sent")
	put(t, filepath.Join(alice, ".Sent"), "1.sent", "sent\n")

	s := newStore(t, root, Options{})
	wantMessages(t, s, "1.message")
}

// A file system that does not tell the type of an entry leaves it to opening.
func TestStrangeFilesOfUnknownType(t *testing.T) {
	t.Parallel()
	root, victim := outside(t)
	alice := filepath.Join(root, "alice")
	put(t, alice, "1.message", "a\n")
	put(t, alice, "5.message", "b\n")
	cur := filepath.Join(alice, "cur")
	symlink(t, filepath.Join(victim, "new/1.secret"), cur, "2.link")
	if err := errors.Join(
		unix.Mkfifo(filepath.Join(cur, "3.fifo"), 0o600),
		unix.Mknod(filepath.Join(cur, "3.socket"), unix.S_IFSOCK|0o600, 0),
		os.Mkdir(filepath.Join(cur, "4.directory"), 0o700),
	); err != nil {
		t.Fatal(err)
	}
	s := newStore(t, root, Options{})
	fd, err := s.openMaildrop("alice")
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	d, err := openDirs(fd)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	var entries []entry
	for _, e := range []entry{{name: "1.message"}, {name: "5.message"}, {name: "2.link", dir: inCur}, {name: "3.fifo", dir: inCur}, {name: "3.socket", dir: inCur}, {name: "4.directory", dir: inCur}} {
		e.base, e.time, e.old = e.name, timeOf(e.name), -1
		entries = append(entries, e)
	}
	f := found{old: new(listing), moved: inOrder(entries)}
	l, err := s.measure(t.Context(), &d, f.merge(time.Now(), nil), new(atomic.Int64))
	if err != nil || l.Len() != 2 || l.At(1).UID != "5.message" || l.At(1).Size != 3 {
		t.Errorf("%v, listing %v of %q", err, l.records, l.text)
	}
}

func wantMessages(t *testing.T, s *Store, want ...string) {
	t.Helper()
	d, err := s.Open(t.Context(), maildrop.Ref{User: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var got []string
	for _, m := range messages(t, d) {
		got = append(got, m.UID)
	}
	if !slices.Equal(got, want) {
		t.Errorf("messages %q, want %q", got, want)
	}
}

// A message that was replaced after it was listed is not sent.
func TestMessagesReplacedDuringTheSession(t *testing.T) {
	t.Parallel()
	root, victim := outside(t)
	alice := filepath.Join(root, "alice")
	replace := map[string]func(path string) error{
		"1.link":      func(path string) error { return os.Symlink(filepath.Join(victim, "new/1.secret"), path) },
		"2.fifo":      func(path string) error { return unix.Mkfifo(path, 0o600) },
		"3.directory": func(path string) error { return os.Mkdir(path, 0o700) },
		"4.longer":    func(path string) error { return os.WriteFile(path, []byte("secret and more\n"), 0o600) },
		"5.shorter":   func(path string) error { return os.WriteFile(path, nil, 0o600) },
	}
	for name := range replace {
		put(t, alice, name, "secret\n")
	}
	d, err := newStore(t, root, Options{}).Open(t.Context(), maildrop.Ref{User: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for i, m := range messages(t, d) {
		path := filepath.Join(alice, "new", m.UID)
		if err := errors.Join(os.Remove(path), replace[m.UID](path)); err != nil {
			t.Fatal(err)
		}
		if r, err := d.Content(t.Context(), i); err == nil {
			text, _ := io.ReadAll(r)
			r.Close()
			t.Errorf("%s: sent %q", m.UID, text)
		}
	}
}

// The lock file is the one file that a session makes, and it makes it nowhere else.
func TestLockFileIsNotFollowed(t *testing.T) {
	t.Parallel()
	root, victim := outside(t)
	target := filepath.Join(victim, "made")
	symlink(t, target, root, "alice", lockFile)
	s := newStore(t, root, Options{})
	d, err := s.Open(t.Context(), maildrop.Ref{User: "alice"})
	wantKind(t, d, err, maildrop.ErrPermanent)
	if _, err := os.Lstat(target); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the link was followed: %v", err)
	}

	makeMaildir(t, root, "bob", lockFile)
	makeMaildir(t, root, "bob")
	d, err = s.Open(t.Context(), maildrop.Ref{User: "bob"})
	wantKind(t, d, err, maildrop.ErrPermanent)
}

func TestLockFileIsPrivateAndStays(t *testing.T) {
	t.Parallel()
	root, _ := outside(t)
	s := newStore(t, root, Options{})
	put(t, filepath.Join(root, "alice"), "1.a", "a\n")
	d, err := s.Open(t.Context(), maildrop.Ref{User: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Commit(t.Context(), []int{0}); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Lstat(filepath.Join(root, "alice", lockFile))
	if err != nil || fi.Mode() != 0o600 || fi.Size() != 0 {
		t.Errorf("%v, %v", fi, err)
	}
	files, err := os.ReadDir(filepath.Join(root, "alice"))
	if err != nil || len(files) != 4 {
		t.Errorf("the maildrop holds %v, %v", files, err)
	}
}

func TestOwner(t *testing.T) {
	t.Parallel()
	root, _ := outside(t)
	put(t, filepath.Join(root, "alice"), "1.a", "a\n")
	me := uint32(os.Geteuid())
	d, err := newStore(t, root, Options{Owner: me + 1}).Open(t.Context(), maildrop.Ref{User: "alice"})
	wantKind(t, d, err, maildrop.ErrPermanent)
	if me != 0 {
		wantMessages(t, newStore(t, root, Options{Owner: me}), "1.a")
		return
	}
	const mail = 65534
	for _, path := range []string{"", "new", "cur", "tmp"} {
		if err := os.Chown(filepath.Join(root, "alice", path), mail, -1); err != nil {
			t.Fatal(err)
		}
	}
	s := newStore(t, root, Options{Owner: mail})
	d, err = s.Open(t.Context(), maildrop.Ref{User: "alice"})
	wantKind(t, d, err, maildrop.ErrPermanent)
	if err := os.Chown(filepath.Join(root, "alice/new/1.a"), mail, -1); err != nil {
		t.Fatal(err)
	}
	wantMessages(t, s, "1.a")
}

// asNobody runs f on a thread whose file accesses are those of an ordinary
// user. The thread ends with the goroutine.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { // ends with f
		defer close(done)
		runtime.LockOSThread()
		unix.SetfsuidRetUid(65534)
		f()
	}()
	<-done
}

func TestNoPermission(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to become somebody else")
	}
	top, err := os.MkdirTemp("/tmp", "kpopd-nobody-") // a folder that others may search
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { os.RemoveAll(top) })
	if err := os.Chmod(top, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, user := range []string{"alice", "bob", "carol"} {
		dir := makeMaildir(t, top, user)
		put(t, dir, "1.a", "a\n")
		for _, path := range []string{"", "new", "cur", "new/1.a"} {
			if err := os.Chown(filepath.Join(dir, path), 65534, -1); err != nil {
				t.Skip(err)
			}
		}
	}
	if err := errors.Join(
		os.Chmod(filepath.Join(top, "alice/new/1.a"), 0),
		os.Chmod(filepath.Join(top, "bob"), 0),
		os.Chmod(filepath.Join(top, "carol/new"), 0o500),
	); err != nil {
		t.Fatal(err)
	}
	s := newStore(t, top, Options{})
	asNobody(t, func() {
		for _, user := range []string{"alice", "bob"} {
			d, err := s.Open(t.Context(), maildrop.Ref{User: user})
			wantKind(t, d, err, maildrop.ErrPermanent)
		}
		d, err := s.Open(t.Context(), maildrop.Ref{User: "carol"})
		if err != nil {
			t.Error(err)
			return
		}
		err = d.Commit(t.Context(), []int{0})
		var ce *maildrop.CommitError
		if !errors.As(err, &ce) || !slices.Equal(ce.Left, []int{0}) || !errors.Is(err, unix.EACCES) {
			t.Errorf("Commit: %v", err)
		}
	})
}

func TestMissingMaildrops(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	root := filepath.Join(top, "mail")
	if _, err := New(root, Options{}); err == nil {
		t.Error("a mail root that is not there makes a store")
	}
	makeMaildir(t, root, "alice")
	if err := os.MkdirAll(filepath.Join(root, "bob/cur"), 0o700); err != nil {
		t.Fatal(err)
	}
	s, creating := newStore(t, root, Options{}), newStore(t, root, Options{Create: true, Layout: "{user:1}/{user}/Maildir"})
	for _, user := range []string{"nobody", "bob"} {
		d, err := s.Open(t.Context(), maildrop.Ref{User: user})
		wantKind(t, d, err, maildrop.ErrTemporary)
	}
	if _, err := os.Lstat(filepath.Join(root, "nobody")); !errors.Is(err, os.ErrNotExist) {
		t.Error("a missing maildrop was made without being asked for")
	}

	for _, r := range []maildrop.Ref{{User: "carol"}, {User: "carol"}, {User: "b", Path: "bob"}} {
		d, err := creating.Open(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		d.Close()
	}
	for _, name := range []string{"", "new", "cur", "tmp"} {
		fi, err := os.Stat(filepath.Join(root, "c/carol/Maildir", name))
		if err != nil || fi.Mode().Perm()&0o077 != 0 {
			t.Errorf("%v, %v", fi, err)
		}
	}

	// an empty directory in the place of the mail root, as of a lost mount
	if err := os.Rename(root, root+".gone"); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Store{s, creating} {
		d, err := s.Open(t.Context(), maildrop.Ref{User: "alice"})
		wantKind(t, d, err, maildrop.ErrTemporary)
	}
	if err := os.Mkdir(root, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Store{s, creating} {
		d, err := s.Open(t.Context(), maildrop.Ref{User: "alice"})
		wantKind(t, d, err, maildrop.ErrTemporary)
	}
	if files, err := os.ReadDir(root); err != nil || len(files) != 0 {
		t.Errorf("made %v, %v", files, err)
	}
}
