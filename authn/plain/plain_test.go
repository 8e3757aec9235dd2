package plain

import "testing"

func TestSplit(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, in            string
		authzid, login, pwd string
		ok                  bool
	}{
		{"two NULs", "\x00a\x00p", "", "a", "p", true},
		{"with an authzid", "z\x00a\x00p", "z", "a", "p", true},
		{"spaces stay in the password", "\x00a\x00 p  q ", "", "a", " p  q ", true},
		{"no NUL", "a", "", "", "", false},
		{"one NUL", "a\x00p", "", "", "", false},
		{"three NULs", "\x00a\x00p\x00", "", "", "", false},
		{"nothing", "", "", "", "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			z, l, p, ok := split([]byte(tt.in))
			if z != tt.authzid || l != tt.login || string(p) != tt.pwd || ok != tt.ok {
				t.Errorf("split(%q) = %q, %q, %q, %v", tt.in, z, l, p, ok)
			}
		})
	}
}
