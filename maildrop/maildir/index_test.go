package maildir

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/maildrop"
	"github.com/kpopd/kpopd/maildrop/droptest"
)

// logged is a log that a store writes and a test reads.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// lines are those that hold all of words.
func (l *logged) lines(words ...string) (lines []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.b.String()) {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			lines = append(lines, line)
		}
	}
	return lines
}

func (l *logged) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// decodeIndex reads an index as readIndex does from a file.
func decodeIndex(file []byte) (*listing, error) {
	var b [headerSize]byte
	var h header
	copy(b[:], file)
	if err := h.decode(&b, int64(len(file))); err != nil {
		return nil, err
	}
	return h.load(bytes.NewReader(file[headerSize:]))
}

// sample is the index of a maildrop of each kind of message, written by a
// store.
func sample(t testing.TB) (alice string, file []byte) {
	t.Helper()
	root := t.TempDir()
	alice = makeMaildir(t, root, "alice")
	put(t, alice, "1700000000.M1P2.host", "Subject: a\n\nb\n")
	put(t, alice, "1700000001.M1P2.host,S=4,W=4", "a\r\n\r\n")
	put(t, alice, "1700000002 with a space", "")
	put(t, filepath.Join(alice, "."), "1700000003.M1P2.host", "c\n")
	if err := os.Rename(filepath.Join(alice, "new/1700000003.M1P2.host"), filepath.Join(alice, "cur/1700000003.M1P2.host:2,FS")); err != nil {
		t.Fatal(err)
	}
	s := newStore(t, root, Options{})
	indexed(t, s)
	openOnce(t, s) // writes that the directories have settled
	file, err := os.ReadFile(filepath.Join(alice, indexFile))
	if err != nil {
		t.Fatal(err)
	}
	return alice, file
}

