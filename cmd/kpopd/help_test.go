package main

import (
	"bytes"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

var explained = regexp.MustCompile(`^ +(-[a-z], |    )--[-a-z0-9]+( [A-Za-z]+)? {3,}[A-Za-z]`)

// TestHelp: each command says what it does, names each of its flags with an
// explanation, and its examples are command lines that it takes.
func TestHelp(t *testing.T) {
	t.Parallel()
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		testHelp(t, c.CommandPath())
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit(newRoot())
}

func testHelp(t *testing.T, command string) {
	t.Helper()
	args := strings.Fields(command)[1:]
	var out, errs bytes.Buffer
	if status := run(append(args, "--help"), strings.NewReader(""), &out, &errs); status != 0 || errs.Len() > 0 {
		t.Errorf("%s --help: status %d, %s", command, status, errs.String())
	}
	c, _, err := newRoot().Find(args)
	if err != nil {
		t.Fatal(err)
	}
	if c.Short == "" {
		t.Errorf("%s says nothing of itself", command)
	}
	for flag := range strings.Lines(c.Flags().FlagUsages()) {
		if !explained.MatchString(flag) || !strings.Contains(out.String(), flag) {
			t.Errorf("%s does not explain %q", command, flag)
		}
	}
	if c.Example == "" && !c.HasSubCommands() && command != "kpopd version" {
		t.Errorf("%s has no example", command)
	}
	for example := range strings.Lines(c.Example) {
		words := strings.Fields(example)
		found, rest, err := newRoot().Find(words[1:])
		if err != nil || found.CommandPath() != command {
			t.Errorf("%s: %q is no example of it", command, example)
			continue
		}
		if err := found.ParseFlags(rest); err != nil {
			t.Errorf("%s: %q: %v", command, example, err)
		} else if err := found.ValidateArgs(found.Flags().Args()); err != nil {
			t.Errorf("%s: %q: %v", command, example, err)
		}
	}
}
