// Package maildrop defines the mailbox that a POP3 session works on: a listing
// that is locked and frozen at login, and changed once, at the end.
//
// It knows nothing of the wire: message numbers, deletion marks, dot-stuffing
// and totals belong to package pop3. It knows nothing of authentication
// either: whoever assembles a server turns an identity into a [Ref].
//
// # Design notes
//
// The engine owns protocol meaning, the store owns octets. A store lists,
// opens and commits; package droptest says as tests what it must keep to.
//
// What a [Ref] narrows is left to [Narrow], by which a store ends its Open: the
// rules of POP3 hold within what is seen, with numbers, totals and deletions of
// its own; unique-ids and the lock are those of the whole maildrop, since it is
// the same messages.
package maildrop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// Errors that a client is told apart by response code (RFC 2449 section 8,
// RFC 3206 section 4). Any other error of a store reads as [SYS/TEMP].
var (
	ErrInUse     = errors.New("maildrop: in use")               // another session holds the lock
	ErrTemporary = errors.New("maildrop: temporarily unusable") // full disk, lost mount
	ErrPermanent = errors.New("maildrop: unusable")             // wrong owner, corrupt, unsafe path: staff must act
	ErrGone      = errors.New("maildrop: message gone")         // removed by another program during the session
	ErrNoFolder  = errors.New("maildrop: no such folder")       // the maildrop is there, and has none of the name
)

// InUseError is ErrInUse and what is known of the session that holds the lock.
type InUseError struct {
	Session string    // its name in the log
	Since   time.Time // when it opened the maildrop
	Remote  string    // address and port of its client
	Own     bool      // it is of the person who is told of it, who may hear from where
}

func (e *InUseError) Error() string {
	return fmt.Sprintf("maildrop: in use by session %s from %s since %s", e.Session, e.Remote, e.Since.UTC().Format(time.RFC3339))
}

// Unwrap returns ErrInUse.
func (e *InUseError) Unwrap() error { return ErrInUse }

// Ref names a maildrop, and what of it is to be seen.
type Ref struct {
	User string // canonical login name
	Path string // location relative to the store's root; "" means that the store derives it from User

	// Folder is one of the user's instead of the inbox, "" for that. It is a
	// maildrop of its own, with its own lock and unique-ids. It may be any
	// text, see [FolderParts].
	Folder string

	// Since and To narrow the listing, see [Narrow].
	Since time.Time // messages that arrived then or later; all when zero
	To    []string  // messages for one of these envelope recipients, "alice@example.org", in any case; all when empty
}

// Store opens maildrops. Implementations are safe for concurrent use.
type Store interface {
	// Open locks and lists the maildrop. The lock is held until Close or
	// Commit. ctx bounds the opening, not the session. It makes no folder.
	// Errors: ErrInUse, ErrPermanent, ErrTemporary, ErrNoFolder.
	Open(ctx context.Context, r Ref) (Drop, error)
}

// Drop is one session's view of a maildrop, used by one goroutine.
type Drop interface {
	// Totals are the number of the messages that Open listed, and of their
	// octets as sent. They do not change.
	Totals() (messages int, octets int64)

	// Listing is what Open listed. It does not change, and is valid until Close.
	// A store may fetch it when it is first asked for: STAT needs the totals
	// alone. Errors: ErrTemporary.
	Listing(ctx context.Context) (Listing, error)

	// Content opens message i. The reader yields the stored octets: line
	// ends as stored, no dot-stuffing. Errors: ErrGone, ErrTemporary.
	Content(ctx context.Context, i int) (io.ReadCloser, error)

	// Commit removes the messages in del (indexes, ascending), makes that
	// durable, and releases the lock: the UPDATE state of RFC 1939 section 6.
	// It removes nothing that is not in del, but for what the store was told to
	// keep no longer; a message in del that another program removed counts as
	// removed. When some are left the error is a
	// [*CommitError]. ctx may be cancelled without effect on what is removed.
	Commit(ctx context.Context, del []int) error

	// Close releases the lock and removes nothing. It may be called more
	// than once, and after Commit.
	Close() error
}

// Retriever is a [Drop] whose store may keep messages that were retrieved for
// some time only.
type Retriever interface {
	// Retrieved says that RETR has sent all of message i. It counts when
	// Commit follows: without that the client may not have kept it.
	Retrieved(i int)
}

// Listing is the messages of a [Drop].
type Listing interface {
	Len() int
	// At is the line of index i, which is message i+1 of RFC 1939.
	At(i int) Message
}

// Messages is a [Listing] that is kept as it is shown.
type Messages []Message

// Len implements [Listing].
func (m Messages) Len() int { return len(m) }

// At implements [Listing].
func (m Messages) At(i int) Message { return m[i] }

// Totals are those of a [Drop] that lists m.
func (m Messages) Totals() (messages int, octets int64) {
	for i := range m {
		octets += m[i].Size
	}
	return len(m), octets
}

// List is the listing of d as a slice.
func List(ctx context.Context, d Drop) (Messages, error) {
	l, err := d.Listing(ctx)
	if err != nil {
		return nil, err
	}
	m := make(Messages, l.Len())
	for i := range m {
		m[i] = l.At(i)
	}
	return m, nil
}

// Message is one line of the listing.
type Message struct {
	// UID is the unique-id: 1 to 70 octets in 0x21..0x7E, the same in every
	// session, never given to another message (RFC 1939 section 7).
	UID string
	// Size is the number of octets as sent: CRLF line ends, a last line end
	// added where the message has none, before dot-stuffing (RFC 1939
	// section 11).
	Size int64
	// WireForm says that the stored octets are the octets to send: CRLF line
	// ends throughout and no line that begins with a dot.
	WireForm bool
}

// CommitError says which messages are still there after Commit, or may come
// back after a crash.
type CommitError struct {
	Left []int // indexes, ascending
	Err  error
}

func (e *CommitError) Error() string { return "maildrop: messages not removed: " + e.Err.Error() }

// Unwrap returns the cause.
func (e *CommitError) Unwrap() error { return e.Err }
