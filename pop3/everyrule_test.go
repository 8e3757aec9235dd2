package pop3_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// ranges are the rules that have to be kept, first and last: of POP3 and
// mechanisms, of sessions and locks, of hostile peers and KPOP. Those between are
// of migration.
var ranges = [][2]int{{1, 176}, {181, 200}}

// untested are the rules that no test can show, with the reason.
var untested = map[int]string{
	109: "which ports a site opens is its own choice; the example configurations open both",
}

var (
	ruleTest   = regexp.MustCompile(`^Test[A-Za-z]*Rule[0-9]{3}`)
	ruleNumber = regexp.MustCompile(`(?:Rule|And)([0-9]{3})`)
)

// TestEveryRuleHasATest finds the tests that are named after rules, in the
// whole module, and wants one for each rule. Its log is the list:
//
//	go test ./pop3 -run EveryRule -v
func TestEveryRuleHasATest(t *testing.T) {
	t.Parallel()
	found := map[int][]string{}
	err := filepath.WalkDir("..", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && ruleTest.MatchString(fn.Name.Name) {
				for _, n := range ruleNumber.FindAllStringSubmatch(fn.Name.Name, -1) {
					rule, _ := strconv.Atoi(n[1])
					test := fmt.Sprintf("%s.%s", strings.TrimPrefix(filepath.ToSlash(filepath.Dir(path)), "../"), fn.Name.Name)
					found[rule] = append(found[rule], test)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range ranges {
		for rule := r[0]; rule <= r[1]; rule++ {
			why, excepted := untested[rule]
			switch {
			case excepted && len(found[rule]) > 0:
				t.Errorf("rule %d is excepted and has the test %s", rule, found[rule][0])
			case excepted:
				t.Logf("rule %03d: none: %s", rule, why)
			case len(found[rule]) == 0:
				t.Errorf("rule %d has no test", rule)
			}
		}
	}
	for _, rule := range slices.Sorted(maps.Keys(found)) {
		slices.Sort(found[rule])
		t.Logf("rule %03d: %s", rule, strings.Join(found[rule], ", "))
	}
}