func openOnce(t testing.TB, s *Store) maildrop.Messages {
	t.Helper()
	d, err := s.Open(t.Context(), maildrop.Ref{User: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	return messages(t, d)
}

// After a restart the index alone knows the maildrop: a file that changes in
// place is not read again, and neither is a directory.
func TestIndexOutlivesARestart(t *testing.T) {
	t.Parallel()
	for _, lazy := range []int64{0, 1 << 20} {
		t.Run(fmt.Sprint(lazy), func(t *testing.T) {
			t.Parallel()
			alice, _ := sample(t)
			root := filepath.Dir(alice)
			before := openOnce(t, newStore(t, root, Options{}))
			if err := os.WriteFile(filepath.Join(alice, "new/1700000000.M1P2.host"), []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}

			s := newStore(t, root, Options{})
			s.lazy = lazy
			d := openAlice(t, s)
			if n, octets := d.Totals(); n != 4 || octets != 17+5+0+3 || d.(*drop).listing.loaded() != (lazy > 0) {
				t.Errorf("%d messages, %d octets, loaded: %v", n, octets, d.(*drop).listing.loaded())
			}
			if got := messages(t, d); !slices.Equal(got, before) {
				t.Errorf("%v, was %v", got, before)
			}
			l := d.(*drop).listing
			if !l.file.same || !l.settled.all() {
				t.Error("the directories were read again")
			}
			if h := []uint32{l.records[0].header, l.records[1].header, l.records[2].header, l.records[3].header}; !slices.Equal(h, []uint32{14, 5, 0, 3}) {
				t.Errorf("headers of %d octets", h)
			}
			if l.records[0].seen == 0 {
				t.Error("nobody knows when the message came")
			}
			if err := d.Commit(t.Context(), []int{1}); err != nil {
				t.Error(err)
			}
			wantMessages(t, s, before[0].UID, before[2].UID, before[3].UID)
		})
	}
}

// What is known of a message stays when others move it, and when others come
// and go.
func TestIndexFollowsTheMaildrop(t *testing.T) {
	t.Parallel()
	alice, _ := sample(t)
	root := filepath.Dir(alice)
	for i, change := range []func() error{
		func() error {
			return os.Rename(filepath.Join(alice, "new/1700000000.M1P2.host"), filepath.Join(alice, "cur/1700000000.M1P2.host:2,S"))
		},
		func() error {
			return os.Rename(filepath.Join(alice, "cur/1700000000.M1P2.host:2,S"), filepath.Join(alice, "cur/1700000000.M1P2.host:2,FRS"))
		},
		func() error { return os.Remove(filepath.Join(alice, "new/1700000002 with a space")) },
		func() error { put(t, alice, "1600000000.M1P2.host", "old\n"); return nil },
	} {
		want := openOnce(t, newStore(t, root, Options{}))
		if err := change(); err != nil {
			t.Fatal(err)
		}
		for range 2 { // with an index from before, and with one from after
			got := openOnce(t, newStore(t, root, Options{}))
			switch i {
			case 2:
				want = slices.DeleteFunc(want, func(m maildrop.Message) bool { return m.UID[0] == 's' })
			case 3:
				got = slices.DeleteFunc(got, func(m maildrop.Message) bool { return m.UID == "1600000000.M1P2.host" && m.Size == 5 })
			}
			if !slices.Equal(got, want) {
				t.Errorf("change %d: %v, was %v", i, got, want)
			}
		}
	}
}

// S-13: no bit of an index can change unnoticed, and no octet can be missing.
func TestS13EveryBitOfAnIndexIsVouchedFor(t *testing.T) {
	t.Parallel()
	_, file := sample(t)
	if _, err := decodeIndex(file); err != nil {
		t.Fatal(err)
	}
	for i := range file {
		for bit := range 8 {
			damaged := slices.Clone(file)
			damaged[i] ^= 1 << bit
			if _, err := decodeIndex(damaged); err == nil {
				t.Errorf("bit %d of octet %d changed, and nobody sees it", bit, i)
			}
		}
		if _, err := decodeIndex(file[:i]); err == nil {
			t.Errorf("%d octets are taken for all", i)
		}
	}
	if _, err := decodeIndex(append(slices.Clone(file), 0)); err == nil {
		t.Error("an octet at the end is not seen")
	}
}

// S-13: a damaged index costs a rebuild and a line in the log, and changes
// nothing that a session shows.
func TestS13DamagedIndexIsRebuilt(t *testing.T) {
	t.Parallel()
	version := func(file []byte) []byte {
		file[8]++
		binary.LittleEndian.PutUint32(file[headerSize-4:], crc32.Checksum(file[:headerSize-4], castagnoli))
		return file
	}
	for _, tt := range []struct {
		name   string
		damage func(file []byte) []byte
	}{
		{"empty", func([]byte) []byte { return nil }},
		{"a header alone", func(file []byte) []byte { return file[:headerSize] }},
		{"torn", func(file []byte) []byte { return file[:len(file)-1] }},
		{"zeros", func(file []byte) []byte { clear(file); return file }},
		{"another version", version},
		{"more messages than octets", func(file []byte) []byte { return reseal(file, func(h *header) { h.count = 1 << 40 }) }},
		{"sizes that overflow", func(file []byte) []byte { return reseal(file, func(h *header) { h.count, h.text = 1<<60, 1<<63 }) }},
		{"a size", func(file []byte) []byte { file[headerSize+24]++; return file }},
		{"a name", func(file []byte) []byte { file[len(file)-1]++; return file }},
	} {
		for _, lazy := range []int64{0, 1 << 20} {
			t.Run(fmt.Sprint(tt.name, lazy), func(t *testing.T) {
				t.Parallel()
				alice, file := sample(t)
				root := filepath.Dir(alice)
				want := openOnce(t, newStore(t, root, Options{}))
				if err := os.WriteFile(filepath.Join(alice, indexFile), tt.damage(file), 0o600); err != nil {
					t.Fatal(err)
				}
				var log logged
				for range 2 { // the second one finds a new index
					s := newStore(t, root, Options{Log: log.logger()})
					s.lazy = lazy
					if got := openOnce(t, s); !slices.Equal(got, want) {
						t.Errorf("%v, was %v", got, want)
					}
				}
				if n := len(log.lines()); n != 1 || len(log.lines("level=WARN", "index rebuilt", "maildrop=alice")) != 1 {
					t.Errorf("the log says %q", log.b.String())
				}
			})
		}
	}
}

// reseal changes the header of an index, and makes its checksum right.
func reseal(file []byte, change func(*header)) []byte {
	var b [headerSize]byte
	copy(b[:], file)
	var h header
	if err := h.decode(&b, int64(len(file))); err != nil {
		panic(err)
	}
	change(&h)
	h.encode(&b)
	return append(b[:], file[headerSize:]...)
}

// An index that is lost between login and the first LIST, of a maildrop too
// large to be loaded at once, fails that session, and the next has a new one.
func TestIndexLostDuringTheSession(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(path string, file []byte) error{
		"removed": func(path string, _ []byte) error { return os.Remove(path) },
		"damaged": func(path string, file []byte) error {
			file[len(file)-1]++
			return os.WriteFile(path, file, 0o600)
		},
		"of another server": func(path string, file []byte) error {
			return os.WriteFile(path, reseal(file, func(h *header) { h.sum++ }), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			alice, file := sample(t)
			root := filepath.Dir(alice)
			var log logged
			s := newStore(t, root, Options{Log: log.logger()})
			s.lazy = 0
			d := openAlice(t, s)
			if err := lose(filepath.Join(alice, indexFile), file); err != nil {
				t.Fatal(err)
			}
			if _, err := d.Listing(t.Context()); !errors.Is(err, maildrop.ErrTemporary) {
				t.Errorf("Listing: %v", err)
			}
			if _, err := d.Content(t.Context(), 0); !errors.Is(err, maildrop.ErrTemporary) {
				t.Errorf("Content: %v", err)
			}
			var ce *maildrop.CommitError
			if err := d.Commit(t.Context(), []int{0}); !errors.As(err, &ce) || !slices.Equal(ce.Left, []int{0}) {
				t.Errorf("Commit: %v", err)
			}
			if len(log.lines("index rebuilt")) == 0 {
				t.Error("nothing is in the log")
			}
			if n := len(openOnce(t, s)); n != 4 {
				t.Errorf("the next session has %d messages", n)
			}
		})
	}
}

// Who owns a maildrop may write its index, with checksums that are right. No
// name in it leads elsewhere.
func TestForgedIndex(t *testing.T) {
	t.Parallel()
	forge := func(name, uid string) record {
		return record{size: 3, stored: 2, flags: sized, base: uint16(len(baseOf(name))), uid: uint8(len(uid))}
	}
	for _, tt := range []struct {
		why, name, uid string
		change         func(*listing)
	}{
		{"leads to another maildrop", "../../bob/new/1.secret", "1", nil},
		{"leads to a folder", "x/1.a", "1", nil},
		{"is the directory", ".", "1", nil},
		{"is the maildrop", "..", "1", nil},
		{"is hidden", ".a", "1", nil},
		{"has a NUL", "a\x00b", "1", nil},
		{"is empty", "", "1", nil},
		{"has no legal unique-id", "a b", "", nil},
		{"has a unique-id with a space", "a", "1 2", nil},
		{"has a unique-id with a line end", "a", "1\r\n.", nil},
		{"has a unique-id of 71 octets", "a", strings.Repeat("x", 71), nil},
		{"ends in another base name", "a:2,S", "1", func(l *listing) { l.records[0].base++ }},
		{"has no octets", "a", "1", func(l *listing) { l.records[0].size, l.octets = -1, -1 }},
		{"has not been measured", "a", "1", func(l *listing) { l.records[0].flags = 0 }},
		{"ends behind the text", "a", "1", func(l *listing) { l.records[0].end += 9 }},
		{"does not end with the text", "a", "1", func(l *listing) { l.text += "x" }},
		{"is two", "a", "1", func(l *listing) {
			r := l.records[0]
			l.text += l.text
			r.end = uint32(len(l.text))
			l.records = append(l.records, r)
			l.count, l.octets = 2, 6
		}},
		{"has other totals", "a", "1", func(l *listing) { l.octets++ }},
		{"has its size from its name", "a", "1", func(l *listing) { l.records[0].stored = -1 }},
	} {
		l := &listing{records: []record{forge(tt.name, tt.uid)}, text: tt.name + tt.uid, count: 1, octets: 3, loose: true}
		l.records[0].end = uint32(len(l.text))
		if tt.change != nil {
			tt.change(l)
		}
		if _, err := decodeIndex(encodeIndex(t, l)); err == nil {
			t.Errorf("an index is taken whose message %s", tt.why)
		}
	}
}

// encodeIndex is the index file of l.
func encodeIndex(t testing.TB, l *listing) []byte {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := header{
		settled: l.settled, named: l.named, loose: l.loose, count: uint64(l.count), octets: uint64(l.octets),
		text: uint64(len(l.text)), written: l.file.written, at: l.at,
	}
	if err := h.write(int(f.Fd()), l); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// Nothing is read or written through a name that somebody planted.
func TestIndexOfAnotherKind(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		plant func(path, victim string) error
	}{
		{"symbolic link", func(path, victim string) error { return os.Symlink(victim, path) }},
		{"hard link", func(path, victim string) error { return os.Link(victim, path) }},
		{"FIFO", func(path, _ string) error { return unix.Mkfifo(path, 0o600) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			alice, _ := sample(t)
			root := filepath.Dir(alice)
			victim := filepath.Join(root, "victim")
			if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
				t.Fatal(err)
			}
			forget(t, alice)
			for _, name := range []string{indexFile, indexTemp} {
				if err := tt.plant(filepath.Join(alice, name), victim); err != nil {
					t.Fatal(err)
				}
			}
			if n := len(openOnce(t, newStore(t, root, Options{}))); n != 4 {
				t.Errorf("%d messages", n)
			}
			if b, err := os.ReadFile(victim); string(b) != "precious" || err != nil {
				t.Errorf("the file elsewhere holds %q, %v", b, err)
			}
			if st, err := os.Lstat(filepath.Join(alice, indexFile)); err != nil || st.Mode() != 0o600 || st.Size() < headerSize {
				t.Errorf("the index is %v, %v", st, err)
			}
		})
	}
}

// That the disk is full stops no session, and is told once.
func TestIndexOnAFullDisk(t *testing.T) {
	t.Parallel()
	root := smallDisk(t, "8") // root, alice, new, cur, tmp, a message, the lock file and a filler
	alice := makeMaildir(t, root, "alice")
	put(t, alice, "1.a", "a\n")
	fill(t, filepath.Join(root, "filler"))
	var log logged
	s := newStore(t, root, Options{Log: log.logger()})
	for range 3 {
		wantMessages(t, s, "1.a")
	}
	if n := len(log.lines("level=WARN", "index not written")); n != 1 || len(log.lines()) != 1 {
		t.Errorf("the log says %q", log.b.String())
	}
	if files, err := filepath.Glob(filepath.Join(alice, ".kpopd.index*")); err != nil || len(files) > 0 {
		t.Errorf("there are %q, %v", files, err)
	}
}

// There is no index of what is not there.
func TestNoIndexOfAnEmptyMaildrop(t *testing.T) {
	t.Parallel()
	alice, _ := sample(t)
	d := openAlice(t, newStore(t, filepath.Dir(alice), Options{}))
	if err := d.Commit(t.Context(), []int{0, 1, 2, 3}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(alice, indexFile)); !os.IsNotExist(err) {
		t.Errorf("the index: %v", err)
	}
}

// A site that trusts names no longer has everything measured.
func TestSizesOfNamesAreTakenBack(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	alice := makeMaildir(t, root, "alice")
	put(t, alice, "1.a,W=7", "a\nb\n")
	for _, want := range []int64{7, 6, 6} {
		s := newStore(t, root, Options{TrustSizes: want == 7})
		indexed(t, s)
		if got := openOnce(t, s)[0].Size; got != want {
			t.Errorf("size %d, want %d", got, want)
		}
	}
}

func TestRule072SizesWithALazyIndex(t *testing.T) {
	t.Parallel()
	droptest.RunStore(t, func(t *testing.T) *droptest.Harness {
		h := harness(t)
		s := h.Store.(*Store)
		s.lazy = 0
		h.Restart = func() maildrop.Store {
			next := newStore(t, s.root, s.options)
			next.lazy = 0
			return next
		}
		return h
	})
}

// An index is what a store has written, or it is refused; and what is taken is
// safe to use.
func FuzzIndex(f *testing.F) {
	_, file := sample(f)
	f.Add(file)
	f.Add(file[:headerSize])
	f.Add(encodeIndex(f, new(listing)))
	f.Fuzz(func(t *testing.T, file []byte) {
		var b [headerSize]byte
		if len(file) < headerSize {
			return
		}
		// checksums that are right let what is behind them be tried
		binary.LittleEndian.PutUint32(file[96:], crc32.Checksum(file[headerSize:], castagnoli))
		binary.LittleEndian.PutUint32(file[headerSize-4:], crc32.Checksum(file[:headerSize-4], castagnoli))
		l, err := decodeIndex(file)
		if err != nil {
			return
		}
		var octets int64
		seen := make(map[string]bool)
		for i := range l.Len() {
			m := l.At(i)
			if octets += m.Size; m.Size < 0 || !legalUID(m.UID) || seen[l.base(i)] || strings.ContainsAny(l.name(i), "/\x00") || l.name(i)[0] == '.' {
				t.Fatalf("message %d is %+v, at %q", i, m, l.path(i))
			}
			seen[l.base(i)] = true
			if k, _ := l.find(timeOf(l.base(i)), l.base(i)); k != i {
				t.Fatalf("message %d is found as %d", i, k)
			}
		}
		if octets != l.octets {
			t.Fatalf("%d octets, not %d", l.octets, octets)
		}
		var h header
		copy(b[:], file)
		if err := h.decode(&b, int64(len(file))); err != nil {
			t.Fatal(err)
		}
		for i := range l.records {
			var r [recordSize]byte
			l.records[i].encode(r[:])
			if !bytes.Equal(r[:], file[headerSize+i*recordSize:][:recordSize]) {
				t.Fatalf("record %d is not what was read", i)
			}
		}
	})
}
