package app

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/cmd/internal/config"
	"github.com/kpopd/kpopd/cmd/internal/listen"
	"github.com/kpopd/kpopd/maildrop"
)

// takeoverWait is how long a login waits for the session that it takes over to
// let go. One that is at its QUIT is not interrupted.
const takeoverWait = 10 * time.Second

// holders knows which session of this process has which maildrop. The lock is
// the store's; this is to say who has it, and to make him let go.
type holders struct {
	mu sync.Mutex // guards what follows
	by map[place]*holder
}

// holder is a session that has a maildrop.
type holder struct {
	session string
	user    string // who proved himself, and as whom
	authn   string
	remote  netip.AddrPort
	since   time.Time
	conn    *listen.Conn
	gone    chan struct{} // closed when the maildrop is free
}

// place is what a lock is on.
type place struct{ user, path, folder string }

// where is the maildrop that r names: one with a path is the same whoever asks, and
// it is the same however little of it is seen.
func where(r maildrop.Ref) place {
	parts, _ := maildrop.FolderParts(r.Folder)
	p := place{r.User, r.Path, strings.Join(parts, "/")}
	if p.path != "" {
		p.user = ""
	}
	return p
}

func (h *holders) of(r maildrop.Ref) *holder {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.by[where(r)]
}

// hold notes that x has the maildrop until the drop that it returns is closed.
func (h *holders) hold(r maildrop.Ref, x *holder, d maildrop.Drop) maildrop.Drop {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.by == nil {
		h.by = map[place]*holder{}
	}
	x.gone = make(chan struct{})
	h.by[where(r)] = x
	return &heldDrop{Drop: d, release: sync.OnceFunc(func() { h.release(r, x) })}
}

func (h *holders) release(r maildrop.Ref, x *holder) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.by[where(r)] == x { // another may have it by now
		delete(h.by, where(r))
	}
	close(x.gone)
}

// heldDrop tells when its lock is free.
type heldDrop struct {
	maildrop.Drop
	release func()
}

// Retrieved implements [maildrop.Retriever].
func (d *heldDrop) Retrieved(i int) {
	if r, ok := d.Drop.(maildrop.Retriever); ok {
		r.Retrieved(i)
	}
}

// Commit frees the lock, whatever its error.
func (d *heldDrop) Commit(ctx context.Context, del []int) error {
	defer d.release()
	return d.Drop.Commit(ctx, del)
}

// Close frees the lock.
func (d *heldDrop) Close() error {
	defer d.release()
	return d.Drop.Close()
}

// open opens a maildrop, and takes it over from a session that has it where the
// policy says so. Who has it is in the error.
func (b *backend) open(ctx context.Context, r maildrop.Ref, me *holder) (maildrop.Drop, error) {
	drop, err := b.store.Open(ctx, r)
	var other *holder
	if errors.Is(err, maildrop.ErrInUse) {
		other = b.holders.of(r)
	}
	if other != nil && b.mayTake(me, other) {
		b.log.Info("session taken over", "session", me.session, "user", bounded(me.user, maxName), "remote", me.remote.String(),
			"from_session", other.session, "from_remote", other.remote.String(), "since", other.since.UTC().Format(time.RFC3339))
		other.end(ctx)
		drop, err = b.store.Open(ctx, r)
		if errors.Is(err, maildrop.ErrInUse) {
			other = b.holders.of(r)
		}
	}
	if err == nil {
		return b.holders.hold(r, me, drop), nil
	}
	if other != nil && errors.Is(err, maildrop.ErrInUse) {
		err = other.inUse(me)
	}
	return nil, err
}

// mayTake reports whether me gets what other has: never another user's, and
// nobody's who acts for the user.
func (b *backend) mayTake(me, other *holder) bool {
	if !me.same(other) || other.conn == nil {
		return false
	}
	switch b.takeover {
	case config.TakeoverSameAddress:
		return me.remote.Addr() == other.remote.Addr() || other.conn.Unanswered()
	case config.TakeoverDeadPeer:
		return other.conn.Unanswered()
	}
	return false
}

// same reports whether both are one person, as far as their proofs say.
func (x *holder) same(other *holder) bool { return x.user == other.user && x.authn == other.authn }

// end hangs up, as if the client had, and waits until the maildrop is free.
func (x *holder) end(ctx context.Context) {
	x.conn.Close()
	late := time.NewTimer(takeoverWait)
	defer late.Stop()
	select {
	case <-x.gone:
	case <-late.C:
	case <-ctx.Done():
	}
}

// inUse is the error for me. From where the maildrop is used is told to the same
// person only: others who may read it need not know where he is.
func (x *holder) inUse(me *holder) error {
	return &maildrop.InUseError{Session: x.session, Since: x.since, Remote: x.remote.String(), Own: me.same(x)}
}

// newHolder is the session of a login.
func newHolder(ctx context.Context, id *authn.Identity) *holder {
	x := &holder{user: id.User, authn: id.Authn, since: time.Now()}
	if a, ok := ctx.Value(arrivalKey{}).(*arrival); ok {
		x.conn, x.session, x.remote = a.conn, a.session, a.remote
	}
	return x
}
