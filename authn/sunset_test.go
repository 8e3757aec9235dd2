package authn

import (
	"fmt"
	"math"
	"testing"
	"time"
)

func TestSunset(t *testing.T) {
	t.Parallel()
	date := time.Date(2027, 3, 1, 0, 0, 0, 0, time.UTC)
	plain := &Sunset{Date: date}
	brown := &Sunset{Date: date, Brownouts: []Window{window(t, "mon 10:00-10:10")}}
	share := &Sunset{Date: date, ShareFrom: date.AddDate(0, 0, -10)}
	const first, last = "user-132", "user-18" // places 0.0044 and 0.9905 among all
	for _, tt := range []struct {
		name string
		s    *Sunset
		at   time.Time
		user string // "" while unknown
		want truth
	}{
		{"before the date", plain, date.Add(-1), first, never},
		{"on the date", plain, date, last, certainly},
		{"on the date, whoever it is", plain, date, "", certainly},
		{"years later", brown, date.AddDate(9, 0, 0), last, certainly},
		{"in a brown-out", brown, monday, last, certainly},
		{"in a brown-out, whoever it is", brown, monday, "", certainly},
		{"after a brown-out", brown, monday.Add(5 * time.Minute), first, never},
		{"before the share begins", share, share.ShareFrom, first, never},
		{"before the share begins, whoever it is", share, share.ShareFrom, "", never},
		{"an hour into the share", share, share.ShareFrom.Add(time.Hour), first, never},
		{"three hours into the share", share, share.ShareFrom.Add(3 * time.Hour), first, certainly},
		{"the last are still let in", share, date.Add(-3 * time.Hour), last, never},
		{"but not to the end", share, date.Add(-2 * time.Hour), last, certainly},
		{"in the share, whoever it is", share, share.ShareFrom.Add(time.Hour), "", possibly},
	} {
		f := Facts{Transport: &Transport{}, Time: tt.at, User: tt.user}
		if tt.user == "" {
			f.Open = afterLogin
		}
		if got := (&Rule{Sunset: tt.s}).match(&f); got != tt.want {
			t.Errorf("%s: got %d, want %d", tt.name, got, tt.want)
		}
		f.Open |= TimeFact // at any time from now on
		want := possibly
		if !tt.at.Before(date) {
			want = certainly
		}
		if got := (&Rule{Sunset: tt.s}).match(&f); got != want {
			t.Errorf("%s, or later: got %d, want %d", tt.name, got, want)
		}
	}
}

// A user who is refused stays refused: the share only grows.
func TestShareGrows(t *testing.T) {
	t.Parallel()
	date := time.Date(2027, 3, 1, 0, 0, 0, 0, time.UTC)
	s := &Sunset{Date: date, ShareFrom: date.AddDate(0, 0, -100)}
	const users = 2000
	refused := map[int]bool{}
	for d := range 101 {
		at, n := s.ShareFrom.AddDate(0, 0, d), 0
		for u := range users {
			f := Facts{Transport: &Transport{}, Time: at, User: fmt.Sprintf("user%d", u)}
			switch hit := s.due(&f) == certainly; {
			case hit:
				refused[u] = true
				n++
			case refused[u]:
				t.Fatalf("user%d was refused and is let in again on day %d", u, d)
			}
		}
		if want := float64(users) * float64(d) / 100; math.Abs(float64(n)-want) > users*0.04 {
			t.Errorf("day %d: %d of %d refused, want about %.0f", d, n, users, want)
		}
	}
}

// The places are what they always were: another hash would refuse other users
// in the middle of somebody's plan.
func TestCohortIsStable(t *testing.T) {
	t.Parallel()
	for user, want := range map[string]string{"alice": "0.171265", "bob": "0.506687", "": "0.889416"} {
		if got := fmt.Sprintf("%.6f", Cohort(user)); got != want {
			t.Errorf("%q has place %s, want %s", user, got, want)
		}
	}
}
