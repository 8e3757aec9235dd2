package peers

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kpopd/kpopd/cmd/internal/certs"
)

// revoke writes a revocation list that is in date.
func (s *server) revoke(t testing.TB, revoked ...*x509.Certificate) {
	t.Helper()
	list, err := s.authority.Revoke(time.Now().Add(time.Hour), revoked...)
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, "crl.pem", string(list))
}

// card gives a client the certificate of a user, as the files card.pem and
// card.key of its home.
func (s *session) card(from *server, user string) *x509.Certificate {
	s.t.Helper()
	cert, key, err := from.authority.IssueClient(certs.Person{CommonName: "Person", UPN: user + "@Corp.Example.TEST"})
	if err != nil {
		s.t.Fatal(err)
	}
	s.write("card.pem", string(cert))
	s.write("card.key", string(key))
	block, _ := pem.Decode(cert)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		s.t.Fatal(err)
	}
	return leaf
}

// cardClients log in with a client certificate.
var cardClients = []client{
	curl("EXTERNAL after STLS", "cards", "pop3", "--ssl-reqd", "--cert", "card.pem", "--key", "card.key", "--login-options", "AUTH=EXTERNAL", "-u", "USER:"),
	curl("EXTERNAL with initial response", "cards-tls", "pop3s", "--sasl-ir", "--cert", "card.pem", "--key", "card.key", "--login-options", "AUTH=EXTERNAL", "-u", "USER:"),
	mpop("EXTERNAL after STLS", "cards", "auth external", "tls on", "tls_starttls on", "tls_cert_file card.pem", "tls_key_file card.key"),
	mpop("EXTERNAL on POP3S", "cards-tls", "auth external", "tls on", "tls_starttls off", "tls_cert_file card.pem", "tls_key_file card.key"),
}

func TestCardClients(t *testing.T) {
	t.Parallel()
	for _, c := range cardClients {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.need(t)
			srv := start(t, inProcess.realm(t).keytab, "")
			mail := carried(c.maxLine, c.rare...)
			srv.deliver(t, "alice", mail)
			srv.deliver(t, "bob", mail)
			begin := func(user, owner string) *session {
				s := srv.session(t, c.door, nil)
				s.user = user
				s.card(srv, owner)
				return s
			}
			wantMail(begin("alice", "alice"), c, mail)
			srv.line(t, "kind=accepted")
			wantNothing(begin("alice", "bob"), c)
			srv.line(t, ` for alice: may act for nobody else"`)

			revoked := begin("alice", "alice")
			leaf := revoked.card(srv, "alice")
			srv.revoke(t, leaf)
			srv.reload(t)
			wantNothing(revoked, c)
			srv.line(t, " has been revoked")
			if c.takes {
				wantTaken(begin("alice", "alice"), c, mail, srv)
			}
		})
	}
}

// wantNothing runs a client that must fail and have no mail.
func wantNothing(s *session, c client) {
	s.t.Helper()
	old, err := filepath.Glob(filepath.Join(s.home, "mail*"))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, f := range old { // of the session before
		if err := os.Remove(f); err != nil {
			s.t.Fatal(err)
		}
	}
	shown, got := c.fetch(s)
	if s.well || len(got) > 0 {
		s.t.Errorf("it has %d octets of mail and says\n%s", len(got), shown)
	}
}

// makeCards has OpenSSL make an authority, a card of alice with a Microsoft UPN,
// and a revocation list; then one that has the card.
const makeCards = `set -e
cat >ca.cnf <<X
[ca]
default_ca = staff
[staff]
database = index
default_md = sha256
[ext]
authorityKeyIdentifier = keyid
X
: >index
key="-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
openssl req -x509 $key -keyout ca.key -out ca.pem -days 2 -subj "/DC=test/DC=example/CN=Staff CA" -addext keyUsage=critical,keyCertSign,cRLSign
openssl req $key -keyout card.key -out card.csr -utf8 -subj "/DC=test/DC=example/O=Staff, \"Ex\"/UID=a17/CN=Ålice Person"
cat >card.ext <<X
subjectAltName = otherName:1.3.6.1.4.1.311.20.2.3;UTF8:alice@CORP.example.test, email:a@example.test
extendedKeyUsage = clientAuth, 1.3.6.1.4.1.311.20.2.2
X
openssl x509 -req -in card.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out card.pem -days 1 -extfile card.ext
openssl ca -config ca.cnf -gencrl -keyfile ca.key -cert ca.pem -crldays 1 -out version1.pem
openssl ca -config ca.cnf -crlexts ext -gencrl -keyfile ca.key -cert ca.pem -crldays 1 -out good.pem
openssl ca -config ca.cnf -revoke card.pem -keyfile ca.key -cert ca.pem
openssl ca -config ca.cnf -crlexts ext -gencrl -keyfile ca.key -cert ca.pem -crldays 1 -out revoked.pem
openssl crl -in good.pem -outform DER -out good.crl
`

