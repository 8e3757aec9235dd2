package krb5_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jcmturner/gofork/encoding/asn1"
	"github.com/jcmturner/gokrb5/v8/crypto"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/krb5"
	"github.com/kpopd/kpopd/krb5test"
)

// campus has a user of each sort. Nothing listens; see network.
func campus() *krb5test.KDC {
	k := realm()
	k.AddUser("alice", "pw-alice")
	k.AddUser("sha2", "pw-sha2", krb5.AES256SHA2, krb5.AES128SHA2)
	k.AddUser("weak", "pw-weak", krb5.RC4)
	k.AddUser("locked", "pw-locked")
	k.Lock("locked")
	k.AddUser("stale", "pw-stale")
	k.ExpirePassword("stale")
	k.AddUser("bare", "pw-bare")
	k.NoPreauth("bare")
	return k
}

// network is KDCs by address. One that is nil does not answer, one that is not
// there refuses connections. A reply of nil hangs up.
type network map[string]func(request []byte) []byte

func (n network) dial(ctx context.Context, _, address string) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	answer, there := n[address]
	if !there {
		return nil, errors.New("connection refused")
	}
	ours, theirs := net.Pipe()
	go func() { // until ours is closed
		defer theirs.Close()
		var size [4]byte
		if _, err := io.ReadFull(theirs, size[:]); err != nil {
			return
		}
		request := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(theirs, request); err != nil {
			return
		}
		if answer == nil {
			io.Copy(io.Discard, theirs)
			return
		}
		if reply := answer(request); reply != nil {
			theirs.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(reply))), reply...))
		}
	}()
	return ours, nil
}

// passwords asks the KDCs of n in the order of their addresses; k has the
// service's key.
func passwords(t testing.TB, k *krb5test.KDC, n network, o krb5.PasswordOptions) *krb5.Passwords {
	t.Helper()
	o.Realm = "EXAMPLE.TEST"
	if o.KDCs == nil {
		for address := range n {
			o.KDCs = append(o.KDCs, address)
		}
		slices.Sort(o.KDCs)
	}
	if o.Keytab == nil {
		var err error
		if o.Keytab, err = krb5.ParseKeytab(k.Keytab("pop/localhost")); err != nil {
			t.Fatal(err)
		}
	}
	p, err := krb5.NewPasswords(o)
	if err != nil {
		t.Fatal(err)
	}
	p.SetDial(n.dial)
	return p
}

const kdc1, kdc2 = "kdc1:88", "kdc2:88"

// judged checks how an attempt ends; text is part of the error.
func judged(t *testing.T, p *krb5.Passwords, user, password string, kind authn.Kind, text string) {
	t.Helper()
	who, err := p.Verify(t.Context(), user, authn.Password(password))
	var e *krb5.PasswordError
	switch {
	case err == nil:
		t.Errorf("let in as %s", who)
	case !errors.As(err, &e) || who != nil || authn.KindOf(err) != kind || !strings.Contains(err.Error(), text):
		t.Errorf("got %v of kind %v, want %q of kind %v", err, authn.KindOf(err), text, kind)
	case strings.Contains(err.Error(), password):
		t.Errorf("the password is in %q", err)
	}
}

func letIn(t *testing.T, p *krb5.Passwords, user, password string) {
	t.Helper()
	who, err := p.Verify(t.Context(), user, authn.Password(password))
	if err != nil {
		t.Errorf("%s: %v", user, err)
	} else if who.String() != user+"@EXAMPLE.TEST" {
		t.Errorf("%s is %s", user, who)
	}
}

