// Package throttle slows down and refuses those who guess passwords, before
// anything judges the guess. A [Throttle] is the [authn.Throttle] of a policy.
//
// It counts failures by address, by network and by user. Each count halves in
// Options.HalfLife. A count that is above what is free spaces the attempts that
// follow, and the space doubles with further failures up to Options.MaxDelay.
// An attempt that would wait longer than Options.MaxWait is refused as
// Throttled, with nothing said about the proof, and counts for nothing.
//
// # Design notes
//
// An attempt counts from its admission, and is taken back when it turns out to
// be no failure: a thousand guesses sent at once are spaced like a thousand
// sent in a row.
//
// A success takes back nothing but itself. Whoever has an account of his own
// cannot log into it to make his failures against others forgotten.
//
// Nobody elsewhere can lock a user out of where he usually is. An address from
// which a user has succeeded is familiar for him, for the time Familiar: what he
// does there meets a count of this user at this address, and none that is driven
// up by guesses at him from elsewhere; the counts of address and network leave him
// FamiliarFactor times what they leave strangers, so that a laboratory behind one
// address does not suffer for one bad neighbour. Where he is not known he queues,
// while someone guesses at him, with everyone else for an attempt each MaxDelay;
// the count has decayed soon after the guessing ends.
//
// Known and unknown names are treated alike, so that waiting tells nothing.
// Tickets are no guesses and never wait.
//
// Keys are keyed hashes of 64 bits: no name that a client made up is kept, and
// an entry has one size. Every table has a bound; the entry used longest ago
// makes room, and those that have decayed go first. Only a success makes a
// place familiar, and a user has maxPlaces of them, so that no stranger can
// push one out.
//
// All is in memory and begins empty with the process.
package throttle

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/kpopd/kpopd/authn"
)

const (
	// Familiar is how long an address stays familiar after a success.
	Familiar = 30 * 24 * time.Hour
	// FamiliarFactor is by how much more an address or a network may fail
	// before users are slowed down who are familiar there.
	FamiliarFactor = 10

	maxPlaces  = 8       // familiar addresses of a user
	maxWaiting = 1 << 10 // attempts that wait at the same time
	step       = "throttle"
)

// Options are what is free and what follows. Zero values stand for the
// defaults of the fields.
type Options struct {
	Address int // failures of one address (IPv4 /32, IPv6 /64) before the next attempt waits; 200 when zero, negative for no such count
	Network int // failures of one network (IPv4 /24, IPv6 /48); 1000 when zero, negative for no such count
	User    int // failures for one user, and for one user at one familiar address; 10 when zero, negative for no such count

	HalfLife time.Duration // in which a count halves; 10 min when zero
	MaxDelay time.Duration // the longest space between attempts; 30 s when zero
	MaxWait  time.Duration // the longest that an attempt is held; 10 s when zero

	Rate  float64 // attempts of one address a second, good ones too; 50 when zero, negative for any number
	Burst int     // attempts of one address at once; 500 when zero

	Exempt []netip.Prefix // networks whose addresses are not counted, only their users: web mail, proxies
	Size   int            // entries of each of the five tables, of 200 to 300 octets; 65,536 when zero
}

func (o Options) withDefaults() Options {
	o.Address = cmp.Or(o.Address, 200)
	o.Network = cmp.Or(o.Network, 1000)
	o.User = cmp.Or(o.User, 10)
	o.HalfLife = cmp.Or(o.HalfLife, 10*time.Minute)
	o.MaxDelay = cmp.Or(o.MaxDelay, 30*time.Second)
	o.MaxWait = cmp.Or(o.MaxWait, 10*time.Second)
	o.Rate = cmp.Or(o.Rate, 50)
	o.Burst = cmp.Or(o.Burst, 500)
	o.Size = cmp.Or(o.Size, 1<<16)
	return o
}

