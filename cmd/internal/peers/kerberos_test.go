package peers

import (
	"cmp"
	"strings"
	"testing"
)

// kerberosClients log in with tickets.
var kerberosClients = []client{
	fetchmailKPOP("KPOP", "sslproto ''"),
	sealed(fetchmailKPOP("KPOP and STLS", "sslproto 'TLS1.2+'")),
	fetchmail("GSSAPI", "pop3", "protocol pop3 auth gssapi", "sslproto ''"),
	curl("GSSAPI", "pop3", "pop3", "--login-options", "AUTH=GSSAPI", "-u", ":"),
	curl("GSSAPI with authzid", "pop3", "pop3", "--login-options", "AUTH=GSSAPI", "--sasl-authzid", "USER", "-u", ":"),
	mpop("GSSAPI", "pop3", "auth gssapi"),
	mutt("mutt", "no"),
	mutt("neomutt", "no"),
	hidden(mutt("mutt", "yes")),
	hidden(mutt("neomutt", "yes")),
	hidden(curl("GSSAPI after STLS", "pop3", "pop3", "--ssl-reqd", "--login-options", "AUTH=GSSAPI", "-u", ":")),
	hidden(fetchmail("GSSAPI on POP3S", "pop3s", "protocol pop3 auth gssapi", "ssl")),
	inc("GSSAPI", "none"),
	inc("GSSAPI with privacy", "none, integrity, privacy"),
	pop3test("GSSAPI", "none", "0"),
	pop3test("GSSAPI without a layer though some are offered", "none, integrity, privacy", "0"),
	pop3test("GSSAPI with integrity", "none, integrity, privacy", "1"),
	pop3test("GSSAPI with privacy", "none, integrity, privacy", "256"),
	perl("GSSAPI", "bare"),
}

// sealed says that everything after the login is encrypted.
func sealed(c client) client {
	c.sealed = true
	return c
}

// hidden says that the login is encrypted too.
func hidden(c client) client {
	c.sealed, c.hidden = true, true
	return c
}

// What a client shows of each refusal, besides the rest of the sentence.
const (
	saysOther  = "may not read bob"
	saysRealm  = "alice@OTHER.TEST may not read alice"
	saysNobody = "alice@OTHER.TEST has no mailbox here" // to those who do not tell whose mail they want
	saysReplay = "replay"
	saysSkew   = "clock"
)

func TestKerberosClients(t *testing.T) {
	t.Parallel()
	for _, kdc := range kdcs {
		t.Run(kdc.name, func(t *testing.T) {
			t.Parallel()
			for _, c := range kerberosClients {
				t.Run(c.name, func(t *testing.T) {
					t.Parallel()
					c.need(t, ticketPrograms...)
					testKerberos(t, kdc.realm(t), c)
				})
			}
		})
	}
}

func testKerberos(t *testing.T, r *realm, c client) {
	srv := start(t, r.keytab, c.layers)
	mail := carried(c.maxLine, c.rare...)
	srv.deliver(t, "alice", mail)
	srv.deliver(t, "bob", mail)
	begin := func(t *testing.T, principal string, onTicket func([]byte)) *session {
		s := srv.session(t, c.door, onTicket)
		s.user, s.password = "alice", "none"
		r.login(s, principal, "pw-alice", cmp.Or(c.service, "pop/localhost"))
		return s
	}

	other, saysOtherDoor := "kpop", "This request was made for GSSAPI and is not good for KPOP"
	if c.door == "kpop" {
		// before it was used here, it is of no use there to a thief without the session key
		other, saysOtherDoor = "pop3", "-ERR "
	}

	t.Run("collects the mail", func(t *testing.T) {
		s := begin(t, "alice", nil)
		wantMail(s, c, mail)
		if c.sealed == strings.Contains(s.tap.conversation(), "RETR") {
			t.Errorf("readable on the wire: %v, want %v", !c.sealed, c.sealed)
		}
		if c.hidden {
			return
		}
		apReq := s.tap.apReq()
		if apReq == nil {
			t.Fatal("no AP-REQ on the wire")
		}
		if reply := srv.present(c.door, apReq); !strings.Contains(reply, saysReplay) {
			t.Errorf("once more at the same door: %q", reply)
		}
		if reply := srv.present(other, apReq); !strings.Contains(reply, saysOtherDoor) {
			t.Errorf("at the other door: %q", reply)
		}
	})
	if c.hidden {
		return // refusals are the same as outside TLS
	}
	if c.names {
		t.Run("is refused another user's mail", func(t *testing.T) {
			s := begin(t, "alice", nil)
			s.user = "bob"
			shown, got := c.fetch(s)
			wantRefusal(t, shown, got, saysOther)
		})
	}
	t.Run("is refused as alice of another realm", func(t *testing.T) {
		shown, got := c.fetch(begin(t, "alice@OTHER.TEST", nil))
		if c.names {
			wantRefusal(t, shown, got, saysRealm)
		} else {
			wantRefusal(t, shown, got, saysNobody)
		}
	})
	t.Run("is told that a thief used its ticket first", func(t *testing.T) {
		s := begin(t, "alice", func(apReq []byte) {
			if reply := srv.present(c.door, apReq); reply != accepted {
				t.Errorf("the thief is refused with %q", reply)
			}
		})
		shown, got := c.fetch(s)
		wantRefusal(t, shown, got, saysReplay)
	})
	if other == "kpop" {
		t.Run("collects the mail though a thief was at the other door first", func(t *testing.T) {
			wantMail(begin(t, "alice", func(apReq []byte) {
				if reply := srv.present(other, apReq); !strings.Contains(reply, saysOtherDoor) {
					t.Errorf("the thief is answered %q", reply)
				}
			}), c, mail)
		})
	}
	t.Run("is told that its clock is wrong", func(t *testing.T) {
		s := begin(t, "alice", nil)
		s.skew = "+630" // seconds
		shown, got := c.fetch(s)
		wantRefusal(t, shown, got, saysSkew)
	})
}

// wantRefusal checks that a client got nothing and showed why.
func wantRefusal(t *testing.T, shown string, mail []byte, why string) {
	t.Helper()
	if len(mail) > 0 {
		t.Errorf("it got %d octets of mail", len(mail))
	}
	if !strings.Contains(shown, why) {
		t.Errorf("it does not show %q", why)
	}
}
