package uidl

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
)

// A fixture is a maildrop as a server left it and what that server answered to
// UIDL, in testdata/*.txtar. Its comment says which server, and how it came to
// be. The file "scheme" names the scheme; "mbox" is the spool, or other files
// are those of a Maildir and "names" its messages in the server's order; "uidl"
// is the answer.
func TestRule177RecordedSequences(t *testing.T) {
	t.Parallel()
	fixtures, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(fixtures) == 0 {
		t.Fatal("no fixtures:", err)
	}
	for _, path := range fixtures {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			t.Parallel()
			files := map[string][]byte{}
			a, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range a.Files {
				files[f.Name] = f.Data
			}
			var got []string
			if mbox := files["mbox"]; mbox != nil {
				got = namesOf(t, string(bytes.TrimSpace(files["scheme"])), splitMbox(mbox))
			} else {
				got = maildirNames(t, string(bytes.TrimSpace(files["scheme"])), files, lines(files["names"]))
			}
			if diff := cmp.Diff(lines(files["uidl"]), got); diff != "" {
				t.Errorf("-server +here\n%s", diff)
			}
		})
	}
}

func lines(b []byte) []string { return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n") }

// splitMbox cuts at From_ lines after empty lines, as all these servers do.
func splitMbox(mbox []byte) (heads [][]byte) {
	for {
		i := bytes.Index(mbox, []byte("\n\nFrom "))
		if i < 0 {
			return append(heads, mbox)
		}
		heads = append(heads, mbox[:i+2])
		mbox = mbox[i+2:]
	}
}

// namesOf asks the rule of a scheme for the ids of an mbox.
func namesOf(t *testing.T, scheme string, heads [][]byte) (ids []string) {
	t.Helper()
	rule := ruleFor(t, scheme, Source{First: heads[0]})
	for _, h := range heads {
		ids = append(ids, rule(Message{Head: h[:min(len(h), HeadLimit)]}))
	}
	return ids
}

// maildirNames asks the rule of a scheme for the ids of a Maildir's files.
func maildirNames(t *testing.T, scheme string, files map[string][]byte, names []string) (ids []string) {
	t.Helper()
	rule := ruleFor(t, scheme, Source{Open: func(name string) (io.ReadCloser, error) {
		data, ok := files[name]
		if !ok {
			return nil, fs.ErrNotExist
		}
		return io.NopCloser(bytes.NewReader(data)), nil
	}})
	for _, name := range names {
		ids = append(ids, rule(Message{Base: baseOf(name)}))
	}
	return ids
}

func ruleFor(t *testing.T, scheme string, from Source) Rule {
	t.Helper()
	s, err := ByName(scheme)
	if err != nil {
		t.Fatal(err)
	}
	rule, err := s.Rule(from)
	if err != nil {
		t.Fatal(err)
	}
	return rule
}

// A rule that is made for some messages knows the same of these, and nothing of
// others.
func TestRulesForSomeMessages(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ scheme, file, text string }{
		{"dovecot", UIDListFile, "3 V16 N9\n1 W3 :1.a b:2,S\n2 Pold :2.b\n3 :3.c:2,\n4 W1 :1.a b\n"},
		{"dovecot", UIDListFile, "1 16 9\n1 1.a b:2,S\n2 2.b\n3 3.c:2,\n"},
		{"courier", SizeListFile, "1.a b:2,S 7\n2.b 7\n3.c 7\n"},
		{"courier", SizeListFile, "/1 9\n1.a b:2,S 7 1\n2.b 7 2\n3.c 7 3\n"},
		{"courier", SizeListFile, "/3 9 9\n1.a b:2,S 7 1:9:0\n2.b 7 2:9:0\n3.c 7 3:9:0\n"},
		{"list", ListFile, "2.b x\n1.a b:2,S y\n3.c z\n"},
	} {
		from := source(map[string]string{tt.file: tt.text})
		all := ruleFor(t, tt.scheme, from)
		from.Bases = []string{"2.b", "1.a b", "4.d"}
		some := ruleFor(t, tt.scheme, from)
		for _, base := range from.Bases {
			want := all(Message{Base: base})
			if got := some(Message{Base: base}); got != want || base != "4.d" && want == "" {
				t.Errorf("%s %.9q, %s: %q, want %q", tt.scheme, tt.text, base, got, want)
			}
		}
		// the first line of a list without a header is read to tell what it is
		if got := some(Message{Base: "3.c"}); got != "" {
			t.Errorf("%s %.9q: %q for a message that was not named", tt.scheme, tt.text, got)
		}
	}
}

