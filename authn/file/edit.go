package file

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/authn"
)

// SetHash gives a login of the users file at path a hash, and adds the login
// when it is not there. What else the file has stays octet for octet, also
// lines that would not load.
func SetHash(path, login, hash string) error {
	if err := editable(login); err != nil {
		return err
	}
	if _, _, err := parseHash(hash); err != nil {
		return fmt.Errorf("hash for %s: %w", login, err)
	}
	_, err := edit(path, func(line []byte) ([]byte, bool) {
		name, rest, ok := bytes.Cut(line, []byte(":"))
		if !ok || string(name) != login {
			return nil, false
		}
		_, extra, more := bytes.Cut(rest, []byte(":"))
		line = []byte(login + ":" + hash)
		if more {
			line = append(append(line, ':'), extra...)
		}
		return line, true
	}, []byte(login+":"+hash))
	return err
}

// RemoveUser takes a login out of the users file at path, and says whether it
// was there. Secrets in a digests file are not touched.
func RemoveUser(path, login string) (bool, error) {
	if err := editable(login); err != nil {
		return false, err
	}
	return edit(path, func(line []byte) ([]byte, bool) {
		name, _, ok := bytes.Cut(line, []byte(":"))
		return nil, ok && string(name) == login
	}, nil)
}

// SetSecret gives a login a secret for a scheme in the digests file at path,
// which is made with mode 0600 when it is not there. The secret of a scheme of
// SCRAM is [scram.Keys.Text]. It is sealed with the first key of the key file at
// keyPath, and stands there readably when keyPath is "".
func SetSecret(path, keyPath, login, scheme string, secret authn.Password) error {
	if err := editable(login); err != nil {
		return err
	}
	d := digest{secretKey: secretKey{login, scheme}, secret: secret}
	line := slices.Concat([]byte(login+":"+scheme+":"), secret)
	defer clear(line)
	var err error
	if _, err = new(digest).parse(line); err == nil {
		err = d.check()
	}
	switch {
	case err != nil:
		return fmt.Errorf("secret for %s: %w", login, err)
	case bytes.ContainsAny(secret, "\r\n"):
		return fmt.Errorf("secret for %s: has a line end", login)
	case bytes.HasPrefix(secret, []byte(sealed)):
		return fmt.Errorf("secret for %s: begins with %s, as none but a sealed one does", login, sealed)
	}
	return change(path, func(old []byte, _ bool) ([]byte, error) {
		if keyPath != "" {
			// read under the lock: whoever seals after a rotation has the new key
			keys, err := OpenKeys(keyPath)
			if err != nil {
				return nil, err
			}
			line = append([]byte(login+":"+scheme+":"), keys.seal(login, scheme, secret)...)
		}
		next, _ := rewrite(old, func(l []byte) ([]byte, bool) { return line, hasSecret(l, login, scheme) }, line)
		return next, nil
	})
}

// RemoveSecret takes the secret of a login for a scheme, or for every scheme
// when scheme is "", out of the digests file at path, and says whether there
// was one.
func RemoveSecret(path, login, scheme string) (bool, error) {
	if err := editable(login); err != nil {
		return false, err
	}
	return edit(path, func(l []byte) ([]byte, bool) { return nil, hasSecret(l, login, scheme) }, nil)
}

func hasSecret(line []byte, login, scheme string) bool {
	f := bytes.SplitN(line, []byte(":"), 3)
	return len(f) == 3 && string(f[0]) == login && (scheme == "" || string(f[1]) == scheme)
}

func editable(login string) error {
	_, err := checkLogin([]byte(login))
	return err
}

// edit rewrites the file at path under a lock: meant says for each line that
// is no comment whether it is meant, and what takes its place (nil removes
// it). When no line is meant, add is appended unless it is nil. It says whether
// a line was meant.
func edit(path string, meant func(line []byte) ([]byte, bool), add []byte) (found bool, err error) {
	err = change(path, func(old []byte, _ bool) (next []byte, err error) {
		next, found = rewrite(old, meant, add)
		return next, nil
	})
	return found, err
}

// change rewrites the file at path under a lock: f makes the new content of the
// old, which is empty when there is no file. After an error all stays as it was.
// Both contents are wiped.
func change(path string, f func(old []byte, exists bool) ([]byte, error)) error {
	dir, err := lockDir(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close() // unlocks
	base := filepath.Base(path)
	old, st, err := readAt(dir, base)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer clear(old)
	next, err := f(old, st != nil)
	defer clear(next)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if bytes.Equal(old, next) {
		return nil
	}
	if err := replace(dir, base, next, st); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func rewrite(old []byte, meant func([]byte) ([]byte, bool), add []byte) (next []byte, found bool) {
	next = make([]byte, 0, len(old)+len(add)+maxLine)
	for raw := range bytes.Lines(old) {
		line := bytes.TrimSuffix(bytes.TrimSuffix(raw, []byte("\n")), []byte("\r"))
		if len(line) == 0 || line[0] == '#' {
			next = append(next, raw...)
			continue
		}
		to, ok := meant(line)
		switch {
		case !ok:
			next = append(next, raw...)
		case to != nil && !found: // a login that stood there twice stands there once
			next = append(append(next, to...), raw[len(line):]...)
		}
		found = found || ok
	}
	if !found && add != nil {
		if n := len(next); n > 0 && next[n-1] != '\n' {
			next = append(next, '\n')
		}
		next = append(append(next, add...), '\n')
	}
	return next, found
}

// lockDir opens a directory and waits for the lock on it, which leaves no lock
// file about and is gone when the process is.
func lockDir(path string) (*os.File, error) {
	dir, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(dir.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), dir.Close())
	}
	return dir, nil
}

// openAt opens a file of dir, never through a symbolic link.
func openAt(dir *os.File, name string, flags int, mode os.FileMode) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, uint32(mode.Perm()))
	if errors.Is(err, unix.ELOOP) {
		return nil, errors.New("is a symbolic link: name the file that it points to")
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// readAt returns content and status of a file; both are nil when there is none.
func readAt(dir *os.File, name string) ([]byte, *unix.Stat_t, error) {
	f, err := openAt(dir, name, unix.O_RDONLY, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, nil, errors.New("not a regular file")
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("larger than %d octets", maxFile)
	}
	return b, &st, err
}

// replace puts content in the place of a file in one step, with the mode and
// owner of the one that was there: who reads meets the old file or the new one,
// also after a power cut.
func replace(dir *os.File, name string, content []byte, st *unix.Stat_t) (err error) {
	tmp := fmt.Sprintf(".%s.%s", name, rand.Text())
	f, err := openAt(dir, tmp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = unix.Unlinkat(int(dir.Fd()), tmp, 0)
		}
	}()
	if err := errors.Join(fill(f, content, st), f.Close()); err != nil {
		return err
	}
	if err := unix.Renameat(int(dir.Fd()), tmp, int(dir.Fd()), name); err != nil {
		return err
	}
	return dir.Sync()
}

func fill(f *os.File, content []byte, st *unix.Stat_t) error {
	if st != nil {
		if int(st.Uid) != os.Geteuid() || int(st.Gid) != os.Getegid() {
			if err := f.Chown(int(st.Uid), int(st.Gid)); err != nil {
				return err
			}
		}
		if err := f.Chmod(os.FileMode(st.Mode & 0o777)); err != nil {
			return err
		}
	}
	if _, err := f.Write(content); err != nil {
		return err
	}
	return f.Sync()
}
