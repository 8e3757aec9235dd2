package file

import (
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/sitefile"
)

type user struct {
	hash   matcher // nil: no password opens it
	class  string  // of hash: its kind and what its cost depends on
	locked bool
	until  time.Time // when the account runs out; zero for never
	mechs  []string  // that he may use, of those that this verifier judges; all when empty
	groups []string
	attrs  map[string]string
}

type users struct {
	byLogin map[string]user
	kinds   []kind   // of the hashes of all users, for those who have none
	renewed sync.Map // login to user: who got a better hash after the file was read
}

// user is what is known of a login now; renewals says whether there may be any.
func (us *users) user(login string, renewals bool) (user, bool) {
	if renewals {
		if u, ok := us.renewed.Load(login); ok {
			return u.(user), true
		}
	}
	u, ok := us.byLogin[login]
	return u, ok
}

// kind is hashes that cost the same.
type kind struct {
	class string
	hash  matcher // one of them
	users int
}

// dummy is the hash that is computed for a login without one, and whose answer
// nobody looks at. Of several kinds each is drawn as often as users have it, and a
// login keeps to its kind: one that cost now this and now that would be nobody's.
// When shares change, as when users get better hashes, no more logins change theirs
// than have to, and only to kinds that grew. It is nil when nobody has a hash.
func (us *users) dummy(seed maphash.Seed, login string) matcher {
	var drawn matcher
	least := math.Inf(1)
	for _, k := range us.kinds {
		// rendezvous hashing with weights: an exponential variate for each kind
		x := (float64(maphash.Comparable(seed, [2]string{login, k.class})>>11) + 0.5) / (1 << 53)
		if v := -math.Log(x) / float64(k.users); v < least {
			drawn, least = k.hash, v
		}
	}
	return drawn
}

// count takes a hash into the shares.
func (us *users) count(class string, hash matcher) {
	i := slices.IndexFunc(us.kinds, func(k kind) bool { return k.class == class })
	if i < 0 {
		i = len(us.kinds)
		us.kinds = append(us.kinds, kind{class: class, hash: hash})
	}
	us.kinds[i].users++
}

func loadUsers(path string) (*users, error) {
	b, err := sitefile.Read(path, maxFile, sitefile.OthersWritable)
	if err != nil {
		return nil, err
	}
	return parseUsers(path, b)
}

func parseUsers(path string, b []byte) (*users, error) {
	us := &users{byLogin: make(map[string]user)}
	bad := &problems{path: path}
	seen := make(map[string]int)
	interned := make(map[string]string) // thousands of users have hashes of one class
	for n, line := range lines(b) {
		if len(line) > maxLine {
			bad.add(n, "line longer than %d octets", maxLine)
			continue
		}
		name, rest, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			bad.add(n, "no colon: a line is login:hash")
			continue
		}
		login, err := checkLogin(name)
		if err != nil {
			bad.add(n, "%v", err)
			continue
		}
		if first := seen[login]; first != 0 {
			bad.add(n, "%s is on line %d already: remove one of them", login, first)
			continue
		}
		seen[login] = n
		field, extra, _ := bytes.Cut(rest, []byte(":"))
		u, class, err := parseUser(string(field), string(extra))
		if err != nil {
			bad.add(n, "%s: %v", login, err)
			continue
		}
		if first, known := interned[class]; known {
			u.class = first
		} else {
			u.class, interned[class] = class, class
		}
		us.byLogin[login] = u
		if u.hash != nil {
			us.count(u.class, u.hash)
		}
	}
	if err := bad.err(); err != nil {
		return nil, err
	}
	return us, nil
}

