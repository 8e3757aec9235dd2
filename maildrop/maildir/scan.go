package maildir

import (
	"encoding/binary"
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

func openDirs(fd int) (dirs, error) {
	d := dirs{-1, -1}
	for i, name := range dirNames {
		sub, err := openat2(fd, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			d.close()
			return d, wrap("open", name, err)
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
	return stamp{st.Dev, st.Ino, unix.TimespecToNsec(st.Ctim)}, err
}

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
		s[i] = stamp{st.Dev, st.Ino, unix.TimespecToNsec(st.Ctim)}
	}
	return s, nil
}

// olderThan says that a change made d or more after the stamps were taken
// cannot have left them as they are, although the clocks of file systems are
// coarse.
func (s stamps) olderThan(d time.Duration, now time.Time) bool {
	for _, t := range s {
		if now.UnixNano()-t.changed < int64(d) {
			return false
		}
	}
	return true
}

// entry is a file that may be a message.
type entry struct {
	base string
	name string // with flags
	time uint64
	ino  uint64
	dir  uint8 // inNew or inCur
	scan uint8 // by which scan it was found

	linked bool // was found under another name too: it has two, or was renamed just then
}

var scanBuffers = sync.Pool{New: func() any { return new([64 << 10]byte) }}

// scan appends what is in new, and then what is in cur: a message that is
// moved meanwhile is found in one of them or in both.
func (d *dirs) scan(entries []entry, scan uint8) ([]entry, error) {
	buf := scanBuffers.Get().(*[64 << 10]byte)
	defer scanBuffers.Put(buf)
	for i, fd := range d {
		if _, err := unix.Seek(fd, 0, unix.SEEK_SET); err != nil {
			return nil, wrap("list", dirNames[i], err)
		}
		for {
			n, err := unix.Getdents(fd, buf[:])
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				return nil, wrap("list", dirNames[i], err)
			}
			if n == 0 {
				break
			}
			entries = appendEntries(entries, buf[:n], entry{dir: uint8(i), scan: scan})
		}
	}
	return entries, nil
}

// appendEntries reads records as getdents64(2) fills them: 8 octets inode, 8
// octets offset, 2 octets length of the record, 1 octet type, name, NUL.
func appendEntries(entries []entry, records []byte, e entry) []entry {
	const nameAt = 19
	text := string(records) // one allocation for the names in it
	for len(records) > nameAt {
		size := int(binary.NativeEndian.Uint16(records[16:]))
		kind := records[18]
		e.ino = binary.NativeEndian.Uint64(records)
		e.name, _, _ = strings.Cut(text[nameAt:size], "\x00")
		records, text = records[size:], text[size:]
		if e.name[0] == '.' || kind != unix.DT_REG && kind != unix.DT_UNKNOWN {
			continue
		}
		e.base = baseOf(e.name)
		e.time = timeOf(e.base)
		entries = append(entries, e)
	}
	return entries
}

func compareEntries(a, b entry) int { return compareNames(a.time, b.time, a.base, b.base) }

// inOrder sorts entries by delivery, one for each message: of several files of
// one base name that which was found last.
func inOrder(entries []entry) []entry {
	slices.SortFunc(entries, func(a, b entry) int {
		if c := compareEntries(a, b); c != 0 {
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

// tick is longer than the steps in which a kernel's file clock goes.
const tick = 20 * time.Millisecond

// scanUntilStill lists the messages of d in order. While others change the
// directories an entry may be missed by one reading, so they are read again, up
// to three times; what any of these found is then returned, and some of it may
// be gone or renamed. still says that it was one reading of directories that
// did not change, and the stamps are theirs.
func (d *dirs) scanUntilStill() (entries []entry, at stamps, still bool, err error) {
	for try := range uint8(3) {
		now := time.Now()
		if at, err = d.stamps(); err != nil {
			return nil, at, false, err
		}
		known := len(entries)
		if entries, err = d.scan(entries, try); err != nil {
			return nil, at, false, err
		}
		after, err := d.stamps()
		if err != nil {
			return nil, at, false, err
		}
		if at == after && at.olderThan(tick, now) {
			return inOrder(entries[known:]), at, true, nil
		}
	}
	return inOrder(entries), at, false, nil
}
