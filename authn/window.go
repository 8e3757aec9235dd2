package authn

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Window is a part of the week in the server's local time: days, and a span of
// the clock on each of them. Its zero value is never.
type Window struct {
	days     uint8 // bit n is time.Weekday(n)
	from, to int   // minutes of the day; a span with to <= from goes on into the next day
}

const (
	day      = 24 * 60 // minutes
	allDays  = 1<<7 - 1
	weekdays = 7
)

var dayNames = [weekdays]string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// ParseWindow reads days, hours, or both: "mon-fri", "22:00-06:00",
// "mon,wed 10:00-10:10". Without days every day is meant, without hours the
// whole day. A span over midnight belongs to the day that it begins on.
func ParseWindow(s string) (Window, error) {
	w := Window{days: allDays, from: 0, to: day}
	fields := strings.Fields(s)
	if len(fields) == 0 || len(fields) > 2 {
		return Window{}, fmt.Errorf("%q is no window; write days, hours or both: mon-fri 08:00-18:00", s)
	}
	var err error
	if hours := fields[len(fields)-1]; strings.Contains(hours, ":") {
		if w.from, w.to, err = parseHours(hours); err != nil {
			return Window{}, err
		}
		fields = fields[:len(fields)-1]
	}
	switch len(fields) {
	case 0:
		return w, nil
	case 1:
		if w.days, err = parseDays(fields[0]); err != nil {
			return Window{}, err
		}
		return w, nil
	}
	return Window{}, fmt.Errorf("%q is no window; write the hours as 08:00-18:00", s)
}

func parseHours(s string) (from, to int, err error) {
	a, b, ok := strings.Cut(s, "-")
	if from, err = parseClock(a); err == nil && ok {
		to, err = parseClock(b)
	}
	switch {
	case err != nil:
		return 0, 0, err
	case !ok || from == to || from == day:
		return 0, 0, fmt.Errorf("%q is no span of hours; write 08:00-18:00", s)
	}
	return from, to, nil
}

func parseClock(s string) (int, error) {
	var h, m int
	if n, err := fmt.Sscanf(s, "%02d:%02d", &h, &m); n != 2 || err != nil ||
		fmt.Sprintf("%02d:%02d", h, m) != s || h*60+m > day || m > 59 {
		return 0, fmt.Errorf("%q is no time of day; write 08:00", s)
	}
	return h*60 + m, nil
}

func parseDays(s string) (days uint8, err error) {
	for part := range strings.SplitSeq(s, ",") {
		a, b, span := strings.Cut(part, "-")
		if !span {
			b = a
		}
		from, to := dayNamed(a), dayNamed(b)
		if from < 0 || to < 0 {
			return 0, fmt.Errorf("%q is no day; write mon, tue, wed, thu, fri, sat, sun, or mon-fri", part)
		}
		for d := from; ; d = (d + 1) % weekdays {
			days |= 1 << d
			if d == to {
				break
			}
		}
	}
	return days, nil
}

func dayNamed(s string) int { return slices.Index(dayNames[:], strings.ToLower(s)) }

// Contains reports whether t is in the window, by the clock of t's location.
func (w Window) Contains(t time.Time) bool {
	minute, today := t.Hour()*60+t.Minute(), int(t.Weekday())
	if w.to > w.from {
		return w.has(today) && w.from <= minute && minute < w.to
	}
	return w.has(today) && w.from <= minute || w.has(today+weekdays-1) && minute < w.to
}

func (w Window) has(weekday int) bool { return w.days&(1<<(weekday%weekdays)) != 0 }

// String is w in the form that [ParseWindow] reads.
func (w Window) String() string {
	var parts []string
	if w.days != allDays {
		var days []string
		for d, name := range dayNames {
			if w.has(d) {
				days = append(days, name)
			}
		}
		parts = append(parts, strings.Join(days, ","))
	}
	if w.from != 0 || w.to != day || w.days == allDays {
		parts = append(parts, fmt.Sprintf("%02d:%02d-%02d:%02d", w.from/60, w.from%60, w.to/60, w.to%60))
	}
	return strings.Join(parts, " ")
}

// MarshalText implements [encoding.TextMarshaler].
func (w Window) MarshalText() ([]byte, error) { return []byte(w.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (w *Window) UnmarshalText(text []byte) (err error) {
	*w, err = ParseWindow(string(text))
	return err
}
