package maildir

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/maildrop"
)

// UIDs gives unique-ids to the messages of a maildrop that have none yet, named
// by their base names in order of delivery. dir is the maildrop's directory,
// open for the time of the call, and its session lock is held. given are the
// unique-ids that were written down before, by base name, of messages that are
// there and of such that were. The result is as long as bases; "" leaves a
// message the unique-id that is made of its name, as does what RFC 1939
// section 7 does not allow. What is returned is kept for ever: nobody is asked
// again for a message that is in the maildrop.
//
// An error refuses the login. Another unique-id than the right one would have
// the client fetch everything again.
type UIDs func(ctx context.Context, dir int, bases []string, given map[string]string) ([]string, error)

// uidsFile holds unique-ids that cannot be made again from what else is in the
// maildrop. It is only appended to. A line is a version, a checksum of what
// follows it, the unique-id, and the base name with what is not printable
// escaped as in a URL; the first line of a base name counts.
const (
	uidsFile    = ".kpopd.uids"
	uidsVersion = "1"
	maxUIDs     = 256 << 20 // octets, some three million messages; what is larger is none of ours
)

func uidLine(base, uid string) string {
	rest := uid + " " + url.QueryEscape(base)
	return fmt.Sprintf("%s %08x %s\n", uidsVersion, crc32.Checksum([]byte(rest), castagnoli), rest)
}

func parseUIDLine(line []byte) (base, uid string, ok bool) {
	version, rest, _ := bytes.Cut(line, []byte{' '})
	digits, rest, _ := bytes.Cut(rest, []byte{' '})
	if string(version) != uidsVersion || len(digits) != 8 {
		return "", "", false
	}
	if sum, err := strconv.ParseUint(string(digits), 16, 32); err != nil || uint32(sum) != crc32.Checksum(rest, castagnoli) {
		return "", "", false
	}
	id, escaped, _ := strings.Cut(string(rest), " ")
	base, err := url.QueryUnescape(escaped)
	return base, id, err == nil && base != "" && legalUID(id)
}

// frozenUIDs is what the file of unique-ids holds.
type frozenUIDs struct {
	byBase  map[string]string
	damaged []int // numbers of lines that cannot be read
	torn    bool  // the last line has no end
}

func parseUIDs(text []byte) frozenUIDs {
	f := frozenUIDs{byBase: make(map[string]string), torn: len(text) > 0 && text[len(text)-1] != '\n'}
	n := 0
	for line := range bytes.Lines(text) {
		n++
		line = bytes.TrimSuffix(line, []byte{'\n'})
		base, uid, ok := parseUIDLine(line)
		switch {
		case len(line) == 0:
		case !ok:
			f.damaged = append(f.damaged, n)
		case f.byBase[base] == "":
			f.byBase[base] = uid
		}
	}
	return f
}

