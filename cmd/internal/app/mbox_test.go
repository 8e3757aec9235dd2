package app

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// spool has the files that base names, and alice's mail in a spool file.
func spool(t *testing.T, text string) (config, file string) {
	t.Helper()
	path := folder(t, strings.Replace(base, "{root: mail}", "{type: mbox, root: spool, state: state}", 1))
	dir := filepath.Dir(path)
	for _, name := range []string{"spool", "state"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	file = filepath.Join(dir, "spool", "alice")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path, file
}

const (
	firstMail  = "From a@example.test Tue Nov 14 22:13:20 2023\nSubject: one\nStatus: RO\n\n.\none\n\n"
	secondMail = "From b@example.test Tue Nov 14 22:13:21 2023\nSubject: two\n\ntwo\n\n"
	thirdMail  = "From c@example.test Tue Nov 14 22:13:22 2023\nSubject: three\n\nthree\n\n"
)

// TestMboxSession: a login at a listener, beside another one and a delivery.
func TestMboxSession(t *testing.T) {
	t.Parallel()
	path, file := spool(t, firstMail+secondMail)
	s, _ := serve(t, path)
	c := dial(t, s)
	if err := c.UserPass(t.Context(), "alice", password); err != nil {
		t.Fatal(err)
	}
	before, err := c.UIDL(t.Context())
	if err != nil || len(before) != 2 {
		t.Fatalf("%v, %v", before, err)
	}
	const wire = "Subject: one\r\n\r\n.\r\none\r\n"
	if size, err := c.Size(t.Context(), 1); size != int64(len(wire)) || err != nil {
		t.Errorf("size %d, %v", size, err)
	}
	body, err := c.Retr(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(body); strings.ReplaceAll(string(text), "\r\n", "\n") != strings.ReplaceAll(wire, "\r\n", "\n") || err != nil {
		t.Errorf("got %q, %v", text, err)
	}
	if err := dial(t, s).UserPass(t.Context(), "alice", password); err == nil || !strings.Contains(err.Error(), "IN-USE") {
		t.Errorf("a second session: %v", err)
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(thirdMail); err != nil {
		t.Fatal(err)
	}
	if err := c.Dele(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if err := c.Quit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(file); string(text) != secondMail+thirdMail || err != nil {
		t.Errorf("the file is %q, %v", text, err)
	}

	// a reload that changes the store has the next session find the same mail
	other, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	other = []byte(strings.Replace(string(other), "state: state}", "state: state, locks: [fcntl]}", 1))
	if err := os.WriteFile(path, other, 0o600); err != nil {
		t.Fatal(err)
	}
	old := s.current.parts.store
	if err := s.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	kept := s.current.parts.store
	if err := s.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if kept == old || s.current.parts.store != kept {
		t.Error("the store is not that of the configuration, or another than need be")
	}
	c = dial(t, s)
	if err := c.UserPass(t.Context(), "alice", password); err != nil {
		t.Fatal(err)
	}
	after, err := c.UIDL(t.Context())
	if err != nil || len(after) != 2 || after[0].UID != before[1].UID {
		t.Errorf("unique-ids %v, %v, were %v", after, err, before)
	}
	if err := c.Quit(t.Context()); err != nil {
		t.Error(err)
	}
}

// What is wrong with the directories is told at their keys, and a check makes no
// file in the state directory: it may be run by another user.
func TestCheckMbox(t *testing.T) {
	t.Parallel()
	path, _ := spool(t, "")
	dir := filepath.Dir(path)
	r, err := Check(path)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	r.Explain(&b)
	if want := "maildrops: spool files below " + dir + "/spool, locked by fcntl, then dotlock; state in " + dir + "/state\n"; !strings.Contains(b.String(), want) {
		t.Errorf("%q is not in\n%s", want, b.String())
	}
	if made, err := os.ReadDir(filepath.Join(dir, "state")); len(made) > 0 || err != nil {
		t.Errorf("made %v, %v", made, err)
	}
	if err := os.Chmod(filepath.Join(dir, "state"), 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := Check(path); err == nil || !strings.Contains(err.Error(), "maildrops.state: ") || !strings.Contains(err.Error(), "chmod it to 700") {
		t.Errorf("a state directory of all: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "state")); err != nil {
		t.Fatal(err)
	}
	if _, err := Check(path); err == nil || !strings.Contains(err.Error(), "maildrops.state: ") {
		t.Errorf("no state directory: %v", err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "spool")); err != nil {
		t.Fatal(err)
	}
	if _, err := Check(path); err == nil || !strings.Contains(err.Error(), "maildrops.root: ") {
		t.Errorf("no spool: %v", err)
	}
}
