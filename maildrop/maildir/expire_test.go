package maildir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/maildrop"
	"github.com/kpopd/kpopd/maildrop/droptest"
)

// Retention that is not over changes nothing.
func TestStoreWithRetention(t *testing.T) {
	t.Parallel()
	droptest.RunStore(t, func(t *testing.T) *droptest.Harness {
		return harnessWith(t, Options{Expire: Retention{Arrived: 90 * Day, Retrieved: 30 * Day}}, func(string) string { return "" })
	})
}

// age makes messages of a maildrop older, in the index and on disk: so many
// days since the store saw them first.
func age(t *testing.T, dir string, days map[string]int) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	l, err := readIndex(fd, maxIndex)
	if err != nil {
		t.Fatal(err)
	}
	for base, n := range days {
		i, _ := l.find(timeOf(base), base)
		if i < 0 {
			t.Fatalf("%s is not in the index", base)
		}
		at := time.Now().Add(-time.Duration(n) * Day)
		l.records[i].seen = uint32(at.Unix())
		if err := os.Chtimes(locate(t, dir, base), at, at); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := writeIndex(fd, l, time.Now()); err != nil {
		t.Fatal(err)
	}
}

func aged(t *testing.T, days map[string]int) (root, dir string) {
	t.Helper()
	root = t.TempDir()
	dir = makeMaildir(t, root, "alice")
	for base := range days {
		put(t, dir, base, "a\n")
	}
	openOnce(t, newStore(t, root, Options{}))
	age(t, dir, days)
	return root, dir
}

// quit is a session that retrieves some and ends with QUIT.
func quit(t *testing.T, s *Store, retrieved, del []int) {
	t.Helper()
	d := openAlice(t, s)
	for _, i := range retrieved {
		d.(maildrop.Retriever).Retrieved(i)
	}
	if err := d.Commit(t.Context(), del); err != nil {
		t.Fatal(err)
	}
}

// What is announced is what is enforced: not a day earlier, and at QUIT.
func TestRule090ArrivedMessagesExpireAtQuit(t *testing.T) {
	t.Parallel()
	root, dir := aged(t, map[string]int{"1.a": 29, "2.b": 30, "3.c": 31, "4.d": 0, "5.e": 300})
	var log logged
	s := newStore(t, root, Options{Expire: Retention{Arrived: 30 * Day}, Log: log.logger()})
	openOnce(t, s) // ends without QUIT
	wantMessages(t, s, "1.a", "2.b", "3.c", "4.d", "5.e")
	quit(t, s, nil, []int{4})
	wantMessages(t, s, "1.a", "4.d")
	for _, line := range []string{"uid=2.b octets=3 days=30 after=arrival", "uid=3.c octets=3 days=31 after=arrival"} {
		if len(log.lines(line)) != 1 {
			t.Errorf("the log lacks %s:\n%q", line, log.lines())
		}
	}
	if len(log.lines("5.e")) > 0 {
		t.Errorf("what the client deleted expired:\n%q", log.lines())
	}
	if trashed(t, dir) != 0 {
		t.Error("there is a trash")
	}
}

// Retrieval counts from the first session that ended with QUIT, and is known
// over a restart.
func TestRule090RetrievedMessagesExpire(t *testing.T) {
	t.Parallel()
	root, dir := aged(t, map[string]int{"1.a": 100, "2.b": 100, "3.c": 100})
	o := Options{Expire: Retention{Retrieved: 10 * Day}}
	s := newStore(t, root, o)
	quit(t, s, []int{0}, nil)
	d := openAlice(t, s)
	d.(maildrop.Retriever).Retrieved(1)
	if err := d.Close(); err != nil { // without QUIT
		t.Fatal(err)
	}
	age(t, dir, map[string]int{"1.a": 9})
	quit(t, newStore(t, root, o), []int{0}, nil) // again, which is no later start
	wantMessages(t, newStore(t, root, o), "1.a", "2.b", "3.c")
	age(t, dir, map[string]int{"1.a": 10})
	quit(t, newStore(t, root, o), nil, nil)
	wantMessages(t, newStore(t, root, o), "2.b", "3.c")
}

