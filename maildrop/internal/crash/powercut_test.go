package crash

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Environment variables of TestPowerCut.
const (
	cuts = "KPOPD_POWER_CUTS" // how many; 40 when empty
	seed = "KPOPD_SEED"       // of the moments of the cuts and of what is deleted
)

// write is the process under which the power is cut: rounds of delivery, a mail
// client, and a session, until something goes wrong. The promises that count
// are in the ledger.
func write(s store, root string, l *ledger) {
	first, err := strconv.Atoi(os.Args[4])
	last, err2 := strconv.Atoi(os.Args[5])
	if err := errors.Join(err, err2); err != nil {
		panic(err)
	}
	r := rand.New(rand.NewPCG(uint64(first), 0))
	l.powered = filepath.Join(root, powered)
	st, err := s.open(root)
	if err != nil {
		l.say("stopped", err)
		return
	}
	for n := first; n <= last; {
		for range 1 + r.IntN(3) {
			l.say("delivering", n)
			if err := s.deliver(root, message(n)); err != nil {
				l.say("stopped", err)
				return
			}
			l.say("delivered", n)
			n++
		}
		if s.show != nil && r.IntN(2) == 0 {
			if err := s.show(root); err != nil {
				l.say("stopped", err)
				return
			}
		}
		if !visit(st, l, func(int) bool { return r.IntN(3) == 0 }) {
			return
		}
	}
}

// powered is the file that a writer opens to see whether there is power.
const powered = "powered"

// writes is how many messages a writer delivers before any of the cuts.
const writes = 24

// When the power fails at any moment, what was answered +OK at QUIT stays gone,
// what was not marked stays, and no unique-id moves.
func TestPowerCut(t *testing.T) {
	if !ownMounts(t) {
		return
	}
	n, err := strconv.Atoi(os.Getenv(cuts))
	if err != nil {
		n = 40
	}
	from, err := strconv.ParseUint(os.Getenv(seed), 10, 64)
	if err != nil {
		from = rand.Uint64() >> 32
	}
	t.Logf("%s=%d", seed, from)
	for _, s := range stores {
		if s.variant && s.rewrites { // a dotlock that the cut left empty is nobody's for five minutes
			continue
		}
		cutPower(t, s, n, rand.New(rand.NewPCG(from, 0)))
	}
}

// cutPower lets what was promised before one cut be kept through all that
// follow: the disk stays the same one.
func cutPower(t *testing.T, s store, n int, rng *rand.Rand) {
	d := newDisk(t, 64)
	r := &run{store: s, dir: t.TempDir(), root: filepath.Join(d.dir, "mail"), books: newBooks()}
	r.records = filepath.Join(r.dir, "ledger")
	err := errors.Join(os.Mkdir(r.root, 0o700), s.make(r.root), os.WriteFile(filepath.Join(r.root, powered), nil, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	unix.Sync()
	took := time.Duration(0)
	for range 2 { // the first run of a program is slower than the rest
		begin := time.Now()
		r.cut(t, d, nil)
		if took = time.Since(begin); !r.account.ended || r.account.stopped != "" || r.account.broke != "" {
			t.Fatalf("%s without a cut: %+v", s.name, r.account)
		}
	}
	took = min(took, time.Second/2)
	for range n {
		at := time.Duration(rng.Int64N(int64(took)))
		r.cut(t, d, time.After(at))
		if t.Failed() {
			t.Fatalf("%s: cut %v after the start", s.name, at)
		}
		d.unmount(t)
		d.mount(t)
		r.report(t, r.books.check(s, r.root), "after the power was cut")
	}
	removed := 0
	for _, f := range r.books.fates {
		if f == gone {
			removed++
		}
	}
	t.Logf("%s: %d cuts within %v; %d messages, %d removed", s.name, n, took, len(r.books.fates), removed)
}

// cut runs a writer, and cuts the power when it is told to. The writer goes on
// upon a dead disk: it must notice, and end well.
func (r *run) cut(t *testing.T, d *disk, now <-chan time.Time) {
	t.Helper()
	if err := makeLedger(r.records); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(d.dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	first := 1
	for n := range r.books.fates {
		first = max(first, n+1)
	}
	last := first + writes
	if now != nil {
		last = first + 20*writes // it does not get there
	}
	p := r.start(t, "writer", strconv.Itoa(first), strconv.Itoa(last))
	if now != nil {
		<-now
		if err := unix.IoctlSetPointerInt(fd, shutdown, noLogFlush); err != nil {
			t.Errorf("cut the power: %v", err)
		}
	}
	r.enter(t, p.wait(t))
}

// The shutdown of a file system, EXT4_IOC_SHUTDOWN: nothing that is not on the
// disk yet gets there any more, the journal neither.
const (
	shutdown   = 0x8004587d // _IOR('X', 125, __u32)
	noLogFlush = 2          // EXT4_GOING_FLAGS_NOLOGFLUSH
)