func TestPasswords(t *testing.T) {
	t.Parallel()
	k := campus()
	p := passwords(t, k, network{kdc1: k.Answer}, krb5.PasswordOptions{})
	for _, user := range []string{"alice", "sha2", "bare"} {
		letIn(t, p, user, "pw-"+user)
	}
	for _, tt := range []struct {
		name, user, password string
		kind                 authn.Kind
		text                 string
	}{
		{"wrong", "alice", "pw-Alice", authn.Rejected, "KDC kdc1:88: wrong password (KRB-ERROR 24 PREAUTH_FAILED)"},
		{"wrong, without pre-authentication", "bare", "pw-Bare", authn.Rejected, "does not open the reply"},
		{"nobody", "nobody", "pw-nobody", authn.UnknownUser, "no such principal (KRB-ERROR 6"},
		{"locked", "locked", "pw-locked", authn.Denied, "locked or disabled (KRB-ERROR 18"},
		{"locked, and wrong", "locked", "pw-Locked", authn.Denied, "locked or disabled"},
		{"expired", "stale", "pw-stale", authn.Expired, "the password has expired (KRB-ERROR 23"},
		{"no enctype of ours", "weak", "pw-weak", authn.Unavailable, "no key of an enctype that is taken here"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			judged(t, p, tt.user, tt.password, tt.kind, tt.text)
		})
	}
	t.Run("RC4 where it is configured", func(t *testing.T) {
		t.Parallel()
		rc4 := passwords(t, k, network{kdc1: k.Answer}, krb5.PasswordOptions{Enctypes: append(krb5.DefaultEnctypes(), krb5.RC4)})
		letIn(t, rc4, "weak", "pw-weak")
		letIn(t, rc4, "alice", "pw-alice")
		judged(t, rc4, "weak", "pw-Weak", authn.Rejected, "wrong password")
	})
}

// S-21: who does not exist, and who is locked, cost the KDC and us what a wrong
// password costs.
func TestS21_SameWorkForAll(t *testing.T) {
	t.Parallel()
	k := campus()
	var asked atomic.Int64
	p := passwords(t, k, network{kdc1: func(b []byte) []byte { asked.Add(1); return k.Answer(b) }}, krb5.PasswordOptions{})
	for _, user := range []string{"alice", "nobody", "locked", "stale"} {
		asked.Store(0)
		if _, err := p.Verify(t.Context(), user, authn.Password("wrong")); err == nil {
			t.Error("let in")
		}
		if n := asked.Load(); n != 2 {
			t.Errorf("%s: %d requests, want 2", user, n)
		}
	}
}

// K-6: a KDC that gives a ticket for the password, and cannot make one with our
// key.
func TestK6_FalseKDC(t *testing.T) {
	t.Parallel()
	k, liar := campus(), realm()
	liar.AddUser("alice", "pw-mallory")
	p := passwords(t, k, network{kdc1: liar.Answer}, krb5.PasswordOptions{})
	judged(t, p, "alice", "pw-mallory", authn.Unavailable, "it says that the password is right, and its ticket does not prove it")
	// nor does it keep out whose password it has, as a KDC whose key of our
	// service is not ours
	liar.AddUser("alice", "pw-alice")
	p = passwords(t, k, network{kdc1: liar.Answer, kdc2: k.Answer}, krb5.PasswordOptions{})
	letIn(t, p, "alice", "pw-alice")
	liar.AddUser("alice", "pw-mallory")
	p = passwords(t, k, network{kdc1: liar.Answer, kdc2: k.Answer}, krb5.PasswordOptions{})
	judged(t, p, "alice", "pw-mallory", authn.Rejected, "wrong password")
}

