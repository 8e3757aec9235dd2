package mbox

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/kpopd/kpopd/maildrop"
	"github.com/kpopd/kpopd/maildrop/droptest"
)

func TestIsFrom(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		line string
		want bool
	}{
		{"From sender@example.test Tue Nov 14 22:13:20 2023\n", true},
		{"From sender@example.test  Tue Nov  4 22:13:20 2023\n", true},
		{"From MAILER-DAEMON Tue Nov 14 22:13 2023\r\n", true},
		{"From - Tue Nov 14 22:13:20 2023\n", true},
		{"From  Tue Nov 14 22:13:20 2023\n", true}, // no sender
		{"From \"a b\"@example.test Tue Nov 14 22:13:20 2023\n", true},
		{"From a Tue Nov 14 22:13:20 MET 2023\n", true},
		{"From a Tue Nov 14 22:13:20 2023 +0100\n", true},
		{"From a Tue Nov 14 22:13:20 MET DST 2023\n", true},
		{"From a Tue Nov 14 22:13:20 2023 remote from b\n", true},
		{"From Sun Tue Nov 14 22:13:20 2023\n", true},
		{"From a Tue Nov 14 22:13:20 2023", false}, // still being written
		{"From here on, Tue Nov 14 is a day\n", false},
		{"From a Tue Nov 32 22:13:20 2023\n", false},
		{"From a Tue Nov 14 22:13:2x 2023\n", false},
		{"From a Tue Nov 14 22-13-20 2023\n", false},
		{"From a Tue Nov 14 22:13:20 23\n", false},
		{"From a Tue uNo 14 22:13:20 2023\n", false},
		{"From a ueW Nov 14 22:13:20 2023\n", false},
		{"From the Tue\n", false},
		{"From \n", false},
		{">From a Tue Nov 14 22:13:20 2023\n", false},
		{"from a Tue Nov 14 22:13:20 2023\n", false},
		{"From:a Tue Nov 14 22:13:20 2023\n", false},
		{"From " + strings.Repeat("a", 1000) + " Tue Nov 14 22:13:20 2023\n", false},
	} {
		if got := isFrom([]byte(tt.line)); got != tt.want {
			t.Errorf("%.60q: %v, want %v", tt.line, got, tt.want)
		}
	}
}

// parts splits text, and gives what of each message is sent.
func parts(text string) (all []part, sent []string, err error) {
	err = parse(iotest.HalfReader(strings.NewReader(text)), 0, func(p part, _ []byte) error {
		var b strings.Builder
		at := p.offset + p.line
		for _, c := range p.cuts {
			b.WriteString(text[at : p.offset+c.from])
			at = p.offset + c.to
		}
		b.WriteString(text[at : p.offset+p.octets])
		all, sent = append(all, p), append(sent, b.String())
		return nil
	})
	return all, sent, err
}

