package maildir

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/maildrop"
)

// lockFile is made once for each maildrop and never removed: a lock on a file
// that others no longer see locks nothing.
const lockFile = ".kpopd.lock"

// acquire takes the session lock of the maildrop at fd and returns the
// descriptor that holds it: its own, or fd. [release] frees the lock, and the
// kernel when the process dies.
//
// The lock is an OFD lock on lockFile. It works between sessions of one
// process as between processes, unlike a POSIX lock.
//
// Where the file can be neither made nor opened to write, on a full or
// read-only file system, the session locks the directory itself. A session
// that has the file therefore asks in passing whether somebody holds the
// directory; it need not go on holding it, for from then on the file is there.
// NFS locks no directory exclusively, and refuses such a login for the time
// being. Whoever may open the directory can hold that lock and keep the user
// out, so maildrops are not for others to read.
func acquire(fd int) (int, error) {
	file, err := openat2(fd, lockFile, unix.O_RDWR|unix.O_CREAT, 0o600)
	switch err {
	case nil:
	case unix.ENOSPC, unix.EDQUOT, unix.EROFS:
		if e := flock(fd, unix.LOCK_EX); e != nil {
			return -1, wrap("lock", lockFile, errors.Join(e, err))
		}
		return fd, nil
	default:
		return -1, wrap("lock", lockFile, err)
	}
	whole := unix.Flock_t{Type: unix.F_WRLCK}
	err = unix.FcntlFlock(uintptr(file), unix.F_OFD_SETLK, &whole)
	if err == unix.EAGAIN || err == unix.EACCES {
		err = maildrop.ErrInUse
	}
	if err != nil {
		unix.Close(file)
		return -1, wrap("lock", lockFile, err)
	}
	if err := flock(fd, unix.LOCK_SH); err == maildrop.ErrInUse {
		_ = release(file)
		return -1, wrap("lock", lockFile, err)
	}
	_ = flock(fd, unix.LOCK_UN)
	return file, nil
}

// release frees what acquire took and closes it. Closing alone would free
// nothing yet while a child that was just forked still has a copy: until it
// has executed its program, the user's next session would hear "in use".
func release(lock int) error {
	_ = unix.FcntlFlock(uintptr(lock), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_UNLCK})
	_ = flock(lock, unix.LOCK_UN)
	return unix.Close(lock)
}

func flock(fd, how int) error {
	err := unix.Flock(fd, how|unix.LOCK_NB)
	if err == unix.EWOULDBLOCK {
		return maildrop.ErrInUse
	}
	return err
}
