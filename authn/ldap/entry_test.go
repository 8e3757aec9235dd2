package ldap

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-ldap/ldap/v3"

	"github.com/kpopd/kpopd/authn"
)

var mapped = Attributes{
	User: "uid", MailHost: "mailHost", Maildrop: "maildrop", Mechanisms: "mechanism", Disabled: "disabled",
}

func personOf(attributes map[string][]string) *person {
	return &person{dn: "uid=x", entry: ldap.NewEntry("uid=x", attributes)}
}

func TestRead(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name       string
		attributes map[string][]string
		want       string // in the error; a user when empty
	}{
		{"nothing but the login", map[string][]string{"uid": {"alice"}}, ""},
		{"name of the attribute in another case", map[string][]string{"UID": {"alice"}, "MAILHOST": {"m"}}, ""},
		{"no login", map[string][]string{"cn": {"alice"}}, `uid is ""`},
		{"two logins", map[string][]string{"uid": {"alice", "al"}}, "uid has 2 values"},
		{"login that is none", map[string][]string{"uid": {"al ice"}}, `uid is "al ice"`},
		{"login that is a path", map[string][]string{"uid": {"../alice"}}, "uid is"},
		{"two hosts", map[string][]string{"uid": {"alice"}, "mailHost": {"a", "b"}}, "mailHost has 2 values"},
		{"maildrop outside", map[string][]string{"uid": {"alice"}, "maildrop": {"a/../../b"}}, "not a path below"},
		{"absolute maildrop", map[string][]string{"uid": {"alice"}, "maildrop": {"/home/alice"}}, "not a path below"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := personOf(tt.attributes)
			err := p.read(&mapped)
			if tt.want == "" && (err != nil || p.id.User != "alice") || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %+v, %v", p.id, err)
			}
		})
	}
}

func TestDisabled(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		attribute, value string
		want             bool
	}{
		{"popDisabled", "TRUE", true},
		{"popDisabled", "FALSE", false},
		{"popDisabled", "no", false},
		{"popDisabled", "0", false},
		{"popDisabled", "Off", false},
		{"nsAccountLock", "true", true},
		{"pwdAccountLockedTime", "000001010000Z", true},
		{"popDisabled", "", true},
		{"userAccountControl", "512", false},
		{"userAccountControl", "514", true},
		{"useraccountcontrol", "66050", true},
		{"userAccountControl", "66048", false},
		{"userAccountControl", "-2147483134", true}, // with the highest bit
		{"userAccountControl", "what", true},
	} {
		if got := disabled(tt.attribute, []string{tt.value}); got != tt.want {
			t.Errorf("%s %q: got %v", tt.attribute, tt.value, got)
		}
	}
	if disabled("popDisabled", nil) || !disabled("popDisabled", []string{"FALSE", "TRUE"}) {
		t.Error("none is enabled, any is disabled")
	}
}

func TestGroup(t *testing.T) {
	t.Parallel()
	u, err := newUsers("x", Options{
		URLs: []string{"ldaps://x"}, Base: "dc=x", Filter: "(uid=%u)", GroupBase: "ou=Groups,dc=x", Attributes: Attributes{Groups: "memberOf"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for dn, want := range map[string]string{
		"cn=staff,ou=groups,dc=x":             "staff",
		"CN=Staff , OU=groups , DC=X":         "Staff",
		`cn=a\,b,ou=groups,dc=x`:              "a,b",
		"cn=staff,ou=mine,ou=groups,dc=x":     "", // whoever may make groups there makes no "staff"
		"cn=staff,ou=people,dc=x":             "",
		"cn=staff+ou=x,ou=groups,dc=x":        "",
		"ou=groups,dc=x":                      "",
		"staff":                               "",
		"cn=staff,ou=groups,dc=x,dc=y":        "",
		"cn=staff\\2cou=groups,dc=x":          "",
		"cn=staff\\2cou=x,ou=groups,dc=x":     "staff,ou=x",
		"cn=staff,ou=groups\\,dc=x":           "",
		"cn=staff,ou=groups\\2cdc=x,dc=x":     "",
		"cn=" + strings.Repeat("y", 300) + "": "",
	} {
		if got := u.group(dn); got != want {
			t.Errorf("%s: got %q, want %q", dn, got, want)
		}
	}
}

// Whatever is in an entry: it is a user in canonical form with a maildrop below
// the root, or an error.
func FuzzRead(f *testing.F) {
	f.Add("alice", "a/alice", "FALSE", "plain")
	f.Add("../alice", "../a", "TRUE", "")
	f.Add("u\u0308", "/a", "", "\x00")
	f.Add("ａlice", "a\x00b", "no", "GSSAPI")
	f.Fuzz(func(t *testing.T, uid, maildrop, flag, mechanism string) {
		p := personOf(map[string][]string{"uid": {uid}, "maildrop": {maildrop}, "disabled": {flag}, "mechanism": {mechanism}})
		if p.read(&mapped) != nil {
			return
		}
		if u, err := authn.PrepareLogin(p.id.User); err != nil || u != p.id.User {
			t.Errorf("user %q", p.id.User)
		}
		if m, ok := p.id.Attrs[authn.AttrMaildrop]; ok && !filepath.IsLocal(m) {
			t.Errorf("maildrop %q", m)
		}
		if len(p.id.Mechanisms) == 0 {
			t.Errorf("mechanism %q restricts nothing", mechanism)
		}
	})
}
