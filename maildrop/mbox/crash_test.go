package mbox

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/maildrop"
)

var errDead = errors.New("the process was killed")

// dying is a disk on which a process dies at one of its calls: nothing that it does
// after that has an effect. Where the power goes, what no fsync has made durable may
// be lost.
type dying struct {
	left  int        // calls until then
	torn  bool       // half of a write is done at the moment of death
	power *rand.Rand // says what is lost; nil when only the process dies
	dead  bool
	calls []string
	ops   []op // not durable yet
}

// op is a change that an fsync of a file makes durable.
type op struct {
	of   inode
	undo func()
}

func (d *dying) die(call string) bool {
	if d.dead {
		return true
	}
	d.calls = append(d.calls, call)
	d.left--
	if d.left == 0 {
		d.dead = true
	}
	return d.dead
}

func (d *dying) install(s *Store) {
	s.calls = calls{
		pwrite: func(fd int, p []byte, at int64) (int, error) {
			torn := d.torn && !d.dead
			if d.die("pwrite") {
				if torn {
					d.write(fd, p[:len(p)/2], at)
				}
				return 0, errDead
			}
			return d.write(fd, p, at)
		},
		truncate: func(fd int, size int64) error {
			if d.die("truncate") {
				return errDead
			}
			d.keep(fd, size)
			d.blank(fd, size)
			return unix.Ftruncate(fd, size)
		},
		fsync: func(fd int) error {
			if d.die("fsync") {
				return errDead
			}
			of := must(inodeOf(fd))
			d.ops = slices.DeleteFunc(d.ops, func(o op) bool { return o.of == of })
			return nil
		},
		rename: func(dir int, from, to string) error {
			if d.die("rename") {
				return errDead
			}
			return d.rename(dir, from, to)
		},
		unlink: func(dir int, name string) error {
			if d.die("unlink") {
				return errDead
			}
			return d.unlink(dir, name)
		},
	}
}

func (d *dying) write(fd int, p []byte, at int64) (int, error) {
	d.keep(fd, at)
	return unix.Pwrite(fd, p, at)
}

// keep remembers the file from an offset on, so that the change can be lost.
func (d *dying) keep(fd int, from int64) {
	if d.power == nil {
		return
	}
	at := must(stampOf(fd))
	old := make([]byte, max(0, at.size-from))
	must(file(fd).ReadAt(old, from))
	again := must(unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0))
	f := os.NewFile(uintptr(again), "")
	d.ops = append(d.ops, op{at.inode, func() {
		must(f.WriteAt(old, from))
		if err := f.Truncate(at.size); err != nil {
			panic(err)
		}
	}})
}

// blank writes NULs over what a truncation leaves of the last block, as ext4 does, and
// may have on disk before the new size.
func (d *dying) blank(fd int, size int64) {
	if d.power == nil || d.power.IntN(2) == 0 {
		return
	}
	block := int64(sector) << d.power.IntN(2)
	if end := min((size+block-1)/block*block, must(stampOf(fd)).size); end > size {
		must(unix.Pwrite(fd, make([]byte, end-size), size))
		d.ops[len(d.ops)-1].undo = d.sized(fd)
	}
}

// sized is the size alone made what it was.
func (d *dying) sized(fd int) func() {
	at := must(stampOf(fd))
	old := make([]byte, at.size)
	must(file(fd).ReadAt(old, 0))
	f := os.NewFile(uintptr(must(unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0))), "")
	return func() {
		must(f.WriteAt(old, 0))
		if err := f.Truncate(at.size); err != nil {
			panic(err)
		}
	}
}

func (d *dying) rename(dir int, from, to string) error {
	if d.power != nil {
		d.remember(dir, to)
	}
	return kernel.rename(dir, from, to)
}

func (d *dying) unlink(dir int, name string) error {
	if d.power != nil {
		d.remember(dir, name)
	}
	return kernel.unlink(dir, name)
}

// remember keeps what a name stands for.
func (d *dying) remember(dir int, name string) {
	of := must(inodeOf(dir))
	path := must(os.Readlink(fmt.Sprintf("/proc/self/fd/%d", dir))) + "/"
	saved := fmt.Sprintf("saved.%d", len(d.calls))
	err := os.Link(path+name, path+saved)
	d.ops = append(d.ops, op{of, func() {
		if err == nil {
			_ = os.Rename(path+saved, path+name)
		} else {
			_ = os.Remove(path + name)
		}
	}})
}

// crash loses what is lost, some of it or all.
func (d *dying) crash() {
	if d.power == nil {
		return
	}
	all := d.power.IntN(2) == 0
	for _, o := range slices.Backward(d.ops) {
		if all || d.power.IntN(2) == 0 {
			o.undo()
		}
	}
	d.ops = nil
}

// mail is what the sweeps work on: messages that are alike among them.
func mail(n int) (texts []string, text string) {
	for i := range n {
		m := fmt.Sprintf("Subject: %d\n\n%s\n", i%7, strings.Repeat(fmt.Sprintf("line of %d\n", i%7), 20+i%5))
		texts = append(texts, m)
		text += asDelivered(m)
	}
	return texts, text
}