// forger is a KDC for alice with another password that changes its replies.
func forger(t *testing.T, change func(*messages.ASRep, *messages.EncKDCRepPart)) func([]byte) []byte {
	t.Helper()
	liar := realm()
	liar.AddUser("alice", "pw-mallory", krb5.AES256SHA1)
	secret, _, err := crypto.GetKeyFromPassword("pw-mallory", types.NewPrincipalName(1, "alice"), "EXAMPLE.TEST", krb5.AES256SHA1, nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := krb5.KeyFrom(secret.KeyType, secret.KeyValue)
	if err != nil {
		t.Fatal(err)
	}
	return func(request []byte) []byte {
		var rep messages.ASRep
		b := liar.Answer(request)
		if rep.Unmarshal(b) != nil {
			return b // it asks for pre-authentication
		}
		plain, err := key.Decrypt(3, rep.EncPart.Cipher)
		if err != nil {
			return nil
		}
		var part messages.EncKDCRepPart
		if part.Unmarshal(plain) != nil {
			return nil
		}
		change(&rep, &part)
		if plain, err = part.Marshal(); err != nil {
			return nil
		}
		if rep.EncPart.Cipher, err = key.Encrypt(3, plain); err != nil {
			return nil
		}
		if b, err = rep.Marshal(); err != nil {
			return nil
		}
		return b
	}
}

const initial = 0x00400000 // flags of a ticket that a password got

// K-6: everything that a false KDC may have seen or stolen, but for a ticket of
// alice's that was got by a password a moment ago, together with its session
// key: who has that is alice.
func TestK6_ForgedReplies(t *testing.T) {
	t.Parallel()
	k := campus()
	session := octets(32)
	flags := binary.BigEndian.AppendUint32(nil, initial)
	good := krb5test.Spec{SessionKey: session, Flags: flags}
	ticket := func(t *testing.T, change func(*krb5test.Spec)) messages.Ticket {
		s := good
		change(&s)
		var m messages.APReq
		if err := m.Unmarshal(mint(t, k, s, krb5.InitOptions{}).APReq); err != nil {
			t.Fatal(err)
		}
		return m.Ticket
	}
	same := func(*krb5test.Spec) {}
	for _, tt := range []struct {
		name   string
		spec   func(*krb5test.Spec)
		change func(*messages.ASRep, *messages.EncKDCRepPart)
		text   string // "" for one that is let in
	}{
		{"alice's ticket and its session key", same, func(*messages.ASRep, *messages.EncKDCRepPart) {}, ""},
		{"session key of his own", same, func(_ *messages.ASRep, p *messages.EncKDCRepPart) { p.Key.KeyValue = make([]byte, 32) }, "authenticator was not made with the ticket's key"},
		{"session key of another enctype", same, func(_ *messages.ASRep, p *messages.EncKDCRepPart) {
			p.Key = types.EncryptionKey{KeyType: krb5.AES128SHA1, KeyValue: octets(16)}
		}, "authenticator was not made with the ticket's key"},
		{"session key that is none", same, func(_ *messages.ASRep, p *messages.EncKDCRepPart) { p.Key.KeyValue = octets(3) }, "session key cannot be used"},
		{"mallory's ticket", func(s *krb5test.Spec) { s.Client = []string{"mallory"} }, nil, "another client"},
		{"ticket of another realm's alice", func(s *krb5test.Spec) { s.Realm = "OTHER.TEST" }, nil, "another client"},
		{
			"ticket of another realm's alice, who says so", func(s *krb5test.Spec) { s.Realm = "OTHER.TEST" },
			func(r *messages.ASRep, _ *messages.EncKDCRepPart) { r.CRealm = "OTHER.TEST" }, "for another user",
		},
		{"ticket that a ticket got", func(s *krb5test.Spec) { s.Flags = make([]byte, 4) }, nil, "not got with a password"},
		{"old ticket", func(s *krb5test.Spec) { s.AuthTime = ago(6 * time.Minute) }, nil, "clocks differ, or it is an old one"},
		{"ticket of a clock that is ahead", func(s *krb5test.Spec) { s.AuthTime, s.StartTime = ago(-6*time.Minute), ago(0) }, nil, "clocks differ"},
		{"expired ticket", func(s *krb5test.Spec) { s.AuthTime, s.EndTime = ago(time.Hour), ago(10*time.Minute) }, nil, "expired"},
		{"key that nobody has", func(s *krb5test.Spec) { s.WrongKey = true }, nil, "not made with this server's key"},
		{"key version that we do not have", func(s *krb5test.Spec) { s.KVNO = 9 }, nil, "keytab is out of date"},
		{"ticket for another service", func(s *krb5test.Spec) { s.NamedService = []string{"imap", "localhost"} }, nil, "for another service than pop/localhost@EXAMPLE.TEST"},
		{"ticket for another realm", func(s *krb5test.Spec) { s.NamedRealm = "OTHER.TEST" }, nil, "for another service"},
		{"reply for another service", same, func(_ *messages.ASRep, p *messages.EncKDCRepPart) { p.SName.NameString = []string{"imap", "localhost"} }, "for another service"},
		{"reply to another request", same, func(_ *messages.ASRep, p *messages.EncKDCRepPart) { p.Nonce++ }, "to another request"},
		{"reply for another user", same, func(r *messages.ASRep, _ *messages.EncKDCRepPart) { r.CName.NameString = []string{"mallory"} }, "for another user"},
		{"reply with RC4", same, func(r *messages.ASRep, _ *messages.EncKDCRepPart) { r.EncPart.EType = krb5.RC4 }, "encrypted with arcfour-hmac, which is not taken"},
		{"ticket with RC4", func(s *krb5test.Spec) { s.NamedEnctype = krb5.RC4 }, nil, "encrypted with arcfour-hmac, which is not taken"},
		{"key of one iteration", same, func(r *messages.ASRep, _ *messages.EncKDCRepPart) {
			r.PAData = types.PADataSequence{etypeInfo2(krb5.AES256SHA1, "\x00\x00\x00\x01")}
		}, "asks for 1 iterations"},
		{"another key than the one of the pre-authentication", same, func(r *messages.ASRep, _ *messages.EncKDCRepPart) {
			r.PAData = types.PADataSequence{etypeInfo2(krb5.AES256SHA1, "\x00\x00\x10\x01")}
		}, "encrypts its reply with another key"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			stolen := ticket(t, tt.spec)
			liar := forger(t, func(r *messages.ASRep, p *messages.EncKDCRepPart) {
				r.Ticket = stolen
				p.Key = types.EncryptionKey{KeyType: krb5.AES256SHA1, KeyValue: session}
				if tt.change != nil {
					tt.change(r, p)
				}
			})
			p := passwords(t, k, network{kdc1: liar}, krb5.PasswordOptions{})
			if tt.text == "" {
				letIn(t, p, "alice", "pw-mallory")
				return
			}
			judged(t, p, "alice", "pw-mallory", authn.Unavailable, tt.text)
		})
	}
}

