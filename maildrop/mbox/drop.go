package mbox

import (
	"context"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/maildrop"
	"github.com/kpopd/kpopd/maildrop/internal/beneath"
)

// drop is a session. Between commands it holds one descriptor, that of its lock.
type drop struct {
	store    *Store
	path     string
	lock     int // -1 when closed
	messages maildrop.Messages
	now      *listing       // what is known of the file
	shown    []entry        // of now, as messages as long as place is nil
	place    map[string]int // in shown, by unique-id, after others changed the file
}

var _ maildrop.Drop = (*drop)(nil)

// list reads what Open promises.
func (d *drop) list(ctx context.Context) error {
	old := d.store.loadIndex(d.path)
	if err := d.refresh(ctx, old); err != nil {
		return err
	}
	d.messages = make(maildrop.Messages, len(d.shown))
	for i, e := range d.shown {
		d.messages[i] = maildrop.Message{UID: e.uid, Size: e.size, WireForm: e.wireForm}
	}
	return nil
}

// refresh locks the file, mends what a session that died left of it, and reads what
// changed since old.
func (d *drop) refresh(ctx context.Context, old *listing) error {
	sp, err := d.store.lock(ctx, d.path)
	if err != nil {
		return err
	}
	defer sp.close()
	_, err = d.read(ctx, sp, old)
	return err
}

func (d *drop) read(ctx context.Context, sp *spool, old *listing) (*listing, error) {
	if sp.fd >= 0 {
		redone, err := sp.redo()
		if err != nil {
			return nil, err
		}
		if redone {
			old = old.doubted()
		}
		if err := sp.trim(); err != nil {
			return nil, err
		}
	}
	l, err := sp.refresh(ctx, old)
	if err != nil {
		if errors.Is(err, errNotMbox) {
			err = fmt.Errorf("%w: %w", maildrop.ErrPermanent, err)
		}
		return nil, err
	}
	if l != old {
		d.store.saveIndex(d.path, l)
	}
	d.now, d.shown = l, l.visible()
	return l, nil
}

func (d *drop) Totals() (messages int, octets int64) { return d.messages.Totals() }

func (d *drop) Listing(context.Context) (maildrop.Listing, error) { return d.messages, nil }

// find is message i as the file has it.
func (d *drop) find(i int) *entry {
	if d.place == nil {
		return &d.shown[i]
	}
	if k, ok := d.place[d.messages[i].UID]; ok {
		return &d.shown[k]
	}
	return nil
}

// again reads what others changed in the file since known.
func (d *drop) again(ctx context.Context, known *listing) error {
	if err := d.refresh(ctx, known); err != nil {
		if errors.Is(err, maildrop.ErrInUse) {
			err = fmt.Errorf("%w: %v", maildrop.ErrTemporary, err) // the session has the maildrop, others the file
		}
		return err
	}
	d.locate()
	return nil
}

func (d *drop) locate() {
	d.place = make(map[string]int, len(d.shown))
	for k, e := range d.shown {
		d.place[e.uid] = k
	}
}

func (d *drop) Content(ctx context.Context, i int) (io.ReadCloser, error) {
	c, err := d.openContent(i)
	if err != nil {
		known := d.now
		switch {
		case errors.Is(err, errChanged): // whatever size and times say
			known = known.doubted()
		case !errors.Is(err, maildrop.ErrGone):
			return nil, beneath.Wrap("message", d.messages[i].UID, err)
		}
		if err = d.again(ctx, known); err == nil {
			c, err = d.openContent(i)
		}
	}
	if err != nil {
		return nil, beneath.Wrap("message", d.messages[i].UID, err)
	}
	return c, nil
}

// errChanged: others changed the file since it was read.
var errChanged = fmt.Errorf("%w: changed by another program", maildrop.ErrTemporary)

