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
// maildrop. A line is a version, a checksum of what follows it, the unique-id,
// and the base name with what is not printable escaped as in a URL; the first
// line of a base name counts. Lines are appended. When very many are of
// messages that are gone, the file is replaced by one without most of these.
const (
	uidsFile    = ".kpopd.uids"
	uidsTemp    = ".kpopd.uids.tmp"
	uidsVersion = "1"
	maxUIDs     = 256 << 20 // octets, some three million messages; what is larger is none of ours

	// spentUIDs is how many unique-ids of messages that are gone outlive a
	// replacement; there is one when there are twice as many.
	spentUIDs = 50_000
)

func uidLine(base, uid string) string {
	rest := uid + " " + url.QueryEscape(base)
	return fmt.Sprintf("%s %08x %s\n", uidsVersion, crc32.Checksum([]byte(rest), castagnoli), rest)
}

// parseUIDLine takes a line twice, which saves it to copy what it returns.
func parseUIDLine(octets []byte, line string) (base, uid string, ok bool) {
	const sumAt, restAt = len(uidsVersion + " "), len(uidsVersion + " 01234567 ")
	if len(line) < restAt || line[:sumAt] != uidsVersion+" " || line[restAt-1] != ' ' {
		return "", "", false
	}
	sum, err := strconv.ParseUint(line[sumAt:restAt-1], 16, 32)
	if err != nil || uint32(sum) != crc32.Checksum(octets[restAt:], castagnoli) {
		return "", "", false
	}
	uid, escaped, _ := strings.Cut(line[restAt:], " ")
	base, err = url.QueryUnescape(escaped)
	return base, uid, err == nil && base != "" && legalUID(uid)
}

// frozenUIDs is what the file of unique-ids holds.
type frozenUIDs struct {
	text    []byte
	byBase  map[string]string
	damaged []int // numbers of lines that cannot be read
	torn    bool  // the last line has no end
	at      stamp
}

func parseUIDs(text []byte) frozenUIDs {
	f := frozenUIDs{
		text:   text,
		byBase: make(map[string]string, bytes.Count(text, []byte{'\n'})),
		torn:   len(text) > 0 && text[len(text)-1] != '\n',
	}
	n := 0
	for line, id := range f.lines {
		n++
		switch {
		case len(line) == 0:
		case id.base == "":
			f.damaged = append(f.damaged, n)
		case f.byBase[id.base] == "":
			f.byBase[id.base] = id.uid
		}
	}
	return f
}

type lineUID struct{ base, uid string }

// lines hands yield the lines without their ends, and what they hold: nothing
// when they cannot be read.
func (f *frozenUIDs) lines(yield func(line []byte, id lineUID) bool) {
	octets, text := f.text, string(f.text)
	for len(octets) > 0 {
		end := bytes.IndexByte(octets, '\n')
		next := end + 1
		if end < 0 {
			end, next = len(octets), len(octets)
		}
		var id lineUID
		if base, uid, ok := parseUIDLine(octets[:end], text[:end]); ok {
			id = lineUID{base, uid}
		}
		if !yield(octets[:end:end], id) {
			return
		}
		octets, text = octets[next:], text[next:]
	}
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
	kept := parseUIDs(text)
	kept.at = stampIn(&st)
	return kept, nil
}

// appendUIDs adds lines to the file of the maildrop at fd, and has them on disk
// before a client can see what they hold. Where the disk is full that is as
// many as there is room for; they are counted, and there is an error.
func (s *Store) appendUIDs(fd int, torn bool, lines []string) (kept int, err error) {
	text := strings.Join(lines, "")
	if torn {
		text = "\n" + text
	}
	file, err := openat2(fd, uidsFile, unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT, 0o600)
	if err != nil {
		return 0, err
	}
	var st unix.Stat_t
	if err = unix.Fstat(file, &st); err == nil && st.Nlink != 1 {
		err = errTwoNames
	}
	if err == nil {
		var n int
		n, err = descriptor(file).Write([]byte(text))
		whole := strings.LastIndexByte(text[:n], '\n') + 1
		if err != nil && unix.Ftruncate(file, st.Size+int64(whole)) != nil { // half a line would look like a lost one
			whole = 0
		}
		if e := s.fsync(file); e != nil {
			// the next login would take for kept what a power cut can still undo
			_ = unix.Ftruncate(file, st.Size)
			whole, err = 0, cmp.Or(err, e)
		}
		at := 0
		if torn {
			at = 1
		}
		for ; kept < len(lines) && at+len(lines[kept]) <= whole; kept++ {
			at += len(lines[kept])
		}
	}
	if e := unix.Close(file); err == nil {
		err = e
	}
	if kept > 0 && st.Size == 0 {
		if e := s.syncDir(fd); e != nil {
			_ = unlink(fd, uidsFile) // as above; it held nothing before
			return 0, e
		}
	}
	return kept, err
}

var errTwoNames = errors.New("the file has another name, whose content is not ours to change")

// syncDir makes names in the directory fd durable.
func (s *Store) syncDir(fd int) error {
	err := s.fsync(fd)
	if err == unix.EINVAL { // a file system that has nothing to sync in directories
		return nil
	}
	return err
}

