package krb5_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/krb5"
	"github.com/kpopd/kpopd/krb5test"
)

// spyReplay remembers what it was asked last, and has seen nothing.
type spyReplay struct {
	calls   int
	tag     [32]byte
	expires time.Time
}

func (s *spyReplay) Seen(_ context.Context, tag [32]byte, expires time.Time) (bool, error) {
	s.calls++
	s.tag, s.expires = tag, expires
	return false, nil
}

// tag is the n-th of a set of tags.
func tag(n int) (t [32]byte) {
	binary.BigEndian.PutUint64(t[:], uint64(n))
	return t
}

func seen(t *testing.T, c krb5.ReplayCache, n int, d time.Duration) bool {
	t.Helper()
	s, err := c.Seen(t.Context(), tag(n), time.Now().Add(d))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func openReplay(t *testing.T, path string) *krb5.FileReplay {
	t.Helper()
	r, err := krb5.OpenFileReplay(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func TestReplayForgetsAfterItsEndOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, c := range caches(t) {
			if seen(t, c, 1, time.Minute) || !seen(t, c, 1, time.Minute) {
				t.Errorf("%s: not seen once", name)
			}
			time.Sleep(time.Minute)
			if !seen(t, c, 1, time.Minute) {
				t.Errorf("%s: forgot on the minute", name)
			}
			time.Sleep(3 * time.Second)
			if seen(t, c, 1, time.Minute) {
				t.Errorf("%s: remembers for ever", name)
			}
		}
	})
}

// A full cache refuses; it does not forget what is still valid.
func TestReplayFullCacheRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory, file := new(krb5.MemoryReplay), openReplay(t, t.TempDir()+"/replay")
		memory.SetMax(3)
		file.SetMax(3)
		for _, c := range []krb5.ReplayCache{memory, file} {
			for n := range 3 {
				seen(t, c, n, time.Minute)
			}
			if _, err := c.Seen(t.Context(), tag(3), time.Now().Add(time.Minute)); err == nil {
				t.Errorf("%T took a fourth", c)
			}
			if !seen(t, c, 0, time.Minute) {
				t.Errorf("%T forgot the first", c)
			}
		}
		k := realm()
		a := acceptorFor(t, k)
		a.Replay = memory
		refused(t, a, mint(t, k, krb5test.Spec{}, krb5.InitOptions{}).APReq, krb5.CodeGeneric, authn.Unavailable)
		time.Sleep(2 * time.Minute)
		accepted(t, a, mint(t, k, krb5test.Spec{}, krb5.InitOptions{}).APReq)
	})
}

func TestReplayFileIsPrivate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "replay")
	openReplay(t, path)
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	for name, prepare := range map[string]func(string) error{
		"symbolic link":       func(p string) error { return os.Symlink(filepath.Join(dir, "target"), p) },
		"folder":              func(p string) error { return os.Mkdir(p, 0o700) },
		"readable by others":  func(p string) error { return os.WriteFile(p, nil, 0o644) },
		"no folder around it": func(string) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			p := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
			if err := prepare(p); err != nil {
				t.Fatal(err)
			}
			if name == "readable by others" {
				if err := os.Chmod(p, 0o644); err != nil { // whatever the umask is
					t.Fatal(err)
				}
			}
			if name == "no folder around it" {
				p += "/replay"
			}
			if r, err := krb5.OpenFileReplay(p); err == nil {
				r.Close()
				t.Error("opened")
			}
			if _, err := os.Lstat(filepath.Join(dir, "target")); err == nil {
				t.Error("made what the link points to")
			}
		})
	}
}

// Two that shared a file without knowing of each other would each let a replay in.
func TestReplayFileHasOneUser(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/replay"
	first := openReplay(t, path)
	if _, err := krb5.OpenFileReplay(path); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second user: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	openReplay(t, path)
}

// What a crash or a power cut leaves at the end is cut off, and what stands
// before it is remembered.
func TestReplayFileTornEnd(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/replay"
	r := openReplay(t, path)
	seen(t, r, 1, time.Hour)
	seen(t, r, 2, time.Hour)
	r.Close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		file []byte
		has  [2]bool
	}{
		{"whole", whole, [2]bool{true, true}},
		{"half a record", whole[:len(whole)-20], [2]bool{true, false}},
		{"one octet", whole[:len(whole)-krb5.ReplayRecord+1], [2]bool{true, false}},
		{"zeros in place of the last", append(bytes.Clone(whole[:len(whole)-krb5.ReplayRecord]), make([]byte, krb5.ReplayRecord)...), [2]bool{true, false}},
		{"a page of zeros after it", append(bytes.Clone(whole), make([]byte, 4096)...), [2]bool{true, true}},
		{"header only", whole[:len(krb5.ReplayMagic)], [2]bool{}},
		{"half a header", whole[:5], [2]bool{}},
		{"empty", nil, [2]bool{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := filepath.Join(t.TempDir(), "replay")
			if err := os.WriteFile(p, tt.file, 0o600); err != nil {
				t.Fatal(err)
			}
			r := openReplay(t, p)
			for n, want := range tt.has {
				if got := seen(t, r, n+1, time.Hour); got != want {
					t.Errorf("tag %d seen: %v", n+1, got)
				}
			}
			r.Close()
			r = openReplay(t, p) // what was written after the cut is in its place
			if !seen(t, r, 1, time.Hour) || !seen(t, r, 2, time.Hour) {
				t.Error("forgot what was added after the cut")
			}
		})
	}
}

