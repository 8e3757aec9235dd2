package config

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// judgesAll are verifiers of all types, set up to judge whatever their type can.
func judgesAll() (all []Verifier) {
	for _, kind := range verifierTypes() {
		v := Verifier{Name: "v", Type: kind, Users: "x", Digests: "x"}
		v.PrincipalFilter = "x"
		v.Judges = []string{judgesPasswords, judgesSecrets, judgesPrincipals, judgesTickets, judgesUsers}
		for _, scheme := range secretSchemes() {
			v.Attributes.Secrets = append(v.Attributes.Secrets, LDAPSecret{Scheme: scheme, Attribute: "x"})
		}
		all = append(all, v)
	}
	return all
}

// TestReadmeTable: the table of mechanisms in README.md is that of the code, a row
// for each, with the verifiers that can judge it and with clients that tests run.
func TestReadmeTable(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..", "..")
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(readme), "| mechanism | RFC | judged by verifiers of type | tested with |\n|---|---|---|---|\n")
	table, rest, _ := strings.Cut(table, "\n\n")
	if !found {
		t.Fatal("README.md has no such table")
	}
	run := runByTests(t, root)
	var rows []string
	for row := range strings.Lines(table + "\n") {
		cells := strings.Split(strings.Trim(row, "| \n"), " | ")
		if len(cells) != 4 {
			t.Errorf("%q is no row", row)
			continue
		}
		rows = append(rows, cells[0])
		m, ok := mechanismNamed(cells[0])
		if !ok {
			continue // told below
		}
		var judges []string
		for _, v := range judgesAll() {
			if m.judge.is(v) || v.asks(remoteProofs[m.name]) {
				judges = append(judges, v.Type)
			}
		}
		if got, want := cells[2], strings.Join(judges, ", "); got != want {
			t.Errorf("%s is judged by %s, README.md has %s", m.name, want, got)
		}
		if !regexp.MustCompile(`^(none|RFC \d+(, RFC \d+)*)$`).MatchString(cells[1]) {
			t.Errorf("%s: %q is no RFC", m.name, cells[1])
		}
		clients := regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[3], -1)
		if len(clients) == 0 {
			t.Errorf("%s is tested with nothing", m.name)
		}
		for _, c := range clients {
			if c[1] != "krb5" && !run[c[1]] {
				t.Errorf("%s: no test runs %s", m.name, c[1])
			}
		}
	}
	if want := mechanismNames(); !slices.Equal(rows, want) {
		t.Errorf("README.md has rows for %v, want %v", rows, want)
	}
	for _, kind := range verifierTypes() {
		if !regexp.MustCompile(`\b` + kind + `\b`).MatchString(table + strings.SplitN(rest, "\n", 2)[0]) {
			t.Errorf("README.md says of no mechanism that verifiers of type %s have a part in it", kind)
		}
	}
}

// runByTests are words in quotes in the tests of real clients, programs among them.
func runByTests(t *testing.T, root string) map[string]bool {
	t.Helper()
	run := map[string]bool{}
	for _, dir := range []string{"cmd/internal/peers", "authn/scram"} {
		files, err := filepath.Glob(filepath.Join(root, dir, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range regexp.MustCompile(`"([a-z0-9]+)"`).FindAllStringSubmatch(string(text), -1) {
				run[m[1]] = true
			}
		}
	}
	return run
}