func etypeInfo2(enctype int32, params string) types.PAData {
	b, err := asn1.Marshal(types.ETypeInfo2{{EType: enctype, Salt: "EXAMPLE.TESTalice", S2KParams: []byte(params)}})
	if err != nil {
		panic(err)
	}
	return types.PAData{PADataType: 19, PADataValue: b}
}

// refusing is a KDC that says the same to everybody.
func refusing(code int32, methods ...types.PAData) func([]byte) []byte {
	m := messages.NewKRBError(types.NewPrincipalName(2, "krbtgt/EXAMPLE.TEST"), "EXAMPLE.TEST", code, "so\x1b[1m it is")
	if methods != nil {
		var err error
		if m.EData, err = asn1.Marshal(types.PADataSequence(methods)); err != nil {
			panic(err)
		}
	}
	b, err := m.Marshal()
	if err != nil {
		panic(err)
	}
	return func([]byte) []byte { return b }
}

// What KDCs say, and what it means. Nothing but what speaks of the user refuses
// him.
func TestKDCErrors(t *testing.T) {
	t.Parallel()
	stamp := types.PAData{PADataType: 2}
	for _, tt := range []struct {
		name   string
		answer func([]byte) []byte
		kind   authn.Kind
		text   string
	}{
		{"account expired", refusing(1), authn.Denied, "account has expired (KRB-ERROR 1 so?[1m it is)"},
		{"unknown client", refusing(6), authn.UnknownUser, "no such principal"},
		{"unknown service", refusing(7), authn.Unavailable, "does not know our service"},
		{"policy", refusing(12), authn.Denied, "policy"},
		{"no enctype", refusing(14), authn.Unavailable, "no key of an enctype"},
		{"revoked", refusing(18), authn.Denied, "locked or disabled"},
		{"service revoked", refusing(19), authn.Unavailable, "does not answer the question (KRB-ERROR 19"},
		{"password expired", refusing(23), authn.Expired, "password has expired"},
		{"pre-authentication failed", refusing(24), authn.Rejected, "wrong password"},
		{"pre-authentication by nothing", refusing(25), authn.Unavailable, "more than a password"},
		{"pre-authentication by certificate only", refusing(25, types.PAData{PADataType: 16}, etypeInfo2(krb5.AES256SHA1, "")), authn.Unavailable, "more than a password"},
		{"pre-authentication with RC4 only", refusing(25, stamp, etypeInfo2(krb5.RC4, "")), authn.Unavailable, "an enctype that is not taken (aes256-cts-hmac-sha384-192, "},
		{"pre-authentication with a key that is too cheap", refusing(25, stamp, etypeInfo2(krb5.AES256SHA1, "\x00\x00\x00\x10")), authn.Unavailable, "asks for 16 iterations"},
		{"pre-authentication with a key that is too dear", refusing(25, stamp, etypeInfo2(krb5.AES256SHA1, "\xff\xff\xff\xff")), authn.Unavailable, "asks for 4294967295 iterations"},
		{"pre-authentication with damaged hints", refusing(25, stamp, types.PAData{PADataType: 19, PADataValue: octets(7)}), authn.Unavailable, "more than a password"},
		{"pre-authentication again and again", refusing(25, stamp, etypeInfo2(krb5.AES256SHA1, "")), authn.Unavailable, "wants more than a password"},
		{"busy", refusing(29), authn.Unavailable, "cannot answer now"},
		{"integrity", refusing(31), authn.Rejected, "wrong password"},
		{"skew", refusing(37), authn.Unavailable, "its clock and ours differ by "},
		{"too big for TCP", refusing(52), authn.Unavailable, "does not answer the question"},
		{"fault", refusing(60), authn.Unavailable, "has a fault"},
		{"another realm", refusing(68), authn.UnknownUser, "another realm"},
		{"code that nobody knows", refusing(-7), authn.Unavailable, "does not answer the question (KRB-ERROR -7"},
		{"silence", func([]byte) []byte { return nil }, authn.Unavailable, "no reply"},
		{"nothing", func([]byte) []byte { return []byte{} }, authn.Unavailable, "no message of Kerberos"},
		{"HTTP", func([]byte) []byte { return []byte("HTTP/1.1 400 Bad Request\r\n\r\n") }, authn.Unavailable, "no message of Kerberos"},
		{"128 KiB and more", func([]byte) []byte { return make([]byte, 128<<10+1) }, authn.Unavailable, "which is too long"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			k := campus()
			judged(t, passwords(t, k, network{kdc1: tt.answer}, krb5.PasswordOptions{}), "alice", "pw-alice", tt.kind, tt.text)
		})
	}
}

