package krb5_test

// The security statements that hold for a Kerberos acceptor, by their names.

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/krb5"
	"github.com/kpopd/kpopd/krb5test"
)

func TestK1_IdentityIsTheTickets(t *testing.T) {
	t.Parallel()
	k := realm()
	a := acceptorFor(t, k)
	for _, tt := range []struct {
		name   string
		client []string
		realm  string
		claims krb5.InitOptions
	}{
		{"realm", nil, "OTHER.TEST", krb5.InitOptions{Realm: "EXAMPLE.TEST"}},
		{"realm in other case", nil, "EXAMPLE.test", krb5.InitOptions{Realm: "EXAMPLE.TEST"}},
		{"realm with NUL", nil, "EXAMPLE.TEST\x00", krb5.InitOptions{Realm: "EXAMPLE.TEST"}},
		{"name", []string{"mallory"}, "", krb5.InitOptions{Components: []string{"alice"}}},
		{"name in other case", []string{"Alice"}, "", krb5.InitOptions{Components: []string{"alice"}}},
		{"prefix of the name", []string{"alice", "admin"}, "", krb5.InitOptions{Components: []string{"alice"}}},
		{"more than the name", []string{"alice"}, "", krb5.InitOptions{Components: []string{"alice", "admin"}}},
		{"one component with a slash for two", []string{"a/b"}, "", krb5.InitOptions{Components: []string{"a", "b"}}},
		{"empty last component", []string{"alice", ""}, "", krb5.InitOptions{Components: []string{"alice"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			i := mint(t, k, krb5test.Spec{Client: tt.client, Realm: tt.realm}, tt.claims)
			refused(t, a, i.APReq, krb5.CodeBadMatch, authn.Rejected)
		})
	}
	c, err := a.Accept(t.Context(), mint(t, k, krb5test.Spec{Realm: "OTHER.TEST"}, krb5.InitOptions{}).APReq, krb5.Options{})
	if err != nil || c.Principal.Realm != "OTHER.TEST" {
		t.Errorf("honest client of another realm: %v, %v", c, err)
	}
}

func TestK2_ReplayTagCoversEverything(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	alice := []string{"alice"}
	tags := map[[32]byte]string{}
	for name, tag := range map[string][32]byte{
		"first":                krb5.ReplayTag(alice, "B", now, 1, []byte("c")),
		"client":               krb5.ReplayTag([]string{"bob"}, "B", now, 1, []byte("c")),
		"one more component":   krb5.ReplayTag([]string{"alice", ""}, "B", now, 1, []byte("c")),
		"realm":                krb5.ReplayTag(alice, "A", now, 1, []byte("c")),
		"second":               krb5.ReplayTag(alice, "B", now.Add(time.Second), 1, []byte("c")),
		"microsecond":          krb5.ReplayTag(alice, "B", now, 2, []byte("c")),
		"ciphertext":           krb5.ReplayTag(alice, "B", now, 1, []byte("d")),
		"realm runs into name": krb5.ReplayTag([]string{"lice"}, "Ba", now, 1, []byte("c")),
	} {
		if other, ok := tags[tag]; ok {
			t.Errorf("%q and %q have one tag", name, other)
		}
		tags[tag] = name
	}
}

func TestK2_RemembersForTwiceTheSkew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := realm()
		a := acceptorFor(t, k)
		spy := new(spyReplay)
		a.Replay = spy
		for _, off := range []time.Duration{-4 * time.Minute, 0, 4 * time.Minute} {
			ctime := time.Now().Add(off)
			accepted(t, a, mint(t, k, krb5test.Spec{}, krb5.InitOptions{Time: ctime}).APReq)
			if time.Until(spy.expires) < 10*time.Minute || spy.expires.Sub(ctime) < 10*time.Minute {
				t.Errorf("%v: remembered until %v", off, spy.expires)
			}
		}
	})
}