func source(files map[string]string) Source {
	return Source{Open: func(name string) (io.ReadCloser, error) {
		if text, ok := files[name]; ok {
			return io.NopCloser(strings.NewReader(text)), nil
		}
		return nil, &os.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}}
}

// Of the servers that cannot be run any more, sums made by md5sum(1) and by
// a few lines of Python after what their sources say.
func TestRule177ServersOfThePast(t *testing.T) {
	t.Parallel()
	const mail = "From bob@example.test Mon Mar  4 10:00:00 2024\n" +
		"Received: from a\n\tby b\nDate: today\nMessage-Id: <1@a>\nSubject: s\n t\nX-Other: o\n\nReceived: not\n"
	for _, tt := range []struct{ scheme, base, head, want string }{
		{"filename", "1700000000.M1P1.host,S=5", "", "1700000000.M1P1.host,S=5"},
		{"courier-0", `1.a'b"c+d é`, "", "1.a+27b+22c+2Bd+20+C3+A9"},
		{"tpop3d", "1700000000.M1P1.host", "", "3f678cf686be48bcc01c6bad0c61d570"},
		{"tpop3d", "", mail, "ea68272f1f9240663a633f0a27039fe4"},
		{"qpopper", "", mail, `o<H"!X%p"!"9<!!N\O!!`},
		{"qpopper-old", "", mail, "f491fa2763d9d37ae6e680de5d45cf25"},
		{"qpopper", "", "From b\nDate: x\nX-UIDL:  0123456789abcdefABCD\n\n", "0123456789abcdefABCD"},
		{"qpopper", "", "From b\nX-UIDL: tooshort\n\n", `Xk7!!UPh"!m2A!!;n^!!`},
		{"message-id", "", "From b\nMessage-Id:  <a b>\nMessage-Id: <2>\n\nX-UIDL: no\n", "<a b>"},
		{"message-id", "", "From b\nMessage-Id: <1>\nX-UIDL: yes\n\n", "yes"},
		{"message-id", "", "From b\nSubject: none\n\nMessage-Id: <1>\n", ""},
		{"uw", "", "From b\nX-IMAPbase: 1709546912 0000000007 key\nX-UID: 3    \n\n", "65e59da000000003"},
		{"uw", "", "From b\nX-IMAP: 1709546912 0000000007\nX-UID: 4294967295\n\n", "65e59da0ffffffff"},
		{"uw", "", "From b\nX-UID: 3\n\n", ""},
		{"dovecot:%v.%u", "", "From b\nX-IMAPbase: 5 7\nX-UID: 3\n\n", "5.3"},
		{"x-uidl", "", "From b\nX-UIDL: a.b.c \n\n", "a.b.c"},
	} {
		rule := ruleFor(t, tt.scheme, Source{First: []byte(tt.head)})
		if got := rule(Message{Base: tt.base, Head: []byte(tt.head)}); got != tt.want {
			t.Errorf("%s %q %q: %q, want %q", tt.scheme, tt.base, tt.head, got, tt.want)
		}
	}
}

func TestRule177CourierLists(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, list, want string }{
		{"version 0", "1.a:2,S 10\n2.b c 20\n", "1.a 2.b+20c "},
		{"version 1", "/1 3\n1.a:2,S 10 1\n2.b c 20 2\n", "UID1 UID2 "},
		{"version 2", "/2 3 99\n1.a 10 1:99\n2.b c:2, 20 2:98\n", "UID1-99 UID2-98 "},
		{"version 3", "/3 4 99\n1.a 10 0:0:0\n2.b c 20 2:0:1\n3.c 1 3:99:1\n", "1.a UID2 UID3-99"},
	} {
		got := maildirNames(t, "courier", map[string][]byte{SizeListFile: []byte(tt.list)}, []string{"1.a", "2.b c", "3.c"})
		if s := strings.Join(got, " "); s != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, s, tt.want)
		}
	}
}

