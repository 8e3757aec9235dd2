// Package access refuses logins by list: of users, of groups, of networks.
//
// # Design notes
//
// A list is an [authn.Guard]: it is asked about the identity that a step of its
// chain vouched for, so that it meets the canonical login whatever name the
// client gave, and the groups that the directory knows. What the network alone
// decides is refused before any step is asked.
//
// Who cannot be judged is refused: a list of groups denies a user whose verifier
// knows nothing of groups (Identity.Groups is nil), also when it is a list of
// those who are denied.
//
// Logins of a list that denies are compared without case, those of a list that
// allows letter by letter: a slip in either lets nobody in. Groups are a
// directory's, which has no case.
package access

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/sitefile"
)

// maxFile is the size of the largest list of logins, in octets.
const maxFile = 16 << 20

// Options say who is on a list. Whoever fits one of them is.
type Options struct {
	Allow    bool           // refuse who is not on it; otherwise who is
	Users    string         // path of a file with a login on each line; "" for none
	Groups   []string       // as verifiers call them
	Networks []netip.Prefix // of clients
}

// List is an [authn.Guard].
type List struct {
	name  string
	o     Options
	users map[string]bool
}

var _ authn.Guard = (*List)(nil)

// Open reads the file of logins. name is the chain step's.
func Open(name string, o Options) (*List, error) {
	l := &List{name: name, o: o}
	if o.Users == "" {
		return l, nil
	}
	text, err := sitefile.Read(o.Users, maxFile, sitefile.OthersWritable)
	if err != nil {
		return nil, err
	}
	l.users, err = l.parse(text)
	return l, err
}

// Name implements [authn.Verifier].
func (l *List) Name() string { return l.name }

// Logins are the names on the list, sorted, for whoever knows which names are ever
// asked for.
func (l *List) Logins() []string { return slices.Sorted(maps.Keys(l.users)) }

// Admit implements [authn.Guard].
func (l *List) Admit(ctx context.Context, id *authn.Identity) error {
	t := authn.TransportOf(ctx)
	switch {
	case len(l.o.Networks) == 0:
	case t == nil:
		return l.fail(authn.Internal, errors.New("asked about no connection"))
	case slices.ContainsFunc(l.o.Networks, func(n netip.Prefix) bool { return n.Contains(t.Remote.Addr().Unmap()) }):
		return l.listed("network of " + t.Remote.Addr().String())
	}
	switch {
	case id == nil && l.o.Users == "" && len(l.o.Groups) == 0:
		return l.unlisted() // the network was all there is to it
	case id == nil:
		return nil
	case l.users[l.key(id.User)]:
		return l.listed(id.User)
	case len(l.o.Groups) > 0 && id.Groups == nil:
		return l.fail(authn.Denied, fmt.Errorf("the groups of %s are not known to %s", id.User, id.Step))
	}
	for _, g := range id.Groups {
		if slices.ContainsFunc(l.o.Groups, func(s string) bool { return strings.EqualFold(s, g) }) {
			return l.listed("group " + g)
		}
	}
	return l.unlisted()
}

func (l *List) listed(what string) error {
	if l.o.Allow {
		return nil
	}
	return l.fail(authn.Denied, fmt.Errorf("%s is on the list", what))
}

func (l *List) unlisted() error {
	if !l.o.Allow {
		return nil
	}
	return l.fail(authn.Denied, errors.New("not on the list"))
}

func (l *List) fail(kind authn.Kind, err error) error {
	return &authn.Error{Kind: kind, Step: l.name, Err: err}
}

func (l *List) key(login string) string {
	if l.o.Allow {
		return login
	}
	return strings.ToLower(login)
}

func (l *List) parse(text []byte) (map[string]bool, error) {
	users := map[string]bool{}
	var errs []error
	n := 0
	for line := range bytes.Lines(text) {
		n++
		login := string(bytes.TrimSpace(line))
		if login == "" || login[0] == '#' {
			continue
		}
		prepared, err := authn.PrepareLogin(login)
		switch {
		case len(errs) == 20:
			return nil, errors.Join(append(errs, fmt.Errorf("%s: and perhaps more", l.o.Users))...)
		case err != nil:
			errs = append(errs, fmt.Errorf("%s:%d: %.128q is not a login: one stands on each line", l.o.Users, n, login))
		case prepared != login:
			errs = append(errs, fmt.Errorf("%s:%d: write the login %q as %q (RFC 8265)", l.o.Users, n, login, prepared))
		}
		users[l.key(login)] = true
	}
	return users, errors.Join(errs...)
}