// EXPIRE 0: after QUIT, and only what was retrieved whole.
func TestRule080RetrievedMessagesGoAtQuit(t *testing.T) {
	t.Parallel()
	root, _ := aged(t, map[string]int{"1.a": 1, "2.b": 1, "3.c": 1})
	s := newStore(t, root, Options{Expire: Retention{AtQuit: true}})
	d := openAlice(t, s)
	d.(maildrop.Retriever).Retrieved(2)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	quit(t, s, []int{1}, []int{0})
	wantMessages(t, s, "3.c")
}

// A view knows its messages by other numbers than the maildrop.
func TestRetrievedInAViewGoesAtQuit(t *testing.T) {
	t.Parallel()
	root, dir := aged(t, map[string]int{"1.old": 9, "1893456000.a": 1, "1893456001.b": 1})
	s := newStore(t, root, Options{Expire: Retention{AtQuit: true}})
	d, err := s.Open(t.Context(), maildrop.Ref{User: "alice", Since: time.Unix(1893450000, 0)})
	if err != nil {
		t.Fatal(err)
	}
	if n, _ := d.Totals(); n != 2 {
		t.Fatalf("the view has %d messages", n)
	}
	d.(maildrop.Retriever).Retrieved(1)
	if err := d.Commit(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	for base, want := range map[string]bool{"1.old": true, "1893456000.a": true, "1893456001.b": false} {
		if _, err := os.Stat(filepath.Join(dir, "new", base)); (err == nil) != want {
			t.Errorf("%s: %v", base, err)
		}
	}
}

// Whatever is lost or changed makes retention begin later.
func TestRetentionIsNeverShorter(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(dir string) error{
		"index lost": func(dir string) error { return os.Remove(filepath.Join(dir, indexFile)) },
		"index damaged": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, indexFile), []byte("kpopdidx"), 0o600)
		},
		"file touched": func(dir string) error {
			return os.Chtimes(filepath.Join(dir, "new", "1.a"), time.Now(), time.Now())
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root, dir := aged(t, map[string]int{"1.a": 100})
			if err := change(dir); err != nil {
				t.Fatal(err)
			}
			s := newStore(t, root, Options{Expire: Retention{Arrived: 30 * Day, Retrieved: 10 * Day}})
			quit(t, s, []int{0}, nil)
			wantMessages(t, s, "1.a")
		})
	}
}

// A message that expired and was given back is kept as long as a new one, also
// by a server that has not seen it go.
func TestRestoredMessagesDoNotExpire(t *testing.T) {
	t.Parallel()
	root, dir := aged(t, map[string]int{"1.a": 100, "2.b": 1})
	o := Options{Trash: true, Expire: Retention{Arrived: 30 * Day}}
	server := newStore(t, root, o)
	openOnce(t, server)
	other := newStore(t, root, o)
	if err := other.Expire(t.Context(), "alice", 0, false, func(Expired) {}); err != nil {
		t.Fatal(err)
	}
	if trashed(t, dir) != 1 {
		t.Fatal("nothing expired")
	}
	if err := other.Restore(t.Context(), alice, trashOf(t, other)[0]); err != nil {
		t.Fatal(err)
	}
	quit(t, server, nil, nil)
	wantMessages(t, server, "1.a", "2.b")
}

// What cannot expire is the log's concern, not the client's.
func TestExpiryFailsQuietly(t *testing.T) {
	t.Parallel()
	root, _ := aged(t, map[string]int{"1.a": 100, "2.b": 1, "3.c": 1})
	var log logged
	s := newStore(t, root, Options{Expire: Retention{Arrived: 30 * Day}, Log: log.logger()})
	s.fsync = func(int) error { return unix.EIO }
	d := openAlice(t, s)
	var ce *maildrop.CommitError
	if err := d.Commit(t.Context(), []int{1}); !errors.As(err, &ce) || !slices.Equal(ce.Left, []int{1}) {
		t.Errorf("got %v, want the one that the client deleted", err)
	}
	if len(log.lines(`msg="messages not expired" maildrop=alice messages=1`)) != 1 || len(log.lines("message expired")) > 0 {
		t.Errorf("the log is\n%q", log.lines())
	}

	root, _ = aged(t, map[string]int{"1.a": 100, "2.b": 1})
	s = newStore(t, root, Options{Expire: Retention{Arrived: 30 * Day}})
	s.fsync = func(int) error { return unix.EIO }
	quit(t, s, nil, nil)
}

