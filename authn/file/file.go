// Package file checks passwords against a users file, and hands out the
// secrets of a digests file to APOP, CRAM-MD5 and SCRAM.
//
// A line of the users file is login, hash, and more fields that are left alone,
// with colons between: a passwd-file of Dovecot, an htpasswd and a shadow file
// all read that way. A field maildrop=… says where the user's maildrop is, a field
// groups=staff,helpdesk which groups the user is in, for the rules of policies, a
// field login_delay=… how long he waits between logins where the server lets users
// differ. A field disabled or nologin, or a ! before the hash, locks the user. From
// the day of expires=2026-12-31 on (UTC) he is refused. mechanisms=PLAIN,CRAM-MD5
// are those of the mechanisms judged here that he may use. The day on which an
// account of a shadow file runs out is obeyed, the age of its password is not.
//
// A line of the digests file is login, scheme, secret. For SCRAM-SHA-1 and
// SCRAM-SHA-256 the secret is keys in the form of RFC 5803, which are worth as
// much to a thief as a hash. For APOP and CRAM-MD5 it is as good as a password, so
// nobody but the owner may read the file, it is nobody's login password, and it is
// sealed:
//
//	alice:SCRAM-SHA-256:SCRAM-SHA-256$50000:salt$StoredKey:ServerKey
//	bob:APOP:{AES-256-GCM}1f0c9a77$nonce, ciphertext and tag in base64
//
// The key is in a file of its own ([Keys]), which belongs into no backup that has
// the digests file, or is a credential of systemd. A secret is sealed for its
// login and its scheme, so that no line can be moved to another user.
//
// # Design notes
//
// The users file says who exists: where both files are named, a secret of a
// login that is not in the users file opens nothing. A hash of "*" is for users
// without a password.
//
// An unknown user costs a hash of some kind that users have, of the same one each
// time, and so does a user without one: neither the time nor its kind tells who
// exists. To cost the dearest kind is no choice: it would make the login of a user
// with a cheaper hash the quick one, and to cost one hash of each kind for everybody
// would let a file with many kinds stop the server. A restart draws the kinds anew,
// so let users keep one ([Options].Rehash). A
// [Budget] bounds the hashes that are computed at the same time, all verifiers
// together, by number and by memory; who waits for one too long, or past the
// deadline of the attempt, has met an outage.
//
// A locked user, or one whose account ran out, is refused whatever the password
// and for good: a refusal that lets the chain go on would leave him to a later
// step.
//
// Secrets that are not sealed are read, because files made by hand and by older
// versions have them; [Verifier].Warnings counts them, and [Seal] seals them.
//
// Re-hashing ([Options].Rehash) happens beside the login and gives up rather than
// wait. It replaces only a hash that the password fits at that moment in the file,
// so that a change of the password that was not loaded yet is not undone.
//
// Files are read whole and checked whole, once: who reloads opens a new verifier
// and swaps it for the old one. Errors name file, line and remedy, never a hash.
//
// go-crypt is what computes the hashes; nothing else imports it.
package file

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/scram"
)

// Options say which files to read. At least one must be named.
type Options struct {
	Users   string  // path of the users file; "" when there is none
	Digests string  // path of the digests file; "" when there is none
	Key     string  // key file that opens sealed secrets, as [OpenKeys] takes it; "" when none is sealed
	Budget  *Budget // of all verifiers that have it; one of its own when nil

	// Rehash names a scheme of [Schemes]: a user who logs in with a weaker hash
	// gets one of it, in the users file too. Hashes stay as they are when "".
	Rehash string
	// Rehashed is told of each try; err says why the users file has the old hash
	// still. It runs beside the login and must not wait.
	Rehashed func(login string, err error)
}

// Verifier is an [authn.PasswordVerifier] when Options.Users is named and an
// [authn.SecretSource] when Options.Digests is, so that a chain finds out by
// type what it can judge.
type Verifier interface {
	authn.Verifier
	// Warnings are what is not wrong with the files and should be mended.
	Warnings() []error
	// Has reports whether anybody has a secret for a scheme.
	Has(scheme string) bool
	// Close waits until the users file is not being written, and writes it no
	// more. Everything else goes on.
	Close() error
}

// Open reads the files. name is the chain step's.
func Open(name string, o Options) (Verifier, error) {
	if o.Budget == nil {
		o.Budget = NewBudget(BudgetOptions{})
	}
	if o.Rehash != "" && !slices.Contains(Schemes(), o.Rehash) {
		return nil, fmt.Errorf("no scheme %q: there are %s", o.Rehash, strings.Join(Schemes(), ", "))
	}
	f := &files{name: name, o: o, budget: o.Budget, writing: make(chan struct{}, 1)}
	if err := f.load(); err != nil {
		return nil, err
	}
	switch {
	case o.Users != "" && o.Digests != "":
		return both{f}, nil
	case o.Users != "":
		return passwords{f}, nil
	case o.Digests != "":
		return digests{f}, nil
	}
	return nil, fmt.Errorf("verifier %s: neither a users file nor a digests file is named", name)
}

type (
	passwords struct{ *files }
	digests   struct{ *files }
	both      struct{ *files }
)

var (
	_ authn.PasswordVerifier = passwords{}
	_ authn.SecretSource     = digests{}
	_ scram.Surveyor         = digests{}
	_ authn.PasswordVerifier = both{}
	_ authn.SecretSource     = both{}
	_ scram.Surveyor         = both{}
)

