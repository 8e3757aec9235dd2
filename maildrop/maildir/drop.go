package maildir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/maildrop"
)

// drop is a session. Between commands it holds one descriptor, that of its
// lock.
type drop struct {
	store   *Store
	path    string
	lock    int      // -1 when closed
	listing *listing // without records until they are needed
	places  *listing // the listing, or the session's own after others moved some
	at      stamps   // of the directories when places was brought up to date
	settled bool     // as long as the stamps are the same, places is right

	next *listing // what the next session begins with: the listing, or what it should have been

	retrieved []int // messages, where retention ends after that
}

var (
	_ maildrop.Drop      = (*drop)(nil)
	_ maildrop.Retriever = (*drop)(nil)
)

// Totals implements [maildrop.Drop].
func (d *drop) Totals() (messages int, octets int64) { return d.listing.count, d.listing.octets }

// Listing implements [maildrop.Drop].
func (d *drop) Listing(context.Context) (maildrop.Listing, error) {
	if err := d.load(); err != nil {
		return nil, err
	}
	return d.listing, nil
}

// load has the records in memory. The index was verified at login; when it
// cannot be read any more the next session lists the maildrop anew.
func (d *drop) load() error {
	if d.listing.loaded() {
		return nil
	}
	fd, err := d.store.beneath(d.path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return wrap("open", d.path, err)
	}
	defer unix.Close(fd)
	l := d.store.load(fd, d.path, d.listing)
	if l.count != d.listing.count {
		return fmt.Errorf("%w: the index of %s was lost during the session", maildrop.ErrTemporary, d.path)
	}
	d.listing, d.places, d.next = l, l, l
	d.store.cache.put(d.path, l)
	return nil
}

// Content implements [maildrop.Drop].
func (d *drop) Content(_ context.Context, i int) (io.ReadCloser, error) {
	if err := d.load(); err != nil {
		return nil, err
	}
	c, err := d.openContent(i)
	for try := 0; isMissing(err); try++ {
		if err = d.find(i); isMissing(err) {
			err = maildrop.ErrGone
		} else if err == nil && try == tries {
			err = errMoving
		} else if err == nil {
			c, err = d.openContent(i)
		}
	}
	if err == nil {
		if err = d.verify(i, c); err == nil {
			return c, nil
		}
		c.Close()
	}
	return nil, wrap("message", d.listing.uid(i), err)
}

// isMissing says that a file is not where it was; NFS calls it stale.
func isMissing(err error) bool { return err == unix.ENOENT || err == unix.ESTALE }

func (d *drop) openContent(i int) (*content, error) {
	root, err := d.store.openRoot()
	if err != nil {
		return nil, err
	}
	defer unix.Close(root)
	return d.store.openMessage(root, d.path+"/"+d.places.path(i))
}

// verify makes sure that c is the message of the listing, before the client is
// promised its size.
func (d *drop) verify(i int, c *content) error {
	r := &d.listing.records[i]
	if c.size == r.stored && c.modified == r.modified {
		return nil
	}
	buf := readBuffers.Get().(*[64 << 10]byte)
	defer readBuffers.Put(buf)
	m, err := c.measure(buf[:])
	if err != nil {
		return err
	}
	if m.Size() == r.size && (m.WireForm() || !r.is(wireForm)) {
		return nil
	}
	d.correct(i, c, &m)
	return fmt.Errorf("%w: of %d octets, was listed with %d", maildrop.ErrTemporary, m.Size(), r.size)
}

// correct tells the next session what message i really is; this one's listing
// is frozen.
func (d *drop) correct(i int, c *content, m *maildrop.Meter) {
	d.next = d.next.clone()
	d.next.records[i].measured(c, m)
	d.next.corrected = true
	d.next.file.differs(1)
	d.next.total()
	d.store.cache.put(d.path, d.next)
}

// find brings the places of all messages up to date, and returns ENOENT when
// message i has none.
func (d *drop) find(i int) error {
	fd, err := d.store.beneath(d.path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return wrap("open", d.path, err)
	}
	defer unix.Close(fd)
	if d.settled {
		at, err := stampsAt(fd)
		if err != nil {
			return err
		}
		if at == d.at {
			return unix.ENOENT
		}
	}
	dd, err := openDirs(fd)
	if err != nil {
		return err
	}
	defer dd.close()
	found, err := d.relocate(&dd)
	if err == nil && !found[i] {
		err = unix.ENOENT
	}
	return err
}

// relocate reads the directories again. found says which messages are there.
func (d *drop) relocate(dd *dirs) (found []bool, err error) {
	f, err := dd.scanUntilStill(d.places)
	if err != nil {
		return nil, err
	}
	d.at, d.settled = f.at, f.still
	found = f.places()
	d.places = f.merge(time.Now(), func(int) bool { return true })
	return found, nil
}

