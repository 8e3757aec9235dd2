package krb5_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/krb5"
	"github.com/kpopd/kpopd/krb5test"
)

func TestAcceptEveryEnctype(t *testing.T) {
	t.Parallel()
	for _, ticket := range allEnctypes {
		for _, session := range allEnctypes {
			k := krb5test.NewKDC("EXAMPLE.TEST")
			k.AddService("pop/localhost", ticket)
			a := acceptorFor(t, k)
			a.Enctypes = allEnctypes
			i := mint(t, k, krb5test.Spec{Enctype: ticket, SessionEnctype: session}, krb5.InitOptions{Mutual: true, Subkey: true, Seq: 0xfffffffe})
			c := accepted(t, a, i.APReq)
			if !c.Mutual || c.Seq != 0xfffffffe || c.Session.Enctype() != session || c.Subkey.Enctype() != session {
				t.Errorf("context %+v", c)
			}
			want := authn.Ticket{Service: "pop/localhost@EXAMPLE.TEST", Enctype: krb5.EnctypeName(ticket), SessionEnctype: krb5.EnctypeName(session), KVNO: 1}
			got := *c.Principal.Ticket
			if d := time.Until(got.End); d > time.Hour || d < 59*time.Minute || !got.End.Equal(c.Principal.Expires) || time.Since(got.Start) > time.Minute {
				t.Errorf("valid from %v to %v", got.Start, got.End)
			}
			got.Start, got.End = time.Time{}, time.Time{}
			if d := cmp.Diff(want, got); d != "" {
				t.Error(d)
			}
			sub, err := krb5.NewKey(session)
			if err != nil {
				t.Fatal(err)
			}
			seq := uint32(0xffffffff)
			rep, err := c.APRep(&sub, &seq)
			if err != nil {
				t.Fatal(err)
			}
			r, err := i.VerifyAPRep(rep)
			if err != nil || r.Seq != seq || r.Subkey.Enctype() != session {
				t.Errorf("AP-REP: %+v, %v", r, err)
			}
		}
	}
}

