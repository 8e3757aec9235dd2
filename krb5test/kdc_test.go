package krb5test_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jcmturner/gokrb5/v8/client"
	"github.com/jcmturner/gokrb5/v8/config"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/krb5"
	"github.com/kpopd/kpopd/krb5test"
)

// newKDC serves two realms of which the second is trusted.
func newKDC(t *testing.T) *krb5test.KDC {
	t.Helper()
	k := krb5test.NewKDC("EXAMPLE.TEST", "OTHER.TEST")
	k.AddUser("alice", "pw-alice")
	k.AddUser("sha2", "pw-sha2", krb5.AES256SHA2, krb5.AES128SHA2)
	k.AddUser("locked", "pw-locked")
	k.Lock("locked")
	k.AddUser("stale", "pw-stale")
	k.ExpirePassword("stale")
	k.AddUser("alice@OTHER.TEST", "pw-alice")
	k.AddService("pop/localhost")
	k.AddService("pop/other@OTHER.TEST")
	k.Trust("OTHER.TEST", "EXAMPLE.TEST")
	if err := k.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	return k
}

func acceptor(t *testing.T, k *krb5test.KDC) *krb5.Acceptor {
	t.Helper()
	kt, err := krb5.ParseKeytab(k.Keytab("pop/localhost"))
	if err != nil {
		t.Fatal(err)
	}
	return &krb5.Acceptor{Keytab: kt, Replay: new(krb5.MemoryReplay)}
}

