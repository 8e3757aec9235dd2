package peers

import (
	"fmt"
	"strings"
)

// cyrusPlugin is what Cyrus SASL loads for GSSAPI.
const cyrusPlugin = "ls /usr/lib/*/sasl2/libgssapiv2.so"

// inc is nmh's, which makes a file of each message with LF line ends. It aborts
// at a line of 8192 octets, and uses the strongest layer on offer.
func inc(name, layers string) client {
	return client{
		name: "nmh inc " + name, needs: []string{"inc"}, trial: cyrusPlugin, door: "bare",
		layers: layers, layered: layers != "none", sealed: strings.Contains(layers, "privacy"),
		maxLine: 8190, form: message.unix, names: true, takes: true,
		fetch: func(s *session) (string, []byte) {
			s.t.Helper()
			truncate := "-notruncate"
			if s.take {
				truncate = "-truncate"
			}
			s.write(".mh_profile", "Path: "+s.home+"/Mail\n")
			s.write("Mail/inbox/.keep", "")
			shown := s.run("inc", "-host", "localhost", "-port", s.port(), "-user", s.user,
				"-sasl", "-saslmech", "GSSAPI", "-snoop", truncate, "-width", "80")
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
	return client{
		name: "Cyrus pop3test " + name, needs: []string{"pop3test"}, trial: cyrusPlugin, door: "bare",
		layers: layers, layered: layer != "0", sealed: layer == "256",
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