func TestBoundaries(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 300<<10)
	for _, tt := range []struct {
		name, text string
		want       []string
	}{
		{"nothing", "", nil},
		{"empty lines", "\n\r\n\n", nil},
		{"one message", fromLine + "a\n\nb\n\n", []string{"a\n\nb\n"}},
		{"two messages", fromLine + "a\n\n" + fromLine + "b\n\n", []string{"a\n", "b\n"}},
		{"empty lines before the first", "\n\n" + fromLine + "a\n\n", []string{"a\n"}},
		{"no empty line before From_: text", fromLine + "a\n\nb\n" + fromLine + "c\n\n", []string{"a\n\nb\n" + fromLine + "c\n"}},
		{"From without a date: text", fromLine + "a\n\nFrom me\n\n", []string{"a\n\nFrom me\n"}},
		{"a quoted From_ stays quoted", fromLine + "a\n\n>" + fromLine + "\n", []string{"a\n\n>" + fromLine}},
		{"no empty line at the end", fromLine + "a\n\nb\n", []string{"a\n\nb\n"}},
		{"no line end at the end", fromLine + "a\n\nb", []string{"a\n\nb"}},
		{"several empty lines at the end", fromLine + "a\n\n\n\n" + fromLine + "b\n\n\n", []string{"a\n\n\n", "b\n\n"}},
		{"empty messages", fromLine + "\n" + fromLine + "\n" + fromLine, []string{"", "", ""}},
		{"From_ after From_: a line of the header", fromLine + fromLine + "\n", []string{fromLine}},
		{"CRLF", "From a Tue Nov 14 22:13:20 2023\r\na\r\n\r\nFrom b Tue Nov 14 22:13:20 2023\r\nb\r\n\r\n", []string{"a\r\n", "b\r\n"}},
		{"Content-Length that lies", fromLine + "Content-Length: 9999\n\na\n\n" + fromLine + "b\n\n", []string{"\na\n", "b\n"}},
		{"Content-Length across a From_ line", fromLine + "Content-Length: 54\n\n\n" + fromLine + "b\n\n", []string{"\n", "b\n"}},
		{"long lines", fromLine + long + "\n\n" + long + "\n\n" + fromLine + "b\n\n", []string{long + "\n\n" + long + "\n", "b\n"}},
		{"From_ within a long line", fromLine + long + fromLine + "\n", []string{long + fromLine}},
		{"hidden fields", fromLine + "Status: R\na: b\nX-UID: 1\nX-Keywords:\n a\nc: d\nX-Status: \n\nStatus: S\n\n", []string{"a: b\nc: d\n\nStatus: S\n"}},
		{"a first line that begins with a blank", fromLine + " Status: R\n\n", []string{" Status: R\n"}},
	} {
		_, got, err := parts(tt.text)
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%s: %.200q, %v, want %.200q", tt.name, got, err, tt.want)
		}
	}
}

func TestHeaderWithoutEnd(t *testing.T) {
	t.Parallel()
	text := fromLine + strings.Repeat("a: b\nStatus: R\n", headLimit/10) + "\nbody\n\n"
	all, sent, err := parts(text)
	if err != nil || len(all) != 1 || len(all[0].cuts) != maxCuts || all[0].head > headLimit+(256<<10) {
		t.Fatalf("%d parts, %v", len(all), err)
	}
	if all[0].size != int64(len(droptest.Wire(sent[0]))) {
		t.Errorf("size %d, is sent with %d", all[0].size, len(droptest.Wire(sent[0])))
	}
}

func TestParseReportsReadErrors(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	if err := parse(iotest.ErrReader(broken), 0, nil); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

// FuzzParse: the parts are the file, in order, and each has the size in which it is
// sent; a file that grew at its end has the parts that it had, but the last.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"", "\n", fromLine, asDelivered("a\n"), asDelivered("a\n\nb") + asDelivered(".\n"), "hello\n",
		fromLine + "Status: R\nX-UID: 1\n x\n\n\nFrom x\n\n" + fromLine + "\n\n",
		"From a Tue Nov 14 22:13:20 2023\r\nContent-Length: 1\r\n\r\n..\r\n\r\n" + fromLine,
	} {
		f.Add([]byte(s), uint16(len(s)/2))
	}
	f.Fuzz(func(t *testing.T, b []byte, cutAt uint16) {
		text := string(b)
		all, sent, err := parts(text)
		if err != nil {
			rest := text
			for line := range strings.Lines(text) {
				if !isEmpty([]byte(line)) {
					break
				}
				rest = rest[len(line):]
			}
			line, _, _ := strings.Cut(rest, "\n")
			if !errors.Is(err, errNotMbox) || isFrom([]byte(line+"\n")) && strings.Contains(rest, "\n") {
				t.Fatalf("%v", err)
			}
			return
		}
		at := len(text)
		if len(all) > 0 {
			at = int(all[0].offset)
		}
		if strings.Trim(text[:at], "\r\n") != "" {
			t.Errorf("%q before the first part", text[:at])
		}
		for i, p := range all {
			if p.offset != int64(at) || !isFrom([]byte(text[at:at+int(p.line)])) || p.octets < p.line || p.offset+p.octets > p.end {
				t.Fatalf("part %d is %+v, begins at %d", i, p, at)
			}
			if gap := text[p.offset+p.octets : p.end]; gap != "" && !isEmpty([]byte(gap)) {
				t.Errorf("%q belongs to no part", gap)
			}
			if n := len(droptest.Wire(sent[i])); p.size != int64(n) {
				t.Errorf("part %d: size %d, is sent with %d", i, p.size, n)
			}
			e := entry{part: p, uid: "x"}
			if !e.sane(int64(len(text))) {
				t.Errorf("the index would not take %+v", p)
			}
			at = int(p.end)
		}
		if len(all) > 0 && at != len(text) {
			t.Errorf("the parts end at %d of %d", at, len(text))
		}
		first, _, err := parts(text[:min(int(cutAt), len(text))])
		if err != nil {
			return
		}
		for i, p := range first[:max(0, len(first)-1)] {
			if i >= len(all) || all[i].id != p.id || all[i].end != p.end {
				t.Errorf("part %d of the file that grew is another", i)
			}
		}
	})
}

