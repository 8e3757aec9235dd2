package pop3

import (
	"context"
	"errors"
	"log/slog"

	"github.com/kpopd/kpopd/maildrop"
)

// recount counts all messages.
func (s *session) recount() {
	s.count, s.size = 0, 0
	for _, m := range s.drop.Messages() {
		s.count++
		s.size += uint64(m.Size)
	}
}

// message parses a message number and returns the index.
func (s *session) message(arg []byte) (int, error) {
	n, ok := parseNumber(arg)
	switch {
	case !ok:
		return 0, errNotNumber
	case n == 0 || n > uint64(len(s.drop.Messages())):
		return 0, errNoMessage
	case s.isDeleted(int(n - 1)):
		return 0, errDeleted
	}
	return int(n - 1), nil
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

func (s *session) list(_ context.Context, a args) error {
	return s.listing(a, func(w *writer, m *maildrop.Message) { w.num(uint64(m.Size)) })
}

func (s *session) uidl(_ context.Context, a args) error {
	return s.listing(a, func(w *writer, m *maildrop.Message) { w.str(m.UID) })
}

// shortListing is how many messages fit into a small buffer, with unique-ids
// of 70 octets.
const shortListing = 50

// listing shows one message, or all that are not deleted, with a column.
func (s *session) listing(a args, column func(*writer, *maildrop.Message)) error {
	ms := s.drop.Messages()
	if len(a) == 1 {
		i, err := s.message(a[0])
		if err != nil {
			return err
		}
		s.out.str("+OK ")
		s.line(i, &ms[i], column)
		return nil
	}
	s.okCounts()
	if s.count > shortListing {
		s.out.enlarge()
	}
	for i := range ms {
		if s.isDeleted(i) {
			continue
		}
		s.line(i, &ms[i], column)
		if s.out.err != nil {
			return s.out.err
		}
	}
	s.out.str(".\r\n")
	return nil
}

func (s *session) line(i int, m *maildrop.Message, column func(*writer, *maildrop.Message)) {
	s.out.num(uint64(i + 1))
	s.out.str(" ")
	column(&s.out, m)
	s.out.str("\r\n")
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

func (s *session) dele(_ context.Context, a args) error {
	i, err := s.message(a[0])
	if err != nil {
		return err
	}
	ms := s.drop.Messages()
	if s.deleted == nil {
		s.deleted = make([]bool, len(ms))
	}
	s.deleted[i] = true
	s.count--
	s.size -= uint64(ms[i].Size)
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
	s.drop = nil
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
