package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/kpopd/kpopd"

// directions says what each package of ours may import of ours. An entry that
// ends in "/..." covers a whole subtree; the longest entry that fits decides.
var directions = map[string][]string{
	"authn":               nil, // interfaces, errors and the chain stand on the standard library
	"authn/access":        {"authn", "authn/sitefile"},
	"authn/authntest":     {"authn"},
	"authn/cache":         {"authn", "authn/scram"}, // passes on the shape of keys
	"authn/checkpassword": {"authn"},
	"authn/cram":          {"authn"},
	"authn/external":      {"authn", "authn/sitefile"},
	"authn/file":          {"authn", "authn/scram", "authn/sitefile"}, // the keys in a digests file
	"authn/gssapi":        {"authn", "authn/krb5"},                    // a GSSAPI token carries an AP-REQ
	"authn/krb5":          {"authn", "authn/sitefile"},
	"authn/krb5pw":        {"authn", "authn/krb5"},                                   // the exchange with the KDC
	"authn/ldap":          {"authn", "authn/gssapi", "authn/krb5", "authn/sitefile"}, // the verifier's own bind can be GSSAPI
	"authn/ldap/ldaptest": {"krb5test"},                                              // finds programs
	"authn/oauthbearer":   {"authn"},
	"authn/oidc":          {"authn", "authn/sitefile"},
	"authn/oidc/oidctest": nil, // for tests
	"authn/plain":         {"authn"},
	"authn/principal":     {"authn", "authn/sitefile"},
	"authn/remote":        {"authn", "authn/krb5", "authn/scram"}, // tickets are taken in the helper; shapes of keys
	"authn/scram":         {"authn"},
	"authn/sitefile":      nil,
	"authn/throttle":      {"authn"},

	"cmd/internal/app":      {"authn/...", "cmd/internal/...", "kpop", "maildrop/...", "pop3"},
	"cmd/internal/certs":    {"authn", "authn/sitefile"},                                                                                                            // what a client certificate is worth
	"cmd/internal/cli":      {"cmd/internal/config"},                                                                                                                // prints its problems
	"cmd/internal/config":   {"authn", "authn/cache", "authn/external", "authn/file", "authn/krb5", "authn/oidc", "authn/scram", "authn/sitefile", "maildrop/uidl"}, // rules of policies and URLs, names of hashes, enctypes, algorithms and schemes, bounds
	"cmd/internal/listen":   nil,
	"cmd/internal/snapshot": {"authn", "authn/sitefile", "pop3/client"}, // passwords that do not print
	"cmd/kpopctl":           {"cmd/internal/..."},
	"cmd/kpopd":             {"authn/...", "cmd/internal/...", "kpop", "krb5test", "maildrop/...", "pop3/..."},

	"kpop":          {"authn", "authn/krb5"},
	"kpop/kpoptest": {"krb5test"}, // for tests

	"krb5test": {"authn/krb5"},

	"maildrop":                  nil,
	"maildrop/droptest":         {"maildrop"},
	"maildrop/internal/beneath": {"maildrop"},
	"maildrop/maildir":          {"maildrop", "maildrop/internal/..."},
	"maildrop/mbox":             {"maildrop", "maildrop/internal/..."},
	"maildrop/memory":           {"maildrop"},
	"maildrop/uidl":             nil, // a store hands it what it may look at

	"pop3":        {"authn", "maildrop"}, // neither Kerberos nor a mailbox format
	"pop3/client": nil,
}

