package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// socketMode lets the group of the helper in; whom else the directory stops, and
// the list of uids.
const socketMode = 0o660

// Listener is a bound unix socket.
type Listener struct {
	*net.UnixListener
	close func() error
}

// Listen binds path. What a helper that died left there is replaced; a helper
// that lives is not.
func Listen(ctx context.Context, path string) (*Listener, error) {
	dir, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	if dir.Mode()&0o002 != 0 {
		return nil, fmt.Errorf("everybody may write to %s (mode %04o), and so put another socket there: chmod o-w it", filepath.Dir(path), dir.Mode().Perm())
	}
	if err := vacant(ctx, path); err != nil {
		return nil, err
	}
	// the socket gets its mode before it gets its name
	temporary := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := os.Remove(temporary); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: temporary, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	err = errors.Join(os.Chmod(temporary, socketMode), os.Rename(temporary, path))
	made, statErr := os.Lstat(path)
	if err := errors.Join(err, statErr); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &Listener{l, sync.OnceValue(func() error {
		err := l.Close()
		if st, statErr := os.Lstat(path); statErr == nil && os.SameFile(st, made) {
			err = errors.Join(err, os.Remove(path))
		}
		return err
	})}, nil
}

// vacant reports why path must not be taken.
func vacant(ctx context.Context, path string) error {
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case st.Mode().Type() != os.ModeSocket:
		return fmt.Errorf("%s is there and no socket: remove it, or name another path", path)
	}
	c, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err == nil {
		return errors.Join(fmt.Errorf("%s: another helper listens there", path), c.Close())
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	return nil
}

// Close stops listening and takes the socket away, unless it is another's by
// now.
func (l *Listener) Close() error { return l.close() }

// peer is the uid of the process at the other end.
func peer(c *net.UnixConn) (uint32, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var sockErr error
	err = raw.Control(func(fd uintptr) { cred, sockErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(err, sockErr); err != nil {
		return 0, err
	}
	return cred.Uid, nil
}
