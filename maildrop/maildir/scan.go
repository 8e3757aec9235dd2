package maildir

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
	"math/bits"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The two directories that hold messages. A message moves from new to cur.
const (
	inNew = iota
	inCur
)

var dirNames = [...]string{inNew: "new", inCur: "cur"}

// dirs is new and cur, opened for reading.
type dirs [len(dirNames)]int

var noDirs = dirs{-1, -1}

func openDirs(fd int) (dirs, error) {
	d := noDirs
	for i, name := range dirNames {
		sub, err := openat2(fd, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			d.close()
			return noDirs, wrap("open", name, err)
		}
		d[i] = sub
	}
	return d, nil
}

func (d *dirs) close() {
	for _, fd := range d {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// stamp changes whenever a directory does. Its change time cannot be set, as a
// restored backup sets the modification time.
type stamp struct {
	dev, ino uint64
	changed  int64 // ctime, Unix nanoseconds
}

func stampOf(fd int) (stamp, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return stampIn(&st), err
}

func stampIn(st *unix.Stat_t) stamp { return stamp{st.Dev, st.Ino, unix.TimespecToNsec(st.Ctim)} }

type stamps [len(dirNames)]stamp

func (d *dirs) stamps() (s stamps, err error) {
	for i, fd := range d {
		if s[i], err = stampOf(fd); err != nil {
			return s, wrap("stat", dirNames[i], err)
		}
	}
	return s, nil
}

// stampsAt is what dirs.stamps gives for the directories in fd, unopened.
func stampsAt(fd int) (s stamps, err error) {
	for i, name := range dirNames {
		var st unix.Stat_t
		if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return s, wrap("stat", name, err)
		}
		s[i] = stampIn(&st)
	}
	return s, nil
}

// olderThan says that a change made d or more after the stamps were taken
// cannot have left them as they are, although the clocks of file systems are
// coarse.
func (s stamps) olderThan(d time.Duration, now time.Time) bool {
	for _, t := range s {
		if !t.olderThan(d, now) {
			return false
		}
	}
	return true
}

func (s stamp) olderThan(d time.Duration, now time.Time) bool {
	return now.UnixNano()-s.changed >= int64(d)
}

// settledDirs says of new and cur whether their stamps were old enough to vouch
// for what was found in them.
type settledDirs [len(dirNames)]bool

func (s settledDirs) all() bool { return s[inNew] && s[inCur] }

// entry is a file that may be a message.
type entry struct {
	base string
	name string // with flags
	time uint64
	ino  uint64
	old  int   // index in the listing that is known, or -1
	dir  uint8 // inNew or inCur
	scan uint8 // by which scan it was found

	linked bool   // was found under another name too
	uid    string // where it is not the base name
	frozen bool   // is in the file of unique-ids
}

// hashed finds messages of a listing by something about them.
type hashed []slot // as many as a power of two

type slot struct {
	hash  uint64
	index int // of the message, and 1
}

func newHashed(n int) hashed { return make(hashed, 1<<bits.Len(uint(2*n))) }

func (h hashed) at(hash uint64) uint64 { return hash & uint64(len(h)-1) }

func (h hashed) add(hash uint64, i int) {
	at := h.at(hash)
	for h[at].index != 0 {
		at = h.at(at + 1)
	}
	h[at] = slot{hash, i + 1}
}

// find returns a message of that hash for which ok says that it is the one, or
// -1.
func (h hashed) find(hash uint64, ok func(i int) bool) int {
	for at := h.at(hash); h[at].index != 0; at = h.at(at + 1) {
		if i := h[at].index - 1; h[at].hash == hash && ok(i) {
			return i
		}
	}
	return -1
}

// scanner lists new and cur. A message that is where old says costs it no
// memory, and no look at old: that a name is in its place is taken from 64 bits
// of a hash with a seed that nobody knows.
type scanner struct {
	dirs   *dirs
	old    *listing
	seed   maphash.Seed
	places [len(dirNames)]hashed // by name and inode; made when the directory is read
	bases  hashed                // by base name; made when many are looked for
	asked  int                   // base names
	seen   []uint8               // of old, by index: the bits of the scans that found it where it was
	moved  []entry               // what else was found
	links  bool                  // old has messages of two names
}

// placesIn finds what old has of a directory.
func (s *scanner) placesIn(dir int) hashed {
	if h := s.places[dir]; h != nil {
		return h
	}
	n := 0
	for i := range s.old.records {
		if s.old.records[i].dir() == dir {
			n++
		}
	}
	h := newHashed(n)
	for i := range s.old.records {
		if r := &s.old.records[i]; r.dir() == dir && !r.is(linked) {
			h.add(maphash.String(s.seed, s.old.name(i))^r.ino, i)
		}
	}
	s.places[dir] = h
	return h
}

// find returns the index of a base name in old, or -1.
func (s *scanner) find(time uint64, base string) int {
	s.asked++
	if s.asked < len(s.old.records)/256 {
		i, _ := s.old.find(time, base)
		return i
	}
	if s.bases == nil {
		s.bases = newHashed(len(s.old.records))
		for i := range s.old.records {
			s.bases.add(maphash.String(s.seed, s.old.base(i)), i)
		}
	}
	return s.bases.find(maphash.String(s.seed, base), func(i int) bool { return s.old.base(i) == base })
}

var scanBuffers = sync.Pool{New: func() any { return new([64 << 10]byte) }}

// scan lists what is in new, and then what is in cur: a message that is moved
// meanwhile is found in one of them or in both. A directory is not read when
// its stamp vouches for what old has of it.
func (s *scanner) scan(k uint8, at stamps) error {
	buf := scanBuffers.Get().(*[64 << 10]byte)
	defer scanBuffers.Put(buf)
	for i, fd := range s.dirs {
		if s.old.settled[i] && s.old.at[i] == at[i] && !s.links {
			s.takeOld(i, k)
			continue
		}
		if _, err := unix.Seek(fd, 0, unix.SEEK_SET); err != nil {
			return wrap("list", dirNames[i], err)
		}
		for {
			n, err := unix.Getdents(fd, buf[:])
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				return wrap("list", dirNames[i], err)
			}
			if n == 0 {
				break
			}
			s.take(buf[:n], uint8(i), k)
		}
	}
	return nil
}