func TestDovecotLists(t *testing.T) {
	t.Parallel()
	const list = "3 V1275660208 N25022 G3085f01b7f11094c501100008c4a11c1\n" +
		"1 W33 S30 :1.a:2,S\n2 Gabc Pold-id O7 :2.b\n3 :3.c d\n9 :1.a:2,\n"
	for _, tt := range []struct{ scheme, list, want string }{
		{"dovecot", list, "000000094c0907b0 old-id 000000034c0907b0 "},
		{"dovecot:%v.%u", list, "1275660208.9 old-id 1275660208.3 "},
		{"dovecot:%g", list, "1.a old-id 3.c d "},
		{"auto", list, "000000094c0907b0 old-id 000000034c0907b0 "},
		{"dovecot", "1 1275660208 25022\n1 1.a:2,S\n3 3.c d:2,\n4 cut o", "000000014c0907b0  000000034c0907b0 "},
	} {
		got := maildirNames(t, tt.scheme, map[string][]byte{UIDListFile: []byte(tt.list)}, []string{"1.a", "2.b", "3.c d", "4.new"})
		if s := strings.Join(got, " "); s != tt.want {
			t.Errorf("%s of %q: %q, want %q", tt.scheme, tt.list, s, tt.want)
		}
	}
	l, err := ParseUIDList(strings.NewReader(list))
	if err != nil {
		t.Fatal(err)
	}
	want := UIDEntry{UID: 2, POP3: "old-id", GUID: "abc", Order: 7}
	if got := l.Entries["2.b"]; got != want {
		t.Errorf("entry %+v, want %+v", got, want)
	}
}

// What cannot be read is told with its line, and no id is made up for it.
func TestBrokenLists(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ scheme, file, text, want string }{
		{"dovecot", UIDListFile, "", "dovecot-uidlist line 1: no header: the file is empty or cut off"},
		{"dovecot", UIDListFile, "3 V1 N2", "dovecot-uidlist line 1: no header: the file is empty or cut off"},
		{"dovecot", UIDListFile, "2 V1 N2\n", "dovecot-uidlist line 1: not the header of version 1 or 3"},
		{"dovecot", UIDListFile, "3 V0 N2\n", "dovecot-uidlist line 1: no uidvalidity in the header"},
		{"dovecot", UIDListFile, "3 V1 N2\n1 :a\nx :b\n", "dovecot-uidlist line 3: does not begin with a uid and a blank"},
		{"dovecot", UIDListFile, "3 V1 N2\n1 a\n", "dovecot-uidlist line 2: no file name after a colon"},
		{"dovecot", UIDListFile, "3 V1 N2\n1 :../a\n", "dovecot-uidlist line 2: no file name"},
		{"dovecot", UIDListFile, "3 V1 N2\n1 Ox :a\n", "dovecot-uidlist line 2: an order that is no number"},
		{"dovecot", UIDListFile, "3 V1 N2\n1 :" + strings.Repeat("a", maxLine) + "\n", "dovecot-uidlist line 2: longer than 4096 octets"},
		{"courier", SizeListFile, "/4 1 1\n", "courierpop3dsizelist line 1: not the header of version 1, 2 or 3"},
		{"courier", SizeListFile, "/3 x 1\n", "courierpop3dsizelist line 1: a header with something that is no number"},
		{"courier", SizeListFile, "/3 1 1\na 1 1:1\n", "courierpop3dsizelist line 2: a number of 2 parts in a list of version 3"},
		{"courier", SizeListFile, "/2 1 1\na b 1:1\n", "courierpop3dsizelist line 2: a size that is no number"},
		{"courier", SizeListFile, "/2 1 1\na 1 1:x\n", "courierpop3dsizelist line 2: a number that is none"},
		{"courier", SizeListFile, "", "courierpop3dsizelist line 1: no line: the file is empty or cut off"},
		{"list", ListFile, "a 1\na:2,S 2\n", "kpopd-uidl line 2: a message that has an id already"},
		{"list", ListFile, "a\n", "kpopd-uidl line 1: not a file name, a blank and an id"},
		{"auto", ListFile, "a\n", "kpopd-uidl line 1: not a file name, a blank and an id"},
	} {
		s, err := ByName(tt.scheme)
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Rule(source(map[string]string{tt.file: tt.text}))
		var at *LineError
		if !errors.As(err, &at) || at.Error() != tt.want {
			t.Errorf("%s of %.40q: %v, want %s", tt.scheme, tt.text, err, tt.want)
		}
	}
}

