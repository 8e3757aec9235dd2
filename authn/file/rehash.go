package file

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/sitefile"
)

// strength orders kinds of hashes, by their prefix or scheme; those of one
// number differ by their parameters.
var strength = map[string]int{
	"SSHA256": 0, "SSHA512": 0,
	"$5$": 1, "$pbkdf2$": 1, "$pbkdf2-sha256$": 1, "$pbkdf2-sha512$": 1,
	"$6$":  2,
	"$2a$": 3, "$2b$": 3, "$2y$": 3,
	"$scrypt$": 4, "$argon2i$": 4,
	"$argon2id$": 5,
	"$y$":        6,
}

// made is the class of what [MakeHash] makes, by scheme.
var made = map[string]string{
	"yescrypt": "$y$j9T",
	"argon2id": "$argon2id$m=19456,t=2,p=1",
	"bcrypt":   "$2b$10",
	"sha512":   "$6$rounds=100000$",
}

// weaker reports whether a hash of class costs a thief less than one that
// [MakeHash] makes: it is of a lesser kind, or of the same kind with a parameter
// that is smaller and none that is larger.
func weaker(class, scheme string) bool {
	kind, params := splitClass(class)
	target, want := splitClass(made[scheme])
	if a, b := strength[kind], strength[target]; a != b {
		return a < b
	}
	less := false
	for i := range want {
		switch c := cmp.Compare(params[i], want[i]); {
		case c > 0:
			return false
		case c < 0:
			less = true
		}
	}
	return less
}

// splitClass takes a class apart into what [strength] knows, and parameters
// that can be compared.
func splitClass(class string) (kind string, params []int) {
	kind = class
	if i := strings.IndexByte(class[min(1, len(class)):], '$'); i >= 0 {
		kind = class[:i+2]
	}
	rest := class[len(kind):]
	switch kind {
	case "$y$": // flavour, and a digit each for N and r, in an alphabet in the order of ASCII
		return kind, []int{int(rest[1]), int(rest[2])}
	case "$argon2id$", "$argon2i$": // more lanes make a hash no better
		rest, _, _ = strings.Cut(rest, ",p=")
	case "$5$", "$6$":
		rest = cmp.Or(rest, "5000")
	}
	for _, d := range digits.FindAllString(rest, -1) {
		n, _ := strconv.Atoi(d) // it was checked
		params = append(params, n)
	}
	return kind, params
}

// renew gives a user whose password has just proved right a better hash, when
// that is wanted and nothing is in its way: no other user's is being made, and a
// hash can be computed at once. A login later will have the chance again.
func (f *files) renew(t *users, login string, u user, p authn.Password) {
	if f.o.Rehash == "" || !weaker(u.class, f.o.Rehash) || f.o.Rehash == "bcrypt" && len(p) > maxBcrypt {
		return
	}
	select {
	case f.writing <- struct{}{}:
	default:
		return
	}
	leave, room := f.budget.tryEnter(rehashMemory(u.hash, f.o.Rehash))
	if !room {
		<-f.writing
		return
	}
	password := slices.Clone(p)
	go func() { // ends when the file is written; Close waits for it
		defer func() { <-f.writing }()
		defer password.Wipe()
		next, err := f.rehash(login, password)
		leave()
		if err == nil {
			u.hash, u.class = next.hash, next.class
			t.renewed.Store(login, u)
		}
		if f.o.Rehashed != nil {
			f.o.Rehashed(login, err)
		}
	}()
}

// rehashMemory is the octets that a re-hash needs: it computes the old hash, then
// one that [MakeHash] makes.
func rehashMemory(old matcher, scheme string) int64 {
	kind, _ := splitClass(made[scheme])
	return max(old.memory(), memoryOf(kind, strings.TrimPrefix(made[scheme], kind)))
}

var errChanged = errors.New("the users file has another password for him by now")

// rehash puts a hash of the password in the place of the one in the users file,
// if that is one of the same password. A panic is an error: nobody above would
// recover it.
func (f *files) rehash(login string, password authn.Password) (_ user, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}
	}()
	field, err := hashField(f.o.Users, login)
	if err != nil {
		return user{}, err
	}
	u, class, err := parseUser(field, "")
	if err != nil || u.hash == nil || u.locked {
		return user{}, errChanged
	}
	if same, err := u.hash.MatchBytesAdvanced(password); err != nil || !same {
		return user{}, errChanged
	}
	if !weaker(class, f.o.Rehash) {
		return user{hash: u.hash, class: class}, nil // another server was here first
	}
	hash, err := MakeHash(f.o.Rehash, password)
	if err != nil {
		return user{}, err
	}
	next, class, err := parseHash(hash)
	if err != nil {
		return user{}, fmt.Errorf("hash of our own: %w", err)
	}
	if err := swapHash(f.o.Users, login, field, hash); err != nil {
		return user{}, err
	}
	return user{hash: next, class: class}, nil
}

// swapHash puts a hash in the place of another, and leaves everything alone when
// that is not there any more.
func swapHash(path, login, old, hash string) error {
	found, err := edit(path, func(line []byte) ([]byte, bool) {
		name, rest, _ := bytes.Cut(line, []byte(":"))
		field, extra, more := bytes.Cut(rest, []byte(":"))
		if string(name) != login || string(field) != old {
			return nil, false
		}
		to := []byte(login + ":" + hash)
		if more {
			to = append(append(to, ':'), extra...)
		}
		return to, true
	}, nil)
	if err == nil && !found {
		err = errChanged
	}
	return err
}

// hashField is the second field of a login's line.
func hashField(path, login string) (string, error) {
	b, err := sitefile.Read(path, maxFile, sitefile.OthersWritable)
	if err != nil {
		return "", err
	}
	defer clear(b)
	for _, line := range lines(b) {
		name, rest, _ := bytes.Cut(line, []byte(":"))
		if string(name) == login {
			field, _, _ := bytes.Cut(rest, []byte(":"))
			return string(field), nil
		}
	}
	return "", errChanged
}
