// Package ldap asks an LDAP directory: whether a password is right, who a
// Kerberos principal is, which secret a challenge mechanism is to compare with.
//
// A password is checked by binding as the user. His DN comes out of a template,
// or of a search that the verifier makes with a bind of its own; his entry says
// under which name he is known, which groups he is in, where his mail is, and
// whether he may log in at all.
//
// # Design notes
//
// Nothing but a directory's answer about this user is a refusal. Whatever else
// goes wrong, the verifier's own password being wrong among it, is
// [authn.Unavailable]. [outcome] has the table; a code that is not in it is an
// outage.
//
// Connections are TLS with a verified certificate, from the start or by
// StartTLS, or a unix socket. There is no way to have less.
//
// There are two pools for each server. One is bound as the verifier and
// searches; the other binds as users, again and again, and does nothing else:
// what a user may read, and whether a rebind succeeded, can never show in a
// search.
//
// go-ldap's calls take no context. [conn.do] closes the socket under the call
// when the context ends; such a connection is closed and counted out, never put
// back, so that a late answer is nobody's.
//
// A server that fails is left alone for Options.Retry, and then one login tries
// it again. When all have failed three times in a row, logins fail at once until
// then. The log is told of the first failure and of the return, as users whom
// another server lets in tell nobody. What counts is the transport: no answer about a user, however odd,
// speaks against a server, or one user could shut out the others; nor does the
// deadline of a client that left no time.
//
// Names compare without case in a directory, and "Alice" and "alice" are one
// entry: so a user is known by what his entry says, never by what he typed.
//
// An unknown user costs a bind too, of a DN that nobody has.
//
// go-ldap takes a password as a string, and a string cannot be wiped: its copies
// are left to the garbage collector. Errors and logs have none of them.
//
// A directory is another machine: replies are bounded (maxReply octets each
// request), and asn1-ber bounds their nesting.
//
// What an entry says is what the verifier may read of it: a flag that it cannot
// see disables nobody. Locks of the password policy show in binds; of a user with
// a ticket nobody asks for them, so a lock that is to hold for tickets too is a
// flag in the entry.
package ldap

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/kpopd/kpopd/authn"
)

// How the verifier itself binds, in order to search.
const (
	BindNone     = "none"     // anonymously
	BindSimple   = "simple"   // with a DN and a password from a file
	BindExternal = "external" // with the client certificate, or as the process at a unix socket
	BindGSSAPI   = "gssapi"   // with a Kerberos key
)

// Options say where the directory is and how users are found in it.
type Options struct {
	URLs  []string      // asked in this order: ldaps://host, ldap://host with StartTLS, ldapi://%2Fpath; ports are 636 and 389 when absent
	CA    string        // path of PEM certificates that the servers' must lead to; the system's when empty
	Cert  string        // path of the client's PEM certificate chain; none when empty
	Key   string        // path of its key
	Retry time.Duration // how long a server that failed is left alone; 5 s when zero

	Timeout     time.Duration // for one server's answer to one question; 3 s when zero
	Connections int           // at once to one server for searches, and as many for binds; 8 when zero

	Bind          string // BindNone when empty
	BindDN        string // for BindSimple
	BindPassword  string // for BindSimple: path of the file whose first line is the password
	BindPrincipal string // for BindGSSAPI: name@REALM
	BindKeytab    string // for BindGSSAPI: path of the file with its key
	BindKrb5Conf  string // for BindGSSAPI: path; /etc/krb5.conf when empty

	DN              string // template of users' DNs, "uid=%u,ou=people,dc=example"; they are searched for when empty
	Base            string // where users are searched for, with all below
	Filter          string // that finds a user by login, "(&(objectClass=person)(uid=%u))"
	PrincipalFilter string // that finds the user of a Kerberos principal, "(&(objectClass=person)(krbPrincipalName=%p))"; principals are not mapped when empty
	FoldCase        bool   // principals differ in nothing but case: Active Directory

	GroupBase   string // groups directly below count, by the value of their RDN; when empty all do, by their DN
	GroupFilter string // that finds the groups of a user, "(member=%D)"; not searched for when empty

	Attributes Attributes

	Log *slog.Logger // told when a server fails, though another answers, and when it is back; nobody is told when nil
}