// TestClient: our own client gets tickets of each enctype, and of both realms,
// that the acceptor takes.
func TestClient(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ user, realm, password string }{
		{"alice", "EXAMPLE.TEST", "pw-alice"},
		{"sha2", "EXAMPLE.TEST", "pw-sha2"},
		{"alice", "OTHER.TEST", "pw-alice"},
	} {
		for _, enctype := range krb5.DefaultEnctypes() {
			t.Run(tt.user+"@"+tt.realm+" "+krb5.EnctypeName(enctype), func(t *testing.T) {
				t.Parallel()
				k := newKDC(t)
				k.SessionEnctypes("pop/localhost", enctype)
				c, err := krb5.NewClient(k.Krb5Conf(), tt.user, tt.realm, authn.Password(tt.password))
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				i, err := c.Initiate(t.Context(), "pop/localhost", krb5.InitOptions{Mutual: true, Subkey: true, Seq: 7})
				if err != nil {
					t.Fatal(err)
				}
				got, err := acceptor(t, k).Accept(t.Context(), i.APReq, krb5.Options{})
				if err != nil {
					t.Fatal(err)
				}
				if p := got.Principal; p.Realm != tt.realm || len(p.Components) != 1 || p.Components[0] != tt.user {
					t.Errorf("principal %v@%s", p.Components, p.Realm)
				}
				if got.Session.Enctype() != enctype || got.Subkey.Enctype() != enctype || got.Seq != 7 || !got.Mutual {
					t.Errorf("session %d, subkey %d, seq %d, mutual %v", got.Session.Enctype(), got.Subkey.Enctype(), got.Seq, got.Mutual)
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
}

// A KDC whose address was taken is closed like any other.
func TestCloseWithoutListening(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	k := krb5test.NewKDC("EXAMPLE.TEST")
	if err := k.Listen(taken.Addr().String()); err == nil {
		t.Error("it listens where another one does")
	}
	if err := k.Close(); err != nil {
		t.Error(err)
	}
}

// TestRealClients: MIT's kinit, kvno and klist work with the KDC, over UDP and
// over TCP, and say what is wrong in words.
func TestRealClients(t *testing.T) {
	t.Parallel()
	krb5test.Need(t, "kinit", "kvno", "klist")
	for _, transport := range []string{"tcp", "udp"} {
		for _, tt := range []struct{ name, user, password, service, want string }{
			{"right", "alice", "pw-alice", "pop/localhost", "pop/localhost@EXAMPLE.TEST: kvno = 1"},
			{"sha2", "sha2", "pw-sha2", "pop/localhost", "pop/localhost@EXAMPLE.TEST: kvno = 1"},
			{"other realm", "alice@OTHER.TEST", "pw-alice", "pop/localhost@EXAMPLE.TEST", "pop/localhost@EXAMPLE.TEST: kvno = 1"},
			{"trust is one way", "alice", "pw-alice", "pop/other@OTHER.TEST", "not found in Kerberos database"},
			{"wrong password", "alice", "pw", "", "Password incorrect"},
			{"unknown client", "nobody", "pw", "", "not found in Kerberos database"},
			{"unknown service", "alice", "pw-alice", "imap/localhost", "not found in Kerberos database"},
			{"locked", "locked", "pw-locked", "", "revoked"},
			{"expired password", "stale", "pw-stale", "", "Password expired"},
		} {
			t.Run(transport+" "+tt.name, func(t *testing.T) {
				t.Parallel()
				out := kinit(t, newKDC(t), transport, tt.user, tt.password, tt.service)
				if !strings.Contains(out, tt.want) {
					t.Errorf("got\n%s\nwant %q in it", out, tt.want)
				}
			})
		}
	}
}

// kinit runs kinit, kvno and klist in a folder of their own.
func kinit(t *testing.T, k *krb5test.KDC, transport, user, password, service string) string {
	t.Helper()
	dir := t.TempDir()
	conf := k.Krb5Conf()
	if transport == "udp" {
		conf = strings.Replace(conf, "udp_preference_limit = 1\n", "udp_preference_limit = 32000\n", 1)
	}
	path := filepath.Join(dir, "krb5.conf")
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	run := func(in, name string, args ...string) string {
		p, err := krb5test.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(ctx, p, args...)
		cmd.Env = append(os.Environ(), "LC_ALL=C", "KRB5_CONFIG="+path, "KRB5CCNAME=FILE:"+filepath.Join(dir, "cc"))
		cmd.Stdin = strings.NewReader(in)
		out, _ := cmd.CombinedOutput()
		return string(out)
	}
	out := run(password+"\n", "kinit", user)
	if service != "" {
		out += run("", "kvno", service) + run("", "klist", "-e")
	}
	return out
}

// TestTooBigForUDP: a reply that does not fit a datagram is fetched over TCP.
func TestTooBigForUDP(t *testing.T) {
	t.Parallel()
	krb5test.Need(t, "kinit", "kvno", "klist")
	k := newKDC(t)
	service := "pop/" + strings.Repeat("a", 1500)
	k.AddService(service)
	if out := kinit(t, k, "udp", "alice", "pw-alice", service); !strings.Contains(out, "kvno = 1") {
		t.Errorf("got\n%s", out)
	}
}

// TestSkewedClients: a clock that is ten minutes off gets no ticket.
func TestSkewedClients(t *testing.T) {
	t.Parallel()
	krb5test.Need(t, "faketime", "kinit")
	k := newKDC(t)
	dir := t.TempDir()
	conf := filepath.Join(dir, "krb5.conf")
	// kdc_timesync lets kinit ask again with the KDC's time
	text := strings.Replace(k.Krb5Conf(), "[libdefaults]\n", "[libdefaults]\n    kdc_timesync = 0\n", 1)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	env := append(os.Environ(), "LC_ALL=C", "KRB5_CONFIG="+conf, "KRB5CCNAME=FILE:"+filepath.Join(dir, "cc"))
	for _, off := range []string{"+10m", "-10m"} {
		out := runIn(t, env, "pw-alice\n", "faketime", "-f", off, "kinit", "alice")
		if !strings.Contains(out, "Clock skew too great") {
			t.Errorf("%s: %s", off, out)
		}
	}
}

// TestTrustIsOneWayForHostileClients: a ticket-granting ticket of one realm is
// none of another, though one KDC serves both. kvno never asks so.
func TestTrustIsOneWayForHostileClients(t *testing.T) {
	t.Parallel()
	k := newKDC(t)
	conf, err := config.NewFromString(k.Krb5Conf())
	if err != nil {
		t.Fatal(err)
	}
	c := client.NewWithPassword("alice", "EXAMPLE.TEST", "pw-alice", conf, client.DisablePAFXFAST(true))
	defer c.Destroy()
	req, err := messages.NewASReqForTGT("EXAMPLE.TEST", conf, c.Credentials.CName())
	if err != nil {
		t.Fatal(err)
	}
	tgt, err := c.ASExchange("EXAMPLE.TEST", req, 0)
	if err != nil {
		t.Fatal(err)
	}
	for realm, want := range map[string]string{"OTHER.TEST": "NOT_US", "EXAMPLE.TEST": ""} {
		service := types.NewPrincipalName(2, map[string]string{"OTHER.TEST": "pop/other", "EXAMPLE.TEST": "pop/localhost"}[realm])
		_, _, err := c.TGSREQGenerateAndExchange(service, realm, tgt.Ticket, tgt.DecryptedEncPart.Key, false)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", realm, err)
		}
	}
}

// FuzzKDC: whatever comes, the KDC goes on and answers with an error or not at
// all.
func FuzzKDC(f *testing.F) {
	k := krb5test.NewKDC("EXAMPLE.TEST")
	f.Add([]byte{0x6a, 0x03, 0x30, 0x01, 0x00})
	f.Add([]byte{0x6c, 0x03, 0x30, 0x01, 0x00})
	f.Add([]byte(nil))
	conf, err := config.NewFromString("[libdefaults]\n default_realm = EXAMPLE.TEST\n")
	if err != nil {
		f.Fatal(err)
	}
	conf.LibDefaults.NoAddresses = true
	req, err := messages.NewASReqForTGT("EXAMPLE.TEST", conf, types.NewPrincipalName(1, "alice"))
	if err != nil {
		f.Fatal(err)
	}
	b, err := req.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if reply := k.Answer(b); len(reply) > 0 {
			if _, _, err := krb5.ParseError(reply); err != nil {
				t.Errorf("answer %x: %v", reply, err)
			}
		}
	})
}