// A clock that differs is told apart from a wrong password, and the log says by
// how much.
func TestKDCSkew(t *testing.T) {
	t.Parallel()
	for ahead, text := range map[time.Duration]string{
		10 * time.Minute:  "its clock and ours differ by 10m0s: set them right",
		-10 * time.Minute: "its clock and ours differ by 10m0s: set them right",
		4 * time.Minute:   "",
		-4 * time.Minute:  "",
	} {
		t.Run(ahead.String(), func(t *testing.T) {
			t.Parallel()
			k := campus()
			k.Ahead = ahead
			synctest.Test(t, func(t *testing.T) { // no second passes meanwhile
				p := passwords(t, k, network{kdc1: k.Answer}, krb5.PasswordOptions{})
				if text == "" {
					letIn(t, p, "alice", "pw-alice")
					return
				}
				judged(t, p, "alice", "pw-alice", authn.Unavailable, text)
				// a user whose KDC looks at no clock
				judged(t, p, "bare", "pw-bare", authn.Unavailable, "its ticket does not prove it")
			})
		})
	}
}

func TestFailover(t *testing.T) {
	t.Parallel()
	k := campus()
	took := func(t *testing.T, p *krb5.Passwords, want time.Duration) {
		t.Helper()
		start := time.Now()
		letIn(t, p, "alice", "pw-alice")
		if d := time.Since(start); d != want {
			t.Errorf("it took %v, want %v", d, want)
		}
	}
	t.Run("refused connection", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			took(t, passwords(t, k, network{kdc2: k.Answer}, krb5.PasswordOptions{KDCs: []string{"kdc1", kdc2}}), 0)
		})
	})
	t.Run("hung", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			n := network{kdc1: nil, kdc2: k.Answer}
			p := passwords(t, k, n, krb5.PasswordOptions{})
			took(t, p, 3*time.Second)
			took(t, p, 0) // it is asked last now
			<-time.After(31 * time.Second)
			took(t, p, 3*time.Second) // and tried again
			n[kdc1] = k.Answer
			n[kdc2] = nil
			took(t, p, 3*time.Second)
			took(t, p, 0)
		})
	})
	t.Run("a step's deadline is shared", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			p := passwords(t, k, network{kdc1: nil, kdc2: k.Answer}, krb5.PasswordOptions{})
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err := p.Verify(ctx, "alice", authn.Password("pw-alice")); err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("a refusal is not asked about again", func(t *testing.T) {
		t.Parallel()
		p := passwords(t, k, network{kdc1: k.Answer, kdc2: func([]byte) []byte { t.Error("asked"); return nil }}, krb5.PasswordOptions{})
		judged(t, p, "alice", "pw-wrong", authn.Rejected, "KDC kdc1:88: wrong password")
	})
	t.Run("nobody there", func(t *testing.T) {
		t.Parallel()
		p := passwords(t, k, network{}, krb5.PasswordOptions{KDCs: []string{kdc1, "kdc2"}})
		judged(t, p, "alice", "pw-alice", authn.Unavailable, "KDC kdc1:88: connection refused\nKDC kdc2:88: connection refused")
	})
}