// thirdParty says which package may import which module, and why we have it.
var thirdParty = map[string]struct {
	by  []string
	why string
}{
	"github.com/emersion/go-sasl":         {[]string{"authn/...", "cmd/internal/snapshot", "cmd/kpopd", "pop3/client"}, "the contract of SASL mechanisms, and PLAIN"},
	"github.com/go-crypt/crypt":           {[]string{"authn/file"}, "crypt(3) hashes of the password files that sites have"},
	"github.com/go-jose/go-jose/v4":       {[]string{"authn/oidc"}, "key sets and signatures of tokens"},
	"github.com/go-ldap/ldap/v3":          {[]string{"authn/ldap"}, "the LDAP protocol"},
	"github.com/go-viper/mapstructure/v2": {[]string{"cmd/internal/config"}, "viper's decoder: the hooks for durations, prefixes and enctypes"},
	"github.com/hashicorp/golang-lru/v2":  {[]string{"authn/cache"}, "the cache of results; MPL-2.0, per file and linked unchanged"},
	"github.com/jcmturner/gofork":         {[]string{"authn/krb5", "krb5test"}, "the ASN.1 package that gokrb5's types are made for"},
	"github.com/jcmturner/gokrb5/v8":      {[]string{"authn/krb5", "krb5test"}, "Kerberos messages, types, keytabs and cryptography; unmaintained, so that one package hides it"},
	"github.com/spf13/cobra":              {[]string{"cmd/internal/cli", "cmd/kpopctl", "cmd/kpopd"}, "the commands"},
	"github.com/spf13/viper":              {[]string{"cmd/internal/config"}, "reads the configuration"},
	"github.com/xdg-go/stringprep":        {[]string{"authn/scram"}, "knows which passwords SCRAM clients would read in another way (SASLprep)"},
	"go.yaml.in/yaml/v3":                  {[]string{"cmd/internal/config"}, "finds the line that a refused key stands on"},
	"golang.org/x/crypto":                 {[]string{"authn/gssapi"}, "cryptobyte, a reader of DER that takes nothing else; there with gokrb5 anyway"},
	"golang.org/x/sync":                   {[]string{"authn/file", "cmd/internal/snapshot"}, "semaphores with weights and deadlines, for hashes that need memory; groups of bounded size, for sessions in parallel"},
	"golang.org/x/sys":                    {[]string{"authn/...", "cmd/internal/...", "maildrop/..."}, "openat2, OFD locks, resource limits"},
	"golang.org/x/term":                   {[]string{"cmd/kpopctl", "cmd/kpopd"}, "reads a password without echo, and knows a terminal"},
	"golang.org/x/time":                   {[]string{"authn/throttle"}, "token bucket for the attempts of an address"},
	"golang.org/x/text":                   {[]string{"authn"}, "RFC 8265 preparation of login names"},
}

// forTests are modules that only tests may import, any of them, and why we have
// them.
var forTests = map[string]string{
	"github.com/go-asn1-ber/asn1-ber": "encodes the answers of LDAP servers that do not keep to the rules",
	"github.com/google/go-cmp":        "shows where two values differ",
	"github.com/rogpeppe/go-internal": "runs the whole program as a script says",
	"github.com/xdg-go/scram":         "is a client of SCRAM that somebody else wrote",
	"go.uber.org/goleak":              "finds goroutines that nothing ends",
	"golang.org/x/tools":              "reads txtar, the form of the transcripts",
}

// TestNoServersOfGoSASL: the server's side of every mechanism is ours. That of
// go-sasl's OAUTHBEARER panics on an empty answer to a refusal (RFC 7628 section
// 3.2.3), which any client can send.
func TestNoServersOfGoSASL(t *testing.T) {
	t.Parallel()
	server := regexp.MustCompile(`^New\w*Server$`)
	clients := 0
	for pkg, files := range parsed(t, false, parser.SkipObjectResolution) {
		for _, f := range files {
			ast.Inspect(f, func(n ast.Node) bool {
				s, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				if x, ok := s.X.(*ast.Ident); ok && x.Name == "sasl" {
					if server.MatchString(s.Sel.Name) {
						t.Errorf("%s uses sasl.%s", pkg, s.Sel.Name)
					}
					if strings.HasSuffix(s.Sel.Name, "Client") {
						clients++
					}
				}
				return true
			})
		}
	}
	if clients == 0 {
		t.Error("nobody uses go-sasl's clients, or this test is blind")
	}
}