func TestK2_ReplaySurvivesRestart(t *testing.T) {
	t.Parallel()
	k := realm()
	a := acceptorFor(t, k)
	path := t.TempDir() + "/replay"
	i := mint(t, k, krb5test.Spec{}, krb5.InitOptions{})
	for n := range 3 {
		cache, err := krb5.OpenFileReplay(path)
		if err != nil {
			t.Fatal(err)
		}
		a.Replay = cache
		if n == 0 {
			accepted(t, a, i.APReq)
		} else {
			refused(t, a, i.APReq, krb5.CodeRepeat, authn.Rejected)
		}
		if err := cache.Close(); err != nil {
			t.Fatal(err)
		}
	}
	refused(t, a, i.APReq, krb5.CodeGeneric, authn.Unavailable) // a closed cache knows nothing
}

func TestK2_RefusedRequestsAreNotRemembered(t *testing.T) {
	t.Parallel()
	k := realm()
	a := acceptorFor(t, k)
	spy := new(spyReplay)
	a.Replay = spy
	refused(t, a, mint(t, k, krb5test.Spec{}, krb5.InitOptions{Time: ago(time.Hour)}).APReq, krb5.CodeSkew, authn.Rejected)
	i := mint(t, k, krb5test.Spec{}, krb5.InitOptions{})
	no := &krb5.Error{Code: krb5.CodeInappCksum, Text: "Not here", Kind: authn.Rejected}
	if _, err := a.Accept(t.Context(), i.APReq, krb5.Options{Check: func(*krb5.Context) error { return no }}); err == nil {
		t.Error("Check was not obeyed")
	}
	if spy.calls != 0 {
		t.Errorf("the cache was asked %d times", spy.calls)
	}
	accepted(t, a, i.APReq)
}

func TestK3_PACIsNotDecoded(t *testing.T) {
	t.Parallel()
	k := realm()
	a := acceptorFor(t, k)
	for _, d := range [][]byte{pac, nil, octets(7), bytes.Repeat([]byte{0xff}, 4096)} {
		i := mint(t, k, krb5test.Spec{AuthData: []krb5.AuthData{krb5test.IfRelevant(krb5.AuthData{Type: 128, Data: d})}}, krb5.InitOptions{})
		accepted(t, a, i.APReq)
	}
}

// A whole recorded conversation begins with an AP-REQ that is spent, on every
// listener that shares the cache.
func TestK4_RecordedRequestIsSpentEverywhere(t *testing.T) {
	t.Parallel()
	k := realm()
	one, two := acceptorFor(t, k), acceptorFor(t, k)
	two.Replay = one.Replay
	i := mint(t, k, krb5test.Spec{}, krb5.InitOptions{Mutual: true})
	accepted(t, one, i.APReq)
	refused(t, two, i.APReq, krb5.CodeRepeat, authn.Rejected)
	// what is not authenticated may be changed, and does not help
	b := remake(t, i, nil, func(m *messages.APReq) { m.APOptions = types.NewKrbFlags() })
	refused(t, two, b, krb5.CodeRepeat, authn.Rejected)
	b = remake(t, i, nil, func(m *messages.APReq) { m.EncryptedAuthenticator.KVNO = 7; m.Ticket.SName.NameType = 3 })
	refused(t, two, b, krb5.CodeRepeat, authn.Rejected)
}

// The name of the service stands in the clear. Where several have one key, as
// those of one account of Active Directory do, changing it makes no new request.
func TestK2_RenamedServiceIsAReplay(t *testing.T) {
	t.Parallel()
	k := realm()
	k.Alias("pop3/localhost", "pop/localhost")
	k.Alias("pop/second", "pop/localhost")
	a := acceptorFor(t, k, "pop/localhost", "pop3/localhost", "pop/second")
	i := mint(t, k, krb5test.Spec{}, krb5.InitOptions{})
	accepted(t, a, i.APReq)
	for _, n := range [][]string{{"pop", "localhost"}, {"pop3", "localhost"}, {"pop", "second"}} {
		b := remake(t, i, nil, func(m *messages.APReq) { m.Ticket.SName.NameString = n })
		refused(t, a, b, krb5.CodeRepeat, authn.Rejected)
	}
}

