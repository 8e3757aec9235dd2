package maildir

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/maildrop"
)

// counting gives unique-ids that cannot be made again: each call goes on
// counting.
func counting(validity string) UIDs {
	n := 0
	return func(_ context.Context, _ int, bases []string, _ map[string]string) ([]string, error) {
		uids := make([]string, len(bases))
		for i := range uids {
			n++
			uids[i] = fmt.Sprintf("%s-%d", validity, n)
		}
		return uids, nil
	}
}

// never is for messages that all have unique-ids.
func never(t *testing.T) UIDs {
	return func(_ context.Context, _ int, bases []string, _ map[string]string) ([]string, error) {
		t.Errorf("asked again for the unique-ids of %q", bases)
		return make([]string, len(bases)), nil
	}
}

func uidsOf(ms maildrop.Messages) (uids []string) {
	for _, m := range ms {
		uids = append(uids, m.UID)
	}
	return uids
}

func wantUIDs(t *testing.T, s *Store, want ...string) {
	t.Helper()
	if got := uidsOf(openOnce(t, s)); !slices.Equal(got, want) {
		t.Errorf("unique-ids %q, want %q", got, want)
	}
}

func TestUIDsAreGivenInOrder(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	alice := makeMaildir(t, root, "alice")
	var got []string
	var earlier int // given before the last call
	s := newStore(t, root, Options{UIDs: func(_ context.Context, dir int, bases []string, given map[string]string) ([]string, error) {
		got = append(got, bases...)
		for base, uid := range given {
			if uid != uidOf(base) {
				t.Errorf("%q was given %q", base, uid)
			}
		}
		earlier = len(given)
		var st unix.Stat_t
		if err := unix.Fstatat(dir, "new", &st, 0); err != nil {
			t.Error(err)
		}
		return make([]string, len(bases)), nil
	}})
	put(t, alice, "10.a", "a\n")
	put(t, alice, "9.b c", "b\n")
	wantUIDs(t, s, uidOf("9.b c"), "10.a")
	put(t, alice, "8.c", "c\n")
	wantUIDs(t, s, "8.c", uidOf("9.b c"), "10.a")
	if want := []string{"9.b c", "10.a", "8.c"}; !slices.Equal(got, want) || earlier != 2 {
		t.Errorf("asked for %q, want %q, and %d given before", got, want, earlier)
	}
}

// Rule 178: a restart, a rebuild of the index, a restored backup, another
// uidvalidity, and another rule or none leave unique-ids as they were issued.
func TestRule178FrozenUIDsStay(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(t *testing.T, alice string){
		"restart":         func(*testing.T, string) {},
		"index removed":   func(t *testing.T, alice string) { forget(t, alice) },
		"index damaged":   func(t *testing.T, alice string) { damage(t, filepath.Join(alice, indexFile), 200) },
		"flags":           func(t *testing.T, alice string) { flag(t, alice, "2.b"); forget(t, alice) },
		"restored backup": restore,
		"restored backup without an index": func(t *testing.T, alice string) {
			restore(t, alice)
			forget(t, alice)
		},
		"only the index is left": func(t *testing.T, alice string) {
			if err := os.Remove(filepath.Join(alice, uidsFile)); err != nil {
				t.Fatal(err)
			}
		},
		"moved away and back": func(t *testing.T, alice string) {
			away := filepath.Join(alice, "away")
			if err := os.Rename(filepath.Join(alice, "new/2.b"), away); err != nil {
				t.Fatal(err)
			}
			wantUIDs(t, newStore(t, filepath.Dir(alice), Options{UIDs: never(t)}), "v1-1", "v1-3")
			if err := os.Rename(away, filepath.Join(alice, "new/2.b")); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			alice := makeMaildir(t, root, "alice")
			for _, base := range []string{"1.a", "2.b", "3.c d"} {
				put(t, alice, base, "a\n")
			}
			wantUIDs(t, newStore(t, root, Options{UIDs: counting("v1")}), "v1-1", "v1-2", "v1-3")
			change(t, alice)
			wantUIDs(t, newStore(t, root, Options{UIDs: never(t)}), "v1-1", "v1-2", "v1-3")
			put(t, alice, "4.e", "e\n")
			wantUIDs(t, newStore(t, root, Options{UIDs: counting("v2")}), "v1-1", "v1-2", "v1-3", "v2-1")
			forget(t, alice)
			wantUIDs(t, newStore(t, root, Options{}), "v1-1", "v1-2", "v1-3", "v2-1")
			put(t, alice, "5.f", "f\n")
			wantUIDs(t, newStore(t, root, Options{}), "v1-1", "v1-2", "v1-3", "v2-1", "5.f")
		})
	}
}