// takeOld finds what old has of a directory.
func (s *scanner) takeOld(dir int, k uint8) {
	for i := range s.old.records {
		if s.old.records[i].dir() == dir {
			s.seen[i] |= 1 << k
		}
	}
}

// take reads records as getdents64(2) fills them: 8 octets inode, 8 octets
// offset, 2 octets length of the record, 1 octet type, name, NUL.
func (s *scanner) take(records []byte, dir, k uint8) {
	const nameAt = 19
	places := s.placesIn(int(dir))
	for len(records) > nameAt {
		size := int(binary.NativeEndian.Uint16(records[16:]))
		kind, ino := records[18], binary.NativeEndian.Uint64(records)
		name := records[nameAt:size]
		records = records[size:]
		if i := bytes.IndexByte(name, 0); i >= 0 {
			name = name[:i]
		}
		if name[0] == '.' || kind != unix.DT_REG && kind != unix.DT_UNKNOWN {
			continue
		}
		if i := places.find(maphash.Bytes(s.seed, name)^ino, always); i >= 0 {
			s.seen[i] |= 1 << k
			continue
		}
		e := entry{name: string(name), ino: ino, dir: dir, scan: k}
		e.base = baseOf(e.name)
		e.time = timeOf(e.base)
		e.old = s.find(e.time, e.base)
		s.moved = append(s.moved, e)
	}
}

func always(int) bool { return true }

// found is what there is.
type found struct {
	old   *listing
	seen  []uint8
	scans uint8   // the bits of seen that count
	moved []entry // in order, one for each message: those that are new, and those of old that are elsewhere
	at    stamps
	uids  stamp
	still bool // that was one reading of directories that did not change, and the stamps are theirs
}

// kept says that message i of old is where it was.
func (f *found) kept(i int) bool { return f.seen[i]&f.scans != 0 }

// unchanged says that old is what there is.
func (f *found) unchanged() bool {
	if len(f.moved) > 0 {
		return false
	}
	for i := range f.seen {
		if !f.kept(i) {
			return false
		}
	}
	return true
}

// places says which messages of old there are, and removes the others from
// moved.
func (f *found) places() (there []bool) {
	there = make([]bool, len(f.seen))
	for i := range there {
		there[i] = f.kept(i)
	}
	f.moved = slices.DeleteFunc(f.moved, func(e entry) bool { return e.old < 0 })
	for _, e := range f.moved {
		there[e.old] = true
	}
	return there
}