// readUIDs reads the file of the maildrop at fd. A file that is not there
// holds nothing; one that cannot be read is an error.
func readUIDs(fd int) (frozenUIDs, error) {
	file, err := openat2(fd, uidsFile, unix.O_RDONLY, 0)
	if err == unix.ENOENT {
		return frozenUIDs{}, nil
	}
	if err != nil {
		return frozenUIDs{}, wrap("open", uidsFile, err)
	}
	defer unix.Close(file)
	var st unix.Stat_t
	if err = unix.Fstat(file, &st); err != nil {
		return frozenUIDs{}, wrap("stat", uidsFile, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size > maxUIDs {
		return frozenUIDs{}, fmt.Errorf("%w: %s is no file of ours", maildrop.ErrPermanent, uidsFile)
	}
	text := make([]byte, st.Size)
	if _, err = io.ReadFull(descriptor(file), text); err != nil {
		return frozenUIDs{}, wrap("read", uidsFile, err)
	}
	return parseUIDs(text), nil
}

// appendUIDs adds lines to the file of the maildrop at fd, and has them on disk
// before a client can see what they hold.
func (s *Store) appendUIDs(fd int, torn bool, lines string) error {
	if torn {
		lines = "\n" + lines
	}
	file, err := openat2(fd, uidsFile, unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT, 0o600)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err = unix.Fstat(file, &st); err == nil && st.Nlink != 1 {
		err = errors.New("the file has another name, whose content is not ours to change")
	}
	if err == nil {
		if _, err = descriptor(file).Write([]byte(lines)); err != nil {
			_ = unix.Ftruncate(file, st.Size) // half a line would look like a lost one
		} else {
			err = s.fsync(file)
		}
	}
	if e := unix.Close(file); err == nil {
		err = e
	}
	if err == nil && st.Size == 0 {
		if err = s.fsync(fd); err == unix.EINVAL { // a file system that has nothing to sync in directories
			err = nil
		}
	}
	return err
}

// identify gives the new messages of f their unique-ids: those that they had
// before, those that [Options.UIDs] gives them, or those of their names. A
// unique-id that is not of the name is written down first; on a full disk it is
// shown all the same, and written down when there is room.
func (s *Store) identify(ctx context.Context, fd int, path string, f *found) error {
	var fresh []*entry
	for i := range f.moved {
		if e := &f.moved[i]; e.old < 0 {
			fresh = append(fresh, e)
		}
	}
	owed := s.owed(f.old)
	if len(fresh) == 0 && len(owed) == 0 {
		return nil
	}
	kept, err := readUIDs(fd)
	if err != nil {
		return err
	}
	if n := len(kept.damaged); n > 0 && s.first(fmt.Sprint(path, "/", uidsFile, n)) {
		s.log.Error("unique-ids lost: lines of a file cannot be read", "maildrop", path, "file", uidsFile,
			"lines", n, "first", kept.damaged[0])
	}
	if err := s.ask(ctx, fd, path, fresh, kept.byBase); err != nil {
		return err
	}
	s.freeze(fd, path, f, fresh, kept)
	return nil
}

// owed are the messages of l whose unique-ids should be in the file of those.
func (s *Store) owed(l *listing) (owed []int) {
	if s.options.UIDs == nil {
		return nil
	}
	for i := range l.records {
		if !l.records[i].is(frozen) {
			owed = append(owed, i)
		}
	}
	return owed
}

// ask sets the unique-ids of fresh.
func (s *Store) ask(ctx context.Context, fd int, path string, fresh []*entry, kept map[string]string) error {
	var unknown []*entry
	var names []string
	for _, e := range fresh {
		uid, ok := kept[e.base]
		if e.frozen = ok; !ok {
			uid = uidOf(e.base)
			unknown = append(unknown, e)
			names = append(names, e.base)
		}
		e.setUID(uid)
	}
	if s.options.UIDs == nil || len(names) == 0 {
		return nil
	}
	uids, err := s.options.UIDs(ctx, fd, names, kept)
	if err == nil && len(uids) != len(names) {
		err = fmt.Errorf("%d unique-ids for %d messages", len(uids), len(names))
	}
	if err != nil {
		return wrap("unique-ids of", path, err)
	}
	for i, uid := range uids {
		switch {
		case legalUID(uid):
			unknown[i].setUID(uid)
		case uid != "":
			s.log.Warn("unique-id replaced: it is not a legal one", "maildrop", path, "message", names[i], "uid", uid)
		}
	}
	return nil
}

// setUID keeps a unique-id that is not the base name.
func (e *entry) setUID(uid string) {
	e.uid = ""
	if uid != e.base {
		e.uid = uid
	}
}

// freeze writes down what the file lacks: unique-ids of fresh, and of earlier
// messages where it has lost them or had none.
func (s *Store) freeze(fd int, path string, f *found, fresh []*entry, kept frozenUIDs) {
	var lines strings.Builder
	var late []int
	asked := s.options.UIDs != nil
	for i := range f.old.records {
		is := f.old.records[i].is(frozen)
		if base := f.old.base(i); (is || asked) && kept.byBase[base] == "" {
			lines.WriteString(uidLine(base, f.old.uid(i)))
		}
		if !is && asked {
			late = append(late, i)
		}
	}
	for _, e := range fresh {
		if !e.frozen && asked {
			lines.WriteString(uidLine(e.base, cmp.Or(e.uid, e.base)))
		}
	}
	if lines.Len() > 0 {
		if err := s.appendUIDs(fd, kept.torn, lines.String()); err != nil {
			s.log.Error("unique-ids not written down", "maildrop", path, "file", uidsFile, "err", err)
			return
		}
	}
	for _, e := range fresh {
		e.frozen = e.frozen || asked
	}
	if len(late) > 0 {
		f.old = f.old.clone()
		for _, i := range late {
			f.old.records[i].set(frozen, true)
		}
	}
}
