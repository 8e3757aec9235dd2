package maildir

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/maildrop"
)

// Day is the unit of retention (RFC 2449 section 6.7).
const Day = 24 * time.Hour

// Retention is how long messages are kept. The zero value keeps them for ever.
//
// The time of arrival is when the store saw a message first, or the file's
// modification time if that is later; of a message that was retrieved and not
// deleted it is when that session ended. Both are in the index: what a lost
// index forgets is kept longer.
type Retention struct {
	Arrived   time.Duration // after arrival; zero for ever
	Retrieved time.Duration // after the first retrieval in a session that ended with QUIT; zero for ever
	AtQuit    bool          // what a session retrieved goes when it ends with QUIT
}

func (r Retention) ends() bool { return r.Arrived > 0 || r.Retrieved > 0 || r.AtQuit }

// over says that the retention of a message ended by now, by what its record
// says, and after which of the two.
func (r Retention) over(rec *record, now time.Time) (after string, since time.Time) {
	since = time.Unix(int64(rec.seen), 0)
	switch age := now.Sub(since); {
	case rec.seen == 0:
		return "", since
	case r.Retrieved > 0 && rec.is(retrieved) && age >= r.Retrieved:
		return "retrieval", since
	case r.Arrived > 0 && age >= r.Arrived:
		return "arrival", since
	}
	return "", since
}

// of is the retention that counts after what over says.
func (r Retention) of(after string) time.Duration {
	if after == "retrieval" {
		return r.Retrieved
	}
	return r.Arrived
}

// Expired is a message whose retention is over.
type Expired struct {
	UID    string
	Octets int64         // as sent, or as stored of one in the trash
	Age    time.Duration // since what After says
	After  string        // arrival, retrieval or deletion

	index int
}

// Retrieved implements [maildrop.Retriever].
func (d *drop) Retrieved(i int) {
	if r := d.store.options.Expire; r.Retrieved > 0 || r.AtQuit {
		d.retrieved = append(d.retrieved, i)
	}
}

// mark has the next session know what was retrieved first in this one, but for
// del, which goes.
func (d *drop) mark(now time.Time) {
	if d.store.options.Expire.Retrieved == 0 || len(d.retrieved) == 0 {
		return
	}
	next, n := d.next.clone(), 0
	for _, i := range d.retrieved {
		if r := &next.records[i]; !r.is(retrieved) {
			r.set(retrieved, true)
			r.seen = uint32(now.Unix())
			n++
		}
	}
	if n > 0 {
		next.file.differs(n)
		d.next = next
		d.store.cache.put(d.path, next)
	}
}

// overdue are the messages whose retention is over, but for del. A message
// that was given back or written anew is as old as its file says.
func (d *drop) overdue(del []int, now time.Time) (all []Expired, err error) {
	keep := d.store.options.Expire
	fd, err := d.store.beneath(d.path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, wrap("open", d.path, err)
	}
	defer unix.Close(fd)
	atQuit := make(map[int]bool)
	for _, i := range d.retrieved {
		atQuit[i] = keep.AtQuit
	}
	for i := range d.next.records {
		r := &d.next.records[i]
		after, since := keep.over(r, now)
		if after != "" {
			var st unix.Stat_t
			if err := unix.Fstatat(fd, d.places.path(i), &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				after = "" // moved just now: another time
			} else if m := time.Unix(st.Mtim.Unix()); m.After(since) {
				if since = m; now.Sub(since) < keep.of(after) {
					after = ""
				}
			}
		}
		if after == "" && atQuit[i] {
			after, since = "retrieval", now
		}
		if after == "" {
			continue
		}
		if _, marked := slices.BinarySearch(del, i); !marked {
			all = append(all, Expired{UID: d.next.uid(i), Octets: r.size, Age: now.Sub(since), After: after, index: i})
		}
	}
	return all, nil
}

// expire removes del and what is overdue. Left are those of del alone: nobody
// waits for the others, which the log is told of.
func (d *drop) expire(del []int) (left []int, err error) {
	now := time.Now()
	d.mark(now)
	old, err := d.overdue(del, now)
	if err != nil {
		d.store.log.Warn("messages not expired", "maildrop", d.path, "err", err)
	}
	if len(del)+len(old) == 0 {
		return nil, nil
	}
	gone, err := d.removeOverdue(del, old)
	for _, m := range gone {
		d.store.log.Info("message expired", "maildrop", d.path, "uid", m.UID, "octets", m.Octets,
			"days", int(m.Age/Day), "after", m.After)
	}
	var ce *maildrop.CommitError
	if errors.As(err, &ce) {
		for _, i := range ce.Left {
			if _, marked := slices.BinarySearch(del, i); marked {
				left = append(left, i)
			}
		}
		if len(left) < len(ce.Left) {
			d.store.log.Warn("messages not expired", "maildrop", d.path, "messages", len(ce.Left)-len(left), "err", ce.Err)
		}
		err = ce.Err
	}
	return left, err
}

