package peers

import (
	"fmt"
)

// mutt is mutt or neomutt, which pipe each message to cat with LF line ends.
// They need a terminal, and break lines of 1022 octets. neomutt cannot be held
// to GSSAPI: it tries that first, and goes on with the password when it is
// refused. mutt waits two seconds after each refusal, so it is held to it.
// tls is what to answer to the offer of STLS. Of a refusal they tell the person
// no more than that GSSAPI failed; the server's words are in their debug log.
func mutt(program, tls string) client {
	return muttAt("pop3", program, "GSSAPI", tls, map[string]string{"mutt": `set pop_authenticators="gssapi"`}[program])
}

// muttSCRAM goes where there is nothing but SCRAM. Both have it of GNU SASL.
func muttSCRAM(door, program, tls string) client {
	return muttAt(door, program, "SCRAM-SHA-256", tls, map[string]string{"mutt": `set pop_authenticators="scram-sha-256"`}[program])
}

func muttAt(door, program, mech, tls, setting string) client {
	return client{
		name: program + " " + mech + ", TLS " + tls, needs: []string{program, "script"}, trial: program + " -v | grep -qi gss", door: door,
		maxLine: 1021, form: message.unix, names: true,
		fetch: func(s *session) (string, []byte) {
			s.t.Helper()
			rc := s.write("muttrc", fmt.Sprintf(`set pop_user=%[1]q pop_pass=%[6]q pop_checkinterval=0 pop_delete=no pop_reconnect=no
set certificate_file=%[2]q ssl_starttls=%[3]s ssl_force_tls=no
set folder=%[4]q spoolfile=spool mbox=mbox record="" move=no confirmappend=no
set pipe_split=yes pipe_sep="" pipe_decode=no wait_key=no quit=yes sleep_time=0 beep=no
set header_cache="" message_cachedir="" sort=mailbox-order
unset mark_old
%[5]s
`, s.user, s.ca, tls, s.home, setting, s.password))
			keys := `push "<tag-pattern>~A<enter><tag-prefix><pipe-message>cat >>` + s.home + `/mail<enter><exit>"`
			shown := s.run("script", "-qec",
				fmt.Sprintf("%s -n -F %s -d 2 -f pop://%s@localhost:%s/ -e '%s'", program, rc, s.user, s.port(), keys), "/dev/null")
			return shown + string(s.read("."+program+"debug0")), s.read("mail")
		},
	}
}
