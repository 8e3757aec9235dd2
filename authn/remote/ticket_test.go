package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/krb5"
	"github.com/kpopd/kpopd/krb5test"
)

// site is a realm with a server that has its key here, and one that has it in a
// helper.
type site struct {
	kdc    *krb5test.KDC
	here   *krb5.Acceptor
	helper *helper
	there  *Client
}

func newSite(t *testing.T) *site {
	t.Helper()
	kdc := krb5test.NewKDC("EXAMPLE.TEST")
	kdc.AddService("pop/localhost")
	kdc.AddService("imap/localhost")
	acceptor := func() *krb5.Acceptor {
		k, err := krb5.ParseKeytab(kdc.Keytab("pop/localhost"))
		if err != nil {
			t.Fatal(err)
		}
		return &krb5.Acceptor{Keytab: k, Replay: &krb5.MemoryReplay{}, Enctypes: append(krb5.DefaultEnctypes(), krb5.RC4)}
	}
	h := serve(t, &Judge{Tickets: acceptor()})
	return &site{kdc: kdc, here: acceptor(), helper: h, there: h.client(Options{})}
}

func (s *site) mint(t *testing.T, spec krb5test.Spec, o krb5.InitOptions) *krb5.Initiator {
	t.Helper()
	c, err := s.kdc.Mint(spec)
	if err != nil {
		t.Fatal(err)
	}
	in, err := c.Initiate(o)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// An accepted ticket is worth the same on both sides of the socket: all that is
// known of it, and its keys.
func TestTicketAccepted(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, enctype := range append(krb5.DefaultEnctypes(), krb5.RC4) {
		for _, o := range []krb5.InitOptions{
			{},
			{Mutual: true, Subkey: true, Seq: 1<<32 - 1, Checksum: &krb5.Checksum{Type: 0x8003, Data: make([]byte, 24)}},
			{Mutual: true, AuthData: []krb5.AuthData{{Type: 143, Data: []byte{0, 0x40, 0, 0}}}},
		} {
			t.Run(fmt.Sprint(krb5.EnctypeName(enctype), o.Mutual, o.Subkey), func(t *testing.T) {
				t.Parallel()
				in := s.mint(t, krb5test.Spec{SessionEnctype: enctype}, o)
				want, err := s.here.Accept(within(t), in.APReq, krb5.Options{})
				if err != nil {
					t.Fatal(err)
				}
				got, err := s.there.Accept(within(t), in.APReq, krb5.Options{})
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want.Principal, got.Principal); diff != "" {
					t.Error("principal:", diff)
				}
				if diff := cmp.Diff([]any{want.Mutual, want.Checksum, want.AuthData, want.Seq}, []any{got.Mutual, got.Checksum, got.AuthData, got.Seq}); diff != "" {
					t.Error(diff)
				}
				sameKey(t, want.Session, got.Session)
				sameKey(t, want.Subkey, got.Subkey)
				if !o.Mutual {
					return
				}
				rep, err := got.APRep(nil, nil)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := in.VerifyAPRep(rep); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func sameKey(t *testing.T, a, b krb5.Key) {
	t.Helper()
	if a.IsZero() || b.IsZero() {
		if a.IsZero() != b.IsZero() {
			t.Error("one of two keys is none")
		}
		return
	}
	sealed, err := a.Encrypt(11, []byte("text"))
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := b.Decrypt(11, sealed); err != nil || !bytes.HasPrefix(plain, []byte("text")) {
		t.Errorf("another key: %q, %v", plain, err)
	}
}

// A refusal has the same code, kind and text, to the log and to the client.
func TestTicketRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	hour := time.Hour
	no := func(*krb5.Context) error {
		return &krb5.Error{Code: krb5.CodeInappCksum, Text: "Not here", Kind: authn.Denied, Err: errors.New("why")}
	}
	for name, tt := range map[string]struct {
		apReq []byte
		check func(*krb5.Context) error
	}{
		"garbage":                {[]byte("garbage"), nil},
		"too long":               {make([]byte, 200<<10), nil},
		"another service":        {s.mint(t, krb5test.Spec{Service: "imap/localhost"}, krb5.InitOptions{}).APReq, nil},
		"clock":                  {s.mint(t, krb5test.Spec{}, krb5.InitOptions{Time: time.Now().Add(-hour)}).APReq, nil},
		"refused by the check":   {s.mint(t, krb5test.Spec{}, krb5.InitOptions{}).APReq, no},
		"another error of check": {s.mint(t, krb5test.Spec{}, krb5.InitOptions{}).APReq, func(*krb5.Context) error { return errors.New("odd") }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := krb5.Options{Check: tt.check}
			_, want := s.here.Accept(within(t), tt.apReq, o)
			kc, got := s.there.Accept(within(t), tt.apReq, o)
			if kc != nil || want == nil || got == nil || got.Error() != want.Error() || authn.KindOf(got) != authn.KindOf(want) {
				t.Fatalf("got %v, want %v", got, want)
			}
			code, text, err := krb5.ParseError(krb5.ErrorReply(got))
			wantCode, wantText, _ := krb5.ParseError(krb5.ErrorReply(want))
			if code != wantCode || text != wantText || err != nil {
				t.Errorf("the client reads %d %q, %v, want %d %q", code, text, err, wantCode, wantText)
			}
			var a, b *krb5.Error
			if errors.As(got, &a) != errors.As(want, &b) {
				t.Fatalf("got a %T, want a %T", got, want)
			}
			if a != nil {
				gotType, gotName, gotRealm := a.Service()
				wantType, wantName, wantRealm := b.Service()
				if diff := cmp.Diff([]any{wantType, wantName, wantRealm}, []any{gotType, gotName, gotRealm}); diff != "" {
					t.Error("service:", diff)
				}
			}
		})
	}
}

// S-15: the helper's replay cache hears of a ticket once the front's check is
// passed, and not before; then it is good once.
func TestS15_ReplayThroughHelper(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	in := s.mint(t, krb5test.Spec{}, krb5.InitOptions{})
	checked := 0
	refuse := krb5.Options{Check: func(*krb5.Context) error {
		checked++
		return &krb5.Error{Code: krb5.CodeInappCksum, Text: "Not here", Kind: authn.Denied}
	}}
	if _, err := s.there.Accept(within(t), in.APReq, refuse); authn.KindOf(err) != authn.Denied || checked != 1 {
		t.Fatalf("checked %d times: %v", checked, err)
	}
	const at = 20
	outcomes := make(chan error, at)
	for range at {
		go func() {
			_, err := s.there.Accept(context.Background(), in.APReq, krb5.Options{})
			outcomes <- err
		}()
	}
	good := 0
	for range at {
		err := <-outcomes
		var e *krb5.Error
		switch {
		case err == nil:
			good++
		case !errors.As(err, &e) || e.Code != krb5.CodeRepeat:
			t.Error(err)
		}
	}
	if good != 1 {
		t.Errorf("accepted %d times", good)
	}
}

// A helper that goes, also in the middle of a ticket, is an outage to the
// client, in words of Kerberos.
func TestTicketOutage(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	outage := func(when string, o krb5.Options) {
		t.Helper()
		kc, err := s.there.Accept(within(t), s.mint(t, krb5test.Spec{}, krb5.InitOptions{}).APReq, o)
		code, text, _ := krb5.ParseError(krb5.ErrorReply(err))
		if kc != nil || authn.KindOf(err) != authn.Unavailable || code != krb5.CodeGeneric || text != "This server cannot check tickets now, try later" {
			t.Errorf("%s: %v, the client reads %d %q", when, err, code, text)
		}
	}
	outage("in the check", krb5.Options{Check: func(*krb5.Context) error { s.helper.stop(); return nil }})
	outage("away", krb5.Options{})
	s.helper.start()
	if _, err := s.there.Accept(within(t), s.mint(t, krb5test.Spec{}, krb5.InitOptions{}).APReq, krb5.Options{}); err != nil {
		t.Error("back:", err)
	}
	s.helper.server.SetJudge(&Judge{})
	outage("without a keytab", krb5.Options{})
}
