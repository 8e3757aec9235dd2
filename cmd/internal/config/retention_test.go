package config

import "testing"

// EXPIRE announces the least that any message is kept, and nothing by default.
func TestRule090ExpireIsTheLeast(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		m    Maildrops
		want string
	}{
		{"nothing by default", Default().Maildrops, ""},
		{"a trash is no retention", Maildrops{Deleted: DeletedTrash, TrashDays: 14}, ""},
		{"after arrival", Maildrops{ExpireArrived: 90}, "90"},
		{"after retrieval, which is never before arrival", Maildrops{ExpireRetrieved: 30}, "30"},
		{"the shorter of both", Maildrops{ExpireArrived: 90, ExpireRetrieved: 30}, "30"},
		{"at the end of a session", Maildrops{ExpireAtQuit: true}, "0"},
		{"at the end of a session or after arrival", Maildrops{ExpireAtQuit: true, ExpireArrived: 90}, "0"},
		{"a promise", Maildrops{ExpireNever: true}, "NEVER"},
	} {
		if got := tt.m.Expire(); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}
