package mbox

import (
	"context"
	"encoding/hex"
	"fmt"
	"hash/crc64"
	"io"

	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/maildrop/internal/beneath"
)

// entry is a part with the unique-id that it was given.
type entry struct {
	part
	uid string
}

// stamp changes when a file does.
type stamp struct {
	inode
	size, modified, changed int64 // times in Unix nanoseconds
}

func stampOf(fd int) (stamp, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return stamp{inode{st.Dev, st.Ino}, st.Size, unix.TimespecToNsec(st.Mtim), unix.TimespecToNsec(st.Ctim)}, err
}

// listing is what is known of a spool file. It is not changed once it is made.
type listing struct {
	at          stamp
	front, back uint64 // sums of the first and the last octets of the file
	entries     []entry
	gone        []string // unique-ids of messages that sessions removed; none of them is given again
}

// doubted is what a listing knows of unique-ids, without where anything lies: it has
// the whole file read.
func (l *listing) doubted() *listing {
	if l == nil {
		return nil
	}
	return &listing{entries: l.entries, gone: l.gone}
}

// goneLimit bounds the removed unique-ids that are remembered.
const goneLimit = 1000

// guard is how many octets at either end of a file tell that it only grew.
const guard = 4 << 10

// sums reads the guards of a file that ends at size.
func sums(fd int, size int64) (front, back uint64, err error) {
	buf := make([]byte, min(size, guard))
	for _, g := range []struct {
		sum *uint64
		at  int64
	}{{&front, 0}, {&back, size - int64(len(buf))}} {
		if _, err := io.ReadFull(io.NewSectionReader(file(fd), g.at, int64(len(buf))), buf); err != nil {
			return 0, 0, err
		}
		*g.sum = crc64.Checksum(buf, polynomial)
	}
	return front, back, nil
}

// file reads at offsets.
type file int

func (f file) ReadAt(p []byte, at int64) (n int, err error) {
	for n < len(p) {
		m, err := unix.Pread(int(f), p[n:], at+int64(n))
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return n, err
		case m == 0:
			return n, io.EOF
		}
		n += m
	}
	return n, nil
}

// refresh returns the listing of the locked spool file, from old as far as that is
// right.
func (sp *spool) refresh(ctx context.Context, old *listing) (*listing, error) {
	if old == nil {
		old = &listing{}
	}
	if sp.fd < 0 {
		if len(old.entries) == 0 && old.at == (stamp{}) {
			return old, nil
		}
		return &listing{gone: old.gone}, nil
	}
	at, err := stampOf(sp.fd)
	if err != nil {
		return nil, beneath.Wrap("stat", sp.path, err)
	}
	if at == old.at {
		return old, nil
	}
	l := &listing{at: at, gone: old.gone}
	var from int64
	if n := len(old.entries); n > 0 && at.inode == old.at.inode && at.size > old.at.size {
		front, back, err := sums(sp.fd, old.at.size)
		if err == nil && front == old.front && back == old.back {
			// what was last may have become longer
			l.entries = append(make([]entry, 0, n+16), old.entries[:n-1]...)
			from = old.entries[n-1].offset
		}
	}
	if err := sp.read(ctx, l, from, old); err != nil {
		return nil, beneath.Wrap("read", sp.path, err)
	}
	if l.front, l.back, err = sums(sp.fd, at.size); err != nil {
		return nil, beneath.Wrap("read", sp.path, err)
	}
	return l, nil
}

// read adds the parts of the file from an offset on, with the unique-ids that old
// gave them.
func (sp *spool) read(ctx context.Context, l *listing, from int64, old *listing) error {
	kept := len(l.entries)
	known := map[[16]byte][]string{}
	for _, e := range old.entries[kept:] {
		known[e.id] = append(known[e.id], e.uid)
	}
	taken := map[string]bool{}
	for _, e := range old.entries { // those that are found again keep theirs
		taken[e.uid] = true
	}
	for _, uid := range old.gone {
		taken[uid] = true
	}
	var name func(head []byte) string
	r := &cancellable{ctx, io.NewSectionReader(file(sp.fd), from, l.at.size-from)}
	return parse(r, from, func(p part, head []byte) error {
		p.pseudo = p.pseudo && len(l.entries) == 0
		e := entry{part: p}
		if uids := known[p.id]; len(uids) > 0 {
			e.uid, known[p.id] = uids[0], uids[1:]
		} else {
			if name == nil {
				var err error
				if name, err = sp.naming(l, head); err != nil {
					return err
				}
			}
			e.uid = uidFor(p, name(head), taken)
			taken[e.uid] = true
		}
		l.entries = append(l.entries, e)
		return nil
	})
}

// naming returns what names the messages that come after those of l, of which
// the first has a head.
func (sp *spool) naming(l *listing, head []byte) (func(head []byte) string, error) {
	if sp.store.options.UIDs == nil {
		return func([]byte) string { return "" }, nil
	}
	if len(l.entries) > 0 {
		head = make([]byte, max(l.entries[0].head, nameOctets))
		n, err := file(sp.fd).ReadAt(head, l.entries[0].offset)
		if err != nil && err != io.EOF {
			return nil, err
		}
		head = head[:n]
	}
	return sp.store.options.UIDs(head)
}

// uidFor is a unique-id for a part that none has: the name it was given, or one made
// of what tells it apart.
func uidFor(p part, name string, taken map[string]bool) string {
	own := hex.EncodeToString(p.id[:])
	if !legalUID(name) || p.pseudo {
		name = own
	}
	uid := name
	for n := 2; taken[uid]; n++ {
		if uid = fmt.Sprintf("%s-%d", name, n); !legalUID(uid) { // too long
			name, uid = own, own
		}
	}
	return uid
}

func legalUID(s string) bool {
	for i := range len(s) {
		if s[i] < 0x21 || s[i] > 0x7e {
			return false
		}
	}
	return len(s) >= 1 && len(s) <= 70
}

// visible is the listing without what mail programs keep for themselves.
func (l *listing) visible() []entry {
	if len(l.entries) > 0 && l.entries[0].pseudo {
		return l.entries[1:]
	}
	return l.entries
}

// cancellable is a reader that ends with its context.
type cancellable struct {
	ctx context.Context
	r   io.Reader
}

func (c *cancellable) Read(p []byte) (int, error) {
	if err := context.Cause(c.ctx); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