// Throttle counts for all policies that share it.
type Throttle struct {
	seed   maphash.Seed
	closed chan struct{}
	close  sync.Once

	mu        sync.Mutex // guards what follows
	o         Options
	addresses table[count]
	networks  table[count]
	users     table[count] // guesses of strangers
	pairs     table[count] // of a user at a familiar address
	known     table[places]
	waiting   int
}

var _ authn.Throttle = (*Throttle)(nil)

// New returns a throttle that has seen nobody.
func New(o Options) *Throttle {
	t := &Throttle{seed: maphash.MakeSeed(), closed: make(chan struct{})}
	t.Set(o)
	return t
}

// Set changes the options; what was counted stays.
func (t *Throttle) Set(o Options) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.o = o.withDefaults()
}

// Close refuses those who wait, and who would have to wait later: a server that
// stops does not wait for them.
func (t *Throttle) Close() { t.close.Do(func() { close(t.closed) }) }

// limit is what one count of an attempt is held against.
type limit struct {
	*count
	what string        // "address", "network", "user"
	free int           // failures before attempts are spaced
	base time.Duration // the first space
	grow float64       // failures that double it
}

// space is how long the next attempt has to come after this one.
func (l *limit) space(now time.Time, o *Options) time.Duration {
	over := l.level(now, o.HalfLife) - float64(l.free)
	if over < 0 {
		return 0
	}
	d := float64(l.base) * math.Exp2(math.Floor(over/l.grow))
	return time.Duration(min(d, float64(o.MaxDelay)))
}

// attempt is one that was admitted.
type attempt struct {
	*Throttle
	limits      []limit
	room        [3]limit // for limits, so that they need no memory of their own
	user, place uint64
}

// Admit implements [authn.Throttle].
func (t *Throttle) Admit(ctx context.Context, tr *authn.Transport, login string) (func(error), error) {
	a, wait, err := t.enter(tr.Remote.Addr(), login)
	if err != nil {
		return nil, err
	}
	if wait > 0 {
		if err := t.hold(ctx, wait); err != nil {
			a.leave(false)
			return nil, err
		}
	}
	return a.done, nil
}

// enter counts an attempt and says how long it has to wait.
func (t *Throttle) enter(from netip.Addr, login string) (*attempt, time.Duration, error) {
	address, network := prefixes(from)
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sweep(now)
	a := &attempt{Throttle: t, user: hash(t, login), place: hash(t, address)}
	if !t.admitsMore(a, from, now) {
		return nil, 0, throttled(errors.New("too many attempts a second from this address"))
	}
	a.limits = t.limits(a, hash(t, network), t.exempt(from), now)
	wait, why := time.Duration(0), ""
	for i := range a.limits {
		l := &a.limits[i]
		// what strangers are spaced by does not hold up who is below his own limit
		if w := l.next.Sub(now); w > wait && l.space(now, &t.o) > 0 {
			wait, why = w, l.what
		}
	}
	switch {
	case wait > t.o.MaxWait:
		return nil, 0, throttled(fmt.Errorf("failures of the %s: next attempt in %v", why, wait.Round(time.Second)))
	case wait > 0 && t.waiting >= maxWaiting:
		return nil, 0, throttled(errors.New("too many attempts are waiting"))
	case wait > 0:
		t.waiting++ // until hold has ended
	}
	for i := range a.limits {
		l := &a.limits[i]
		l.pending++
		if d := l.space(now, &t.o); d > 0 {
			l.next = now.Add(wait + d)
		}
	}
	return a, wait, nil
}

// hash is the key of a name or a network.
func hash[T comparable](t *Throttle, of T) uint64 { return maphash.Comparable(t.seed, of) }