// removeOverdue removes del and old, and returns which of old are gone.
func (d *drop) removeOverdue(del []int, old []Expired) (gone []Expired, err error) {
	all := slices.Clone(del)
	for _, m := range old {
		all = append(all, m.index)
	}
	slices.Sort(all)
	left, err := d.remove(all)
	d.forget(all, left)
	for _, m := range old {
		if _, stays := slices.BinarySearch(left, m.index); !stays {
			gone = append(gone, m)
		}
	}
	if len(left) > 0 {
		return gone, &maildrop.CommitError{Left: left, Err: err}
	}
	return gone, nil
}

// Expire removes from the maildrop at path what its retention is over for, and
// from its trash what was deleted more than the trash's retention ago. It takes
// the session lock, so that a maildrop in use is left alone. told hears of each
// message that is removed, or would be in a dry run. Errors: those of Open.
func (s *Store) Expire(ctx context.Context, path string, trash time.Duration, dry bool, told func(Expired)) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	fd, err := s.openMaildrop(path)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := notAsRoot(fd); err != nil {
		return wrap("expire", path, err)
	}
	if s.options.Expire.ends() {
		err = s.expireMessages(ctx, path, dry, told)
	}
	if err != nil || trash == 0 {
		return err
	}
	o, err := s.enter(path)
	if err != nil {
		return err
	}
	defer o.leave()
	now := time.Now()
	// a message that was deleted at the end of a day is kept as long as any other
	return purge(o.fd, now.Add(-trash-Day+1), dry, func(m Trashed) {
		told(Expired{UID: m.UID, Octets: m.Octets, Age: now.Sub(m.Deleted), After: "deletion"})
	})
}

// notAsRoot refuses root the maildrop of somebody else, who could not use the
// files that root makes.
func notAsRoot(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Uid != 0 && unix.Geteuid() == 0 {
		return fmt.Errorf("%w: it belongs to user %d, and root would leave files there that this user cannot use", maildrop.ErrPermanent, st.Uid)
	}
	return nil
}

func (s *Store) expireMessages(ctx context.Context, path string, dry bool, told func(Expired)) error {
	d, err := s.openAt(ctx, path)
	if err != nil {
		return err
	}
	defer d.Close() // and what was seen for the first time is written down
	return d.expireNow(dry, told)
}

func (d *drop) expireNow(dry bool, told func(Expired)) error {
	if err := d.load(); err != nil {
		return err
	}
	old, err := d.overdue(nil, time.Now())
	if err != nil || len(old) == 0 {
		return err
	}
	if !dry {
		old, err = d.removeOverdue(nil, old)
	}
	for _, m := range old {
		told(m)
	}
	return err
}

// maxDepth is how many directories below the root a maildrop may lie.
const maxDepth = 8

// Walk visits the maildrops beneath the root, whatever their layout: every
// directory that holds new and cur. It follows no symbolic links, and does not
// look into maildrops. What cannot be read is an error of visit's; when visit
// returns one, Walk ends with it.
func (s *Store) Walk(ctx context.Context, visit func(path string, err error) error) error {
	root, err := s.openRoot()
	if err != nil {
		return err
	}
	defer unix.Close(root)
	return walk(ctx, root, ".", 0, visit)
}

func walk(ctx context.Context, root int, path string, depth int, visit func(path string, err error) error) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	names, err := readNames(root, path)
	switch {
	case err == unix.ENOTDIR || err == unix.ELOOP || err == unix.ENOENT:
		return nil // a file, a symbolic link, or gone meanwhile
	case err != nil:
		return visit(path, wrap("list", path, err))
	}
	has := func(name string) bool {
		_, found := slices.BinarySearch(names, name)
		return found
	}
	if depth > 0 && has(dirNames[inNew]) && has(dirNames[inCur]) {
		return visit(path, nil)
	}
	if depth == maxDepth {
		return visit(path, fmt.Errorf("%s lies deeper than %d directories", path, maxDepth))
	}
	for _, name := range names {
		next := name
		if path != "." {
			next = path + "/" + name
		}
		if err := walk(ctx, root, next, depth+1, visit); err != nil {
			return err
		}
	}
	return nil
}
