package authn_test

import (
	"context"
	"crypto/tls"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/cram"
	"github.com/kpopd/kpopd/authn/plain"
)

func TestSplit(t *testing.T) {
	t.Parallel()
	folders := authn.Views{Folders: "+"}
	all := authn.Views{Folders: "+", Recent: true, Hosts: []authn.Host{{User: "physics", Domains: []string{"physics.example.org", "phys.example.org"}}}}
	hosts := authn.Views{Hosts: all.Hosts}
	for _, tt := range []struct {
		name     string
		n        authn.Names
		in, user string // user "" is a refusal
		view     authn.View
	}{
		{"nothing is on: a plus is part of the name", authn.Names{}, "alice+Sent", "alice+Sent", authn.View{}},
		{"nothing is on: no login has a colon", authn.Names{}, "recent:alice", "", authn.View{}},
		{"no view", authn.Names{Views: all}, "alice", "alice", authn.View{}},
		{"folder", authn.Names{Views: folders}, "alice+Sent", "alice", authn.View{Folder: "Sent"}},
		{"folder in a folder", authn.Names{Views: folders}, "alice+Lists/kpopd.users", "alice", authn.View{Folder: "Lists/kpopd.users"}},
		{"folder with a plus", authn.Names{Views: folders}, "alice+c++", "alice", authn.View{Folder: "c++"}},
		{"folder with a space and other letters", authn.Names{Views: folders}, "alice+Entw\u00fcrfe alt", "alice", authn.View{Folder: "Entw\u00fcrfe alt"}},
		{"folder before the domain, as with Cyrus", authn.Names{Views: folders}, "alice+Sent@example.org", "alice@example.org", authn.View{Folder: "Sent"}},
		{"a plus in the domain is none", authn.Names{Views: folders}, "alice@a+b", "alice@a+b", authn.View{}},
		{"the path of a folder is the store's business", authn.Names{Views: folders}, "alice+../bob", "alice", authn.View{Folder: "../bob"}},
		{"another separator", authn.Names{Views: authn.Views{Folders: "#"}}, "alice#Sent", "alice", authn.View{Folder: "Sent"}},
		{"no folder after the separator", authn.Names{Views: folders}, "alice+", "", authn.View{}},
		{"no user before it", authn.Names{Views: folders}, "+Sent", "", authn.View{}},
		{"control character", authn.Names{Views: folders}, "alice+a\nb", "", authn.View{}},
		{"NUL", authn.Names{Views: folders}, "alice+a\x00", "", authn.View{}},
		{"no UTF-8", authn.Names{Views: folders}, "alice+\xff", "", authn.View{}},
		{"too long", authn.Names{Views: folders}, "alice+" + strings.Repeat("a", 256), "", authn.View{}},
		{"the user keeps to what names are", authn.Names{Views: folders}, "../alice+Sent", "", authn.View{}},

		{"recent", authn.Names{Views: all}, "recent:alice", "alice", authn.View{Recent: true}},
		{"recent in capitals", authn.Names{Views: all}, "RECENT:alice@example.org", "alice@example.org", authn.View{Recent: true}},
		{"recent of a folder", authn.Names{Views: all}, "recent:alice+Sent", "alice", authn.View{Recent: true, Folder: "Sent"}},
		{"recent of nobody", authn.Names{Views: all}, "recent:", "", authn.View{}},
		{"recent twice", authn.Names{Views: all}, "recent:recent:alice", "", authn.View{}},
		{"recent is off", authn.Names{Views: folders}, "recent:alice", "", authn.View{}},

		{"host with a plus", authn.Names{Views: hosts}, "alice+physics", "physics", authn.View{Recipient: "alice"}},
		{"host with an at-sign", authn.Names{Views: hosts}, "alice@PHYSICS", "physics", authn.View{Recipient: "alice"}},
		{"domain of a host", authn.Names{Views: hosts}, "alice@phys.example.org", "physics", authn.View{Recipient: "alice"}},
		{"domain of a host with a plus", authn.Names{Views: hosts}, "alice+physics.example.org", "physics", authn.View{Recipient: "alice"}},
		{"the host itself", authn.Names{Views: hosts}, "physics", "physics", authn.View{}},
		{"another host", authn.Names{Views: hosts}, "alice@chemistry", "alice@chemistry", authn.View{}},
		{"a plus that is no host's", authn.Names{Views: hosts}, "alice+chemistry", "alice+chemistry", authn.View{}},
		{"an address with a plus", authn.Names{Views: hosts}, "alice+news@physics", "physics", authn.View{Recipient: "alice+news"}},
		{"a host comes before a folder of its name", authn.Names{Views: all}, "alice+physics", "physics", authn.View{Recipient: "alice"}},
		{"a folder of a host", authn.Names{Views: all}, "physics+Sent", "physics", authn.View{Folder: "Sent"}},
		{"recent of a host", authn.Names{Views: all}, "recent:alice@physics", "physics", authn.View{Recent: true, Recipient: "alice"}},
		{"nobody at a host", authn.Names{Views: hosts}, "@physics", "", authn.View{}},

		{"case folds of the user, not of the folder", authn.Names{FoldCase: true, Views: all}, "Recent:ALICE+Sent", "alice", authn.View{Recent: true, Folder: "Sent"}},
		{"domains are stripped", authn.Names{StripDomains: []string{"example.org"}, Views: all}, "alice+Sent@example.org", "alice", authn.View{Folder: "Sent"}},
		{"a host behind a stripped domain", authn.Names{StripDomains: []string{"example.org"}, Views: all}, "alice@physics@example.org", "physics", authn.View{Recipient: "alice"}},
		{"the default domain is added", authn.Names{DefaultDomain: "example.org", Views: folders}, "alice+Sent", "alice@example.org", authn.View{Folder: "Sent"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.user != "" {
				if err := tt.n.Check(); err != nil {
					t.Fatal(err)
				}
			}
			user, view, err := tt.n.Split(tt.in)
			if user != tt.user || view != tt.view || (err == nil) != (tt.user != "") {
				t.Errorf("%q becomes %q and %+v, %v, want %q and %+v", tt.in, user, view, err, tt.user, tt.view)
			}
		})
	}
}