// admitsMore takes one attempt from what the address has for the second.
func (t *Throttle) admitsMore(a *attempt, from netip.Addr, now time.Time) bool {
	if t.o.Rate < 0 || t.exempt(from) {
		return true
	}
	c := t.addresses.get(a.place, now, t.o.Size)
	if c.rate == nil {
		c.rate = rate.NewLimiter(rate.Limit(t.o.Rate), t.o.Burst)
	}
	if c.rate.Limit() != rate.Limit(t.o.Rate) || c.rate.Burst() != t.o.Burst {
		c.rate.SetLimitAt(now, rate.Limit(t.o.Rate))
		c.rate.SetBurstAt(now, t.o.Burst)
	}
	return c.rate.AllowN(now, 1)
}

// limits are the counts that an attempt is held against.
func (t *Throttle) limits(a *attempt, network uint64, exempt bool, now time.Time) []limit {
	o := &t.o
	factor, users, key := 1, &t.users, a.user
	if p := t.known.find(a.user); p != nil && p.has(a.place, now) {
		factor, users, key = FamiliarFactor, &t.pairs, a.user^a.place
	}
	limits := a.room[:0]
	add := func(what string, in *table[count], key uint64, free, factor int, base time.Duration) {
		if free < 0 {
			return
		}
		limits = append(limits, limit{in.get(key, now, o.Size), what, free * factor, base, max(1, float64(free)/10)})
	}
	if !exempt {
		add("address", &t.addresses, a.place, o.Address, factor, 100*time.Millisecond)
		add("network", &t.networks, network, o.Network, factor, 100*time.Millisecond)
	}
	add("user", users, key, o.User, 1, time.Second)
	return limits
}

// sweep takes what has decayed out of the tables, a little at each attempt.
func (t *Throttle) sweep(now time.Time) {
	asNew := func(c *count, used time.Time) bool {
		return c.pending == 0 && now.Sub(used) > t.o.HalfLife && now.After(c.next) && c.decayed(now, t.o.HalfLife) < 0.5
	}
	for _, x := range []*table[count]{&t.addresses, &t.networks, &t.users, &t.pairs} {
		x.sweep(asNew)
	}
	t.known.sweep(func(_ *places, used time.Time) bool { return now.Sub(used) > Familiar })
}

func (t *Throttle) exempt(from netip.Addr) bool {
	return slices.ContainsFunc(t.o.Exempt, func(p netip.Prefix) bool { return p.Contains(from.Unmap()) })
}

// hold waits, in no one's way.
func (t *Throttle) hold(ctx context.Context, wait time.Duration) error {
	defer func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.waiting--
	}()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-t.closed:
		return throttled(errors.New("the server stops"))
	case <-ctx.Done():
		return throttled(fmt.Errorf("wait of %v: %w", wait.Round(time.Second), context.Cause(ctx)))
	}
}

// done takes the outcome.
func (a *attempt) done(err error) {
	if err == nil {
		a.leave(false)
		a.settle()
		return
	}
	switch authn.KindOf(err) {
	case authn.UnknownUser, authn.Rejected, authn.Denied, authn.Expired:
		a.leave(true)
	default: // an outage is nobody's guess
		a.leave(false)
	}
}

// leave ends the attempt in the counts.
func (a *attempt) leave(failed bool) {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range a.limits {
		c := a.limits[i].count
		c.pending--
		if failed {
			c.score, c.at = c.decayed(now, a.o.HalfLife)+1, now
		}
	}
}

// settle makes the address familiar for the user.
func (a *attempt) settle() {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.known.get(a.user, now, a.o.Size).add(a.place, now)
}

func throttled(err error) error {
	return &authn.Error{Kind: authn.Throttled, Step: step, Err: err}
}

// prefixes are what counts as one address and as one network. A customer has a
// whole IPv6 /64, a site a /48. A listener that is no IP socket has one of each.
func prefixes(a netip.Addr) (address, network netip.Prefix) {
	a = a.Unmap().WithZone("")
	bits, wide := 32, 24
	if a.Is6() {
		bits, wide = 64, 48
	}
	address, _ = a.Prefix(bits) // invalid for an invalid address only
	network, _ = a.Prefix(wide)
	return address, network
}
