package maildir

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kpopd/kpopd/maildrop"
)

func TestFolderDir(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ in, want string }{
		{"Sent", ".Sent"},
		{"INBOX", ""},
		{"INBOX.Sent", ".Sent"},
		{"Lists/kpopd.users", ".Lists.kpopd.users"},
		{"Sent Items", ".Sent Items"},
		{"a&b", ".a&-b"},
		{"Entw\u00fcrfe", ".Entw&APw-rfe"}, // these two as Dovecot and Courier store them
		{"\u53f0\u5317/\u65e5\u672c\u8a9e", ".&U,BTFw-.&ZeVnLIqe-"},
		{"\U0001f4e7", ".&2D3c5w-"},
	} {
		if got, err := folderDir(tt.in); got != tt.want || err != nil {
			t.Errorf("%q is in %q, %v, want %q", tt.in, got, err, tt.want)
		}
	}
}

// FuzzFolderDir: a folder is one name in the directory of the maildrop, which
// begins with a dot and leads nowhere else.
func FuzzFolderDir(f *testing.F) {
	for _, s := range []string{"Sent", "INBOX/a.b", "../x", "\u00fc&", "a\x00", strings.Repeat("\u00fc", 100)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, folder string) {
		dir, err := folderDir(folder)
		if err != nil {
			if !errors.Is(err, maildrop.ErrNoFolder) || dir != "" {
				t.Errorf("%q: %q, %v", folder, dir, err)
			}
			return
		}
		if dir == "" {
			return // the inbox
		}
		if dir[0] != '.' || len(dir) < 2 || len(dir) > 255 || strings.Contains(dir, "..") || strings.HasSuffix(dir, ".") ||
			strings.ContainsFunc(dir, func(r rune) bool { return r < ' ' || r > '~' || r == '/' }) {
			t.Errorf("%q is in %q", folder, dir)
		}
	})
}

// A folder has messages, unique-ids, an index and a lock of its own; whatever it is
// called.
func TestFolders(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	alice := makeMaildir(t, root, "alice")
	put(t, alice, "1.inbox", "inbox\n")
	put(t, makeMaildir(t, root, "alice", ".Lists.kpopd"), "2.list", "list\n")
	s := newStore(t, root, Options{})
	open := func(folder string) (maildrop.Drop, error) {
		return s.Open(t.Context(), maildrop.Ref{User: "alice", Folder: folder})
	}
	d, err := open("Lists/kpopd")
	if err != nil {
		t.Fatal(err)
	}
	if ms := messages(t, d); len(ms) != 1 || ms[0].UID != "2.list" {
		t.Errorf("the folder has %+v", ms)
	}
	for _, again := range []string{"Lists.kpopd", "INBOX.Lists/kpopd"} {
		other, err := open(again)
		wantKind(t, other, err, maildrop.ErrInUse)
	}
	inbox, err := open("inbox")
	if err != nil {
		t.Fatal("the inbox is locked with its folder:", err)
	}
	if ms := messages(t, inbox); len(ms) != 1 || ms[0].UID != "1.inbox" {
		t.Errorf("the inbox has %+v", ms)
	}
	other, err := s.Open(t.Context(), maildrop.Ref{User: "alice"})
	wantKind(t, other, err, maildrop.ErrInUse)
	if err := errors.Join(d.Commit(t.Context(), []int{0}), inbox.Close()); err != nil {
		t.Fatal(err)
	}
	if n := countFiles(t, alice); n != 1 {
		t.Errorf("the inbox has %d messages after the one of its folder was removed", n)
	}
}

// What a folder's name cannot do: lead out, follow links, make directories, open
// another's.
func TestFoldersThatLeadAstray(t *testing.T) {
	t.Parallel()
	root, victim := outside(t)
	put(t, makeMaildir(t, root, "bob", ".Sent"), "3.bob", "bob\n")
	symlink(t, victim, root, "alice", ".link")
	symlink(t, "../bob", root, "alice", ".bob")
	symlink(t, victim+"/new", makeMaildir(t, root, "alice", ".half"), "x")
	if err := os.WriteFile(filepath.Join(root, "alice", ".file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(root, "alice", ".empty"), 0o700); err != nil {
		t.Fatal(err)
	}
	s := newStore(t, root, Options{Create: true})
	before := tree(t, root)
	for _, folder := range []string{"../bob", "..", "../../victim", "/bob", "x/../../bob", "new", "cur", "nobody", "empty"} {
		d, err := s.Open(t.Context(), maildrop.Ref{User: "alice", Folder: folder})
		wantKind(t, d, err, maildrop.ErrNoFolder)
	}
	for _, folder := range []string{"link", "bob", "link/new", "file"} {
		d, err := s.Open(t.Context(), maildrop.Ref{User: "alice", Folder: folder})
		if err == nil || errors.Is(err, maildrop.ErrTemporary) {
			t.Errorf("%s: %v", folder, err)
		}
		if err == nil {
			d.Close()
		}
	}
	if after := tree(t, root); after != before {
		t.Errorf("made something:\n%s\nbefore:\n%s", after, before)
	}
	d, err := s.Open(t.Context(), maildrop.Ref{User: "carol", Folder: "Sent"})
	wantKind(t, d, err, maildrop.ErrTemporary)
}

// tree is the names beneath root, without our own files.
func tree(t *testing.T, root string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if !strings.HasPrefix(filepath.Base(path), ".kpopd.") {
			b.WriteString(path + "\n")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// When a message arrived is in its name; else the time of its file says so, and
// that of the first look where sizes come from names.
func TestArrived(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	alice := makeMaildir(t, root, "alice")
	long := time.Unix(1_000_000, 0)
	for name, modified := range map[string]time.Time{"1700000000.a": long, "x.old": long, "y.new": time.Unix(1_800_000_000, 0), "99999999999999999999.b": long} {
		put(t, alice, name, "m\n")
		if err := os.Chtimes(filepath.Join(alice, "new", name), modified, modified); err != nil {
			t.Fatal(err)
		}
	}
	s := newStore(t, root, Options{})
	for since, want := range map[int64]string{1: "x.old y.new 1700000000.a 99999999999999999999.b", 1_700_000_000: "y.new 1700000000.a", 1_700_000_001: "y.new"} {
		d, err := s.Open(t.Context(), maildrop.Ref{User: "alice", Since: time.Unix(since, 0)})
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(uidsOf(messages(t, d)), " "); got != want {
			t.Errorf("since %d: %s, want %s", since, got, want)
		}
		d.Close()
	}

	trusting := newStore(t, root, Options{TrustSizes: true})
	put(t, alice, "z,W=3", "m\n")
	d, err := trusting.Open(t.Context(), maildrop.Ref{User: "alice", Since: time.Now().Add(-time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if got := strings.Join(uidsOf(messages(t, d)), " "); !strings.HasSuffix(got, " z,W=3") || strings.Contains(got, ".old") {
		t.Errorf("lately: %s", got)
	}
}