// An AP-REP proves the server to the one who asked, and to nobody else.
func TestAPRepIsForOneRequest(t *testing.T) {
	t.Parallel()
	k := realm()
	a := acceptorFor(t, k)
	c, err := k.Mint(krb5test.Spec{})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	var reps [][]byte
	var inits []*krb5.Initiator
	for n := range 2 { // two requests with one session key
		i, err := c.Initiate(krb5.InitOptions{Mutual: true, Time: now.Add(time.Duration(n) * time.Microsecond)})
		if err != nil {
			t.Fatal(err)
		}
		rep, err := accepted(t, a, i.APReq).APRep(nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		inits, reps = append(inits, i), append(reps, rep)
	}
	for n, i := range inits {
		if _, err := i.VerifyAPRep(reps[n]); err != nil {
			t.Error(err)
		}
		if _, err := i.VerifyAPRep(reps[1-n]); err == nil {
			t.Error("the answer to the other request passes")
		}
		for at := range reps[n] {
			b := append([]byte(nil), reps[n]...)
			b[at] ^= 1
			if r, err := i.VerifyAPRep(b); err == nil && (r.Seq != 0 || !r.Subkey.IsZero()) {
				t.Fatalf("octet %d changed: %+v", at, r)
			}
		}
	}
	if _, err := inits[0].VerifyAPRep(nil); err == nil {
		t.Error("nothing passes")
	}
}

func TestClockSkewIsToldInWords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := realm()
		a := acceptorFor(t, k)
		for _, tt := range []struct {
			off  time.Duration
			want string // "" for accepted
		}{
			{0, ""},
			{5 * time.Minute, ""},
			{-5 * time.Minute, ""},
			{5*time.Minute + time.Second, "5m1s ahead of"},
			{-5*time.Minute - time.Second, "5m1s behind"},
			{10*time.Minute + 12*time.Second, "10m12s ahead of"},
			{24 * 365 * time.Hour, "8760h0m0s ahead of"},
		} {
			i := mint(t, k, krb5test.Spec{}, krb5.InitOptions{Time: time.Now().Add(tt.off)})
			if tt.want == "" {
				accepted(t, a, i.APReq)
			} else if text := refused(t, a, i.APReq, krb5.CodeSkew, authn.Rejected); !strings.Contains(text, tt.want) {
				t.Errorf("%v: %q", tt.off, text)
			}
		}
		a.Skew = time.Minute
		refused(t, a, mint(t, k, krb5test.Spec{}, krb5.InitOptions{Time: ago(2 * time.Minute)}).APReq, krb5.CodeSkew, authn.Rejected)
	})
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	k := realm()
	v4, v6 := []byte{192, 0, 2, 1}, netip.MustParseAddr("2001:db8::1").AsSlice()
	for _, tt := range []struct {
		name      string
		check     bool
		addresses [][]byte
		remote    netip.Addr
		want      bool
	}{
		{"not checked", false, [][]byte{v4}, netip.MustParseAddr("198.51.100.7"), true},
		{"no addresses", true, nil, netip.MustParseAddr("198.51.100.7"), true},
		{"one of two", true, [][]byte{v4, v6}, netip.MustParseAddr("2001:db8::1"), true},
		{"IPv4 in IPv6", true, [][]byte{v4}, netip.MustParseAddr("::ffff:192.0.2.1"), true},
		{"another", true, [][]byte{v4, v6}, netip.MustParseAddr("192.0.2.2"), false},
		{"unknown", true, [][]byte{v4}, netip.Addr{}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := acceptorFor(t, k)
			a.CheckAddresses = tt.check
			i := mint(t, k, krb5test.Spec{Addresses: tt.addresses}, krb5.InitOptions{})
			_, err := a.Accept(t.Context(), i.APReq, krb5.Options{Remote: tt.remote})
			if (err == nil) != tt.want {
				t.Error(err)
			}
			var e *krb5.Error
			if !tt.want && (!errors.As(err, &e) || e.Code != krb5.CodeBadAddr) {
				t.Error(err)
			}
		})
	}
}

