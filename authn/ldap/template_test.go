package ldap

import (
	"strings"
	"testing"

	"github.com/go-ldap/ldap/v3"

	"github.com/kpopd/kpopd/authn"
)

func TestTemplate(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ template, login, dn, filter string }{
		{"uid=%u,dc=x", "alice", "uid=alice,dc=x", "uid=alice,dc=x"},
		{"uid=%n,dc=%d", "alice@x.example", "uid=alice,dc=x.example", "uid=alice,dc=x.example"},
		{"uid=%n,dc=%d", "alice", "uid=alice,dc=", "uid=alice,dc="},
		{"uid=%n,dc=%d", "a@b@c", "uid=a@b,dc=c", "uid=a@b,dc=c"},
		{"cn=%u+100%%", "%u%n", "cn=%u%n+100%", "cn=%u%n+100%"}, // S-5: what is put in is not looked at again
		{"%u", "a,b+c;d<e>\"f\\g", `a\,b\+c\;d\<e\>\"f\\g`, `a,b+c;d<e>"f\5cg`},
		{"%u", "#a ", `\#a\ `, "#a "},
		{"%u", "*)(uid=\x00", `*)(uid=\00`, `\2a\29\28uid=\00`},
		{"%u", "ümläut", "ümläut", `\c3\bcml\c3\a4ut`},
	} {
		p, err := parseTemplate(tt.template, "und")
		if err != nil {
			t.Fatal(tt.template, err)
		}
		v := filling{login: tt.login}
		if dn, filter := p.dn(v), p.filter(v); dn != tt.dn || filter != tt.filter {
			t.Errorf("%s of %q: got %s and %s, want %s and %s", tt.template, tt.login, dn, filter, tt.dn, tt.filter)
		}
	}
	for _, s := range []string{"uid=%x", "uid=%", "uid=alice", "%%", "uid=%p"} {
		if _, err := parseTemplate(s, "und"); err == nil {
			t.Errorf("%q is taken", s)
		}
	}
}

