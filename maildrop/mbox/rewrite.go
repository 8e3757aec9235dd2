package mbox

import (
	"bytes"
	"errors"
	"fmt"
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
// the mark says: while it is there, or NULs in its place, the file was not cut; when
// it is not there the file was, and what lies behind is mail. The sums say that the
// file is the one that the journal was made for, also where a file that was restored
// got its inode.

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
	if from == 0 && len(stay) == 0 {
		return sp.cut(from)
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
	if full(err) && len(stay) == 0 {
		return sp.cut(from) // which needs no room, and is as good but for a power cut
	}
	if err != nil {
		return beneath.Wrap("journal of", sp.path, err)
	}
	_, err = sp.redo()
	return err
}

// cut ends the file at an offset.
func (sp *spool) cut(at int64) error {
	if err := sp.store.calls.cut(sp.fd, at); err != nil {
		return beneath.Wrap("truncate", sp.path, err)
	}
	if err := sp.store.calls.sync(sp.fd); err != nil {
		return beneath.Wrap("fsync", sp.path, err)
	}
	return nil
}

// trim takes NULs off the end of the file, and ends it as a message ends. No delivery
// agent leaves them there: they are of a delivery whose octets were not on disk when
// the power was cut. Behind them nobody would find the From_ line of what comes next.
// Where they cannot be taken off, the mail in front of them can be read all the same.
func (sp *spool) trim() error {
	var st unix.Stat_t
	if err := unix.Fstat(sp.fd, &st); err != nil || st.Size == 0 || !sp.whole {
		return err
	}
	var octet [1]byte
	if _, err := file(sp.fd).ReadAt(octet[:], st.Size-1); err != nil || octet[0] != 0 {
		return err
	}
	end, last, err := sp.text(st.Size)
	if err != nil {
		return err
	}
	if end > 0 {
		first := make([]byte, len("From "))
		if _, err := file(sp.fd).ReadAt(first, 0); err != nil && err != io.EOF {
			return err
		}
		if string(first) != "From " {
			return nil // no spool file: not ours to change
		}
	}
	ending := "\n\n"
	switch {
	case end == 0 || last == "\n\n":
		ending = ""
	case last[1:] == "\n":
		ending = "\n"
	}
	defer sp.restoreTimes(st.Atim, st.Mtim)
	if err = sp.store.calls.writeAll(sp.fd, []byte(ending), end); err == nil {
		err = sp.cut(end + int64(len(ending)))
	}
	if err != nil {
		sp.store.log.Error("NULs cannot be taken from the end of a spool file: mail that comes behind them is not found", "maildrop", sp.path, "err", err)
		return nil
	}
	sp.store.log.Warn("NULs of a delivery that was cut off are taken from the end of a spool file",
		"maildrop", sp.path, "octets", st.Size-end)
	return nil
}

// text says where what is no NUL ends, and its last two octets: NULs where there are
// not that many.
func (sp *spool) text(size int64) (end int64, last string, err error) {
	buf := make([]byte, guard)
	for end = size; end > 0; {
		from := max(0, end-guard)
		b := buf[:end-from]
		if _, err := file(sp.fd).ReadAt(b, from); err != nil {
			return 0, "", err
		}
		if rest := bytes.TrimRight(b, "\x00"); len(rest) > 0 {
			end = from + int64(len(rest))
			break
		}
		end = from
	}
	two := make([]byte, 2)
	n := min(end, 2)
	_, err = file(sp.fd).ReadAt(two[2-n:], end-n)
	return end, string(two), err
}

func (sp *spool) restoreTimes(times ...unix.Timespec) {
	// not ours to set where the file belongs to another user
	_ = unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", sp.fd), times, 0)
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

// apply does steps 2 to 5.
func (sp *spool) apply(dir, fd int, name string, j *journal) error {
	s := sp.store
	at, err := stampOf(sp.fd)
	if err != nil {
		return err
	}
	done, err := sp.cutting(j)
	if err != nil {
		return err
	}
	if done == cutDone { // and what lies behind is new
		return s.dropJournal(dir, fd, name)
	}
	if at.size > j.Size {
		return sp.join(at.size, fd, j, name)
	}
	if j.Phase == phaseCopy {
		if _, err := s.copy(sp.fd, j.From, io.NewSectionReader(file(fd), journalOctets, j.Octets)); err != nil {
			return err
		}
		if err := s.calls.writeAll(sp.fd, j.Mark[:], j.end()); err != nil {
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
	if err := s.calls.cut(sp.fd, j.end()); err != nil {
		return err
	}
	if err := s.calls.sync(sp.fd); err != nil {
		return err
	}
	return s.dropJournal(dir, fd, name)
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
