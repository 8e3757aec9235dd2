package pop3_test

import (
	"context"
	"io"
	"sync"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/maildrop"
)

// oddDrop is a maildrop that does what it is told.
type oddDrop struct {
	messages maildrop.Messages
	listing  error
	content  func(i int) (io.ReadCloser, error)
	commit   error
	closing  error

	mu     sync.Mutex
	calls  []string // Commit and Close, in order
	del    []int    // of Commit
	closed bool
}

func (d *oddDrop) Totals() (int, int64) { return d.messages.Totals() }

func (d *oddDrop) Listing(context.Context) (maildrop.Listing, error) { return d.messages, d.listing }

func (d *oddDrop) Content(_ context.Context, i int) (io.ReadCloser, error) { return d.content(i) }

func (d *oddDrop) Commit(_ context.Context, del []int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls, d.del = append(d.calls, "commit"), del
	return d.commit
}

func (d *oddDrop) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.closed {
		d.calls, d.closed = append(d.calls, "close"), true
	}
	return d.closing
}

// has makes d the maildrop of everybody.
func (w *world) has(d *oddDrop) {
	w.open = func(context.Context, *authn.Identity) (maildrop.Drop, error) { return d, nil }
}
