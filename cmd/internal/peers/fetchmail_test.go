package peers

import (
	"fmt"
	"os"
)

// fetchmail hands each message to an mda with LF line ends. It breaks lines at
// 8190 octets, drops bare CRs, and writes a message of its own about an empty
// one.
func fetchmail(name, door, server, user string) client {
	return client{
		name: "fetchmail " + name, needs: []string{"fetchmail"}, trial: "fetchmail -V | grep -q 'GSS.*KRB5'", door: door,
		maxLine: 8190, rare: []string{"NUL"}, form: message.unix, names: true, takes: true,
		fetch: func(s *session) (string, []byte) {
			return s.fetchmail(server+" service "+s.port(), user)
		},
	}
}

// fetchmailKPOP finds the port by the service's name, and says PASS krb_ticket
// only then: the client gets its own view of /etc/services.
func fetchmailKPOP(name, user string) client {
	how := "-m"
	if os.Getuid() != 0 {
		how = "-rm" // where users may have namespaces
	}
	c := fetchmail(name, "kpop", "", "")
	c.needs = []string{"fetchmail", "unshare", "mount"}
	c.trial += " && unshare " + how + " mount --bind /etc/services /etc/services"
	c.fetch = func(s *session) (string, []byte) {
		services := s.write("services", "kpop "+s.port()+"/tcp\n")
		return s.fetchmail("protocol kpop auth kerberos_v5", user, "unshare", how, "sh", "-c", `mount --bind "$0" /etc/services && exec "$@"`, services)
	}
	return c
}

func (s *session) fetchmail(server, user string, under ...string) (string, []byte) {
	s.t.Helper()
	keep := "keep"
	if s.take {
		keep = "no keep"
	}
	rc := s.write("fetchmailrc", fmt.Sprintf(`set no syslog
set invisible
set no bouncemail
poll localhost %s no dns timeout 20
	user %q password %q
	sslcertck sslcertfile %q
	%s fetchall no rewrite
	mda "cat >>'%s/mail'"
	%s
`, server, s.user, s.password, s.ca, keep, s.home, user))
	shown := s.run(append(under, "fetchmail", "-v", "--nodetach", "-f", rc, "-i", s.home+"/ids", "--pidfile", s.home+"/pid")...)
	return shown, s.read("mail")
}
