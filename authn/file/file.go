// Package file checks passwords against a users file, and hands out the
// secrets of a digests file to APOP and CRAM-MD5.
//
// A line of the users file is login, hash, and more fields that are left alone,
// with colons between: a passwd-file of Dovecot, an htpasswd and a shadow file
// all read that way. A field maildrop=… says where the user's maildrop is. A
// field nologin, or a ! before the hash, locks the user. The day on which an
// account of a shadow file runs out is obeyed, the age of its password is not.
//
// A line of the digests file is login, APOP or CRAM-MD5, secret. These secrets
// are as good as passwords to a reader, so nobody but the owner may read the
// file, and they are nobody's login password.
//
// # Design notes
//
// The users file says who exists: where both files are named, a secret of a
// login that is not in the users file opens nothing. A hash of "*" is for users
// without a password.
//
// An unknown user costs one hash of the kind that is most common in the file,
// and so does a user without one. No more hashes are computed at a time than
// Options.Hashes, and nobody waits for one past the deadline of the attempt.
//
// A locked user, or one whose account ran out, is refused whatever the password
// and for good: a refusal that lets the chain go on would leave him to a later
// step.
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
	"runtime"

	"github.com/kpopd/kpopd/authn"
)

// Options say which files to read. At least one must be named.
type Options struct {
	Users   string // path of the users file; "" when there is none
	Digests string // path of the digests file; "" when there is none
	Hashes  int    // computed at the same time; the number of processors when zero
}

// Open reads the files. The verifier is an [authn.PasswordVerifier] when
// Options.Users is named and an [authn.SecretSource] when Options.Digests is, so
// that a chain finds out by type what it can judge. name is the chain step's.
func Open(name string, o Options) (authn.Verifier, error) {
	if o.Hashes <= 0 {
		o.Hashes = runtime.GOMAXPROCS(0)
	}
	f := &files{name: name, slots: make(chan struct{}, o.Hashes)}
	if err := f.load(o); err != nil {
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
	_ authn.PasswordVerifier = both{}
	_ authn.SecretSource     = both{}
)

func (p passwords) VerifyPassword(ctx context.Context, r *authn.PasswordRequest) (*authn.Identity, error) {
	return p.verifyPassword(ctx, r)
}

func (d digests) Secret(_ context.Context, login, scheme string) (authn.Password, *authn.Identity, error) {
	return d.secret(login, scheme)
}

func (b both) VerifyPassword(ctx context.Context, r *authn.PasswordRequest) (*authn.Identity, error) {
	return b.verifyPassword(ctx, r)
}

func (b both) Secret(_ context.Context, login, scheme string) (authn.Password, *authn.Identity, error) {
	return b.secret(login, scheme)
}

type files struct {
	name    string
	slots   chan struct{} // holds one for each hash that is being computed
	users   *users        // nil when there is no users file
	secrets map[secretKey]authn.Password
}

func (f *files) Name() string { return f.name }

func (f *files) load(o Options) error {
	var err, err2 error
	if o.Users != "" {
		f.users, err = loadUsers(o.Users)
	}
	if o.Digests != "" {
		f.secrets, err2 = loadDigests(o.Digests)
	}
	return errors.Join(err, err2)
}

func (f *files) fail(kind authn.Kind, err error) error {
	return &authn.Error{Kind: kind, Step: f.name, Err: err}
}

func (f *files) verifyPassword(ctx context.Context, r *authn.PasswordRequest) (*authn.Identity, error) {
	if n := len(r.Password); n == 0 || n > authn.MaxPassword {
		return nil, f.fail(authn.Rejected, fmt.Errorf("password of %d octets", n))
	}
	u, known := f.users.byLogin[r.Login]
	h := u.hash
	if h == nil {
		h = f.users.dummy
	}
	match, err := f.match(ctx, h, r.Password)
	closed := u.closed()
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
	return u.identity(r.Login), nil
}

// match computes h's hash of p when a slot is free.
func (f *files) match(ctx context.Context, h matcher, p authn.Password) (bool, error) {
	if h == nil {
		return false, nil // not one hash in the file
	}
	select {
	case f.slots <- struct{}{}:
	case <-ctx.Done():
		return false, fmt.Errorf("wait to compute a hash: %w", context.Cause(ctx))
	}
	defer func() { <-f.slots }()
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
	s, ok := f.secrets[secretKey{login, scheme}]
	if !ok {
		return nil, nil, f.fail(authn.UnknownUser, fmt.Errorf("no secret for %s", scheme))
	}
	if closed := u.closed(); closed != nil {
		// unproven yet, but a later step must not let him in
		return nil, nil, f.fail(closed.Kind, closed.Err)
	}
	return append(authn.Password{}, s...), u.identity(login), nil
}

func (u user) identity(login string) *authn.Identity {
	return &authn.Identity{User: login, Attrs: maps.Clone(u.attrs)}
}
