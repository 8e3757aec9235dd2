package maildir

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/maildrop"
)

func TestUniqueIDs(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 70)
	for _, tt := range []struct{ name, file, uid string }{
		{"a name in new", "1700000000.M1P2.host", "1700000000.M1P2.host"},
		{"flags are no part of it", "1700000000.M1P2.host:2,FRS", "1700000000.M1P2.host"},
		{"sizes are", "1700000000.M1P2.host,S=10,W=11:2,", "1700000000.M1P2.host,S=10,W=11"},
		{"experimental flags are not either", "1700000000.M1P2.host:1,x", "1700000000.M1P2.host"},
		{"all of 70 octets", long, long},
		{"more than 70 octets", long + "y", "sha256:9WCn8Fx-KiFPY61D_8Hpv446Li0ZLS_VKdfeXL3tmug"},
		{"a space", "a b", "sha256:yGh6CKpdbtIEQyj6aml6uOltw0KR6MIDSujDjm_MbWU"},
		{"8-bit octets", "a\xff", "sha256:jdBrWra1lCV-QbfY3UQKQGLt3Gf9q1wTtNwwAXaJb24"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := uidOf(baseOf(tt.file)); got != tt.uid || !legalUID(got) {
				t.Errorf("unique-id of %q is %q, want %q", tt.file, got, tt.uid)
			}
		})
	}
}

// Names of any octets that a directory can hold, with flags or without, have
// legal unique-ids: one for each base name, the same every time.
func FuzzNames(f *testing.F) {
	f.Add("1700000000.M1P2.host:2,S", "1700000000.M1P2.host")
	f.Add(":2,S", ":2,T")
	f.Add("sha256:x", "a b")
	f.Add(strings.Repeat("9", 300), "99999999999999999999.x,W=18446744073709551616")
	f.Fuzz(func(t *testing.T, a, b string) {
		for _, name := range []string{a, b} {
			if name == "" || strings.ContainsAny(name, "\x00/") {
				return // no name
			}
			base := baseOf(name)
			uid := uidOf(base)
			if !legalUID(uid) || len(uid) > 70 {
				t.Errorf("uid of %q is %q", name, uid)
			}
			if name[0] != ':' && (baseOf(base+":2,FRST") != base || uidOf(baseOf(base+":2,")) != uid) {
				t.Errorf("flags change %q", name)
			}
			if n, ok := wireSize(base); ok && n < 0 {
				t.Errorf("wire size %d of %q", n, name)
			}
		}
		x, y := baseOf(a), baseOf(b)
		if (uidOf(x) == uidOf(y)) != (x == y) {
			t.Errorf("uids of %q and %q: %q, %q", x, y, uidOf(x), uidOf(y))
		}
		c := compareNames(timeOf(x), timeOf(y), x, y)
		if c != -compareNames(timeOf(y), timeOf(x), y, x) || (c == 0) != (x == y) {
			t.Errorf("order of %q and %q is %d", x, y, c)
		}
	})
}

func TestOrderIsThatOfDelivery(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	dir := makeMaildir(t, root, "alice")
	want := []string{"word", "9.a", "10.a", "100.M1.b", "100.M2.a", "1700000000.x", "99999999999999999999999.y"}
	for i, name := range want {
		put(t, dir, want[len(want)-1-i], "a\n")
		if i%2 == 0 {
			os.Rename(filepath.Join(dir, "new", name), filepath.Join(dir, "cur", name+":2,S"))
		}
	}
	wantMessages(t, newStore(t, root, Options{}), want...)
}

// A program that renames by link and unlink, and died in between, leaves two
// names of one message. Both go, or it would come back with its unique-id.
func TestOneMessageOfTwoNames(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	dir := makeMaildir(t, root, "alice")
	put(t, dir, "1.a", "a\n")
	if err := os.Link(filepath.Join(dir, "new/1.a"), filepath.Join(dir, "cur/1.a:2,S")); err != nil {
		t.Fatal(err)
	}
	put(t, dir, "2.b", "b\n")
	s := newStore(t, root, Options{})
	wantMessages(t, s, "1.a", "2.b")

	left, calls := 0, 0
	s.fsync = func(int) error { calls++; left = countFiles(t, dir); return unix.EIO }
	err := openAlice(t, s).Commit(t.Context(), []int{0})
	var ce *maildrop.CommitError
	if !errors.As(err, &ce) || !slices.Equal(ce.Left, []int{0}) {
		t.Errorf("Commit: %v, want a CommitError that leaves [0]", err)
	}
	if calls != 2 || left != 1 {
		t.Errorf("%d directories synced with %d files left, want 2 and 1", calls, left)
	}
	wantMessages(t, s, "2.b")
}

