package mbox

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc64"
	"io"

	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/maildrop/internal/beneath"
)

// journal is the head of a journal file. What stays follows it.
type journal struct {
	Magic   [16]byte
	Phase   uint8  // phaseCopy or phaseCut; not in Sum, since it changes
	Ino     uint64 // of the file; its device may have another number after a reboot
	From    int64  // where the rewriting begins
	Size    int64  // of the file before it
	Octets  int64  // that stay from there on
	Before  uint64 // sum of what lies in front
	After   uint64 // sum of what lies behind the mark until the file is cut
	Content uint64 // sum of what stays
	Mark    [16]byte
	Sum     uint64
}

const (
	journalMagic = "kpopd mbox redo\n"
	phaseCopy    = 1
	phaseCut     = 2
	phaseAt      = int64(len(journalMagic))
)

var journalOctets = int64(binary.Size(journal{}))

// end is where the file is to end, and where the mark is until then.
func (j *journal) end() int64 { return j.From + j.Octets }

func (j *journal) encode() []byte {
	j.Sum = j.sum()
	return j.bytes()
}

func (j *journal) bytes() []byte {
	var b bytes.Buffer
	_ = binary.Write(&b, binary.BigEndian, j) // a buffer takes all
	return b.Bytes()
}

func (j *journal) sum() uint64 {
	c := *j
	c.Phase, c.Sum = 0, 0
	return crc64.Checksum(c.bytes(), polynomial)
}

func (sp *spool) newJournal(from, size int64) (*journal, error) {
	in, err := inodeOf(sp.fd)
	if err != nil {
		return nil, err
	}
	j := &journal{Phase: phaseCopy, Ino: in.ino, From: from, Size: size}
	copy(j.Magic[:], journalMagic)
	rand.Read(j.Mark[:]) // never fails
	j.Before, err = sp.before(from)
	return j, err
}

// before is the sum of what lies in front of an offset, which no rewriting from
// there on changes.
func (sp *spool) before(from int64) (uint64, error) {
	b := make([]byte, min(from, guard))
	_, err := file(sp.fd).ReadAt(b, from-int64(len(b)))
	return crc64.Checksum(b, polynomial), err
}

// after is the sum of what lies between the mark and the end of the file.
func (sp *spool) after(j *journal) (uint64, error) {
	from := j.end() + int64(len(j.Mark))
	sum := crc64.New(polynomial)
	n, err := io.Copy(sum, io.NewSectionReader(file(sp.fd), from, j.Size-from))
	if err == nil && n < j.Size-from {
		err = io.ErrUnexpectedEOF
	}
	return sum.Sum64(), err
}

// writeJournal makes the journal durable, in place of one that is there. Where there
// is no room for it, it goes into the reserve.
func (sp *spool) writeJournal(j *journal, content func(yield func(io.Reader) error) error) error {
	s := sp.store
	dir, err := s.state()
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	name := stateName(sp.path, "redo")
	fd, err := beneath.Open(dir, name+".new", unix.O_RDWR|unix.O_CREAT|unix.O_TRUNC, 0o600)
	if err == nil {
		err = sp.fillJournal(dir, fd, name, j, content)
	}
	if !full(err) {
		return err
	}
	if fd, taken := s.takeReserve(dir, name+".new"); taken {
		return sp.fillJournal(dir, fd, name, j, content)
	}
	return err
}

// fillJournal writes the journal to fd, which it closes, and gives it its name.
func (sp *spool) fillJournal(dir, fd int, name string, j *journal, content func(yield func(io.Reader) error) error) (err error) {
	s := sp.store
	defer func() {
		if err != nil {
			_ = s.dropFile(dir, fd, name+".new")
		}
		unix.Close(fd) // it is on disk, or it is not wanted
	}()
	sum := crc64.New(polynomial)
	j.Octets = 0
	err = content(func(r io.Reader) error {
		n, err := s.copy(fd, journalOctets+j.Octets, io.TeeReader(r, sum))
		j.Octets += n
		return err
	})
	if err != nil {
		return err
	}
	j.Content = sum.Sum64()
	if j.After, err = sp.after(j); err != nil {
		return err
	}
	if err := s.calls.writeAll(fd, j.encode(), 0); err != nil {
		return err
	}
	if err := s.calls.sync(fd); err != nil {
		return err
	}
	if err := s.calls.rename(dir, name+".new", name); err != nil {
		return err
	}
	return s.calls.sync(dir)
}