func TestK5_OnlyConfiguredServicesAndEnctypes(t *testing.T) {
	t.Parallel()
	k := realm("pop/second", "smtp/localhost")
	a := acceptorFor(t, k, "pop/localhost", "pop/second", "smtp/localhost")
	a.Services, a.Hosts, a.Enctypes = []string{"smtp", "pop"}, []string{"LOCALHOST"}, []int32{krb5.AES256SHA2}
	for _, tt := range []struct {
		name string
		s    krb5test.Spec
		code int32
	}{
		{"host that is not listed", krb5test.Spec{Service: "pop/second"}, krb5.CodeNotUs},
		{"ticket of another enctype", krb5test.Spec{Enctype: krb5.AES128SHA1}, krb5.CodeEtypeNoSupp},
		{"session key of another enctype", krb5test.Spec{Enctype: krb5.AES256SHA2, SessionEnctype: krb5.AES128SHA2}, krb5.CodeEtypeNoSupp},
		{"listed service", krb5test.Spec{Service: "smtp/localhost", Enctype: krb5.AES256SHA2, SessionEnctype: krb5.AES256SHA2}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			i := mint(t, k, tt.s, krb5.InitOptions{})
			switch tt.code {
			case 0:
				accepted(t, a, i.APReq)
			case krb5.CodeNotUs:
				refused(t, a, i.APReq, tt.code, authn.Rejected)
			default:
				refused(t, a, i.APReq, tt.code, authn.Denied)
			}
		})
	}
	i := mint(t, k, krb5test.Spec{Enctype: krb5.AES256SHA2, SessionEnctype: krb5.AES256SHA2}, krb5.InitOptions{})
	b := remake(t, i, func(auth *types.Authenticator) {
		auth.SubKey = types.EncryptionKey{KeyType: krb5.RC4, KeyValue: octets(16)}
	}, nil)
	refused(t, a, b, krb5.CodeEtypeNoSupp, authn.Denied)
}

// K-6 is about checking passwords with a KDC, which nothing here does: a client
// gets in with a ticket that our own keytab opens.
func TestK6_OnlyOurKeytabVouches(t *testing.T) {
	t.Parallel()
	k, evil := realm(), realm() // a KDC that says it is EXAMPLE.TEST's
	i := mint(t, evil, krb5test.Spec{}, krb5.InitOptions{})
	refused(t, acceptorFor(t, k), i.APReq, krb5.CodeBadIntegrity, authn.Rejected)
}