// sweep has a session that removes del die at each call, has mail come, lets the
// next session die at each of its calls in turn, has mail come again, and then looks.
func sweep(t *testing.T, del []int, came, later string, power func() *rand.Rand, torn bool) {
	t.Helper()
	texts, text := mail(9)
	kept := ""
	for i, m := range texts {
		if !slices.Contains(del, i) {
			kept += asDelivered(m)
		}
	}
	die := func(s *Store, after int, work func()) (done bool) {
		d := &dying{left: after, torn: torn, power: power()}
		d.install(s)
		work()
		d.crash()
		s.calls = kernel
		return !d.dead
	}
	runs, deaths := 0, 0
	for first := 1; ; first++ {
		done := false
		for second := 1; ; second++ {
			w := newWorld(t)
			s := w.fast(Options{})
			w.write("alice", text)
			uids, _ := list(t, s)
			d := session(t, s)
			done = die(s, first, func() {
				err := d.Commit(t.Context(), del)
				var ce *maildrop.CommitError
				if err != nil && (!errors.As(err, &ce) || !slices.Equal(ce.Left, del)) {
					t.Errorf("Commit: %v", err)
				}
			})
			w.deliver("alice", came)
			again := die(s, second, func() {
				if d, err := s.Open(t.Context(), maildrop.Ref{User: "alice"}); err == nil {
					d.Close()
				}
			})
			w.deliver("alice", later)
			after, _ := list(t, w.fast(Options{}))
			what := w.read("alice")
			if what != kept+came+later && (done || what != text+came+later) {
				t.Fatalf("death at calls %d and %d: the file is\n%s\nwant what stays:\n%s", first, second, what, kept+came+later)
			}
			if what != text+came+later {
				var stay []string
				for i, uid := range uids {
					if !slices.Contains(del, i) {
						stay = append(stay, uid)
					}
				}
				if !slices.Equal(after[:len(stay)], stay) && power() == nil {
					t.Fatalf("death at calls %d and %d: ids %q, want %q", first, second, after, stay)
				}
			}
			if names := must(os.ReadDir(w.state)); slices.ContainsFunc(names, func(e os.DirEntry) bool { return strings.HasSuffix(e.Name(), ".redo") }) {
				t.Fatal("a journal is left")
			}
			runs++
			if again {
				break
			}
			deaths++
		}
		if done {
			break
		}
	}
	if deaths == 0 {
		t.Error("nothing died")
	}
	t.Logf("%d runs", runs)
}

// fast is a store that does not wait for the disk.
func (w *world) fast(o Options) *Store {
	s := w.store(o)
	s.calls.fsync = func(int) error { return nil }
	return s
}

func alive() *rand.Rand { return nil }

// TestKillSweep kills at every call of a rewriting, and at every call of its
// mending, with mail that comes between: also mail that is the same to the octet as
// what was removed.
func TestKillSweep(t *testing.T) {
	t.Parallel()
	_, same := mail(3)
	short := asDelivered("new\n")
	for _, tt := range []struct {
		name        string
		del         []int
		came, later string
	}{
		{"the first", []int{0}, "", ""},
		{"the first, and the same comes", []int{0, 1, 2}, same, ""},
		{"some, and less comes", []int{2, 3, 6}, short, short},
		{"some, and more comes", []int{1, 4}, same + same, same},
		{"all but the last", []int{0, 1, 2, 3, 4, 5, 6, 7}, short, ""},
		{"the last", []int{8}, same, ""},
		{"all", []int{0, 1, 2, 3, 4, 5, 6, 7, 8}, same, short},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			sweep(t, tt.del, tt.came, tt.later, alive, true)
		})
	}
}

// TestPowerSweep is the same where what was not made durable is lost, in parts.
// Nothing comes between: who delivers makes his mail durable himself.
func TestPowerSweep(t *testing.T) {
	t.Parallel()
	for seed := range uint64(2) {
		for _, del := range [][]int{{2, 3, 6}, {4, 5, 6, 7, 8}, {0, 1, 2, 3, 4, 5, 6, 7, 8}} {
			t.Run(fmt.Sprintf("seed %d, %d", seed, del), func(t *testing.T) {
				t.Parallel()
				random := rand.New(rand.NewPCG(seed, 1))
				sweep(t, del, "", "", func() *rand.Rand { return random }, seed%2 == 1)
			})
		}
	}
}