// Attributes name what is read of a user's entry; what has no name is not read.
type Attributes struct {
	User       string            // canonical login, which must have one value; in a search "uid" when empty
	Aliases    string            // other logins that a principal may ask for
	Groups     string            // DNs of groups, "memberOf"
	MailHost   string            // server that has the mail
	Maildrop   string            // location of the maildrop relative to the root of the store
	Mechanisms string            // that may be used; all when the entry has no value
	Disabled   string            // flag that forbids any login: any value but false, no, off, 0; of userAccountControl its bit of value 2
	Principals string            // Kerberos principals of the user, for PrincipalFilter
	Secrets    []SecretAttribute // for mechanisms that compare with a stored secret
}

// SecretAttribute names where the secret of a mechanism is.
type SecretAttribute struct {
	Scheme    string // mechanism, "CRAM-MD5"
	Attribute string
}

// Verifier is an [authn.PasswordVerifier] and an [authn.UserFinder]; an
// [authn.SecretSource] when secrets are among the attributes; an
// [authn.PrincipalMapper] when there is a PrincipalFilter.
type Verifier interface {
	authn.PasswordVerifier
	authn.UserFinder
	// Close closes idle connections, and those in use when their answer is
	// there. A verifier still works after that, on connections that it does
	// not keep: sessions may go on with it after a reload.
	Close() error
}

// Open reads the files that o names and connects to nothing: a directory that
// is down must not keep a server from starting. name is the chain step's.
func Open(name string, o Options) (Verifier, error) {
	u, err := newUsers(name, o)
	if err != nil {
		return nil, err
	}
	switch secrets, mapper := len(o.Attributes.Secrets) > 0, o.PrincipalFilter != ""; {
	case secrets && mapper:
		return everything{u}, nil
	case secrets:
		return withSecrets{u}, nil
	case mapper:
		return withPrincipals{u}, nil
	}
	return passwords{u}, nil
}

type (
	passwords      struct{ *users }
	withSecrets    struct{ *users }
	withPrincipals struct{ *users }
	everything     struct{ *users }
)

var (
	_ Verifier              = passwords{}
	_ authn.SecretSource    = withSecrets{}
	_ authn.PrincipalMapper = withPrincipals{}
	_ authn.SecretSource    = everything{}
	_ authn.PrincipalMapper = everything{}
)

func (w withSecrets) Secret(ctx context.Context, login, scheme string) (authn.Password, *authn.Identity, error) {
	return w.secret(ctx, login, scheme)
}

func (w withPrincipals) MapPrincipal(ctx context.Context, p *authn.Principal, authzid string) (*authn.Identity, error) {
	return w.mapPrincipal(ctx, p, authzid)
}

func (e everything) Secret(ctx context.Context, login, scheme string) (authn.Password, *authn.Identity, error) {
	return e.secret(ctx, login, scheme)
}

func (e everything) MapPrincipal(ctx context.Context, p *authn.Principal, authzid string) (*authn.Identity, error) {
	return e.mapPrincipal(ctx, p, authzid)
}

// users is a directory and how users are found in it.
type users struct {
	name      string
	o         Options
	dir       *directory
	dn        template // empty when users are searched for
	byLogin   template
	byTicket  template
	byMember  template
	groupBase *ldap.DN // nil when all groups count
	wanted    []string // attributes to ask for
}

// Name implements [authn.Verifier].
func (u *users) Name() string { return u.name }

// Close implements [Verifier].
func (u *users) Close() error {
	u.dir.close()
	return nil
}

func (u *users) fail(kind authn.Kind, err error) error {
	return &authn.Error{Kind: kind, Step: u.name, Err: err}
}

// VerifyPassword implements [authn.PasswordVerifier].
func (u *users) VerifyPassword(ctx context.Context, r *authn.PasswordRequest) (*authn.Identity, error) {
	// An empty password is "unauthenticated bind", which succeeds (RFC 4513
	// section 5.1.2), and to a server that stops at a NUL so is one that begins
	// with it.
	if n := len(r.Password); n == 0 || n > authn.MaxPassword || bytes.IndexByte(r.Password, 0) >= 0 {
		return nil, u.fail(authn.Rejected, fmt.Errorf("password of %d octets, or with a NUL", n))
	}
	p, err := u.find(ctx, r.Login)
	if err != nil {
		if authn.KindOf(err) == authn.UnknownUser {
			_, _ = u.bind(ctx, u.nobody(), r.Password)
		}
		return nil, err
	}
	note, err := u.bind(ctx, p.dn, r.Password)
	switch {
	case p.disabled:
		// also when the bind was an outage: no later step must let him in
		return nil, u.fail(authn.Denied, errDisabled)
	case err != nil:
		return nil, err
	}
	if err := u.groups(ctx, p); err != nil {
		return nil, err
	}
	p.id.Note = note
	return &p.id, nil
}

