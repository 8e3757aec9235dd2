package file

import (
	"testing"

	"github.com/kpopd/kpopd/authn"
)

// Who acts for a user gets the user's maildrop, and nobody's who is locked.
func TestFindUser(t *testing.T) {
	t.Parallel()
	users := write(t, "users", "support:*:maildrop=roles/support groups=roles,,mail\nalice:"+hashP+"\nmallory:"+hashP+":nologin\n", 0o600)
	digests := write(t, "digests", "", 0o600)
	for _, o := range []Options{{Users: users}, {Users: users, Digests: digests}} {
		v, err := Open("local", o)
		if err != nil {
			t.Fatal(err)
		}
		finder := v.(authn.UserFinder)
		for _, tt := range []struct {
			login, maildrop string
			want            authn.Kind
		}{
			{"support", "roles/support", 0},
			{"alice", "", 0},
			{"mallory", "", authn.Denied},
			{"nobody", "", authn.UnknownUser},
			{"", "", authn.UnknownUser},
		} {
			id, err := finder.FindUser(t.Context(), tt.login)
			if tt.want != 0 {
				if id != nil || authn.KindOf(err) != tt.want {
					t.Errorf("%q: got %+v, %v, want %s", tt.login, id, err, tt.want)
				}
				continue
			}
			if err != nil || id.User != tt.login || (len(id.Groups) == 2) != (tt.login == "support") || id.Attrs[authn.AttrMaildrop] != tt.maildrop {
				t.Errorf("%q: got %+v, %v", tt.login, id, err)
			}
		}
	}
	v, err := Open("secrets", Options{Digests: digests})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := v.(authn.UserFinder); ok {
		t.Error("a digests file says who exists")
	}
}
