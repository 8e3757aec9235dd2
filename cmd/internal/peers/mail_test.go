package peers

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// message is one file of a Maildir that some program has got wrong before.
type message struct {
	name string
	text string // as stored
	rare bool   // holds octets that are no text: NUL, bare CR, nothing at all
}

var messages = []message{
	{"plain", "Subject: plain\n\nHello\n", false},
	{"dots", "Subject: dots\n\n.\n..\n...\n.dot\n. dot\n\n.\n", false},
	{"8-bit", "Subject: 8-bit\n\nGr\xfc\xdfe, \xc3\xa9t\xc3\xa9, \xff\xfe\x80\n", false},
	{"no final line end", "Subject: no final line end\n\nthe last line stops here", false},
	{"ends in a dot", "Subject: ends in a dot\n\n.", false},
	{"ends in empty lines", "Subject: ends in empty lines\n\nbody\n\n\n\n", false},
	{"mbox line", "Subject: mbox line\n\nFrom here to there\n>From there\n", false},
	{"header only", "Subject: header only\n\n", false},
	{"CRLF on disk", "Subject: CRLF on disk\r\n\r\none\r\n.two\r\n", false},
	{"control characters", "Subject: control characters\n\n\a\b\t\v\f\x1b[31m\x7f\n", false},
	{"longest legal line", "Subject: longest legal line\n\n" + strings.Repeat("x", 998) + "\n", false},
	{"line of 1021", "Subject: line of 1021\n\n" + strings.Repeat("a", 1021) + "\n", false},
	{"line of 8000", "Subject: line of 8000\n\n." + strings.Repeat("y", 7999) + "\nend\n", false},
	{"line of 300000", "Subject: line of 300000\n\n" + strings.Repeat("z", 300_000) + "\nend\n", false},
	{"many lines", "Subject: many lines\n\n" + strings.Repeat(".0123456789 abcdefghijklmnopqrstuvwxyz\n", 5000), false},
	{"NUL", "Subject: NUL\n\na\x00b\n\x00\n", true},
	{"bare CR", "Subject: bare CR\n\na\rb\n\rc\n", true},
	{"nothing", "", true},
}

// carried are the messages that a client can carry: lines of at most maxLine
// octets, and the rare ones only by name.
func carried(maxLine int, rare ...string) []message {
	return slices.DeleteFunc(slices.Clone(messages), func(m message) bool {
		if m.rare {
			return !slices.Contains(rare, m.name)
		}
		for line := range strings.Lines(m.text) {
			if len(strings.TrimRight(line, "\r\n")) > maxLine {
				return true
			}
		}
		return false
	})
}

// wire is what a client has after RETR: CRLF line ends, a last one included.
func (m message) wire() string {
	text := strings.ReplaceAll(strings.ReplaceAll(m.text, "\r\n", "\n"), "\n", "\r\n")
	if !strings.HasSuffix(text, "\r\n") && text != "" {
		text += "\r\n"
	}
	return text
}

// unix is wire as a client stores it that turns CRLF into LF.
func (m message) unix() string { return strings.ReplaceAll(m.wire(), "\r\n", "\n") }

// deliver fills user's Maildir below root.
func deliver(t testing.TB, root, user string, ms []message) {
	t.Helper()
	for _, dir := range []string{"new", "cur", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, user, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for i, m := range ms {
		name := fmt.Sprintf("new/17%08d.M%dP1.host", i+1, i+1)
		if i%2 == 1 {
			name = strings.Replace(name, "new/", "cur/", 1) + ":2,S"
		}
		if err := os.WriteFile(filepath.Join(root, user, name), []byte(m.text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// wantMail runs a client that must end well and have exactly mail.
func wantMail(s *session, c client, mail []message) {
	s.t.Helper()
	_, got := c.fetch(s)
	if !s.well {
		s.t.Error("it does not end well")
	}
	if !strings.Contains(s.tap.conversation(), c.says) {
		s.t.Errorf("it does not say %s", c.says)
	}
	var b strings.Builder
	for _, m := range mail {
		b.WriteString(c.form(m))
	}
	want := b.String()
	if string(got) == want {
		return
	}
	at := 0
	for at < len(got) && at < len(want) && got[at] == want[at] {
		at++
	}
	near := func(s []byte) []byte { return s[max(0, at-60):min(len(s), at+60)] }
	s.t.Errorf("the mail differs from octet %d on (%d octets, want %d)\n got …%q…\nwant …%q…",
		at, len(got), len(want), near(got), near([]byte(want)))
}

// wantTaken is wantMail for a client that must leave nothing behind.
func wantTaken(s *session, c client, mail []message, from *server) {
	s.t.Helper()
	s.take = true
	wantMail(s, c, mail)
	if left := from.left(s.t, s.user); len(left) > 0 {
		s.t.Errorf("left on the server: %q", left)
	}
}