// Names reach the principal map as components, unflattened.
func TestK7_NamesStayApart(t *testing.T) {
	t.Parallel()
	k := realm()
	a := acceptorFor(t, k)
	for _, n := range [][]string{{"alice", "admin"}, {"alice/admin"}, {`a\@b`}, {"a@b"}, {"Änne"}, {"a", ""}} {
		c, err := a.Accept(t.Context(), mint(t, k, krb5test.Spec{Client: n}, krb5.InitOptions{}).APReq, krb5.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Principal.Components; strings.Join(got, "\x00") != strings.Join(n, "\x00") || len(got) != len(n) {
			t.Errorf("%q became %q", n, got)
		}
	}
}

// What a client says of channel bindings arrives for GSSAPI to judge.
func TestK8_BindingRequestArrives(t *testing.T) {
	t.Parallel()
	k := realm()
	i := mint(t, k, krb5test.Spec{}, krb5.InitOptions{
		Checksum: &krb5.Checksum{Type: 0x8003, Data: octets(24)},
		AuthData: []krb5.AuthData{{Type: 143, Data: []byte{0, 0x40, 0, 0}}},
	})
	c := accepted(t, acceptorFor(t, k), i.APReq)
	if c.Checksum == nil || c.Checksum.Type != 0x8003 || !bytes.Equal(c.Checksum.Data, octets(24)) {
		t.Errorf("checksum %v", c.Checksum)
	}
	if len(c.AuthData) != 1 || c.AuthData[0].Type != 143 {
		t.Errorf("authorization data %v", c.AuthData)
	}
}

func TestK9_ExpiredPostdatedInvalidTickets(t *testing.T) {
	t.Parallel()
	k := realm()
	a := acceptorFor(t, k)
	now := time.Now()
	for _, tt := range []struct {
		name string
		s    krb5test.Spec
		code int32 // 0 for none
		kind authn.Kind
		text string
	}{
		{"expired", krb5test.Spec{AuthTime: now.Add(-2 * time.Hour), EndTime: now.Add(-6 * time.Minute)}, krb5.CodeExpired, authn.Expired, "expired"},
		{"expired within the skew", krb5test.Spec{AuthTime: now.Add(-2 * time.Hour), EndTime: now.Add(-4 * time.Minute)}, 0, 0, ""},
		{"not valid yet", krb5test.Spec{StartTime: now.Add(6 * time.Minute)}, krb5.CodeNotYetValid, authn.Expired, "not valid before"},
		{"not valid yet, within the skew", krb5test.Spec{StartTime: now.Add(4 * time.Minute)}, 0, 0, ""},
		{"no start, authenticated in the future", krb5test.Spec{AuthTime: now.Add(6 * time.Minute)}, krb5.CodeNotYetValid, authn.Expired, "not valid before"},
		{"marked invalid", krb5test.Spec{Invalid: true}, krb5.CodeNotYetValid, authn.Denied, "invalid"},
		{"marked invalid in one octet", krb5test.Spec{Flags: []byte{1}}, krb5.CodeNotYetValid, authn.Denied, "invalid"},
		{"postdated", krb5test.Spec{Flags: []byte{2, 0, 0, 0}}, krb5.CodeNotYetValid, authn.Denied, "postdated"},
		{"ends before it starts", krb5test.Spec{StartTime: now.Add(2 * time.Minute), EndTime: now.Add(time.Minute)}, krb5.CodeNotYetValid, authn.Denied, "ends before"},
		{"ends when it starts", krb5test.Spec{StartTime: now, EndTime: now}, krb5.CodeNotYetValid, authn.Denied, "ends before"},
		{"year 1", krb5test.Spec{EndTime: time.Date(1, 1, 2, 0, 0, 0, 0, time.UTC)}, krb5.CodeNotYetValid, authn.Denied, "ends before"},
		{"year 9999", krb5test.Spec{EndTime: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)}, 0, 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			i := mint(t, k, tt.s, krb5.InitOptions{})
			if tt.code == 0 {
				accepted(t, a, i.APReq)
			} else if text := refused(t, a, i.APReq, tt.code, tt.kind); !strings.Contains(text, tt.text) {
				t.Errorf("text %q", text)
			}
		})
	}
}

// See also TestProofReplayRace, where fifty show one request at once.
func TestS15_RequestIsAcceptedOnce(t *testing.T) {
	t.Parallel()
	k := realm()
	for name, cache := range caches(t) {
		a := acceptorFor(t, k)
		a.Replay = cache
		i := mint(t, k, krb5test.Spec{}, krb5.InitOptions{})
		accepted(t, a, i.APReq)
		if text := refused(t, a, i.APReq, krb5.CodeRepeat, authn.Rejected); !strings.Contains(text, "replay") {
			t.Errorf("%s: %q", name, text)
		}
	}
}

func TestS23_MalformedRequests(t *testing.T) {
	t.Parallel()
	k := realm()
	a := acceptorFor(t, k)
	good := mint(t, k, krb5test.Spec{}, krb5.InitOptions{}).APReq
	deep := bytes.Repeat([]byte{0x30, 0x80}, 10_000)
	for _, tt := range []struct {
		name string
		b    []byte
	}{
		{"nothing", nil},
		{"one octet", []byte{0x6e}},
		{"length beyond the end", []byte{0x6e, 0x84, 0xff, 0xff, 0xff, 0xff}},
		{"an AP-REP", append([]byte{0x6f}, good[1:]...)},
		{"no Kerberos", []byte("USER alice\r\n")},
		{"octets after the message", append(bytes.Clone(good), 0)},
		{"twice", append(bytes.Clone(good), good...)},
		{"128 KiB and more", append(bytes.Clone(good), make([]byte, 128<<10)...)},
		{"ten thousand levels", deep},
		{"ten thousand levels inside", append([]byte{0x6e, 0x82, 0x4e, 0x20}, deep...)},
	} {
		t.Run(tt.name, func(t *testing.T) { refused(t, a, tt.b, krb5.CodeMsgType, authn.Malformed) })
	}
	for n := range good {
		if n < 4 {
			continue
		}
		if _, err := a.Accept(t.Context(), good[:n], krb5.Options{}); authn.KindOf(err) != authn.Malformed {
			t.Fatalf("cut after %d octets: %v", n, err)
		}
	}
	// without a checksum there is nothing to check and nothing to crash on
	if c := accepted(t, a, good); c.Checksum != nil || c.VerifyChecksum(nil) {
		t.Error("a checksum came from nowhere")
	}
}

