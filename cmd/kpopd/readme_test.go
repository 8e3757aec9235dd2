package main

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kpopd/kpopd/cmd/internal/certs"
	"github.com/kpopd/kpopd/maildrop/maildir"
)

// blocks are the fenced blocks of README.md in a language.
func blocks(t *testing.T, language string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```").FindAllStringSubmatch(string(text), -1) {
		found = append(found, m[1])
	}
	return found
}

// TestReadmeCommands runs what the README says: kpopd is built, its smallest
// configuration is made and checked, and serves until it is told to stop.
func TestReadmeCommands(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	sh, yaml := blocks(t, "sh"), blocks(t, "yaml")
	if len(sh) != 2 || len(yaml) != 1 {
		t.Fatalf("README.md has %d blocks of sh and %d of yaml", len(sh), len(yaml))
	}
	if want := "go run ./cmd/kpopd demo\ngo test ./...\n"; sh[0] != want {
		t.Errorf("README.md begins with\n%swant\n%s", sh[0], want)
	}
	here := strings.NewReplacer("/usr/bin/kpopd", filepath.Join(dir, "kpopd"), "/etc/kpopd", dir, "/var/mail/kpopd", filepath.Join(dir, "mail"), `":110"`, `"127.0.0.1:0"`, `":995"`, `"127.0.0.1:0"`)
	write(t, filepath.Join(dir, "kpopd.yaml"), here.Replace(yaml[0]))
	ca, err := certs.NewAuthority("Readme")
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := ca.Issue("localhost")
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "mail.crt"), string(cert))
	write(t, filepath.Join(dir, "mail.key"), string(key))
	if err := os.Mkdir(filepath.Join(dir, "mail"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := maildir.Make(filepath.Join(dir, "mail", "alice")); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(here.Replace(sh[1])) {
		args := strings.Fields(line)
		if args[0] == "kpopd" {
			args[0] = filepath.Join(dir, "kpopd") // what the first line has built
		}
		cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
		cmd.Dir = filepath.Join("..", "..")
		if args[1] == "serve" {
			serveUntilReady(t, cmd)
			continue
		}
		cmd.Stdin = strings.NewReader("a password\n")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", line, err, out)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// serveUntilReady waits for both listeners and ends the server by SIGTERM.
func serveUntilReady(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stuck := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	defer stuck.Stop()
	listening := 0
	var said strings.Builder
	for s := bufio.NewScanner(stderr); s.Scan(); {
		said.WriteString(s.Text() + "\n")
		if strings.Contains(s.Text(), "msg=listening") {
			if listening++; listening == 2 {
				cmd.Process.Signal(syscall.SIGTERM)
			}
		}
	}
	if err := cmd.Wait(); err != nil || listening != 2 {
		t.Errorf("serve: %d listeners, %v\n%s", listening, err, said.String())
	}
}

// TestReadmeWire: the conversations that the README shows are those of the
// demonstration, in their order, but for numbers.
func TestReadmeWire(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), "kpopd", "demo", "--exit").Output()
	if err != nil {
		t.Fatal(err)
	}
	digits := regexp.MustCompile(`\b[0-9a-f]{2}\b|[0-9]+`) // octets in hex, and numbers
	plain := func(s string) string { return digits.ReplaceAllString(s, "0") }
	var walk []string
	for line := range strings.Lines(string(out)) {
		walk = append(walk, plain(strings.TrimSpace(line)))
	}
	dialogues := blocks(t, "wire")
	if len(dialogues) != 2 {
		t.Fatalf("README.md shows %d conversations", len(dialogues))
	}
	for _, d := range dialogues {
		rest := walk
		for line := range strings.Lines(d) {
			line = plain(strings.TrimSpace(line))
			i := slices.Index(rest, line)
			if i < 0 {
				t.Fatalf("the demonstration does not say %q there", line)
			}
			rest = rest[i+1:]
		}
	}
}
