package peers

import (
	"fmt"
	"strings"
	"testing"

	"github.com/kpopd/kpopd/krb5test"
)

// A POP URL (RFC 2384) names a mechanism in the words of ours: those of AUTH, and
// "+APOP" for the command.
func TestRule168_URL(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ user, auth, says string }{
		{"carol", ";AUTH=+APOP", "APOP carol "},
		{"carol", ";AUTH=CRAM-MD5", "AUTH CRAM-MD5"},
		{"alice", ";AUTH=PLAIN", "AUTH PLAIN"},
		{"alice", ";AUTH=LOGIN", "AUTH LOGIN"},
		{"carol", ";AUTH=*", "AUTH CRAM-MD5"}, // the client's choice
		{"carol", "", "AUTH CRAM-MD5"},
	} {
		t.Run(tt.user+tt.auth, func(t *testing.T) {
			t.Parallel()
			krb5test.Need(t, "curl")
			srv := start(t, inProcess.realm(t).keytab, "")
			srv.deliver(t, tt.user, carried(anyLine)[:1])
			s := srv.session(t, "bare", nil)
			shown := s.run("curl", "-q", "-sS", "-v", "--noproxy", "*", "-o", "mail",
				fmt.Sprintf("pop3://%s%s:pw-%s@localhost:%s/1", tt.user, tt.auth, tt.user, s.port()))
			if !s.well || len(s.read("mail")) == 0 || !strings.Contains(shown, "> "+tt.says) {
				t.Errorf("it ends well: %v, says %q: %v", s.well, tt.says, strings.Contains(shown, "> "+tt.says))
			}
		})
	}
}
