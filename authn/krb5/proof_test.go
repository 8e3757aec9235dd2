package krb5_test

// Faults of gokrb5 v8.4.4's own verification, shown to be none of ours.

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jcmturner/gofork/encoding/asn1"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/krb5"
	"github.com/kpopd/kpopd/krb5test"
)

// The ticket says alice@EVIL.TEST; the authenticator, which the client writes,
// says EXAMPLE.TEST.
func TestProofRealmSpoof(t *testing.T) {
	t.Parallel()
	k := realm()
	i := mint(t, k, krb5test.Spec{Realm: "EVIL.TEST"}, krb5.InitOptions{Realm: "EXAMPLE.TEST"})
	refused(t, acceptorFor(t, k), i.APReq, krb5.CodeBadMatch, authn.Rejected)
}

// A key for host/ in the keytab opens no mailbox.
func TestProofAnyServiceInKeytab(t *testing.T) {
	t.Parallel()
	k := realm("host/localhost", "imap/localhost")
	a := acceptorFor(t, k, "pop/localhost", "host/localhost", "imap/localhost")
	for _, service := range []string{"host/localhost", "imap/localhost"} {
		i := mint(t, k, krb5test.Spec{Service: service}, krb5.InitOptions{})
		refused(t, a, i.APReq, krb5.CodeNotUs, authn.Rejected)
		// and the same ticket with our name on it
		i = mint(t, k, krb5test.Spec{Service: service, NamedService: []string{"pop", "localhost"}}, krb5.InitOptions{})
		refused(t, a, i.APReq, krb5.CodeBadIntegrity, authn.Rejected)
	}
}

// A few octets of ciphertext, which need no key to make, used to panic.
func TestProofShortCiphertext(t *testing.T) {
	t.Parallel()
	for _, enctype := range append(krb5.DefaultEnctypes(), krb5.RC4) {
		t.Run(krb5.EnctypeName(enctype), func(t *testing.T) {
			t.Parallel()
			k := krb5test.NewKDC("EXAMPLE.TEST")
			k.AddService("pop/localhost", enctype)
			a := acceptorFor(t, k)
			a.Enctypes = []int32{enctype}
			i := mint(t, k, krb5test.Spec{Enctype: enctype, SessionEnctype: enctype}, krb5.InitOptions{})
			for n := range 65 {
				b := remake(t, i, nil, func(m *messages.APReq) { m.Ticket.EncPart.Cipher = octets(n) })
				refused(t, a, b, krb5.CodeBadIntegrity, authn.Rejected)
				b = remake(t, i, nil, func(m *messages.APReq) { m.EncryptedAuthenticator.Cipher = octets(n) })
				refused(t, a, b, krb5.CodeBadIntegrity, authn.Rejected)
			}
			accepted(t, a, i.APReq)
		})
	}
}

func caches(t *testing.T) map[string]krb5.ReplayCache {
	file, err := krb5.OpenFileReplay(t.TempDir() + "/replay")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return map[string]krb5.ReplayCache{"memory": new(krb5.MemoryReplay), "file": file}
}

// Of fifty that show one AP-REQ at once, one gets in.
func TestProofReplayRace(t *testing.T) {
	t.Parallel()
	for name, cache := range caches(t) {
		t.Run(name, func(t *testing.T) {
			k := realm()
			a := acceptorFor(t, k)
			a.Replay = cache
			for range 20 {
				i := mint(t, k, krb5test.Spec{}, krb5.InitOptions{})
				var in atomic.Int32
				var wg sync.WaitGroup
				start := make(chan struct{})
				for range 50 {
					wg.Go(func() {
						<-start
						if _, err := a.Accept(t.Context(), i.APReq, krb5.Options{}); err == nil {
							in.Add(1)
						}
					})
				}
				close(start)
				wg.Wait()
				if in.Load() != 1 {
					t.Fatalf("%d got in", in.Load())
				}
			}
		})
	}
}

// An authenticator whose clock runs ahead by the skew stays valid for twice the
// skew, and has to be remembered for as long.
func TestProofRemembersWhileStillValid(t *testing.T) {
	for _, ahead := range []time.Duration{-299 * time.Second, 0, 299 * time.Second} {
		t.Run(ahead.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := realm()
				a := acceptorFor(t, k)
				i := mint(t, k, krb5test.Spec{EndTime: time.Now().Add(10 * time.Hour)}, krb5.InitOptions{Time: time.Now().Add(ahead)})
				accepted(t, a, i.APReq)
				for range 12 * 60 { // 12 min
					time.Sleep(time.Second)
					_, err := a.Accept(t.Context(), i.APReq, krb5.Options{})
					if err == nil {
						t.Fatal("a replay got in")
					}
				}
			})
		})
	}
}

