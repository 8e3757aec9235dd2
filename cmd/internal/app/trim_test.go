package app

import "testing"

func TestWorthTrim(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name                  string
		trimmed, before, open int
		want                  bool
	}{
		{"nothing happens", 0, 0, 0, false},
		{"a small site", 0, 200, 200, false},
		{"many came, more are coming", 0, 1000, 2000, false},
		{"many came", 0, 5000, 5000, true},
		{"some more came", 5000, 5500, 5500, false},
		{"a quarter more came", 5000, 6300, 6300, true},
		{"many left", 5000, 1000, 1000, true},
		{"all left", 5000, 0, 0, true},
		{"many leave", 5000, 3000, 1000, false},
		{"a storm of short sessions", 0, 32, 31, false},
	} {
		if got := worthTrim(tt.trimmed, tt.before, tt.open); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}
