package peers

import (
	"strings"
)

// mpop hands each message to an mda with LF line ends.
func mpop(name, door string, settings ...string) client {
	return client{
		name: "mpop " + name, needs: []string{"mpop"}, trial: "mpop --version | grep -q gssapi", door: door,
		maxLine: anyLine, rare: []string{"NUL", "bare CR", "nothing"}, form: message.unix,
		names: !strings.Contains(name, "GSSAPI"), takes: true,
		fetch: func(s *session) (string, []byte) {
			s.t.Helper()
			keep := "on"
			if s.take {
				keep = "off"
			}
			rc := s.write("mpoprc", strings.Join(append([]string{
				"defaults", "tls off", "received_header off", "uidls_file " + s.home + "/uidls", "keep " + keep, "only_new off",
				"delivery mda cat >>" + s.home + "/mail",
				"account default", "host localhost", "port " + s.port(), "user " + s.user,
				"passwordeval cat " + s.write("password", s.password+"\n"), "tls_trust_file " + s.ca,
			}, settings...), "\n")+"\n")
			shown := s.run("mpop", "-C", rc, "-d")
			return shown, s.read("mail")
		},
	}
}
