package mbox

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"path"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/maildrop"
	"github.com/kpopd/kpopd/maildrop/internal/beneath"
)

// lockFile lies in the state directory and is never removed. It holds the token.
const lockFile = "kpopd.lock"

// ErrState is the error of a state directory that cannot be used.
var ErrState = errors.New("state directory")

// checkState makes sure that the state directory is ours. It makes no file: whoever
// checks a configuration may be another user than the one who will serve.
func (s *Store) checkState() error {
	dir, err := s.state()
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	var st unix.Stat_t
	if err := unix.Fstat(dir, &st); err != nil {
		return err
	}
	if st.Mode&0o022 != 0 {
		return fmt.Errorf("others may write to %s: chmod it to 700", s.options.State)
	}
	if err := unix.Faccessat(dir, ".", unix.W_OK|unix.X_OK, unix.AT_EACCESS); err != nil {
		return fmt.Errorf("write to %s: %w", s.options.State, err)
	}
	return nil
}

// tokenOf is what stands in dotlocks of all servers with this state directory. It is
// made once, in the lock file; where there is no room, once for each process.
func (s *Store) tokenOf(fd int) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.token != "" {
		return s.token, nil
	}
	// the first octet is locked, so that two servers that start at once agree
	first := unix.Flock_t{Type: unix.F_WRLCK, Len: 1}
	if err := uninterrupted(func() error { return unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLKW, &first) }); err != nil {
		return "", err
	}
	token := make([]byte, 32)
	n, err := file(fd).ReadAt(token, 0)
	if err == io.EOF && n < len(token) {
		var random [16]byte
		rand.Read(random[:]) // never fails
		hex.Encode(token, random[:])
		_ = kernel.writeAll(fd, token, 0) // else the token is this process's
	} else if err != nil {
		return "", err
	}
	first.Type = unix.F_UNLCK
	_ = unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &first)
	s.token = "kpopd " + string(token) + "\n"
	return s.token, nil
}

// state opens the state directory.
func (s *Store) state() (int, error) {
	for {
		fd, err := unix.Open(s.options.State, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		switch err {
		case nil:
			return fd, nil
		case unix.EINTR:
		default:
			return -1, fmt.Errorf("%w: state directory %s: %w", maildrop.ErrTemporary, s.options.State, err)
		}
	}
}

// lockSession keeps other sessions off the maildrop until the descriptor that it
// returns is released, or the process dies. The lock is an OFD lock on one octet of
// the lock file, far behind its end, which stands for the path: two paths that share
// one of 2^62 octets would only wait for each other.
func (s *Store) lockSession(path string) (int, error) {
	dir, err := s.state()
	if err != nil {
		return -1, err
	}
	defer unix.Close(dir)
	fd, err := beneath.Open(dir, lockFile, unix.O_RDWR, 0)
	if err == unix.ENOENT {
		fd, err = beneath.Open(dir, lockFile, unix.O_RDWR|unix.O_CREAT, 0o600)
	}
	if err != nil {
		return -1, beneath.Wrap("open", lockFile, err)
	}
	s.reserve.Do(func() { s.keepReserve(dir) })
	if _, err := s.tokenOf(fd); err != nil {
		unix.Close(fd)
		return -1, beneath.Wrap("read", lockFile, err)
	}
	h := fnv.New64a()
	h.Write([]byte(path))
	octet := unix.Flock_t{Type: unix.F_WRLCK, Start: 1 + int64(h.Sum64()>>2), Len: 1}
	if err := tryFcntl(fd, octet); err != nil {
		unix.Close(fd)
		if err == errBusy {
			err = maildrop.ErrInUse
		}
		return -1, beneath.Wrap("lock", path, err)
	}
	return fd, nil
}

// errBusy: somebody else has the lock.
var errBusy = errors.New("locked by another program")

func tryFcntl(fd int, l unix.Flock_t) error {
	err := unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &l)
	if err == unix.EAGAIN || err == unix.EACCES {
		return errBusy
	}
	return err
}