// Two files of one base name that are not the same file are two messages, and
// nobody marked the one that was not listed.
func TestTwoMessagesOfOneName(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	dir := makeMaildir(t, root, "alice")
	put(t, dir, "1.a", "new\n")
	if err := os.WriteFile(filepath.Join(dir, "cur/1.a:2,S"), []byte("cur\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newStore(t, root, Options{})
	for _, want := range []string{"cur\n", "new\n"} {
		d := openAlice(t, s)
		if text, err := read(d, 0); text != want || err != nil || len(messages(t, d)) != 1 {
			t.Errorf("%d messages, the first holds %q, %v, want %q", len(messages(t, d)), text, err, want)
		}
		if err := d.Commit(t.Context(), []int{0}); err != nil {
			t.Error(err)
		}
	}
	wantMessages(t, s)
}

func TestDeliver(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	dir := makeMaildir(t, root, "alice")
	var want []string
	for range 3 {
		base, err := Deliver(dir, strings.NewReader("Subject: a\n\nb\n"))
		if err != nil {
			t.Fatal(err)
		}
		if uidOf(base) != base || slices.Contains(want, base) {
			t.Errorf("base name %q", base)
		}
		want = append(want, base)
	}
	slices.Sort(want)
	s := newStore(t, root, Options{})
	wantMessages(t, s, want...)
	if b, err := os.ReadFile(filepath.Join(dir, "new", want[0])); err != nil || !bytes.Equal(b, []byte("Subject: a\n\nb\n")) {
		t.Errorf("%q, %v", b, err)
	}
	if files, err := os.ReadDir(filepath.Join(dir, "tmp")); err != nil || len(files) != 0 {
		t.Errorf("tmp holds %v, %v", files, err)
	}
	if _, err := Deliver(filepath.Join(root, "nobody"), strings.NewReader("x")); err == nil {
		t.Error("delivered to a maildrop that is not there")
	}
}

func TestCache(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	dir := mixed(t, root)
	s := newStore(t, root, Options{})
	openAlice(t, s).Close()
	settleCache(s, true)
	kept := s.cache.get("alice")
	d := openAlice(t, s)
	if d.(*drop).listing != kept {
		t.Error("a maildrop that did not change was read again")
	}
	d.Close()

	put(t, dir, "9.z", "z\n")
	d = openAlice(t, s)
	if n := len(messages(t, d)); n != 5 {
		t.Errorf("%d messages after a delivery, want 5", n)
	}
	d.Close()

	// flags change, and nothing else
	settleCache(s, true)
	if err := os.Rename(filepath.Join(dir, "cur/3.a:2,S"), filepath.Join(dir, "cur/3.a:2,RS")); err != nil {
		t.Fatal(err)
	}
	d = openAlice(t, s)
	if got := d.(*drop).places.name(2); got != "3.a:2,RS" {
		t.Errorf("name %q", got)
	}
	d.Close()

	// another file of the same name
	path := filepath.Join(dir, "new/9.z")
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	put(t, dir, "9.z", "longer\n")
	d = openAlice(t, s)
	if got := messages(t, d)[4]; got.UID != "9.z" || got.Size != 8 {
		t.Errorf("%+v", got)
	}
}

func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	weigh := func(n int) *listing { return &listing{records: make([]record, n), count: n} }
	of := func(n int) int64 { return weigh(n).weight() }
	c := cache{limit: 2*of(40) + of(1)}
	c.put("a", weigh(40))
	c.put("b", weigh(40))
	c.get("a")
	c.put("c", weigh(40)) // b was used longest ago
	if c.get("a") == nil || c.get("b") != nil || c.get("c") == nil || c.octets != 2*of(40) {
		t.Errorf("holds %v of weight %d", c.byPath, c.octets)
	}
	c.put("a", weigh(1))
	c.put("d", weigh(100)) // more than all
	if c.get("d") != nil || c.get("a") == nil || c.octets != of(40)+of(1) || c.recent.Len() != len(c.byPath) {
		t.Errorf("holds %v of weight %d", c.byPath, c.octets)
	}
	c.put("a", nil)
	if c.get("a") != nil || c.octets != of(40) {
		t.Errorf("holds %v of weight %d", c.byPath, c.octets)
	}
}

func TestStampsThatAreTooYoungVouchForNothing(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	at := func(ago time.Duration) stamp { return stamp{changed: now.Add(-ago).UnixNano()} }
	for _, tt := range []struct {
		s    stamps
		want bool
	}{
		{stamps{at(time.Minute), at(settle)}, true},
		{stamps{at(time.Minute), at(settle - 1)}, false},
		{stamps{at(-time.Hour), at(time.Minute)}, false}, // the clock was set back
	} {
		if got := tt.s.olderThan(settle, now); got != tt.want {
			t.Errorf("%v: %v", tt.s, got)
		}
	}
}
