// Package maildir serves Maildir and Maildir++ directories: a maildrop is the
// folders new and cur of one directory. A Maildir++ subfolder (".Sent") is a
// maildrop of its own, opened when it is asked for. Maildirsize, and the files of
// other servers, are left alone.
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
// A maildrop has up to three files of ours beside its directories. The lock is
// made once and stays. The index (.kpopd.index) can be thrown away: sizes and
// guards are measured again, and it only speeds things up. It is never trusted
// against the directories: what it says of a message counts as long as name and
// inode are the same, and the file has the length and the mtime that it had. It
// is checksummed and checked as a whole, since the owner of a maildrop may be
// able to write it; damage is a rebuild and a line in the log. It is written at
// the end of a session, before the lock is free and after the removals are on
// disk, by rename, and is not synced: a power cut can only make a rebuild of
// it. It is read, not mapped: whoever truncates a mapped file kills the server.
//
// Unique-ids that cannot be made again from a name are in a third file
// (.kpopd.uids), because they must outlive the index. Lines are appended, each
// has a checksum of its own, and they are synced before a client can see what
// they hold. On a full disk a user must be able to log in and delete, and as
// many are written as there is room for; any other failure refuses the login.
// The file does not grow for ever: of the messages that are gone it keeps the
// latest 50,000 to 100,000, by a new file that is synced and renamed. An id
// that was dropped from it could be given again only by a list of the old
// server that has it twice, and by then no client remembers it: they forget
// what UIDL lists no longer. The index has the ids of what is there too, and what either has lost it gets from the
// other; what both have lost is an error in the log. Whatever a message was
// once called it stays: changes of rule, of uidvalidity, and of flags ask
// nobody again. An assigner that cannot answer refuses the login.
//
// A listing in memory is two blocks without pointers, shared by sessions that
// follow one another and bounded in octets; STAT of a large maildrop needs none
// of it but the totals, which the index's header has. Cost grows with what
// changed: an unchanged maildrop costs two stats, a changed directory one
// reading of its names, of which those known are found by hash. A directory
// that did not change is not read when the other one did.
//
// The first login of a large maildrop would outlast a client's patience. The
// reading goes on without it and keeps the lock; the next login joins it.
//
// Deleted messages may move to a directory for the day beneath the maildrop: a
// rename on the same file system takes no room, is one step, and leaves the
// message with its name, which is its unique-id, for the day it is given back.
// The directory is not a folder of Maildir++, so that a user cannot lose in IMAP
// what is kept for the help desk. The trash is synced before new and cur are.
//
// When the retention of a message began is in its record: it can only be later
// than the truth, and so can what is made of it. A file that is younger than
// its record was given back, and counts from then.
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
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

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
	// cache, so sizes in maildrops too large for CacheOctets are not trusted.
	TrustSizes bool

	// CacheOctets bounds the memory of the listings kept between sessions, in
	// octets; 128 MiB when zero, none when negative. A message takes about 90.
	// What is not kept is read from the maildrop's index.
	CacheOctets int64

	// ScanWait is how long a login waits for a maildrop to be read that nobody
	// has measured before; 25 s when zero, less than clients wait. Then it ends
	// with ErrTemporary, and the maildrop is read on.
	ScanWait time.Duration

	// UIDs gives unique-ids to messages that are new; those are of their base
	// names when nil.
	UIDs UIDs

	// Expire is how long messages are kept. What is over at the end of a
	// session that ends with Commit is removed with what the client deleted.
	Expire Retention

	// Trash moves what is deleted, and what expires, to the trash of the
	// maildrop instead of removing it. Quotas of file systems count it as before.
	Trash bool

	// Log is told of what is rebuilt, lost, and takes long; nobody when nil.
	Log *slog.Logger
}