func TestReplayFileDamageIsAnError(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/replay"
	r := openReplay(t, path)
	for n := range 3 {
		seen(t, r, n, time.Hour)
	}
	r.Close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(whole) - krb5.ReplayRecord {
		b := bytes.Clone(whole)
		b[n] ^= 0x10
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if r, err := krb5.OpenFileReplay(path); err == nil {
			r.Close()
			t.Fatalf("damage at octet %d was not seen", n)
		}
		if left, _ := os.ReadFile(path); !bytes.Equal(left, b) {
			t.Fatalf("damage at octet %d: the file was changed", n)
		}
	}
}

// The file shrinks to what is valid, and a restart finds that.
func TestReplayFileCompaction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := t.TempDir() + "/replay"
		r := openReplay(t, path)
		records := int(krb5.MinReplayFile-int64(len(krb5.ReplayMagic))) / krb5.ReplayRecord
		for n := range records - 1 {
			seen(t, r, n, time.Second)
		}
		time.Sleep(10 * time.Second)
		seen(t, r, 1_000_000, time.Hour)
		info, err := os.Stat(path)
		if err != nil || info.Size() != int64(len(krb5.ReplayMagic)+krb5.ReplayRecord) || info.Mode() != 0o600 {
			t.Fatalf("%d octets, mode %v, %v", info.Size(), info.Mode(), err)
		}
		if _, err := krb5.OpenFileReplay(path); err == nil {
			t.Error("the new file is not locked")
		}
		seen(t, r, 1_000_001, time.Hour)
		r.Close()
		r = openReplay(t, path)
		for n := range 2 {
			if !seen(t, r, 1_000_000+n, time.Hour) {
				t.Error("forgot")
			}
		}
		if left, _ := filepath.Glob(filepath.Dir(path) + "/.*"); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
}

// A folder that cannot be written leaves the cache working on the old file.
func TestReplayFileCompactionFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		path := dir + "/replay"
		r := openReplay(t, path)
		// a folder in the place of the file that compaction writes, which it cannot remove
		if err := os.MkdirAll(dir+"/.replay.new/x", 0o700); err != nil {
			t.Fatal(err)
		}
		records := int(krb5.MinReplayFile) / krb5.ReplayRecord
		for n := range records + 10 {
			if seen(t, r, n, time.Hour) || !seen(t, r, n, time.Hour) {
				t.Fatal(n)
			}
		}
		r.Close()
		r = openReplay(t, path)
		for n := range records + 10 {
			if !seen(t, r, n, time.Hour) {
				t.Fatalf("forgot %d", n)
			}
		}
	})
}

// FuzzReplayFile: whatever the file holds, opening it either fails and changes
// nothing, or gives a cache that remembers each record up to the last whole
// one, and whatever is added, over a restart too.
func FuzzReplayFile(f *testing.F) {
	end := time.Now().Add(1000 * time.Hour).Unix()
	good := []byte(krb5.ReplayMagic)
	for n := range 3 {
		good = krb5.AppendReplay(good, tag(n), end)
	}
	f.Add(good)
	f.Add(good[:len(good)-7])
	f.Add([]byte(nil))
	f.Add([]byte("kpopd rep"))
	f.Add([]byte("not a cache at all, but longer than its header"))
	f.Add(append(bytes.Clone(good), make([]byte, 100)...))
	f.Add(append(append(bytes.Clone(good), make([]byte, krb5.ReplayRecord)...), good[len(krb5.ReplayMagic):]...))
	f.Add(krb5.AppendReplay([]byte(krb5.ReplayMagic), tag(9), -1))
	f.Fuzz(func(t *testing.T, b []byte) {
		path := t.TempDir() + "/replay"
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := krb5.OpenFileReplay(path)
		if err != nil {
			if left, _ := os.ReadFile(path); !bytes.Equal(left, b) {
				t.Error("refused and changed")
			}
			return
		}
		defer func() { r.Close() }()
		records := bytes.TrimPrefix(b, []byte(krb5.ReplayMagic))
		if len(records) == len(b) {
			records = nil
		}
		fresh := [32]byte{31: 0xee}
		if s, err := r.Seen(t.Context(), fresh, time.Now().Add(time.Hour)); err != nil || (s && !bytes.Contains(records, fresh[:])) {
			t.Fatalf("%v, %v", s, err)
		}
		for range 2 {
			for rec := range chunks(records) {
				s, err := r.Seen(t.Context(), [32]byte(rec), time.Now().Add(time.Hour))
				if err != nil || !s {
					t.Fatalf("forgot %x: %v", rec[:32], err)
				}
			}
			if s, err := r.Seen(t.Context(), fresh, time.Now().Add(time.Hour)); err != nil || !s {
				t.Fatalf("forgot what was added: %v", err)
			}
			r.Close()
			if r, err = krb5.OpenFileReplay(path); err != nil {
				t.Fatalf("cannot open what it wrote: %v", err)
			}
		}
	})
}

// chunks yields the records that are whole and have not ended.
func chunks(b []byte) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for ; len(b) >= krb5.ReplayRecord; b = b[krb5.ReplayRecord:] {
			rec := b[:krb5.ReplayRecord]
			end := int64(binary.BigEndian.Uint64(rec[32:]))
			if bytes.Equal(krb5.AppendReplay(nil, [32]byte(rec), end), rec) && end > time.Now().Add(time.Hour).Unix() && end < 1<<40 && !yield(rec) {
				return
			}
		}
	}
}

// A process that is being started has a copy of the file's descriptor for a
// moment; who opens the file next need not wait for it.
func TestFileReplayClosedForAll(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "replay")
	r, err := krb5.OpenFileReplay(path)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := r.Copy()
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := krb5.OpenFileReplay(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}
