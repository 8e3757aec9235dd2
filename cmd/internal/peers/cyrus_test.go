package peers

import (
	"fmt"
	"strings"
)

// cyrusPlugin is what Cyrus SASL loads for GSSAPI and SCRAM.
const cyrusPlugin = "ls /usr/lib/*/sasl2/libgssapiv2.so /usr/lib/*/sasl2/libscram.so"

// inc is nmh's, which makes a file of each message with LF line ends. It aborts
// at a line of 8192 octets, and uses the strongest layer on offer.
func inc(name, layers string) client {
	c := incAt("bare", name, "GSSAPI")
	c.layers, c.layered, c.sealed = layers, layers != "none", strings.Contains(layers, "privacy")
	return c
}

func incSCRAM(mech string) client { return incAt("scram-bare", mech, mech) }

func incAt(door, name, mech string) client {
	return client{
		name: "nmh inc " + name, needs: []string{"inc"}, trial: cyrusPlugin, door: door,
		maxLine: 8190, form: message.unix, names: true, takes: true,
		fetch: func(s *session) (string, []byte) {
			s.t.Helper()
			truncate := "-notruncate"
			if s.take {
				truncate = "-truncate"
			}
			s.write(".mh_profile", "Path: "+s.home+"/Mail\n")
			s.write("Mail/inbox/.keep", "")
			s.write(".netrc", fmt.Sprintf("machine localhost login %s password %s\n", s.user, s.password))
			shown := s.run("inc", "-host", "localhost", "-port", s.port(), "-user", s.user,
				"-sasl", "-saslmech", mech, "-snoop", truncate, "-width", "80")
			var mail []byte
			for i := range messages {
				mail = append(mail, s.read(fmt.Sprintf("Mail/inbox/%d", i+1))...)
			}
			return shown, mail
		},
	}
}

// pop3test is Cyrus's, which shows the replies as they come, dots stuffed.
// layer is the strongest security layer in its counting: 0 none, 1 integrity,
// 256 privacy.
func pop3test(name, layers, layer string) client {
	c := pop3testAt("bare", name, "GSSAPI", "-l", layer)
	c.layers, c.layered, c.sealed = layers, layer != "0", layer == "256"
	return c
}

func pop3testSCRAM(mech string) client { return pop3testAt("scram-bare", mech, mech, "-w", "PASSWORD") }

func pop3testAt(door, name, mech string, args ...string) client {
	return client{
		name: "Cyrus pop3test " + name, needs: []string{"pop3test"}, trial: cyrusPlugin, door: door,
		maxLine: anyLine, form: message.wire, names: true,
		fetch: func(s *session) (string, []byte) {
			s.t.Helper()
			var commands strings.Builder
			for i := range carried(anyLine) {
				fmt.Fprintf(&commands, "RETR %d\r\n", i+1)
			}
			s.write("commands", commands.String()) // it says QUIT itself when they end
			argv := []string{"pop3test", "-m", mech, "-u", s.user, "-a", s.user, "-p", s.port()}
			for _, a := range args {
				argv = append(argv, strings.Replace(a, "PASSWORD", s.password, 1))
			}
			shown := s.feed("commands", append(argv, "localhost")...)
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