// release frees what is locked through fd and closes it. Closing alone would free
// nothing yet while a child that was just forked still has a copy.
func release(fd int) {
	_ = unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_UNLCK})
	unix.Close(fd)
}

// spool is a locked spool file.
type spool struct {
	store *Store
	path  string
	fd    int // -1 when there is no file
	dir   int // of the file
	name  string
	whole bool // every lock is held; without a dotlock for want of room nothing may be written
	dot   bool // the dotlock is ours
}

// lock locks the spool file at path against other programs. While one of them has a
// lock it gives back its own, or two that lock in another order would wait for each
// other, and tries again until LockWait is over.
func (s *Store) lock(ctx context.Context, path string) (*spool, error) {
	end := time.Now().Add(s.options.LockWait)
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		sp, err := s.tryLock(path)
		if !errors.Is(err, errBusy) {
			return sp, err
		}
		if !time.Now().Before(end) {
			return nil, fmt.Errorf("%w: %s: %w for %v", maildrop.ErrInUse, path, err, s.options.LockWait)
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, context.Cause(ctx)
		}
	}
}

func (s *Store) tryLock(path string) (_ *spool, err error) {
	sp, err := s.openSpool(path, unix.O_RDWR)
	if err != nil || sp.fd < 0 {
		return sp, err
	}
	defer func() {
		if err != nil {
			sp.close()
		}
	}()
	sp.whole = true
	for _, way := range s.options.Locks {
		if way == Fcntl {
			err = tryFcntl(sp.fd, unix.Flock_t{Type: unix.F_WRLCK})
		} else {
			err = sp.dotlock()
		}
		if errors.Is(err, errBusy) {
			return nil, fmt.Errorf("%s: %w", way, err)
		}
		if err != nil {
			return nil, beneath.Wrap(way, path, err)
		}
	}
	// it may have been removed while nobody had locked it
	var st unix.Stat_t
	mine, err := inodeOf(sp.fd)
	if err == nil {
		err = unix.Fstatat(sp.dir, sp.name, &st, unix.AT_SYMLINK_NOFOLLOW)
	}
	if err == unix.ENOENT || err == nil && mine != (inode{st.Dev, st.Ino}) {
		return nil, fmt.Errorf("replaced, %w", errBusy)
	}
	if err != nil {
		return nil, beneath.Wrap("lock", path, err)
	}
	return sp, nil
}

// openSpool opens the spool file, without locks. The file may be missing; the
// directory may not, nor may the mail root be another than at the start.
func (s *Store) openSpool(p string, flags uint64) (_ *spool, err error) {
	root, err := beneath.OpenRoot(s.root)
	if err != nil {
		return nil, err
	}
	defer unix.Close(root)
	sp := &spool{store: s, path: p, fd: -1, dir: -1, name: path.Base(p)}
	defer func() {
		if err != nil {
			sp.close()
			err = beneath.Wrap("open", p, err)
		}
	}()
	if sp.dir, err = beneath.Open(root, path.Dir(p), unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
		return nil, err
	}
	sp.fd, err = beneath.Open(sp.dir, sp.name, flags, 0)
	if err == unix.ENOENT {
		now, err := inodeOf(root)
		if err == nil && now != s.id {
			err = fmt.Errorf("%w: the mail root is not the one that it was", maildrop.ErrTemporary)
		}
		return sp, err
	}
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err = unix.Fstat(sp.fd, &st); err != nil {
		return nil, err
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, fmt.Errorf("%w: not a regular file", maildrop.ErrPermanent)
	case s.options.Owner != 0 && st.Uid != s.options.Owner:
		return nil, fmt.Errorf("%w: owned by user %d", maildrop.ErrPermanent, st.Uid)
	}
	return sp, nil
}

// stale is the age at which a dotlock is taken to be left over. Nobody holds one
// for longer than it takes to write a message or to rewrite the file.
const stale = 5 * time.Minute

