package app

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/kpopd/kpopd/pop3/client"
)

// S-18: a log in JSON is JSON, whatever name or command a client sends.
func TestS18_LogStaysJSON(t *testing.T) {
	t.Parallel()
	path := folder(t, strings.Replace(base, "offers: [USER]", "offers: [PLAIN, USER]", 1)+
		"log: {format: json, level: debug}\nlimits: {failures: 100, attempts: 1000}\nthrottle: {off: true}\n")
	s, log := serve(t, path)
	names := []string{
		"al\xffice", "\xc0\xafroot", "\xed\xa0\x80", "\xf4\x90\x80\x80", "alice\xe2\x80", "a\u2028b\u2029", `a"}{"level":"ERROR`, "a\\\"b",
		"\x7f\x1b[31m", strings.Repeat("\xff", 200), "alice",
	}
	for _, name := range names {
		for _, line := range []string{
			"USER " + name, "PASS " + name, "AUTH PLAIN " + base64.StdEncoding.EncodeToString([]byte(name+"\x00"+name+"\x00"+name)),
			"AUTH " + name, name, "APOP " + name + " " + strings.Repeat("0", 32),
		} {
			c := dial(t, s) // a session ends after some of these
			var refused *client.ServerError
			if _, err := c.Cmd(t.Context(), line); err != nil && !errors.As(err, &refused) {
				t.Errorf("%.40q: %v", line, err)
			}
			if err := c.Quit(t.Context()); err != nil {
				t.Error(err)
			}
		}
	}
	s.Shutdown(nil)
	logins := 0
	for line := range bytes.Lines([]byte(log.String())) {
		var facts map[string]any
		if err := json.Unmarshal(line, &facts); err != nil || !utf8.Valid(line) {
			t.Errorf("%v: %q", err, line)
		}
		if facts["msg"] == "login" {
			logins++
		}
	}
	if logins < len(names) {
		t.Errorf("the log tells of %d logins", logins)
	}
}

// S-27: a password that is empty or begins with a NUL is shown to nothing that
// judges: here to a program that takes any.
func TestS27_EmptyPasswords(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := passwordFolder(t, fmt.Sprintf("type: checkpassword, program: /bin/sh, args: [-c, %q, sh, %q]", `: >"$1/asked"`, dir), "")
	amend(t, path, "offers: [USER]", "offers: [USER, PLAIN, LOGIN]", "maildrops:", "limits: {failures: 100, attempts: 1000}\nthrottle: {off: true}\nmaildrops:")
	s, _ := serve(t, path)
	encoded := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	ways := map[string]func(password string) []string{
		"USER":  func(p string) []string { return []string{"USER alice", "PASS " + p} },
		"PASS":  func(p string) []string { return []string{"USER alice", "PASS" + p} },
		"PLAIN": func(p string) []string { return []string{"AUTH PLAIN " + encoded("\x00alice\x00"+p)} },
		"LOGIN": func(p string) []string { return []string{"AUTH LOGIN " + encoded("alice"), encoded(p)} },
	}
	in := func(lines []string) (last error) {
		c := dial(t, s)
		defer c.Close()
		for _, line := range lines {
			if err := c.Send(t.Context(), line); err != nil {
				t.Fatal(err)
			}
		}
		for range lines {
			if _, last = c.Reply(t.Context()); last != nil && strings.HasPrefix(lines[0], "AUTH") {
				return last
			}
		}
		return last
	}
	for name, way := range ways {
		for _, password := range []string{"", "\x00", "\x00pw"} {
			if err := in(way(password)); err == nil {
				t.Errorf("%s: %q lets alice in", name, password)
			}
		}
	}
	asked := filepath.Join(dir, "asked")
	if _, err := os.Stat(asked); err == nil {
		t.Error("the program was shown a password")
	}
	if err := in(ways["USER"]("any")); err != nil {
		t.Errorf("the program takes not any password: %v", err)
	}
	if _, err := os.Stat(asked); err != nil {
		t.Error("this test is blind:", err)
	}
}