// TestFaults has each call fail once, as on a bad or full disk, and the process go
// on: nothing is lost, the session is told, and the next one works.
func TestFaults(t *testing.T) {
	t.Parallel()
	texts, text := mail(9)
	del := []int{1, 2, 5}
	kept := ""
	for i, m := range texts {
		if !slices.Contains(del, i) {
			kept += asDelivered(m)
		}
	}
	for _, errno := range []unix.Errno{unix.EIO, unix.ENOSPC, unix.EDQUOT} {
		for at, done := 1, false; !done; at++ {
			w := newWorld(t)
			s := w.store(Options{})
			w.write("alice", text)
			n := 0
			fails := func() bool { n++; return n == at }
			d := session(t, s)
			s.calls = calls{
				pwrite: func(fd int, p []byte, at int64) (int, error) {
					if fails() {
						return 0, errno
					}
					return kernel.pwrite(fd, p, at)
				},
				truncate: func(fd int, size int64) error {
					if fails() {
						return errno
					}
					return kernel.truncate(fd, size)
				},
				fsync: func(fd int) error {
					if fails() {
						return errno
					}
					return nil
				},
				rename: func(dir int, from, to string) error {
					if fails() {
						return errno
					}
					return kernel.rename(dir, from, to)
				},
				unlink: func(dir int, name string) error {
					if fails() {
						return errno
					}
					return kernel.unlink(dir, name)
				},
			}
			err := d.Commit(t.Context(), del)
			done = n < at
			s.calls = kernel
			var ce *maildrop.CommitError
			if err != nil && (!errors.As(err, &ce) || !slices.Equal(ce.Left, del) || !errors.Is(err, errno)) {
				t.Fatalf("%v at call %d: %v", errno, at, err)
			}
			list(t, s)
			if got := w.read("alice"); got != kept && (err == nil || got != text) {
				t.Fatalf("%v at call %d: the file is\n%s", errno, at, got)
			}
		}
	}
}

// What a power cut leaves of a delivery does not hide the next one.
func TestTornDelivery(t *testing.T) {
	t.Parallel()
	whole, next := asDelivered("whole\n"), asDelivered("next\n")
	for _, tt := range []struct{ name, left, want string }{
		{"nothing but room", whole + strings.Repeat("\x00", 9000), whole},
		{"the only one", "\x00\x00\x00", ""},
		{"a part of a line", whole + "From a@b Tue Nov 14 22:13:20 2023\nSubj\x00\x00", whole + "From a@b Tue Nov 14 22:13:20 2023\nSubj\n\n"},
		{"whole lines", whole + "From a@b Tue Nov 14 22:13:20 2023\nSubject: x\n\x00", whole + "From a@b Tue Nov 14 22:13:20 2023\nSubject: x\n\n"},
		{"NULs inside", asDelivered("a\x00\x00b\n"), asDelivered("a\x00\x00b\n")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			var log strings.Builder
			s := w.store(Options{Log: captured(&log)})
			w.write("alice", tt.left)
			before, _ := list(t, s)
			if got := w.read("alice"); got != tt.want {
				t.Errorf("the file is %q, want %q", got, tt.want)
			}
			if said := strings.Contains(log.String(), "level=WARN"); said != (tt.left != tt.want) {
				t.Errorf("the log says %q", log.String())
			}
			w.deliver("alice", next)
			after, _ := list(t, s)
			if len(after) != len(before)+1 || !slices.Equal(after[:len(before)], before) {
				t.Errorf("ids %q, then %q", before, after)
			}
		})
	}
}

// A journal that does not fit the file is not used: the file was restored, or
// rewritten by a program that did not know. It is kept, and staff are told.
func TestForeignJournal(t *testing.T) {
	t.Parallel()
	texts, text := mail(9)
	for _, tt := range []struct {
		name    string
		meddle  func(w *world)
		outcome string
	}{
		{"another file", func(w *world) {
			w.write("bob", text)
			os.Rename(w.file("bob"), w.file("alice"))
		}, text},
		{"another file of the same inode", func(w *world) { w.write("alice", text[:len(text)-2]+text) }, text[:len(text)-2] + text},
		{"a shorter file", func(w *world) { w.write("alice", asDelivered(texts[0])) }, asDelivered(texts[0])},
		{"a rewritten file", func(w *world) {
			w.write("alice", asDelivered("X: 1\n\n")+text[len(asDelivered("X: 1\n\n")):]+text)
		}, ""},
		{"a damaged journal", func(w *world) {
			name := w.state + "/" + stateName("alice", "redo")
			b := must(os.ReadFile(name))
			b[len(b)-1]++
			os.WriteFile(name, b, 0o600)
		}, text},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			var log strings.Builder
			s := w.store(Options{Log: captured(&log)})
			w.write("alice", text)
			d := session(t, s)
			s.calls.pwrite = func(fd int, p []byte, at int64) (int, error) {
				if at > 0 && must(os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))) == w.file("alice") {
					return 0, unix.EIO
				}
				return unix.Pwrite(fd, p, at)
			}
			if err := d.Commit(t.Context(), []int{4}); err == nil {
				t.Fatal("the disk does not fail")
			}
			s.calls = kernel
			tt.meddle(w)
			list(t, s)
			if got := w.read("alice"); tt.outcome != "" && got != tt.outcome {
				t.Errorf("the file is\n%s", got)
			}
			if _, err := os.Stat(w.state + "/" + stateName("alice", "redo.unused")); err != nil {
				t.Error(err)
			}
			if !strings.Contains(log.String(), "level=ERROR") {
				t.Errorf("staff are not told: %q", log.String())
			}
		})
	}
}
