package krb5_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/krb5"
	"github.com/kpopd/kpopd/krb5test"
)

// FuzzAPReq changes a good AP-REQ: octet at is xored with x, then cut octets go
// and extra is put in at the same place. Whatever comes of it is refused with a
// text for the client, or says the same client as before, and is a replay to a
// server that has seen the good one. Requests that are not changes of a good one
// are in raw. A second service has the same key.
func FuzzAPReq(f *testing.F) {
	k := realm()
	k.Alias("pop/localhosT", "pop/localhost")
	kt, err := krb5.ParseKeytab(k.Keytab("pop/localhost", "pop/localhosT"))
	if err != nil {
		f.Fatal(err)
	}
	c, err := k.Mint(krb5test.Spec{AuthData: []krb5.AuthData{krb5test.IfRelevant(krb5.AuthData{Type: 128, Data: pac})}})
	if err != nil {
		f.Fatal(err)
	}
	init, err := c.Initiate(krb5.InitOptions{Mutual: true, Subkey: true, Seq: 5, AuthData: []krb5.AuthData{{Type: 143, Data: octets(4)}}})
	if err != nil {
		f.Fatal(err)
	}
	spent := &krb5.Acceptor{Keytab: kt, Replay: new(krb5.MemoryReplay), Enctypes: allEnctypes}
	accepted(f, spent, init.APReq)
	f.Add(uint16(0), byte(0), uint16(0), []byte(nil), []byte(nil))
	f.Add(uint16(bytes.Index(init.APReq, []byte("localhost"))+8), byte('t'^'T'), uint16(0), []byte(nil), []byte(nil))
	for _, at := range []uint16{0, 1, 4, 8, 20, 30, 40, 50, 60, 70, 80, 200, 500} {
		f.Add(at, byte(1), uint16(0), []byte(nil), []byte(nil))
		f.Add(at, byte(0), uint16(1), []byte{0x80}, []byte(nil))
	}
	f.Add(uint16(0), byte(0), uint16(0), []byte(nil), []byte{0x6e, 0x84, 0xff, 0xff, 0xff, 0xff})
	f.Add(uint16(0), byte(0), uint16(0), []byte(nil), bytes.Repeat([]byte{0x30, 0x80}, 100))
	f.Fuzz(func(t *testing.T, at uint16, x byte, cut uint16, extra, raw []byte) {
		b := raw
		if len(raw) == 0 {
			b = bytes.Clone(init.APReq)
			p := int(at) % len(b)
			b[p] ^= x
			b = append(append(bytes.Clone(b[:p]), extra...), b[min(len(b), p+int(cut)):]...)
		}
		if got, err := spent.Accept(t.Context(), b, krb5.Options{}); err == nil {
			t.Fatalf("accepted again, for %s", got.Principal.Ticket.Service)
		}
		a := &krb5.Acceptor{Keytab: kt, Replay: new(krb5.MemoryReplay), Enctypes: allEnctypes}
		got, err := a.Accept(t.Context(), b, krb5.Options{})
		if err == nil {
			if p := got.Principal; len(p.Components) != 1 || p.Components[0] != "alice" || p.Realm != "EXAMPLE.TEST" || !strings.EqualFold(p.Ticket.Service, "pop/localhost@EXAMPLE.TEST") {
				t.Fatalf("accepted as %q@%q for %s", p.Components, p.Realm, p.Ticket.Service)
			}
			if again, err := a.Accept(t.Context(), b, krb5.Options{}); err == nil || again != nil {
				t.Fatal("accepted twice")
			}
			return
		}
		var e *krb5.Error
		if !errors.As(err, &e) || e.Kind == authn.Internal || e.Kind == authn.Unavailable {
			t.Fatalf("%#v", err)
		}
		if _, text, err := krb5.ParseError(krb5.ErrorReply(err)); err != nil || text == "" {
			t.Fatalf("the answer cannot be read: %v", err)
		}
	})
}

// FuzzKDCReply changes what a KDC answers, as FuzzAPReq changes a request: the
// first reply or the second, or both are raw. Whatever comes of it, nobody gets
// in but alice, and no error is one of ours.
func FuzzKDCReply(f *testing.F) {
	k := campus()
	f.Add(true, uint16(0), byte(0), uint16(0), []byte(nil), []byte(nil))
	for _, at := range []uint16{0, 1, 4, 8, 20, 40, 60, 80, 120, 160, 200, 300, 500} {
		f.Add(false, at, byte(1), uint16(0), []byte(nil), []byte(nil))
		f.Add(true, at, byte(1), uint16(0), []byte(nil), []byte(nil))
		f.Add(true, at, byte(0), uint16(1), []byte{0x80}, []byte(nil))
	}
	f.Add(false, uint16(0), byte(0), uint16(0), []byte(nil), []byte{0x7e, 0x84, 0xff, 0xff, 0xff, 0xff})
	f.Add(false, uint16(0), byte(0), uint16(0), []byte(nil), bytes.Repeat([]byte{0x30, 0x80}, 100))
	f.Fuzz(func(t *testing.T, second bool, at uint16, x byte, cut uint16, extra, raw []byte) {
		requests := 0
		answer := func(request []byte) []byte {
			requests++
			if len(raw) > 0 {
				return raw
			}
			b := k.Answer(request)
			if second != (requests == 2) {
				return b
			}
			p := int(at) % len(b)
			b[p] ^= x
			return append(append(bytes.Clone(b[:p]), extra...), b[min(len(b), p+int(cut)):]...)
		}
		p := passwords(t, k, network{kdc1: answer}, krb5.PasswordOptions{})
		who, err := p.Verify(t.Context(), "alice", authn.Password("pw-alice"))
		if err == nil {
			if who.String() != "alice@EXAMPLE.TEST" || requests != 2 || len(raw) > 0 {
				t.Fatalf("%s after %d requests", who, requests)
			}
			return
		}
		var e *krb5.PasswordError
		if !errors.As(err, &e) || who != nil || e.Kind == authn.Internal || e.Kind == authn.Decline || e.Kind == authn.Malformed {
			t.Fatalf("%#v", err)
		}
		// a wrong password would be the octets' saying, not the cryptography's
		if len(raw) == 0 && second && e.Kind == authn.Rejected && e.Code == 0 {
			t.Fatalf("the right password is refused by a changed reply: %v", err)
		}
	})
}
