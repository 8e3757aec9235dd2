// Package cache remembers for a moment what a verifier said of a password, for
// clients that ask for mail every minute and directories that are far away.
//
// # Design notes
//
// An entry answers for exactly one question: the key is an HMAC over everything
// that a verifier can see of it, each part behind its length, so that no two
// questions run into one (CVE-2025-30189 was such a key). It is made with a
// random key that lives as long as the cache, so that memory holds nothing that
// a password could be tried against elsewhere.
//
// A lookup need not take the same time for each key: who sends passwords cannot
// choose octets of an HMAC without its key, so the time tells nothing of how
// near a guess is.
//
// Yes and no are remembered. Denied and Expired are not, as somebody may be about
// to mend them; outages are not, as they are no answer. Secrets for challenges,
// mappings of principals and what is told of users pass by: the first would lie
// about in memory, the others prove nothing.
//
// golang-lru's own expirable cache is not used: its goroutine never ends, and a
// reload would leave one behind each time.
package cache

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/scram"
)

// Max is the longest that anything is remembered: as long a user who was
// removed, or a password that was changed, is still good.
const Max = time.Minute

// DefaultEntries are a few megabytes.
const DefaultEntries = 10_000

// Options say what is remembered.
type Options struct {
	Accepted time.Duration // how long a yes is; not at all when zero, [Max] at most
	Refused  time.Duration // how long a no is; not at all when zero, [Max] at most
	Entries  int           // at once; DefaultEntries when zero
}

// Cache is what is remembered of one verifier.
type Cache struct {
	v authn.PasswordVerifier
	o Options

	key []byte

	mu      sync.Mutex
	epoch   int // counts how often it was emptied
	entries *simplelru.LRU[tag, entry]
}

type tag [sha256.Size]byte

type entry struct {
	id    *authn.Identity // nil when refused
	err   *authn.Error
	until time.Time
}

// New makes a cache in front of v.
func New(v authn.PasswordVerifier, o Options) (*Cache, error) {
	for _, d := range []time.Duration{o.Accepted, o.Refused} {
		if d < 0 || d > Max {
			return nil, fmt.Errorf("remember an answer for %v: from 0s to %v is possible", d, Max)
		}
	}
	entries, err := simplelru.NewLRU[tag, entry](cmp.Or(o.Entries, DefaultEntries), nil)
	if err != nil {
		return nil, err
	}
	c := &Cache{v: v, o: o, entries: entries, key: make([]byte, sha256.Size)}
	rand.Read(c.key) // never fails
	return c, nil
}

// Verifier is the verifier behind the cache, able to judge what it can judge
// itself.
func (c *Cache) Verifier() authn.Verifier {
	s, hasSecrets := c.v.(authn.SecretSource)
	p, mapsPrincipals := c.v.(authn.PrincipalMapper)
	u, findsUsers := c.v.(authn.UserFinder)
	switch {
	case hasSecrets && mapsPrincipals && findsUsers:
		return struct {
			*Cache
			secrets
			principals
			users
		}{c, secrets{s}, principals{p}, users{u}}
	case hasSecrets && mapsPrincipals:
		return struct {
			*Cache
			secrets
			principals
		}{c, secrets{s}, principals{p}}
	case hasSecrets && findsUsers:
		return struct {
			*Cache
			secrets
			users
		}{c, secrets{s}, users{u}}
	case mapsPrincipals && findsUsers:
		return struct {
			*Cache
			principals
			users
		}{c, principals{p}, users{u}}
	case hasSecrets:
		return struct {
			*Cache
			secrets
		}{c, secrets{s}}
	case mapsPrincipals:
		return struct {
			*Cache
			principals
		}{c, principals{p}}
	case findsUsers:
		return struct {
			*Cache
			users
		}{c, users{u}}
	}
	return c
}

// secrets, principals and users pass on what is not remembered.
type (
	secrets    struct{ v authn.SecretSource }
	principals struct{ v authn.PrincipalMapper }
	users      struct{ v authn.UserFinder }
)

func (s secrets) Secret(ctx context.Context, login, scheme string) (authn.Password, *authn.Identity, error) {
	return s.v.Secret(ctx, login, scheme)
}

