package maildir

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// indexFile keeps the listing of a maildrop over a restart. It can be removed
// at any time: what it knows is in the maildrop, but for when a message was
// seen first.
//
// It has a header, a record of fixed size for each message, and their texts, as
// [listing] has them; all numbers are little-endian. Both the header and what
// follows it have a checksum. It is replaced as a whole and never written to,
// and not synced: a power cut that tears it costs a rebuild.
const (
	indexFile    = ".kpopd.index"
	indexTemp    = ".kpopd.index.tmp"
	indexMagic   = "kpopdidx"
	indexVersion = 1

	headerSize = 128
	recordSize = 48
	maxIndex   = 256 << 20 // octets, some three million messages; what is larger is none of ours
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// filed is what the index file has of a listing.
type filed struct {
	same    bool   // all of it
	changed int    // messages that differ
	written int64  // Unix seconds; 0 when there is no file
	size    int64  // octets
	sum     uint32 // checksum of its records and texts
}

// differs says that the listing and the file have n messages not in common.
func (f *filed) differs(n int) {
	f.same = false
	f.changed += n
}

// header is the start of an index file.
type header struct {
	settled      settledDirs
	named, loose bool
	count        uint64
	octets       uint64
	text         uint64 // octets
	written      int64
	at           stamps
	sum          uint32
}

func (h *header) size() int64 { return headerSize + int64(h.count)*recordSize + int64(h.text) }

func (h *header) encode(b *[headerSize]byte) {
	clear(b[:])
	le := binary.LittleEndian
	copy(b[:], indexMagic)
	le.PutUint32(b[8:], indexVersion)
	for i, is := range [...]bool{h.settled[inNew], h.settled[inCur], h.named, h.loose} {
		if is {
			b[12] |= 1 << i
		}
	}
	le.PutUint64(b[16:], h.count)
	le.PutUint64(b[24:], h.octets)
	le.PutUint64(b[32:], h.text)
	le.PutUint64(b[40:], uint64(h.written))
	for i, s := range h.at {
		le.PutUint64(b[48+24*i:], s.dev)
		le.PutUint64(b[56+24*i:], s.ino)
		le.PutUint64(b[64+24*i:], uint64(s.changed))
	}
	le.PutUint32(b[96:], h.sum)
	le.PutUint32(b[headerSize-4:], crc32.Checksum(b[:headerSize-4], castagnoli))
}

// errDamaged: the index holds what no server of ours has written.
var errDamaged = errors.New("damaged")

// decode takes the header of a file of so many octets.
func (h *header) decode(b *[headerSize]byte, size int64) error {
	le := binary.LittleEndian
	switch {
	case string(b[:8]) != indexMagic || le.Uint32(b[headerSize-4:]) != crc32.Checksum(b[:headerSize-4], castagnoli):
		return fmt.Errorf("%w: header", errDamaged)
	case le.Uint32(b[8:]) != indexVersion:
		return fmt.Errorf("version %d, not %d", le.Uint32(b[8:]), indexVersion)
	}
	h.settled, h.named, h.loose = settledDirs{b[12]&1 != 0, b[12]&2 != 0}, b[12]&4 != 0, b[12]&8 != 0
	h.count, h.octets, h.text = le.Uint64(b[16:]), le.Uint64(b[24:]), le.Uint64(b[32:])
	h.written = int64(le.Uint64(b[40:]))
	for i := range h.at {
		h.at[i] = stamp{le.Uint64(b[48+24*i:]), le.Uint64(b[56+24*i:]), int64(le.Uint64(b[64+24*i:]))}
	}
	h.sum = le.Uint32(b[96:])
	if size > maxIndex || h.count > maxIndex/recordSize || h.text > maxIndex || h.octets > math.MaxInt64 || h.size() != size {
		return fmt.Errorf("%w: %d octets for %d messages", errDamaged, size, h.count)
	}
	return nil
}

func (r *record) encode(b []byte) {
	le := binary.LittleEndian
	le.PutUint64(b, r.ino)
	le.PutUint64(b[8:], uint64(r.modified))
	le.PutUint64(b[16:], uint64(r.stored))
	le.PutUint64(b[24:], uint64(r.size))
	le.PutUint32(b[32:], r.end)
	le.PutUint32(b[36:], r.header)
	le.PutUint32(b[40:], r.seen)
	le.PutUint16(b[44:], r.base)
	b[46], b[47] = r.uid, byte(r.flags)
}

func (r *record) decode(b []byte) {
	le := binary.LittleEndian
	*r = record{
		ino: le.Uint64(b), modified: int64(le.Uint64(b[8:])), stored: int64(le.Uint64(b[16:])), size: int64(le.Uint64(b[24:])),
		end: le.Uint32(b[32:]), header: le.Uint32(b[36:]), seen: le.Uint32(b[40:]),
		base: le.Uint16(b[44:]), uid: b[46], flags: flags(b[47]),
	}
}

// descriptor reads and writes without the runtime's poller, which cannot wait
// for files.
type descriptor int

func (d descriptor) Read(p []byte) (int, error) {
	for {
		n, err := unix.Read(int(d), p)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return 0, err
		case n == 0 && len(p) > 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

func (d descriptor) Write(p []byte) (n int, err error) {
	for n < len(p) {
		m, err := unix.Write(int(d), p[n:])
		if err != nil && err != unix.EINTR {
			return n, err
		}
		n += max(0, m)
	}
	return n, nil
}

// openIndex opens the index of the maildrop at fd.
func openIndex(fd int) (int, header, error) {
	var h header
	file, err := openat2(fd, indexFile, unix.O_RDONLY, 0)
	if err != nil {
		return -1, h, err
	}
	var st unix.Stat_t
	var b [headerSize]byte
	if err = unix.Fstat(file, &st); err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = errStrange
	}
	if err == nil {
		if _, err = io.ReadFull(descriptor(file), b[:]); err == io.EOF || err == io.ErrUnexpectedEOF {
			err = fmt.Errorf("%w: header", errDamaged)
		}
	}
	if err == nil {
		err = h.decode(&b, st.Size)
	}
	if err != nil {
		unix.Close(file)
		return -1, h, err
	}
	return file, h, nil
}

// readIndex returns what the index of the maildrop at fd knows. It is verified
// as a whole; one of lazy octets or more is not loaded.
func readIndex(fd int, lazy int64) (*listing, error) {
	file, h, err := openIndex(fd)
	if err != nil {
		return nil, err
	}
	defer unix.Close(file)
	if h.size() < lazy {
		return h.load(descriptor(file))
	}
	buf := readBuffers.Get().(*[64 << 10]byte)
	defer readBuffers.Put(buf)
	var sum uint32
	for left := h.size() - headerSize; left > 0; {
		n, err := io.ReadFull(descriptor(file), buf[:min(left, int64(len(buf)))])
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errDamaged, err)
		}
		sum = crc32.Update(sum, castagnoli, buf[:n])
		left -= int64(n)
	}
	if sum != h.sum {
		return nil, fmt.Errorf("%w: checksum", errDamaged)
	}
	return h.listing(), nil
}