// Commit implements [maildrop.Drop]. A directory whose fsync failed may give
// back after a crash what was removed from it; these messages count as left.
func (d *drop) Commit(_ context.Context, del []int) error {
	if d.lock < 0 {
		return errors.New("commit of a closed maildrop")
	}
	defer d.Close()
	if len(del) == 0 && !d.store.options.Expire.ends() {
		return nil
	}
	if err := d.load(); err != nil {
		if len(del) == 0 {
			d.store.log.Warn("messages not expired", "maildrop", d.path, "err", err)
			return nil
		}
		return &maildrop.CommitError{Left: slices.Clone(del), Err: err}
	}
	left, err := d.update(del)
	if len(left) > 0 {
		return &maildrop.CommitError{Left: left, Err: err}
	}
	return nil
}

// update removes del, and what has been kept long enough.
func (d *drop) update(del []int) (left []int, err error) {
	if d.store.options.Expire.ends() {
		return d.expire(del)
	}
	left, err = d.remove(del)
	d.forget(del, left)
	return left, err
}

// forget takes what was removed from what the next session begins with. It
// looks at the directories again all the same.
func (d *drop) forget(del, left []int) {
	removed := make([]bool, d.next.count)
	for _, i := range del {
		removed[i] = true
	}
	for _, i := range left {
		removed[i] = false
	}
	d.next = d.next.without(func(i int) bool { return removed[i] })
	d.store.cache.put(d.path, d.next)
}

func (d *drop) remove(del []int) (left []int, err error) {
	fd, err := d.store.beneath(d.path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return del, wrap("open", d.path, err)
	}
	defer unix.Close(fd)
	dd, err := openDirs(fd)
	if err != nil {
		return del, err
	}
	defer dd.close()

	r := removal{drop: d, dirs: &dd}
	if d.store.options.Trash {
		r.trash = newTrash(fd, time.Now())
		defer r.trash.close()
	}
	missing := r.unlink(del)
	for try := 0; len(missing) > 0; try++ {
		// renamed by another program, or removed: then there is nothing left to do
		found, err := d.relocate(&dd)
		if err == nil && try == tries {
			err = errMoving
		}
		if err != nil {
			r.leave(missing, err)
			break
		}
		missing = r.unlink(slices.DeleteFunc(missing, func(i int) bool { return !found[i] }))
	}
	r.sync()
	slices.Sort(r.left)
	return slices.Compact(r.left), errors.Join(r.errs...)
}

// removal is what became of the messages of one Commit.
type removal struct {
	drop    *drop
	dirs    *dirs
	trash   *trash               // nil where messages are unlinked
	removed [len(dirNames)][]int // from each directory
	left    []int
	errs    []error
}

// take removes a message from a directory. A full disk lets users delete: then
// it goes without the trash, of which the log is told.
func (r *removal) take(dir int, name string) error {
	if r.trash == nil {
		return unlink(dir, name)
	}
	err := r.trash.put(dir, name)
	if !diskFull(err) {
		return err
	}
	if err := unlink(dir, name); err != nil {
		return err
	}
	r.drop.store.log.Warn("message removed for good: no room in the trash", "maildrop", r.drop.path, "message", name, "err", err)
	return nil
}

func (r *removal) leave(messages []int, err error) {
	r.left = append(r.left, messages...)
	r.errs = append(r.errs, err)
}

// unlink returns the messages that were not where they were seen last, and
// those that may have another name there: it would bring the message back.
func (r *removal) unlink(del []int) (missing []int) {
	for _, i := range del {
		p := r.drop.places
		dir := p.records[i].dir()
		switch err := r.take(r.dirs[dir], p.name(i)); {
		case err == nil:
			r.removed[dir] = append(r.removed[dir], i)
			if p.records[i].is(linked) {
				missing = append(missing, i)
			}
		case isMissing(err):
			missing = append(missing, i)
		default:
			r.leave([]int{i}, wrap("remove", p.path(i), err))
		}
	}
	return missing
}

// sync makes the removals durable. It does so once: after an error a second
// fsync can succeed because the kernel has forgotten what it failed to write. The
// trash is first: a message may be in both places after a crash, and not in none.
func (r *removal) sync() {
	if r.trash != nil {
		if err := r.trash.sync(r.drop.store.fsync); err != nil {
			r.leave(slices.Concat(r.removed[:]...), err)
			return
		}
	}
	for dir, messages := range r.removed {
		if len(messages) == 0 {
			continue
		}
		// EINVAL is a file system that has nothing to sync in directories
		if err := r.drop.store.fsync(r.dirs[dir]); err != nil && err != unix.EINVAL {
			r.leave(messages, wrap("fsync", dirNames[dir], err))
		}
	}
}

func unlink(fd int, name string) error {
	for {
		if err := unix.Unlinkat(fd, name, 0); err != unix.EINTR {
			return err
		}
	}
}

func fsync(fd int) error {
	for {
		if err := unix.Fsync(fd); err != unix.EINTR {
			return err
		}
	}
}

func (d *drop) Close() error {
	if d.lock < 0 {
		return nil
	}
	lock := d.lock
	d.lock = -1
	d.save()
	return release(lock)
}

// save writes the index, which the lock is still held for.
func (d *drop) save() {
	if !d.next.worthWriting(time.Now()) {
		return
	}
	fd, err := d.store.beneath(d.path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return // the maildrop was moved away, and its index is no worse for it
	}
	defer unix.Close(fd)
	d.store.save(fd, d.path, d.next)
}