// A maildrop that the old server never saw has no such file. Anything else
// that keeps it from being read is an error: ids would change.
func TestFilesThatAreNotThere(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"auto", "list", "dovecot", "courier"} {
		rule := ruleFor(t, name, source(nil))
		if id := rule(Message{Base: "1.a"}); id != "" {
			t.Errorf("%s: %q", name, id)
		}
		s, err := ByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Rule(Source{Open: func(string) (io.ReadCloser, error) { return nil, fs.ErrPermission }}); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAutoTakesTheFirstFile(t *testing.T) {
	t.Parallel()
	files := map[string]string{SizeListFile: "/3 2 9\n1.a 1 1:9:0\n"}
	for _, step := range []struct{ file, text, want string }{
		{"unrelated", "", "UID1-9"},
		{UIDListFile, "3 V16 N2\n1 :1.a\n", "0000000100000010"},
		{ListFile, "1.a mine\n", "mine"},
	} {
		files[step.file] = step.text
		if got := ruleFor(t, "auto", source(files))(Message{Base: "1.a"}); got != step.want {
			t.Errorf("with %s too: %q, want %q", step.file, got, step.want)
		}
	}
}

func TestTemplates(t *testing.T) {
	t.Parallel()
	v := Values{UID: 7, UIDValidity: 0x65e59da0, MD5: "md", FileName: "fn", GUID: "gu"}
	for format, want := range map[string]string{
		"%08Xu%08Xv":                             "0000000765e59da0",
		"%v.%u":                                  "1709546912.7",
		"UID%u-%v":                               "UID7-1709546912",
		"%05u%%":                                 "00007%",
		"%Xv":                                    "", // refused: the same for all
		"%m":                                     "md",
		"%f.%g":                                  "fn.gu",
		"%Mf":                                    "4d9d6c17eeae2754c9b49171261b93bd",
		"%{uid | hex(8)}%{uidvalidity | hex(8)}": "0000000765e59da0",
		"%{uid}-%{uidvalidity|hex}":              "7-65e59da0",
		"%{filename | md5 | hexlify}":            "4d9d6c17eeae2754c9b49171261b93bd",
		"%{uid | hex(0)}":                        "",
		"%{nothing}":                             "",
		"%{uid":                                  "",
		"%":                                      "",
		"%5u":                                    "",
		"%08Xf":                                  "",
		"%Xm":                                    "",
		"%099u":                                  "",
		"fixed":                                  "",
	} {
		tmpl, err := ParseTemplate(format)
		if err != nil {
			if want != "" {
				t.Errorf("%s: %v", format, err)
			}
			continue
		}
		if got := tmpl.ID(v); got != want {
			t.Errorf("%s: %q, want %q", format, got, want)
		}
	}
	tmpl, err := ParseTemplate("%u%m")
	if err != nil {
		t.Fatal(err)
	}
	if got := tmpl.ID(Values{UID: 1}); got != "" {
		t.Errorf("without an MD5: %q", got)
	}
}

func TestRule179IllegalIDsAreReplacedOnce(t *testing.T) {
	t.Parallel()
	a := NewAssigner(Suffix, nil)
	for _, illegal := range []string{"", "a b", "caf\xe9", "\x7f", strings.Repeat("x", 71), "a\r\nb"} {
		own := fmt.Sprintf("own-%x", illegal)[:min(60, len(fmt.Sprintf("own-%x", illegal)))]
		if got := a.Assign(illegal, own); got != own {
			t.Errorf("%q became %q, want %q", illegal, got, own)
		}
	}
	longest := strings.Repeat("~", MaxOctets)
	if got := a.Assign(longest, "own"); got != longest {
		t.Errorf("%q became %q", longest, got)
	}
}

func TestRule180Duplicates(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		policy Policy
		given  []string
		want   string
	}{
		{"suffix, as Dovecot's rename", Suffix, nil, "a a-2 b a-3 a-3-2"},
		{"suffix, after others", Suffix, []string{"a", "a-2"}, "a-3 a-4 b a-5 a-3-2"},
		{"allow", Allow, []string{"a"}, "a a b a a-3"},
	} {
		a := NewAssigner(tt.policy, tt.given)
		var got []string
		for i, id := range []string{"a", "a", "b", "a", "a-3"} {
			got = append(got, a.Assign(id, fmt.Sprint("own", i)))
		}
		if s := strings.Join(got, " "); s != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, s, tt.want)
		}
	}
	long := strings.Repeat("x", MaxOctets)
	a := NewAssigner(Suffix, []string{long})
	for _, own := range []string{"1", "2"} {
		if got := a.Assign(long, own); !Legal(got) || got == long {
			t.Errorf("%q", got)
		}
	}
}

// An id of the store's own is never given twice, whatever the policy: another
// message may have been given it by an old server.
func TestOwnIDsStayUnique(t *testing.T) {
	t.Parallel()
	a := NewAssigner(Allow, []string{"1.a"})
	if got := a.Assign("", "1.a"); got != "1.a-2" {
		t.Errorf("%q", got)
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	for _, name := range append(Names(), "dovecot:%v.%u") {
		s, err := ByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if s.Name != name || s.Formats == 0 || s.Doc == "" {
			t.Errorf("%s: %+v", name, s)
		}
		if _, err := s.Rule(source(nil)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"", "exim", "courier:", "dovecot:", "dovecot:%q"} {
		if _, err := ByName(name); err == nil {
			t.Errorf("%q is a scheme", name)
		}
	}
}