// listing is what the header knows.
func (h *header) listing() *listing {
	return &listing{
		count: int(h.count), octets: int64(h.octets), named: h.named, loose: h.loose, at: h.at, settled: h.settled,
		file: filed{same: true, written: h.written, size: h.size(), sum: h.sum},
	}
}

// load reads what follows the header.
func (h *header) load(r io.Reader) (*listing, error) {
	buf := readBuffers.Get().(*[64 << 10]byte)
	defer readBuffers.Put(buf)
	l := h.listing()
	l.records = make([]record, h.count)
	var sum uint32
	next := func(n int) ([]byte, error) {
		if _, err := io.ReadFull(r, buf[:n]); err != nil {
			return nil, fmt.Errorf("%w: %w", errDamaged, err)
		}
		sum = crc32.Update(sum, castagnoli, buf[:n])
		return buf[:n], nil
	}
	const most = len(buf) / recordSize
	for at := 0; at < len(l.records); at += most {
		some := l.records[at:min(at+most, len(l.records))]
		b, err := next(len(some) * recordSize)
		if err != nil {
			return nil, err
		}
		for i := range some {
			some[i].decode(b[i*recordSize:])
		}
	}
	var text strings.Builder
	text.Grow(int(h.text))
	for left := int(h.text); left > 0; {
		b, err := next(min(left, len(buf)))
		if err != nil {
			return nil, err
		}
		text.Write(b)
		left -= len(b)
	}
	l.text = text.String()
	if sum != h.sum {
		return nil, fmt.Errorf("%w: checksum", errDamaged)
	}
	return l, l.check()
}

