package peers

import (
	"fmt"
	"strings"
)

// curl stores octets as on the wire. It makes an empty line of an empty message.
func curl(name, door, scheme string, args ...string) client {
	return client{
		name: "curl " + name, needs: []string{"curl"}, trial: "curl -V | grep -q GSS-API", door: door,
		maxLine: anyLine, rare: []string{"NUL", "bare CR"}, form: message.wire,
		names: strings.Contains(strings.Join(args, " "), "USER"),
		fetch: func(s *session) (string, []byte) {
			s.t.Helper()
			with := strings.NewReplacer("USER", s.user, "PASSWORD", s.password)
			argv := []string{"curl", "-q", "-sS", "-v", "--fail-early", "--noproxy", "*", "--cacert", s.ca}
			for _, a := range args {
				argv = append(argv, with.Replace(a))
			}
			n := len(carried(anyLine, "NUL", "bare CR"))
			shown := s.run(append(argv, "-o", "mail#1", fmt.Sprintf("%s://localhost:%s/[1-%d]", scheme, s.port(), n))...)
			var mail []byte
			for i := range n {
				mail = append(mail, s.read(fmt.Sprintf("mail%d", i+1))...)
			}
			return shown, mail
		},
	}
}