func damage(t *testing.T, path string, at int) {
	t.Helper()
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	file[at] ^= 0x10
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
}

func flag(t *testing.T, alice, base string) {
	t.Helper()
	if err := os.Rename(filepath.Join(alice, "new", base), filepath.Join(alice, "cur", base+":2,S")); err != nil {
		t.Fatal(err)
	}
}

// restore gives alice's maildrop back as a backup does: other inodes, other
// change times, our files among the rest.
func restore(t *testing.T, alice string) {
	t.Helper()
	backup := alice + ".backup"
	if err := errors.Join(os.CopyFS(backup, os.DirFS(alice)), os.RemoveAll(alice), os.Rename(backup, alice)); err != nil {
		t.Fatal(err)
	}
}

// What a site has issued before it has a rule stays issued, whatever becomes of
// the index.
func TestRule178ARuleComesLater(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	alice := makeMaildir(t, root, "alice")
	put(t, alice, "1.a", "a\n")
	s := newStore(t, root, Options{})
	indexed(t, s)
	openOnce(t, s)
	wantUIDs(t, newStore(t, root, Options{UIDs: never(t)}), "1.a")
	forget(t, alice)
	wantUIDs(t, newStore(t, root, Options{UIDs: never(t)}), "1.a")
}

// An assigner that cannot answer refuses the login: a client that is given
// another unique-id fetches everything again.
func TestUIDsThatCannotBeHad(t *testing.T) {
	t.Parallel()
	for name, u := range map[string]UIDs{
		"error":   func(context.Context, int, []string, map[string]string) ([]string, error) { return nil, unix.EIO },
		"too few": func(context.Context, int, []string, map[string]string) ([]string, error) { return nil, nil },
	} {
		root := t.TempDir()
		put(t, makeMaildir(t, root, "alice"), "1.a", "a\n")
		d, err := newStore(t, root, Options{UIDs: u}).Open(t.Context(), maildrop.Ref{User: "alice"})
		t.Log(name)
		wantKind(t, d, err, maildrop.ErrTemporary)
		wantUIDs(t, newStore(t, root, Options{UIDs: counting("v")}), "v-1") // and the lock is free
	}
}

// So does a file of unique-ids that cannot be read.
func TestUIDsFileOfAnotherKind(t *testing.T) {
	t.Parallel()
	for _, plant := range []func(path string) error{
		func(path string) error { return os.Symlink("/dev/null", path) },
		func(path string) error { return unix.Mkfifo(path, 0o600) },
		func(path string) error { return os.Mkdir(path, 0o700) },
	} {
		root := t.TempDir()
		alice := makeMaildir(t, root, "alice")
		put(t, alice, "1.a", "a\n")
		if err := plant(filepath.Join(alice, uidsFile)); err != nil {
			t.Fatal(err)
		}
		d, err := newStore(t, root, Options{}).Open(t.Context(), maildrop.Ref{User: "alice"})
		wantKind(t, d, err, maildrop.ErrPermanent)
	}
}

// Nothing is written into a file that has a name elsewhere.
func TestUIDsFileOfTwoNames(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	alice := makeMaildir(t, root, "alice")
	put(t, alice, "1.a", "a\n")
	victim := filepath.Join(root, "victim")
	if err := errors.Join(os.WriteFile(victim, nil, 0o600), os.Link(victim, filepath.Join(alice, uidsFile))); err != nil {
		t.Fatal(err)
	}
	var log logged
	wantUIDs(t, newStore(t, root, Options{UIDs: counting("v"), Log: log.logger()}), "v-1")
	if b, err := os.ReadFile(victim); len(b) > 0 || err != nil {
		t.Errorf("the file elsewhere holds %q, %v", b, err)
	}
	if len(log.lines("level=ERROR", "unique-ids not written down", "another name")) != 1 {
		t.Errorf("the log says %q", log.b.String())
	}
}

func TestIllegalUIDsAreReplaced(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	alice := makeMaildir(t, root, "alice")
	bad := []string{"a b", "a\r\n.\r\n", strings.Repeat("x", 71), "\xff"}
	for i := range bad {
		put(t, alice, fmt.Sprintf("%d.a", i+1), "a\n")
	}
	var log logged
	s := newStore(t, root, Options{Log: log.logger(), UIDs: func(context.Context, int, []string, map[string]string) ([]string, error) { return bad, nil }})
	wantUIDs(t, s, "1.a", "2.a", "3.a", "4.a")
	if n := len(log.lines("level=WARN", "unique-id replaced")); n != len(bad) || len(log.lines()) != n {
		t.Errorf("the log says %q", log.b.String())
	}
}