// copy writes what it reads at an offset of fd.
func (s *Store) copy(fd int, at int64, r io.Reader) (total int64, err error) {
	buf := make([]byte, 256<<10)
	for {
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			if err := s.calls.writeAll(fd, buf[:n], at+total); err != nil {
				return total, err
			}
			total += int64(n)
		}
		switch err {
		case nil:
		case io.EOF, io.ErrUnexpectedEOF:
			return total, nil
		default:
			return total, err
		}
	}
}

// errForeign: the file is not the one that the journal was made for.
var errForeign = errors.New("journal of another file")

func (sp *spool) readJournal(fd int) (*journal, error) {
	b := make([]byte, journalOctets)
	if _, err := file(fd).ReadAt(b, 0); err != nil {
		if err == io.EOF {
			return nil, fmt.Errorf("%w: too short", errForeign)
		}
		return nil, err
	}
	j := &journal{}
	_ = binary.Read(bytes.NewReader(b), binary.BigEndian, j) // it is long enough
	if string(j.Magic[:]) != journalMagic || j.Sum != j.sum() || j.Phase != phaseCopy && j.Phase != phaseCut {
		return nil, fmt.Errorf("%w: damaged", errForeign)
	}
	sum := crc64.New(polynomial)
	if err := readSum(sum, fd, j.Octets); err != nil {
		return nil, err
	}
	if sum.Sum64() != j.Content {
		return nil, fmt.Errorf("%w: damaged", errForeign)
	}
	return j, sp.fits(j)
}

// fits says whether the file is the one that the journal was made for.
func (sp *spool) fits(j *journal) error {
	at, err := stampOf(sp.fd)
	if err != nil {
		return err
	}
	done, err := sp.cutting(j)
	if err != nil {
		return err
	}
	if at.ino != j.Ino || at.size < j.end() || done != cutDone && at.size < j.Size {
		return fmt.Errorf("%w: the file was replaced or cut", errForeign)
	}
	before, err := sp.before(j.From)
	if err != nil {
		return err
	}
	same := before == j.Before
	switch done {
	case cutNot:
		after, err := sp.after(j)
		if err != nil {
			return err
		}
		same = same && after == j.After
	case cutBegun:
		sum := crc64.New(polynomial)
		if _, err := io.Copy(sum, io.NewSectionReader(file(sp.fd), j.From, j.Octets)); err != nil {
			return err
		}
		same = same && sum.Sum64() == j.Content
	}
	if !same {
		return fmt.Errorf("%w: the file was rewritten", errForeign)
	}
	return nil
}

func readSum(sum hash.Hash64, fd int, octets int64) error {
	_, err := io.Copy(sum, io.NewSectionReader(file(fd), journalOctets, octets))
	return err
}

// cutting is how far step 4 has come.
type cutting uint8

const (
	cutNot   cutting = iota
	cutBegun         // the mark is under NULs, and the file is as long as before
	cutDone
)

// sector is what the sizes of a file system's blocks are multiples of.
const sector = 512

// cutting looks at the place of the mark. Before it says that a file is shorter, a
// file system may have written NULs over what is no longer its part of the last
// block: a power cut in between leaves these. No mail begins with one.
func (sp *spool) cutting(j *journal) (cutting, error) {
	if j.Phase == phaseCopy {
		return cutNot, nil
	}
	b := make([]byte, len(j.Mark))
	n, err := file(sp.fd).ReadAt(b, j.end())
	if err != nil && err != io.EOF {
		return 0, err
	}
	switch {
	case bytes.Equal(b[:n], j.Mark[:]):
		return cutNot, nil
	case n == 0 || b[0] != 0:
		return cutDone, nil
	}
	nuls, err := sp.nuls(j.end())
	if err == nil && nuls < j.Size && nuls%sector != 0 {
		return cutDone, nil // of a delivery that a later power cut has torn
	}
	return cutBegun, err
}

// nuls is where the NULs end that begin at an offset.
func (sp *spool) nuls(at int64) (int64, error) {
	buf := make([]byte, 4<<10)
	for {
		n, err := file(sp.fd).ReadAt(buf, at)
		rest := bytes.TrimLeft(buf[:n], "\x00")
		at += int64(n - len(rest))
		switch {
		case err == io.EOF:
			return at, nil
		case err != nil || len(rest) > 0:
			return at, err
		}
	}
}
