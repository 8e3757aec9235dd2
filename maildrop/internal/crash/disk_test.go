package crash

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/krb5test"
)

// apart is set in the environment of a process that has its own mounts.
const apart = "KPOPD_TEST_CRASH_APART"

// ownMounts runs the test t once more in a process whose mounts nobody else
// sees and which end with it, however it ends, and returns false. It returns
// true in that process.
func ownMounts(t *testing.T) bool {
	t.Helper()
	if os.Getenv(apart) != "" {
		return true
	}
	krb5test.Need(t, "mount", "mkfs.ext4")
	if os.Geteuid() != 0 {
		t.Skip("mounting a file system needs root")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=15m")
	cmd.Env = append(os.Environ(), apart+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	var errno unix.Errno
	switch {
	case errors.As(err, &errno): // it did not start
		t.Skipf("no mounts of its own for a process here: %v", err)
	case err != nil:
		t.Errorf("%v\n%s", err, out)
	case strings.Contains(string(out), "--- SKIP"):
		t.Skipf("%s", out)
	default:
		t.Logf("%s", out)
	}
	return false
}

// disk is a file system of its own on a file.
type disk struct {
	image, dir string
	mkfs       []string // options
}

func newDisk(t *testing.T, megabytes int64, mkfs ...string) *disk {
	t.Helper()
	dir := t.TempDir()
	d := &disk{image: filepath.Join(dir, "image"), dir: filepath.Join(dir, "mounted"), mkfs: mkfs}
	if err := errors.Join(os.Mkdir(d.dir, 0o700), os.WriteFile(d.image, nil, 0o600), os.Truncate(d.image, megabytes<<20)); err != nil {
		t.Fatal(err)
	}
	argv := append([]string{"-q", "-F", "-m", "0"}, append(mkfs, d.image)...)
	if out, err := tool(t, "mkfs.ext4", argv...); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := d.attach(t); err != nil {
		t.Skipf("no image can be mounted here: %v: %s", err, out)
	}
	t.Cleanup(func() { d.unmount(t) })
	return d
}

// attach mounts the image. Another program may be quicker to take the loop
// device that was free a moment ago.
func (d *disk) attach(t *testing.T) (out string, err error) {
	t.Helper()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for range 20 {
		out, err = tool(t, "mount", "-t", "ext4", "-o", "loop", d.image, d.dir)
		if err == nil || !strings.Contains(out, "loop device") {
			break
		}
		<-again.C
	}
	return out, err
}

func tool(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	path, err := krb5test.LookPath(name)
	if err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, path, args...).CombinedOutput()
	return string(out), err
}

// mount mounts the disk again.
func (d *disk) mount(t *testing.T) {
	t.Helper()
	if out, err := d.attach(t); err != nil {
		t.Fatalf("the disk cannot be mounted again: %v: %s", err, out)
	}
}

// unmount waits until the kernel has let go of a process that was killed.
func (d *disk) unmount(t *testing.T) {
	t.Helper()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	late := time.After(patience)
	for {
		err := unix.Unmount(d.dir, 0)
		if err == nil || err == unix.EINVAL { // is not mounted
			return
		}
		select {
		case <-again.C:
		case <-late:
			t.Fatalf("unmount: %v", err)
		}
	}
}

// fill leaves no room for a block, nor for a file.
func (d *disk) fill(t *testing.T) {
	t.Helper()
	f, err := os.Create(filepath.Join(d.dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	err = f.Close()
	files := 0
	for ; err == nil; files++ {
		var f *os.File
		if f, err = os.CreateTemp(d.dir, "filler"); err == nil {
			err = f.Close()
		}
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	t.Logf("full after %d more files", files)
}

// On a full disk a user logs in for the first time, reads, deletes and quits.
func TestFullDisk(t *testing.T) {
	if !ownMounts(t) {
		return
	}
	for _, s := range stores {
		if s.variant { // what is given once and cannot be written down is lost with the process
			continue
		}
		d := newDisk(t, 8, "-N", "64")
		r := &run{store: s, dir: t.TempDir(), root: filepath.Join(d.dir, "mail"), books: newBooks()}
		r.records = filepath.Join(r.dir, "ledger")
		if err := errors.Join(os.Mkdir(r.root, 0o700), makeLedger(r.records), s.make(r.root)); err != nil {
			t.Fatal(err)
		}
		for n := 1; n <= 10; n++ {
			if err := s.put(r.root, message(n)); err != nil {
				t.Fatal(err)
			}
			r.books.fates[n] = stays
		}
		d.fill(t)
		said := r.play(t, "session")
		if r.account.broke != "" || !well(r.account.replies) {
			t.Errorf("%s: the session: %+v\n%s", s.name, r.account, said)
		}
		r.report(t, r.books.check(s, r.root), said)
		if n := len(r.account.replies); n != 12 {
			t.Errorf("%s: %d replies, want those to a login, ten RETR and QUIT", s.name, n)
		}
		d.unmount(t)
	}
}

// play runs a role to its end, and enters its ledger into the books.
func (r *run) play(t *testing.T, as string) (said string) {
	t.Helper()
	p := r.start(t, as)
	said = p.wait(t)
	r.enter(t, said)
	return said
}

func (r *run) enter(t *testing.T, said string) {
	t.Helper()
	lines, err := readLedger(r.records)
	if err != nil {
		t.Fatal(err)
	}
	var wrong []string
	r.account, wrong = r.books.enter(lines)
	r.report(t, wrong, said)
}

// process is one that plays a role.
type process struct {
	cmd    *exec.Cmd
	ctx    context.Context
	cancel context.CancelFunc
	said   strings.Builder
}

func (r *run) start(t *testing.T, as string, args ...string) *process {
	t.Helper()
	p := &process{}
	p.ctx, p.cancel = context.WithTimeout(t.Context(), patience)
	p.cmd = exec.CommandContext(p.ctx, os.Args[0], append([]string{r.name, r.root, r.records}, args...)...)
	p.cmd.Env = append(os.Environ(), role+"="+as, "GORACE=atexit_sleep_ms=0")
	p.cmd.Stdout, p.cmd.Stderr = io.Writer(&p.said), io.Writer(&p.said)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return p
}

// wait waits for the process to end by itself, and well.
func (p *process) wait(t *testing.T) (said string) {
	t.Helper()
	defer p.cancel()
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("the process ended with %v, %v\n%s", err, p.ctx.Err(), p.said.String())
	}
	return p.said.String()
}
