package maildir

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/maildrop"
)

// holdRoot names the mail root in the environment of a process that
// TestHolder is to run in.
const holdRoot = "KPOPD_TEST_HOLD_ROOT"

// TestHolder is the other process: it holds alice's maildrop until its
// standard input ends, and then removes every second message.
func TestHolder(t *testing.T) {
	root := os.Getenv(holdRoot)
	if root == "" {
		t.Skip("runs in a process that other tests start")
	}
	d, err := newStore(t, root, Options{}).Open(t.Context(), maildrop.Ref{User: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	os.Stdout.WriteString("locked\n")
	io.Copy(io.Discard, os.Stdin)
	var odd []int
	for i := 1; i < len(messages(t, d)); i += 2 {
		odd = append(odd, i)
	}
	if err := d.Commit(t.Context(), odd); err != nil {
		t.Fatal(err)
	}
}

func startHolder(t *testing.T, root string) (*exec.Cmd, io.Closer) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestHolder$")
	cmd.Env = append(os.Environ(), holdRoot+"="+root)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); cmd.Process.Kill(); cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "locked\n" {
		t.Fatalf("the other process says %q, %v", line, err)
	}
	return cmd, in
}

func TestRule172LocksOfOtherProcesses(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	makeMaildir(t, root, "alice")
	s := newStore(t, root, Options{})
	open := func() (maildrop.Drop, error) { return s.Open(t.Context(), maildrop.Ref{User: "alice"}) }

	for _, end := range []string{"exit", "kill"} {
		cmd, in := startHolder(t, root)
		d, err := open()
		wantKind(t, d, err, maildrop.ErrInUse)
		if end == "exit" {
			in.Close()
		} else {
			cmd.Process.Signal(syscall.SIGKILL)
		}
		cmd.Wait()
		d, err = open()
		if err != nil {
			t.Fatalf("after %s of the other process: %v", end, err)
		}
		d.Close()
	}
}

// A session that is killed while it removes has removed some of the marked
// messages and no other; the next one lists what there is.
func TestRule077KilledDuringCommit(t *testing.T) {
	t.Parallel()
	const n = 600
	root := t.TempDir()
	dir := makeMaildir(t, root, "alice")
	for i := range n {
		put(t, dir, fmt.Sprintf("%d.a", 1000+i), "a\n")
	}
	cmd, in := startHolder(t, root)
	in.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for countFiles(t, dir) == n && ctx.Err() == nil { // until it has begun
		runtime.Gosched()
	}
	cmd.Process.Kill()
	cmd.Wait()

	left := countFiles(t, dir)
	d := openAlice(t, newStore(t, root, Options{}))
	if len(messages(t, d)) != left || left < n/2 {
		t.Errorf("%d messages are listed, %d are there", len(messages(t, d)), left)
	}
	there := make(map[string]bool)
	for _, m := range messages(t, d) {
		there[m.UID] = m.Size == 3
	}
	for i := 0; i < n; i += 2 {
		if !there[fmt.Sprintf("%d.a", 1000+i)] {
			t.Errorf("message %d was not marked and is lost", i)
		}
	}
	t.Logf("killed after %d of %d removals", n-left, n/2)
}

// Rule 176: other names of a maildrop lead to the same lock.
func TestRule176OneLockForAllNames(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	makeMaildir(t, root, "alice")
	s := newStore(t, root, Options{})
	d, err := s.Open(t.Context(), maildrop.Ref{User: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, r := range []maildrop.Ref{
		{User: "Alice@example", Path: "alice"},
		{User: "alias", Path: "./alice//"},
		{User: "alias", Path: "bob/../alice"},
	} {
		d, err := s.Open(t.Context(), r)
		wantKind(t, d, err, maildrop.ErrInUse)
	}
}

// A program that the server is about to execute has copies of all descriptors
// for a moment. The lock ends with the session all the same, and does not begin
// where a session is refused.
func TestReleaseWithCopies(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	dir := makeMaildir(t, root, "alice")
	s := newStore(t, root, Options{})
	copied := func(d maildrop.Drop) {
		fd, err := unix.Dup(d.(*drop).lock)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
	}
	for range 2 { // the second one finds the lock free
		d := openAlice(t, s)
		copied(d)
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}

	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := flock(fd, unix.LOCK_EX); err != nil { // a session on a full disk
		t.Fatalf("the directory is still locked: %v", err)
	}
	d, err := s.Open(t.Context(), maildrop.Ref{User: "alice"})
	wantKind(t, d, err, maildrop.ErrInUse)
	if fd, err = unix.Dup(fd); err != nil {
		t.Fatal(err)
	}
	if err := release(fd); err != nil {
		t.Fatal(err)
	}
	openAlice(t, s)
}

// smallDisk mounts a file system with room for so many files.
func smallDisk(t *testing.T, inodes string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k,nr_inodes="+inodes); err != nil {
		t.Skipf("cannot mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// A user whose disk is full must be able to log in and delete, on the first
// login ever as well.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	root := smallDisk(t, "9") // root, alice, new, cur, tmp and four files
	alice := makeMaildir(t, root, "alice")
	put(t, alice, "1.a", "a\n")
	put(t, alice, "2.b", "b\n")
	place := filepath.Join(root, "place")
	if err := os.WriteFile(place, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	filler := filepath.Join(root, "filler")
	fill(t, filler)
	s := newStore(t, root, Options{})
	open := func() (maildrop.Drop, error) { return s.Open(t.Context(), maildrop.Ref{User: "alice"}) }

	first, err := open()
	if err != nil {
		t.Fatal(err)
	}
	d, err := open()
	wantKind(t, d, err, maildrop.ErrInUse)
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	d, err = open() // finds room for the lock file, and the directory locked
	wantKind(t, d, err, maildrop.ErrInUse)
	if _, err := os.Stat(filepath.Join(alice, lockFile)); err != nil {
		t.Error(err)
	}
	if err := first.Commit(t.Context(), []int{0}); err != nil {
		t.Error(err)
	}

	if err := os.Remove(place); err != nil {
		t.Fatal(err)
	}
	fill(t, filepath.Join(alice, "tmp", "filler")) // lock file and index are there now
	d, err = open()
	if err != nil {
		t.Fatal(err)
	}
	other, err := open()
	wantKind(t, other, err, maildrop.ErrInUse)
	if err := d.Commit(t.Context(), []int{0}); err != nil {
		t.Error(err)
	}
	wantMessages(t, s)
}

func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
}

// A read-only maildrop can be read, and says that nothing was removed.
func TestReadOnlyDisk(t *testing.T) {
	t.Parallel()
	root := smallDisk(t, "16")
	put(t, makeMaildir(t, root, "alice"), "1.a", "a\n")
	if err := unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Skip(err)
	}
	s := newStore(t, root, Options{})
	d, err := s.Open(t.Context(), maildrop.Ref{User: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	other, err := s.Open(t.Context(), maildrop.Ref{User: "alice"})
	wantKind(t, other, err, maildrop.ErrInUse)
	err = d.Commit(t.Context(), []int{0})
	var ce *maildrop.CommitError
	if !errors.As(err, &ce) || !errors.Is(err, unix.EROFS) {
		t.Errorf("Commit: %v", err)
	}
	wantMessages(t, s, "1.a")
}
