package authn

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/xdg-go/stringprep"
)

func TestRule152PrepareLogin(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, in, want string }{ // want "" is a refusal
		{"ASCII is left alone", "alice", "alice"},
		{"case is kept", "Alice", "Alice"},
		{"an address", "alice+pop@mail.example.org", "alice+pop@mail.example.org"},
		{"digits and an underscore first", "_9", "_9"},
		{"composed and decomposed are one", "u\u0308mit", "ümit"},
		{"full width is narrow", "ａｌｉｃｅ", "alice"},
		{"Greek", "αλίκη", "αλίκη"},
		{"255 octets", strings.Repeat("a", 255), strings.Repeat("a", 255)},
		{"256 octets", strings.Repeat("a", 256), ""},
		{"longer than that once composed", strings.Repeat("\u0958", 80), ""}, // U+0958 becomes two runes
		{"as long as that once composed", strings.Repeat("\u0958", 42), strings.Repeat("\u0915\u093c", 42)},
		{"nothing", "", ""},
		{"a slash", "a/b", ""},
		{"a full width slash", "a\uFF0Fb", ""},
		{"a backslash", `a\b`, ""},
		{"a dot first", ".alice", ""},
		{"a full width dot first", "\uFF0Ealice", ""},
		{"a hyphen first", "-alice", ""},
		{"two dots", "a..b", ""},
		{"a NUL", "a\x00b", ""},
		{"a line end", "a\r\nb", ""},
		{"an escape", "a\x1b[2Jb", ""},
		{"DEL", "a\x7f", ""},
		{"a C1 control", "a\u0085b", ""},
		{"a blank", "alice b", ""},
		{"a no-break space", "alice\u00a0b", ""},
		{"a zero width joiner", "ali\u200dce", ""},
		{"a right-to-left override", "a\u202egnp", ""},
		{"an LDAP filter", "a*)(uid=*", ""},
		{"a quote", "o'brien", ""},
		{"a percent sign", "%u", ""},
		{"invalid UTF-8", "a\xff", ""},
		{"an overlong slash", "a\xc0\xafb", ""},
		{"a surrogate", "a\xed\xa0\x80", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := PrepareLogin(tt.in)
			if got != tt.want || (err == nil) != (tt.want != "") {
				t.Errorf("PrepareLogin(%q) = %q, %v, want %q", tt.in, got, err, tt.want)
			}
		})
	}
}

func FuzzPrepareLogin(f *testing.F) {
	for _, s := range []string{"alice", "u\u0308mit", "ａ", "a..b", "\u1e9b\u0323"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := PrepareLogin(s)
		if err != nil {
			return
		}
		if again, err := PrepareLogin(got); err != nil || again != got {
			t.Errorf("%q becomes %q, which becomes %q, %v", s, got, again, err)
		}
		if strings.ContainsAny(got, "/\\\x00\r\n \t*()%'\"") || got[0] == '.' || got[0] == '-' || len(got) > MaxLogin || !utf8.ValidString(got) {
			t.Errorf("%q became %q", s, got)
		}
	})
}

func TestPreparePassword(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, in, want string }{
		{"ASCII is left alone", " p  q ", " p  q "},
		{"composed and decomposed are one", "u\u0308", "ü"},
		{"a no-break space is a space", "a\u00a0b", "a b"},
		{"a control character stays", "a\tb\u0085", "a\tb\u0085"},
		{"S-27: what SASLprep maps to nothing stays", "\u00ad\u200b\ufeff", "\u00ad\u200b\ufeff"},
		{"Latin-1 stays", "Gr\xfc\xdfe", "Gr\xfc\xdfe"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			in := []byte(tt.in)
			got := PreparePassword(in)
			if string(got) != tt.want {
				t.Errorf("got %q, want %q", []byte(got), tt.want)
			}
			got.Wipe()
			if string(in) != tt.in {
				t.Error("shares memory with what it was made of")
			}
		})
	}
}

// What is ASCII is the same string as under SASLprep, which RFC 8265 replaces: a
// name or a password that worked before goes on to work, and meets the same
// stored one. Both profiles are asked about every octet at every place of a word.
func TestRule170_ASCIIAsUnderSASLprep(t *testing.T) {
	t.Parallel()
	names, taken := 0, 0
	for c := range byte(utf8.RuneSelf) {
		for _, format := range []string{"?alice", "al?ice", "alice?", "?"} {
			in := strings.Replace(format, "?", string(c), 1)
			want, refused := stringprep.SASLprep.Prepare(in)
			if refused == nil {
				if got := PreparePassword([]byte(in)); string(got) != want {
					t.Errorf("password %q becomes %q, under SASLprep %q", in, []byte(got), want)
				}
			}
			names++
			switch got, err := PrepareLogin(in); {
			case err != nil: // a login is narrower, and never another one
			case refused != nil:
				t.Errorf("login %q is taken, under SASLprep it is not", in)
			case got != want:
				t.Errorf("login %q becomes %q, under SASLprep %q", in, got, want)
			default:
				taken++
			}
		}
	}
	if want := 4*(2*26+10+len("_+@")) + 2*len(".-"); taken != want {
		t.Errorf("%d of %d logins are taken, want %d", taken, names, want)
	}
}

func TestPrincipalString(t *testing.T) {
	t.Parallel()
	seen := make(map[string]int)
	for i, tt := range []struct {
		components []string
		realm      string
		want       string
	}{
		{[]string{"alice"}, "R", "alice@R"},
		{[]string{"alice", "admin"}, "R", "alice/admin@R"},
		{[]string{"alice/admin"}, "R", `alice\/admin@R`},
		{[]string{"alice@R"}, "R", `alice\@R@R`},
		{[]string{"alice"}, "R@R", `alice@R\@R`},
		{[]string{`alice\`, "admin"}, "R", `alice\\/admin@R`},
		{[]string{"a\x00"}, "R", `a\x00@R`},
		{[]string{`a\x00`}, "R", `a\\x00@R`},
		{[]string{"a\r\n"}, "R", `a\x0d\x0a@R`},
		{[]string{"a\xff"}, "R", `a\xff@R`},
		{[]string{"a\ufffd"}, "R", "a\ufffd@R"},
		{[]string{"a\u202e"}, "R", `a\u{202e}@R`},
		{[]string{"ümit"}, "R", "ümit@R"},
	} {
		p := &Principal{Components: tt.components, Realm: tt.realm}
		got := p.String()
		if got != tt.want {
			t.Errorf("%q of %q prints %s, want %s", tt.components, tt.realm, got, tt.want)
		}
		if j, ok := seen[got]; ok {
			t.Errorf("rows %d and %d both print %s", i, j, got)
		}
		seen[got] = i
	}
}