// dotlock makes the file that says to others that the spool file is locked. On a
// full disk it does without, unless it is the only lock: then nothing can be written
// to the spool file, but it can be read.
func (sp *spool) dotlock() error {
	name := sp.name + ".lock"
	err := sp.makeDotlock(name)
	switch err {
	case nil:
	case unix.EEXIST:
		return sp.removeStale(name)
	case unix.ENOSPC, unix.EDQUOT:
		if len(sp.store.options.Locks) == 1 {
			return err
		}
		sp.whole = false
		return nil
	case unix.EACCES, unix.EPERM, unix.EROFS:
		return fmt.Errorf("%w: cannot make %s beside the spool file: %w (let the server write to the directory, or lock with %s alone if all programs do)",
			maildrop.ErrPermanent, name, err, Fcntl)
	default:
		return err
	}
	sp.dot = true
	return nil
}

// makeDotlock makes a dotlock with our token in it at once, so that none is left
// without when the process dies: nobody would know whose that is. Where the file
// system cannot do that, there is such a moment.
func (sp *spool) makeDotlock(name string) error {
	fd, err := beneath.Open(sp.dir, ".", unix.O_WRONLY|unix.O_TMPFILE, 0o644)
	if err == nil {
		sp.writeToken(fd)
		err = uninterrupted(func() error {
			return unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), sp.dir, name, unix.AT_SYMLINK_FOLLOW)
		})
		unix.Close(fd)
		if err == nil || err == unix.EEXIST || full(err) {
			return err
		}
	}
	fd, err = beneath.Open(sp.dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	sp.writeToken(fd)
	unix.Close(fd)
	return nil
}

// writeToken may fail: without a token it is a dotlock too.
func (sp *spool) writeToken(fd int) { _ = kernel.writeAll(fd, []byte(sp.store.token), 0) }

// removeStale removes a dotlock that nobody holds any more: an old one, and one of
// a session that died, since this one has the session lock.
func (sp *spool) removeStale(name string) error {
	fd, err := beneath.Open(sp.dir, name, unix.O_RDONLY, 0)
	if err != nil {
		if err == unix.ENOENT || err == unix.EACCES || err == unix.ELOOP || err == unix.ENXIO {
			return errBusy // just gone, or not for us to judge
		}
		return err
	}
	defer unix.Close(fd)
	var st, now unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	text := make([]byte, len(sp.store.token)+1)
	n, err := file(fd).ReadAt(text, 0)
	if err != nil && err != io.EOF {
		return err
	}
	age := time.Since(time.Unix(st.Mtim.Unix()))
	ours := string(text[:n]) == sp.store.token
	if !ours && age < stale {
		return errBusy
	}
	if err := unix.Fstatat(sp.dir, name, &now, unix.AT_SYMLINK_NOFOLLOW); err == nil && now.Ino == st.Ino && now.Dev == st.Dev {
		if err := unlink(sp.dir, name); err != nil && err != unix.ENOENT {
			return err
		}
		sp.store.log.Warn("stale dotlock removed", "maildrop", sp.path, "age", age.Round(time.Second), "ours", ours)
	}
	return errBusy // try again
}

// close frees the locks, in the order opposite to that of taking them, so that the
// dotlock, which anyone can see, is not the last where it was the first.
func (sp *spool) close() {
	unlockDot := func() {
		if sp.dot {
			sp.dot = false
			if err := unlink(sp.dir, sp.name+".lock"); err != nil && err != unix.ENOENT {
				sp.store.log.Error("dotlock not removed", "maildrop", sp.path, "err", err)
			}
		}
	}
	if sp.store.options.Locks[len(sp.store.options.Locks)-1] == Dotlock {
		unlockDot()
	}
	if sp.fd >= 0 {
		release(sp.fd)
		sp.fd = -1
	}
	unlockDot()
	if sp.dir >= 0 {
		unix.Close(sp.dir)
		sp.dir = -1
	}
}