// Deadlines are kept, whatever a KDC does.
func TestDeadlines(t *testing.T) {
	t.Parallel()
	k := campus()
	midway := network{}
	midway[kdc1] = func(b []byte) []byte {
		midway[kdc1] = nil
		return k.Answer(b)
	}
	for _, tt := range []struct {
		name    string
		n       network
		timeout time.Duration // of the caller, none when zero
		want    time.Duration
	}{
		{"one hung", network{kdc1: nil}, 0, 10 * time.Second},
		{"one hung, caller in a hurry", network{kdc1: nil}, 2 * time.Second, 2 * time.Second},
		{"hung in mid-login", midway, 0, 10 * time.Second},
		{"both hung", network{kdc1: nil, kdc2: nil}, 0, 10 * time.Second},
		{"both hung, caller in a hurry", network{kdc1: nil, kdc2: nil}, time.Second, time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				if tt.timeout > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, tt.timeout)
					defer cancel()
				}
				start := time.Now()
				_, err := passwords(t, k, tt.n, krb5.PasswordOptions{}).Verify(ctx, "alice", authn.Password("pw-alice"))
				if authn.KindOf(err) != authn.Unavailable || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got %v", err)
				}
				if d := time.Since(start); d != tt.want {
					t.Errorf("it took %v, want %v", d, tt.want)
				}
			})
		})
	}
	t.Run("caller went away", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			p := passwords(t, k, network{kdc1: nil, kdc2: k.Answer}, krb5.PasswordOptions{})
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Second, cancel)
			start := time.Now()
			if _, err := p.Verify(ctx, "alice", authn.Password("pw-alice")); authn.KindOf(err) != authn.Unavailable {
				t.Errorf("got %v", err)
			}
			if d := time.Since(start); d != time.Second {
				t.Errorf("it took %v", d)
			}
		})
	})
}