func TestOddMessages(t *testing.T) {
	t.Parallel()
	k := realm()
	a := acceptorFor(t, k)
	for _, tt := range []struct {
		name string
		auth func(*types.Authenticator)
		msg  func(*messages.APReq)
		code int32
		kind authn.Kind
	}{
		{"version 4", nil, func(m *messages.APReq) { m.PVNO = 4 }, krb5.CodeBadVersion, authn.Malformed},
		{"ticket of version 4", nil, func(m *messages.APReq) { m.Ticket.TktVNO = 4 }, krb5.CodeBadVersion, authn.Malformed},
		{"message type 15", nil, func(m *messages.APReq) { m.MsgType = 15 }, krb5.CodeMsgType, authn.Malformed},
		{"user to user", nil, func(m *messages.APReq) { types.SetFlag(&m.APOptions, 1) }, krb5.CodeNoKey, authn.Denied},
		{"authenticator of another enctype", nil, func(m *messages.APReq) { m.EncryptedAuthenticator.EType = 17 }, krb5.CodeBadIntegrity, authn.Rejected},
		{"authenticator of version 4", func(x *types.Authenticator) { x.AVNO = 4 }, nil, krb5.CodeBadVersion, authn.Malformed},
		{"a million microseconds", func(x *types.Authenticator) { x.Cusec = 1_000_000 }, nil, krb5.CodeGeneric, authn.Malformed},
		{"negative microseconds", func(x *types.Authenticator) { x.Cusec = -1 }, nil, krb5.CodeGeneric, authn.Malformed},
		{"short subkey", func(x *types.Authenticator) {
			x.SubKey = types.EncryptionKey{KeyType: krb5.AES256SHA2, KeyValue: octets(24)}
		}, nil, krb5.CodeGeneric, authn.Malformed},
		{"subkey of no enctype", func(x *types.Authenticator) { x.SubKey = types.EncryptionKey{KeyValue: octets(16)} }, nil, krb5.CodeEtypeNoSupp, authn.Denied},
		{"no client", func(x *types.Authenticator) { x.CName.NameString = []string{} }, nil, krb5.CodeBadMatch, authn.Rejected},
	} {
		t.Run(tt.name, func(t *testing.T) {
			i := mint(t, k, krb5test.Spec{}, krb5.InitOptions{})
			refused(t, a, remake(t, i, tt.auth, tt.msg), tt.code, tt.kind)
		})
	}
	for _, e := range allEnctypes {
		for _, n := range []int{0, 1, 8, 15, 17, 24, 31, 33, 64} {
			i := mint(t, k, krb5test.Spec{SessionEnctype: e, SessionKey: octets(n)}, krb5.InitOptions{})
			b := acceptorFor(t, k)
			b.Enctypes = allEnctypes
			refused(t, b, i.APReq, krb5.CodeGeneric, authn.Rejected)
		}
	}
	refused(t, a, mint(t, k, krb5test.Spec{Client: []string{}}, krb5.InitOptions{}).APReq, krb5.CodeBadMatch, authn.Rejected)
	refused(t, a, mint(t, k, krb5test.Spec{Transited: []byte("EVIL.TEST")}, krb5.InitOptions{}).APReq, krb5.CodePath, authn.Denied)
	if c := accepted(t, a, remake(t, mint(t, k, krb5test.Spec{}, krb5.InitOptions{}), func(x *types.Authenticator) { x.SeqNumber = -2 }, nil)); c.Seq != 0xfffffffe {
		t.Errorf("sequence number %x", c.Seq)
	}
}

// What a stranger wrote into a name comes back as harmless text.
func TestTextsAreOneLineOfASCII(t *testing.T) {
	t.Parallel()
	k := realm()
	a := acceptorFor(t, k)
	for _, n := range [][]string{
		{"pop", "a\r\n+OK root"}, {"x\r\n", "\x1b[2J"}, {"Änne", "h"}, {"pop", strings.Repeat("h", 5000)}, {strings.Repeat("\xff", 300), ""},
	} {
		i := mint(t, k, krb5test.Spec{NamedService: n}, krb5.InitOptions{})
		_, err := a.Accept(t.Context(), i.APReq, krb5.Options{})
		var e *authn.Error
		if !errors.As(err, &e) || e.Text == "" || len(e.Text) > 200 || strings.ContainsFunc(e.Text, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("%q: %#v", n, e)
		}
		if b := krb5.ErrorReply(err); len(b) > 1024 || len(b) == 0 {
			t.Errorf("%q: an answer of %d octets", n, len(b))
		}
	}
}

// Clients set their clocks by the time in an answer, and some look whether it is
// for the service that they asked for.
func TestErrorReplyFields(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(1234567 * time.Microsecond)
		k := realm()
		a := acceptorFor(t, k)
		for _, tt := range []struct {
			name    string
			request []byte
			code    int32
			realm   string
			service []string
		}{
			{"that names a service", mint(t, k, krb5test.Spec{}, krb5.InitOptions{Time: ago(time.Hour)}).APReq, krb5.CodeSkew, "EXAMPLE.TEST", []string{"pop", "localhost"}},
			{"that cannot be read", []byte("n"), krb5.CodeMsgType, "", []string{"pop"}},
		} {
			_, err := a.Accept(t.Context(), tt.request, krb5.Options{})
			var m messages.KRBError
			if err := m.Unmarshal(krb5.ErrorReply(err)); err != nil {
				t.Fatal(err)
			}
			if m.PVNO != 5 || m.MsgType != 30 || m.ErrorCode != tt.code || m.Realm != tt.realm || !slices.Equal(m.SName.NameString, tt.service) {
				t.Errorf("a request %s: %+v", tt.name, m)
			}
			if got := m.STime.Add(time.Duration(m.Susec) * time.Microsecond); !got.Equal(time.Now()) {
				t.Errorf("a request %s: time %v", tt.name, got)
			}
		}
	})
}

