package maildir

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/maildrop"
)

// errStrange: not a regular file, so no message.
var errStrange = errors.New("not a regular file")

// content reads the octets that a message file had when it was opened. It is
// no os.File: the runtime's poller cannot wait for files, and asking it costs
// two system calls for each message.
type content struct {
	fd       int
	size     int64
	modified int64 // Unix nanoseconds
	at       int64 // offset of the next octet
}

// openMessage opens the message at path beneath fd.
func (s *Store) openMessage(fd int, path string) (*content, error) {
	file, err := openat2(fd, path, unix.O_RDONLY, 0)
	if err != nil {
		if err == unix.ELOOP || err == unix.ENXIO {
			err = errStrange // a symbolic link, a socket
		}
		return nil, err
	}
	var st unix.Stat_t
	if err = unix.Fstat(file, &st); err == nil {
		switch {
		case st.Mode&unix.S_IFMT != unix.S_IFREG:
			err = errStrange
		case s.options.Owner != 0 && st.Uid != s.options.Owner:
			err = fmt.Errorf("%w: owned by user %d", maildrop.ErrPermanent, st.Uid)
		}
	}
	if err != nil {
		unix.Close(file)
		return nil, err
	}
	return &content{fd: file, size: st.Size, modified: unix.TimespecToNsec(st.Mtim)}, nil
}

// Read ends with io.ErrUnexpectedEOF when the file became shorter, so that
// nobody takes what is left for the message.
func (c *content) Read(p []byte) (int, error) {
	if c.fd < 0 {
		return 0, os.ErrClosed
	}
	left := c.size - c.at
	if left == 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > left {
		p = p[:left]
	}
	for {
		n, err := unix.Pread(c.fd, p, c.at)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return 0, wrap("read", "message", err)
		case n == 0 && len(p) > 0:
			return 0, io.ErrUnexpectedEOF
		}
		c.at += int64(n)
		return n, nil
	}
}

func (c *content) Close() error {
	if c.fd < 0 {
		return nil
	}
	fd := c.fd
	c.fd = -1
	return unix.Close(fd)
}

// measure reads all of c and goes back to its start.
func (c *content) measure(buf []byte) (m maildrop.Meter, err error) {
	for err == nil {
		var n int
		n, err = c.Read(buf)
		m.Write(buf[:n])
	}
	c.at = 0
	if err == io.EOF {
		err = nil
	}
	return m, err
}
