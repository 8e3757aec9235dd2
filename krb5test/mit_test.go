package krb5test_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/krb5"
	"github.com/kpopd/kpopd/krb5test"
)

// startMIT starts MIT's KDC for one test.
func startMIT(t *testing.T) *krb5test.MIT {
	t.Helper()
	krb5test.Need(t, "krb5kdc", "kdb5_util", "kadmin.local")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	m, err := krb5test.StartMIT(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Stop(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func mitAcceptor(t *testing.T, m *krb5test.MIT) *krb5.Acceptor {
	t.Helper()
	kt, err := krb5.OpenKeytab(m.Keytab())
	if err != nil {
		t.Fatal(err)
	}
	return &krb5.Acceptor{Keytab: kt, Replay: new(krb5.MemoryReplay)}
}

// TestMIT: tickets of MIT's KDC, with its PAC, in each enctype and of both
// realms; RC4 only where it is configured.
func TestMIT(t *testing.T) {
	t.Parallel()
	m := startMIT(t)
	for _, tt := range []struct {
		realm, session string
		enctype        int32
	}{
		{"EXAMPLE.TEST", "aes256-sha2", krb5.AES256SHA2},
		{"EXAMPLE.TEST", "aes128-sha2", krb5.AES128SHA2},
		{"EXAMPLE.TEST", "aes256-sha1", krb5.AES256SHA1},
		{"EXAMPLE.TEST", "aes128-sha1", krb5.AES128SHA1},
		{"EXAMPLE.TEST", "rc4", krb5.RC4},
		{"OTHER.TEST", "aes256-sha2", krb5.AES256SHA2},
	} {
		t.Run(tt.realm+" "+tt.session, func(t *testing.T) {
			if err := m.SessionEnctypes(t.Context(), "pop/localhost", tt.session); err != nil {
				t.Fatal(err)
			}
			c, err := krb5.NewClient(m.Krb5Conf(), "alice", tt.realm, authn.Password("pw-alice"))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			i, err := c.Initiate(t.Context(), "pop/localhost", krb5.InitOptions{Mutual: true, Subkey: true, Seq: 1})
			if err != nil {
				t.Fatal(err)
			}
			a := mitAcceptor(t, m)
			if tt.enctype == krb5.RC4 {
				if _, err := a.Accept(t.Context(), i.APReq, krb5.Options{}); authn.KindOf(err) != authn.Denied {
					t.Fatalf("RC4: %v", err)
				}
				a.Enctypes = append(krb5.DefaultEnctypes(), krb5.RC4)
			}
			got, err := a.Accept(t.Context(), i.APReq, krb5.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if got.Principal.Realm != tt.realm || got.Session.Enctype() != tt.enctype {
				t.Errorf("realm %s, session key %s", got.Principal.Realm, got.Principal.Ticket.SessionEnctype)
			}
			if p := got.Principal.Ticket; p.Service != "pop/localhost@EXAMPLE.TEST" || p.KVNO != 1 || p.Enctype != "aes256-cts-hmac-sha1-96" {
				t.Errorf("ticket %+v", p)
			}
			rep, err := got.APRep(nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := i.VerifyAPRep(rep); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestMITRotation: a new key version in the keytab, and tickets of both.
func TestMITRotation(t *testing.T) {
	t.Parallel()
	m := startMIT(t)
	login := func() *krb5.Client {
		c, err := krb5.NewClient(m.Krb5Conf(), "bob", "EXAMPLE.TEST", authn.Password("pw-bob"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	}
	a := mitAcceptor(t, m)
	old, err := login().Ticket(t.Context(), "pop/localhost")
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Rotate(t.Context(), "pop/localhost", m.Keytab()); err != nil {
		t.Fatal(err)
	}
	fresh, err := login().Ticket(t.Context(), "pop/localhost")
	if err != nil {
		t.Fatal(err)
	}
	accept := func(c *krb5.Credential) (int, error) {
		i, err := c.Initiate(krb5.InitOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got, err := a.Accept(t.Context(), i.APReq, krb5.Options{})
		if err != nil {
			return 0, err
		}
		return got.Principal.Ticket.KVNO, nil
	}
	if _, err := accept(fresh); !isCode(err, krb5.CodeBadKeyVer) {
		t.Errorf("before the reload: %v", err)
	}
	if !a.Keytab.Changed() {
		t.Error("the keytab's change was not seen")
	}
	if err := a.Keytab.Reload(); err != nil {
		t.Fatal(err)
	}
	if a.Keytab.Changed() {
		t.Error("the keytab changed by being loaded")
	}
	for want, c := range map[int]*krb5.Credential{1: old, 2: fresh} {
		if kvno, err := accept(c); err != nil || kvno != want {
			t.Errorf("version %d, %v, want %d", kvno, err, want)
		}
	}
}

func isCode(err error, code int32) bool {
	e, ok := errors.AsType[*krb5.Error](err)
	return ok && e.Code == code
}

// TestMITClients: kinit says what MIT's KDC says, and kvno gets the key version
// that the acceptor reports.
func TestMITClients(t *testing.T) {
	t.Parallel()
	krb5test.Need(t, "kinit", "kvno", "klist")
	m := startMIT(t)
	for _, tt := range []struct{ name, user, password, service, want string }{
		{"right", "alice", "pw-alice", "pop/localhost", "kvno = 1"},
		{"other realm", "alice@OTHER.TEST", "pw-alice", "pop/localhost@EXAMPLE.TEST", "kvno = 1"},
		{"short-lived", "short", "pw-short", "pop/localhost", "kvno = 1"},
		{"wrong password", "alice", "pw", "", "Password incorrect"},
		{"locked", "locked", "pw-locked", "", "revoked"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out := runIn(t, m.Env(), tt.password+"\n", "kinit", tt.user)
			if tt.service != "" {
				out += runIn(t, m.Env(), "", "kvno", tt.service) + runIn(t, m.Env(), "", "klist", "-e")
			}
			if !strings.Contains(out, tt.want) {
				t.Errorf("got\n%s\nwant %q in it", out, tt.want)
			}
		})
	}
}

func runIn(t *testing.T, env []string, in, program string, args ...string) string {
	t.Helper()
	path := krb5test.Need(t, program)[0]
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env, cmd.Stdin = env, strings.NewReader(in)
	out, _ := cmd.CombinedOutput() // the caller looks at what was said
	return string(out)
}

// TestMITStop: the KDC is gone after Stop, and Stop may be called again.
func TestMITStop(t *testing.T) {
	t.Parallel()
	m := startMIT(t)
	for range 2 {
		if err := m.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := krb5.NewClient(m.Krb5Conf(), "alice", "EXAMPLE.TEST", authn.Password("pw-alice")); err == nil {
		t.Error("a stopped KDC gave a ticket")
	}
}

// Where nothing is installed, StartMIT says so.
// A KDC whose port is somebody else's is not taken for one that is up.
func TestMITPortTaken(t *testing.T) {
	t.Parallel()
	m := startMIT(t)
	if err := m.Stop(); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", m.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := m.Serve(t.Context()); !errors.Is(err, krb5test.ErrEnded) {
		t.Errorf("at a port that is taken: %v", err)
	}
}

func TestMITNotInstalled(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := os.Stat("/usr/sbin/krb5kdc"); err == nil {
		t.Skip("MIT's KDC is in /usr/sbin, where it is looked for whatever PATH says")
	}
	if _, err := krb5test.StartMIT(t.Context(), t.TempDir()); !errors.Is(err, krb5test.ErrNotInstalled) {
		t.Errorf("got %v", err)
	}
}

// TestKeytabFile: klist reads the keytabs that we write.
func TestKeytabFile(t *testing.T) {
	t.Parallel()
	krb5test.Need(t, "klist")
	k := newKDC(t)
	k.Rotate("pop/localhost")
	path := filepath.Join(t.TempDir(), "keytab")
	if err := k.WriteKeytab(path, "pop/localhost", "alice"); err != nil {
		t.Fatal(err)
	}
	out := runIn(t, append(os.Environ(), "LC_ALL=C"), "", "klist", "-ke", path)
	for _, want := range []string{
		"   1 pop/localhost@EXAMPLE.TEST (aes128-cts-hmac-sha1-96)",
		"   2 pop/localhost@EXAMPLE.TEST (aes256-cts-hmac-sha384-192)",
		"   1 alice@EXAMPLE.TEST (aes256-cts-hmac-sha1-96)",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("got\n%s\nwant %q in it", out, want)
		}
	}
	kt, err := os.ReadFile(path)
	if err != nil || !bytes.HasPrefix(kt, []byte{5, 2}) {
		t.Errorf("%v, %x", err, kt[:2])
	}
	c, err := krb5.NewClientFromKeytab(k.Krb5Conf(), "alice", "EXAMPLE.TEST", kt)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Ticket(t.Context(), "pop/localhost"); err != nil {
		t.Error(err)
	}
}
