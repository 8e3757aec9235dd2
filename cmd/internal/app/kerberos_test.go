package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/krb5"
	"github.com/kpopd/kpopd/cmd/internal/certs"
	"github.com/kpopd/kpopd/kpop"
	"github.com/kpopd/kpopd/krb5test"
	"github.com/kpopd/kpopd/maildrop/maildir"
	"github.com/kpopd/kpopd/pop3/client"
)

const campus = `listeners:
  - {name: kpop, address: "127.0.0.1:0", protocol: kpop, policy: tickets}
  - {name: other, address: "127.0.0.1:0", protocol: kpop, policy: tickets}
policies:
  - {name: tickets, chain: tickets, offers: [KPOP]}
chains:
  - {name: tickets, steps: [{use: tickets}]}
verifiers:
  - {name: tickets, type: principal, local_realms: [DEMO.TEST]}
kerberos: {keytab: keytab, replay_cache: replay, keytab_reload: 0s}
maildrops: {root: mail}
`

const service = "pop/localhost"

// realm starts a KDC with alice in two realms, of which the second is trusted,
// and makes the folder of a server for it.
func realm(t *testing.T) (kdc *krb5test.KDC, configuration string) {
	t.Helper()
	kdc = krb5test.NewKDC("DEMO.TEST", "OTHER.TEST")
	kdc.AddUser("alice", "pw-alice")
	kdc.AddUser("alice@OTHER.TEST", "pw-alice")
	kdc.AddService(service)
	kdc.Trust("OTHER.TEST", "DEMO.TEST")
	dir := t.TempDir()
	configuration = filepath.Join(dir, "k.yaml")
	if err := errors.Join(
		kdc.Listen("127.0.0.1:0"),
		kdc.WriteKeytab(filepath.Join(dir, "keytab"), service),
		os.Mkdir(filepath.Join(dir, "mail"), 0o700),
		maildir.Make(filepath.Join(dir, "mail", "alice")),
		os.WriteFile(configuration, []byte(campus), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kdc.Close() })
	return kdc, configuration
}

func login(t *testing.T, kdc *krb5test.KDC, realm string) *krb5.Client {
	t.Helper()
	kc, err := krb5.NewClient(kdc.Krb5Conf(), "alice", realm, authn.Password("pw-alice"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kc.Close)
	return kc
}

func initiate(t *testing.T, kc *krb5.Client) *krb5.Initiator {
	t.Helper()
	in, err := kc.Initiate(t.Context(), service, krb5.InitOptions{Mutual: true})
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// show shows a ticket at a door and logs in as alice.
func show(ctx context.Context, s *Server, door int, in *krb5.Initiator) error {
	return showAs(ctx, s, door, in, "alice")
}

// showAs shows a ticket at a door and asks for the mail of a user.
func showAs(ctx context.Context, s *Server, door int, in *krb5.Initiator, user string) error {
	conn, err := net.Dial("tcp", s.Addrs()[door].String())
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := (&kpop.Client{}).Handshake(ctx, conn, in); err != nil {
		return err
	}
	c, err := client.New(ctx, conn, nil)
	if err != nil {
		return err
	}
	if err := c.UserPass(ctx, user, "nobody reads this"); err != nil {
		return err
	}
	return c.Quit(ctx)
}

func refusedWith(err error, code int32) bool {
	var e *kpop.ServerError
	return errors.As(err, &e) && e.Code == code
}

// A ticket is for its own user, and for others where a rule of act says so; what
// a rule knows of the ticket is known before the greeting.
func TestRulesOnTickets(t *testing.T) {
	t.Parallel()
	kdc, path := realm(t)
	text := strings.Replace(campus, "{name: tickets, chain: tickets, offers: [KPOP]}", `{name: tickets, chain: tickets, offers: [KPOP],
      rules: [{realms: [OTHER.TEST], action: deny, text: This realm is closed}],
      act: [{users: [alice], as: [support], action: allow}]}`, 1)
	text = strings.Replace(text, "local_realms: [DEMO.TEST]", "local_realms: [DEMO.TEST, OTHER.TEST]", 1)
	if err := errors.Join(
		os.WriteFile(path, []byte(text), 0o600),
		maildir.Make(filepath.Join(filepath.Dir(path), "mail", "support")),
		maildir.Make(filepath.Join(filepath.Dir(path), "mail", "bob")),
	); err != nil {
		t.Fatal(err)
	}
	s, log := serve(t, path)
	for _, c := range []struct{ realm, user, want string }{
		{"DEMO.TEST", "alice", ""},
		{"DEMO.TEST", "support", ""},
		{"DEMO.TEST", "bob", "alice@DEMO.TEST may not read bob"},
		{"OTHER.TEST", "alice", "This realm is closed"},
	} {
		err := showAs(t.Context(), s, 0, initiate(t, login(t, kdc, c.realm)), c.user)
		var refused *client.ServerError
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s of %s: %v", c.user, c.realm, err)
		case c.want != "" && (!errors.As(err, &refused) || refused.Code != "AUTH" || !strings.Contains(refused.Error(), c.want)):
			t.Errorf("%s of %s: got %v, want %q", c.user, c.realm, err, c.want)
		}
	}
	s.Shutdown(nil) // and with it the log
	for _, want := range []string{
		"mechanism=KPOP login=support user=support step=tickets principal=alice@DEMO.TEST",
		"acting_for=support actor=alice@DEMO.TEST act_rule=" + path + ":7",
		"kind=denied",
		"rule=" + path + ":6 action=deny",
	} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log does not have %q:\n%s", want, log)
		}
	}
}