// S-17: a login stays one value, of a DN and of a filter, whatever is in it.
func FuzzTemplate(f *testing.F) {
	dn, err := parseDNTemplate("uid=%u,ou=people,dc=example")
	if err != nil {
		f.Fatal(err)
	}
	filter, err := parseFilter("(&(objectClass=person)(uid=%u))", "und")
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{"alice", "a,ou=b", "*)(uid=*", "a+b=c", `\`, `\2a`, "#00", " ", "a\x00", "ü", "alice@b.example", "\u202e", "%u"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, login string) {
		packet, err := ldap.CompileFilter(filter.filter(filling{login: login}))
		if err != nil {
			t.Fatalf("%q makes no filter: %v", login, err)
		}
		clauses := packet.Children
		if len(clauses) != 2 || clauses[1].Tag != ldap.FilterEqualityMatch || clauses[1].Children[1].Data.String() != login {
			t.Fatalf("%q makes another filter", login)
		}
		// what is no login in canonical form does not get as far as a DN
		if prepared, err := authn.PrepareLogin(login); err != nil || prepared != login {
			return
		}
		d, err := ldap.ParseDN(dn.dn(filling{login: login}))
		if err != nil {
			t.Fatalf("%q makes no DN: %v", login, err)
		}
		if len(d.RDNs) != 3 || len(d.RDNs[0].Attributes) != 1 || d.RDNs[0].Attributes[0].Value != login {
			t.Fatalf("%q makes %v", login, d)
		}
	})
}

func TestOptions(t *testing.T) {
	t.Parallel()
	good := Options{URLs: []string{"ldaps://ldap.example"}, DN: "uid=%u,dc=example"}
	search := Options{URLs: good.URLs, Base: "dc=example", Filter: "(uid=%u)"}
	for _, tt := range []struct {
		name   string
		base   Options
		change func(*Options)
		want   string
	}{
		{"template", good, func(*Options) {}, ""},
		{"search", search, func(*Options) {}, ""},
		{"ports", good, func(o *Options) { o.URLs = []string{"ldap://[::1]:3389", "ldapi://%2Frun%2Fldapi", "ldaps://a/"} }, ""},
		{"no server", good, func(o *Options) { o.URLs = nil }, "urls: missing"},
		{"no scheme", good, func(o *Options) { o.URLs = []string{"ldap.example"} }, "urls[0]: "},
		{"other scheme", good, func(o *Options) { o.URLs = append(o.URLs, "http://x") }, "urls[1]: "},
		{"a base in the URL", good, func(o *Options) { o.URLs = []string{"ldaps://x/dc=example"} }, "more than a scheme and a host"},
		{"a password in the URL", good, func(o *Options) { o.URLs = []string{"ldaps://u:p@x"} }, "more than a scheme and a host"},
		{"relative socket", good, func(o *Options) { o.URLs = []string{"ldapi://run"} }, "is no unix socket"},
		{"template and search", good, func(o *Options) { o.Filter = "(uid=%u)" }, "filter: has no effect beside dn"},
		{"neither", good, func(o *Options) { o.DN = "" }, "filter: missing"},
		{"no base", search, func(o *Options) { o.Base = "" }, "base: missing"},
		{"base that is none", search, func(o *Options) { o.Base = "example" }, `base: "example" is no DN`},
		{"template that is none", good, func(o *Options) { o.DN = "%u" }, `dn: "%u" is no DN`},
		{"template for all", good, func(o *Options) { o.DN = "uid=alice" }, "is the same for everyone"},
		{"filter that is none", search, func(o *Options) { o.Filter = "(uid=%u" }, "is no filter"},
		{"filter for all", search, func(o *Options) { o.Filter = "(uid=alice)" }, "is the same for everyone"},
		{"principals without attribute", search, func(o *Options) { o.PrincipalFilter = "(p=%p)" }, "attributes.principals: missing"},
		{"attribute without principals", search, func(o *Options) { o.Attributes.Principals = "p" }, "attributes.principals: has no effect"},
		{"aliases without principals", search, func(o *Options) { o.Attributes.Aliases = "p" }, "attributes.aliases: has no effect"},
		{"case without principals", search, func(o *Options) { o.FoldCase = true }, "fold_case: has no effect"},
		{"principals of a template", good, func(o *Options) { o.PrincipalFilter, o.Attributes.Principals = "(p=%p)", "p" }, "base: missing"},
		{"groups without base", search, func(o *Options) { o.GroupFilter = "(member=%D)" }, "group_base: missing"},
		{"base without groups", search, func(o *Options) { o.GroupBase = "ou=groups" }, "group_base: has no effect"},
		{"secret without attribute", search, func(o *Options) { o.Attributes.Secrets = []SecretAttribute{{"APOP", ""}} }, "attributes.secrets[0]: missing"},
		{"secret twice", search, func(o *Options) { o.Attributes.Secrets = []SecretAttribute{{"APOP", "a"}, {"APOP", "b"}} }, "attributes.secrets[1].scheme: is named already"},
		{"bind without password", search, func(o *Options) { o.Bind, o.BindDN = BindSimple, "cn=a" }, "bind_password: missing"},
		{"bind without DN", search, func(o *Options) { o.Bind = BindSimple }, "bind_dn: missing"},
		{"DN without bind", search, func(o *Options) { o.BindDN = "cn=a" }, "bind: write simple"},
		{"gssapi without principal", search, func(o *Options) { o.Bind = BindGSSAPI }, "bind_principal: \"\" is no principal"},
		{"gssapi without keytab", search, func(o *Options) {
			o.Bind, o.BindPrincipal, o.BindKrb5Conf = BindGSSAPI, "a@R", "template_test.go"
		}, "bind_keytab: missing"},
		{"gssapi without krb5.conf", search, func(o *Options) {
			o.Bind, o.BindPrincipal, o.BindKrb5Conf = BindGSSAPI, "a@R", "/nonexistent"
		}, "bind_krb5_conf: open /nonexistent"},
		{"gssapi at a socket", search, func(o *Options) {
			o.Bind, o.BindPrincipal, o.URLs = BindGSSAPI, "a@R", []string{"ldapi://%2Fx"}
		}, "bind: gssapi needs servers with a host name"},
		{"keytab without gssapi", search, func(o *Options) { o.BindKeytab = "k" }, "bind: write gssapi"},
		{"unknown bind", search, func(o *Options) { o.Bind = "digest" }, `bind: "digest" is not known`},
		{"external without certificate", search, func(o *Options) { o.Bind = BindExternal }, "cert: missing"},
		{"external at a socket", search, func(o *Options) { o.Bind, o.URLs = BindExternal, []string{"ldapi://%2Fx"} }, ""},
		{"external at a socket, and elsewhere", search, func(o *Options) { o.Bind, o.URLs = BindExternal, []string{"ldapi://%2Fx", "ldaps://x"} }, "cert: missing"},
		{"certificate without key", search, func(o *Options) { o.Cert = "c" }, "key: missing"},
		{"key without certificate", search, func(o *Options) { o.Key = "k" }, "cert: missing"},
		{"certificate that is not there", search, func(o *Options) { o.Cert, o.Key = "/nonexistent", "/nonexistent" }, "cert: open /nonexistent"},
		{"CA that is not there", search, func(o *Options) { o.CA = "/nonexistent" }, "ca: open /nonexistent"},
		{"CA without certificates", search, func(o *Options) { o.CA = "template_test.go" }, "ca: template_test.go has no PEM certificate"},
		{"negative", search, func(o *Options) { o.Connections, o.Timeout, o.Retry = -1, -1, -1 }, "connections: must not be negative"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o := tt.base
			o.URLs = append([]string{}, o.URLs...)
			tt.change(&o)
			v, err := Open("x", o)
			switch {
			case tt.want == "":
				if err != nil {
					t.Fatal(err)
				}
				v.Close()
			case err == nil || !strings.Contains(err.Error(), tt.want):
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}
