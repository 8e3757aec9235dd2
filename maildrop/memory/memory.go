// Package memory keeps maildrops in memory: for tests, demonstrations, and as
// the plainest example of a store.
package memory

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/kpopd/kpopd/maildrop"
)

// Store is a set of maildrops. The zero value is empty and ready for use.
// Every user has a maildrop; it is empty until something is delivered.
type Store struct {
	mu    sync.Mutex
	boxes map[string]*box
	last  uint64 // unique-id given last; counts across maildrops
}

var _ maildrop.Store = (*Store)(nil)

type box struct {
	locked   bool
	messages []message
}

type message struct {
	maildrop.Message
	text    string
	arrived time.Time
}

// box needs s.mu.
func (s *Store) box(name string) *box {
	b := s.boxes[name]
	if b == nil {
		if s.boxes == nil {
			s.boxes = make(map[string]*box)
		}
		b = new(box)
		s.boxes[name] = b
	}
	return b
}

// Deliver appends a message, its octets as a store would hold them, and
// returns its unique-id. It takes no lock: sessions do not see the message
// before they open the maildrop again.
func (s *Store) Deliver(user, text string) (uid string) {
	var m maildrop.Meter
	m.Write([]byte(text))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	uid = strconv.FormatUint(s.last, 10)
	b := s.box(user)
	b.messages = append(b.messages, message{maildrop.Message{UID: uid, Size: m.Size(), WireForm: m.WireForm()}, text, time.Now()})
	return uid
}

// Remove removes a message as another program would, without the lock. It
// reports whether the message was there.
func (s *Store) Remove(user, uid string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.box(user).remove(uid)
}

// Open implements [maildrop.Store]. A maildrop is named by r.Path, or by
// r.User when that is empty. It has no folders.
func (s *Store) Open(ctx context.Context, r maildrop.Ref) (maildrop.Drop, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, fmt.Errorf("open maildrop of %q: %w", r.User, err)
	}
	name := r.Path
	if name == "" {
		name = r.User
	}
	d, err := s.open(name, r)
	if err != nil {
		return nil, fmt.Errorf("open maildrop of %q: %w", r.User, err)
	}
	return maildrop.Narrow(ctx, d, r)
}

func (s *Store) open(name string, r maildrop.Ref) (*drop, error) {
	if parts, ok := maildrop.FolderParts(r.Folder); !ok || len(parts) > 0 {
		return nil, maildrop.ErrNoFolder
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.box(name)
	if b.locked {
		return nil, maildrop.ErrInUse
	}
	b.locked = true
	d := &drop{store: s, box: b, listing: listing{make(maildrop.Messages, len(b.messages)), make([]time.Time, len(b.messages))}}
	for i, m := range b.messages {
		d.Messages[i], d.arrived[i] = m.Message, m.arrived
	}
	return d, nil
}

// listing is what a session shows.
type listing struct {
	maildrop.Messages
	arrived []time.Time
}

var _ maildrop.Dated = listing{}

// Arrived implements [maildrop.Dated].
func (l listing) Arrived(i int) time.Time { return l.arrived[i] }

func (b *box) find(uid string) int {
	return slices.IndexFunc(b.messages, func(m message) bool { return m.UID == uid })
}

func (b *box) remove(uid string) bool {
	i := b.find(uid)
	if i < 0 {
		return false
	}
	b.messages = slices.Delete(b.messages, i, i+1)
	return true
}

type drop struct {
	store *Store
	box   *box
	listing
	closed bool
}

func (d *drop) Listing(context.Context) (maildrop.Listing, error) { return d.listing, nil }

func (d *drop) Content(_ context.Context, i int) (io.ReadCloser, error) {
	d.store.mu.Lock()
	defer d.store.mu.Unlock()
	j := d.box.find(d.Messages[i].UID)
	if j < 0 {
		return nil, maildrop.ErrGone
	}
	return io.NopCloser(strings.NewReader(d.box.messages[j].text)), nil
}

func (d *drop) Commit(_ context.Context, del []int) error {
	d.store.mu.Lock()
	defer d.store.mu.Unlock()
	if d.closed {
		return errors.New("commit of a closed maildrop")
	}
	for _, i := range del {
		d.box.remove(d.Messages[i].UID)
	}
	d.unlock()
	return nil
}

func (d *drop) Close() error {
	d.store.mu.Lock()
	defer d.store.mu.Unlock()
	if !d.closed {
		d.unlock()
	}
	return nil
}

// unlock needs d.store.mu.
func (d *drop) unlock() {
	d.closed = true
	d.box.locked = false
}
