// Package maildir serves Maildir and Maildir++ directories: a maildrop is the
// folders new and cur of one directory. Maildir++ subfolders (".Sent"),
// maildirsize, and the files of other servers beside them are left alone.
//
// It runs on Linux 5.6 or later, for openat2.
//
// # Design notes
//
// A message is its base name, the file name up to the colon: other programs
// may move it from new to cur and change its flags at any time, and it stays
// the same message. The base name is also the unique-id. Where a name has to be
// found again, the directories are read again.
//
// Message files are immutable: they are opened to be read and they are
// unlinked, never written or truncated, since they may be hard links. Nothing
// is ever made in new, cur or tmp by a session, so a full disk and a spent
// quota let a user log in and delete.
//
// Every open goes through openat2 beneath the mail root, without symbolic
// links, and takes regular files only. Nothing is opened by a path that the
// kernel has not confined in that way; unlinkat and fstatat work on a single
// name in a directory that was.
//
// The listing fails as a whole when one message cannot be measured. POP3
// cannot list a message of unknown size, and a message that is silently left
// out looks lost. For the same reason a maildrop that is not there is an error
// and not an empty one, unless [Options.Create] says otherwise.
//
// What is cached is guarded by the change times of the directories, and sizes
// are checked against the open file before it is sent.
package maildir

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/maildrop"
	"github.com/kpopd/kpopd/maildrop/internal/beneath"
)

// Options of a [Store]. The zero value is usable.
type Options struct {
	// Layout is where in the root a user's maildrop lies when nothing else
	// names it; "{user}" when empty. It holds {user}, {local} and {domain}
	// (before and after the last "@"), and {user:2} for the first two octets
	// of such a value: "{user:1}/{user}/Maildir".
	Layout string

	// Create makes a maildrop that is missing. Without it a missing maildrop
	// is an error, because a file system that is not mounted looks the same.
	Create bool

	// Owner is the user id that must own maildrops and messages; 0 checks
	// nothing.
	Owner uint32

	// TrustSizes takes the size on the wire from a ",W=" in the file name
	// instead of reading the message. Where the name was wrong, RETR is
	// refused once and the next session has the right size. It has it from the
	// cache, so sizes in maildrops larger than CacheMessages are not trusted.
	TrustSizes bool

	// CacheMessages bounds the listings kept in memory between sessions, in
	// messages, of about 200 octets each; 200,000 when zero, none when
	// negative.
	CacheMessages int
}

// Store is the maildrops beneath one directory.
type Store struct {
	root    string
	id      stamp // of root when the store was made
	options Options
	layout  beneath.Layout
	cache   cache
	helpers chan struct{}   // one token for each goroutine that helps a session to measure
	fsync   func(int) error // fsync outside tests
}

var _ maildrop.Store = (*Store)(nil)

// New returns the store of the maildrops beneath root, which must exist. Root
// is the one path that may lead through symbolic links.
func New(root string, o Options) (*Store, error) {
	if o.Layout == "" {
		o.Layout = "{user}"
	}
	l, err := beneath.ParseLayout(o.Layout)
	if err != nil {
		return nil, fmt.Errorf("maildir layout %q: %w", o.Layout, err)
	}
	if root, err = filepath.Abs(root); err != nil {
		return nil, fmt.Errorf("mail root: %w", err)
	}
	if o.CacheMessages == 0 {
		o.CacheMessages = 200_000
	}
	s := &Store{
		root: root, options: o, layout: l,
		cache:   cache{limit: o.CacheMessages},
		helpers: make(chan struct{}, 4*runtime.GOMAXPROCS(0)),
		fsync:   fsync,
	}
	fd, err := s.openRoot()
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if s.id, err = stampOf(fd); err != nil {
		return nil, fmt.Errorf("mail root %s: %w", root, err)
	}
	probe, err := openat2(fd, ".", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("mail root %s: openat2 (Linux 5.6): %w", root, err)
	}
	unix.Close(probe)
	return s, nil
}

// Open implements [maildrop.Store].
func (s *Store) Open(ctx context.Context, r maildrop.Ref) (maildrop.Drop, error) {
	d, err := s.open(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("maildrop of %q: %w", r.User, err)
	}
	return d, nil
}

func (s *Store) open(ctx context.Context, r maildrop.Ref) (*drop, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	path, err := s.layout.Locate(r)
	if err != nil {
		return nil, err
	}
	d, err := s.openAt(ctx, path)
	if s.options.Create && errors.Is(err, unix.ENOENT) {
		if err = s.create(path); err != nil {
			return nil, wrap("make", path, err)
		}
		d, err = s.openAt(ctx, path)
	}
	return d, err
}

func (s *Store) openAt(ctx context.Context, path string) (*drop, error) {
	fd, err := s.openMaildrop(path)
	if err != nil {
		return nil, err
	}
	lock, err := acquire(fd)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	l, err := s.list(ctx, fd, path)
	if lock != fd {
		unix.Close(fd)
	}
	if err != nil {
		_ = release(lock)
		return nil, err
	}
	return &drop{store: s, path: path, lock: lock, listing: l, corrected: l, files: l.files}, nil
}

// openMaildrop opens the directory that holds new and cur.
func (s *Store) openMaildrop(path string) (int, error) {
	fd, err := s.beneath(path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return -1, wrap("open", path, err)
	}
	if s.options.Owner != 0 {
		var st unix.Stat_t
		if err = unix.Fstat(fd, &st); err == nil && st.Uid != s.options.Owner {
			err = fmt.Errorf("%w: owned by user %d", maildrop.ErrPermanent, st.Uid)
		}
		if err != nil {
			unix.Close(fd)
			return -1, wrap("open", path, err)
		}
	}
	return fd, nil
}

// create makes a maildrop and the directories above it. It does not when the
// mail root is another directory than at the start: one that lost its mount.
func (s *Store) create(path string) error {
	fd, err := s.openRoot()
	if err != nil {
		return err
	}
	defer func() { unix.Close(fd) }()
	now, err := stampOf(fd)
	if err != nil {
		return err
	}
	if now.dev != s.id.dev || now.ino != s.id.ino {
		return fmt.Errorf("%w: the mail root is not the one that it was", maildrop.ErrTemporary)
	}
	for name := range strings.SplitSeq(path, "/") {
		if err := mkdir(fd, name); err != nil {
			return err
		}
		sub, err := openat2(fd, name, unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		unix.Close(fd)
		fd = sub
	}
	for _, name := range [...]string{"tmp", "new", "cur"} {
		if err := mkdir(fd, name); err != nil {
			return err
		}
	}
	return nil
}

func mkdir(fd int, name string) error {
	if err := unix.Mkdirat(fd, name, 0o700); err != nil && err != unix.EEXIST {
		return &os.PathError{Op: "mkdir", Path: name, Err: err}
	}
	return nil
}
