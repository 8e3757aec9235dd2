package krb5_test

import (
	"context"
	"time"
)

// spyReplay remembers what it was asked last, and has seen nothing.
type spyReplay struct {
	calls   int
	tag     [32]byte
	expires time.Time
}

func (s *spyReplay) Seen(_ context.Context, tag [32]byte, expires time.Time) (bool, error) {
	s.calls++
	s.tag, s.expires = tag, expires
	return false, nil
}
