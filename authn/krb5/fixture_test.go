package krb5_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jcmturner/gofork/encoding/asn1"
	"github.com/jcmturner/gokrb5/v8/asn1tools"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"
	"go.uber.org/goleak"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/krb5"
	"github.com/kpopd/kpopd/krb5test"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// realm has services in EXAMPLE.TEST and serves nobody: tickets are minted.
func realm(services ...string) *krb5test.KDC {
	k := krb5test.NewKDC("EXAMPLE.TEST")
	for _, s := range append([]string{"pop/localhost"}, services...) {
		k.AddService(s)
	}
	return k
}

// acceptorFor has a keytab of the named services, pop/localhost by default.
func acceptorFor(t testing.TB, k *krb5test.KDC, services ...string) *krb5.Acceptor {
	t.Helper()
	if len(services) == 0 {
		services = []string{"pop/localhost"}
	}
	kt, err := krb5.ParseKeytab(k.Keytab(services...))
	if err != nil {
		t.Fatal(err)
	}
	return &krb5.Acceptor{Keytab: kt, Replay: new(krb5.MemoryReplay)}
}

// mint makes an AP-REQ.
func mint(t testing.TB, k *krb5test.KDC, s krb5test.Spec, o krb5.InitOptions) *krb5.Initiator {
	t.Helper()
	c, err := k.Mint(s)
	if err != nil {
		t.Fatal(err)
	}
	i, err := c.Initiate(o)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// remake changes the authenticator and the message around it.
func remake(t testing.TB, i *krb5.Initiator, auth func(*types.Authenticator), msg func(*messages.APReq)) []byte {
	t.Helper()
	var m messages.APReq
	if err := m.Unmarshal(i.APReq); err != nil {
		t.Fatal(err)
	}
	if auth != nil {
		plain, err := i.Session.Decrypt(11, m.EncryptedAuthenticator.Cipher)
		if err != nil {
			t.Fatal(err)
		}
		var a types.Authenticator
		if err := a.Unmarshal(plain); err != nil {
			t.Fatal(err)
		}
		auth(&a)
		b, err := asn1.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		if m.EncryptedAuthenticator.Cipher, err = i.Session.Encrypt(11, asn1tools.AddASNAppTag(b, 2)); err != nil {
			t.Fatal(err)
		}
	}
	if msg != nil {
		msg(&m)
	}
	b, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// accepted checks that a takes b, for client alice@EXAMPLE.TEST.
func accepted(t testing.TB, a *krb5.Acceptor, b []byte) *krb5.Context {
	t.Helper()
	c, err := a.Accept(context.Background(), b, krb5.Options{})
	if err != nil {
		t.Fatalf("refused: %v", err)
	}
	if p := c.Principal; !cmp.Equal(p.Components, []string{"alice"}) || p.Realm != "EXAMPLE.TEST" {
		t.Fatalf("accepted as %q@%q", p.Components, p.Realm)
	}
	return c
}

// refused checks that a refuses b with the code and the kind, and says so in
// one line of ASCII to the client. It returns that line.
func refused(t testing.TB, a *krb5.Acceptor, b []byte, code int32, kind authn.Kind) string {
	t.Helper()
	c, err := a.Accept(context.Background(), b, krb5.Options{})
	if err == nil {
		t.Fatalf("accepted as %q@%q", c.Principal.Components, c.Principal.Realm)
	}
	var e *krb5.Error
	if !errors.As(err, &e) || c != nil {
		t.Fatalf("context %v and error %#v", c, err)
	}
	if e.Code != code || e.Kind != kind || authn.KindOf(err) != kind {
		t.Errorf("code %d, kind %v, want %d and %v: %v", e.Code, e.Kind, code, kind, err)
	}
	got, text, err := krb5.ParseError(krb5.ErrorReply(err))
	if err != nil || got != e.Code || text != e.Text || text == "" {
		t.Errorf("the client reads code %d, %q, %v; the error is %q", got, text, err, e.Text)
	}
	for _, r := range e.Text {
		if r < ' ' || r > '~' {
			t.Errorf("%q in the text %q", r, e.Text)
		}
	}
	return e.Text
}

// octets returns n octets that are no secret.
func octets(n int) []byte { return bytes.Repeat([]byte{0x5a}, n) }

func ago(d time.Duration) time.Time { return time.Now().Add(-d) }
