package snapshot

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// file is a snapshot of maildrops.
func file(t *testing.T, drops ...*Maildrop) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Begin(&b, "pop.test:995"); err != nil {
		t.Fatal(err)
	}
	for _, m := range drops {
		m.count()
		if err := Write(&b, m); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func openBytes(b []byte) (*File, error) {
	return open("test", bytes.NewReader(b), int64(len(b)))
}

// Everything that was written is read, whatever octets an id has, the last
// record of a user counts, and half a line does not.
func TestFile(t *testing.T) {
	t.Parallel()
	a := &Maildrop{User: "alice", Messages: []Message{{1, "a\xff\n", 3}, {2, "ü <\u2028", 4}, {3, "", 5}, {4, "a\xff\n", 0}}}
	b := &Maildrop{User: "bob", Failure: &Failure{"login", "AUTH", "no"}}
	again := &Maildrop{User: "bob", Messages: []Message{{1, strings.Repeat("x", 100_000), 1}}}
	text := file(t, a, b)
	f, err := openBytes(text)
	if err != nil || f.Complete("bob") || !f.Complete("alice") || f.Complete("eve") || f.Header.Server != "pop.test:995" {
		t.Fatal(f, err)
	}
	whole := int64(len(text))
	text = append(text, `{"user":"al`...)
	if f, err = openBytes(text); err != nil || f.Size() != whole {
		t.Fatal(f.Size(), whole, err)
	}
	f, err = openBytes(file(t, a, b, again))
	if err != nil || !f.Complete("bob") {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"alice", "bob"}, f.Users()); d != "" {
		t.Error(d)
	}
	for user, want := range map[string]*Maildrop{"alice": a, "bob": again, "eve": nil} {
		got, err := f.Maildrop(user)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
	}
}

func TestNoSnapshot(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                      "test: no snapshot: it has no complete line",
		`{"format":`:            "test: no snapshot: it has no complete line",
		"hello\n":               "test:1: not a snapshot of kpopctl uidl",
		`{"format":"x"}` + "\n": "test:1: not a snapshot of kpopctl uidl",
		`{"format":"kpopctl uidl snapshot","version":2}` + "\n":          "test:1: version 2 of the format is not known, only 1",
		`{"format":"kpopctl uidl snapshot","version":1}` + "\n" + "{}\n": "test:2: a maildrop without a user",
		`{"format":"kpopctl uidl snapshot","version":1}` + "\n" + "{\n":  "test:2: unexpected end of JSON input",
	} {
		if _, err := openBytes([]byte(text)); err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
	f, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := Open(f); err == nil {
		t.Error("a directory is a snapshot")
	}
}

func TestReadUsers(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "users")
	for _, tt := range []struct {
		name, text string
		master     bool
		want       string // logins and passwords, or the error
	}{
		{"passwords", "# all\nalice:pw:1 \r\n\nbob:x\n", false, "alice=pw:1 |bob=x|"},
		{"logins", "alice\nbob:x\n carol \n", true, "alice=|bob=|carol=|"},
		{"no password", "alice:pw\ns3cret\n", false, "users:2: no password; write login:password"},
		{"empty password", "alice:\n", false, "users:1: no password; write login:password"},
		{"no login", ":s3cret\n", false, "users:1: does not begin with a login"},
		{"control in a login", "al\x01ice:s3cret\n", false, "users:1: does not begin with a login"},
		{"control in a password", "alice:s3\rcret\n", false, "users:1: the password holds a control character that POP3 does not carry"},
		{"twice", "alice:a\nalice:s3cret\n", false, `users:2: "alice" stands in line 1 already`},
		{"nobody", "# nobody\n", false, "users: no users"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			users, err := ReadUsers(path, tt.master)
			var got strings.Builder
			for _, u := range users {
				got.WriteString(u.User + "=" + string(u.Password) + "|")
			}
			if err != nil {
				got.WriteString(err.Error())
			}
			if !strings.HasSuffix(got.String(), tt.want) || err == nil && got.String() != tt.want {
				t.Errorf("got %q, want %q", got.String(), tt.want)
			}
			if strings.Contains(got.String(), "s3cret") {
				t.Error("it shows the password")
			}
		})
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadUsers(path, true); err == nil || !strings.HasSuffix(err.Error(), "mode 0640 lets others use it: chmod 0600 it") {
		t.Error(err)
	}
	if _, err := ReadUsers(filepath.Dir(path), true); err == nil {
		t.Error("a directory is a users file")
	}
}

func TestReadMaster(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "master")
	for text, want := range map[string]string{"root:pw\n": "", "root:pw\nadmin:pw\n": "2 users; a master is one"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		m, err := ReadMaster(path)
		if want == "" && (err != nil || m.User != "root") || want != "" && (err == nil || !strings.HasSuffix(err.Error(), want)) {
			t.Errorf("%q: %v, %v", text, m, err)
		}
	}
}

// FuzzOpen: what is no snapshot is refused, and what is one can be read; what is
// written of it is read as it was.
func FuzzOpen(f *testing.F) {
	f.Add([]byte(`{"format":"kpopctl uidl snapshot","version":1}` + "\n" + `{"user":"a","messages":[{"n":1,"uid":"x","size":3}]}` + "\n"))
	f.Add([]byte(`{"format":"kpopctl uidl snapshot","version":1}` + "\n" + `{"user":"a","failure":{"step":"login"}}` + "\n" + `{"USER":"a","messages":[{"n":1,"uid_base64":"/w==","size":3}]}` + "\n{"))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := openBytes(text)
		if err != nil {
			return
		}
		if s.Size() > int64(len(text)) || text[s.Size()-1] != '\n' {
			t.Fatalf("%d octets are complete", s.Size())
		}
		for _, user := range s.Users() {
			m, err := s.Maildrop(user)
			if err != nil {
				continue // messages that are none are found when they are read
			}
			again, err := openBytes(file(t, m))
			if err != nil {
				t.Fatal(err)
			}
			got, err := again.Maildrop(m.User)
			if err != nil {
				t.Fatal(err)
			}
			if len(m.Messages) == 0 {
				m.Messages = nil
			}
			if d := cmp.Diff(m, got); d != "" {
				t.Error(d)
			}
		}
	})
}
