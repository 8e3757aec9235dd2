package maildir

import (
	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/maildrop/internal/beneath"
)

func openat2(fd int, path string, flags, mode uint64) (int, error) {
	return beneath.Open(fd, path, flags, mode)
}

func wrap(op, path string, err error) error { return beneath.Wrap(op, path, err) }

func (s *Store) openRoot() (int, error) { return beneath.OpenRoot(s.root) }

// beneath opens path beneath the mail root. Its error is that of the kernel.
func (s *Store) beneath(path string, flags uint64) (int, error) {
	root, err := s.openRoot()
	if err != nil {
		return -1, err
	}
	defer unix.Close(root)
	return openat2(root, path, flags, 0)
}
