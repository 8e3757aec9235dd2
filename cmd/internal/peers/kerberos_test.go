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
	inc("GSSAPI with integrity", "none, integrity"),
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
	saysNobody = " has no mailbox here" // to those who do not tell whose mail they want
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

// loggedIn is what the log says of a login.
const loggedIn = " msg=login kind=accepted "

// visits is a client that comes to its server again and again.
type visits struct {
	client
	realm *realm
	srv   *server
	mail  []message

	otherDoor, saysOtherDoor string // where its tickets are not for, and what is said there
}

func testKerberos(t *testing.T, r *realm, c client) {
	v := &visits{
		client: c, realm: r, srv: start(t, r.keytab, c.layers), mail: carried(c.maxLine, c.rare...),
		otherDoor: "kpop", saysOtherDoor: "This request was made for GSSAPI and is not good for KPOP",
	}
	if c.door == "kpop" {
		// before it was used here, it is of no use there to a thief without the session key
		v.otherDoor, v.saysOtherDoor = "pop3", "-ERR "
	}
	v.srv.deliver(t, "alice", v.mail)
	v.srv.deliver(t, "bob", v.mail)

	t.Run("collects the mail", v.collects)
	if !c.hidden { // refusals are the same inside TLS
		t.Run("is refused as alice of another realm", v.fromAnotherRealm)
		t.Run("is told that its clock is wrong", v.withWrongClock)
		t.Run("is told that a thief used its ticket first", v.afterTheft)
	}
	if !c.hidden && c.names {
		t.Run("is refused another user's mail", v.asAnotherUser)
	}
	if !c.hidden && !c.names {
		t.Run("is refused as somebody who has no mail", v.asNobody)
	}
	if !c.hidden && v.otherDoor == "kpop" {
		t.Run("collects the mail though a thief was at the other door first", v.afterDiversion)
	}
	if c.takes {
		t.Run("takes the mail away", func(t *testing.T) { wantTaken(v.begin(t, "alice", nil), c, v.mail, v.srv) })
	}
}

// begin is a session of alice with a ticket of principal.
func (v *visits) begin(t *testing.T, principal string, onTicket func([]byte)) *session {
	s := v.srv.session(t, v.door, onTicket)
	s.user, s.password = "alice", "none"
	v.realm.login(s, principal, "pw-alice", cmp.Or(v.service, "pop/localhost"))
	return s
}

func (v *visits) collects(t *testing.T) {
	s := v.begin(t, "alice", nil)
	wantMail(s, v.client, v.mail)
	if v.sealed == strings.Contains(s.tap.conversation(), "RETR") {
		t.Errorf("readable on the wire: %v, want %v", !v.sealed, v.sealed)
	}
	if got := strings.Contains(v.srv.line(t, loggedIn), " layer=true "); got != v.layered {
		t.Errorf("a security layer: %v, want %v", got, v.layered)
	}
	if v.hidden {
		return
	}
	apReq := s.tap.apReq()
	if apReq == nil {
		t.Fatal("no AP-REQ on the wire")
	}
	if reply := v.srv.present(v.door, apReq); !strings.Contains(reply, saysReplay) {
		t.Errorf("once more at the same door: %q", reply)
	}
	if reply := v.srv.present(v.otherDoor, apReq); !strings.Contains(reply, v.saysOtherDoor) {
		t.Errorf("at the other door: %q", reply)
	}
}

func (v *visits) asAnotherUser(t *testing.T) {
	s := v.begin(t, "alice", nil)
	s.user = "bob"
	wantRefusal(s, v.client, saysOther)
}

func (v *visits) asNobody(t *testing.T) {
	wantRefusal(v.begin(t, "alice/admin", nil), v.client, "alice/admin@EXAMPLE.TEST"+saysNobody)
}

func (v *visits) fromAnotherRealm(t *testing.T) {
	says := "alice@OTHER.TEST" + saysNobody
	if v.names {
		says = saysRealm
	}
	wantRefusal(v.begin(t, "alice@OTHER.TEST", nil), v.client, says)
}

func (v *visits) withWrongClock(t *testing.T) {
	s := v.begin(t, "alice", nil)
	s.skew = "+630" // seconds
	wantRefusal(s, v.client, saysSkew)
}

func (v *visits) afterTheft(t *testing.T) {
	s := v.begin(t, "alice", func(apReq []byte) {
		if reply := v.srv.present(v.door, apReq); reply != accepted {
			t.Errorf("the thief is refused with %q", reply)
		}
	})
	wantRefusal(s, v.client, saysReplay)
}

func (v *visits) afterDiversion(t *testing.T) {
	s := v.begin(t, "alice", func(apReq []byte) {
		if reply := v.srv.present(v.otherDoor, apReq); !strings.Contains(reply, v.saysOtherDoor) {
			t.Errorf("the thief is answered %q", reply)
		}
	})
	wantMail(s, v.client, v.mail)
	if s.tap.apReq() == nil {
		t.Error("nothing was stolen")
	}
}

// wantRefusal runs a client that must get nothing and show why.
func wantRefusal(s *session, c client, why string) {
	s.t.Helper()
	shown, mail := c.fetch(s)
	if len(mail) > 0 {
		s.t.Errorf("it got %d octets of mail", len(mail))
	}
	if !strings.Contains(shown, why) {
		s.t.Errorf("it does not show %q", why)
	}
}
