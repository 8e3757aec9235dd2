package krb5test_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/krb5"
	"github.com/kpopd/kpopd/krb5test"
)

// TestMint: each fault is the one that was asked for, and the ticket is good
// but for it.
func TestMint(t *testing.T) {
	t.Parallel()
	k := krb5test.NewKDC("EXAMPLE.TEST")
	k.AddService("pop/localhost", append(krb5.DefaultEnctypes(), krb5.RC4)...)
	k.AddService("host/localhost")
	kt, err := krb5.ParseKeytab(k.Keytab("pop/localhost", "host/localhost"))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	short := 7
	for _, tt := range []struct {
		name string
		s    krb5test.Spec
		o    krb5.InitOptions
		code int32 // 0 for none
	}{
		{"honest", krb5test.Spec{}, krb5.InitOptions{}, 0},
		{"odd authorization data", krb5test.Spec{AuthData: []krb5.AuthData{krb5test.IfRelevant(), {Type: 1, Data: []byte{9}}}}, krb5.InitOptions{}, 0},
		{"two-part client", krb5test.Spec{Client: []string{"alice", "admin"}}, krb5.InitOptions{}, 0},
		{"wrong realm", krb5test.Spec{Realm: "EVIL.TEST"}, krb5.InitOptions{Realm: "EXAMPLE.TEST"}, krb5.CodeBadMatch},
		{"changed client", krb5test.Spec{Client: []string{"mallory"}}, krb5.InitOptions{Components: []string{"alice"}}, krb5.CodeBadMatch},
		{"expired", krb5test.Spec{AuthTime: now.Add(-3 * time.Hour), EndTime: now.Add(-time.Hour)}, krb5.InitOptions{}, krb5.CodeExpired},
		{"not yet valid", krb5test.Spec{StartTime: now.Add(30 * time.Minute)}, krb5.InitOptions{}, krb5.CodeNotYetValid},
		{"invalid", krb5test.Spec{Invalid: true}, krb5.InitOptions{}, krb5.CodeNotYetValid},
		{"postdated", krb5test.Spec{Flags: []byte{2, 0, 0, 0}}, krb5.InitOptions{}, krb5.CodeNotYetValid},
		{"old authenticator", krb5test.Spec{}, krb5.InitOptions{Time: now.Add(-time.Hour)}, krb5.CodeSkew},
		{"wrong service", krb5test.Spec{Service: "host/localhost"}, krb5.InitOptions{}, krb5.CodeNotUs},
		{"wrong service under our name", krb5test.Spec{Service: "host/localhost", NamedService: []string{"pop", "localhost"}}, krb5.InitOptions{}, krb5.CodeBadIntegrity},
		{"realm of nobody", krb5test.Spec{NamedRealm: "ELSE.TEST"}, krb5.InitOptions{}, krb5.CodeNoKey},
		{"short ciphertext", krb5test.Spec{Cut: &short}, krb5.InitOptions{}, krb5.CodeBadIntegrity},
		{"wrong key", krb5test.Spec{WrongKey: true}, krb5.InitOptions{}, krb5.CodeBadIntegrity},
		{"wrong key version", krb5test.Spec{KVNO: 9}, krb5.InitOptions{}, krb5.CodeBadKeyVer},
		{"RC4", krb5test.Spec{Enctype: krb5.RC4}, krb5.InitOptions{}, krb5.CodeEtypeNoSupp},
		{"RC4 session key", krb5test.Spec{SessionEnctype: krb5.RC4}, krb5.InitOptions{}, krb5.CodeEtypeNoSupp},
		{"other enctype by name", krb5test.Spec{Enctype: krb5.AES256SHA2, NamedEnctype: krb5.AES256SHA1}, krb5.InitOptions{}, krb5.CodeBadIntegrity},
		{"unusable session key", krb5test.Spec{SessionKey: bytes.Repeat([]byte{1}, 24)}, krb5.InitOptions{}, krb5.CodeGeneric},
		{"unchecked path", krb5test.Spec{Transited: []byte("EVIL.TEST")}, krb5.InitOptions{}, krb5.CodePath},
		{"another's address", krb5test.Spec{Addresses: [][]byte{{192, 0, 2, 1}}}, krb5.InitOptions{}, krb5.CodeBadAddr},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, err := k.Mint(tt.s)
			if err != nil {
				t.Fatal(err)
			}
			i, err := c.Initiate(tt.o)
			if err != nil {
				t.Fatal(err)
			}
			a := &krb5.Acceptor{Keytab: kt, Replay: new(krb5.MemoryReplay), CheckAddresses: true}
			_, err = a.Accept(context.Background(), i.APReq, krb5.Options{})
			if tt.code == 0 && err != nil || tt.code != 0 && !isCode(err, tt.code) {
				t.Errorf("got %v, want code %d", err, tt.code)
			}
		})
	}
	if _, err := k.Mint(krb5test.Spec{Service: "pop/nowhere"}); err == nil {
		t.Error("minted for a service that is not there")
	}
}

// TestRotation: tickets are sealed with the newest key, and the keytab has all.
func TestRotation(t *testing.T) {
	t.Parallel()
	k := krb5test.NewKDC("EXAMPLE.TEST")
	k.AddService("pop/localhost")
	for want := 1; want < 4; want++ {
		c, err := k.Mint(krb5test.Spec{})
		if err != nil {
			t.Fatal(err)
		}
		i, err := c.Initiate(krb5.InitOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got, err := acceptor(t, k).Accept(t.Context(), i.APReq, krb5.Options{})
		if err != nil || got.Principal.Ticket.KVNO != want {
			t.Fatalf("%v, want key version %d", err, want)
		}
		if v := k.Rotate("pop/localhost"); v != want+1 {
			t.Errorf("rotated to version %d", v)
		}
	}
}

// TestNeed: a missing program skips, or fails where peers are required.
func TestNeed(t *testing.T) {
	for env, want := range map[string]string{"": "skip", "require": "fatal"} {
		t.Setenv("KPOPD_PEERS", env)
		r := new(recorder)
		func() {
			defer func() { recover() }()
			krb5test.Need(r, "no-such-program")
		}()
		if r.did != want {
			t.Errorf("KPOPD_PEERS=%s: %s", env, r.did)
		}
	}
	if got := krb5test.Need(t, "sh"); len(got) != 1 || got[0] == "" {
		t.Errorf("sh is at %q", got)
	}
}

// recorder ends like a test, by leaving the function.
type recorder struct{ did string }

func (*recorder) Helper()                 {}
func (r *recorder) Skipf(string, ...any)  { r.did = "skip"; panic(errors.New("skip")) }
func (r *recorder) Fatalf(string, ...any) { r.did = "fatal"; panic(errors.New("fatal")) }

// TestWrongPassword: our own client fails as kinit does.
func TestWrongPassword(t *testing.T) {
	t.Parallel()
	k := newKDC(t)
	for user, password := range map[string]string{"alice": "wrong", "nobody": "pw", "locked": "pw-locked", "stale": "pw-stale"} {
		if c, err := krb5.NewClient(k.Krb5Conf(), user, "EXAMPLE.TEST", authn.Password(password)); err == nil {
			c.Close()
			t.Errorf("%s got a ticket", user)
		}
	}
}