// TestImports pins the directions of imports and who may use which module.
func TestImports(t *testing.T) {
	t.Parallel()
	used := map[string]bool{}
	for pkg, files := range packages(t, false) {
		ours, known := directions[pkg]
		if !known {
			t.Errorf("package %s is not in the table of directions", pkg)
		}
		for _, f := range files {
			for _, spec := range f.Imports {
				imp, err := strconv.Unquote(spec.Path.Value)
				if err != nil {
					t.Fatal(err)
				}
				if rel, ok := strings.CutPrefix(imp, module+"/"); ok {
					if !within(rel, ours) {
						t.Errorf("%s imports %s, which its row does not allow", pkg, rel)
					}
					continue
				}
				m := moduleOf(imp)
				if m == "" {
					continue
				}
				used[m] = true
				if row, ok := thirdParty[m]; !ok {
					t.Errorf("%s imports %s, which is not in the table of modules", pkg, imp)
				} else if !within(pkg, row.by) {
					t.Errorf("%s imports %s, which is for %v only: %s", pkg, imp, row.by, row.why)
				}
			}
		}
	}
	for m := range thirdParty {
		if !used[m] {
			t.Errorf("nothing imports %s: take its row out", m)
		}
	}
}

// TestTestImports: tests may import what is in either table.
func TestTestImports(t *testing.T) {
	t.Parallel()
	used := map[string]bool{}
	for pkg, files := range packages(t, true) {
		for _, f := range files {
			for _, spec := range f.Imports {
				imp, err := strconv.Unquote(spec.Path.Value)
				if err != nil {
					t.Fatal(err)
				}
				m := moduleOf(imp)
				used[m] = true
				if m != "" && m != module && forTests[m] == "" && thirdParty[m].why == "" {
					t.Errorf("a test of %s imports %s, which no table explains", pkg, imp)
				}
			}
		}
	}
	for m := range forTests {
		if !used[m] {
			t.Errorf("no test imports %s: take its row out", m)
		}
	}
}

// TestPackageComments: each package tells a newcomer what it is for.
func TestPackageComments(t *testing.T) {
	t.Parallel()
	for pkg, files := range packages(t, false) {
		want := "Package " + path.Base(pkg) + " "
		if files[0].Name.Name == "main" {
			want = "Command " + path.Base(pkg) + " "
		}
		if !slices.ContainsFunc(files, func(f *ast.File) bool { return f.Doc != nil && strings.HasPrefix(f.Doc.Text(), want) }) {
			t.Errorf("%s has no package comment that begins with %q", pkg, want)
		}
	}
}

// TestTopLevel: the top level is the one that was agreed.
func TestTopLevel(t *testing.T) {
	t.Parallel()
	entries, err := os.ReadDir("../..")
	if err != nil {
		t.Fatal(err)
	}
	allowed := []string{"cmd", "kpop", "pop3", "authn", "maildrop", "krb5test", "configs", "go.mod", "go.sum", "README.md", "LICENSE"}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") && !slices.Contains(allowed, e.Name()) {
			t.Errorf("%s does not belong at the top level", e.Name())
		}
	}
}

// packages parses the imports of the files of the module, those of tests or the
// others, by package directory.
func packages(t *testing.T, tests bool) map[string][]*ast.File {
	t.Helper()
	return parsed(t, tests, parser.ImportsOnly|parser.ParseComments)
}

// parsed parses as much of them as mode says.
func parsed(t *testing.T, tests bool, mode parser.Mode) map[string][]*ast.File {
	t.Helper()
	root := filepath.Join("..", "..")
	pkgs := map[string][]*ast.File{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && p != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata"):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") != tests:
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, nil, mode)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, filepath.Dir(p))
		pkgs[filepath.ToSlash(rel)] = append(pkgs[filepath.ToSlash(rel)], f)
		return err
	})
	if err != nil || len(pkgs) == 0 {
		t.Fatal("no packages", err)
	}
	return pkgs
}

func within(pkg string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		tree, ok := strings.CutSuffix(p, "/...")
		return pkg == p || ok && (pkg == tree || strings.HasPrefix(pkg, tree+"/"))
	})
}

// moduleOf is the module that an import path belongs to, "" for the standard
// library, and the path itself when no table has it.
func moduleOf(imp string) string {
	if first, _, _ := strings.Cut(imp, "/"); !strings.Contains(first, ".") {
		return ""
	}
	for _, m := range slices.Concat([]string{module}, slices.Collect(maps.Keys(thirdParty)), slices.Collect(maps.Keys(forTests))) {
		if imp == m || strings.HasPrefix(imp, m+"/") {
			return m
		}
	}
	return imp
}