func (p passwords) VerifyPassword(ctx context.Context, r *authn.PasswordRequest) (*authn.Identity, error) {
	return p.verifyPassword(ctx, r)
}

func (d digests) Secret(_ context.Context, login, scheme string) (authn.Password, *authn.Identity, error) {
	return d.secret(login, scheme)
}

// KeyShape implements [scram.Surveyor].
func (d digests) KeyShape(scheme string) (scram.Shape, bool) { return d.keyShape(scheme) }

// KeyShape implements [scram.Surveyor].
func (b both) KeyShape(scheme string) (scram.Shape, bool) { return b.keyShape(scheme) }

func (b both) VerifyPassword(ctx context.Context, r *authn.PasswordRequest) (*authn.Identity, error) {
	return b.verifyPassword(ctx, r)
}

func (b both) Secret(_ context.Context, login, scheme string) (authn.Password, *authn.Identity, error) {
	return b.secret(login, scheme)
}

type files struct {
	name    string
	o       Options
	budget  *Budget
	writing chan struct{} // holds one while the users file is being written, and after Close
	closing sync.Once
	users   *users   // nil when there is no users file
	secrets *secrets // nil when there is no digests file
}

func (f *files) Name() string { return f.name }

func (f *files) load() error {
	var err, err2 error
	if f.o.Users != "" {
		f.users, err = loadUsers(f.o.Users)
	}
	if f.o.Digests != "" {
		f.secrets, err2 = loadDigests(f.o.Digests, f.o.Key)
	}
	return errors.Join(err, err2)
}

// Close implements [Verifier].
func (f *files) Close() error {
	f.closing.Do(func() { f.writing <- struct{}{} })
	return nil
}

// Warnings implements [Verifier].
func (f *files) Warnings() []error {
	var all []error
	if dir := filepath.Dir(f.o.Users); f.o.Rehash != "" && unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK, unix.AT_EACCESS) != nil {
		all = append(all, fmt.Errorf("%s: hashes stay as they are, because this user may not write to %s: move the file or leave out rehash", f.o.Users, dir))
	}
	if f.secrets != nil {
		all = append(all, f.secrets.odd...)
	}
	return all
}

// Has implements [Verifier].
func (f *files) Has(scheme string) bool {
	if f.secrets == nil {
		return false
	}
	for k := range f.secrets.byKey {
		if k.scheme == scheme {
			return true
		}
	}
	return false
}

func (f *files) keyShape(scheme string) (scram.Shape, bool) {
	s, ok := f.secrets.shapes[scheme]
	return s, ok
}

func (f *files) fail(kind authn.Kind, err error) error {
	return &authn.Error{Kind: kind, Step: f.name, Err: err}
}

func (f *files) verifyPassword(ctx context.Context, r *authn.PasswordRequest) (*authn.Identity, error) {
	if n := len(r.Password); n == 0 || n > authn.MaxPassword {
		return nil, f.fail(authn.Rejected, fmt.Errorf("password of %d octets", n))
	}
	u, known := f.users.user(r.Login, f.o.Rehash != "")
	h := f.users.dummy(f.budget.seed, r.Login) // chosen for everyone, to take the same time
	if u.hash != nil {
		h = u.hash
	}
	match, err := f.match(ctx, h, r.Password)
	closed := u.refuses(r.Mechanism)
	switch {
	case err != nil:
		return nil, f.fail(authn.Unavailable, err)
	case !known:
		return nil, f.fail(authn.UnknownUser, nil)
	case closed != nil:
		return nil, f.fail(closed.Kind, closed.Err)
	case u.hash == nil:
		return nil, f.fail(authn.Rejected, errors.New("has no password"))
	case !match:
		return nil, f.fail(authn.Rejected, nil)
	}
	f.renew(f.users, r.Login, u, r.Password)
	return u.identity(r.Login), nil
}

// match computes h's hash of p when there is room for it.
func (f *files) match(ctx context.Context, h matcher, p authn.Password) (bool, error) {
	if h == nil {
		return false, nil // not one hash in the file
	}
	leave, err := f.budget.enter(ctx, h.memory())
	if err != nil {
		return false, err
	}
	defer leave()
	return h.MatchBytesAdvanced(p)
}

func (f *files) secret(login, scheme string) (authn.Password, *authn.Identity, error) {
	var u user
	if f.users != nil {
		known := false
		if u, known = f.users.byLogin[login]; !known {
			return nil, nil, f.fail(authn.UnknownUser, nil)
		}
	}
	s, ok := f.secrets.byKey[secretKey{login, scheme}]
	if !ok {
		return nil, nil, f.fail(authn.UnknownUser, fmt.Errorf("no secret for %s", scheme))
	}
	if closed := u.refuses(scheme); closed != nil {
		// unproven yet, but a later step must not let him in
		return nil, nil, f.fail(closed.Kind, closed.Err)
	}
	id := u.identity(login)
	if f.users == nil {
		id.Groups = nil // nobody knows
	}
	return append(authn.Password{}, s...), id, nil
}

// identity has groups even where there are none: the users file knows them all.
func (u user) identity(login string) *authn.Identity {
	return &authn.Identity{User: login, Groups: append([]string{}, u.groups...), Attrs: maps.Clone(u.attrs)}
}