// Certificates and lists that we have no part in: names and revocation are read
// as OpenSSL wrote them.
func TestOpenSSLMakesCards(t *testing.T) {
	t.Parallel()
	c := curl("EXTERNAL", "cards", "pop3", "--ssl-reqd", "--cert", "card.pem", "--key", "card.key", "--login-options", "AUTH=EXTERNAL", "-u", "USER:")
	c.need(t, "openssl")
	srv := start(t, inProcess.realm(t).keytab, "")
	mail := carried(c.maxLine, c.rare...)
	srv.deliver(t, "alice", mail)
	s := srv.session(t, c.door, nil)
	s.user = "alice"
	made := s.run("sh", "-c", makeCards)
	if !s.well {
		t.Fatal(made)
	}
	use := func(list string) {
		srv.write(t, "clients.pem", string(s.read("ca.pem")))
		srv.write(t, "crl.pem", string(s.read(list)))
		srv.reload(t)
	}
	srv.write(t, "clients.pem", string(s.read("ca.pem")))
	srv.write(t, "crl.pem", string(s.read("version1.pem")))
	if srv.reloads(t) {
		t.Error("a list of version 1 is taken")
	}
	srv.line(t, "the list is of version 1")
	for _, list := range []string{"good.pem", "good.crl"} {
		use(list)
		wantMail(s, c, mail)
	}
	subject := s.run("openssl", "x509", "-in", "card.pem", "-noout", "-subject", "-nameopt", "RFC2253,-esc_msb,utf8")
	subject = strings.TrimSpace(strings.TrimPrefix(subject, "subject="))
	srv.line(t, "mechanism=EXTERNAL login=alice user=alice step=cards")
	srv.line(t, "certificate="+strconv.Quote(subject))
	use("revoked.pem")
	wantNothing(s, c)
	srv.line(t, " has been revoked")
}

// OpenSSL keeps a session and resumes it. A certificate that was good in the
// first handshake is judged again.
func TestOpenSSLResumesWithACard(t *testing.T) {
	t.Parallel()
	c := client{name: "openssl s_client", needs: []string{"openssl"}, trial: "openssl s_client -help 2>&1 | grep -q nocommands"}
	c.need(t)
	for _, version := range []string{"-tls1_2", "-tls1_3"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			srv := start(t, inProcess.realm(t).keytab, "")
			srv.deliver(t, "alice", carried(anyLine))
			s := srv.session(t, "cards-tls", nil)
			leaf := s.card(srv, "alice")
			s.write("say", "AUTH EXTERNAL =\r\nSTAT\r\nQUIT\r\n")
			shake := func(session ...string) string {
				argv := append([]string{
					"openssl", "s_client", "-connect", "localhost:" + s.port(), "-CAfile", s.ca, "-verify_return_error",
					"-cert", "card.pem", "-key", "card.key", version, "-ign_eof", "-nocommands",
				}, session...)
				return s.feed("say", argv...)
			}
			first := shake("-sess_out", "kept")
			second := shake("-sess_in", "kept")
			for what, shown := range map[string]string{"New, TLS": first, "Reused, TLS": second} {
				if !strings.Contains(shown, what) || !strings.Contains(shown, "\n+OK Bye") || strings.Contains(shown, "\n-ERR ") {
					t.Errorf("no %q, or not logged in:\n%s", what, shown)
				}
			}
			srv.revoke(t, leaf)
			srv.reload(t)
			third := shake("-sess_in", "kept")
			if !strings.Contains(third, "\n-ERR ") {
				t.Errorf("a revoked certificate logs in:\n%s", third)
			}
			srv.line(t, " has been revoked")
		})
	}
}
