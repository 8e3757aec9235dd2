package file

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLogins(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		users, digests string
		want           []string
	}{
		{"bob:*\nalice:*\n", "alice:APOP:s\nCarol:CRAM-MD5:s\n", []string{"Carol", "alice", "bob"}},
		{"", "carol:APOP:s\ncarol:CRAM-MD5:s\n", []string{"carol"}},
		{"alice:*\n", "", []string{"alice"}},
	} {
		v := open(t, tt.users, tt.digests)
		if diff := cmp.Diff(tt.want, v.(interface{ Logins() []string }).Logins()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}
