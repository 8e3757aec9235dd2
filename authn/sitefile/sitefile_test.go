package sitefile

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRead(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		mode  fs.FileMode
		octet int
		bar   Bar
		want  string // the error; "" for the content
	}{
		{"empty", 0o600, 0, OthersUsable, ""},
		{"as large as it may be", 0o600, 2000, OthersUsable, ""},
		{"larger by one", 0o600, 2001, OthersUsable, "larger than 2000 octets"},
		{"much larger", 0o600, 1 << 20, OthersUsable, "larger than 2000 octets"},
		{"nothing barred", 0o666, 9, None, ""},
		{"the group writes", 0o664, 9, OthersWritable, "mode 0664 lets others write it: chmod 0644 it"},
		{"the group may write", 0o664, 9, WorldWritable, ""},
		{"all write", 0o606, 9, WorldWritable, "mode 0606 lets everybody write it: chmod 0604 it"},
		{"all write, and others may not", 0o602, 9, OthersWritable, "mode 0602 lets others write it: chmod 0600 it"},
		{"all read a public file", 0o644, 9, OthersWritable, ""},
		{"the group reads", 0o640, 9, OthersUsable, "mode 0640 lets others use it: chmod 0600 it"},
		{"the group may read", 0o640, 9, WorldUsable, ""},
		{"all read", 0o644, 9, WorldUsable, "mode 0644 lets everybody use it: chmod 0640 it"},
		{"the mask reads", 0o440, 9, MaskUsable, ""},
		{"the mask writes", 0o460, 9, MaskUsable, "mode 0460 lets others use it: chmod 0440 it"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "file")
			content := bytes.Repeat([]byte("x"), tt.octet)
			if err := errors.Join(os.WriteFile(path, content, 0o600), os.Chmod(path, tt.mode)); err != nil {
				t.Fatal(err)
			}
			got, err := Read(path, 2000, tt.bar)
			switch {
			case tt.want == "" && (err != nil || !bytes.Equal(got, content)):
				t.Errorf("got %d octets, %v", len(got), err)
			case tt.want != "" && (got != nil || err == nil || err.Error() != path+": "+tt.want):
				t.Errorf("got %d octets, %v; want %q", len(got), err, tt.want)
			}
		})
	}
}

// What is no regular file is refused, and nobody is waited for.
func TestReadRefusesKinds(t *testing.T) {
	t.Parallel()
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{fifo, t.TempDir(), os.DevNull} {
		if _, err := Read(path, 10, None); err == nil || !strings.HasSuffix(err.Error(), ": not a regular file") {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := Read(fifo+"x", 10, None); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// The file that was looked at is the one that was read, by whatever link.
func TestReadInfo(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(path, []byte("text"), 0o600), os.Symlink(path, link)); err != nil {
		t.Fatal(err)
	}
	text, info, err := ReadInfo(link, 4, OthersUsable)
	if err != nil || string(text) != "text" {
		t.Fatalf("got %q, %v", text, err)
	}
	st, err := os.Stat(path)
	if err != nil || !os.SameFile(st, info) {
		t.Errorf("another file: %v", err)
	}
}

// Files whose size is not told, and those that grow meanwhile, are read as far
// as they may go.
func TestReadOfUnknownSize(t *testing.T) {
	t.Parallel()
	const path = "/proc/self/mountinfo" // of no size
	if text, err := Read(path, 1<<20, None); err != nil || len(text) == 0 {
		t.Errorf("got %d octets, %v", len(text), err)
	}
	if _, err := Read(path, 10, None); err == nil || !strings.Contains(err.Error(), "larger than 10 octets") {
		t.Error(err)
	}
}

func ExampleWord() {
	word, rest, _ := Word(`"CN=Carol Jones,O=Example"  carol`)
	fmt.Printf("%s|%s", word, strings.TrimSpace(rest))
	// Output: CN=Carol Jones,O=Example|carol
}

func TestWord(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ line, word, rest, err string }{
		{"", "", "", ""},
		{"a", "a", "", ""},
		{"a b c", "a", " b c", ""},
		{"a\tb", "a", "\tb", ""},
		{`a\ b c`, `a\ b`, " c", ""},
		{`a\`, `a\`, "", ""},
		{`"a b" c`, "a b", " c", ""},
		{`"a\"b" c`, `a\"b`, " c", ""},
		{`""`, "", "", ""},
		{`"`, "", "", "no quote"},
		{`"a b`, "", "", "no quote"},
		{`"a b\"`, "", "", "no quote"},
		{`a"b c"`, `a"b`, ` c"`, ""},
	} {
		word, rest, err := Word(tt.line)
		if word != tt.word || rest != tt.rest || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%q: got %q, %q, %v", tt.line, word, rest, err)
		}
	}
}

// Nothing of a line is lost but quotes.
func FuzzWord(f *testing.F) {
	for _, s := range []string{"", "a b", `"a b" c`, `"a`, `a\`, `\" "`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		word, rest, err := Word(line)
		switch {
		case err != nil:
			if line[0] != '"' || word != "" || rest != "" {
				t.Errorf("%q: %q, %q, %v", line, word, rest, err)
			}
		case word+rest != line && `"`+word+`"`+rest != line:
			t.Errorf("%q: %q and %q", line, word, rest)
		}
	})
}
