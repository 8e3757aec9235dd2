package mbox

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/maildrop/internal/beneath"
)

// reserveFile lies in the state directory. Its room is that of one journal when the
// disk is full: it is renamed to be the journal, written to where it has blocks
// already, and renamed back.
const reserveFile = "kpopd.reserve"

// full says that there is no room, on the disk or for the user.
func full(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// keepReserve makes the reserve when there is none and there is room. A file system
// that cannot allocate ahead has none.
func (s *Store) keepReserve(dir int) {
	var st unix.Stat_t
	if s.options.Reserve <= 0 || unix.Fstatat(dir, reserveFile, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
		return
	}
	fd, err := beneath.Open(dir, reserveFile+".new", unix.O_RDWR|unix.O_CREAT|unix.O_TRUNC, 0o600)
	if err == nil {
		err = uninterrupted(func() error { return unix.Fallocate(fd, 0, 0, s.options.Reserve) })
		unix.Close(fd)
		if err == nil {
			err = uninterrupted(func() error { return unix.Renameat(dir, reserveFile+".new", dir, reserveFile) })
		}
		if err != nil {
			_ = unlink(dir, reserveFile+".new")
		}
	}
	if err != nil {
		s.log.Warn("no room is set aside for the removal of messages on a full disk", "octets", s.options.Reserve, "err", err)
	}
}

// takeReserve gives the reserve another name and opens it. Of those who want it at
// one time, one gets it.
func (s *Store) takeReserve(dir int, name string) (fd int, taken bool) {
	if s.options.Reserve <= 0 || s.calls.rename(dir, reserveFile, name) != nil {
		return -1, false
	}
	fd, err := beneath.Open(dir, name, unix.O_RDWR, 0)
	return fd, err == nil
}

// clearReserve takes the mail out of a journal that became the reserve; not before
// that is on disk.
func (s *Store) clearReserve(fd int) {
	if at, err := stampOf(fd); err == nil && at.size == s.options.Reserve {
		_ = unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, 0, at.size)
	}
}

// dropFile removes a journal that is open as fd. One that was the reserve is the
// reserve again.
func (s *Store) dropFile(dir, fd int, name string) error {
	at, err := stampOf(fd)
	if s.options.Reserve <= 0 || err != nil || at.size != s.options.Reserve {
		return s.calls.unlink(dir, name)
	}
	return s.calls.rename(dir, name, reserveFile)
}