// A line that is damaged costs at most its own unique-id, and that loudly; not
// even that while the index has it.
func TestDamagedUIDsFile(t *testing.T) {
	t.Parallel()
	const second = len("1 01234567 v1-1 1.a\n")
	for _, tt := range []struct {
		name     string
		harm     func(file []byte) []byte
		index    bool
		want     []string // the new message is the last one
		errors   int
		restored bool // by the index: the next store needs none
	}{
		{"a line, without an index", func(f []byte) []byte { f[second+12] ^= 1; return f }, false, []string{"v1-1", "v2-1", "v1-3", "v2-2"}, 1, false},
		{"a line, with the index", func(f []byte) []byte { f[second+12] ^= 1; return f }, true, []string{"v1-1", "v1-2", "v1-3", "v2-1"}, 1, true},
		{"torn", func(f []byte) []byte { return f[:len(f)-3] }, true, []string{"v1-1", "v1-2", "v1-3", "v2-1"}, 1, true},
		{"the end of the last line", func(f []byte) []byte { return f[:len(f)-1] }, false, []string{"v1-1", "v1-2", "v1-3", "v2-1"}, 0, true},
		{"emptied", func([]byte) []byte { return nil }, true, []string{"v1-1", "v1-2", "v1-3", "v2-1"}, 0, true},
		{"a line twice, the later one otherwise", func(f []byte) []byte { return append(f, uidLine("1.a", "other")...) }, false, []string{"v1-1", "v1-2", "v1-3", "v2-1"}, 0, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			alice := makeMaildir(t, root, "alice")
			for _, base := range []string{"1.a", "2.b", "3.c"} {
				put(t, alice, base, "a\n")
			}
			openOnce(t, newStore(t, root, Options{UIDs: counting("v1")}))
			path := filepath.Join(alice, uidsFile)
			file, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, tt.harm(file), 0o600); err != nil {
				t.Fatal(err)
			}
			if !tt.index {
				forget(t, alice)
			}
			put(t, alice, "4.d", "d\n")
			var log logged
			wantUIDs(t, newStore(t, root, Options{UIDs: counting("v2"), Log: log.logger()}), tt.want...)
			if n := len(log.lines("level=ERROR", "unique-ids lost", "lines=1")); n != tt.errors || len(log.lines()) != n {
				t.Errorf("the log says %q", log.b.String())
			}
			forget(t, alice)
			wantUIDs(t, newStore(t, root, Options{UIDs: never(t)}), tt.want...)
		})
	}
}

// What the file loses while the server runs it gets back from memory, also
// where the loss is not the first thing that happens to it.
func TestUIDsFileLosesLinesUnderARunningServer(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	alice := makeMaildir(t, root, "alice")
	path := filepath.Join(alice, uidsFile)
	s := newStore(t, root, Options{UIDs: counting("v1")})
	var want []string
	for i := range 6 {
		put(t, alice, fmt.Sprintf("%d.a", i), "a\n")
		want = append(want, fmt.Sprintf("v1-%d", i+1))
		wantUIDs(t, s, want...)
		if i%2 == 1 {
			file, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			replaced := filepath.Join(root, "replaced") // another file: the change time may be the same
			if err := errors.Join(os.WriteFile(replaced, file[:len(file)/2], 0o600), os.Rename(replaced, path)); err != nil {
				t.Fatal(err)
			}
		}
	}
	put(t, alice, "9.a", "a\n")
	want = append(want, "v1-7")
	wantUIDs(t, s, want...)
	forget(t, alice)
	wantUIDs(t, newStore(t, root, Options{UIDs: never(t)}), want...)
}