func (d *drop) openContent(i int) (*content, error) {
	e := d.find(i)
	if e == nil {
		return nil, maildrop.ErrGone
	}
	if e.size != d.messages[i].Size {
		return nil, fmt.Errorf("%w: of %d octets, was listed with %d", errChanged, e.size, d.messages[i].Size)
	}
	sp, err := d.store.openSpool(d.path, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	unix.Close(sp.dir)
	if sp.fd < 0 {
		return nil, errChanged
	}
	c := &content{fd: sp.fd, entry: e}
	if c.at, err = stampOf(c.fd); err == nil {
		err = verify(c.fd, e)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	from := e.offset + e.line
	for _, hidden := range e.cuts {
		c.add(from, e.offset+hidden.from)
		from = e.offset + hidden.to
	}
	c.add(from, e.offset+e.octets)
	return c, nil
}

// verify makes sure that the message of an entry still lies where it lay: its head
// is the same, and its end is followed by nothing, or by a From_ line.
func verify(fd int, e *entry) error {
	head := make([]byte, e.head)
	if _, err := file(fd).ReadAt(head, e.offset); err != nil && err != io.EOF {
		return err
	}
	if crc64.Checksum(head, polynomial) != e.sum {
		return errChanged
	}
	gap := e.end - e.offset - e.octets
	behind := make([]byte, gap+int64(len("From ")))
	n, err := file(fd).ReadAt(behind, e.offset+e.octets)
	if err != nil && err != io.EOF {
		return err
	}
	behind = behind[:n]
	switch {
	case int64(n) < gap, gap > 0 && !isEmpty(behind[:gap]), // it became shorter
		gap == 0 && n > 0, // it became longer
		int64(n) > gap && string(behind[gap:]) != "From ":
		return errChanged
	}
	return nil
}

// content reads a message as it was when it was opened. Others may rewrite the file
// meanwhile: then it does not end well, so that nobody takes what was read for the
// message.
type content struct {
	fd    int // -1 when closed
	entry *entry
	at    stamp
	spans []span
}

func (c *content) add(from, to int64) {
	if from < to {
		c.spans = append(c.spans, span{from, to})
	}
}

func (c *content) Read(p []byte) (int, error) {
	if c.fd < 0 {
		return 0, os.ErrClosed
	}
	if len(c.spans) == 0 {
		return 0, c.end()
	}
	s := &c.spans[0]
	n, err := file(c.fd).ReadAt(p[:min(int64(len(p)), s.to-s.from)], s.from)
	if err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return n, beneath.Wrap("read", "message", err)
	}
	if s.from += int64(n); s.from == s.to {
		c.spans = c.spans[1:]
	}
	return n, nil
}

func (c *content) end() error {
	now, err := stampOf(c.fd)
	if err == nil && now == c.at {
		return io.EOF
	}
	if err := verify(c.fd, c.entry); err != nil {
		return err
	}
	return io.EOF
}

func (c *content) Close() error {
	if c.fd < 0 {
		return nil
	}
	fd := c.fd
	c.fd = -1
	unix.Close(fd) // nothing was written to it
	return nil
}

// Commit implements [maildrop.Drop]. Either all marked messages go or none does.
func (d *drop) Commit(ctx context.Context, del []int) error {
	if d.lock < 0 {
		return errors.New("commit of a closed maildrop")
	}
	defer d.Close()
	if len(del) == 0 {
		return nil
	}
	if err := d.remove(context.WithoutCancel(ctx), del); err != nil {
		return &maildrop.CommitError{Left: del, Err: err}
	}
	return nil
}

func (d *drop) remove(ctx context.Context, del []int) error {
	sp, err := d.store.lock(ctx, d.path)
	if err != nil {
		return err
	}
	defer sp.close()
	if sp.fd < 0 {
		return nil // another program removed all
	}
	marked := make(map[string]bool, len(del))
	for _, i := range del {
		marked[d.messages[i].UID] = true
	}
	l, err := d.read(ctx, sp, d.now)
	if err != nil {
		return err
	}
	if !sp.vouched(l, marked) {
		// same size and times, other octets: read it all
		if l, err = d.read(ctx, sp, l.doubted()); err != nil {
			return err
		}
	}
	next, err := sp.commit(l, marked)
	if err != nil {
		return err
	}
	if next != nil {
		d.store.saveIndex(d.path, next)
	}
	return nil
}

// vouched says that the marked messages lie where the listing says.
func (sp *spool) vouched(l *listing, marked map[string]bool) bool {
	for i := range l.entries {
		if e := &l.entries[i]; marked[e.uid] && verify(sp.fd, e) != nil {
			return false
		}
	}
	return true
}

func (d *drop) Close() error {
	if d.lock < 0 {
		return nil
	}
	lock := d.lock
	d.lock = -1
	release(lock)
	return nil
}