func TestViewsCheck(t *testing.T) {
	t.Parallel()
	host := func(user string, domains ...string) []authn.Host { return []authn.Host{{User: user, Domains: domains}} }
	for _, tt := range []struct {
		n    authn.Names
		want string // in the error; "" when there is none
	}{
		{authn.Names{Views: authn.Views{Folders: "+", Recent: true, Hosts: host("physics", "physics.example.org")}}, ""},
		{authn.Names{DefaultDomain: "example.org", Views: authn.Views{Hosts: host("physics@example.org", "physics.example.org")}}, ""},
		{authn.Names{Views: authn.Views{Folders: "++"}}, "cannot stand between"},
		{authn.Names{Views: authn.Views{Folders: "@"}}, "cannot stand between"},
		{authn.Names{Views: authn.Views{Folders: "a"}}, "cannot stand between"},
		{authn.Names{Views: authn.Views{Folders: "."}}, "cannot stand between"},
		{authn.Names{FoldCase: true, Views: authn.Views{Hosts: host("Physics")}}, "nobody can log in as host"},
		{authn.Names{Views: authn.Views{Folders: "+", Hosts: host("a+b")}}, "nobody can log in as host"},
		{authn.Names{Views: authn.Views{Hosts: host("physics", "a/b")}}, "is no domain"},
		{authn.Names{Views: authn.Views{Hosts: append(host("physics"), host("Physics")...)}}, "names two hosts"},
		{authn.Names{Views: authn.Views{Hosts: append(host("physics", "x.example"), host("art", "X.example")...)}}, "names two hosts"},
		{authn.Names{StripDomains: []string{"x.example"}, Views: authn.Views{Hosts: host("physics", "x.example")}}, "stripped or added"},
		{authn.Names{StripDomains: []string{"physics"}, Views: authn.Views{Hosts: host("physics")}}, "stripped too"},
	} {
		err := tt.n.Check()
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %q", tt.n, err, tt.want)
		}
	}
}

// The user alone reaches the verifier, whatever the client asks for; the identity
// and the trace have the view. The folder stands in the authzid, or in the authcid
// when there is none: one beside an authcid that is not it counts for nothing.
func TestViewsOfMechanisms(t *testing.T) {
	t.Parallel()
	names := &authn.Names{Views: authn.Views{Folders: "+", Recent: true}}
	sent := authn.View{Folder: "Sent"}
	for _, tt := range []struct {
		name     string
		mech     func(authn.Chain) authn.Mechanism
		response string
		view     authn.View
	}{
		{"PLAIN", plain.PLAIN, "\x00alice+Sent\x00pw", sent},
		{"PLAIN, folder in the authzid", plain.PLAIN, "alice+Sent\x00alice\x00pw", sent},
		{"PLAIN, folder in both", plain.PLAIN, "alice+Sent\x00alice+Trash\x00pw", sent},
		{"PLAIN, folder beside another authzid", plain.PLAIN, "alice\x00alice+Trash\x00pw", authn.View{}},
		{"USER", func(c authn.Chain) authn.Mechanism { return plain.USER(c, false) }, "\x00recent:alice+Sent\x00pw", authn.View{Folder: "Sent", Recent: true}},
		{"USER without", func(c authn.Chain) authn.Mechanism { return plain.USER(c, false) }, "\x00alice\x00pw", authn.View{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			v := &verifier{calls: "alice"}
			m := tt.mech(authn.Chain{{Verifier: v}})
			var traced *authn.Attempt
			p := &authn.Policy{
				Offers: []authn.Mechanism{m}, Names: names,
				Trace: &authn.Trace{Attempt: func(_ context.Context, a *authn.Attempt) { traced = a }},
			}
			l, err := p.Start(t.Context(), &authn.Transport{TLS: &tls.ConnectionState{}}, m.Name())
			if err != nil {
				t.Fatal(err)
			}
			if _, done, err := l.Next(t.Context(), []byte(tt.response)); !done {
				t.Fatal(err)
			}
			if id := l.Identity(); id.User != "alice" || id.View != tt.view || id.For != "" {
				t.Errorf("logged in as %+v", id)
			}
			if d := cmp.Diff([]string{"alice"}, v.asked); d != "" {
				t.Error(d)
			}
			if traced.View != tt.view {
				t.Errorf("the trace has %+v", traced.View)
			}
		})
	}
}