// On a full disk unique-ids are shown that are not written down; they are when
// there is room.
func TestUIDsOnAFullDisk(t *testing.T) {
	t.Parallel()
	root := smallDisk(t, "8") // root, alice, new, cur, tmp, a message, the lock file and a filler
	alice := makeMaildir(t, root, "alice")
	put(t, alice, "1.a", "a\n")
	filler := filepath.Join(root, "filler")
	fill(t, filler)
	var log logged
	s := newStore(t, root, Options{Log: log.logger(), UIDs: counting("v1")})
	wantUIDs(t, s, "v1-1")
	if len(log.lines("level=ERROR", "unique-ids not written down")) != 1 {
		t.Errorf("the log says %q", log.b.String())
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	wantUIDs(t, s, "v1-1")
	forget(t, alice)
	wantUIDs(t, newStore(t, root, Options{UIDs: never(t)}), "v1-1")
}

// Of many unique-ids those are written down that there is room for.
func TestUIDsOnADiskThatIsAlmostFull(t *testing.T) {
	t.Parallel()
	root := smallDisk(t, "500")
	alice := makeMaildir(t, root, "alice")
	const n = 300
	for i := range n {
		if err := os.WriteFile(filepath.Join(alice, "new", fmt.Sprintf("%03d.a", i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	room := int64(unix.Getpagesize())
	filler := filepath.Join(root, "filler")
	fill(t, filler)
	if st, err := os.Stat(filler); err != nil || os.Truncate(filler, st.Size()-room) != nil {
		t.Fatal(err)
	}
	var log logged
	s := newStore(t, root, Options{Log: log.logger(), UIDs: counting("v1")})
	want := uidsOf(openOnce(t, s))
	if len(log.lines("level=ERROR", "unique-ids not written down")) != 1 {
		t.Errorf("the log says %q", log.b.String())
	}
	file, err := os.ReadFile(filepath.Join(alice, uidsFile))
	if err != nil {
		t.Fatal(err)
	}
	got := parseUIDs(file)
	if k := len(got.byBase); k == 0 || k == n || got.torn || len(got.damaged) > 0 {
		t.Fatalf("%d unique-ids are in the file, torn %t, %d damaged", k, got.torn, len(got.damaged))
	}
	for i := range len(got.byBase) {
		if base := fmt.Sprintf("%03d.a", i); got.byBase[base] != want[i] {
			t.Fatalf("%s is %q, was shown as %q", base, got.byBase[base], want[i])
		}
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	wantUIDs(t, s, want...)
	forget(t, alice)
	wantUIDs(t, newStore(t, root, Options{UIDs: never(t)}), want...)
}

// Unique-ids that may not be on disk are not shown, and not taken for kept by
// the next login.
func TestUIDsThatCannotBeSynced(t *testing.T) {
	t.Parallel()
	for _, name := range []string{uidsFile, "alice"} {
		root := t.TempDir()
		alice := makeMaildir(t, root, "alice")
		put(t, alice, "1.a", "a\n")
		s := newStore(t, root, Options{UIDs: counting("v1")})
		s.fsync = func(fd int) error {
			if path, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)); filepath.Base(path) == name {
				return unix.EIO
			}
			return fsync(fd)
		}
		d, err := s.Open(t.Context(), maildrop.Ref{User: "alice"})
		wantKind(t, d, err, maildrop.ErrTemporary)
		if file, err := os.ReadFile(filepath.Join(alice, uidsFile)); len(file) > 0 {
			t.Errorf("fsync of %s failed, the file holds %q, %v", name, file, err)
		}
		s.fsync = fsync
		wantUIDs(t, s, "v1-2")
	}
}

// The file of unique-ids does not grow for ever, and what is there, what went
// last, and what may be on its way back keep theirs.
func TestUIDsOfWhatIsGone(t *testing.T) {
	t.Parallel()
	const spent = 10
	setup := func(t *testing.T, gone int) (root, alice string) {
		root = t.TempDir()
		alice = makeMaildir(t, root, "alice")
		var lines strings.Builder
		for i := range gone {
			lines.WriteString(uidLine(fmt.Sprintf("%03d.gone", i), fmt.Sprint("g-", i)))
		}
		if err := os.WriteFile(filepath.Join(alice, uidsFile), []byte(lines.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		for i := range 4 {
			put(t, alice, fmt.Sprintf("9%d.a", i), "a\n")
		}
		openOnce(t, newStore(t, root, Options{UIDs: counting("v1")}))
		put(t, alice, "99.b", "b\n")
		settleDirs(t, alice)
		return root, alice
	}
	open := func(t *testing.T, root string, prepare func(*Store)) error {
		s := newStore(t, root, Options{UIDs: counting("v2")})
		s.spent = spent
		if prepare != nil {
			prepare(s)
		}
		d, err := s.Open(t.Context(), maildrop.Ref{User: "alice"})
		if err == nil {
			err = d.Close()
		}
		return err
	}
	inFile := func(t *testing.T, alice string) map[string]string {
		file, err := os.ReadFile(filepath.Join(alice, uidsFile))
		if err != nil {
			t.Fatal(err)
		}
		return parseUIDs(file).byBase
	}
	for _, tt := range []struct {
		name    string
		gone    int
		change  func(t *testing.T, alice string)
		prepare func(s *Store)
		want    int // lines
	}{
		{"many", 3 * spent, nil, nil, spent + 5},
		{"not many", 2 * spent, nil, nil, 2*spent + 5},
		{"the index is lost", 3 * spent, func(t *testing.T, alice string) { forget(t, alice) }, nil, 3*spent + 5},
		{"most messages are away", 3 * spent, func(t *testing.T, alice string) {
			for i := range 3 {
				if err := os.Remove(filepath.Join(alice, "new", fmt.Sprintf("9%d.a", i))); err != nil {
					t.Fatal(err)
				}
			}
			settleDirs(t, alice)
		}, nil, 3*spent + 5},
		{"a file of a killed server", 3 * spent, func(t *testing.T, alice string) {
			if err := os.Symlink("/dev/null", filepath.Join(alice, uidsTemp)); err != nil {
				t.Fatal(err)
			}
		}, nil, spent + 5},
		{"the new file cannot be synced", 3 * spent, nil, func(s *Store) {
			s.fsync = func(fd int) error {
				if path, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)); filepath.Base(path) == uidsTemp {
					return unix.EIO
				}
				return fsync(fd)
			}
		}, 3*spent + 5},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			root, alice := setup(t, tt.gone)
			if tt.change != nil {
				tt.change(t, alice)
			}
			if err := open(t, root, tt.prepare); err != nil {
				t.Fatal(err)
			}
			got := inFile(t, alice)
			if len(got) != tt.want {
				t.Errorf("%d lines, want %d: %q", len(got), tt.want, got)
			}
			for i := tt.gone - spent; i < tt.gone; i++ {
				if base := fmt.Sprintf("%03d.gone", i); got[base] != fmt.Sprint("g-", i) {
					t.Errorf("%s is %q", base, got[base])
				}
			}
			for base, uid := range map[string]string{"90.a": "v1-1", "91.a": "v1-2", "92.a": "v1-3", "93.a": "v1-4", "99.b": "v2-1"} {
				if got[base] != uid {
					t.Errorf("%s is %q, want %q", base, got[base], uid)
				}
			}
			if _, err := os.Lstat(filepath.Join(alice, uidsTemp)); !os.IsNotExist(err) {
				t.Errorf("a file is left behind: %v", err)
			}
		})
	}
}

// settleDirs waits until the change times of the directories are older than the
// steps in which the kernel's clock goes.
func settleDirs(t *testing.T, alice string) {
	t.Helper()
	for _, name := range dirNames {
		for {
			var st unix.Stat_t
			if err := unix.Stat(filepath.Join(alice, name), &st); err != nil {
				t.Fatal(err)
			}
			if time.Since(time.Unix(0, unix.TimespecToNsec(st.Ctim))) > 2*tick {
				break
			}
			<-time.After(tick)
		}
	}
}

// What is written down is on disk before a client can see it.
func TestUIDsAreSynced(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	put(t, makeMaildir(t, root, "alice"), "1.a", "a\n")
	s := newStore(t, root, Options{UIDs: counting("v1")})
	var synced []string
	s.fsync = func(fd int) error {
		path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		synced = append(synced, filepath.Base(path))
		return err
	}
	d := openAlice(t, s)
	if want := []string{uidsFile, "alice"}; !slices.Equal(synced, want) {
		t.Errorf("synced %q, want %q", synced, want)
	}
	d.Close()
	openOnce(t, s)
	if len(synced) != 2 {
		t.Errorf("synced %q", synced)
	}
}

// A line holds what was written into it, or nothing.
func FuzzUIDs(f *testing.F) {
	f.Add("1700000000.M1P2.host", "UID1-2", []byte("1 00000000 a b\n"))
	f.Add("a b%\n\xff", "x", []byte(nil))
	f.Fuzz(func(t *testing.T, base, uid string, text []byte) {
		got := parseUIDs(text)
		for b, u := range got.byBase {
			if b == "" || !legalUID(u) {
				t.Fatalf("%q is %q", b, u)
			}
		}
		if base == "" || !legalUID(uid) {
			return
		}
		if len(text) > 0 && text[len(text)-1] != '\n' {
			text = append(text, '\n')
		}
		after := parseUIDs(append(text, uidLine(base, uid)...))
		want := uid
		if first := got.byBase[base]; first != "" {
			want = first
		}
		if after.byBase[base] != want || after.torn || len(after.damaged) != len(got.damaged) {
			t.Fatalf("%q is %q, want %q, of %q", base, after.byBase[base], want, text)
		}
	})
}
