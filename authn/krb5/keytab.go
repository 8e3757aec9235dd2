package krb5

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jcmturner/gokrb5/v8/keytab"

	"github.com/kpopd/kpopd/authn/sitefile"
)

const (
	maxKeytab = 16 << 20 // octets
	// keepOld is how long a key stays that a reload did not find any more.
	// Tickets under it are valid for their lifetime, mostly ten hours.
	keepOld = 24 * time.Hour
)

// Keytab holds the keys of services. It is safe for concurrent use and never
// prints a key.
type Keytab struct {
	path string

	mu   sync.Mutex  // held while reloading
	from os.FileInfo // of the file as loaded; nil for a keytab in memory

	keys atomic.Pointer[keySet]
}

// keySet is the keys by name; see nameKey.
type keySet map[string][]serviceKey

type serviceKey struct {
	name  name
	kvno  int
	key   Key
	until time.Time // zero while the file has it
}

// OpenKeytab loads a keytab file of MIT's or Heimdal's making.
func OpenKeytab(path string) (*Keytab, error) {
	k := &Keytab{path: path}
	return k, k.Reload()
}

// ParseKeytab takes the octets of a keytab file.
func ParseKeytab(b []byte) (*Keytab, error) {
	set, err := parseKeytab(b)
	if err != nil {
		return nil, err
	}
	k := new(Keytab)
	k.keys.Store(&set)
	return k, nil
}

// Reload reads the file again. Keys whose principal has newer ones now stay for
// a day, as tickets for them are still about; a restart forgets them at once.
// After an error the keys are as they were.
func (k *Keytab) Reload() error {
	if k.path == "" {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	b, info, err := sitefile.ReadInfo(k.path, maxKeytab, sitefile.WorldUsable)
	if err != nil {
		return fmt.Errorf("keytab: %w", err)
	}
	defer clear(b)
	set, err := parseKeytab(b)
	if err != nil {
		return fmt.Errorf("keytab %s: %w", k.path, err)
	}
	if old := k.keys.Load(); old != nil {
		set.keep(*old, time.Now())
	}
	k.keys.Store(&set)
	k.from = info
	return nil
}

// Keep gives k the keys of old that it does not have, as a Reload of old would
// have kept them.
func (k *Keytab) Keep(old *Keytab) {
	k.mu.Lock()
	defer k.mu.Unlock()
	set := maps.Clone(*k.keys.Load())
	set.keep(*old.keys.Load(), time.Now())
	k.keys.Store(&set)
}

// Changed reports whether the file is not the one that was loaded last. A file
// that is not there has not changed: it is being replaced.
func (k *Keytab) Changed() bool {
	if k.path == "" {
		return false
	}
	info, err := os.Stat(k.path)
	if err != nil {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.from == nil || !os.SameFile(k.from, info) || !k.from.ModTime().Equal(info.ModTime()) || k.from.Size() != info.Size()
}

// Services lists the principals that there are keys for, sorted.
func (k *Keytab) Services() []string {
	var list []string
	for _, keys := range *k.keys.Load() {
		list = append(list, keys[0].name.String())
	}
	slices.Sort(list)
	return list
}

// ServiceIn is the first service of a realm, in the order of [Keytab.Services],
// that is pop/HOST or pop3/HOST, without the realm; "" when there is none.
func (k *Keytab) ServiceIn(realm string) string {
	var found []string
	for _, keys := range *k.keys.Load() {
		n := keys[0].name
		if n.realm == realm && len(n.components) == 2 && (n.components[0] == "pop" || n.components[0] == "pop3") {
			found = append(found, strings.Join(n.components, "/"))
		}
	}
	if len(found) == 0 {
		return ""
	}
	return slices.Min(found)
}

func parseKeytab(b []byte) (set keySet, err error) {
	defer caught(&err)
	if len(b) > maxKeytab {
		return nil, errors.New("too large")
	}
	kt := keytab.New()
	if err := kt.Unmarshal(b); err != nil {
		return nil, errors.New("not a keytab, or a damaged one") // gokrb5's text is about octets
	}
	set = keySet{}
	for i := range kt.Entries {
		e := &kt.Entries[i]
		if len(e.Principal.Components) == 0 || int(e.Principal.NumComponents) != len(e.Principal.Components) {
			return nil, errors.New("a damaged keytab") // gokrb5 reads on when a name is cut short
		}
		key, err := KeyFrom(e.Key.KeyType, e.Key.KeyValue)
		if err != nil {
			continue // an enctype that is never used
		}
		kvno := int(e.KVNO)
		if kvno == 0 {
			kvno = int(e.KVNO8)
		}
		n := name{e.Principal.Components, e.Principal.Realm}
		set[n.key()] = append(set[n.key()], serviceKey{name: n, kvno: kvno, key: key})
	}
	if len(set) == 0 {
		return nil, errors.New("no key of a known enctype in it")
	}
	return set, nil
}

// keep adds the keys of old that s lacks, until they have been gone for long
// enough. A principal that is gone as a whole was withdrawn: its keys go at
// once.
func (s keySet) keep(old keySet, now time.Time) {
	for n, keys := range old {
		if len(s[n]) == 0 {
			continue
		}
		for _, k := range keys {
			if k.until.IsZero() {
				k.until = now.Add(keepOld)
			}
			same := func(x serviceKey) bool { return x.kvno == k.kvno && x.key.Enctype() == k.key.Enctype() }
			if now.Before(k.until) && !slices.ContainsFunc(s[n], same) {
				s[n] = append(s[n], k)
			}
		}
	}
}

// lookup returns the keys that a ticket for n may be encrypted under, best
// first. It tries the version itself, then its last eight bits, as old keytabs
// hold no more; a ticket that names no version goes with each.
func (k *Keytab) lookup(n name, enctype int32, kvno int, now time.Time) ([]serviceKey, error) {
	set := k.keys.Load()
	if set == nil {
		return nil, refuse(CodeNoKey, unavailable, "This server has no keytab")
	}
	all := slices.DeleteFunc(slices.Clone((*set)[n.key()]), func(x serviceKey) bool {
		return !x.until.IsZero() && !now.Before(x.until)
	})
	if len(all) == 0 {
		return nil, refuse(CodeNoKey, rejected, "This server has no key for %s", n)
	}
	kvno = int(uint32(kvno)) // some send an unsigned version as a negative number
	newest := 0
	var exact, short, versions []serviceKey
	for _, x := range all {
		newest = max(newest, x.kvno)
		match := kvno == 0 || x.kvno == kvno
		if match || x.kvno == kvno&0xff {
			versions = append(versions, x)
		}
		switch {
		case x.key.Enctype() != enctype:
		case match:
			exact = append(exact, x)
		case x.kvno == kvno&0xff:
			short = append(short, x)
		}
	}
	found := append(exact, short...)
	switch {
	case len(found) > 0:
		slices.SortStableFunc(found[:len(exact)], func(a, b serviceKey) int { return b.kvno - a.kvno })
		return found, nil
	case len(versions) > 0:
		return nil, refuse(CodeNoKey, rejected, "This server has no %s key for %s", EnctypeName(enctype), n)
	case kvno < newest:
		return nil, refuse(CodeBadKeyVer, rejected, "Version %d of the key of %s is gone, %d is in use: get a new ticket (kdestroy, kinit)", kvno, n, newest)
	default:
		return nil, refuse(CodeBadKeyVer, rejected, "The ticket needs version %d of the key of %s, this server has %d: tell the postmaster that the keytab is out of date", kvno, n, newest)
	}
}
