package authn

import (
	"testing"
	"time"
)

func TestParseWindow(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ in, want string }{
		{"mon", "mon"},
		{"MON-Wed", "mon,tue,wed"},
		{"fri-mon", "sun,mon,fri,sat"},
		{"sat,sun 00:00-24:00", "sun,sat"},
		{"mon-sun 08:00-18:00", "08:00-18:00"},
		{"22:00-06:00", "22:00-06:00"},
		{"mon 10:00-10:10", "mon 10:00-10:10"},
		{"sun-sat", "00:00-24:00"},
		{"23:00-00:00", "23:00-00:00"},
	} {
		w, err := ParseWindow(tt.in)
		if err != nil || w.String() != tt.want {
			t.Errorf("%q: got %q, %v, want %q", tt.in, w, err, tt.want)
		}
	}
	for _, in := range []string{
		"", "monday", "mon-", "mon,,tue", "8:00-18:00", "08:00", "08:00-08:00", "24:00-08:00", "08:60-09:00", "08:00-24:01",
		"08:00-18:00 mon", "mon 08:00-09:00 x", "mon tue", "-1:00-02:00", "08:00-18:00-19:00", "mon 25:00-26:00", "00:00-00:00",
	} {
		if w, err := ParseWindow(in); err == nil {
			t.Errorf("%q is taken for %q", in, w)
		}
	}
}

func TestWindowContains(t *testing.T) {
	t.Parallel()
	at := func(days int, clock string) time.Time {
		c, err := time.Parse("15:04:05", clock)
		if err != nil {
			t.Fatal(err)
		}
		return time.Date(2027, 1, 4+days, c.Hour(), c.Minute(), c.Second(), 0, time.UTC) // a Monday and the days after it
	}
	for _, tt := range []struct {
		window string
		t      time.Time
		want   bool
	}{
		{"mon 10:00-10:10", at(0, "09:59:59"), false},
		{"mon 10:00-10:10", at(0, "10:00:00"), true},
		{"mon 10:00-10:10", at(0, "10:09:59"), true},
		{"mon 10:00-10:10", at(0, "10:10:00"), false},
		{"mon 10:00-10:10", at(1, "10:05:00"), false},
		{"mon", at(0, "00:00:00"), true},
		{"mon", at(0, "23:59:59"), true},
		{"mon", at(1, "00:00:00"), false},
		{"mon 22:00-06:00", at(0, "05:00:00"), false},
		{"mon 22:00-06:00", at(0, "22:00:00"), true},
		{"mon 22:00-06:00", at(1, "05:59:59"), true},
		{"mon 22:00-06:00", at(1, "06:00:00"), false},
		{"mon 22:00-06:00", at(1, "22:00:00"), false},
		{"sat 22:00-06:00", at(6, "01:00:00"), true}, // a Sunday, day 0 of the week
		{"sun 22:00-06:00", at(7, "01:00:00"), true},
		{"sat-mon", at(6, "12:00:00"), true},
		{"23:00-00:00", at(3, "23:30:00"), true},
		{"23:00-00:00", at(3, "00:00:00"), false},
	} {
		if got := window(t, tt.window).Contains(tt.t); got != tt.want {
			t.Errorf("%s contains %s: %v", tt.window, tt.t.Format("Mon 15:04:05"), got)
		}
	}
	if (Window{}).Contains(monday) {
		t.Error("no window contains something")
	}
}

// FuzzParseWindow: what is read is written so that it is read the same, and
// contains the same minutes of a week.
func FuzzParseWindow(f *testing.F) {
	for _, s := range []string{"mon", "mon-fri 08:00-18:00", "22:00-06:00", "sat,sun 00:00-24:00", "sun-sat", "fri-mon 23:59-00:01", "mon 24:00-01:00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		w, err := ParseWindow(s)
		if err != nil {
			if w != (Window{}) {
				t.Fatalf("%q: %v with %q", s, err, w)
			}
			return
		}
		again, err := ParseWindow(w.String())
		if err != nil {
			t.Fatalf("%q is written as %q: %v", s, w, err)
		}
		some := false
		for minute := range weekdays * day {
			at := monday.Add(time.Duration(minute) * time.Minute)
			if w.Contains(at) != again.Contains(at) {
				t.Fatalf("%q is written as %q, which differs at %s", s, w, at)
			}
			some = some || w.Contains(at)
		}
		if !some {
			t.Fatalf("%q is never", s)
		}
	})
}
