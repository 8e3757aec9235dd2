package main

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/kpopd/kpopd/cmd/internal/config"
	"github.com/kpopd/kpopd/krb5test"
)

var examples = filepath.Join("..", "..", "configs")

// Every file in configs is loaded or read here, so that none rots.
func TestConfigs(t *testing.T) {
	t.Parallel()
	entries, err := os.ReadDir(examples)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		path := filepath.Join(examples, e.Name())
		switch filepath.Ext(path) {
		case ".yaml":
			if _, err := config.Load(path); err != nil {
				t.Error(err)
			}
		case ".service":
			checkUnit(t, path)
		case ".py": // authn/checkpassword runs it
			if program, err := os.ReadFile(path); err != nil || !bytes.HasPrefix(program, []byte("#!/usr/bin/python3 ")) {
				t.Errorf("%s is no program: %v", path, err)
			}
		case ".md": // package peers does what it says
			if text, err := os.ReadFile(path); err != nil || !bytes.Contains(text, []byte("\n## From Dovecot\n")) {
				t.Errorf("%s is no guide: %v", path, err)
			}
		default:
			t.Errorf("nothing tests %s", path)
		}
	}
}

var (
	section = regexp.MustCompile(`^\[(Unit|Service|Install)\]$`)
	setting = regexp.MustCompile(`^[A-Z][A-Za-z]+=(\S.*)?$`)
)

// checkUnit wants sections, settings and comments, and commands that are ours.
func checkUnit(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n := 0
	for s := bufio.NewScanner(f); s.Scan(); {
		n++
		line := s.Text()
		switch {
		case line == "", strings.HasPrefix(line, "#"), section.MatchString(line):
		case !setting.MatchString(line):
			t.Errorf("%s:%d: %q is no setting", path, n, line)
		case strings.HasPrefix(line, "ExecStart"):
			_, command, _ := strings.Cut(line, "=/usr/bin/kpopd ")
			args := strings.Fields(command)
			if c, _, err := newRoot().Find(args); err != nil || len(args) == 0 || c.Name() != args[0] {
				t.Errorf("%s:%d: %q is no command of ours", path, n, line)
			}
		}
	}
}

// systemd's own opinion, where it is installed.
func TestUnitVerifies(t *testing.T) {
	t.Parallel()
	tool := krb5test.Need(t, "systemd-analyze")[0]
	for _, unit := range []string{"kpopd.service", "kpopd-auth.service"} {
		t.Run(unit, func(t *testing.T) { verifyUnit(t, tool, unit) })
	}
}

func verifyUnit(t *testing.T, tool, unit string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), tool, "verify", "--man=no", filepath.Join(examples, unit)).CombinedOutput()
	verified := err == nil
	for line := range strings.Lines(string(out)) {
		switch {
		case !strings.Contains(line, unit): // of other units
		case strings.Contains(line, "/usr/bin/kpopd is not executable"):
			verified = true // all but that it is not installed here
		default:
			t.Error(line)
		}
	}
	if !verified {
		t.Errorf("%v\n%s", err, out)
	}
}
