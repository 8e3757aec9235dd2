package authn

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"time"
)

// Sunset retires by plan what a rule refuses: from Date on for everybody, and
// before it in the brown-outs for everybody and all day for a share of the
// users that grows. Where it is not yet due its rule does not match.
type Sunset struct {
	Date      time.Time
	Brownouts []Window
	ShareFrom time.Time // from here to Date the share grows evenly from nobody to everybody; zero means no share
}

// due reports whether the rule of s is in force.
func (s *Sunset) due(f *Facts) truth {
	switch {
	case !f.Time.Before(s.Date):
		return certainly
	case f.Open&TimeFact != 0:
		return possibly
	}
	for _, w := range s.Brownouts {
		if w.Contains(f.Time) {
			return certainly
		}
	}
	share := s.Share(f.Time)
	switch {
	case share == 0:
		return never
	case f.Open&UserFact != 0:
		return possibly
	case Cohort(f.User) < share:
		return certainly
	}
	return never
}

// Share is the part of the users that is refused at t outside brown-outs, from
// 0 to 1.
func (s *Sunset) Share(t time.Time) float64 {
	switch {
	case !t.Before(s.Date):
		return 1
	case s.ShareFrom.IsZero() || !t.After(s.ShareFrom):
		return 0
	}
	return float64(t.Sub(s.ShareFrom)) / float64(s.Date.Sub(s.ShareFrom))
}

// Cohort is the place of a user among all, from 0 to less than 1: who comes
// first is refused first, in every sunset, on every server and after every
// restart.
func Cohort(user string) float64 {
	sum := sha256.Sum256([]byte(user))
	return float64(binary.BigEndian.Uint64(sum[:8])>>11) / (math.MaxUint64>>11 + 1)
}