// noRoom says that nothing can be written and that waiting for a better moment
// is no help to a user who wants to delete, or at least to read.
func noRoom(err error) bool {
	for _, e := range [...]error{unix.ENOSPC, unix.EDQUOT, unix.EROFS, unix.EACCES, unix.EPERM, errTwoNames} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// uidsAt is the stamp of the file that has all that are frozen: the one that it
// was read with, or another after lines were added.
func uidsAt(fd int, added bool, read stamp) stamp {
	if !added {
		return read
	}
	var st unix.Stat_t
	if unix.Fstatat(fd, uidsFile, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return stamp{}
	}
	return stampIn(&st)
}

// prune replaces a file in which very many unique-ids are of messages that are
// gone. The latest of these stay: a message may be moved back, or be restored
// from a backup. A maildrop that lost most of its messages since the last
// session, or whose index is lost, is left alone: it may be on its way back.
// The other lines are copied octet by octet, and those of messages that are
// there come last, so that their place tells when they went.
func (s *Store) prune(fd int, f *found, kept frozenUIDs) error {
	if len(kept.byBase) <= 2*s.spent+len(f.old.records) || !f.still || f.old.count == 0 {
		return nil
	}
	there := make(map[string]bool, len(f.old.records)+len(f.moved))
	stayed := 0
	for i := range f.old.records {
		if f.kept(i) {
			stayed++
		}
		there[f.old.base(i)] = true // until the next session
	}
	for i := range f.moved {
		if f.moved[i].old >= 0 {
			stayed++
		}
		there[f.moved[i].base] = true
	}
	gone := 0
	for base := range kept.byBase {
		if !there[base] {
			gone++
		}
	}
	if gone <= 2*s.spent || stayed < f.old.count/2 {
		return nil
	}
	// what was written since the file was read is in no text
	now, err := readUIDs(fd)
	if err != nil {
		return err
	}
	return s.replaceUIDs(fd, now.less(gone-s.spent, there))
}

// less is the text without its first so many unique-ids of messages that are
// not there, and with those that are at its end.
func (f *frozenUIDs) less(n int, there map[string]bool) []byte {
	past := make([]byte, 0, len(f.text))
	var present []byte
	done := make(map[string]bool, len(f.byBase))
	for line, id := range f.lines {
		switch {
		case id.base == "" || done[id.base]:
			continue
		case there[id.base]:
			present = append(append(present, line...), '\n')
		case n > 0:
			n--
		default:
			past = append(append(past, line...), '\n')
		}
		done[id.base] = true
	}
	return append(past, present...)
}

// replaceUIDs has text on disk before it takes the place of the file. A kill or
// a power cut leaves the one or the other.
func (s *Store) replaceUIDs(fd int, text []byte) error {
	// a name of before may be a link that somebody planted: nothing is written through it
	if err := unlink(fd, uidsTemp); err != nil && err != unix.ENOENT {
		return err
	}
	file, err := openat2(fd, uidsTemp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err = descriptor(file).Write(text); err == nil {
		err = s.fsync(file)
	}
	if e := unix.Close(file); err == nil {
		err = e
	}
	if err == nil {
		err = unix.Renameat(fd, uidsTemp, fd, uidsFile)
	}
	if err != nil {
		_ = unlink(fd, uidsTemp)
		return err
	}
	return s.syncDir(fd) // before anything is added to the new one
}

// identify gives the new messages of f their unique-ids: those that they had
// before, those that [Options.UIDs] gives them, or those of their names. Under
// UIDs they are written down first, or the login is refused. On a full disk,
// which users must be able to delete from, the ones that there is no room for
// are shown all the same, and written down when there is: until then they are
// in the memory of the server, and in the index where that can be written.
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
	if err := s.freeze(fd, path, f, fresh, kept); err != nil {
		return err
	}
	if err := s.prune(fd, f, kept); err != nil && s.first(path+"/"+uidsTemp) {
		s.log.Warn("unique-ids of messages that are gone stay in the file", "maildrop", path, "file", uidsFile, "err", err)
	}
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
func (s *Store) freeze(fd int, path string, f *found, fresh []*entry, kept frozenUIDs) error {
	var lines []string
	asked := s.options.UIDs != nil
	late := make(map[int]int)                          // messages of f.old, and how many lines must be kept
	had := kept.at != stamp{} && kept.at == f.old.uids // all that are frozen
	for i := range f.old.records {
		is := f.old.records[i].is(frozen)
		if is && had {
			continue
		}
		if base := f.old.base(i); (is || asked) && kept.byBase[base] == "" {
			lines = append(lines, uidLine(base, f.old.uid(i)))
		}
		if !is && asked {
			late[i] = len(lines)
		}
	}
	upTo := make([]int, len(fresh))
	for i, e := range fresh {
		if !e.frozen && asked {
			lines = append(lines, uidLine(e.base, cmp.Or(e.uid, e.base)))
		}
		upTo[i] = len(lines)
	}
	n, err := 0, error(nil)
	if len(lines) > 0 {
		n, err = s.appendUIDs(fd, kept.torn, lines)
	}
	if err != nil && asked && !noRoom(err) { // unless asked the index has them
		return wrap("write", uidsFile, err)
	}
	if err != nil {
		s.log.Error("unique-ids not written down", "maildrop", path, "file", uidsFile, "lines", len(lines)-n, "err", err)
	}
	for i, e := range fresh {
		e.frozen = e.frozen || asked && upTo[i] <= n
	}
	if n == len(lines) {
		f.uids = uidsAt(fd, n > 0, kept.at)
	}
	if len(late) > 0 {
		f.old = f.old.clone()
		for i, k := range late {
			f.old.records[i].set(frozen, k <= n)
		}
	}
	return nil
}