func TestErrorReplyTellsNothingOfForeignErrors(t *testing.T) {
	t.Parallel()
	for _, err := range []error{errors.New("secret"), context.Canceled, &authn.Error{Kind: authn.Unavailable, Err: errors.New("secret")}} {
		code, text, perr := krb5.ParseError(krb5.ErrorReply(err))
		if perr != nil || code != krb5.CodeGeneric || text == "" || strings.Contains(text, "secret") {
			t.Errorf("%v: %d %q %v", err, code, text, perr)
		}
	}
	if _, _, err := krb5.ParseError([]byte("no")); err == nil {
		t.Error("read as an error")
	}
}

// One error value that Check returns to everybody is not written to.
func TestCheckMayShareItsError(t *testing.T) {
	t.Parallel()
	k := realm()
	a := acceptorFor(t, k)
	no := &krb5.Error{Code: krb5.CodeInappCksum, Text: "Not here", Kind: authn.Rejected}
	var wg sync.WaitGroup
	for range 8 {
		i := mint(t, k, krb5test.Spec{}, krb5.InitOptions{})
		wg.Go(func() {
			_, err := a.Accept(t.Context(), i.APReq, krb5.Options{Check: func(*krb5.Context) error { return no }})
			if code, text, _ := krb5.ParseError(krb5.ErrorReply(err)); code != krb5.CodeInappCksum || text != "Not here" {
				t.Errorf("%d %q", code, text)
			}
		})
	}
	wg.Wait()
	foreign := errors.New("of the caller")
	_, err := a.Accept(t.Context(), mint(t, k, krb5test.Spec{}, krb5.InitOptions{}).APReq, krb5.Options{Check: func(*krb5.Context) error { return foreign }})
	if !errors.Is(err, foreign) {
		t.Error(err)
	}
}

func TestAcceptorWithoutKeytabOrCache(t *testing.T) {
	t.Parallel()
	k := realm()
	i := mint(t, k, krb5test.Spec{}, krb5.InitOptions{})
	for _, a := range []*krb5.Acceptor{{}, {Keytab: acceptorFor(t, k).Keytab}, {Replay: new(krb5.MemoryReplay)}} {
		refused(t, a, i.APReq, krb5.CodeGeneric, authn.Internal)
	}
	a := acceptorFor(t, k)
	a.Keytab = new(krb5.Keytab)
	refused(t, a, i.APReq, krb5.CodeNoKey, authn.Unavailable)
}

func TestVerifyChecksum(t *testing.T) {
	t.Parallel()
	for enctype, kind := range map[int32]int32{17: 15, 18: 16, 19: 19, 20: 20} {
		k := realm()
		a := acceptorFor(t, k)
		i := mint(t, k, krb5test.Spec{SessionEnctype: enctype}, krb5.InitOptions{})
		sum, err := i.Session.Checksum(10, []byte("data"))
		if err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct {
			c    types.Checksum
			want bool
		}{
			{types.Checksum{CksumType: kind, Checksum: sum}, true},
			{types.Checksum{CksumType: kind, Checksum: octets(len(sum))}, false},
			{types.Checksum{CksumType: 0x8003, Checksum: sum}, false},
			{types.Checksum{CksumType: kind}, false},
		} {
			c := accepted(t, a, remake(t, i, func(x *types.Authenticator) { x.Cksum = tt.c }, nil))
			if got := c.VerifyChecksum([]byte("data")); got != tt.want {
				t.Errorf("enctype %d, checksum %v: %v", enctype, tt.c, got)
			}
			if c.VerifyChecksum([]byte("date")) {
				t.Error("other data")
			}
		}
	}
}