// Store is the maildrops beneath one directory.
type Store struct {
	root    string
	id      stamp // of root when the store was made
	options Options
	layout  beneath.Layout
	log     *slog.Logger
	cache   cache
	helpers chan struct{}           // one token for each goroutine that helps a session to measure
	fsync   func(int) error         // fsync outside tests
	hold    func(name string) error // called before a message is measured; nil outside tests
	lazy    int64                   // octets of an index that is loaded only when its records are asked for
	long    int                     // messages without a size that a login need not wait for
	spent   int                     // unique-ids kept of messages that are gone
	readings

	mu   sync.Mutex
	told map[string]bool // what is told once, by path
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
	if o.CacheOctets == 0 {
		o.CacheOctets = 128 << 20
	}
	if o.ScanWait == 0 {
		o.ScanWait = 25 * time.Second
	}
	s := &Store{
		root: root, options: o, layout: l,
		log:     cmp.Or(o.Log, slog.New(slog.DiscardHandler)),
		cache:   cache{limit: o.CacheOctets},
		helpers: make(chan struct{}, 4*runtime.GOMAXPROCS(0)),
		fsync:   fsync,
		lazy:    1 << 20,
		long:    500,
		spent:   spentUIDs,
		told:    make(map[string]bool),
	}
	s.readings.init()
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
	var seen maildrop.Drop
	if err == nil {
		seen, err = maildrop.Narrow(ctx, d, r)
	}
	if err != nil {
		return nil, fmt.Errorf("maildrop of %q: %w", r.User, err)
	}
	return seen, nil
}

func (s *Store) open(ctx context.Context, r maildrop.Ref) (*drop, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	path, err := s.layout.Locate(r)
	if err != nil {
		return nil, err
	}
	if r.Folder != "" {
		return s.openFolder(ctx, path, r.Folder)
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
	if err := s.join(ctx, path); err != nil {
		return nil, err
	}
	o, err := s.enter(path)
	if err != nil {
		return nil, err
	}
	l, err := s.list(ctx, o)
	if err != nil {
		o.leave()
		return nil, err
	}
	return o.drop(l), nil
}

// opened is a maildrop whose lock is held, while it is listed.
type opened struct {
	store *Store
	path  string
	fd    int // its directory
	lock  int // may be fd
	dirs  dirs
}

// enter takes the lock.
func (s *Store) enter(path string) (*opened, error) {
	fd, err := s.openMaildrop(path)
	if err != nil {
		return nil, err
	}
	lock, err := acquire(fd)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &opened{store: s, path: path, fd: fd, lock: lock, dirs: noDirs}, nil
}

// shut closes all but the lock.
func (o *opened) shut() {
	o.dirs.close()
	if o.fd != o.lock {
		unix.Close(o.fd)
	}
}

// leave frees the lock. Nothing is left to do with o.
func (o *opened) leave() {
	if o.lock < 0 {
		return // a reading has it
	}
	o.shut()
	_ = release(o.lock)
}

// drop makes a session of o.
func (o *opened) drop(l *listing) *drop {
	o.shut()
	return &drop{store: o.store, path: o.path, lock: o.lock, listing: l, places: l, next: l}
}

// list is the listing of o. Nobody reads a message that was measured before.
func (s *Store) list(ctx context.Context, o *opened) (*listing, error) {
	old := s.known(o.fd, o.path)
	ok, err := s.vouched(o.fd, old)
	if ok || err != nil {
		return old, err
	}
	old = s.load(o.fd, o.path, old)
	if o.dirs, err = openDirs(o.fd); err != nil {
		return nil, err
	}
	l, err := s.look(ctx, o.fd, o.path, &o.dirs, old)
	if err != nil {
		return nil, err
	}
	if n := len(l.unsized()); n < s.long {
		l, err = s.measure(ctx, &o.dirs, l, new(atomic.Int64))
	} else {
		l, err = s.readAside(ctx, o, l, n)
	}
	if err != nil {
		return nil, err
	}
	s.cache.put(o.path, l)
	return l, nil
}

// first says that what has not been told before. The log is not to be flooded
// by what lasts.
func (s *Store) first(what string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.told[what] || len(s.told) >= 10_000 {
		return false
	}
	s.told[what] = true
	return true
}

// over has what told again when it comes back.
func (s *Store) over(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.told, what)
}

// save writes l to the index of its maildrop, at the end of a session. That
// this cannot be done, on a full disk, over quota or read-only, is told once.
func (s *Store) save(fd int, path string, l *listing) {
	now := time.Now()
	if !l.worthWriting(now) {
		return
	}
	file, err := writeIndex(fd, l, now)
	if err != nil {
		if s.first(path + "/" + indexFile) {
			s.log.Warn("index not written", "maildrop", path, "err", err)
		}
		return
	}
	s.over(path + "/" + indexFile)
	next := *l
	next.file, next.corrected = file, false
	s.cache.put(path, &next)
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
