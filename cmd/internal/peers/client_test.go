package peers

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// client is one program in one way of use.
type client struct {
	name  string
	needs []string // programs it runs
	door  string   // name of the listener it connects to

	service string // that its ticket is for; "pop/localhost" when empty

	maxLine int                  // octets of the longest line that it carries
	rare    []string             // rare messages that it carries
	form    func(message) string // of a message as it stores it

	names bool // tells the server whose mail it wants, and so can want another's

	takes bool // can be told to delete what it has got

	layers string // security layers that the server offers; "none" when empty
	sealed bool   // nothing is readable on the wire after the login
	hidden bool   // neither is the login

	// fetch collects all mail and tells what the program showed.
	fetch func(s *session) (shown string, mail []byte)
}

const anyLine = 1 << 30

// ---- fetchmail: an mda gets each message with LF line ends. It breaks lines
// at 8190 octets, drops bare CRs, and writes a message of its own about an
// empty one.

func fetchmail(name, door, server, user string) client {
	return client{
		name: "fetchmail " + name, needs: []string{"fetchmail"}, door: door,
		maxLine: 8190, rare: []string{"NUL"}, form: message.unix, names: true, takes: true,
		fetch: func(s *session) (string, []byte) {
			return s.fetchmail(server+" service "+s.port(), user)
		},
	}
}

// fetchmailKPOP finds the port by the service's name, and says PASS krb_ticket
// only then: the client gets its own view of /etc/services.
func fetchmailKPOP(name, user string) client {
	c := fetchmail(name, "kpop", "", "")
	c.needs = []string{"fetchmail", "unshare", "mount"}
	c.fetch = func(s *session) (string, []byte) {
		services := s.write("services", "kpop "+s.port()+"/tcp\n")
		return s.fetchmail("protocol kpop auth kerberos_v5", user, "unshare", "-rm", "sh", "-c", `mount --bind "$0" /etc/services && exec "$@"`, services)
	}
	return c
}

func (s *session) fetchmail(server, user string, under ...string) (string, []byte) {
	s.t.Helper()
	rc := s.write("fetchmailrc", fmt.Sprintf(`set no syslog
set invisible
set no bouncemail
poll localhost %s no dns timeout 20
	user %q password %q %s
	sslcertck sslcertfile %q
	%s fetchall no rewrite
	mda "cat >>'%s/mail'"
`, server, s.user, s.password, user, s.ca, map[bool]string{false: "keep", true: "no keep"}[s.take], s.home))
	shown := s.run(append(under, "fetchmail", "-v", "--nodetach", "-f", rc, "-i", s.home+"/ids", "--pidfile", s.home+"/pid")...)
	return shown, s.read("mail")
}

// ---- curl: octets as on the wire. It makes an empty line of an empty message.

