package mbox

import "golang.org/x/sys/unix"

// calls are those that change a disk. Tests have them fail.
type calls struct {
	pwrite   func(fd int, p []byte, at int64) (int, error)
	truncate func(fd int, size int64) error
	fsync    func(fd int) error
	rename   func(dir int, from, to string) error
	unlink   func(dir int, name string) error
}

var kernel = calls{
	pwrite:   unix.Pwrite,
	truncate: unix.Ftruncate,
	fsync:    unix.Fsync,
	rename: func(dir int, from, to string) error {
		return uninterrupted(func() error { return unix.Renameat(dir, from, dir, to) })
	},
	unlink: unlink,
}

func unlink(dir int, name string) error {
	return uninterrupted(func() error { return unix.Unlinkat(dir, name, 0) })
}

// uninterrupted makes a call again that a signal interrupted.
func uninterrupted(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

func (c *calls) writeAll(fd int, p []byte, at int64) error {
	for len(p) > 0 {
		n, err := c.pwrite(fd, p, at)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		p, at = p[n:], at+int64(n)
	}
	return nil
}

// sync is fsync. It is not tried again after another error: that would succeed
// because the kernel has forgotten what it failed to write.
func (c *calls) sync(fd int) error {
	for {
		err := c.fsync(fd)
		if err == unix.EINTR {
			continue
		}
		if err == unix.EINVAL { // a file system that has nothing to sync in directories
			return nil
		}
		return err
	}
}

func (c *calls) cut(fd int, size int64) error {
	for {
		if err := c.truncate(fd, size); err != unix.EINTR {
			return err
		}
	}
}
