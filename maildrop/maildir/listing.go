package maildir

import (
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/kpopd/kpopd/maildrop"
)

// listing is what a session shows, in order of delivery. It is not changed
// once it is made, and is shared by sessions that follow one another. A message
// costs 48 octets and its name, and the collector follows two pointers,
// however many messages there are.
type listing struct {
	records []record // none while the index file alone holds them
	text    string   // of each record its file name, and its unique-id where that is not its base name
	count   int      // messages
	octets  int64    // of all messages, as sent
	named   bool     // some sizes are from file names
	loose   bool     // some unique-ids are not in the file of those

	at      stamps
	settled settledDirs // as long as their stamps are the same, so is the listing

	file      filed // what the index file holds of it
	uids      stamp // of the file of unique-ids when it had all that are frozen; in memory alone
	corrected bool  // the index file, or a file name, has a wrong size
}

// record is a message and where it was seen last.
type record struct {
	ino      uint64
	modified int64  // mtime when it was measured, Unix nanoseconds
	stored   int64  // octets in the file then; -1 when the size is from its name
	size     int64  // as sent
	end      uint32 // in text; it begins where that of the record before ends
	header   uint32 // octets of the header as sent, with the empty line that ends it; 0 when not known, the largest number means that or more
	seen     uint32 // by us for the first time, or retrieved for the first time; Unix seconds
	base     uint16 // octets of the name that are the base name
	uid      uint8  // octets at the end of the text that are the unique-id; 0 where it is the base name
	flags    flags
}

type flags uint8

const (
	wireForm flags = 1 << iota // stored octets are octets to send
	seenInCur
	linked    // was found under another name too: it has two, or was renamed just then
	sized     // was measured, or has its size from its name
	frozen    // the unique-id is in the file of those
	gone      // while the listing is made: no message
	retrieved // and seen says when
)

func (r *record) is(f flags) bool { return r.flags&f != 0 }

func (r *record) set(f flags, to bool) {
	if to {
		r.flags |= f
	} else {
		r.flags &^= f
	}
}

// dir is inNew or inCur.
func (r *record) dir() int {
	if r.is(seenInCur) {
		return inCur
	}
	return inNew
}

func (l *listing) start(i int) uint32 {
	if i == 0 {
		return 0
	}
	return l.records[i-1].end
}

// name is the file name of message i, with flags.
func (l *listing) name(i int) string {
	r := &l.records[i]
	return l.text[l.start(i) : r.end-uint32(r.uid)]
}

func (l *listing) base(i int) string {
	from := l.start(i)
	return l.text[from : from+uint32(l.records[i].base)]
}

func (l *listing) uid(i int) string {
	r := &l.records[i]
	if r.uid == 0 {
		return l.base(i)
	}
	return l.text[r.end-uint32(r.uid) : r.end]
}

// ownUID is the unique-id of message i where it is not the base name.
func (l *listing) ownUID(i int) string {
	r := &l.records[i]
	return l.text[r.end-uint32(r.uid) : r.end]
}

// path is where message i was seen last, in the maildrop.
func (l *listing) path(i int) string { return dirNames[l.records[i].dir()] + "/" + l.name(i) }

var _ maildrop.Dated = (*listing)(nil)

// Len implements [maildrop.Listing].
func (l *listing) Len() int { return l.count }

// At implements [maildrop.Listing].
func (l *listing) At(i int) maildrop.Message {
	r := &l.records[i]
	return maildrop.Message{UID: l.uid(i), Size: r.size, WireForm: r.is(wireForm)}
}

// Arrived implements [maildrop.Dated]: it is the second that the name begins with.
// A name without one tells nothing; then it is the time that the file was written,
// and where it was never looked at the time that it was seen first.
func (l *listing) Arrived(i int) time.Time {
	const latest = 1 << 40 // seconds; more are no date
	if t := timeOf(l.base(i)); t > 0 && t < latest {
		return time.Unix(int64(t), 0)
	}
	if r := &l.records[i]; r.stored >= 0 {
		return time.Unix(0, r.modified)
	}
	return time.Unix(int64(l.records[i].seen), 0)
}

// links says that there are messages of two names.
func (l *listing) links() bool {
	return slices.ContainsFunc(l.records, func(r record) bool { return r.is(linked) })
}

// loaded says that the records are in memory.
func (l *listing) loaded() bool { return len(l.records) == l.count }

// weight is the memory that the listing takes, in octets. An empty one is not
// free either.
func (l *listing) weight() int64 {
	const itself = 256 // with its place in the cache
	return itself + int64(recordSize*cap(l.records)) + int64(len(l.text))
}

// full is the weight that l has with its records.
func (l *listing) full() int64 {
	if l.loaded() {
		return l.weight()
	}
	return l.file.size
}

// find returns the index of a base name, or -1 and where it would be.
func (l *listing) find(time uint64, base string) (i, near int) {
	near = sort.Search(len(l.records), func(k int) bool {
		at := l.base(k)
		return compareNames(timeOf(at), time, at, base) >= 0
	})
	if near < len(l.records) && l.base(near) == base {
		return near, near
	}
	return -1, near
}

func (l *listing) unsized() (todo []int) {
	for i := range l.records {
		if !l.records[i].is(sized) {
			todo = append(todo, i)
		}
	}
	return todo
}

// clone is l with records of its own.
func (l *listing) clone() *listing {
	c := *l
	c.records = slices.Clone(l.records)
	return &c
}

// without is l less the messages for which drop says so. The stamps are those
// of l no longer.
func (l *listing) without(drop func(i int) bool) *listing {
	b := newBuilder(len(l.records), len(l.text))
	for i := range l.records {
		if !drop(i) {
			b.keep(l, i, i+1)
		}
	}
	n := b.done()
	n.file, n.uids = l.file, l.uids
	n.file.differs(l.count - n.count)
	return n
}

// builder makes a listing, message by message.
type builder struct {
	listing
	names strings.Builder
}

func newBuilder(records, text int) *builder {
	b := new(builder)
	b.records = make([]record, 0, records)
	b.names.Grow(text)
	return b
}

// keep adds messages i to j-1 of l as they are.
func (b *builder) keep(l *listing, i, j int) {
	if i == j {
		return
	}
	from, to := l.start(i), l.records[j-1].end
	shift := uint32(b.names.Len()) - from
	n := len(b.records)
	b.records = append(b.records, l.records[i:j]...)
	for k := n; k < len(b.records); k++ {
		b.records[k].end += shift
	}
	b.names.WriteString(l.text[from:to])
}

// add adds r under a name, with a unique-id where that is not the base name.
func (b *builder) add(r record, name, uid string) {
	b.names.WriteString(name)
	b.names.WriteString(uid)
	r.end, r.base, r.uid = uint32(b.names.Len()), uint16(len(baseOf(name))), uint8(len(uid))
	b.records = append(b.records, r)
}

func (b *builder) done() *listing {
	l := b.listing
	l.text = b.names.String()
	l.total()
	return &l
}

// total counts what l holds.
func (l *listing) total() {
	l.count, l.octets, l.named, l.loose = len(l.records), 0, false, false
	for i := range l.records {
		r := &l.records[i]
		l.octets += r.size
		l.named = l.named || r.stored < 0
		l.loose = l.loose || !r.is(frozen)
	}
}