// A keytab that no ticket could be checked with is refused when it is loaded, and
// not at each login.
func TestUnusableKeytab(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, service, keys, want string }{
		{"keys of the machine", "host/localhost", "", "keys for host/localhost@DEMO.TEST; add one for pop/HOST, or change services, hosts or enctypes"},
		{"another host", service, "hosts: [mail.example], ", "keys for pop/localhost@DEMO.TEST; add one for pop/HOST, or change services, hosts or enctypes"},
		{"another service", service, "services: [imap], ", "keys for pop/localhost@DEMO.TEST; add one for pop/HOST, or change services, hosts or enctypes"},
		{"another enctype", service, "enctypes: [rc4-hmac], ", "keys for pop/localhost@DEMO.TEST; add one for pop/HOST, or change services, hosts or enctypes"},
		{"the host in another case", service, "hosts: [LOCALHOST], ", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			kdc, path := realm(t)
			kdc.AddService("host/localhost")
			text := strings.Replace(campus, "{keytab: keytab, ", "{keytab: keytab, "+c.keys, 1)
			if err := errors.Join(
				kdc.WriteKeytab(filepath.Join(filepath.Dir(path), "keytab"), c.service),
				os.WriteFile(path, []byte(text), 0o600),
			); err != nil {
				t.Fatal(err)
			}
			_, err := Check(path)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), "k.yaml:10: kerberos.keytab: no ticket could be taken") || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

// One AP-REQ opens one session: not on another listener, not after a reload,
// not after a restart.
func TestRule198_ReplayedEverywhere(t *testing.T) {
	t.Parallel()
	kdc, path := realm(t)
	s, err := Start(t.Context(), path, &syncBuffer{})
	if err != nil {
		t.Fatal(err)
	}
	in := initiate(t, login(t, kdc, "DEMO.TEST"))
	if err := show(t.Context(), s, 0, in); err != nil {
		t.Fatal(err)
	}
	replayed := func(when string, door int) {
		t.Helper()
		if err := show(t.Context(), s, door, in); !refusedWith(err, krb5.CodeRepeat) {
			t.Errorf("%s: %v", when, err)
		}
	}
	replayed("on the same listener", 0)
	replayed("on another listener", 1)
	if err := s.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	replayed("after a reload", 0)
	s.Shutdown(nil)
	if s, err = Start(t.Context(), path, &syncBuffer{}); err != nil {
		t.Fatal(err)
	}
	defer s.Shutdown(nil)
	replayed("after a restart", 0)
}