var errDisabled = errors.New("disabled in the directory")

// nobody is a DN that no entry has.
func (u *users) nobody() string {
	dn := "cn=" + rand.Text()
	if u.o.Base != "" {
		dn += "," + u.o.Base
	}
	return dn
}

// bind checks the password of a DN. The note is what a good password has to be
// remarked upon, "" mostly.
func (u *users) bind(ctx context.Context, dn string, p authn.Password) (note string, err error) {
	var result *ldap.SimpleBindResult
	err = u.dir.bind(ctx, func(l *ldap.Conn) (err error) {
		result, err = l.SimpleBind(&ldap.SimpleBindRequest{
			Username: dn, Password: string(p), Controls: []ldap.Control{ldap.NewControlBeheraPasswordPolicy()},
		})
		return err
	})
	kind, note, err := outcome(result, err)
	if err != nil {
		return "", u.fail(kind, err)
	}
	return note, nil
}

// FindUser implements [authn.UserFinder].
func (u *users) FindUser(ctx context.Context, login string) (*authn.Identity, error) {
	p, err := u.find(ctx, login)
	switch {
	case err != nil:
		return nil, err
	case p.disabled:
		return nil, u.fail(authn.Denied, errDisabled)
	}
	if err := u.groups(ctx, p); err != nil {
		return nil, err
	}
	return &p.id, nil
}

// secret implements [authn.SecretSource].
func (u *users) secret(ctx context.Context, login, scheme string) (authn.Password, *authn.Identity, error) {
	i := slices.IndexFunc(u.o.Attributes.Secrets, func(s SecretAttribute) bool { return s.Scheme == scheme })
	if i < 0 {
		return nil, nil, u.fail(authn.Decline, nil)
	}
	p, err := u.find(ctx, login)
	if err != nil {
		return nil, nil, err
	}
	attribute := u.o.Attributes.Secrets[i].Attribute
	secrets := p.raw(attribute)
	switch {
	case p.disabled:
		return nil, nil, u.fail(authn.Denied, errDisabled)
	case len(secrets) == 0 || len(secrets[0]) == 0:
		return nil, nil, u.fail(authn.UnknownUser, fmt.Errorf("no secret for %s", scheme))
	case len(secrets) > 1:
		return nil, nil, u.fail(authn.Unavailable, fmt.Errorf("%s: %s has %d values, one is needed", p.dn, attribute, len(secrets)))
	}
	if err := u.groups(ctx, p); err != nil {
		return nil, nil, err
	}
	return bytes.Clone(secrets[0]), &p.id, nil
}

// mapPrincipal implements [authn.PrincipalMapper].
func (u *users) mapPrincipal(ctx context.Context, ticket *authn.Principal, authzid string) (*authn.Identity, error) {
	name := ticket.String()
	p, err := u.search(ctx, u.o.Base, ldap.ScopeWholeSubtree, u.byTicket.filter(filling{principal: name}))
	switch {
	case err != nil:
		return nil, err
	case !u.among(name, p.values(u.o.Attributes.Principals)):
		// the server's matching rule heeds less than Kerberos does
		return nil, u.fail(authn.UnknownUser, fmt.Errorf("%s: %s does not have the principal letter by letter", p.dn, u.o.Attributes.Principals))
	case p.disabled:
		return nil, u.fail(authn.Denied, errDisabled)
	}
	if authzid != "" {
		login, err := authn.CanonicalLogin(ctx, authzid)
		same := func(s string) bool { return authn.SameLogin(ctx, login, s) }
		known := append(p.values(u.o.Attributes.Aliases), p.id.User)
		if err != nil || !u.among(login, known) && !slices.ContainsFunc(known, same) {
			return nil, u.fail(authn.Denied, fmt.Errorf("%.128q is neither the login %s nor an alias of it", authzid, p.id.User))
		}
	}
	if err := u.groups(ctx, p); err != nil {
		return nil, err
	}
	p.id.Authn, p.id.Expires = name, ticket.Expires
	return &p.id, nil
}

func (u *users) among(name string, all []string) bool {
	return slices.ContainsFunc(all, func(s string) bool { return s == name || u.o.FoldCase && strings.EqualFold(s, name) })
}
