package ldap

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/go-ldap/ldap/v3"

	"github.com/kpopd/kpopd/authn"
)

// maxGroups is how many groups of a user are read.
const maxGroups = 1000

// person is a user as the directory knows him.
type person struct {
	dn       string
	entry    *ldap.Entry // nil when it was not read
	id       authn.Identity
	disabled bool
}

// raw are the values of an attribute, "" has none.
func (p *person) raw(attribute string) [][]byte {
	if p.entry == nil || attribute == "" {
		return nil
	}
	for _, a := range p.entry.Attributes {
		if strings.EqualFold(a.Name, attribute) {
			return a.ByteValues
		}
	}
	return nil
}

func (p *person) values(attribute string) []string {
	var all []string
	for _, b := range p.raw(attribute) {
		all = append(all, string(b))
	}
	return all
}

// single is the value of an attribute that must not have more than one.
func (p *person) single(attribute string) (string, error) {
	all := p.values(attribute)
	switch len(all) {
	case 0:
		return "", nil
	case 1:
		return all[0], nil
	}
	return "", fmt.Errorf("%s: %s has %d values, one is needed", p.dn, attribute, len(all))
}

// find returns the user of a login.
func (u *users) find(ctx context.Context, login string) (*person, error) {
	if login == "" {
		return nil, u.fail(authn.UnknownUser, errors.New("empty login"))
	}
	if u.dn == nil {
		return u.search(ctx, u.o.Base, ldap.ScopeWholeSubtree, u.byLogin.filter(filling{login: login}))
	}
	dn := u.dn.dn(filling{login: login})
	if len(u.wanted) > 0 {
		return u.search(ctx, dn, ldap.ScopeBaseObject, "(objectClass=*)")
	}
	// names compare without case: "Alice" must not be another user than "alice"
	return &person{dn: dn, id: authn.Identity{User: strings.ToLower(login)}}, nil
}

// search finds the one entry that matches and reads it.
func (u *users) search(ctx context.Context, base string, scope int, filter string) (*person, error) {
	attributes := u.wanted
	if len(attributes) == 0 {
		attributes = []string{"1.1"} // none (RFC 4511 section 4.5.1.8)
	}
	// one more than there may be
	r, err := u.ask(ctx, ldap.NewSearchRequest(base, scope, ldap.NeverDerefAliases, 2, u.seconds(), false, filter, attributes, nil))
	switch {
	case ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchObject) && scope == ldap.ScopeBaseObject:
		return nil, u.fail(authn.UnknownUser, err)
	case ldap.IsErrorWithCode(err, ldap.LDAPResultSizeLimitExceeded), err == nil && len(r.Entries) > 1:
		return nil, u.fail(authn.Unavailable, fmt.Errorf("more than one entry matches %s", filter))
	case err != nil:
		return nil, u.fail(authn.Unavailable, fmt.Errorf("search below %q: %w", base, err))
	case len(r.Entries) == 0 && len(r.Referrals) > 0:
		return nil, u.fail(authn.UnknownUser, fmt.Errorf("not here; %d referrals were not followed", len(r.Referrals)))
	case len(r.Entries) == 0:
		return nil, u.fail(authn.UnknownUser, nil)
	case r.Entries[0].DN == "":
		// to bind as nobody is no proof
		return nil, u.fail(authn.Unavailable, errors.New("an entry without a DN"))
	}
	p := &person{dn: r.Entries[0].DN, entry: r.Entries[0]}
	if err := p.read(&u.o.Attributes); err != nil && !p.disabled {
		return nil, u.fail(authn.Unavailable, err)
	}
	return p, nil
}

// ask searches.
func (u *users) ask(ctx context.Context, q *ldap.SearchRequest) (*ldap.SearchResult, error) {
	var r *ldap.SearchResult
	err := u.dir.search(ctx, func(l *ldap.Conn) (err error) {
		r, err = l.Search(q)
		return err
	})
	return r, err
}

// seconds is the time limit of a search for the server to keep.
func (u *users) seconds() int { return int(u.dir.timeout.Seconds()) + 1 }

// read takes an identity from an entry. What cannot be understood is an error,
// never a default: it is an outage until somebody mends the entry.
func (p *person) read(a *Attributes) error {
	p.disabled = disabled(a.Disabled, p.values(a.Disabled))
	login, err := p.single(a.User)
	if err != nil {
		return err
	}
	if p.id.User, err = authn.PrepareLogin(login); err != nil {
		return fmt.Errorf("%s: %s is %.128q: %w", p.dn, a.User, login, err)
	}
	for _, m := range p.values(a.Mechanisms) {
		p.id.Mechanisms = append(p.id.Mechanisms, strings.ToUpper(m))
	}
	p.id.Attrs = map[string]string{}
	for key, attribute := range map[string]string{authn.AttrMailHost: a.MailHost, authn.AttrMaildrop: a.Maildrop} {
		value, err := p.single(attribute)
		switch {
		case err != nil:
			return err
		case key == authn.AttrMaildrop && value != "" && !filepath.IsLocal(value):
			return fmt.Errorf("%s: %s is %.128q, not a path below the root of the store", p.dn, attribute, value)
		case value != "":
			p.id.Attrs[key] = value
		}
	}
	return nil
}

// disabled says what the values of a flag mean. Of Active Directory's
// userAccountControl it is ADS_UF_ACCOUNTDISABLE. What is not known means that
// the user is disabled.
func disabled(attribute string, flag []string) bool {
	for _, v := range flag {
		if strings.EqualFold(attribute, "userAccountControl") {
			n, err := strconv.ParseInt(v, 10, 64)
			if err != nil || n&2 != 0 {
				return true
			}
			continue
		}
		switch strings.ToLower(v) {
		case "false", "no", "off", "0":
		default:
			return true
		}
	}
	return false
}

// groups finds the groups of a user. They are not nil when they are known.
func (u *users) groups(ctx context.Context, p *person) error {
	if u.o.Attributes.Groups == "" && u.byMember == nil {
		return nil
	}
	p.id.Groups = []string{}
	dns := p.values(u.o.Attributes.Groups)
	if u.byMember != nil {
		filter := u.byMember.filter(filling{login: p.id.User, dn: p.dn})
		r, err := u.ask(ctx, ldap.NewSearchRequest(u.o.GroupBase, ldap.ScopeWholeSubtree, ldap.NeverDerefAliases, maxGroups, u.seconds(), false, filter, []string{"1.1"}, nil))
		if err != nil {
			// a group that is not seen may be one that is denied
			return u.fail(authn.Unavailable, fmt.Errorf("search groups: %w", err))
		}
		for _, e := range r.Entries {
			dns = append(dns, e.DN)
		}
	}
	for _, dn := range dns {
		if g := u.group(dn); g != "" && !slices.Contains(p.id.Groups, g) {
			p.id.Groups = append(p.id.Groups, g)
		}
	}
	return nil
}

// group is the name of a group: the value of its RDN directly below the base,
// which is as good as a DN there. It is "" when the group does not count.
func (u *users) group(dn string) string {
	if u.groupBase == nil {
		return dn
	}
	d, err := ldap.ParseDN(dn)
	if err != nil || len(d.RDNs) != len(u.groupBase.RDNs)+1 || !u.groupBase.AncestorOfFold(d) || len(d.RDNs[0].Attributes) != 1 {
		return ""
	}
	return d.RDNs[0].Attributes[0].Value
}
