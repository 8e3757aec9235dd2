package maildir

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/maildrop"
)

// openat2 opens path beneath the directory fd, following no symbolic link and
// waiting for no FIFO.
func openat2(fd int, path string, flags, mode uint64) (int, error) {
	how := unix.OpenHow{
		Flags:   flags | unix.O_CLOEXEC | unix.O_NOFOLLOW,
		Mode:    mode,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	if flags&unix.O_PATH == 0 {
		how.Flags |= unix.O_NONBLOCK
	}
	for {
		sub, err := unix.Openat2(fd, path, &how)
		if err != unix.EINTR {
			return sub, err
		}
	}
}

// openRoot opens the mail root. It is opened anew each time, so that the
// server sees what is mounted now and holds no mount busy.
func (s *Store) openRoot() (int, error) {
	for {
		fd, err := unix.Open(s.root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		switch err {
		case nil:
			return fd, nil
		case unix.EINTR:
		default:
			// no root is a lost mount, whatever the error
			return -1, fmt.Errorf("%w: mail root %s: %w", maildrop.ErrTemporary, s.root, err)
		}
	}
}

// beneath opens path beneath the mail root. Its error is that of the kernel.
func (s *Store) beneath(path string, flags uint64) (int, error) {
	root, err := s.openRoot()
	if err != nil {
		return -1, err
	}
	defer unix.Close(root)
	return openat2(root, path, flags, 0)
}

// wrap tells what was being done to what, and gives err a kind unless it has
// one.
func wrap(op, path string, err error) error {
	for _, kind := range [...]error{maildrop.ErrInUse, maildrop.ErrTemporary, maildrop.ErrPermanent, maildrop.ErrGone} {
		if errors.Is(err, kind) {
			return fmt.Errorf("%s %s: %w", op, path, err)
		}
	}
	return fmt.Errorf("%s %s: %w: %w", op, path, kindOf(err), err)
}

func kindOf(err error) error {
	var e unix.Errno
	if errors.As(err, &e) {
		switch e {
		case unix.ELOOP, unix.EXDEV, unix.ENOTDIR, unix.EISDIR, unix.EACCES, unix.EPERM,
			unix.EINVAL, unix.ENAMETOOLONG, unix.ENXIO:
			return maildrop.ErrPermanent
		}
	}
	// ENOENT too: the maildrop comes with its first message, or its mount comes back
	return maildrop.ErrTemporary
}