func TestNewPasswords(t *testing.T) {
	t.Parallel()
	k := krb5test.NewKDC("EXAMPLE.TEST", "OTHER.TEST")
	for _, s := range []string{"pop/b", "pop/a", "pop3/c", "host/a", "pop/z@OTHER.TEST"} {
		k.AddService(s)
	}
	kt, err := krb5.ParseKeytab(k.Keytab("host/a", "pop/b", "pop/a", "pop3/c", "pop/z@OTHER.TEST"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		o    krb5.PasswordOptions
		want string // service, or part of the error
	}{
		{"service found", krb5.PasswordOptions{Realm: "EXAMPLE.TEST", KDCs: []string{"a"}, Keytab: kt}, "pop/a@EXAMPLE.TEST"},
		{"service of the realm", krb5.PasswordOptions{Realm: "OTHER.TEST", KDCs: []string{"a"}, Keytab: kt}, "pop/z@OTHER.TEST"},
		{"service named", krb5.PasswordOptions{Realm: "EXAMPLE.TEST", KDCs: []string{"[::1]:750", "[::1]", "::1", "a"}, Keytab: kt, Service: "host/a"}, "host/a@EXAMPLE.TEST"},
		{"service that is not in the keytab", krb5.PasswordOptions{Realm: "EXAMPLE.TEST", KDCs: []string{"a"}, Keytab: kt, Service: "pop/c"}, "no key of pop/c@EXAMPLE.TEST"},
		{"service of one word", krb5.PasswordOptions{Realm: "EXAMPLE.TEST", KDCs: []string{"a"}, Keytab: kt, Service: "pop"}, "not of the form pop/HOST"},
		{"no key of the realm", krb5.PasswordOptions{Realm: "THIRD.TEST", KDCs: []string{"a"}, Keytab: kt}, "no key of pop/HOST or pop3/HOST in realm THIRD.TEST"},
		{"no keytab", krb5.PasswordOptions{Realm: "EXAMPLE.TEST", KDCs: []string{"a"}}, "false KDC could let anybody in"},
		{"no KDC", krb5.PasswordOptions{Realm: "EXAMPLE.TEST", Keytab: kt}, "KDCs are needed"},
		{"no realm", krb5.PasswordOptions{KDCs: []string{"a"}, Keytab: kt}, "realm and its KDCs"},
		{"port that is none", krb5.PasswordOptions{Realm: "EXAMPLE.TEST", KDCs: []string{"a:kerberos"}, Keytab: kt}, "no address of a KDC"},
		{"no host", krb5.PasswordOptions{Realm: "EXAMPLE.TEST", KDCs: []string{":88"}, Keytab: kt}, "no address of a KDC"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p, err := krb5.NewPasswords(tt.o)
			if got := fmt.Sprint(err); err == nil && p.Service() != tt.want || err != nil && !strings.Contains(got, tt.want) {
				t.Errorf("got %v, %v, want %s", p, err, tt.want)
			}
		})
	}
}

// A hint that no key can be made of is not remembered for users that the realm
// does not have.
func TestLearned(t *testing.T) {
	t.Parallel()
	k := campus()
	n := network{kdc1: refusing(25, types.PAData{PADataType: 2}, etypeInfo2(krb5.AES256SHA1, "\x00\x00\x00\x01"))}
	p := passwords(t, k, n, krb5.PasswordOptions{})
	judged(t, p, "alice", "pw-alice", authn.Unavailable, "asks for 1 iterations")
	n[kdc1] = k.Answer
	judged(t, p, "nobody", "pw-nobody", authn.UnknownUser, "no such principal")
}

// A deadline that has passed before the connection is told as one.
func TestDeadlineBeforeConnect(t *testing.T) {
	t.Parallel()
	p := passwords(t, campus(), network{}, krb5.PasswordOptions{KDCs: []string{"127.0.0.1"}})
	p.SetDial(new(net.Dialer).DialContext)
	ctx, cancel := context.WithDeadline(t.Context(), time.Now())
	defer cancel()
	_, err := p.Verify(ctx, "alice", authn.Password("pw-alice"))
	if authn.KindOf(err) != authn.Unavailable || !strings.Contains(err.Error(), "KDC 127.0.0.1:88: connect: context deadline exceeded") {
		t.Errorf("got %v", err)
	}
}
