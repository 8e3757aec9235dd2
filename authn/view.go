package authn

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// View is what of a maildrop a login name asks for. The zero value is all of the
// inbox. It changes nothing of who the user is: rules, throttle, locks of verifiers
// and what they are asked for know the user alone.
type View struct {
	Folder    string // instead of the inbox, as the client wrote it: "Sent/2026"
	Recent    bool   // messages that arrived lately, and no others
	Recipient string // messages for this local part of the maildrop's domains, and no others
}

// String is v for a log: "folder:Sent,recent". It is empty for the zero value.
func (v View) String() string {
	var all []string
	if v.Folder != "" {
		all = append(all, "folder:"+v.Folder)
	}
	if v.Recent {
		all = append(all, "recent")
	}
	if v.Recipient != "" {
		all = append(all, "recipient:"+v.Recipient)
	}
	return strings.Join(all, ",")
}

// Views says which views login names may ask for. The zero value knows none, and
// every name is all user.
type Views struct {
	Folders string // separator of "alice+Sent"; "" for none
	Recent  bool   // "recent:alice"
	Hosts   []Host // maildrops that hold the mail of a domain
}

// Host is a user whose maildrop holds all mail of a domain, as the dial-up hosts
// of Demon's SDPS had. Logins "alice+physics", "alice@physics" and
// "alice@physics.example.org" are user physics, with his password, and see what is
// for alice.
type Host struct {
	User    string   // canonical login name; names the host too
	Domains []string // other names of it; mail for these is the host's
}

const recentPrefix = "recent:"

// Separators are what Views.Folders may be.
const Separators = "+-=#%!~^|/"

// maxFolder is the length of the longest name of a folder, in octets: that of a
// file name.
const maxFolder = 255

// take takes from a name as the client wrote it what is no part of any login:
// the prefix, and the folder. It stands before the domain, as with Cyrus. What
// comes after the separator is a host where one has that name.
func (n *Names) take(login string) (rest string, view View, host *Host, err error) {
	v := &n.Views
	if i := len(recentPrefix); v.Recent && len(login) > i && strings.EqualFold(login[:i], recentPrefix) {
		login, view.Recent = login[i:], true
	}
	local, domain, has := strings.Cut(login, "@")
	if has {
		domain = "@" + domain
	}
	if i := strings.LastIndexByte(local, '+'); i > 0 && n.same("x"+domain, "x") {
		if host = v.host(local[i+1:]); host != nil {
			view.Recipient = local[:i]
			return host.User, view, host, nil
		}
	}
	if v.Folders == "" {
		return login, view, nil, nil
	}
	user, folder, cut := strings.Cut(local, v.Folders)
	if cut && !legalFolder(folder) {
		return "", view, nil, errLogin
	}
	view.Folder = folder
	return user + domain, view, nil, nil
}

// legalFolder: what a store makes of the name is its own business, if it can
// stand in a log.
func legalFolder(folder string) bool {
	return len(folder) > 0 && len(folder) <= maxFolder && utf8.ValidString(folder) && !strings.ContainsFunc(folder, unicode.IsControl)
}

// host finds a host by one of its names.
func (v *Views) host(name string) *Host {
	for i := range v.Hosts {
		if h := &v.Hosts[i]; strings.EqualFold(h.User, name) || contains(h.Domains, name) {
			return h
		}
	}
	return nil
}

// check is for [Names.Check].
func (v *Views) check(n *Names) error {
	if f := v.Folders; f != "" && (len(f) != 1 || !strings.Contains(Separators, f)) {
		return fmt.Errorf("%q cannot stand between user and folder; take one of %s", f, Separators)
	}
	seen := map[string]bool{}
	for i, h := range v.Hosts {
		without := *n
		without.Views.Hosts = slices.Delete(slices.Clone(v.Hosts), i, i+1)
		if user, view, err := without.Split(h.User); err != nil || user != h.User || view != (View{}) {
			return fmt.Errorf("nobody can log in as host %q; write a login name, in the spelling that names make of it", h.User)
		}
		for _, name := range append([]string{h.User}, h.Domains...) {
			if key := strings.ToLower(name); seen[key] {
				return fmt.Errorf("%s names two hosts; take it from one", name)
			} else {
				seen[key] = true
			}
		}
		for _, d := range h.Domains {
			if err := checkDomain(d); err != nil {
				return err
			}
			if contains(n.StripDomains, d) || strings.EqualFold(n.DefaultDomain, d) {
				return fmt.Errorf("%s is a host, and stripped or added too; take one of them out", d)
			}
		}
		if contains(n.StripDomains, h.User) {
			return fmt.Errorf("%s is a host, and stripped too; take one of them out", h.User)
		}
	}
	return nil
}

// TakeView notes which view of a maildrop the client asks for, and returns its
// name without that. A mechanism calls it with each name that the client sent, the
// one whose maildrop is to be opened last: the authzid, or the authcid where there
// is none. A view beside an authcid that is not it counts for nothing, which is
// what Cyrus does.
//
// Names in which no view is come back as they are.
func TakeView(ctx context.Context, login string) string {
	n := namesOf(ctx)
	if n == nil {
		return login
	}
	user, view, err := n.Split(login)
	if l, ok := ctx.Value(loginKey{}).(*Login); ok {
		l.view = view
	}
	if err != nil || view == (View{}) {
		return login
	}
	return user
}

type loginKey struct{}

// Any reports whether there are any.
func (v *Views) Any() bool { return v.Folders != "" || v.Recent || len(v.Hosts) > 0 }

func checkDomain(d string) error {
	if p, err := PrepareLogin("x@" + d); err != nil || p != "x@"+d || d == "" || strings.Contains(d, "@") {
		return fmt.Errorf("%q is no domain; write what stands behind the @, as example.org", d)
	}
	return nil
}
