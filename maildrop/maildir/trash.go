package maildir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/maildrop"
)

// trashDir holds deleted messages, in a directory for each day (UTC). Its name
// begins with no dot, or IMAP servers would show it as a folder.
const (
	trashDir = "kpopd-trash"
	dayForm  = "2006-01-02"
	maxSame  = 10 // directories of one day, for files of one name
)

// trash is where a Commit moves messages to.
type trash struct {
	maildrop int
	today    string
	fd       int   // of trashDir, -1 until it is needed
	days     []int // opened: those of today
}

func newTrash(maildrop int, now time.Time) *trash {
	return &trash{maildrop: maildrop, today: now.UTC().Format(dayForm), fd: -1}
}

func (t *trash) close() {
	for _, fd := range append(t.days, t.fd) {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// day opens the n-th directory of today, and makes it.
func (t *trash) day(n int) (fd int, err error) {
	if t.fd < 0 {
		if t.fd, err = openMade(t.maildrop, trashDir); err != nil {
			return -1, err
		}
	}
	if n == len(t.days) {
		name := t.today
		if n > 0 {
			name = fmt.Sprintf("%s.%d", name, n)
		}
		if fd, err = openMade(t.fd, name); err != nil {
			return -1, err
		}
		t.days = append(t.days, fd)
	}
	return t.days[n], nil
}

// openMade opens a directory for reading that is made if need be.
func openMade(fd int, name string) (int, error) {
	err := unix.Mkdirat(fd, name, 0o700)
	if err == nil || err == unix.EEXIST {
		if fd, err = openat2(fd, name, unix.O_RDONLY|unix.O_DIRECTORY, 0); err == nil {
			return fd, nil
		}
	}
	if isMissing(err) || diskFull(err) {
		return -1, err
	}
	return -1, wrap("open", trashDir, err)
}

// put moves a message out of dir. A file in the trash is never replaced: one
// of the same name is a copy that somebody gave back, or the same file.
func (t *trash) put(dir int, name string) error {
	for n := range maxSame {
		day, err := t.day(n)
		if isMissing(err) { // it is no message that is
			return fmt.Errorf("%w: the trash went away: %w", maildrop.ErrTemporary, err)
		}
		if err != nil {
			return err
		}
		err = renameNew(dir, name, day)
		if err != unix.EEXIST {
			return err
		}
		if sameFile(dir, day, name) {
			return unlink(dir, name)
		}
	}
	return fmt.Errorf("%d messages of that name are in the trash of today: %w", maxSame, unix.EEXIST)
}

// renameNew moves a file to another directory, in one step, and replaces none.
// Where the file system has no such rename there are two: after a crash between
// them the file is in both.
func renameNew(from int, name string, to int) error {
	for {
		err := unix.Renameat2(from, name, to, name, unix.RENAME_NOREPLACE)
		switch err {
		case unix.EINTR:
			continue
		case unix.EINVAL, unix.ENOSYS:
			if err = unix.Linkat(from, name, to, name, 0); err != nil {
				return err
			}
			return unlink(from, name)
		}
		return err
	}
}

func sameFile(a, b int, name string) bool {
	var x, y unix.Stat_t
	return unix.Fstatat(a, name, &x, unix.AT_SYMLINK_NOFOLLOW) == nil &&
		unix.Fstatat(b, name, &y, unix.AT_SYMLINK_NOFOLLOW) == nil && x.Dev == y.Dev && x.Ino == y.Ino
}

// sync makes durable what was put, up to the maildrop: a directory that was
// just made is as new as what is in it.
func (t *trash) sync(fsync func(int) error) error {
	if len(t.days) == 0 {
		return nil
	}
	for _, fd := range append(slices.Clone(t.days), t.fd, t.maildrop) {
		if err := fsync(fd); err != nil && err != unix.EINVAL {
			return wrap("fsync", trashDir, err)
		}
	}
	return nil
}

// diskFull says that a full disk or a spent quota is in the way.
func diskFull(err error) bool { return err == unix.ENOSPC || err == unix.EDQUOT }

// Trashed is a deleted message that can be given back.
type Trashed struct {
	UID     string    // its unique-id, which it will have again
	Deleted time.Time // the day, UTC
	Octets  int64     // as stored

	day, name string
}

// Trash lists the deleted messages of a maildrop, those deleted first first.
func (s *Store) Trash(_ context.Context, r maildrop.Ref) ([]Trashed, error) {
	path, err := s.layout.Locate(r)
	if err != nil {
		return nil, err
	}
	fd, err := s.openMaildrop(path)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return listTrash(fd)
}

func listTrash(fd int) ([]Trashed, error) {
	days, err := readNames(fd, trashDir)
	if err == unix.ENOENT {
		return nil, nil
	}
	if err != nil {
		return nil, wrap("list", trashDir, err)
	}
	kept, err := readUIDs(fd)
	if err != nil {
		return nil, err
	}
	var all []Trashed
	for _, day := range days {
		deleted, ok := dayOf(day)
		if !ok {
			continue
		}
		names, err := readNames(fd, trashDir+"/"+day)
		if err == unix.ENOTDIR || err == unix.ELOOP { // none of ours
			continue
		}
		if err != nil {
			return nil, wrap("list", trashDir+"/"+day, err)
		}
		for _, name := range names {
			var st unix.Stat_t
			if err := statAt(fd, trashDir+"/"+day, name, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
				continue // given back meanwhile, or none of ours
			}
			uid := kept.byBase[baseOf(name)]
			if uid == "" {
				uid = uidOf(baseOf(name))
			}
			all = append(all, Trashed{UID: uid, Deleted: deleted, Octets: st.Size, day: day, name: name})
		}
	}
	return all, nil
}

// dayOf is the day that a directory of the trash is of.
func dayOf(name string) (time.Time, bool) {
	day, _, _ := strings.Cut(name, ".")
	t, err := time.Parse(dayForm, day)
	return t, err == nil
}

// readNames lists a directory beneath fd, in order.
func readNames(fd int, path string) ([]string, error) {
	sub, err := openat2(fd, path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(sub), path)
	defer f.Close()
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

// statAt looks at a file of a directory beneath fd.
func statAt(fd int, dir, name string, st *unix.Stat_t) error {
	sub, err := openat2(fd, dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(sub)
	return unix.Fstatat(sub, name, st, unix.AT_SYMLINK_NOFOLLOW)
}

// Restore gives a deleted message back, under the name and so with the
// unique-id that it had. A session that is open does not see it, as it sees no
// delivery. The modification time becomes now, so that its retention begins
// anew.
func (s *Store) Restore(_ context.Context, r maildrop.Ref, m Trashed) error {
	path, err := s.layout.Locate(r)
	if err != nil {
		return err
	}
	fd, err := s.openMaildrop(path)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := notAsRoot(fd); err != nil {
		return wrap("restore to", path, err)
	}
	from, err := openat2(fd, trashDir+"/"+m.day, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return wrap("open", trashDir+"/"+m.day, err)
	}
	defer unix.Close(from)
	dir := inNew
	if baseOf(m.name) != m.name { // flags are of messages in cur
		dir = inCur
	}
	dd, err := openDirs(fd)
	if err != nil {
		return err
	}
	defer dd.close()
	now := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(time.Now().UnixNano())}
	if err = unix.UtimesNanoAt(from, m.name, now, unix.AT_SYMLINK_NOFOLLOW); err == nil {
		err = renameNew(from, m.name, dd[dir])
	}
	switch {
	case err == unix.ENOENT:
		return fmt.Errorf("message %s: %w", m.UID, maildrop.ErrGone)
	case err == unix.EEXIST:
		return fmt.Errorf("message %s is in the maildrop: %w", m.UID, fs.ErrExist)
	case err != nil:
		return wrap("restore", m.name, err)
	}
	for _, fd := range [...]int{dd[dir], from} { // where it is before where it was
		if err := s.fsync(fd); err != nil && err != unix.EINVAL {
			return wrap("fsync", path, err)
		}
	}
	return nil
}

// purge removes for good what was deleted before a day, and tells what. It
// needs the session lock. A day that is empty then is removed too.
func purge(fd int, before time.Time, dry bool, told func(Trashed)) error {
	all, err := listTrash(fd)
	if err != nil {
		return err
	}
	var errs []error
	for day, messages := range byDay(all) {
		if !messages[0].Deleted.Before(before) {
			continue
		}
		if dry {
			for _, m := range messages {
				told(m)
			}
			continue
		}
		errs = append(errs, purgeDay(fd, day, messages, told))
	}
	return errors.Join(errs...)
}

func byDay(all []Trashed) map[string][]Trashed {
	days := make(map[string][]Trashed)
	for _, m := range all {
		days[m.day] = append(days[m.day], m)
	}
	return days
}

func purgeDay(fd int, day string, messages []Trashed, told func(Trashed)) error {
	sub, err := openat2(fd, trashDir+"/"+day, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return wrap("open", day, err)
	}
	defer unix.Close(sub)
	for _, m := range messages {
		switch err := unlink(sub, m.name); {
		case err == nil:
			told(m)
		case !isMissing(err):
			return wrap("remove", m.name, err)
		}
	}
	parent, err := openat2(fd, trashDir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return wrap("open", trashDir, err)
	}
	defer unix.Close(parent)
	if err := unix.Unlinkat(parent, day, unix.AT_REMOVEDIR); err != nil && err != unix.ENOTEMPTY && err != unix.ENOENT {
		return wrap("remove", day, err)
	}
	return nil
}
