package peers

import (
	"regexp"
	"testing"
)

// passwordClients log in with passwords and secrets.
var passwordClients = []struct {
	user string
	client
}{
	{"carol", fetchmail("APOP", "pop3", "protocol apop", "sslproto ''")},
	{"carol", saying("TOP 1 99999999", fetchmail("APOP, keeping the mail unseen", "pop3", "protocol apop uidl", "sslproto '' no fetchall"))},
	{"carol", fetchmail("CRAM-MD5", "pop3", "protocol pop3 auth cram-md5", "sslproto ''")},
	{"alice", fetchmail("password after STLS", "pop3", "protocol pop3 auth password", "sslproto 'TLS1.2+'")},
	{"alice", fetchmail("password on POP3S", "pop3s", "protocol pop3 auth password", "ssl")},
	{"carol", curl("APOP", "pop3", "pop3", "--login-options", "AUTH=+APOP", "-u", "USER:PASSWORD")},
	{"carol", curl("CRAM-MD5", "pop3", "pop3", "--login-options", "AUTH=CRAM-MD5", "-u", "USER:PASSWORD")},
	{"alice", curl("PLAIN after STLS", "pop3", "pop3", "--ssl-reqd", "--login-options", "AUTH=PLAIN", "-u", "USER:PASSWORD")},
	{"alice", curl("PLAIN with initial response", "pop3s", "pop3s", "--sasl-ir", "--login-options", "AUTH=PLAIN", "-u", "USER:PASSWORD")},
	{"alice", curl("LOGIN after STLS", "pop3", "pop3", "--ssl-reqd", "--login-options", "AUTH=LOGIN", "-u", "USER:PASSWORD")},
	{"carol", curl("what it likes on POP3S", "pop3s", "pop3s", "-u", "USER:PASSWORD")},
	{"carol", mpop("CRAM-MD5", "pop3", "auth cram-md5")},
	{"carol", mpop("APOP after STLS", "pop3", "auth apop", "tls on", "tls_starttls on")},
	{"carol", mpop("APOP on POP3S", "pop3s", "auth apop", "tls on", "tls_starttls off")},
	// in a list that is longer than fetchmail's pieces of a line
	{"carol", fetchmail("CRAM-MD5 among many", "many", "protocol pop3 auth cram-md5", "sslproto ''")},
	{"alice", fetchmail("password among many after STLS", "many", "protocol pop3 auth password", "sslproto 'TLS1.2+'")},
	{"carol", curl("what it likes among many", "many", "pop3", "-u", "USER:PASSWORD")},
	{"dave", saying("AUTH SCRAM-SHA-256", mpop("SCRAM-SHA-256", "scram", "auth scram-sha-256"))},
	{"dave", saying("AUTH SCRAM-SHA-1", mpop("SCRAM-SHA-1", "scram", "auth scram-sha-1"))},
	{"dave", mpop("SCRAM-SHA-256 after STLS", "scram", "auth scram-sha-256", "tls on", "tls_starttls on")},
	{"dave", mpop("SCRAM-SHA-1 on POP3S", "scrams", "auth scram-sha-1", "tls on", "tls_starttls off")},
	{"dave", saying("AUTH SCRAM-SHA-256", muttSCRAM("scram", "mutt", "no"))},
	{"dave", muttSCRAM("scram", "mutt", "yes")},
	{"dave", saying("AUTH SCRAM-SHA-256", muttSCRAM("scram", "neomutt", "no"))},
	{"dave", muttSCRAM("scram-unbound", "neomutt", "yes")},
	{"dave", saying("AUTH SCRAM-SHA-256", pop3testSCRAM("SCRAM-SHA-256"))},
	{"dave", saying("AUTH SCRAM-SHA-1", pop3testSCRAM("SCRAM-SHA-1"))},
	{"alice", saying("AUTH PLAIN", pop3testAt("bare", "PLAIN", "PLAIN", "-w", "PASSWORD"))},
	{"alice", pop3testAt("pop3s", "PLAIN on POP3S", "PLAIN", "-s", "-w", "PASSWORD")},
	{"dave", saying("AUTH SCRAM-SHA-256", incSCRAM("SCRAM-SHA-256"))},
	{"carol", perl("APOP", "pop3")},
	{"carol", perl("CRAM-MD5", "pop3")},
	{"alice", perl("PLAIN", "bare")},
	{"alice", perl("LOGIN", "bare")},
	{"alice", perl("USER", "bare")},
	{"alice", python("POP3S", "pop3s")},
	{"alice", python("STLS", "pop3")},
	{"carol", python("APOP", "pop3")},
}

func TestPasswordClients(t *testing.T) {
	t.Parallel()
	for _, c := range passwordClients {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.need(t)
			srv := start(t, inProcess.realm(t).keytab, "")
			mail := carried(c.maxLine, c.rare...)
			srv.deliver(t, c.user, mail)

			begin := func(password string) *session {
				s := srv.session(t, c.door, nil)
				s.user, s.password = c.user, password
				return s
			}
			wantMail(begin("pw-"+c.user), c.client, mail)
			wantRefusal(begin("pw-wrong"), c.client, "[AUTH]")
			if c.takes {
				wantTaken(begin("pw-"+c.user), c.client, mail, srv)
			}
		})
	}
}

// neomutt of 2022 chooses -PLUS wherever it is offered, as GNU SASL has it, and
// cannot bind: it gives up, and the log says why.
func TestChoosesBindingInVain(t *testing.T) {
	t.Parallel()
	c := muttSCRAM("scram", "neomutt", "yes")
	c.need(t)
	srv := start(t, inProcess.realm(t).keytab, "")
	srv.deliver(t, "dave", carried(c.maxLine))
	s := srv.session(t, c.door, nil)
	s.user, s.password = "dave", "pw-dave"
	if _, mail := c.fetch(s); len(mail) > 0 {
		t.Fatal("it can bind: offer it -PLUS everywhere")
	}
	want := `kind=cancelled .* mechanism=SCRAM-SHA-256-PLUS .* note="the client chose channel binding and sent none"`
	if !regexp.MustCompile(want).MatchString(srv.said()) {
		t.Errorf("the log does not tell %s", want)
	}
}
