package uidl

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// FuzzParseLists: a list is refused with its line, or all that it names is the
// base name of a file, and what it says of a message can be read again.
func FuzzParseLists(f *testing.F) {
	f.Add([]byte("3 V1275660208 N25022 G3085f01b\n1 W33 :1.a:2,S\n2 Gabc Pold O7 :2.b\n"))
	f.Add([]byte("1 16 3\n1 1.a:2,S\n"))
	f.Add([]byte("/3 3 99\n1.a:2,S 10 1:99:0\n2.b c 20 0:0:1\n"))
	f.Add([]byte("1.a 10\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		check := func(base string, err error) {
			t.Helper()
			if err == nil && (!plainName(base) || strings.Contains(base, ":") || !bytes.Contains(data, []byte(base))) {
				t.Errorf("base name %q", base)
			}
		}
		var at *LineError
		l, err := ParseUIDList(bytes.NewReader(data))
		if err != nil && !errors.As(err, &at) {
			t.Error(err)
		}
		if err == nil {
			again := fmt.Sprintf("3 V%d N1\n", l.UIDValidity)
			for base, e := range l.Entries {
				check(base, nil)
				if strings.Contains(base+e.POP3+e.GUID, "\n") {
					t.Errorf("a line end in %q %+v", base, e)
				}
				again += fmt.Sprintf("%d P%s G%s O%d :%s\n", e.UID, e.POP3, e.GUID, e.Order, base)
			}
			l2, err := ParseUIDList(strings.NewReader(again))
			if err == nil {
				for base, e := range l.Entries {
					if l2.Entries[base] != e {
						t.Errorf("%q: %+v, was %+v", base, l2.Entries[base], e)
					}
				}
			} else if len(again) < maxLine {
				t.Errorf("%q: %v", again, err)
			}
		}
		sizes, err := ParseSizeList(bytes.NewReader(data))
		if err != nil && !errors.As(err, &at) {
			t.Error(err)
		}
		for base, e := range sizes {
			check(base, err)
			if id := e.ID(base); e.N != 0 && !Legal(id) {
				t.Errorf("id %q", id)
			}
		}
		ids, err := ParseList(bytes.NewReader(data))
		if err != nil && !errors.As(err, &at) {
			t.Error(err)
		}
		for base, id := range ids {
			check(base, err)
			if id == "" || strings.ContainsAny(id, " \n") {
				t.Errorf("id %q", id)
			}
		}
	})
}

// FuzzRules: no rule is moved by what stands in the body (S-12; tpop3d hashes
// the first octets and does not tell them apart), hashes are legal ids, and the
// order of calls changes nothing.
func FuzzRules(f *testing.F) {
	f.Add([]byte("From b@x Mon Mar  4 10:00:00 2024\nReceived: a\n\tb\nDate: d\n"), []byte("X-UIDL: 0123456789ab\n"))
	f.Add([]byte("X-IMAPbase: 5 7\nX-UID: 3\nMessage-ID: <1>\r\n"), []byte("Message-ID: <2>\n"))
	f.Fuzz(func(t *testing.T, header, body []byte) {
		if bytes.Contains(header, []byte("\n\n")) || bytes.Contains(header, []byte("\n\r\n")) || bytes.HasPrefix(header, []byte("\n")) || bytes.HasPrefix(header, []byte("\r\n")) || !bytes.HasSuffix(header, []byte("\n")) {
			return
		}
		for _, s := range Schemes() {
			if s.Formats&Mbox == 0 || s.Name == "tpop3d" {
				continue
			}
			full, err := ByName(s.Name)
			if err != nil {
				t.Fatal(err)
			}
			head := append(bytes.Clone(header), '\n')
			rule, err := full.Rule(Source{First: head})
			if err != nil {
				t.Fatal(err)
			}
			id := rule(Message{Head: head})
			if got := rule(Message{Head: append(bytes.Clone(head), body...)}); got != id {
				t.Errorf("%s: %q with a body, %q without", s.Name, got, id)
			}
			switch s.Name {
			case "popa3d", "uw":
				if id != "" && (len(id) != 16 || !Legal(id)) {
					t.Errorf("%s: %q", s.Name, id)
				}
			}
		}
		if id := base80(bytes.Repeat(header, 16)[:16]); !Legal(id) || len(id) != 20 || strings.Contains(id, ".") {
			t.Errorf("base80: %q", id)
		}
	})
}

// FuzzTemplate: a format is refused, or makes different ids of different
// messages that have no other variable in common.
func FuzzTemplate(f *testing.F) {
	for _, s := range []string{DovecotDefault, "%v.%u", "%{uid | hex(8)}-%%", "UID%u-%v", "%Mf", "%5u", "%{x}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, format string) {
		tmpl, err := ParseTemplate(format)
		if err != nil {
			return
		}
		a := tmpl.ID(Values{UID: 1, UIDValidity: 9, MD5: "m1", FileName: "f1", GUID: "g1"})
		b := tmpl.ID(Values{UID: 2, UIDValidity: 9, MD5: "m2", FileName: "f2", GUID: "g2"})
		if a == b || a == "" {
			t.Errorf("%q: %q and %q", format, a, b)
		}
	})
}

// FuzzAssign: whatever an old server left, what is given may be sent, and under
// the policy that says so, only once.
func FuzzAssign(f *testing.F) {
	f.Add("a\na\nb\na-2\n\n \n"+strings.Repeat("x", 71), true)
	f.Add(strings.Repeat(strings.Repeat("y", 70)+"\n", 3), false)
	f.Fuzz(func(t *testing.T, ids string, suffix bool) {
		policy := Allow
		if suffix {
			policy = Suffix
		}
		a := NewAssigner(policy, nil)
		seen := map[string]bool{}
		for i, id := range strings.Split(ids, "\n") {
			own := fmt.Sprintf("%d.own", i)
			got := a.Assign(id, own)
			if !Legal(got) {
				t.Fatalf("%q became %q", id, got)
			}
			if policy == Suffix && seen[got] {
				t.Fatalf("%q is given twice", got)
			}
			if policy == Allow && Legal(id) && !strings.HasSuffix(id, ".own") && got != id {
				t.Fatalf("%q became %q", id, got)
			}
			seen[got] = true
		}
	})
}
