package app

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/emersion/go-sasl"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/gssapi"
	"github.com/kpopd/kpopd/authn/krb5"
	"github.com/kpopd/kpopd/cmd/internal/certs"
	"github.com/kpopd/kpopd/krb5test"
	"github.com/kpopd/kpopd/pop3/client"
)

// accounts are lines of a users file about alice, who has no password there, and
// what they mean to whatever else she proves herself with.
var accounts = []struct{ name, line, want string }{
	{"open", "alice:*", "+OK"},
	{"disabled", "alice:*:disabled", "AUTH"},
	{"for ever", "alice:*:expires=2999-01-01", "+OK"},
	{"ran out", "alice:*:expires=2020-01-01", "AUTH"},
	{"locked", "alice:!" + hash, "AUTH"},
	{"without a password, as in shadow", "alice:!", "+OK"},
	{"not there", "bob:*", "+OK"},
	{"open again", "alice:*", "+OK"},
}

// testAccounts writes each line, has the server read it, and logs in.
func testAccounts(t *testing.T, s *Server, users string, login func() error) {
	t.Helper()
	for _, a := range accounts {
		if err := os.WriteFile(users, []byte(a.line+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := s.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := codeOf(t, login()); got != a.want {
			t.Errorf("%s: got %s, want %s", a.name, got, a.want)
		}
	}
}

func testClosedToMechanism(t *testing.T, s *Server, users string, dial func() *client.Client, m func() sasl.Client) {
	t.Helper()
	testAccounts(t, s, users, func() error {
		c := dial()
		err := c.Auth(t.Context(), m())
		return errors.Join(err, c.Quit(t.Context()))
	})
}

const ticketsAndUsers = `listeners:
  - {name: kpop, address: "127.0.0.1:0", protocol: kpop, policy: tickets}
  - {name: pop3, address: "127.0.0.1:0", policy: plain}
policies:
  - {name: tickets, chain: all, offers: [KPOP]}
  - {name: plain, chain: all, offers: [GSSAPI]}
chains:
  - {name: all, steps: [{use: tickets}, {use: local}]}
verifiers:
  - {name: tickets, type: principal, local_realms: [DEMO.TEST]}
  - {name: local, type: file, users: users}
kerberos: {keytab: keytab, replay_cache: replay, keytab_reload: 0s}
maildrops: {root: mail}
`

// A ticket does not open an account that a users file has closed.
func TestClosedToTickets(t *testing.T) {
	t.Parallel()
	kdc, path := realm(t)
	users := filepath.Join(filepath.Dir(path), "users")
	if err := errors.Join(
		os.WriteFile(path, []byte(ticketsAndUsers), 0o600),
		os.WriteFile(users, []byte("alice:*\n"), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	s, log := serve(t, path)
	kc := login(t, kdc, "DEMO.TEST")
	t.Run("KPOP", func(t *testing.T) {
		testAccounts(t, s, users, func() error { return show(t.Context(), s, 0, initiate(t, kc)) })
	})
	t.Run("GSSAPI", func(t *testing.T) {
		testAccounts(t, s, users, func() error {
			c, err := gssapi.NewClient(t.Context(), kc, service, gssapi.Options{Mutual: true})
			if err != nil {
				t.Fatal(err)
			}
			return saslAt(t, s, c)
		})
	})
	s.Shutdown(nil) // and with it the log
	for _, want := range []string{
		`kind=denied .* mechanism=KPOP login=alice .*err="local: denied: locked in the users file"`,
		`kind=expired .* mechanism=GSSAPI .*err="local: expired: the account ran out, says the users file"`,
	} {
		if !logHas(log.String(), want) {
			t.Errorf("the log has no %s:\n%s", want, log)
		}
	}
}

// Neither does one that is judged by a helper which has the file.
func TestClosedBehindHelper(t *testing.T) {
	t.Parallel()
	d := divide(t)
	users := filepath.Join(filepath.Dir(d.helper), "users")
	h, _ := judgeFor(t, d)
	defer h.Shutdown()
	s, _ := serve(t, d.front)
	kc := login(t, d.kdc, "DEMO.TEST")
	for _, a := range accounts {
		if err := os.WriteFile(users, []byte(a.line+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := h.Reload(); err != nil {
			t.Fatal(err)
		}
		if got := codeOf(t, show(t.Context(), s, 0, initiate(t, kc))); got != a.want {
			t.Errorf("%s: got %s, want %s", a.name, got, a.want)
		}
	}
}

// Nor does a client certificate.
func TestClosedToCertificates(t *testing.T) {
	t.Parallel()
	c := newCards(t)
	card := c.issue(certs.Person{CommonName: "A", UPN: "alice@corp.example"})
	testClosedToMechanism(t, c.Server, filepath.Join(c.dir, "users"),
		func() *client.Client { return c.dial(1, card) }, func() sasl.Client { return sasl.NewExternalClient("") })
}

// patient is a client of OAUTHBEARER that waits for what the server says to the
// end (RFC 7628 section 3.2.3).
type patient struct{ sasl.Client }

func (patient) Next([]byte) ([]byte, error) { return []byte{1}, nil }

// Nor does a token.
func TestClosedToTokens(t *testing.T) {
	t.Parallel()
	c := startTokens(t)
	users := filepath.Join(filepath.Dir(c.path), "users")
	for name, m := range map[string]func() sasl.Client{
		"OAUTHBEARER": func() sasl.Client { return patient{bearer("alice", c.token(0))} },
		"XOAUTH2":     func() sasl.Client { return &legacy{login: "alice", token: c.token(0)} },
	} {
		t.Run(name, func(t *testing.T) {
			testClosedToMechanism(t, c.Server, users, func() *client.Client { return c.dial(t, false) }, m)
		})
	}
}

// What a directory has closed no ticket opens, whoever stands first in the chain;
// and when nobody can be asked, that is an outage.
func TestClosedInDirectory(t *testing.T) {
	t.Parallel()
	d, path := directory(t)
	kdc := krb5test.NewKDC("DEMO.TEST")
	for _, user := range []string{"alice", "disabled", "locked"} {
		kdc.AddUser(user, "pw-"+user)
	}
	kdc.AddService(service)
	text, err := os.ReadFile(path)
	text = []byte(strings.NewReplacer(
		`"127.0.0.1:0", policy: inside}`, `"127.0.0.1:0", protocol: kpop, policy: inside}`,
		"offers: [PLAIN, USER], plain: trusted, trusted: [127.0.0.0/8]", "offers: [KPOP]",
		"[{use: corp, timeout: 20s}, {use: gone}]", "[{use: tickets}, {use: corp, timeout: 20s}]",
		"  - {name: gone, type: deny, groups: [suspended], list: gone}\n", "  - {name: tickets, type: principal, local_realms: [DEMO.TEST]}\n",
		"disabled: popDisabled", "disabled: DISABLED",
		"maildrops:", "kerberos: {keytab: keytab, replay_cache: replay}\nmaildrops:",
	).Replace(string(text)))
	configure := func(attribute string) error {
		return os.WriteFile(path, []byte(strings.Replace(string(text), "DISABLED", attribute, 1)), 0o600)
	}
	if err := errors.Join(err, kdc.Listen("127.0.0.1:0"), kdc.WriteKeytab(filepath.Join(filepath.Dir(path), "keytab"), service), configure("popDisabled")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kdc.Close() })
	s, _ := serve(t, path)
	expect := func(when string, want map[string]string) {
		t.Helper()
		for user, want := range want {
			kc, err := krb5.NewClient(kdc.Krb5Conf(), user, "DEMO.TEST", authn.Password("pw-"+user))
			if err != nil {
				t.Fatal(err)
			}
			if got := codeOf(t, showAs(t.Context(), s, 0, initiate(t, kc), user)); got != want {
				t.Errorf("%s: %s: got %s, want %s", when, user, got, want)
			}
			kc.Close()
		}
	}
	expect("a flag", map[string]string{"alice": "+OK", "disabled": "AUTH", "locked": "+OK"})
	// the lock of OpenLDAP's password policy is a flag, when it is named as one
	if err := errors.Join(configure("pwdAccountLockedTime"), s.Reload(t.Context())); err != nil {
		t.Fatal(err)
	}
	expect("a lock", map[string]string{"alice": "+OK", "locked": "AUTH"})
	if err := errors.Join(d.Servers[0].Kill(), d.Servers[1].Kill()); err != nil {
		t.Fatal(err)
	}
	expect("dead", map[string]string{"alice": "SYS/TEMP", "locked": "SYS/TEMP"})
}
