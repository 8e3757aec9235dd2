package principal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kpopd/kpopd/authn"
)

func of(realm string, components ...string) *authn.Principal {
	return &authn.Principal{Components: components, Realm: realm}
}

func mapFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "map")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func newMapper(t *testing.T, o Options) *Mapper {
	t.Helper()
	m, err := New("kerberos", o)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

const realm = "KPOP.TEST"

type mapping struct {
	name    string
	p       *authn.Principal
	authzid string
	want    string // "" is a refusal
}

func (tt mapping) run(t *testing.T, m *Mapper) {
	t.Helper()
	id, err := m.MapPrincipal(t.Context(), tt.p, tt.authzid)
	if tt.want == "" {
		if err == nil || id != nil || authn.KindOf(err) != authn.Denied {
			t.Errorf("%s: got %+v, %v, want a denial", tt.name, id, err)
		}
		return
	}
	if err != nil || id.User != tt.want || id.Authn != tt.p.String() {
		t.Errorf("%s: got %+v, %v, want %s", tt.name, id, err, tt.want)
	}
}

func TestDefault(t *testing.T) {
	t.Parallel()
	m := newMapper(t, Options{LocalRealms: []string{realm}, MailDomains: []string{"mail.example"}})
	for _, tt := range []mapping{
		{"own mailbox", of(realm, "alice"), "alice", "alice"},
		{"no mailbox named", of(realm, "alice"), "", "alice"},
		{"with the realm", of(realm, "alice"), "alice@KPOP.TEST", "alice"},
		{"with the realm in lower case", of(realm, "alice"), "alice@kpop.test", "alice"},
		{"with a mail domain", of(realm, "alice"), "alice@mail.example", "alice"},
		{"with a mail domain in upper case", of(realm, "alice"), "alice@MAIL.EXAMPLE", "alice"},
		{"with a strange domain", of(realm, "alice"), "alice@elsewhere.example", ""},
		{"somebody else's", of(realm, "alice"), "bob", ""},
		{"somebody else's with the realm", of(realm, "alice"), "bob@KPOP.TEST", ""},
		{"case counts", of(realm, "alice"), "Alice", ""},
		{"case of the principal counts", of(realm, "Alice"), "alice", ""},
		{"K-7: an instance is not its user", of(realm, "alice", "admin"), "alice", ""},
		{"K-7: an instance has no mailbox", of(realm, "alice", "admin"), "", ""},
		{"K-1: another realm", of("OTHER.TEST", "alice"), "alice", ""},
		{"another realm without a mailbox named", of("OTHER.TEST", "alice"), "", ""},
		{"another realm named with it", of("OTHER.TEST", "alice"), "alice@OTHER.TEST", ""},
		{"another realm naming ours", of("OTHER.TEST", "alice"), "alice@KPOP.TEST", ""},
		{"realm in lower case is another", of("kpop.test", "alice"), "alice", ""},
		{"a slash inside a component", of(realm, "alice/admin"), "alice/admin", ""},
		{"a slash inside a component, no mailbox named", of(realm, "alice/admin"), "", ""},
		{"an at-sign inside a component", of(realm, "alice@mail.example"), "alice", ""},
		{"an at-sign inside a component, word for word", of(realm, "alice@mail.example"), "alice@mail.example", ""},
		{"a backslash", of(realm, `alice\`), "alice", ""},
		{"a NUL", of(realm, "alice\x00"), "alice", ""},
		{"no component", of(realm), "", ""},
		{"an empty component", of(realm, ""), "", ""},
		{"an empty second component", of(realm, "alice", ""), "alice", ""},
		{"dots", of(realm, ".."), "..", ""},
		{"Unicode", of(realm, "ümit"), "u\u0308mit", "ümit"},
		{"mailbox that is no name", of(realm, "alice"), "../alice", ""},
	} {
		tt.run(t, m)
	}
	if id, _ := m.MapPrincipal(t.Context(), &authn.Principal{Components: []string{"alice"}, Realm: realm, Expires: time.Unix(1, 0)}, ""); !id.Expires.Equal(time.Unix(1, 0)) {
		t.Error("the end of the ticket is lost")
	}
}

func TestFoldCase(t *testing.T) {
	t.Parallel()
	m := newMapper(t, Options{LocalRealms: []string{realm}, FoldCase: true, Map: mapFile(t, "Bob/Admin@kpop.test Postmaster")})
	for _, tt := range []mapping{
		{"principal", of(realm, "Alice"), "", "alice"},
		{"mailbox", of(realm, "alice"), "ALICE", "alice"},
		{"realm", of("kpop.test", "alice"), "alice", "alice"},
		{"map", of(realm, "bob", "admin"), "postmaster", "postmaster"},
		{"another realm", of("OTHER.TEST", "alice"), "alice", ""},
	} {
		tt.run(t, m)
	}
}

func TestMapFile(t *testing.T) {
	t.Parallel()
	m := newMapper(t, Options{LocalRealms: []string{realm}, Map: mapFile(t, strings.Join([]string{
		"# principals and their mailboxes",
		"alice/admin@KPOP.TEST postmaster, abuse",
		"alice/admin@KPOP.TEST\thostmaster\r",
		"bob@OTHER.TEST bob-guest",
		`a\/b@KPOP.TEST joined`,
		"a/b@KPOP.TEST split",
		`"two words@KPOP.TEST" two`,
		`c\@d@KPOP.TEST c@d`,
		"mallory@KPOP.TEST -",
		"dave@KPOP.TEST dave, dave@mail.example",
	}, "\n"))})
	for _, tt := range []mapping{
		{"the first is for who names none", of(realm, "alice", "admin"), "", "postmaster"},
		{"the second", of(realm, "alice", "admin"), "abuse", "abuse"},
		{"on another line", of(realm, "alice", "admin"), "hostmaster", "hostmaster"},
		{"with the realm", of(realm, "alice", "admin"), "abuse@KPOP.TEST", "abuse"},
		{"nothing but these", of(realm, "alice", "admin"), "alice", ""},
		{"another realm", of("OTHER.TEST", "bob"), "bob-guest", "bob-guest"},
		{"another realm, not the local user", of("OTHER.TEST", "bob"), "bob", ""},
		{"one component with a slash", of(realm, "a/b"), "", "joined"},
		{"two components", of(realm, "a", "b"), "", "split"},
		{"two components may not be the joined one", of(realm, "a", "b"), "joined", ""},
		{"quotes", of(realm, "two words"), "two", "two"},
		{"an at-sign in it", of(realm, "c@d"), "", "c@d"},
		{"shut out", of(realm, "mallory"), "", ""},
		{"shut out of the mailbox of its name", of(realm, "mallory"), "mallory", ""},
		{"a login with a domain is meant word for word first", of(realm, "dave"), "dave@mail.example", "dave@mail.example"},
		{"who is not in it has the default", of(realm, "erin"), "erin", "erin"},
	} {
		tt.run(t, m)
	}
}

func TestMapFileErrors(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ line, want string }{
		{"alice@R", "no login"},
		{"alice bob", "write name@REALM"},
		{"@R bob", "write name@REALM"},
		{"a//b@R bob", "write name@REALM"},
		{"alice@ bob", "write name@REALM"},
		{"alice@R@R bob", "two @"},
		{`alice@R\`, "backslash"},
		{`"alice@R bob`, "no quote"},
		{"alice@R bob,,eve", `"" is no login`},
		{"alice@R ../etc", "is no login"},
		{"\xff@R bob", "UTF-8"},
	} {
		_, err := New("m", Options{Map: mapFile(t, "\n# c\n"+tt.line+"\n")})
		if err == nil || !strings.Contains(err.Error(), "map:3: ") || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: %v", tt.line, err)
		}
	}
	open := mapFile(t, "")
	if err := os.Chmod(open, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := New("m", Options{Map: open}); err == nil || !strings.Contains(err.Error(), "chmod 0644") {
		t.Errorf("a file that all can write: %v", err)
	}
}

func TestRules(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		rules []string
		mapping
	}{
		{[]string{"RULE:[2:$1]"}, mapping{"first component of two", of(realm, "alice", "admin"), "alice", "alice"}},
		{[]string{"RULE:[2:$1;$2](^.*;admin$)s/;admin$//"}, mapping{"as in krb5.conf(5)", of(realm, "alice", "admin"), "", "alice"}},
		{[]string{"RULE:[2:$1;$2](.*;admin)s/;admin$//"}, mapping{"not the other instance", of(realm, "alice", "root"), "", ""}},
		{[]string{"RULE:[1:$1](a)"}, mapping{"an expression must match all", of(realm, "alice"), "", ""}},
		{[]string{"RULE:[1:$1](a|alice)"}, mapping{"all of it by an alternative", of(realm, "alice"), "", "alice"}},
		{[]string{"RULE:[1:$1@$0]", "DEFAULT"}, mapping{"realm", of(realm, "alice"), "alice@KPOP.TEST", "alice@KPOP.TEST"}},
		{[]string{"RULE:[1:$1]s/a/b/"}, mapping{"first match", of(realm, "aa"), "", "ba"}},
		{[]string{"RULE:[1:$1]s/a/b/g"}, mapping{"every match", of(realm, "aa"), "", "bb"}},
		{[]string{"RULE:[1:$1]s/a/b/g s/b/c/"}, mapping{"one after the other", of(realm, "aa"), "", "cb"}},
		{[]string{"RULE:[1:$1]s/(a)/$1\\1&/"}, mapping{"text is literal, and no login", of(realm, "a"), "", ""}},
		{[]string{"RULE:[1:$1]s/(a)/${1}b/g"}, mapping{"text is literal everywhere", of(realm, "a"), "", ""}},
		{[]string{"RULE:[1:$1](x.*)", "RULE:[1:y$1](y.*|.*)"}, mapping{"the first that fits", of(realm, "a"), "", "ya"}},
		{[]string{"RULE:[2:$1]"}, mapping{"no DEFAULT, no default", of(realm, "alice"), "alice", ""}},
		{[]string{"RULE:[2:$1]", "DEFAULT"}, mapping{"DEFAULT after a rule", of(realm, "alice"), "alice", "alice"}},
		{[]string{"RULE:[1:$1]"}, mapping{"K-7: a realm that is not listed", of("OTHER.TEST", "alice"), "alice", ""}},
		{[]string{"RULE:[1:$1]"}, mapping{"K-7: nor without a mailbox named", of("OTHER.TEST", "alice"), "", ""}},
		{[]string{"RULE:[1:$1/../x]"}, mapping{"what is no login", of(realm, "alice"), "", ""}},
		{[]string{"RULE:[1:$1@$0](.*@KPOP\\.TEST)s/@.*//"}, mapping{"a component that brings its own at-sign", of(realm, "alice@x"), "alice", ""}},
		{[]string{"RULE:[2:$1;$2](.*;admin)s/;.*//"}, mapping{"a component that brings its own separator", of(realm, "alice;x", "admin"), "", ""}},
	} {
		tt.run(t, newMapper(t, Options{LocalRealms: []string{realm}, Rules: tt.rules}))
	}
	m := newMapper(t, Options{LocalRealms: []string{realm}, RuleRealms: []string{"OTHER.TEST"}, Rules: []string{"RULE:[1:other-$1]", "DEFAULT"}})
	mapping{"a listed realm", of("OTHER.TEST", "alice"), "", "other-alice"}.run(t, m)
	mapping{"a listed realm is not local", of("OTHER.TEST", "alice"), "alice", ""}.run(t, m)
	mapping{"the local realm is not listed", of(realm, "alice"), "", "alice"}.run(t, m)
}

func TestRuleErrors(t *testing.T) {
	t.Parallel()
	for _, s := range []string{
		"", "default", "RULE:", "RULE:[1:]", "RULE:[0:$1]", "RULE:[10:$1]", "RULE:[x:$1]", "RULE:[1:$2]", "RULE:[1:$]", "RULE:[1:$x]",
		"RULE:[1:$1", "RULE:[1:$1](a", "RULE:[1:$1](()", "RULE:[1:$1](*)", "RULE:[1:$1]s/a/", "RULE:[1:$1]s/(/b/", "RULE:[1:$1]x", "RULE:[1:$1](a)(b)",
	} {
		if _, err := New("m", Options{Rules: []string{s}}); err == nil {
			t.Errorf("took %q", s)
		}
	}
}

// S-19: neither a login nor a realm leads out of the directory of homes.
func TestS19_LoginsAreNoPaths(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for _, dir := range []string{"home", "home/bob", "planted", realm, "home/" + realm} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, dir, ".k5login"), []byte("alice@"+realm+"\nalice@../planted\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m := newMapper(t, Options{LocalRealms: []string{realm}, K5Login: root + "/home/%u/.k5login"})
	m.users = func(string) (uint32, bool, error) { return uint32(os.Geteuid()), true, nil }
	mapping{"what the files would give", of(realm, "alice"), "bob", "bob"}.run(t, m)
	for _, login := range []string{
		"../planted", "../home/bob", "./bob", "bob/.", "bob/../../planted", "..", ".", "/", root + "/planted", "bob\x00", "../" + realm,
	} {
		mapping{"login " + login, of(realm, "alice"), login, ""}.run(t, m)
		mapping{"principal " + login, of(realm, login), "", ""}.run(t, m)
		mapping{"realm " + login, of(login, "bob"), "", ""}.run(t, m)
	}
}

func TestK5Login(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	me := uint32(os.Geteuid())
	put := func(login, content string, mode os.FileMode) {
		t.Helper()
		dir := filepath.Join(home, login)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, ".k5login")
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	put("bob", "carol@OTHER.TEST\r\nalice@KPOP.TEST  \nnot a principal\n", 0o644)
	put("dave", "dave@KPOP.TEST\n", 0o664)
	put("erin", "", 0o600)
	put("frank", "frank@KPOP.TEST\n", 0o600)
	if me == 0 { // root's file would be anybody's
		if err := os.Chown(filepath.Join(home, "frank", ".k5login"), 4242, -1); err != nil {
			t.Fatal(err)
		}
	}
	long := "ivan@KPOP.TEST"
	put("judy", strings.Repeat("#", maxK5Login-len(long)-1)+"\n"+long+".EXAMPLE\n", 0o600)
	if err := os.Mkdir(filepath.Join(home, "link"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(home, "bob", ".k5login"), filepath.Join(home, "link", ".k5login")); err != nil {
		t.Fatal(err)
	}
	m := newMapper(t, Options{LocalRealms: []string{realm}, K5Login: home + "/%u/.k5login"})
	m.users = func(login string) (uint32, bool, error) {
		switch login {
		case "frank":
			return me + 1, true, nil
		case "virtual":
			return 0, false, nil
		case "broken":
			return 0, false, errors.New("directory down")
		}
		return me, true, nil
	}
	for _, tt := range []mapping{
		{"listed", of(realm, "alice"), "bob", "bob"},
		{"listed from another realm", of("OTHER.TEST", "carol"), "bob", "bob"},
		{"the file decides alone: not even the user himself", of(realm, "bob"), "bob", ""},
		{"nor without a mailbox named", of(realm, "bob"), "", ""},
		{"not listed", of(realm, "mallory"), "bob", ""},
		{"a file that the group can write", of(realm, "dave"), "dave", ""},
		{"an empty file", of(realm, "erin"), "erin", ""},
		{"a file of somebody else", of(realm, "frank"), "frank", ""},
		{"a file that is too long", of(realm, "ivan"), "judy", ""},
		{"no file", of(realm, "grace"), "grace", "grace"},
		{"no file and another user", of(realm, "grace"), "heidi", ""},
		{"no user of the system", of(realm, "virtual"), "virtual", "virtual"},
	} {
		tt.run(t, m)
	}
	for _, login := range []string{"broken", "link"} {
		if _, err := m.MapPrincipal(t.Context(), of(realm, login), login); authn.KindOf(err) != authn.Unavailable {
			t.Errorf("%s: %v", login, err)
		}
	}
	for _, bad := range []string{"%u/.k5login", "/home/.k5login", "/%u/%u"} {
		if _, err := New("m", Options{K5Login: bad}); err == nil {
			t.Errorf("took %q", bad)
		}
	}
}

func TestRule195RefusalText(t *testing.T) {
	t.Parallel()
	m := newMapper(t, Options{LocalRealms: []string{realm}})
	long := strings.Repeat("x", 250)
	for _, tt := range []struct {
		p       *authn.Principal
		authzid string
		want    string
	}{
		{of(realm, "alice"), "bob", "alice@KPOP.TEST may not read bob"},
		{of(realm, "alice", "admin"), "", "alice/admin@KPOP.TEST has no mailbox here"},
		{of(realm, "ümit"), "b\r\n+OK", `\u{fc}mit@KPOP.TEST may not read b\u{d}\u{a}+OK`},
		{of(realm, "a\x1b[2J"), "\xff", `a\x1b[2J@KPOP.TEST may not read \u{fffd}`},
		{of(realm, long), long + "y", strings.Repeat("x", 129) + "... may not read " + strings.Repeat("x", 129) + "..."},
	} {
		_, err := m.MapPrincipal(t.Context(), tt.p, tt.authzid)
		var e *authn.Error
		if !errors.As(err, &e) {
			t.Fatalf("got %v", err)
		}
		if diff := cmp.Diff(tt.want, e.Text); diff != "" {
			t.Error(diff)
		}
		if len(e.Text) > 400 || strings.ContainsFunc(e.Text, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("%q does not fit a reply", e.Text)
		}
		if strings.ContainsAny(err.Error(), "\r\n\x1b") {
			t.Errorf("%q does not fit a log", err.Error())
		}
	}
}

func TestParsePrincipalReadsWhatStringWrites(t *testing.T) {
	t.Parallel()
	for _, p := range []*authn.Principal{of("R", "alice"), of("R", "a/b", "c@d", `e\`), of("A@B/C", "ümit"), of("R", "a b")} {
		got, err := parsePrincipal(p.String())
		if err != nil || !slices.Equal(got.Components, p.Components) || got.Realm != p.Realm {
			t.Errorf("%s was read as %+v, %v", p, got, err)
		}
	}
}

func FuzzRule(f *testing.F) {
	for _, s := range []string{"DEFAULT", "RULE:[1:$1@$0](.*@R)s/@.*//", "RULE:[2:$1;$2](^.*;admin$)s/;admin$//g s/a/b/", "RULE:[1:$1](a\\)b)", "RULE:[2:$2$1]"} {
		f.Add(s, "alice", "admin")
	}
	f.Fuzz(func(t *testing.T, s, a, b string) {
		m, err := New("m", Options{LocalRealms: []string{"R"}, Rules: []string{s}})
		if err != nil {
			return
		}
		for _, p := range []*authn.Principal{of("R", a), of("R", a, b)} {
			id, err := m.MapPrincipal(t.Context(), p, "")
			if err != nil {
				continue
			}
			if login, err := authn.PrepareLogin(id.User); err != nil || login != id.User {
				t.Errorf("%s made %q of %s", s, id.User, p)
			}
			if s == ruleDefault && len(p.Components) != 1 {
				t.Errorf("default took %s", p)
			}
			// the same principal of a realm that is not listed has nothing
			p.Realm = "S"
			if id, err := m.MapPrincipal(t.Context(), p, ""); err == nil {
				t.Errorf("%s took %s as %s", s, p, id.User)
			}
		}
	})
}

func FuzzMap(f *testing.F) {
	f.Add([]byte("alice/admin@R bob,carol\n# c\n\"a b@R\" c\n"))
	f.Add([]byte(`a\/b@R x` + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m := newMapper(t, Options{})
		table, err := m.parse("map", b)
		if err != nil {
			return
		}
		for p, logins := range table {
			for _, l := range logins {
				if c, err := authn.PrepareLogin(l); err != nil || c != l {
					t.Errorf("%s has the login %q", p, l)
				}
			}
		}
	})
}

func BenchmarkMapPrincipal(b *testing.B) {
	m, err := New("m", Options{LocalRealms: []string{realm}})
	if err != nil {
		b.Fatal(err)
	}
	p := of(realm, "alice")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.MapPrincipal(b.Context(), p, "alice"); err != nil {
			b.Fatal(fmt.Errorf("map: %w", err))
		}
	}
}

// A principal whose name reads like a user and a folder is not that user.
func TestPrincipalsAskForNoView(t *testing.T) {
	t.Parallel()
	m := newMapper(t, Options{LocalRealms: []string{"A.TEST"}})
	names := &authn.Names{Views: authn.Views{Folders: "+", Recent: true, Hosts: []authn.Host{{User: "physics"}}}}
	ctx := authn.WithPolicy(t.Context(), &authn.Policy{Names: names})
	for _, name := range []string{"alice+Sent", "alice+physics"} {
		for _, authzid := range []string{"", "alice", "physics"} {
			if id, err := m.MapPrincipal(ctx, of("A.TEST", name), authzid); err == nil {
				t.Errorf("%s as %q is %s", name, authzid, id.User)
			}
		}
	}
	if id, err := m.MapPrincipal(ctx, of("A.TEST", "alice"), "alice"); err != nil || id.User != "alice" {
		t.Errorf("alice is %+v, %v", id, err)
	}
}