// A dry run tells what the next run removes, and removes nothing; a maildrop
// in use is left alone.
func TestExpire(t *testing.T) {
	t.Parallel()
	root, dir := aged(t, map[string]int{"1.a": 29, "2.b": 30, "3.c": 200})
	s := newStore(t, root, Options{Expire: Retention{Arrived: 30 * Day}})
	run := func(dry bool) (told []string, err error) {
		err = s.Expire(t.Context(), "alice", 0, dry, func(m Expired) {
			told = append(told, fmt.Sprintln(m.UID, m.Octets, m.After, int(m.Age/Day)))
		})
		return told, err
	}
	d := openAlice(t, s)
	if told, err := run(false); !errors.Is(err, maildrop.ErrInUse) || told != nil {
		t.Errorf("while it is in use: %q, %v", told, err)
	}
	d.Close()
	want := []string{"2.b 3 arrival 30\n", "3.c 3 arrival 200\n"}
	if told, err := run(true); !slices.Equal(told, want) || err != nil || countFiles(t, dir) != 3 {
		t.Errorf("dry run: %q, %v, %d messages", told, err, countFiles(t, dir))
	}
	if told, err := run(false); !slices.Equal(told, want) || err != nil || countFiles(t, dir) != 1 {
		t.Errorf("got %q, %v, %d messages", told, err, countFiles(t, dir))
	}
	if told, err := run(false); told != nil || err != nil {
		t.Errorf("again: %q, %v", told, err)
	}
}

func TestWalk(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	makeMaildir(t, root, "a", "alice", "Maildir")
	makeMaildir(t, root, "a", "alice", "Maildir", ".Sent") // a folder of hers
	makeMaildir(t, root, "bob")
	makeMaildir(t, root, "1/2/3/4/5/6/7/8/9")
	elsewhere := makeMaildir(t, t.TempDir(), "carol")
	if err := errors.Join(os.Symlink(elsewhere, filepath.Join(root, "carol")), os.WriteFile(filepath.Join(root, "file"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	var got, bad []string
	err := newStore(t, root, Options{}).Walk(t.Context(), func(path string, err error) error {
		if err != nil {
			bad = append(bad, path)
		} else {
			got = append(got, path)
		}
		return nil
	})
	if want := []string{"a/alice/Maildir", "bob"}; err != nil || !slices.Equal(got, want) || !slices.Equal(bad, []string{"1/2/3/4/5/6/7/8"}) {
		t.Errorf("got %q, want %q; bad %q; %v", got, want, bad, err)
	}
	stop := errors.New("enough")
	n := 0
	err = newStore(t, root, Options{}).Walk(t.Context(), func(string, error) error { n++; return stop })
	if !errors.Is(err, stop) || n != 1 {
		t.Errorf("%v after %d", err, n)
	}
}

// Root would leave files that the owner's server cannot open.
func TestExpireIsNotForRoot(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can make a maildrop of somebody else's")
	}
	root, dir := aged(t, map[string]int{"1.a": 100})
	s := newStore(t, root, Options{Trash: true, Expire: Retention{Arrived: 30 * Day}})
	if err := os.MkdirAll(filepath.Join(dir, trashDir, "2001-02-03"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, trashDir, "2001-02-03", "2.b"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	m := trashOf(t, s)[0]
	if err := os.Chown(dir, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if err := s.Expire(t.Context(), "alice", Day, false, func(Expired) {}); !errors.Is(err, maildrop.ErrPermanent) {
		t.Errorf("Expire: %v", err)
	}
	if err := s.Restore(t.Context(), alice, m); !errors.Is(err, maildrop.ErrPermanent) {
		t.Errorf("Restore: %v", err)
	}
	if countFiles(t, dir) != 1 || trashed(t, dir) != 1 {
		t.Error("messages were moved")
	}
}