// Equal names of two realms at the same microsecond are two clients.
func TestProofRealmIsInReplayTag(t *testing.T) {
	t.Parallel()
	k := realm()
	a := acceptorFor(t, k)
	now := time.Now()
	for _, r := range []string{"A.TEST", "B.TEST"} {
		i := mint(t, k, krb5test.Spec{Realm: r}, krb5.InitOptions{Time: now})
		if _, err := a.Accept(t.Context(), i.APReq, krb5.Options{}); err != nil {
			t.Errorf("carol@%s: %v", r, err)
		}
		refused(t, a, i.APReq, krb5.CodeRepeat, authn.Rejected)
	}
}

// One authenticator, shown under a second name of the same key, does not make
// the cache forget the first.
func TestProofSecondServiceDoesNotEvict(t *testing.T) {
	t.Parallel()
	k := realm("pop/second")
	a := acceptorFor(t, k, "pop/localhost", "pop/second")
	now := time.Now()
	first := mint(t, k, krb5test.Spec{}, krb5.InitOptions{Time: now})
	second := mint(t, k, krb5test.Spec{Service: "pop/second"}, krb5.InitOptions{Time: now})
	accepted(t, a, first.APReq)
	accepted(t, a, second.APReq)
	refused(t, a, first.APReq, krb5.CodeRepeat, authn.Rejected)
	refused(t, a, second.APReq, krb5.CodeRepeat, authn.Rejected)
}

func TestProofEmptyServiceName(t *testing.T) {
	t.Parallel()
	k := realm()
	a := acceptorFor(t, k)
	for _, n := range [][]string{{}, {""}, {"", ""}, {"pop"}, {"pop", ""}, {"", "localhost"}, {"pop", "localhost", ""}, {"pop/localhost"}} {
		i := mint(t, k, krb5test.Spec{}, krb5.InitOptions{})
		b := remake(t, i, nil, func(m *messages.APReq) { m.Ticket.SName.NameString = n })
		refused(t, a, b, krb5.CodeNotUs, authn.Rejected)
	}
}

func TestProofShortBitStrings(t *testing.T) {
	t.Parallel()
	k := realm()
	a := acceptorFor(t, k)
	for n := range 4 {
		i := mint(t, k, krb5test.Spec{Flags: make([]byte, n)}, krb5.InitOptions{Mutual: true})
		b := remake(t, i, nil, func(m *messages.APReq) {
			m.APOptions = asn1.BitString{Bytes: m.APOptions.Bytes[:n], BitLength: 8 * n}
		})
		if c := accepted(t, a, b); c.Mutual != (n > 0) {
			t.Errorf("%d octets of ap-options: mutual is %v", n, c.Mutual)
		}
	}
	// a bit string of one bit, and one whose bit 2 is cut off
	for bits, mutual := range map[int]bool{1: false, 2: false, 3: true} {
		i := mint(t, k, krb5test.Spec{}, krb5.InitOptions{Mutual: true})
		b := remake(t, i, nil, func(m *messages.APReq) { m.APOptions = asn1.BitString{Bytes: []byte{0x20}, BitLength: bits} })
		if bits < 3 { // DER forbids set bits after the end
			b = remake(t, i, nil, func(m *messages.APReq) { m.APOptions = asn1.BitString{Bytes: []byte{0}, BitLength: bits} })
		}
		if c := accepted(t, a, b); c.Mutual != mutual {
			t.Errorf("%d bits of ap-options: mutual is %v", bits, c.Mutual)
		}
	}
}

// Authorization data of the ticket is opaque; that of the authenticator may be
// anything.
func TestProofOddAuthorizationData(t *testing.T) {
	t.Parallel()
	k := realm()
	a := acceptorFor(t, k)
	odd := []krb5.AuthData{
		krb5test.IfRelevant(),
		{Type: 1, Data: nil},
		{Type: 1, Data: []byte{0x30, 0x84, 0xff, 0xff, 0xff, 0xff}},
		{Type: 1, Data: octets(3)},
		{Type: 128, Data: nil},
		krb5test.IfRelevant(krb5.AuthData{Type: 128, Data: pac}),
		krb5test.IfRelevant(krb5.AuthData{Type: 128, Data: octets(8)}),
		krb5test.IfRelevant(krb5test.IfRelevant(krb5test.IfRelevant())),
		{Type: -1, Data: octets(5000)},
	}
	for n, d := range odd {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			i := mint(t, k, krb5test.Spec{AuthData: []krb5.AuthData{d}}, krb5.InitOptions{})
			c := accepted(t, a, remake(t, i, func(auth *types.Authenticator) {
				auth.AuthorizationData = types.AuthorizationData{{ADType: d.Type, ADData: d.Data}}
			}, nil))
			if d.Type != 1 && len(c.AuthData) != 1 {
				t.Errorf("authorization data %v", c.AuthData)
			}
		})
	}
}

// pac is one as MIT has issued them since 1.20: a header that counts two
// buffers and has no logon information.
var pac = append([]byte{2, 0, 0, 0, 0, 0, 0, 0}, make([]byte, 64)...)