// merge makes the listing of what was found, and of those messages of old that
// were not and shall stay.
func (f *found) merge(now time.Time, stay func(i int) bool) *listing {
	text := len(f.old.text)
	for i := range f.moved {
		text += len(f.moved[i].name) + len(f.moved[i].uid)
	}
	b := newBuilder(len(f.seen)+len(f.moved), text)
	at := 0
	keepTo := func(end int) {
		for at < end {
			from := at
			for at < end && (f.kept(at) || stay(at)) {
				at++
			}
			b.keep(f.old, from, at)
			for at < end && !f.kept(at) && !stay(at) {
				at++
			}
		}
	}
	for i := range f.moved {
		e := &f.moved[i]
		r := record{seen: uint32(now.Unix())}
		if e.old >= 0 {
			keepTo(e.old)
			at = e.old + 1
			r = f.old.records[e.old]
			e.uid = f.old.ownUID(e.old)
			r.set(sized, r.is(sized) && r.ino == e.ino)
		} else {
			_, near := f.old.find(e.time, e.base)
			keepTo(near)
			r.set(frozen, e.frozen)
		}
		r.ino = e.ino
		r.set(seenInCur, e.dir == inCur)
		r.set(linked, e.linked)
		b.add(r, e.name, e.uid)
	}
	keepTo(len(f.seen))
	l := b.done()
	l.at, l.file, l.uids = f.at, f.old.file, f.uids
	l.file.differs(len(f.moved) + max(0, f.old.count-l.count))
	return l
}

// inOrder sorts entries by delivery, one for each message: of several files of
// one base name that which was found last.
func inOrder(entries []entry) []entry {
	slices.SortFunc(entries, func(a, b entry) int {
		if c := compareNames(a.time, b.time, a.base, b.base); c != 0 {
			return c
		}
		if a.scan != b.scan {
			return int(b.scan) - int(a.scan)
		}
		if a.dir != b.dir {
			return int(b.dir) - int(a.dir)
		}
		return strings.Compare(a.name, b.name)
	})
	kept := entries[:0]
	for _, e := range entries {
		if n := len(kept); n == 0 || kept[n-1].base != e.base {
			kept = append(kept, e)
		} else if last := &kept[n-1]; last.scan == e.scan && last.ino == e.ino {
			last.linked = true
		}
	}
	return kept
}

// result is what was found by the scans whose bits are set.
func (s *scanner) result(scans uint8) *found {
	moved := slices.DeleteFunc(s.moved, func(e entry) bool { return scans&(1<<e.scan) == 0 })
	for i := range moved { // a message that is elsewhere too
		if k := moved[i].old; k >= 0 && s.seen[k]&scans != 0 {
			r := &s.old.records[k]
			for scan := range uint8(8) {
				if s.seen[k]&scans&(1<<scan) != 0 {
					e := moved[i]
					e.name, e.ino, e.dir, e.scan = s.old.name(k), r.ino, uint8(r.dir()), scan
					moved = append(moved, e)
				}
			}
			s.seen[k] = 0
		}
	}
	return &found{old: s.old, uids: s.old.uids, seen: s.seen, scans: scans, moved: inOrder(moved)}
}

// tick is longer than the steps in which a kernel's file clock goes.
const tick = 20 * time.Millisecond

// scanUntilStill lists the messages of d, of which old is known. While others
// change the directories an entry may be missed by one reading, so they are
// read again, up to three times; what any of these found is then returned, and
// some of it may be gone or renamed.
func (d *dirs) scanUntilStill(old *listing) (*found, error) {
	s := scanner{dirs: d, old: old, seed: maphash.MakeSeed(), seen: make([]uint8, len(old.records)), links: old.links()}
	var at stamps
	for try := range uint8(3) {
		now := time.Now()
		var err error
		if at, err = d.stamps(); err != nil {
			return nil, err
		}
		if err = s.scan(try, at); err != nil {
			return nil, err
		}
		after, err := d.stamps()
		if err != nil {
			return nil, err
		}
		if at == after && at.olderThan(tick, now) {
			f := s.result(1 << try)
			f.at, f.still = at, true
			return f, nil
		}
	}
	f := s.result(0xff)
	f.at = at
	return f, nil
}