func curl(name, door, scheme string, args ...string) client {
	return client{
		name: "curl " + name, needs: []string{"curl"}, door: door,
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

// ---- mpop: an mda gets each message with LF line ends.

func mpop(name, door string, settings ...string) client {
	return client{
		name: "mpop " + name, needs: []string{"mpop"}, door: door,
		maxLine: anyLine, rare: []string{"NUL", "bare CR", "nothing"}, form: message.unix,
		names: !strings.Contains(name, "GSSAPI"), takes: true,
		fetch: func(s *session) (string, []byte) {
			s.t.Helper()
			rc := s.write("mpoprc", strings.Join(append([]string{
				"defaults", "tls off", "received_header off", "uidls_file " + s.home + "/uidls", "keep " + map[bool]string{false: "on", true: "off"}[s.take], "only_new off",
				"delivery mda cat >>" + s.home + "/mail",
				"account default", "host localhost", "port " + s.port(), "user " + s.user,
				"passwordeval echo " + s.password, "tls_trust_file " + s.ca,
			}, settings...), "\n")+"\n")
			shown := s.run("mpop", "-C", rc, "-d")
			return shown, s.read("mail")
		},
	}
}

// ---- mutt and neomutt: all messages piped to cat. They need a terminal, and
// break lines of 1022 octets. neomutt cannot be held to GSSAPI: it tries that
// first, and goes on with the password when it is refused. mutt is shown an
// error for two seconds, so that it is better held to it.

func mutt(program, tls string) client {
	return client{
		name: program + " GSSAPI, TLS " + tls, needs: []string{program, "script"}, door: "pop3",
		maxLine: 1021, form: message.unix, names: true,
		fetch: func(s *session) (string, []byte) {
			s.t.Helper()
			rc := s.write("muttrc", fmt.Sprintf(`set pop_user=%[1]q pop_pass=none pop_checkinterval=0 pop_delete=no pop_reconnect=no
set certificate_file=%[2]q ssl_starttls=%[3]s ssl_force_tls=no
set folder=%[4]q spoolfile=spool mbox=mbox record="" move=no confirmappend=no
set pipe_split=yes pipe_sep="" pipe_decode=no wait_key=no quit=yes sleep_time=0 beep=no
set header_cache="" message_cachedir="" sort=mailbox-order
unset mark_old
%[5]s
`, s.user, s.ca, tls, s.home, map[string]string{"mutt": `set pop_authenticators="gssapi"`}[program]))
			keys := `push "<tag-pattern>~A<enter><tag-prefix><pipe-message>cat >>` + s.home + `/mail<enter><exit>"`
			shown := s.run("script", "-qec",
				fmt.Sprintf("%s -n -F %s -d 2 -f pop://%s@localhost:%s/ -e '%s'", program, rc, s.user, s.port(), keys), "/dev/null")
			return shown + string(s.read("."+program+"debug0")), s.read("mail")
		},
	}
}

// ---- nmh: one file a message with LF line ends. inc aborts at a line of 8192
// octets.

func inc(name, layers string) client {
	return client{
		name: "nmh inc " + name, needs: []string{"inc"}, door: "bare", layers: layers, sealed: strings.Contains(layers, "privacy"),
		maxLine: 8190, form: message.unix, names: true, takes: true,
		fetch: func(s *session) (string, []byte) {
			s.t.Helper()
			s.write(".mh_profile", "Path: "+s.home+"/Mail\n")
			s.write("Mail/inbox/.keep", "")
			shown := s.run("inc", "-host", "localhost", "-port", s.port(), "-user", s.user,
				"-sasl", "-saslmech", "GSSAPI", "-snoop", map[bool]string{false: "-notruncate", true: "-truncate"}[s.take], "-width", "80")
			var mail []byte
			for i := range messages {
				mail = append(mail, s.read(fmt.Sprintf("Mail/inbox/%d", i+1))...)
			}
			return shown, mail
		},
	}
}

// ---- Cyrus pop3test: shows the replies as they come, dots stuffed. layer is
// the strongest security layer in its counting: 0 none, 1 integrity, 256 and
// more privacy.

func pop3test(name, layers, layer string) client {
	return client{
		name: "Cyrus pop3test " + name, needs: []string{"pop3test"}, door: "bare", layers: layers, sealed: layer == "256",
		maxLine: anyLine, form: message.wire, names: true,
		fetch: func(s *session) (string, []byte) {
			s.t.Helper()
			var commands strings.Builder
			for i := range carried(anyLine) {
				fmt.Fprintf(&commands, "RETR %d\r\n", i+1)
			}
			s.write("commands", commands.String()) // it says QUIT itself when they end
			shown := s.feed("commands", "pop3test", "-m", "GSSAPI", "-u", s.user, "-a", s.user, "-l", layer, "-p", s.port(), "localhost")
			_, replies, _ := strings.Cut(shown, "Security strength factor: ")
			_, replies, _ = strings.Cut(replies, "\n")
			replies, _, _ = strings.Cut(replies, "Connection closed.\n")
			return shown, unstuff(strings.Replace(replies, "C: QUIT\r\n", "", 1))
		},
	}
}

// unstuff takes the texts out of the replies to RETR, as a client that knows
// only RFC 1939 section 3.
func unstuff(replies string) []byte {
	var mail []byte
	inside := false
	for line := range strings.SplitAfterSeq(replies, "\r\n") {
		switch {
		case !inside:
			inside = strings.HasPrefix(line, "+OK")
		case line == ".\r\n":
			inside = false
		default:
			mail = append(mail, strings.TrimPrefix(line, ".")...)
		}
	}
	return mail
}

// ---- Perl's Net::POP3: lines with LF ends.

func perl(how, door string) client {
	c := client{
		name: "Perl Net::POP3 " + how, needs: []string{"perl"}, door: door,
		maxLine: anyLine, rare: []string{"NUL", "bare CR", "nothing"}, form: message.unix, names: true, takes: true,
		fetch: func(s *session) (string, []byte) {
			s.t.Helper()
			shown := s.run("perl", testdata("collect.pl"), s.port(), how, s.user, s.password, s.home+"/mail", strconv.FormatBool(s.take))
			return shown, s.read("mail")
		},
	}
	return c
}

// ---- Python's poplib: lines without their ends.

func python(how, door string) client {
	return client{
		name: "Python poplib " + how, needs: []string{"python3"}, door: door,
		maxLine: anyLine, rare: []string{"NUL", "bare CR", "nothing"}, form: message.wire, names: true, takes: true,
		fetch: func(s *session) (string, []byte) {
			s.t.Helper()
			shown := s.run("python3", testdata("collect.py"), s.port(), how, s.user, s.password, s.ca, s.home+"/mail", strconv.FormatBool(s.take))
			return shown, s.read("mail")
		},
	}
}

// ---- krb5_sendauth() of a real library: lines as they come, dots stuffed.

func sendauth(name, program string, flags ...string) client {
	const longest = 65_000
	return client{
		name: name, door: "kpop",
		maxLine: longest, form: message.wire, names: true,
		fetch: func(s *session) (string, []byte) {
			s.t.Helper()
			argv := append(append([]string{program}, flags...), "localhost", s.port(), "USER "+s.user, "PASS "+s.user)
			for i := range carried(longest) {
				argv = append(argv, fmt.Sprintf("RETR %d", i+1))
			}
			shown := s.run(append(argv, "QUIT")...)
			return shown, unstuff(said(shown))
		},
	}
}

// said is what the server said to RETR in a program's report of the
// conversation.
func said(shown string) string {
	var b strings.Builder
	asked := false
	for line := range strings.Lines(shown) {
		if command, ok := strings.CutPrefix(line, "C: "); ok {
			asked = strings.HasPrefix(command, "RETR")
		} else if text, ok := strings.CutPrefix(line, "S: "); ok && asked {
			b.WriteString(strings.TrimSuffix(text, "\n") + "\r\n")
		}
	}
	return b.String()
}

func testdata(name string) string {
	path, err := filepath.Abs(filepath.Join("testdata", name))
	if err != nil {
		panic(err) // the work directory is gone
	}
	return path
}