// KeyShape implements [scram.Surveyor].
func (s secrets) KeyShape(scheme string) (scram.Shape, bool) {
	v, ok := s.v.(scram.Surveyor)
	if !ok {
		return scram.Shape{}, false
	}
	return v.KeyShape(scheme)
}

func (p principals) MapPrincipal(ctx context.Context, peer *authn.Principal, authzid string) (*authn.Identity, error) {
	return p.v.MapPrincipal(ctx, peer, authzid)
}

func (u users) FindUser(ctx context.Context, login string) (*authn.Identity, error) {
	return u.v.FindUser(ctx, login)
}

var _ authn.PasswordVerifier = (*Cache)(nil)

// Name implements [authn.Verifier].
func (c *Cache) Name() string { return c.v.Name() }

// Empty forgets everything, also what is being asked now.
func (c *Cache) Empty() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch++
	c.entries.Purge()
}

// VerifyPassword implements [authn.PasswordVerifier].
func (c *Cache) VerifyPassword(ctx context.Context, r *authn.PasswordRequest) (*authn.Identity, error) {
	t := c.tag(r)
	e, epoch, ok := c.recall(t)
	if ok && e.id != nil {
		return clone(e.id), nil
	}
	if ok {
		return nil, &authn.Error{Kind: e.err.Kind, Step: e.err.Step, Text: e.err.Text, Err: &remembered{e.err.Err}}
	}
	id, err := c.v.VerifyPassword(ctx, r)
	c.remember(t, epoch, id, err)
	return id, err
}

// remembered is why a moment ago.
type remembered struct{ cause error }

func (r *remembered) Error() string {
	if r.cause == nil {
		return "as a moment ago"
	}
	return "as a moment ago: " + r.cause.Error()
}

func (r *remembered) Unwrap() error { return r.cause }

// recall returns an entry that is still good, and the epoch.
func (c *Cache) recall(t tag) (e entry, epoch int, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok = c.entries.Get(t)
	if ok && !time.Now().Before(e.until) {
		c.entries.Remove(t)
		ok = false
	}
	return e, c.epoch, ok
}

// remember keeps an answer that may be kept, unless the cache was emptied since
// the question.
func (c *Cache) remember(t tag, epoch int, id *authn.Identity, err error) {
	e := entry{}
	now := time.Now()
	switch {
	case err == nil && id != nil && id.User != "":
		e.id, e.until = clone(id), now.Add(c.o.Accepted)
		if !id.Expires.IsZero() && id.Expires.Before(e.until) {
			e.until = id.Expires
		}
	case errors.As(err, &e.err) && (e.err.Kind == authn.Rejected || e.err.Kind == authn.UnknownUser):
		e.until = now.Add(c.o.Refused)
	}
	if !now.Before(e.until) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.epoch == epoch {
		c.entries.Add(t, e)
	}
}

// tag is the HMAC of a question: who claims to be whom (a realm is the part of
// the login behind its at-sign), how, through which listener, from where, over
// what, and the proof.
func (c *Cache) tag(r *authn.PasswordRequest) (t tag) {
	b := make([]byte, 0, len(r.Password)+2*authn.MaxLogin+256) // room for all of it: growing would leave the password behind
	defer func() { clear(b) }()
	b = part(b, r.Password)
	b = part(b, r.Login)
	b = part(b, r.Mechanism)
	if x := r.Transport; x != nil {
		address := x.Remote.Addr().As16()
		b = part(b, x.Listener)
		b = part(b, address[:])
		b = part(b, x.Remote.Addr().Zone())
		if x.TLS != nil {
			b = part(b, "TLS")
		}
	}
	h := hmac.New(sha256.New, c.key)
	h.Write(b)
	h.Sum(t[:0])
	return t
}

// part appends p behind its length.
func part[T string | []byte | authn.Password](b []byte, p T) []byte {
	return append(binary.BigEndian.AppendUint64(b, uint64(len(p))), p...)
}

// clone is a copy that shares nothing with id.
func clone(id *authn.Identity) *authn.Identity {
	c := *id
	c.Groups, c.Mechanisms, c.Attrs = slices.Clone(id.Groups), slices.Clone(id.Mechanisms), maps.Clone(id.Attrs)
	return &c
}
