package maildir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/maildrop"
	"github.com/kpopd/kpopd/maildrop/droptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRule040NumbersAreFixedAtOpen(t *testing.T)             { droptest.Rule040(t, harness) }
func TestRule044AnEmptyMaildropOpens(t *testing.T)              { droptest.Rule044(t, harness) }
func TestRule046SizesAreOctetsSent(t *testing.T)                { droptest.Rule046(t, harness) }
func TestRule048AVanishedMessageIsGone(t *testing.T)            { droptest.Rule048(t, harness) }
func TestRule051NothingGoesBeforeCommit(t *testing.T)           { droptest.Rule051(t, harness) }
func TestRule060UniqueIDsAreLegal(t *testing.T)                 { droptest.Rule060(t, harness) }
func TestRule061UniqueIDsPersist(t *testing.T)                  { droptest.Rule061(t, harness) }
func TestRule062UniqueIDsAreNotReused(t *testing.T)             { droptest.Rule062(t, harness) }
func TestRule068DeliveryDoesNotDisturbReading(t *testing.T)     { droptest.Rule068(t, harness) }
func TestRule069TheListingIsASnapshot(t *testing.T)             { droptest.Rule069(t, harness) }
func TestRule071AnyOctetsHaveTheSizeTheyAreSentIn(t *testing.T) { droptest.Rule071(t, harness) }
func TestRule072SizesSurviveARestart(t *testing.T)              { droptest.Rule072(t, harness) }
func TestRule073OnlyCommitRemoves(t *testing.T)                 { droptest.Rule073(t, harness) }
func TestRule074OnlyMarkedMessagesGo(t *testing.T)              { droptest.Rule074(t, harness) }
func TestRule075WhatStaysIsTold(t *testing.T)                   { droptest.Rule075(t, harness) }
func TestRule076CommitFreesTheLock(t *testing.T)                { droptest.Rule076(t, harness) }
func TestRule078RemovedByAnotherIsRemoved(t *testing.T)         { droptest.Rule078(t, harness) }
func TestRule079NewMailStays(t *testing.T)                      { droptest.Rule079(t, harness) }
func TestRule171ASecondSessionIsRefused(t *testing.T)           { droptest.Rule171(t, harness) }
func TestRule172ALostSessionFreesTheLock(t *testing.T)          { droptest.Rule172(t, harness) }
func TestRule174DeliveryNeedsNoLock(t *testing.T)               { droptest.Rule174(t, harness) }
func TestRule175OthersMayExpunge(t *testing.T)                  { droptest.Rule175(t, harness) }
func TestCancelledContext(t *testing.T)                         { droptest.Cancelled(t, harness) }
func TestModel(t *testing.T)                                    { droptest.Model(t, harness) }
func TestCrowd(t *testing.T)                                    { droptest.Crowd(t, harness) }

func TestNarrowed(t *testing.T)            { droptest.Narrowed(t, harness) }
func TestRecent(t *testing.T)              { droptest.Recent(t, harness) }
func TestWhatStaysIsNumbered(t *testing.T) { droptest.WhatStaysIsNumbered(t, harness) }
func TestNoSuchFolder(t *testing.T)        { droptest.NoSuchFolder(t, harness) }

func TestRule070SizesAreOf64Bits(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	dir := makeMaildir(t, root, "alice")
	put(t, dir, "1.a,W=3221225472", "a\n")
	if got := messages(t, openAlice(t, newStore(t, root, Options{TrustSizes: true})))[0].Size; got != 3<<30 {
		t.Errorf("size %d", got)
	}
}

// Sizes from file names must not change what a session shows, only what it reads.
func TestStoreThatTrustsSizes(t *testing.T) {
	t.Parallel()
	droptest.RunStore(t, func(t *testing.T) *droptest.Harness {
		return harnessWith(t, Options{TrustSizes: true}, func(stored string) string {
			return fmt.Sprintf(",S=%d,W=%d", len(stored), len(droptest.Wire(stored)))
		})
	})
}

func TestStoreWithoutCache(t *testing.T) {
	t.Parallel()
	droptest.RunStore(t, func(t *testing.T) *droptest.Harness {
		return harnessWith(t, Options{CacheOctets: -1}, func(string) string { return "" })
	})
}

func harness(t *testing.T) *droptest.Harness {
	return harnessWith(t, Options{}, func(string) string { return "" })
}

// harnessWith names messages as delivery agents do, with suffix after the host.
func harnessWith(t *testing.T, o Options, suffix func(stored string) string) *droptest.Harness {
	root := t.TempDir()
	makeMaildir(t, root, "alice")
	var n atomic.Int64
	return &droptest.Harness{
		Store:   newStore(t, root, o),
		Restart: func() maildrop.Store { return newStore(t, root, o) },
		Deliver: func(user, stored string) {
			k := n.Add(1)
			put(t, filepath.Join(root, user), fmt.Sprintf("%d.M%dP1.host%s", 1700000000+k/3, k, suffix(stored)), stored)
		},
		Remove: func(user, uid string) {
			if err := os.Remove(locate(t, filepath.Join(root, user), uid)); err != nil {
				t.Error(err)
			}
		},
		Rename: func(user, uid string) {
			old := locate(t, filepath.Join(root, user), uid)
			if err := os.Rename(old, filepath.Join(root, user, "cur", uid+":2,FS")); err != nil {
				t.Error(err)
			}
		},
		Protect: func(user, uid string) { protect(t, filepath.Join(root, user), uid) },
	}
}

func newStore(t testing.TB, root string, o Options) *Store {
	t.Helper()
	s, err := New(root, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func messages(t testing.TB, d maildrop.Drop) maildrop.Messages {
	t.Helper()
	ms, err := maildrop.List(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	return ms
}

func makeMaildir(t testing.TB, parts ...string) string {
	t.Helper()
	dir := filepath.Join(parts...)
	if err := Make(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// put delivers without waiting for the disk.
func put(t testing.TB, dir, name, stored string) {
	t.Helper()
	tmp := filepath.Join(dir, "tmp", name)
	if err := os.WriteFile(tmp, []byte(stored), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(dir, "new", name)); err != nil {
		t.Fatal(err)
	}
}

// locate finds the file of a base name.
func locate(t *testing.T, dir, base string) string {
	t.Helper()
	for _, sub := range dirNames {
		files, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if name, _, _ := strings.Cut(f.Name(), ":"); name == base {
				return filepath.Join(dir, sub, f.Name())
			}
		}
	}
	t.Fatalf("no message %q", base)
	return ""
}

// protect keeps a message from being removed: for root by the immutable
// attribute (FS_IMMUTABLE_FL, 0x10), for others by putting it into cur, which
// is then read-only.
func protect(t *testing.T, dir, base string) {
	t.Helper()
	if os.Geteuid() != 0 {
		cur := filepath.Join(dir, "cur")
		err := errors.Join(os.Rename(locate(t, dir, base), filepath.Join(cur, base+":2,")), os.Chmod(cur, 0o500))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Chmod(cur, 0o700) })
		return
	}
	f, err := os.Open(locate(t, dir, base))
	if err != nil {
		t.Fatal(err)
	}
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags|0x10)
	}
	if err != nil {
		f.Close()
		t.Skipf("cannot make a file immutable here: %v", err)
	}
	t.Cleanup(func() {
		err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Error(err)
		}
	})
}
