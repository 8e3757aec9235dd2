// Package mbox serves spool files: a maildrop is one file that holds messages one
// after the other, each behind a From_ line. Postfix, Exim, procmail, maildrop and
// mailutils append to it, Dovecot and mail programs rewrite it.
//
// It runs on Linux 5.6 or later, for openat2.
//
// # Design notes
//
// The file is locked while it is read through at login and while messages are
// removed from it, and not in between: deliveries go on during a session. Between
// sessions there is a lock of our own, in the state directory, a range of one file
// for each maildrop, so that a login makes no file. What a session knows of the
// file is checked against the file before a message is sent and before one is
// removed, and looked up again when others changed it.
//
// A message begins with a From_ line at the start of the file or after an empty
// line; no header is believed to say how long one is. The From_ line and the empty
// line before the next one are no part of the message. ">From " stays as it is
// stored: what was quoted by whom cannot be told.
//
// The fields Status, X-Status, X-Keywords, X-UID, X-IMAP, X-IMAPbase and
// Content-Length are the file's and not the message's: they are not sent, as
// Dovecot and UW's servers do not send them. So a program that marks a message as
// read changes neither its size nor its unique-id. The message that UW's servers
// and mailutils keep for themselves at the start of the file is not listed and not
// removed.
//
// A unique-id is a hash of the From_ line, the header, and the first 4 KiB of the
// body, without what programs add to a header later. A second message that is the
// same to the octet gets a number after it, and the index remembers the ids of the
// last 1,000 messages that sessions removed, so that none is given again. Those of
// messages that other programs removed are given again: a file that was away and
// is back, or is restored from a backup, has the ids that it had. Ids are frozen in
// the index. When that is lost, they are computed again; only messages that are the
// same to the octet may then change places.
//
// Removing rewrites the file in place, never by another file: a program that waits
// for a lock has the old one open. What stays is first written to a journal, so
// that a rewriting that broke off is done again at the next login, with the mail
// that has come since. Removing the last messages, or all, only cuts the file
// short, and needs no room on a full disk. When there is no room for a journal it is
// written to a file that was allocated before, when the server first served: 16 MiB,
// once for all maildrops. So on a full disk messages go unless more than that would
// have to stay behind the first of them, or there is no inode for a dotlock: then
// none of them goes and QUIT says so. What is said of the order of these steps stands
// in rewrite.go; a change must keep it.
//
// Index and journal lie in the state directory, since nobody may write to many
// spool directories. The index is never trusted against the file: it is used when
// device, inode, size and times of the file are the same, or when the file grew
// and its beginning and what was its end are the same.
package mbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/maildrop"
	"github.com/kpopd/kpopd/maildrop/internal/beneath"
)

// Ways to lock a spool file.
const (
	Fcntl   = "fcntl"   // a lock of the kernel, which works against POSIX locks of others too
	Dotlock = "dotlock" // a file beside the spool file, with ".lock" after its name
)

// Options of a [Store]. State must be set.
type Options struct {
	// State is the directory for indexes, journals and the session locks. Nobody
	// else may write to it, and all servers of a spool need the same one.
	State string

	// Layout is where in the root a user's file lies when nothing else names it;
	// "{user}" when empty. It holds {user}, {local} and {domain} (before and after
	// the last "@"), and {user:2} for the first two octets of such a value.
	Layout string

	// Owner is the user id that must own spool files; 0 checks nothing.
	Owner uint32

	// Locks are taken in this order, the order of the local delivery agent; Fcntl
	// then Dotlock when empty.
	Locks []string

	// LockWait bounds the wait for the locks of others; 30 s when zero.
	LockWait time.Duration

	// Reserve is how many octets are set aside in the state directory, once for all
	// maildrops, so that messages can be removed when the disk is full; 16 MiB when
	// zero, none when negative.
	Reserve int64

	// UIDs gives messages other unique-ids than this package's; nil when there are
	// none. It is called when messages are new, with the head of the file's first
	// message, which may be one that a mail program made for itself, and returns
	// what names a message by its head: its first octets from the From_ line on, to
	// the end of its header or 512 if that is more, 64 KiB at most. Where the name is
	// "" or RFC 1939 does not allow it, the message gets the package's own; where it
	// is taken, a number is added.
	UIDs func(first []byte) (func(head []byte) string, error)

	// Log is told what staff should know about; nothing when nil.
	Log *slog.Logger
}

// Store is the spool files beneath one directory.
type Store struct {
	root    string
	id      inode // of root when the store was made
	options Options
	layout  beneath.Layout
	log     *slog.Logger
	calls   calls

	mu    sync.Mutex // guards writing of token, which sessions read that have made sure of it
	token string     // stands in our dotlocks

	reserve   sync.Once   // the reserve has been looked for
	unwritten atomic.Bool // an index could not be written, and that has been told
}

var _ maildrop.Store = (*Store)(nil)

// New returns the store of the spool files beneath root. Root and the state
// directory must exist.
func New(root string, o Options) (*Store, error) {
	if o.Layout == "" {
		o.Layout = "{user}"
	}
	l, err := beneath.ParseLayout(o.Layout)
	if err != nil {
		return nil, fmt.Errorf("mbox layout %q: %w", o.Layout, err)
	}
	if root, err = filepath.Abs(root); err != nil {
		return nil, fmt.Errorf("mail root: %w", err)
	}
	if len(o.Locks) == 0 {
		o.Locks = []string{Fcntl, Dotlock}
	}
	for i, way := range o.Locks {
		if way != Fcntl && way != Dotlock || slices.Contains(o.Locks[:i], way) {
			return nil, fmt.Errorf("lock %q: there are %s and %s, each once", way, Fcntl, Dotlock)
		}
	}
	if o.LockWait == 0 {
		o.LockWait = 30 * time.Second
	}
	if o.Reserve == 0 {
		o.Reserve = 16 << 20
	}
	s := &Store{root: root, options: o, layout: l, log: o.Log, calls: kernel}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	fd, err := beneath.OpenRoot(root)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if s.id, err = inodeOf(fd); err != nil {
		return nil, fmt.Errorf("mail root %s: %w", root, err)
	}
	if err := s.checkState(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrState, err)
	}
	return s, nil
}

// inode is a file or directory, whatever its name.
type inode struct{ dev, ino uint64 }

func inodeOf(fd int) (inode, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return inode{st.Dev, st.Ino}, err
}

// Open implements [maildrop.Store]. A file that is missing is an empty maildrop:
// the first delivery makes it.
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
	if parts, ok := maildrop.FolderParts(r.Folder); !ok || len(parts) > 0 {
		return nil, maildrop.ErrNoFolder // a spool file has none
	}
	path, err := s.layout.Locate(r)
	if err != nil {
		return nil, err
	}
	lock, err := s.lockSession(path)
	if err != nil {
		return nil, err
	}
	d := &drop{store: s, path: path, lock: lock}
	if err := d.list(ctx); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}
