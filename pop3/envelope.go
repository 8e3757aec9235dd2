package pop3

import (
	"cmp"
	"context"
	"fmt"

	"github.com/kpopd/kpopd/maildrop"
)

// envelope is *ENV of Demon's SDPS. fetchmail takes the third line after +OK for
// the sender, an empty one for a bounce, and the fourth for the recipient; it looks
// at no other. The first two told of Demon's machines: here they are the server's
// name and the unique-id. No line is
// so long that fetchmail would read two of it.
//
// fetchmail does not look at the status and reads on until a dot, for ever after an
// -ERR. A message that cannot be read therefore ends the session: the next one does
// not list what is gone.
func (s *session) envelope(ctx context.Context, a args) error {
	i, err := s.message(a[0])
	if err != nil {
		return err
	}
	ms, err := s.messages(ctx)
	if err != nil {
		return err
	}
	e, err := maildrop.EnvelopeOf(ctx, s.drop, i)
	if err != nil {
		s.close(Refused)
		return fmt.Errorf("read envelope of message %d: %w", i+1, err)
	}
	s.ok("Envelope follows")
	for _, line := range [...]string{cmp.Or(s.srv.Hostname, "localhost"), ms.At(i).UID, e.From, e.To} {
		if line != "" && line[0] == '.' {
			s.out.str(".")
		}
		s.out.str(line)
		s.out.str("\r\n")
	}
	s.out.str(".\r\n")
	return nil
}