// FuzzIndex: what is decoded is what was encoded, or nothing.
func FuzzIndex(f *testing.F) {
	l := &listing{at: stamp{inode{1, 2}, 200, 4, 5}, front: 1 << 63, back: 7, gone: []string{"a", "b"}}
	l.entries = []entry{
		{part{offset: 0, line: 50, octets: 90, end: 91, head: 80, sum: 1 << 63, cuts: []cut{{50, 60}, {70, 80}}, pseudo: true, size: 40}, "x"},
		{part{offset: 91, line: 50, octets: 100, end: 191, head: 60, size: 50, wireForm: true, id: [16]byte{1}}, "y"},
	}
	f.Add(l.encode())
	f.Add((&listing{}).encode())
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := decode(b)
		if err == nil && !bytes.Equal(l.encode(), b) {
			again, err := decode(l.encode())
			if err != nil || !bytes.Equal(again.encode(), l.encode()) {
				t.Errorf("decoding and encoding do not agree: %v", err)
			}
		}
	})
}

func TestRuleS13DamageAnywhereIsSeen(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.store(Options{})
	w.write("alice", asDelivered("Subject: a\nStatus: R\n\na\n")+asDelivered("Subject: b\n\nb\n"))
	uids, texts := list(t, s)
	good := s.loadIndex("alice").encode()
	for i := range good {
		for _, bad := range [][]byte{append(bytes.Clone(good[:i]), append([]byte{good[i] ^ 0x10}, good[i+1:]...)...), good[:i]} {
			if l, err := decode(bad); err == nil {
				t.Fatalf("damage at octet %d is not seen: %+v", i, l)
			}
		}
	}
	var log strings.Builder
	s = w.store(Options{Log: captured(&log)})
	good[len(magic)+3]++
	if err := s.writeIndex(stateName("alice", "index"), good); err != nil {
		t.Fatal(err)
	}
	if after, again := list(t, s); !slices.Equal(after, uids) || !slices.Equal(again, texts) {
		t.Errorf("%q of %q, were %q of %q", again, after, texts, uids)
	}
	if strings.Count(log.String(), "index of a maildrop not used") != 1 {
		t.Errorf("the log is %q", log.String())
	}
	if s.loadIndex("alice") == nil {
		t.Error("the index was not made again")
	}
}

// An index that is whole and wrong, as of a file restored with its times, changes
// nothing that is sent, and removes nothing else.
func TestIndexOfOtherOctets(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.store(Options{})
	w.write("alice", asDelivered("Subject: a\n\naaaa\n")+asDelivered("Subject: b\n\nbbbb\n"))
	list(t, s)
	wrong := s.loadIndex("alice")
	w.write("alice", asDelivered("Subject: bb\n\nbbb\n")+asDelivered("Subject: c\n\ncccc\n"))
	wrong.at = stampAt(t, w.file("alice"))
	s.saveIndex("alice", wrong)
	d := session(t, s)
	if len(d.messages) != 2 {
		t.Fatal("the index was not used")
	}
	for i := range 2 {
		if _, err := d.Content(t.Context(), i); !errors.Is(err, maildrop.ErrGone) {
			t.Errorf("message %d: %v, want ErrGone", i, err)
		}
	}
	if err := d.Commit(t.Context(), []int{0, 1}); err != nil {
		t.Error(err)
	}
	wantTexts(t, s, "Subject: bb\n\nbbb\n", "Subject: c\n\ncccc\n")
}

func stampAt(t *testing.T, path string) stamp {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	at, err := stampOf(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	return at
}
