package principal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/authn"
)

const maxK5Login = 64 << 10 // octets

// userFinder returns the uid of a user of the system, false when there is none
// of that name.
type userFinder func(login string) (uid uint32, ok bool, err error)

func systemUser(login string) (uint32, bool, error) {
	u, err := user.Lookup(login)
	var unknown user.UnknownUserError
	switch {
	case errors.As(err, &unknown):
		return 0, false, nil
	case err != nil:
		return 0, false, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	return uint32(uid), err == nil, err
}

// unusableError is a .k5login that could not be asked.
type unusableError struct{ err error }

func (e *unusableError) Error() string { return e.err.Error() }
func (e *unusableError) Unwrap() error { return e.err }

// k5login says whether p is listed in the .k5login of login, and whether there
// is one. As in Heimdal, a file that anyone but root and its user can write
// lets nobody in.
func (m *Mapper) k5login(p *authn.Principal, login string) (listed, there bool, err error) {
	if m.o.K5Login == "" {
		return false, false, nil
	}
	uid, ok, err := m.users(login)
	if err != nil {
		return false, false, &unusableError{fmt.Errorf("look up user %s: %w", login, err)}
	}
	if !ok {
		return false, false, nil
	}
	path := strings.Replace(m.o.K5Login, "%u", login, 1)
	b, err := readOwned(path, uid)
	if errors.Is(err, os.ErrNotExist) {
		return false, false, nil
	}
	if err != nil {
		return false, true, err
	}
	for line := range strings.Lines(string(b)) {
		q, err := parsePrincipal(strings.TrimSpace(line))
		if err == nil && m.fold(q.String()) == m.fold(p.String()) {
			return true, true, nil
		}
	}
	return false, true, nil
}

// readOwned reads a regular file that belongs to uid or root and that nobody
// else can write.
func readOwned(path string, uid uint32) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, err
	case err != nil:
		return nil, &unusableError{err}
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, &unusableError{err}
	}
	owner := st.Sys().(*syscall.Stat_t).Uid
	if !st.Mode().IsRegular() || owner != uid && owner != 0 || st.Mode()&0o022 != 0 {
		return nil, fmt.Errorf("%s: must be a regular file of its user or root that nobody else can write", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxK5Login+1))
	switch {
	case err != nil:
		return nil, &unusableError{err}
	case len(b) > maxK5Login: // cut off, its last line could name somebody else
		return nil, fmt.Errorf("%s: larger than %d octets", path, maxK5Login)
	}
	return b, nil
}
