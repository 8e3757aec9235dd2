package peers

import (
	"strings"
	"testing"
)

// limited clients meet LOGIN-DELAY and the throttle.
var limited = []client{
	fetchmail("on POP3S", "pop3s", "protocol pop3 auth password", "ssl"),
	curl("on POP3S", "pop3s", "pop3s", "--login-options", "AUTH=PLAIN", "-u", "USER:PASSWORD"),
	mpop("on POP3S", "pop3s", "auth user", "tls on", "tls_starttls off"),
	python("POP3S", "pop3s"),
}

// configure adds keys to the configuration and loads it.
func (s *server) configure(t *testing.T, keys string) {
	t.Helper()
	s.write(t, "kpopd.yaml", strings.Replace(configuration, "LAYERS", "none", 1)+keys+"\n")
	s.reload(t)
}

// Real clients come back too soon, then while somebody guesses at their user;
// neither is told to them as a wrong password, and when it is over they get
// their mail.
func TestLimitedClients(t *testing.T) {
	t.Parallel()
	for _, c := range limited {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.need(t)
			srv := start(t, inProcess.realm(t).keytab, "")
			srv.configure(t, "limits: {login_delay: 1h}")
			mail := carried(c.maxLine, c.rare...)
			srv.deliver(t, "alice", mail)
			begin := func(password string) *session {
				s := srv.session(t, c.door, nil)
				s.user, s.password = "alice", password
				return s
			}
			wantMail(begin("pw-alice"), c, mail)
			wantRefusal(begin("pw-alice"), c, "[LOGIN-DELAY]")
			wantRefusal(begin("pw-wrong"), c, "[AUTH]")

			// where she is known her failures count there; the limit falls under
			// what has been counted, and the space of two attempts is minutes
			srv.configure(t, "throttle: {user_failures: 20}")
			for range 9 {
				wantRefusal(begin("pw-wrong"), c, "[AUTH]")
			}
			srv.configure(t, "throttle: {user_failures: 1, max_delay: 1h}")
			wantRefusal(begin("pw-wrong"), c, "[AUTH]")
			wantRefusal(begin("pw-alice"), c, "[SYS/TEMP]")
			srv.configure(t, "throttle: {off: true}")
			wantMail(begin("pw-alice"), c, mail)
		})
	}
}
