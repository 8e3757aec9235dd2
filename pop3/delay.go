package pop3

import (
	"container/list"
	"context"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/kpopd/kpopd/authn"
)

// LoginDelay makes users wait between logins, and announces that (RFC 2449
// section 6.5). All delays are in whole seconds; a fraction counts as one.
type LoginDelay struct {
	// Longest is the delay of every user when Of is nil, and otherwise the
	// longest that any user can have.
	Longest time.Duration
	// Of is the delay of a user who has proved himself, zero for none. CAPA
	// then announces Longest and USER before login, the user's own after it.
	Of func(*authn.Identity) time.Duration
	// Logins is shared by all servers at which a login counts.
	Logins *Logins
}

// of is what holds for a user, id, and what is announced before login when that
// is nil.
func (d *LoginDelay) of(id *authn.Identity) time.Duration {
	delay := d.Longest
	if d.Of != nil && id != nil {
		delay = max(0, min(d.Of(id), d.Longest))
	}
	return time.Duration(seconds(delay)) * time.Second
}

// seconds rounds up.
func seconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

// capa writes the capability: for id, or before login when that is nil.
func (d *LoginDelay) capa(id *authn.Identity, w *writer) {
	w.str("LOGIN-DELAY ")
	w.num(uint64(seconds(d.of(id))))
	if d.Of != nil && id == nil {
		w.str(" USER") // RFC 2449 section 6.5: the largest that any user could have
	}
	w.str("\r\n")
}

// tooSoon refuses a login that was right.
type tooSoon struct{ wait time.Duration }

func (e *tooSoon) Error() string {
	return "login delay: " + strconv.FormatInt(seconds(e.wait), 10) + " s are left"
}

// maxLogins bounds Logins: at some 200 octets each, 25 MiB.
const maxLogins = 1 << 17

// Logins knows who logged in when, for LOGIN-DELAY. It is in memory, so that a
// restart forgets it and everyone may log in at once. It holds users for as long
// as the longest delay, and the last 131,072 of them at most: whoever is pushed
// out may come back early. Its zero value is ready.
type Logins struct {
	mu     sync.Mutex               // guards what follows
	byUser map[string]*list.Element // of *entered
	order  list.List                // of logins, oldest first
}

type entered struct {
	user string
	at   time.Time
}

// enter records that user logs in now, unless it is too soon for that. It
// returns what to call when he was told +OK, from where the delay counts, or was
// not told so, which leaves everything as it was before.
func (l *Logins) enter(user string, delay, longest time.Duration) (settle func(ok bool), err error) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forget(now.Add(-longest))
	var before time.Time
	if e := l.byUser[user]; e != nil {
		before = e.Value.(*entered).at
		if wait := delay - now.Sub(before); wait > 0 {
			return nil, &tooSoon{wait}
		}
	}
	l.set(user, now)
	return func(ok bool) {
		l.mu.Lock()
		defer l.mu.Unlock()
		if ok {
			before = time.Now()
		}
		l.set(user, before)
	}, nil
}

// set needs l.mu. The zero time is no login.
func (l *Logins) set(user string, at time.Time) {
	if e := l.byUser[user]; e != nil {
		l.remove(e)
	}
	if at.IsZero() {
		return
	}
	if len(l.byUser) >= maxLogins {
		l.remove(l.order.Front())
	}
	if l.byUser == nil {
		l.byUser = make(map[string]*list.Element)
	}
	l.byUser[user] = l.order.PushBack(&entered{user, at})
}

// forget needs l.mu.
func (l *Logins) forget(before time.Time) {
	for e := l.order.Front(); e != nil && !e.Value.(*entered).at.After(before); e = l.order.Front() {
		l.remove(e)
	}
}

func (l *Logins) remove(e *list.Element) {
	delete(l.byUser, l.order.Remove(e).(*entered).user)
}

// mayEnter keeps a user out who comes too soon, after his proof and before his
// maildrop is touched. settle has to be told whether +OK followed.
func (s *session) mayEnter(ctx context.Context, id *authn.Identity) (settle func(ok bool), err error) {
	d := s.srv.LoginDelay
	if d == nil {
		return func(bool) {}, nil
	}
	delay := d.of(id)
	if delay == 0 {
		return func(bool) {}, nil
	}
	settle, err = d.Logins.enter(id.User, delay, d.of(nil))
	if err != nil {
		s.log.InfoContext(ctx, "login too soon", s.attrs(slog.String("user", printable(id.User, maxLoggedName)), errAttr(err))...)
	}
	return settle, err
}
