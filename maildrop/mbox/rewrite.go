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
	"time"

	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/maildrop"
	"github.com/kpopd/kpopd/maildrop/internal/beneath"
)

// The steps of a rewriting, which begins at the first message that goes, with the
// spool file locked:
//
//  1. The journal is written: what stays from there on, and where. fsync, rename to
//     its name, fsync of the directory.
//  2. What stays is written in its new place, and behind it a random mark, over
//     octets that are no longer needed. fsync.
//  3. The journal says that this is done. fsync.
//  4. The file is cut off at the mark. fsync.
//  5. The journal is removed. fsync of the directory.
//
// Whoever finds a journal knows where it broke off. Until step 3 is done the file
// was not cut, so that mail which came since lies behind what was its end. After it
// the mark says: while it is there the file was not cut; when it is not there the
// file was, and what lies behind is mail. The sums say that the file is the one that
// the journal was made for, also where a file that was restored got its inode.

// journal is the head of a journal file. What stays follows it.
type journal struct {
	Magic    [16]byte
	Phase    uint8 // phaseCopy or phaseCut; not in Sum, since it changes
	Dev, Ino uint64
	From     int64  // where the rewriting begins
	Size     int64  // of the file before it
	Octets   int64  // that stay from there on
	Before   uint64 // sum of what lies in front
	After    uint64 // sum of what lies behind the mark until the file is cut
	Content  uint64 // sum of what stays
	Mark     [16]byte
	Sum      uint64
}

const (
	journalMagic = "kpopd mbox redo\n"
	phaseCopy    = 1
	phaseCut     = 2
	phaseAt      = int64(len(journalMagic))
)

var journalOctets = int64(binary.Size(journal{}))

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

// calls are those that change a disk. Tests have them fail.
type calls struct {
	pwrite   func(fd int, p []byte, at int64) (int, error)
	truncate func(fd int, size int64) error
	fsync    func(fd int) error
	rename   func(dir int, from, to string) error
	unlink   func(dir int, name string) error
}

var kernel = calls{
	pwrite:   unix.Pwrite,
	truncate: unix.Ftruncate,
	fsync:    unix.Fsync,
	rename: func(dir int, from, to string) error {
		return uninterrupted(func() error { return unix.Renameat(dir, from, dir, to) })
	},
	unlink: unlink,
}

func unlink(dir int, name string) error {
	return uninterrupted(func() error { return unix.Unlinkat(dir, name, 0) })
}