// parseUser takes the hash and the fields after it.
func parseUser(field, extra string) (u user, class string, err error) {
	if u.hash, class, u.locked, err = parseField(field); err != nil {
		return user{}, "", err
	}
	fields := strings.Split(extra, ":")
	if len(fields) >= 5 {
		// a line of passwd: users may write this field themselves, with chfn
		fields[2] = ""
	}
	u.until = shadowExpiry(fields)
	for _, f := range strings.Fields(strings.Join(fields, " ")) {
		key, value, _ := strings.Cut(f, "=")
		switch key {
		case "nologin", "disabled":
			u.locked = true
		case "expires":
			if u.until, err = time.Parse(time.DateOnly, value); err != nil {
				return user{}, "", errExpires
			}
		case "mechanisms":
			if u.mechs = strings.Split(value, ","); slices.ContainsFunc(u.mechs, notMechanism) {
				return user{}, "", errMechanisms
			}
		case "expire", "expiry", "mechanism": // of no other program's, and leaving them alone would let him in
			return user{}, "", fmt.Errorf("%s= is no field; write expires= or mechanisms=", key)
		case "allow_nets":
			return user{}, "", errAllowNets
		case "groups":
			u.groups = strings.FieldsFunc(value, func(r rune) bool { return r == ',' })
		case authn.AttrMaildrop:
			if !filepath.IsLocal(value) {
				return user{}, "", errMaildrop
			}
			u.set(key, value)
		case authn.AttrLoginDelay:
			if d, err := time.ParseDuration(value); err != nil || d < 0 {
				return user{}, "", errLoginDelay
			}
			u.set(key, value)
		}
	}
	return u, class, nil
}

func (u *user) set(key, value string) {
	if u.attrs == nil {
		u.attrs = make(map[string]string, 1)
	}
	u.attrs[key] = value
}

var (
	errExpires    = errors.New("expires= is the first day on which the user is refused, as 2026-12-31 (UTC)")
	errMechanisms = errors.New("mechanisms= is a list of names in capitals with commas between: mechanisms=PLAIN,CRAM-MD5")
)

// notMechanism reports what cannot be the name of a mechanism (RFC 4422 section
// 3.1: capitals, digits, hyphens and underscores, 20 at most).
func notMechanism(name string) bool {
	return name == "" || len(name) > 20 || strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != ""
}

// refuses says why nobody may log in as u with a mechanism, whatever the proof;
// nil when he may.
func (u user) refuses(mechanism string) *authn.Error {
	if err := u.closed(); err != nil || len(u.mechs) == 0 || slices.Contains(u.mechs, mechanism) {
		return err
	}
	return &authn.Error{Kind: authn.Denied, Err: fmt.Errorf("may not use %s, says the users file", mechanism)}
}

// shadowExpiry is the date in the eighth field of a line of shadow, whose fields
// from the third on are seven numbers that may be empty.
func shadowExpiry(fields []string) time.Time {
	if len(fields) != 7 || strings.Trim(strings.Join(fields, ""), "0123456789") != "" {
		return time.Time{}
	}
	days, err := strconv.ParseInt(fields[5], 10, 32)
	if err != nil || days == 0 {
		return time.Time{}
	}
	return time.Unix(days*24*60*60, 0)
}

// closed says why nobody may log in as u, whatever the proof; nil when he may.
func (u user) closed() *authn.Error {
	switch {
	case u.locked:
		return &authn.Error{Kind: authn.Denied, Err: errors.New("locked in the users file")}
	case !u.until.IsZero() && !time.Now().Before(u.until):
		return &authn.Error{Kind: authn.Expired, Err: errors.New("the account ran out, says the users file")}
	}
	return nil
}

// Hash is what may be told of one line of a users file.
type Hash struct {
	Login string
	Kind  string // of its hash, with the parameters: "$6$rounds=100000$", "no password", ", locked" or ", ran out" behind either
}

// Hashes lists the logins of the users file at path, in its order.
func Hashes(path string) ([]Hash, error) {
	b, err := sitefile.Read(path, maxFile, sitefile.OthersWritable)
	if err != nil {
		return nil, err
	}
	defer clear(b)
	us, err := parseUsers(path, b)
	if err != nil {
		return nil, err
	}
	var all []Hash
	for _, line := range lines(b) {
		name, _, _ := bytes.Cut(line, []byte(":"))
		u := us.byLogin[string(name)]
		kind := u.class
		if u.hash == nil {
			kind = "no password"
		}
		if closed := u.closed(); closed != nil && closed.Kind == authn.Expired {
			kind += ", ran out"
		} else if closed != nil {
			kind += ", locked"
		}
		all = append(all, Hash{string(name), kind})
	}
	return all, nil
}
