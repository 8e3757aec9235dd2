package snapshot

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// drop makes a maildrop of words like "a:10": unique-id and size.
func drop(words string) *Maildrop {
	m := &Maildrop{User: "alice"}
	for i, w := range strings.Fields(words) {
		uid, size, _ := strings.Cut(w, ":")
		x := Message{Number: i + 1, UID: uid}
		fmt.Sscan(size, &x.Size)
		m.Messages = append(m.Messages, x)
	}
	m.count()
	return m
}

func TestCompare(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, before, after string
		want                Counts
		changes             string
	}{
		{"the same", "a:1 b:2", "a:1 b:2", Counts{Same: 2}, ""},
		{"nothing", "", "", Counts{}, ""},
		{"deleted in the middle", "a:1 b:2 c:3", "a:1 c:3", Counts{Same: 2, Missing: 1}, "missing 2-0"},
		{"delivered", "a:1", "a:1 b:2", Counts{Same: 1, New: 1, Fetch: 1, FetchOctets: 2}, "new 0-2"},
		{"all renamed", "a:1 b:2", "x:1 y:2", Counts{Renamed: 2, Again: 2, AgainOctets: 3, Fetch: 2, FetchOctets: 3}, "renamed 1-1 renamed 2-2"},
		{"renamed and in another order", "a:1 b:2", "y:2 x:1", Counts{Renamed: 2, Again: 2, AgainOctets: 3, Fetch: 2, FetchOctets: 3}, "renamed 1-2 renamed 2-1"},
		{"renamed with other sizes", "a:1 b:2", "x:10 y:20", Counts{Renamed: 2, Resized: 2, Again: 2, AgainOctets: 30, Fetch: 2, FetchOctets: 30}, "renamed 1-1 resized 1-1 renamed 2-2 resized 2-2"},
		{"other sizes and another number of them", "a:1 b:2", "x:10", Counts{Missing: 2, New: 1, Fetch: 1, FetchOctets: 10}, "missing 1-0 new 0-1 missing 2-0"},
		{"renamed and delivered", "a:1 b:2", "x:1 y:2 z:3", Counts{Renamed: 2, New: 1, Again: 2, AgainOctets: 3, Fetch: 3, FetchOctets: 6}, "renamed 1-1 renamed 2-2 new 0-3"},
		{"resized", "a:1 b:2", "a:1 b:3", Counts{Same: 2, Resized: 1}, "resized 2-2"},
		{"first moved to the end", "a:1 b:2 c:3 d:4", "b:2 c:3 d:4 a:1", Counts{Same: 3, Moved: 1}, "moved 1-4"},
		{"turned round", "a:1 b:2 c:3", "c:3 b:2 a:1", Counts{Same: 1, Moved: 2}, "moved 1-3 moved 2-2"},
		{"duplicates on both sides", "a:1 a:1", "a:1 a:1", Counts{Same: 2, DuplicatesBefore: 1, DuplicatesAfter: 1}, ""},
		{"a duplicate that the client knows", "a:1", "a:1 a:1", Counts{Same: 1, New: 1, DuplicatesAfter: 1}, "new 0-2"},
		{"a duplicate replaced", "a:1 a:2", "a:1 a-2:2", Counts{Same: 1, Renamed: 1, DuplicatesBefore: 1, Again: 1, AgainOctets: 2, Fetch: 1, FetchOctets: 2}, "renamed 2-2"},
		{"illegal on one side", "\xff:1", "a:1", Counts{Renamed: 1, IllegalBefore: 1, Again: 1, AgainOctets: 1, Fetch: 1, FetchOctets: 1}, "renamed 1-1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.want.Before, tt.want.After = len(strings.Fields(tt.before)), len(strings.Fields(tt.after))
			got := Compare("alice", drop(tt.before), drop(tt.after))
			if d := cmp.Diff(tt.want, got.Counts); d != "" {
				t.Error(d)
			}
			var changes []string
			for _, c := range got.Changes {
				numbers := [2]int{}
				if c.Before != nil {
					numbers[0] = c.Before.Number
				}
				if c.After != nil {
					numbers[1] = c.After.Number
				}
				changes = append(changes, fmt.Sprintf("%s %d-%d", c.Kind, numbers[0], numbers[1]))
			}
			if d := cmp.Diff(tt.changes, strings.Join(changes, " ")); d != "" {
				t.Error(d)
			}
			if got.Equal() != (tt.changes == "") {
				t.Error("equal:", got.Equal())
			}
		})
	}
}

// A maildrop without a listing is different from everything, itself too.
func TestCompareFailures(t *testing.T) {
	t.Parallel()
	failed := &Maildrop{User: "alice", Failure: &Failure{"login", "IN-USE", "later"}}
	for _, tt := range []struct {
		before, after *Maildrop
		want          [2]string
	}{
		{nil, drop("a:1"), [2]string{"not in the snapshot", ""}},
		{drop("a:1"), nil, [2]string{"", "not in the snapshot"}},
		{failed, failed, [2]string{"login: [IN-USE] later", "login: [IN-USE] later"}},
	} {
		d := Compare("alice", tt.before, tt.after)
		if got := [2]string{d.FailureBefore, d.FailureAfter}; got != tt.want || d.Equal() || d.Counts != (Counts{}) {
			t.Errorf("%v: %+v", got, d)
		}
	}
}

// FuzzCompare: every message is counted once on each side, as many changes are
// told as counted, and a maildrop is what it was.
func FuzzCompare(f *testing.F) {
	f.Add("abcd", "bcda", byte(0))
	f.Add("aab", "ba", byte(1))
	f.Add("abc", "xyz", byte(3))
	f.Fuzz(func(t *testing.T, before, after string, sizes byte) {
		letters := func(s string, salt byte) *Maildrop {
			m := &Maildrop{}
			for i, c := range []byte(s) {
				m.Messages = append(m.Messages, Message{i + 1, string(c), int64(c^salt) % 7})
			}
			m.count()
			return m
		}
		a, b := letters(before, 0), letters(after, sizes)
		d := Compare("alice", a, b)
		paired := d.Same + d.Moved + d.Renamed
		if paired+d.Missing != d.Before || paired+d.New != d.After || d.Again > d.Renamed || d.Fetch > d.Renamed+d.New || d.Again > d.Fetch {
			t.Errorf("%+v", d.Counts)
		}
		if len(d.Changes) != d.Moved+d.Renamed+d.Missing+d.New+d.Resized {
			t.Errorf("%d changes, %+v", len(d.Changes), d.Counts)
		}
		if d := Compare("alice", a, a); !d.Equal() || d.Again+d.Fetch != 0 || len(d.Changes) > 0 {
			t.Errorf("differs from itself: %+v", d)
		}
		if d.Equal() != cmp.Equal(a.Messages, b.Messages) {
			t.Errorf("equal: %v", d.Equal())
		}
	})
}

func BenchmarkCompare(b *testing.B) {
	drop := func(format string) *Maildrop {
		m := &Maildrop{}
		for i := range 100_000 {
			m.Messages = append(m.Messages, Message{i + 1, fmt.Sprintf(format, i), int64(i % 5000)})
		}
		return m
	}
	before, same, renamed := drop("%d.M1P1.host"), drop("%d.M1P1.host"), drop("%08x5f3a1c22")
	for name, after := range map[string]*Maildrop{"same": same, "renamed": renamed} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Compare("alice", before, after)
			}
		})
	}
}
