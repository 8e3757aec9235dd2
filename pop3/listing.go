package pop3

import (
	"context"
	"errors"
	"log/slog"
	"strconv"

	"github.com/kpopd/kpopd/maildrop"
)

// recount counts all messages.
func (s *session) recount() {
	n, octets := s.drop.Totals()
	s.count, s.size = n, uint64(octets)
}

// messages is the listing of the maildrop. A store may read it only now.
func (s *session) messages(ctx context.Context) (maildrop.Listing, error) {
	if s.listed == nil {
		l, err := s.drop.Listing(ctx)
		if err != nil {
			return nil, err
		}
		s.listed = l
	}
	return s.listed, nil
}

// message parses a message number and returns the index.
func (s *session) message(arg []byte) (int, error) {
	n, ok := parseNumber(arg)
	switch {
	case !ok:
		return 0, errNotNumber
	case n == 0 || n > uint64(s.total()):
		return 0, errNoMessage
	case s.isDeleted(int(n - 1)):
		return 0, errDeleted
	}
	return int(n - 1), nil
}

// total is the number of messages, deleted ones too.
func (s *session) total() int {
	n, _ := s.drop.Totals()
	return n
}

func (s *session) isDeleted(i int) bool { return s.deleted != nil && s.deleted[i] }

func (s *session) stat(context.Context, args) error {
	s.out.str("+OK ")
	s.out.num(uint64(s.count))
	s.out.str(" ")
	s.out.num(s.size)
	s.out.str("\r\n")
	return nil
}

func (s *session) list(ctx context.Context, a args) error {
	return s.listing(ctx, a, func(b []byte, m maildrop.Message) []byte {
		return strconv.AppendUint(b, uint64(m.Size), 10)
	})
}

func (s *session) uidl(ctx context.Context, a args) error {
	return s.listing(ctx, a, func(b []byte, m maildrop.Message) []byte { return append(b, m.UID...) })
}

// shortListing is how many messages fit into a small buffer, with unique-ids
// of 70 octets.
const shortListing = 50

// column adds what a listing tells of a message.
type column func([]byte, maildrop.Message) []byte

// listing shows one message, or all that are not deleted, with a column. It
// never holds more of a reply than a buffer.
func (s *session) listing(ctx context.Context, a args, c column) error {
	ms, err := s.messages(ctx)
	if err != nil {
		return err
	}
	if len(a) == 1 {
		i, err := s.message(a[0])
		if err != nil {
			return err
		}
		s.out.str("+OK ")
		s.line(i, ms.At(i), c)
		return nil
	}
	s.okCounts()
	if s.count > shortListing {
		s.out.enlarge()
	}
	for i := range ms.Len() {
		if s.isDeleted(i) {
			continue
		}
		s.line(i, ms.At(i), c)
		if s.out.err != nil {
			return s.out.err
		}
	}
	s.out.str(".\r\n")
	return nil
}

func (s *session) line(i int, m maildrop.Message, c column) {
	const digits = 20
	s.out.reserve(digits + len(" ") + max(digits, len(m.UID)) + len("\r\n"))
	b := strconv.AppendUint(s.out.buf, uint64(i+1), 10)
	b = c(append(b, ' '), m)
	s.out.buf = append(b, "\r\n"...)
}

// okCounts is the reply that tells how much there is.
func (s *session) okCounts() error {
	s.out.str("+OK ")
	s.out.num(uint64(s.count))
	s.out.str(" messages (")
	s.out.num(s.size)
	s.out.str(" octets)\r\n")
	return nil
}

func (s *session) dele(ctx context.Context, a args) error {
	i, err := s.message(a[0])
	if err != nil {
		return err
	}
	ms, err := s.messages(ctx)
	if err != nil {
		return err
	}
	if s.deleted == nil {
		s.deleted = make([]bool, ms.Len())
	}
	s.deleted[i] = true
	s.count--
	s.size -= uint64(ms.At(i).Size)
	return s.ok("Marked as deleted")
}

func (s *session) rset(context.Context, args) error {
	s.deleted = nil
	s.recount()
	return s.okCounts()
}

func (s *session) noop(context.Context, args) error { return s.ok("") }

// quit enters the UPDATE state. The reply comes after the removals and after
// the lock is released, and says so when some were left (RFC 1939 section 6).
// A shutdown does not stop it.
func (s *session) quit(ctx context.Context, _ args) error {
	s.close(Quit)
	drop := s.drop
	if drop == nil {
		return s.ok("Bye")
	}
	del := s.marked()
	err := drop.Commit(context.WithoutCancel(ctx), del)
	if err := drop.Close(); err != nil { // what was removed is removed
		s.log.ErrorContext(ctx, "maildrop not closed", s.attrs(errAttr(err))...)
	}
	s.drop, s.listed = nil, nil
	if err != nil {
		return s.leftBehind(ctx, del, err)
	}
	s.done.Deleted = len(del)
	return s.ok("Bye")
}

// leftBehind is the answer to a QUIT that could not remove all of del.
func (s *session) leftBehind(ctx context.Context, del []int, err error) error {
	left := len(del)
	var ce *maildrop.CommitError
	if errors.As(err, &ce) {
		left = len(ce.Left)
	}
	s.done.Deleted = max(0, len(del)-left)
	s.log.ErrorContext(ctx, "messages not removed", s.attrs(slog.Int("left", left), errAttr(err))...)
	return err
}

// marked returns the indexes of the messages to remove.
func (s *session) marked() []int {
	var del []int
	for i, d := range s.deleted {
		if d {
			del = append(del, i)
		}
	}
	return del
}