// check says whether l is what a store has made. A name leads to a file of the
// maildrop and nowhere else: who owns the maildrop may have forged the index.
func (l *listing) check() error {
	var start uint32
	var octets int64
	var last string
	var lastTime uint64
	named, loose := false, false
	for i := range l.records {
		r := &l.records[i]
		if r.end < start || int64(r.end) > int64(len(l.text)) || int64(r.end-start) <= int64(r.uid) ||
			!r.is(sized) || r.is(gone) || r.size < 0 || r.stored < -1 || octets+r.size < octets {
			return fmt.Errorf("%w: record %d", errDamaged, i)
		}
		octets += r.size
		named, loose = named || r.stored < 0, loose || !r.is(frozen)
		name := l.text[start : r.end-uint32(r.uid)]
		base := baseOf(name)
		if len(base) != int(r.base) || name[0] == '.' || strings.ContainsAny(name, "/\x00") {
			return fmt.Errorf("%w: name %d", errDamaged, i)
		}
		if r.uid != 0 && !legalUID(l.uid(i)) || r.uid == 0 && !legalUID(base) {
			return fmt.Errorf("%w: unique-id %d", errDamaged, i)
		}
		time := timeOf(base)
		if i > 0 && compareNames(lastTime, time, last, base) >= 0 {
			return fmt.Errorf("%w: order of %d", errDamaged, i)
		}
		start, last, lastTime = r.end, base, time
	}
	if int64(start) != int64(len(l.text)) || octets != l.octets || named != l.named || loose != l.loose {
		return fmt.Errorf("%w: totals", errDamaged)
	}
	return nil
}

// loadIndex reads the records that the index had when l was made of its header.
func loadIndex(fd int, l *listing) (*listing, error) {
	file, h, err := openIndex(fd)
	if err != nil {
		return nil, err
	}
	defer unix.Close(file)
	if h.sum != l.file.sum || h.octets != uint64(l.octets) || h.count != uint64(l.count) {
		return nil, errors.New("another server has replaced it")
	}
	full, err := h.load(descriptor(file))
	if err != nil {
		return nil, err
	}
	full.at, full.settled, full.file = l.at, l.settled, l.file
	return full, nil
}

// worthWriting says that the index should be written anew at the end of a
// session. A large one is not for a few messages: it can as well be brought up
// to date after a restart.
func (l *listing) worthWriting(now time.Time) bool {
	const small, often = 256 << 10, 15 * time.Minute
	switch {
	case l.file.same || !l.loaded() || l.weight() > maxIndex:
		return false
	case l.count == 0:
		return l.file.written != 0
	case l.corrected || l.weight() <= small || l.file.changed >= l.count/64:
		return true
	}
	age := now.Sub(time.Unix(l.file.written, 0))
	return age < 0 || age >= often
}

// writeIndex replaces the index of the maildrop at fd. It needs the session
// lock. There is none for an empty maildrop.
func writeIndex(fd int, l *listing, now time.Time) (filed, error) {
	if l.count == 0 {
		if err := unlink(fd, indexFile); err != nil && err != unix.ENOENT {
			return l.file, err
		}
		return filed{same: true}, nil
	}
	// a name of before may be a link that somebody planted: nothing is written through it
	if err := unlink(fd, indexTemp); err != nil && err != unix.ENOENT {
		return l.file, err
	}
	file, err := openat2(fd, indexTemp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return l.file, err
	}
	h := header{
		settled: l.settled, named: l.named, loose: l.loose, count: uint64(l.count), octets: uint64(l.octets),
		text: uint64(len(l.text)), written: now.Unix(), at: l.at,
	}
	err = h.write(file, l)
	if e := unix.Close(file); err == nil {
		err = e
	}
	if err == nil {
		err = unix.Renameat(fd, indexTemp, fd, indexFile)
	}
	if err != nil {
		_ = unlink(fd, indexTemp)
		return l.file, err
	}
	return filed{same: true, written: h.written, size: h.size(), sum: h.sum}, nil
}

// write writes all of the file, the header last.
func (h *header) write(file int, l *listing) error {
	buf := readBuffers.Get().(*[64 << 10]byte)
	defer readBuffers.Put(buf)
	if _, err := unix.Seek(file, headerSize, unix.SEEK_SET); err != nil {
		return err
	}
	put := func(p []byte) error {
		h.sum = crc32.Update(h.sum, castagnoli, p)
		_, err := descriptor(file).Write(p)
		return err
	}
	const most = len(buf) / recordSize
	for at := 0; at < len(l.records); at += most {
		some := l.records[at:min(at+most, len(l.records))]
		for i := range some {
			some[i].encode(buf[i*recordSize:])
		}
		if err := put(buf[:len(some)*recordSize]); err != nil {
			return err
		}
	}
	for text := l.text; text != ""; {
		n := copy(buf[:], text)
		if err := put(buf[:n]); err != nil {
			return err
		}
		text = text[n:]
	}
	var b [headerSize]byte
	h.encode(&b)
	if _, err := unix.Seek(file, 0, unix.SEEK_SET); err != nil {
		return err
	}
	_, err := descriptor(file).Write(b[:])
	return err
}
