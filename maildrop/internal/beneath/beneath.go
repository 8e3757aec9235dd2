// Package beneath opens files of a mail root and nothing that lies elsewhere. It
// is what the stores of files have in common, and knows no format of theirs.
//
// It runs on Linux 5.6 or later, for openat2.
//
// # Design notes
//
// Every open goes through openat2 beneath a directory, without symbolic links.
// Nothing is opened by a path that the kernel has not confined in that way. The
// root itself is the one path that may lead through symbolic links; it is opened
// anew each time, so that the server sees what is mounted now and holds no mount
// busy.
package beneath

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/maildrop"
)

// Open opens path beneath the directory fd, following no symbolic link and
// waiting for no FIFO. Its error is that of the kernel.
func Open(fd int, path string, flags, mode uint64) (int, error) {
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

// OpenRoot opens the directory at path, wherever it lies.
func OpenRoot(path string) (int, error) {
	for {
		fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		switch err {
		case nil:
			return fd, nil
		case unix.EINTR:
		default:
			// no root is a lost mount, whatever the error
			return -1, fmt.Errorf("%w: mail root %s: %w", maildrop.ErrTemporary, path, err)
		}
	}
}

// Locate returns where a maildrop lies relative to the root: where the reference
// says so, else where the layout puts the user.
func (l Layout) Locate(r maildrop.Ref) (string, error) {
	path := r.Path
	if path == "" {
		var err error
		if path, err = l.Expand(r.User); err != nil {
			return "", fmt.Errorf("%w: %w", maildrop.ErrPermanent, err)
		}
	}
	path = strings.TrimRight(path, "/")
	if !filepath.IsLocal(path) || strings.Contains(path, "\x00") {
		return "", fmt.Errorf("%w: %q does not lie in the mail root", maildrop.ErrPermanent, path)
	}
	return filepath.Clean(path), nil
}

// Wrap tells what was being done to what, and gives err a kind unless it has
// one.
func Wrap(op, path string, err error) error {
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
