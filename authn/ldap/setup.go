package ldap

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/go-ldap/ldap/v3"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/sitefile"
)

// Sizes of the largest files, in octets.
const (
	maxPasswordFile = 4 << 10
	maxKeytab       = 1 << 20
	maxPEM          = 4 << 20
	maxKrb5Conf     = 1 << 20
)

// OptionError is an option that cannot work.
type OptionError struct {
	Option string // as configurations call it, "bind_dn"
	Err    error
}

func (e *OptionError) Error() string { return e.Option + ": " + e.Err.Error() }

// Unwrap returns what is wrong.
func (e *OptionError) Unwrap() error { return e.Err }

// newUsers reads the files that o names and checks the rest of it.
func newUsers(name string, o Options) (*users, error) {
	u := &users{name: name, o: o, dir: &directory{
		name: name, log: cmp.Or(o.Log, slog.New(slog.DiscardHandler)),
		timeout: cmp.Or(o.Timeout, defaultTimeout), retry: cmp.Or(o.Retry, defaultRetry),
		health: make([]health, len(o.URLs)),
	}}
	tlsConfig, err := tlsConfig(&o)
	identify, err2 := identify(&o)
	errs := []error{err, err2, u.parse(), u.check()}
	for i, text := range o.URLs {
		s, err := newServer(text)
		if err != nil {
			errs = append(errs, &OptionError{fmt.Sprintf("urls[%d]", i), err})
			continue
		}
		s.prepare(tlsConfig, max(cmp.Or(o.Connections, defaultConnections), 0), identify)
		u.dir.servers = append(u.dir.servers, s)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	u.wanted = u.attributes()
	return u, nil
}

// parse takes templates and DNs apart.
func (u *users) parse() error {
	var errs []error
	parse := func(option, text string, f func(string) error) {
		if text == "" {
			return
		}
		if err := f(text); err != nil {
			errs = append(errs, &OptionError{option, fmt.Errorf("%q %w", text, err)})
		}
	}
	parse("dn", u.o.DN, func(s string) (err error) { u.dn, err = parseDNTemplate(s); return err })
	parse("filter", u.o.Filter, func(s string) (err error) { u.byLogin, err = parseFilter(s, "und"); return err })
	parse("principal_filter", u.o.PrincipalFilter, func(s string) (err error) { u.byTicket, err = parseFilter(s, "p"); return err })
	parse("group_filter", u.o.GroupFilter, func(s string) (err error) { u.byMember, err = parseFilter(s, "uD"); return err })
	parse("group_base", u.o.GroupBase, func(s string) (err error) { u.groupBase, err = parseDN(s); return err })
	parse("base", u.o.Base, func(s string) error { _, err := parseDN(s); return err })
	parse("bind_dn", u.o.BindDN, func(s string) error { _, err := parseDN(s); return err })
	return errors.Join(errs...)
}

func parseDN(s string) (*ldap.DN, error) {
	d, err := ldap.ParseDN(s)
	if err != nil {
		return nil, fmt.Errorf("is no DN: %w", err)
	}
	return d, nil
}

// check refuses what is missing, and what would have no effect.
func (u *users) check() error {
	o := &u.o
	var errs []error
	refuse := func(wrong bool, option, why string) {
		if wrong {
			errs = append(errs, &OptionError{option, errors.New(why)})
		}
	}
	refuse(len(o.URLs) == 0, "urls", "missing; name at least one server")
	refuse(o.DN == "" && o.Filter == "", "filter", "missing; say how a user is found by login, or set dn")
	refuse(o.DN != "" && o.Filter != "", "filter", "has no effect beside dn, which says where each user is")
	refuse(o.Filter != "" && o.Base == "", "base", "missing; name the DN below which users are searched for")
	refuse(o.PrincipalFilter != "" && o.Base == "", "base", "missing; name the DN below which principals are searched for")
	refuse(o.PrincipalFilter != "" && o.Attributes.Principals == "", "attributes.principals", "missing; name the attribute that has the principals, which must be there letter by letter")
	refuse(o.PrincipalFilter == "" && o.Attributes.Principals != "", "attributes.principals", "has no effect without principal_filter")
	refuse(o.PrincipalFilter == "" && o.Attributes.Aliases != "", "attributes.aliases", "has no effect without principal_filter; logins by another name are for filter to find")
	refuse(o.PrincipalFilter == "" && o.FoldCase, "fold_case", "has no effect without principal_filter")
	refuse(o.GroupFilter != "" && o.GroupBase == "", "group_base", "missing; name the DN below which groups are searched for")
	refuse(o.GroupBase != "" && o.GroupFilter == "" && o.Attributes.Groups == "", "group_base", "has no effect without group_filter or attributes.groups")
	refuse(o.Connections < 0, "connections", "must not be negative")
	refuse(o.Timeout < 0, "timeout", "must not be negative")
	refuse(o.Retry < 0, "retry", "must not be negative")
	for i, s := range o.Attributes.Secrets {
		option := fmt.Sprintf("attributes.secrets[%d]", i)
		refuse(s.Scheme == "" || s.Attribute == "", option, "missing; name the mechanism with scheme and the attribute with attribute")
		refuse(slices.IndexFunc(o.Attributes.Secrets, func(x SecretAttribute) bool { return x.Scheme == s.Scheme }) < i, option+".scheme", "is named already")
	}
	return errors.Join(errs...)
}

// attributes lists what to ask for. A search has to find the canonical login at
// least; a user whose DN is known is not read unless something is wanted of him.
func (u *users) attributes() []string {
	a := &u.o.Attributes
	all := []string{a.User, a.Aliases, a.Groups, a.MailHost, a.Maildrop, a.Mechanisms, a.Disabled, a.Principals}
	for _, s := range a.Secrets {
		all = append(all, s.Attribute)
	}
	all = slices.DeleteFunc(all, func(s string) bool { return s == "" })
	if u.dn != nil && len(all) == 0 {
		return nil
	}
	if a.User == "" {
		a.User = "uid"
		all = append(all, a.User)
	}
	return all
}

// tlsConfig is how servers are verified.
func tlsConfig(o *Options) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CA != "" {
		pem, err := sitefile.Read(o.CA, maxPEM, sitefile.WorldWritable)
		if err != nil {
			return nil, &OptionError{"ca", err}
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, &OptionError{"ca", fmt.Errorf("%s has no PEM certificate", o.CA)}
		}
	}
	switch {
	case o.Cert == "" && o.Key == "":
	case o.Cert == "":
		return nil, &OptionError{"cert", errors.New("missing; name the certificate of the key")}
	case o.Key == "":
		return nil, &OptionError{"key", errors.New("missing; name the key of the certificate")}
	default:
		pair, err := keyPair(o.Cert, o.Key)
		if err != nil {
			return nil, err
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

func keyPair(cert, key string) (tls.Certificate, error) {
	certPEM, err := sitefile.Read(cert, maxPEM, sitefile.WorldWritable)
	if err != nil {
		return tls.Certificate{}, &OptionError{"cert", err}
	}
	keyPEM, err := sitefile.Read(key, maxPEM, sitefile.WorldUsable)
	if err != nil {
		return tls.Certificate{}, &OptionError{"key", err}
	}
	defer clear(keyPEM)
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return tls.Certificate{}, &OptionError{"cert", err}
	}
	return pair, nil
}

// bindFunc is the verifier's own bind.
type bindFunc func(ctx context.Context, host string, l *ldap.Conn) error

// identify is how the verifier binds, nil for not at all.
func identify(o *Options) (bindFunc, error) {
	if o.Bind != BindSimple && (o.BindDN != "" || o.BindPassword != "") {
		return nil, &OptionError{"bind", errors.New("write simple to bind with bind_dn and bind_password, or remove them")}
	}
	if o.Bind != BindGSSAPI && (o.BindPrincipal != "" || o.BindKeytab != "" || o.BindKrb5Conf != "") {
		return nil, &OptionError{"bind", errors.New("write gssapi to bind with bind_principal and bind_keytab, or remove them")}
	}
	isSocket := func(url string) bool { return strings.HasPrefix(url, "ldapi:") }
	switch o.Bind {
	case BindNone, "":
		return nil, nil
	case BindSimple:
		if o.BindDN == "" {
			return nil, &OptionError{"bind_dn", errors.New("missing; name the DN to bind as")}
		}
		p, err := readPassword(o.BindPassword)
		if err != nil {
			return nil, &OptionError{"bind_password", err}
		}
		return func(_ context.Context, _ string, l *ldap.Conn) error { return l.Bind(o.BindDN, string(p)) }, nil
	case BindExternal:
		if o.Cert == "" && slices.ContainsFunc(o.URLs, func(url string) bool { return !isSocket(url) }) {
			return nil, &OptionError{"cert", errors.New("missing; external needs a client certificate to show, but to servers at ldapi://")}
		}
		return func(_ context.Context, _ string, l *ldap.Conn) error { return l.ExternalBind() }, nil
	case BindGSSAPI:
		if slices.ContainsFunc(o.URLs, isSocket) {
			return nil, &OptionError{"bind", errors.New("gssapi needs servers with a host name, and ldapi:// has none; external is for it")}
		}
		k, err := newKerberos(o)
		if err != nil {
			return nil, err
		}
		return k.bind, nil
	}
	return nil, &OptionError{"bind", fmt.Errorf("%q is not known; write none, simple, external or gssapi", o.Bind)}
}

// readPassword reads the first line of a file that nobody else may read.
func readPassword(path string) (authn.Password, error) {
	b, err := readSecret(path, maxPasswordFile)
	if err != nil {
		return nil, err
	}
	line, _, _ := bytes.Cut(b, []byte("\n"))
	if line = bytes.TrimSuffix(line, []byte("\r")); len(line) == 0 {
		return nil, fmt.Errorf("%s: the first line is empty", path)
	}
	return line, nil
}

// readSecret reads a file that nobody else may read.
func readSecret(path string, limit int64) ([]byte, error) {
	if path == "" {
		return nil, errors.New("missing; name the file that has it")
	}
	return sitefile.Read(path, limit, sitefile.OthersUsable)
}