// S-15: of fifty that show one AP-REQ at once, one gets in.
func TestS15_ReplayedAtOnce(t *testing.T) {
	t.Parallel()
	kdc, path := realm(t)
	s, _ := serve(t, path)
	in := initiate(t, login(t, kdc, "DEMO.TEST"))
	var wg sync.WaitGroup
	var accepted, refused atomic.Int32
	for i := range 50 {
		wg.Go(func() {
			switch err := show(t.Context(), s, i%2, in); {
			case err == nil:
				accepted.Add(1)
			case refusedWith(err, krb5.CodeRepeat):
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if accepted.Load() != 1 || refused.Load() != 49 {
		t.Errorf("%d accepted, %d refused as replays", accepted.Load(), refused.Load())
	}
}

// A new key version is known after a reload; tickets for the old one stay good
// although its key is gone from the file.
func TestKeytabRotation(t *testing.T) {
	t.Parallel()
	kdc, path := realm(t)
	s, _ := serve(t, path)
	before := login(t, kdc, "DEMO.TEST")
	if err := show(t.Context(), s, 0, initiate(t, before)); err != nil {
		t.Fatal(err)
	}
	kdc.Rotate(service)
	after := login(t, kdc, "DEMO.TEST")
	if err := show(t.Context(), s, 0, initiate(t, after)); !refusedWith(err, krb5.CodeBadKeyVer) {
		t.Errorf("the new key before the reload: %v", err)
	}
	if err := kdc.WriteKeytab(filepath.Join(filepath.Dir(path), "keytab"), service); err != nil {
		t.Fatal(err)
	}
	// what else is wrong keeps all as it was, the keytab too
	if err := os.WriteFile(path, []byte(strings.Replace(campus, `"127.0.0.1:0"`, `"192.0.2.1:1"`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Reload(t.Context()); err == nil {
		t.Error("an address that is not ours was bound")
	}
	if err := show(t.Context(), s, 0, initiate(t, after)); !refusedWith(err, krb5.CodeBadKeyVer) {
		t.Errorf("the new key after a reload that failed: %v", err)
	}
	if err := os.WriteFile(path, []byte(campus), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	for which, kc := range map[string]*krb5.Client{"old": before, "new": after} {
		if err := show(t.Context(), s, 0, initiate(t, kc)); err != nil {
			t.Errorf("a ticket for the %s key: %v", which, err)
		}
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(path), "keytab"), []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Reload(t.Context()); err == nil {
		t.Error("a torn keytab is loaded")
	}
	if err := show(t.Context(), s, 0, initiate(t, after)); err != nil {
		t.Errorf("after a torn keytab: %v", err)
	}
}

// K-1: alice of a trusted realm is not our alice.
func TestForeignRealm(t *testing.T) {
	t.Parallel()
	kdc, path := realm(t)
	s, log := serve(t, path)
	in := initiate(t, login(t, kdc, "OTHER.TEST"))
	var refused *client.ServerError
	if err := show(t.Context(), s, 0, in); !errors.As(err, &refused) || refused.Code != "AUTH" {
		t.Errorf("alice@OTHER.TEST is told %v", err)
	}
	s.Shutdown(nil)
	if !strings.Contains(log.String(), "kind=denied") || !strings.Contains(log.String(), "principal=alice@OTHER.TEST") {
		t.Errorf("the log does not say who it was:\n%s", log)
	}
}

// A reload serves renewed certificates to those who come later.
func TestReloadCertificate(t *testing.T) {
	t.Parallel()
	text := strings.Replace(base, `0", policy`, `0", tls: implicit, policy`, 1) + "certificates: [{name: x, cert: x.crt, key: x.key}]\n"
	path := folder(t, text)
	renew(t, filepath.Dir(path))
	s, _ := serve(t, path)
	old, err := serial(s)
	if err != nil {
		t.Fatal(err)
	}
	renew(t, filepath.Dir(path))
	if err := s.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if now, err := serial(s); err != nil || now == old {
		t.Errorf("after the reload: the certificate %s again, %v", now, err)
	}
}

func renew(t *testing.T, dir string) {
	t.Helper()
	ca, err := certs.NewAuthority("test CA")
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := ca.Issue("localhost")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(
		os.WriteFile(filepath.Join(dir, "x.crt"), cert, 0o600), os.WriteFile(filepath.Join(dir, "x.key"), key, 0o600),
	); err != nil {
		t.Fatal(err)
	}
}

func serial(s *Server) (string, error) {
	c, err := tls.Dial("tcp", s.Addrs()[0].String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		return "", fmt.Errorf("dial: %w", err)
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0].SerialNumber.String(), nil
}