func TestS24_WeakEnctypesAreRefused(t *testing.T) {
	t.Parallel()
	k := krb5test.NewKDC("EXAMPLE.TEST")
	k.AddService("pop/localhost", krb5.RC4, krb5.AES256SHA1)
	for _, tt := range []struct {
		name string
		s    krb5test.Spec
		rc4  bool // accepted when RC4 is configured
	}{
		{"RC4 ticket", krb5test.Spec{Enctype: krb5.RC4}, true},
		{"RC4 session key", krb5test.Spec{Enctype: krb5.AES256SHA1, SessionEnctype: krb5.RC4}, true},
		{"DES ticket", krb5test.Spec{NamedEnctype: 3}, false},
		{"DES session key", krb5test.Spec{Enctype: krb5.AES256SHA1, SessionEnctype: 3, SessionKey: octets(8)}, false},
		{"Triple DES ticket", krb5test.Spec{NamedEnctype: 16}, false},
		{"Triple DES session key", krb5test.Spec{Enctype: krb5.AES256SHA1, SessionEnctype: 16, SessionKey: octets(24)}, false},
		{"no encryption", krb5test.Spec{NamedEnctype: 0x7fffffff}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			i := mint(t, k, tt.s, krb5.InitOptions{})
			a := acceptorFor(t, k)
			refused(t, a, i.APReq, krb5.CodeEtypeNoSupp, authn.Denied)
			a.Enctypes = append(krb5.DefaultEnctypes(), krb5.RC4)
			if !tt.rc4 {
				refused(t, a, i.APReq, krb5.CodeEtypeNoSupp, authn.Denied)
			} else {
				accepted(t, a, i.APReq)
			}
		})
	}
}

// No octet of a ticket can be changed, and what the KDC sealed for another
// service does not open here.
func TestS25_TamperedTickets(t *testing.T) {
	t.Parallel()
	k := realm()
	a := acceptorFor(t, k)
	i := mint(t, k, krb5test.Spec{}, krb5.InitOptions{})
	var m messages.APReq
	if err := m.Unmarshal(i.APReq); err != nil {
		t.Fatal(err)
	}
	for n := range m.Ticket.EncPart.Cipher {
		b := remake(t, i, nil, func(m *messages.APReq) { m.Ticket.EncPart.Cipher[n] ^= 1 })
		refused(t, a, b, krb5.CodeBadIntegrity, authn.Rejected)
	}
	for n := range m.EncryptedAuthenticator.Cipher {
		b := remake(t, i, nil, func(m *messages.APReq) { m.EncryptedAuthenticator.Cipher[n] ^= 1 })
		refused(t, a, b, krb5.CodeBadIntegrity, authn.Rejected)
	}
	other := mint(t, k, krb5test.Spec{Client: []string{"bob"}}, krb5.InitOptions{})
	b := remake(t, i, nil, func(m *messages.APReq) {
		var o messages.APReq
		if err := o.Unmarshal(other.APReq); err != nil {
			t.Fatal(err)
		}
		m.EncryptedAuthenticator = o.EncryptedAuthenticator
	})
	refused(t, a, b, krb5.CodeBadIntegrity, authn.Rejected)
	accepted(t, a, i.APReq)
}

func TestS26_RealmOfAuthenticatorDiffers(t *testing.T) {
	t.Parallel()
	k := realm()
	a := acceptorFor(t, k)
	for _, claim := range []string{"EXAMPLE.TEST.", "example.test", "OTHER.TEST"} {
		i := mint(t, k, krb5test.Spec{}, krb5.InitOptions{Realm: claim})
		refused(t, a, i.APReq, krb5.CodeBadMatch, authn.Rejected)
	}
}