// uninterrupted makes a call again that a signal interrupted.
func uninterrupted(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

func (c *calls) writeAll(fd int, p []byte, at int64) error {
	for len(p) > 0 {
		n, err := c.pwrite(fd, p, at)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		p, at = p[n:], at+int64(n)
	}
	return nil
}

// sync is fsync. It is not tried again after another error: that would succeed
// because the kernel has forgotten what it failed to write.
func (c *calls) sync(fd int) error {
	for {
		err := c.fsync(fd)
		if err == unix.EINTR {
			continue
		}
		if err == unix.EINVAL { // a file system that has nothing to sync in directories
			return nil
		}
		return err
	}
}

func (c *calls) cut(fd int, size int64) error {
	for {
		if err := c.truncate(fd, size); err != unix.EINTR {
			return err
		}
	}
}

// span is octets of the spool file.
type span struct{ from, to int64 }

// remove takes octets from the spool file: from is where the first of them lie, stay
// is what stays of what follows, to the end of the file at size.
func (sp *spool) remove(from, size int64, stay []span) error {
	if !sp.whole {
		return fmt.Errorf("%w: no room for the dotlock", maildrop.ErrTemporary)
	}
	var st unix.Stat_t
	if err := unix.Fstat(sp.fd, &st); err != nil {
		return err
	}
	if st.Size != size {
		return fmt.Errorf("%w: written to by a program that takes no lock", maildrop.ErrTemporary)
	}
	// whether there is new mail is told by comparing the two times
	defer sp.restoreTimes(st.Atim, st.Mtim)
	if len(stay) == 0 {
		if err := sp.store.calls.cut(sp.fd, from); err != nil {
			return beneath.Wrap("truncate", sp.path, err)
		}
		if err := sp.store.calls.sync(sp.fd); err != nil {
			return beneath.Wrap("fsync", sp.path, err)
		}
		return nil
	}
	j, err := sp.newJournal(from, size)
	if err == nil {
		err = sp.writeJournal(j, func(yield func(io.Reader) error) error {
			for _, s := range stay {
				if err := yield(io.NewSectionReader(file(sp.fd), s.from, s.to-s.from)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err != nil {
		return beneath.Wrap("journal of", sp.path, err)
	}
	_, err = sp.redo()
	return err
}

func (sp *spool) restoreTimes(times ...unix.Timespec) {
	// not ours to set where the file belongs to another user
	_ = unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", sp.fd), times, 0)
}

func (sp *spool) newJournal(from, size int64) (*journal, error) {
	in, err := inodeOf(sp.fd)
	if err != nil {
		return nil, err
	}
	j := &journal{Phase: phaseCopy, Dev: in.dev, Ino: in.ino, From: from, Size: size}
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
	from := j.From + j.Octets + int64(len(j.Mark))
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

// redo does what the journal says, from wherever it broke off, and removes it. There
// may be none.
func (sp *spool) redo() (redone bool, err error) {
	s := sp.store
	dir, err := s.state()
	if err != nil {
		return false, err
	}
	defer unix.Close(dir)
	name := stateName(sp.path, "redo")
	fd, err := beneath.Open(dir, name, unix.O_RDWR, 0)
	if err == unix.ENOENT {
		return false, nil
	}
	if err != nil {
		return false, beneath.Wrap("open", name, err)
	}
	defer unix.Close(fd)
	j, err := sp.readJournal(fd)
	if errors.Is(err, errForeign) {
		s.log.Error("journal of a maildrop does not fit its file and is kept beside it: compare them", "maildrop", sp.path, "err", err,
			"kept", name+".unused")
		return false, s.setAside(dir, name)
	}
	if err != nil {
		return false, beneath.Wrap("read", name, err)
	}
	if !sp.whole {
		return false, fmt.Errorf("%w: no room for the dotlock", maildrop.ErrTemporary)
	}
	if err := sp.apply(dir, fd, name, j); err != nil {
		return false, beneath.Wrap("rewrite", sp.path, err)
	}
	return true, nil
}

func (s *Store) setAside(dir int, name string) error {
	if err := s.calls.rename(dir, name, name+".unused"); err != nil {
		return beneath.Wrap("rename", name, err)
	}
	return s.calls.sync(dir)
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
	end := j.From + j.Octets
	cut := false
	if j.Phase == phaseCut {
		marked, err := sp.marked(end, j)
		if err != nil {
			return err
		}
		cut = !marked
	}
	if at.inode != (inode{j.Dev, j.Ino}) || at.size < end || !cut && at.size < j.Size {
		return fmt.Errorf("%w: the file was replaced or cut", errForeign)
	}
	before, err := sp.before(j.From)
	if err != nil {
		return err
	}
	after := j.After
	if !cut {
		if after, err = sp.after(j); err != nil {
			return err
		}
	}
	if before != j.Before || after != j.After {
		return fmt.Errorf("%w: the file was rewritten", errForeign)
	}
	return nil
}

func readSum(sum hash.Hash64, fd int, octets int64) error {
	_, err := io.Copy(sum, io.NewSectionReader(file(fd), journalOctets, octets))
	return err
}

// apply does steps 2 to 5.
func (sp *spool) apply(dir, fd int, name string, j *journal) error {
	s := sp.store
	at, err := stampOf(sp.fd)
	if err != nil {
		return err
	}
	end := j.From + j.Octets
	if j.Phase == phaseCut {
		marked, err := sp.marked(end, j)
		if err != nil {
			return err
		}
		if !marked { // it was cut, and what lies behind is new
			return s.dropJournal(dir, fd, name)
		}
	}
	if at.size > j.Size {
		return sp.join(at.size, fd, j, name)
	}
	if j.Phase == phaseCopy {
		if _, err := s.copy(sp.fd, j.From, io.NewSectionReader(file(fd), journalOctets, j.Octets)); err != nil {
			return err
		}
		if err := s.calls.writeAll(sp.fd, j.Mark[:], end); err != nil {
			return err
		}
		if err := s.calls.sync(sp.fd); err != nil {
			return err
		}
		if err := s.calls.writeAll(fd, []byte{phaseCut}, phaseAt); err != nil {
			return err
		}
		if err := s.calls.sync(fd); err != nil {
			return err
		}
	}
	if err := s.calls.cut(sp.fd, end); err != nil {
		return err
	}
	if err := s.calls.sync(sp.fd); err != nil {
		return err
	}
	return s.dropJournal(dir, fd, name)
}

// marked says that the mark is still there.
func (sp *spool) marked(end int64, j *journal) (bool, error) {
	b := make([]byte, len(j.Mark))
	n, err := file(sp.fd).ReadAt(b, end)
	if err == io.EOF {
		err = nil
	}
	return bytes.Equal(b[:n], j.Mark[:]), err
}

// join makes a journal that has what was appended since too, and does that one.
func (sp *spool) join(size int64, fd int, old *journal, name string) error {
	j, err := sp.newJournal(old.From, size)
	if err != nil {
		return err
	}
	err = sp.writeJournal(j, func(yield func(io.Reader) error) error {
		if err := yield(io.NewSectionReader(file(fd), journalOctets, old.Octets)); err != nil {
			return err
		}
		return yield(io.NewSectionReader(file(sp.fd), old.Size, size-old.Size))
	})
	if err != nil {
		return err
	}
	sp.store.log.Info("rewriting that broke off is joined with mail that came since", "maildrop", sp.path, "octets", size-old.Size)
	_, err = sp.redo()
	return err
}

func (s *Store) dropJournal(dir, fd int, name string) error {
	if err := s.dropFile(dir, fd, name); err != nil && err != unix.ENOENT {
		return err
	}
	if err := s.calls.sync(dir); err != nil {
		return err
	}
	s.clearReserve(fd)
	return nil
}

// commit removes entries, those that del says, from a file that l describes, and
// returns the listing of what is left.
func (sp *spool) commit(l *listing, del map[string]bool) (*listing, error) {
	next := &listing{gone: append([]string(nil), l.gone...)}
	var from int64 = -1
	var at int64 // end of what is left so far
	var stay []span
	for _, e := range l.entries {
		if del[e.uid] && !e.pseudo {
			if from < 0 {
				from = e.offset
				at = from
			}
			next.gone = append(next.gone, e.uid)
			continue
		}
		if from >= 0 {
			if n := len(stay); n > 0 && stay[n-1].to == e.offset {
				stay[n-1].to = e.end
			} else {
				stay = append(stay, span{e.offset, e.end})
			}
			moved := at - e.offset
			e.offset, e.end = e.offset+moved, e.end+moved
			at = e.end
		}
		next.entries = append(next.entries, e)
	}
	next.gone = next.gone[max(0, len(next.gone)-goneLimit):]
	if from < 0 {
		return l, nil
	}
	start := time.Now()
	if err := sp.remove(from, l.at.size, stay); err != nil {
		return nil, err
	}
	sp.store.log.Debug("spool file rewritten", "maildrop", sp.path, "from", from, "octets", l.at.size, "took", time.Since(start))
	var err error
	if next.at, err = stampOf(sp.fd); err == nil {
		next.front, next.back, err = sums(sp.fd, next.at.size)
	}
	if err != nil {
		return nil, nil // the next session reads the file
	}
	return next, nil
}
