package mbox

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/maildrop/internal/beneath"
)

// magic begins an index and says its version.
const magic = "kpopd mbox index 1\n"

var errDamaged = errors.New("damaged index")

// stateName is the name of a maildrop's file in the state directory. Two maildrops
// have two names, and none has that of the lock file.
func stateName(path, kind string) string {
	name := strings.NewReplacer("%", "%25", "/", "%2F").Replace(path)
	if len(name) > 200 {
		sum := sha256.Sum256([]byte(path))
		name = "%" + hex.EncodeToString(sum[:])
	}
	return "=" + name + "." + kind
}

// encode writes numbers as varints, strings behind their length, and a checksum.
func (l *listing) encode() []byte {
	b := make([]byte, 0, len(magic)+64+len(l.entries)*96)
	b = append(b, magic...)
	number := func(numbers ...int64) {
		for _, n := range numbers {
			b = binary.AppendUvarint(b, uint64(n))
		}
	}
	text := func(s string) {
		number(int64(len(s)))
		b = append(b, s...)
	}
	number(int64(l.at.dev), int64(l.at.ino), l.at.size, l.at.modified, l.at.changed, int64(l.front), int64(l.back), int64(len(l.entries)))
	for i := range l.entries {
		e := &l.entries[i]
		var flags int64
		if e.wireForm {
			flags |= 1
		}
		if e.pseudo {
			flags |= 2
		}
		number(flags, e.offset, e.line, e.octets, e.end, e.head, int64(e.sum), e.size, int64(len(e.cuts)))
		for _, c := range e.cuts {
			number(c.from, c.to)
		}
		b = append(b, e.id[:]...)
		text(e.uid)
	}
	number(int64(len(l.gone)))
	for _, uid := range l.gone {
		text(uid)
	}
	return binary.BigEndian.AppendUint64(b, crc64.Checksum(b, polynomial))
}

// decoder reads what encode wrote. After an error it yields zeros.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) number() int64 {
	n, size := binary.Uvarint(d.b)
	if size <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[size:]
	return int64(n)
}

func (d *decoder) numbers(to ...*int64) {
	for _, n := range to {
		*n = d.number()
	}
}

// count is a number of things that take so many octets each at the least.
func (d *decoder) count(least int) int {
	n := d.number()
	if n < 0 || n > int64(len(d.b)/least) {
		d.bad = true
		return 0
	}
	return int(n)
}

func (d *decoder) take(n int) []byte {
	if n > len(d.b) {
		d.bad, d.b = true, nil
		return make([]byte, n)
	}
	taken := d.b[:n]
	d.b = d.b[n:]
	return taken
}

func (d *decoder) text() string { return string(d.take(d.count(1))) }

func (d *decoder) entry() (e entry) {
	var flags, sum int64
	d.numbers(&flags, &e.offset, &e.line, &e.octets, &e.end, &e.head, &sum, &e.size)
	e.wireForm, e.pseudo, e.sum = flags&1 != 0, flags&2 != 0, uint64(sum)
	if n := d.count(2); n > 0 {
		e.cuts = make([]cut, n)
		for i := range e.cuts {
			d.numbers(&e.cuts[i].from, &e.cuts[i].to)
		}
	}
	e.id = [16]byte(d.take(16))
	e.uid = d.text()
	return e
}

// decode takes nothing that encode cannot have written of a file.
func decode(b []byte) (*listing, error) {
	body, ok := bytes.CutPrefix(b, []byte(magic))
	if !ok || len(body) < 8 {
		return nil, fmt.Errorf("%w: unknown version", errDamaged)
	}
	if sum := binary.BigEndian.Uint64(b[len(b)-8:]); crc64.Checksum(b[:len(b)-8], polynomial) != sum {
		return nil, fmt.Errorf("%w: wrong checksum", errDamaged)
	}
	d := decoder{b: body[:len(body)-8]}
	l := &listing{}
	var dev, ino, front, back int64
	d.numbers(&dev, &ino, &l.at.size, &l.at.modified, &l.at.changed, &front, &back)
	l.at.dev, l.at.ino, l.front, l.back = uint64(dev), uint64(ino), uint64(front), uint64(back)
	n := d.count(26)
	l.entries = make([]entry, 0, n)
	var end int64
	for i := range n {
		e := d.entry()
		if !e.sane(l.at.size) || e.offset < end || e.pseudo && i > 0 {
			d.bad = true
		}
		if d.bad {
			break
		}
		end = e.end
		l.entries = append(l.entries, e)
	}
	for range d.count(2) {
		l.gone = append(l.gone, d.text())
	}
	if d.bad || len(d.b) > 0 {
		return nil, fmt.Errorf("%w: malformed", errDamaged)
	}
	return l, nil
}

// sane says that an entry lies within a file of so many octets.
func (e *entry) sane(size int64) bool {
	at := e.line
	for _, c := range e.cuts {
		if c.from < at || c.to < c.from {
			return false
		}
		at = c.to
	}
	return e.offset >= 0 && e.line > 0 && e.line <= e.octets && e.offset <= e.end-e.octets && e.octets <= e.end && e.end <= size &&
		e.head >= e.line && e.head <= e.octets && at <= e.head && e.size >= 0 && legalUID(e.uid)
}

// loadIndex returns nil where there is no index that can be used.
func (s *Store) loadIndex(path string) *listing {
	b, err := s.readState(stateName(path, "index"))
	var l *listing
	if err == nil {
		l, err = decode(b)
	}
	if err != nil && err != unix.ENOENT {
		s.log.Warn("index of a maildrop not used, the file is read anew", "maildrop", path, "err", err)
	}
	return l
}

func (s *Store) readState(name string) ([]byte, error) {
	dir, err := s.state()
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	fd, err := beneath.Open(dir, name, unix.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	at, err := stampOf(fd)
	if err != nil {
		return nil, err
	}
	b := make([]byte, at.size)
	_, err = io.ReadFull(io.NewSectionReader(file(fd), 0, at.size), b)
	return b, err
}

// saveIndex writes the index by another file, and does not wait for the disk: one
// that a power cut damages is made again. A full disk keeps nobody from the mail.
func (s *Store) saveIndex(path string, l *listing) {
	err := s.writeIndex(stateName(path, "index"), l.encode())
	if err == nil {
		s.unwritten.Store(false)
	} else if !s.unwritten.Swap(true) {
		s.log.Warn("index of a maildrop not written; this is told once until one is", "maildrop", path, "err", err)
	}
}

func (s *Store) writeIndex(name string, b []byte) error {
	dir, err := s.state()
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	fd, err := beneath.Open(dir, name+".new", unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	err = s.calls.writeAll(fd, b, 0)
	err = errors.Join(err, unix.Close(fd))
	if err == nil {
		err = s.calls.rename(dir, name+".new", name)
	}
	if err != nil {
		_ = s.calls.unlink(dir, name+".new")
	}
	return err
}