// What a verifier calls its users asks for nothing, and is not the user whose name
// it begins with.
func TestViewsAreOfClientsOnly(t *testing.T) {
	t.Parallel()
	v := &verifier{calls: "alice+Sent"}
	m := plain.PLAIN(authn.Chain{{Verifier: v}})
	p := &authn.Policy{Offers: []authn.Mechanism{m}, Names: &authn.Names{Views: authn.Views{Folders: "+"}}}
	l, err := p.Start(t.Context(), &authn.Transport{TLS: &tls.ConnectionState{}}, m.Name())
	if err != nil {
		t.Fatal(err)
	}
	if _, done, err := l.Next(t.Context(), []byte("\x00bob\x00pw")); done || authn.KindOf(err) != authn.Internal {
		t.Errorf("done %v, %+v, %v", done, l.Identity(), err)
	}
	ctx := authn.WithPolicy(t.Context(), p)
	if login, err := authn.CanonicalLogin(ctx, "alice+Sent"); err == nil || authn.SameLogin(ctx, "alice", "alice+Sent") {
		t.Errorf("alice+Sent is %q", login)
	}
}

// Secrets are looked up under the user's name.
func TestViewsWithStoredSecrets(t *testing.T) {
	t.Parallel()
	for _, m := range []func(authn.Chain) authn.Mechanism{
		plain.APOP,
		func(c authn.Chain) authn.Mechanism { return cram.New(c, "") },
	} {
		v := &verifier{calls: "alice"}
		mech := m(authn.Chain{{Verifier: v}})
		p := &authn.Policy{Offers: []authn.Mechanism{mech}, Names: &authn.Names{Views: authn.Views{Folders: "+"}}}
		l, err := p.Start(t.Context(), &authn.Transport{TLS: &tls.ConnectionState{}, Stamp: "<1@x>"}, mech.Name())
		if err != nil {
			t.Fatal(err)
		}
		if mech.Name() == "CRAM-MD5" {
			if _, _, err := l.Next(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
		}
		_, _, _ = l.Next(t.Context(), []byte("alice+Sent "+strings.Repeat("0", 32)))
		if d := cmp.Diff([]string{"alice"}, v.asked); d != "" {
			t.Error(mech.Name(), d)
		}
	}
}

// FuzzSplit: the user of a name is a login in canonical form, in which no view is
// left; the view can stand in a line of a log.
func FuzzSplit(f *testing.F) {
	for _, s := range []string{
		"alice", "alice+Sent", "recent:alice+a/b.c@example.org", "x@physics@old.example", "x+physics@old.example", "recent:x+y+physics", "a@b+c@old.example", "+", "recent:", "alice+\u00fc",
	} {
		f.Add(s, true, "+", "old.example", "example.org")
		f.Add(s, false, "-", "", "")
	}
	f.Fuzz(func(t *testing.T, login string, fold bool, separator, strip, add string) {
		n := &authn.Names{FoldCase: fold, DefaultDomain: add}
		if strip != "" {
			n.StripDomains = []string{strip}
		}
		host := "physics"
		if add != "" {
			host += "@" + add
		}
		n.Views = authn.Views{Folders: separator, Recent: true, Hosts: []authn.Host{{User: host, Domains: []string{"physics.example"}}}}
		if n.Check() != nil {
			return
		}
		user, view, err := n.Split(login)
		if err != nil {
			if user != "" || view != (authn.View{}) {
				t.Errorf("%q is refused, and becomes %q and %+v", login, user, view)
			}
			return
		}
		if p, err := authn.PrepareLogin(user); err != nil || p != user {
			t.Errorf("%q becomes %q, which is no login", login, user)
		}
		again, none, err := n.Split(user)
		if err != nil || again != user || none != (authn.View{}) {
			t.Errorf("%q becomes %q, then %q and %+v, %v", login, user, again, none, err)
		}
		if strings.ContainsAny(view.String(), "\r\n\x00") {
			t.Errorf("%q wants %q", login, view)
		}
		if view.Recipient != "" && user != host {
			t.Errorf("%q sees what is for %s in the maildrop of %s", login, view.Recipient, user)
		}
	})
}
