package access

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/authntest"
	"github.com/kpopd/kpopd/authn/plain"
)

func listFile(t *testing.T, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func nets(s ...string) (all []netip.Prefix) {
	for _, x := range s {
		all = append(all, netip.MustParsePrefix(x))
	}
	return all
}

// vouches knows mallory by two names, and her groups.
type vouches struct {
	authntest.Fake
	groups []string
}

func (v *vouches) VerifyPassword(ctx context.Context, r *authn.PasswordRequest) (*authn.Identity, error) {
	id, err := v.Fake.VerifyPassword(ctx, r)
	if err == nil {
		id.User, _, _ = strings.Cut(id.User, "@")
		id.Groups = v.groups
	}
	return id, err
}

// A login through the door: policy, mechanism, chain, lists.
func TestLists(t *testing.T) {
	t.Parallel()
	mallory := listFile(t, "# gone\n\nMallory\n  eve \n", 0o600)
	exact := listFile(t, "mallory\n", 0o644)
	otherCase := listFile(t, "Mallory\n", 0o644)
	none := []string{}
	for _, tt := range []struct {
		name   string
		lists  []Options
		groups []string
		login  string
		remote string
		want   authn.Kind // Internal for a login
		asked  int64      // how often the verifier was asked
	}{
		{"no list", nil, nil, "mallory", "192.0.2.1", authn.Internal, 1},
		{"denied user", []Options{{Users: mallory}}, nil, "mallory", "192.0.2.1", authn.Denied, 1},
		{"denied user by another name", []Options{{Users: mallory}}, nil, "mallory@example", "192.0.2.1", authn.Denied, 1},
		{"other user", []Options{{Users: mallory}}, nil, "alice", "192.0.2.1", authn.Internal, 1},
		{"denied group", []Options{{Groups: []string{"Suspended"}}}, []string{"a", "suspended"}, "alice", "192.0.2.1", authn.Denied, 1},
		{"other group", []Options{{Groups: []string{"suspended"}}}, []string{"a"}, "alice", "192.0.2.1", authn.Internal, 1},
		{"in no group", []Options{{Groups: []string{"suspended"}}}, none, "alice", "192.0.2.1", authn.Internal, 1},
		{"groups are not known", []Options{{Groups: []string{"suspended"}}}, nil, "alice", "192.0.2.1", authn.Denied, 1},
		{"denied network, before the password is looked at", []Options{{Networks: nets("192.0.2.0/24")}}, nil, "alice", "192.0.2.1", authn.Denied, 0},
		{"denied network in IPv6's clothes", []Options{{Networks: nets("192.0.2.0/24")}}, nil, "alice", "::ffff:192.0.2.1", authn.Denied, 0},
		{"other network", []Options{{Networks: nets("192.0.2.0/24")}}, nil, "alice", "198.51.100.1", authn.Internal, 1},
		{"allowed user", []Options{{Allow: true, Users: exact}}, nil, "mallory", "192.0.2.1", authn.Internal, 1},
		{"allowed user in another case", []Options{{Allow: true, Users: otherCase}}, nil, "mallory", "192.0.2.1", authn.Denied, 1},
		{"not allowed", []Options{{Allow: true, Users: exact}}, nil, "alice", "192.0.2.1", authn.Denied, 1},
		{"allowed group", []Options{{Allow: true, Groups: []string{"pop"}}}, []string{"POP"}, "alice", "192.0.2.1", authn.Internal, 1},
		{"not in the allowed group", []Options{{Allow: true, Groups: []string{"pop"}}}, none, "alice", "192.0.2.1", authn.Denied, 1},
		{"allowed group, groups not known", []Options{{Allow: true, Groups: []string{"pop"}}}, nil, "alice", "192.0.2.1", authn.Denied, 1},
		{"allowed network", []Options{{Allow: true, Networks: nets("2001:db8::/32")}}, nil, "alice", "2001:db8::1", authn.Internal, 1},
		{"not from the allowed network", []Options{{Allow: true, Networks: nets("2001:db8::/32")}}, nil, "alice", "192.0.2.1", authn.Denied, 0},
		{"allowed by one of three", []Options{{Allow: true, Users: exact, Groups: []string{"pop"}, Networks: nets("10.0.0.0/8")}}, none, "mallory", "192.0.2.1", authn.Internal, 1},
		{"allowed by none of three", []Options{{Allow: true, Users: exact, Groups: []string{"pop"}, Networks: nets("10.0.0.0/8")}}, none, "alice", "192.0.2.1", authn.Denied, 1},
		{"allowed, but denied too", []Options{{Allow: true, Groups: []string{"pop"}}, {Users: mallory}}, []string{"pop"}, "mallory", "192.0.2.1", authn.Denied, 1},
		{"wrong password of a denied user", []Options{{Users: mallory}}, nil, "mallory-wrong", "192.0.2.1", authn.Rejected, 1},
	} {
		for _, order := range []string{"lists first", "lists last"} {
			t.Run(tt.name+", "+order, func(t *testing.T) {
				t.Parallel()
				login, password := strings.TrimSuffix(tt.login, "-wrong"), "pw"
				if login != tt.login {
					password = "wrong"
				}
				v := &vouches{Fake: authntest.Fake{Passwords: map[string]string{"alice": "pw", "mallory": "pw", "mallory@example": "pw"}}, groups: tt.groups}
				var chain authn.Chain
				for _, o := range tt.lists {
					l, err := Open("list", o)
					if err != nil {
						t.Fatal(err)
					}
					chain = append(chain, authn.Step{Verifier: l})
				}
				if order == "lists first" {
					chain = append(chain, authn.Step{Verifier: v})
				} else {
					chain = append(authn.Chain{{Verifier: v}}, chain...)
				}
				var r authntest.Recorder
				p := &authn.Policy{Offers: []authn.Mechanism{plain.USER(chain, false)}, Plain: authn.PlainTrusted, Trusted: nets("0.0.0.0/0", "::/0"), Trace: r.Trace()}
				a, err := p.Start(t.Context(), &authn.Transport{Remote: netip.AddrPortFrom(netip.MustParseAddr(tt.remote), 1)}, "USER")
				if err != nil {
					t.Fatal(err)
				}
				_, done, err := a.Next(t.Context(), []byte("\x00"+login+"\x00"+password))
				if tt.want == authn.Internal {
					if !done || err != nil || a.Identity() == nil {
						t.Errorf("got %v", err)
					}
				} else if done || authn.KindOf(err) != tt.want || a.Identity() != nil {
					t.Errorf("got %v, %v, want %v", done, err, tt.want)
				}
				if n := v.Asked.Load(); n != tt.asked {
					t.Errorf("the verifier was asked %d times, want %d", n, tt.asked)
				}
				if last := r.Steps; tt.want == authn.Denied && (len(last) == 0 || last[len(last)-1].Step != "list" || last[len(last)-1].Err == nil) {
					t.Error("the refusal is not traced as the list's")
				}
			})
		}
	}
}

func TestWithoutConnection(t *testing.T) {
	t.Parallel()
	l, err := Open("list", Options{Networks: nets("10.0.0.0/8")})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Admit(t.Context(), nil); authn.KindOf(err) != authn.Internal {
		t.Errorf("got %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	for want, path := range map[string]string{
		"no such file":                                 "/nonexistent",
		"not a regular file":                           t.TempDir(),
		"list:2: \"a b\" is not a login":               listFile(t, "a\na b\n", 0o600),
		"list:1: write the login \"u\u0308\" as \"ü\"": listFile(t, "u\u0308\n", 0o600),
	} {
		if _, err := Open("list", Options{Users: path}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", path, err, want)
		}
	}
	writable := listFile(t, "a\n", 0o600)
	if err := os.Chmod(writable, 0o622); err != nil {
		t.Fatal(err)
	}
	if _, err := Open("list", Options{Users: writable}); err == nil || !strings.Contains(err.Error(), "chmod 0600 it") {
		t.Errorf("got %v", err)
	}
	if _, err := Open("list", Options{Users: listFile(t, strings.Repeat("a b\n", 100), 0o600)}); err == nil || strings.Count(err.Error(), "\n") != 20 {
		t.Errorf("got %v", err)
	}
}

// Whatever the file holds: it is refused, or denies each login that stands in it.
func FuzzList(f *testing.F) {
	f.Add("alice\nbob\n", "alice")
	f.Add("# alice\r\n Bob \r\n", "bob")
	f.Add("ü\n", "ü")
	f.Add("a b", "a")
	f.Fuzz(func(t *testing.T, text, login string) {
		if p, err := authn.PrepareLogin(login); err != nil || p != login {
			return
		}
		l := &List{name: "list", o: Options{Users: "list"}}
		users, err := l.parse([]byte(text))
		if err != nil {
			return
		}
		l.users = users
		listed := false
		for line := range strings.SplitSeq(text, "\n") {
			listed = listed || strings.TrimSpace(line) == login
		}
		if err := l.Admit(t.Context(), &authn.Identity{User: login}); listed && authn.KindOf(err) != authn.Denied {
			t.Errorf("%q is in %q: %v", login, text, err)
		}
	})
}
