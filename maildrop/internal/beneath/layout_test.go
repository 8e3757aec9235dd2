package beneath

import "testing"

func TestLayouts(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ layout, user, want string }{
		{"{user}", "alice", "alice"},
		{"{user}/Maildir", "alice@example.org", "alice@example.org/Maildir"},
		{"{domain}/{local}", "alice@example.org", "example.org/alice"},
		{"{domain}/{local}", "a@b@c", "c/a@b"},
		{"{user:1}/{user:2}/{user}", "alice", "a/al/alice"},
		{"{user:9}", "al", "al"},
		{"v-{local}", "{user}@{domain}", "v-{user}"},
		{"{user}", "%u$HOME~", "%u$HOME~"},
		{"{domain}/{local}", "alice", ""},
		{"{domain}/{local}", "@example.org", ""},
		{"{domain}/{local}", "alice@", ""},
		{"{domain}/{local}", "alice@.org", ""},
		{"{domain}/{local}", "a/b@example.org", ""},
		{"{domain}/{local}", "alice@..", ""},
		{"{user}", "a..b", ""},
		{"{user}", "a\x7f", ""},
	} {
		l, err := ParseLayout(tt.layout)
		if err != nil {
			t.Fatal(err)
		}
		got, err := l.Expand(tt.user)
		if got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%s of %q is %q, %v, want %q", tt.layout, tt.user, got, err, tt.want)
		}
	}
	for _, layout := range []string{"", "{", "{user", "{home}", "{user:0}", "{user:x}", "{user:}", "../{user}", "/var/mail/{user}", "{user}/../.."} {
		if _, err := ParseLayout(layout); err == nil {
			t.Errorf("layout %q is taken", layout)
		}
	}
}
