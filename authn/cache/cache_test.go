package cache

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/authntest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newCache(t testing.TB, v authn.PasswordVerifier, o Options) *Cache {
	t.Helper()
	c, err := New(v, o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func request(login, password string) *authn.PasswordRequest {
	return &authn.PasswordRequest{Transport: &authn.Transport{}, Mechanism: "PLAIN", Login: login, Password: authn.Password(password)}
}

func people() *authntest.Fake {
	return &authntest.Fake{
		Passwords: map[string]string{"alice": "pw-alice", "bob": "pw-bob"},
		Attrs:     map[string]string{"maildrop": "x"},
	}
}

// It keeps to what every verifier keeps to, remembered or not.
func TestConformance(t *testing.T) {
	t.Parallel()
	f := people()
	f.Hook = func(_ context.Context, r *authn.PasswordRequest) {
		if len(r.Password) == 0 || len(r.Password) > authn.MaxPassword {
			r.Password.Wipe()
		}
	}
	c := newCache(t, f, Options{Accepted: Max, Refused: Max})
	for range 2 {
		authntest.RunVerifier(t, c, authntest.Account{Login: "alice", Password: "pw-alice"})
	}
}

// How long each kind of answer is remembered.
func TestLifetimes(t *testing.T) {
	t.Parallel()
	fails := func(k authn.Kind) error {
		return &authn.Error{Kind: k, Step: "fake", Text: "Text", Err: errors.New("why")}
	}
	for _, tt := range []struct {
		name string
		o    Options
		err  error // of the verifier
		want time.Duration
	}{
		{"yes", Options{Accepted: 30 * time.Second}, nil, 30 * time.Second},
		{"yes, off", Options{Refused: 30 * time.Second}, nil, 0},
		{"wrong password", Options{Refused: 5 * time.Second}, fails(authn.Rejected), 5 * time.Second},
		{"unknown user", Options{Refused: 5 * time.Second}, fails(authn.UnknownUser), 5 * time.Second},
		{"wrong password with words around it", Options{Refused: 5 * time.Second}, fmt.Errorf("x: %w", fails(authn.Rejected)), 5 * time.Second},
		{"wrong password, off", Options{Accepted: Max}, fails(authn.Rejected), 0},
		{"denied", Options{Accepted: Max, Refused: Max}, fails(authn.Denied), 0},
		{"expired", Options{Accepted: Max, Refused: Max}, fails(authn.Expired), 0},
		{"throttled", Options{Accepted: Max, Refused: Max}, fails(authn.Throttled), 0},
		{"outage", Options{Accepted: Max, Refused: Max}, fails(authn.Unavailable), 0},
		{"deadline", Options{Accepted: Max, Refused: Max}, context.DeadlineExceeded, 0},
		{"bug", Options{Accepted: Max, Refused: Max}, fails(authn.Internal), 0},
		{"unclassified", Options{Accepted: Max, Refused: Max}, errors.New("x"), 0},
		{"not mine", Options{Accepted: Max, Refused: Max}, fails(authn.Decline), 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := people()
				f.Err = tt.err
				c := newCache(t, f, tt.o)
				ask := func() error {
					_, err := c.VerifyPassword(t.Context(), request("alice", "pw-alice"))
					return err
				}
				first := ask()
				if tt.want > 0 {
					<-time.After(tt.want - 1)
					again := ask()
					if f.Asked.Load() != 1 {
						t.Errorf("asked again after %v", tt.want-1)
					}
					if (first == nil) != (again == nil) || first != nil && (authn.KindOf(again) != authn.KindOf(first) || !strings.Contains(again.Error(), "why") || text(again) != text(first)) {
						t.Errorf("first %v, then %v", first, again)
					}
					<-time.After(1)
				}
				_ = ask()
				if n := f.Asked.Load(); n != 2 {
					t.Errorf("asked %d times", n)
				}
			})
		})
	}
}

func text(err error) string {
	var e *authn.Error
	errors.As(err, &e)
	return e.Text
}

// A proof that runs out is not good for longer in a cache.
func TestExpires(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := &expiring{until: time.Now().Add(time.Second)}
		c := newCache(t, v, Options{Accepted: Max})
		for range 3 {
			if _, err := c.VerifyPassword(t.Context(), request("alice", "x")); err != nil {
				t.Fatal(err)
			}
			<-time.After(600 * time.Millisecond)
		}
		if v.asked != 2 {
			t.Errorf("asked %d times", v.asked)
		}
	})
}

type expiring struct {
	until time.Time
	asked int
}

func (*expiring) Name() string { return "expiring" }

func (v *expiring) VerifyPassword(context.Context, *authn.PasswordRequest) (*authn.Identity, error) {
	v.asked++
	return &authn.Identity{User: "alice", Expires: v.until}, nil
}

// questions are as many as there are ways in which two can differ, and some in
// which they could be taken for each other.
func questions() map[string]*authn.PasswordRequest {
	base := func(change func(*authn.PasswordRequest)) *authn.PasswordRequest {
		r := request("alice@a.example", "pw")
		r.Transport.Listener, r.Transport.Remote = "pop3s", netip.MustParseAddrPort("192.0.2.1:1")
		change(r)
		return r
	}
	return map[string]*authn.PasswordRequest{
		"base":               base(func(*authn.PasswordRequest) {}),
		"user":               base(func(r *authn.PasswordRequest) { r.Login = "bob@a.example" }),
		"case of the user":   base(func(r *authn.PasswordRequest) { r.Login = "Alice@a.example" }),
		"realm":              base(func(r *authn.PasswordRequest) { r.Login = "alice@b.example" }),
		"no realm":           base(func(r *authn.PasswordRequest) { r.Login = "alice" }),
		"mechanism":          base(func(r *authn.PasswordRequest) { r.Mechanism = "LOGIN" }),
		"proof":              base(func(r *authn.PasswordRequest) { r.Password = authn.Password("pw ") }),
		"service":            base(func(r *authn.PasswordRequest) { r.Transport.Listener = "pop3" }),
		"address":            base(func(r *authn.PasswordRequest) { r.Transport.Remote = netip.MustParseAddrPort("192.0.2.2:1") }),
		"TLS":                base(func(r *authn.PasswordRequest) { r.Transport.TLS = &tls.ConnectionState{} }),
		"nothing of it":      base(func(r *authn.PasswordRequest) { r.Transport = nil }),
		"shifted by one":     base(func(r *authn.PasswordRequest) { r.Login, r.Mechanism = "alice@a.exampleP", "LAIN" }),
		"proof in the name":  base(func(r *authn.PasswordRequest) { r.Login, r.Password = "alice@a.examplepw", nil }),
		"name in the proof":  base(func(r *authn.PasswordRequest) { r.Login, r.Password = "", authn.Password("alice@a.examplepw") }),
		"NUL between":        base(func(r *authn.PasswordRequest) { r.Login = "alice@a.example\x00" }),
		"mechanism to proof": base(func(r *authn.PasswordRequest) { r.Mechanism, r.Password = "", authn.Password("PLAINpw") }),
	}
}

// S-14: no question is answered with what was said to another.
func TestS14_NothingIsServedAcross(t *testing.T) {
	t.Parallel()
	all := questions()
	f := people()
	f.Passwords = map[string]string{}
	for _, r := range all {
		f.Passwords[r.Login] = string(r.Password)
	}
	for first, r := range all {
		for second, x := range all {
			if first == second {
				continue
			}
			c := newCache(t, f, Options{Accepted: Max, Refused: Max})
			for _, r := range []*authn.PasswordRequest{r, x} {
				before := f.Asked.Load()
				_, _ = c.VerifyPassword(t.Context(), r)
				if f.Asked.Load() == before {
					t.Errorf("%s is answered with what was said to %s", second, first)
				}
			}
		}
	}
	// the port of a client changes with each connection and means nothing
	c := newCache(t, f, Options{Accepted: Max, Refused: Max})
	a, b := all["base"], *all["base"]
	moved := *a.Transport
	moved.Remote = netip.MustParseAddrPort("192.0.2.1:2")
	b.Transport = &moved
	_, _ = c.VerifyPassword(t.Context(), a)
	before := f.Asked.Load()
	if _, _ = c.VerifyPassword(t.Context(), &b); f.Asked.Load() != before {
		t.Error("another port is another question")
	}
}

// FuzzTag: two questions have one tag only when they are the same.
func FuzzTag(f *testing.F) {
	f.Add("alice", "PLAIN", "pw", "pop3s", "bob", "PLAIN", "pw", "pop3s")
	f.Add("a", "bc", "", "", "ab", "c", "", "")
	f.Add("alice@a", "PLAIN", "", "x", "alice", "@aPLAIN", "", "x")
	c := newCache(f, people(), Options{})
	f.Fuzz(func(t *testing.T, login1, mech1, pw1, listener1, login2, mech2, pw2, listener2 string) {
		of := func(login, mech, pw, listener string) *authn.PasswordRequest {
			return &authn.PasswordRequest{Transport: &authn.Transport{Listener: listener}, Login: login, Mechanism: mech, Password: authn.Password(pw)}
		}
		same := login1 == login2 && mech1 == mech2 && pw1 == pw2 && listener1 == listener2
		if (c.tag(of(login1, mech1, pw1, listener1)) == c.tag(of(login2, mech2, pw2, listener2))) != same {
			t.Errorf("same question: %t", same)
		}
	})
}

// What is emptied is forgotten, and so is what was being asked at that time.
func TestEmpty(t *testing.T) {
	t.Parallel()
	f := people()
	c := newCache(t, f, Options{Accepted: Max, Refused: Max})
	ask := func() { _, _ = c.VerifyPassword(t.Context(), request("alice", "pw-alice")) }
	ask()
	c.Empty()
	f.Hook = func(context.Context, *authn.PasswordRequest) { c.Empty() } // the file changes meanwhile
	ask()
	f.Hook = nil
	ask()
	ask()
	if n := f.Asked.Load(); n != 3 {
		t.Errorf("asked %d times", n)
	}
}

// No more is kept than there is room for, whoever asks.
func TestBounded(t *testing.T) {
	t.Parallel()
	f := people()
	c := newCache(t, f, Options{Accepted: Max, Refused: Max, Entries: 10})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 100 {
				_, _ = c.VerifyPassword(t.Context(), request(fmt.Sprint("user", i, j), "x"))
			}
		})
	}
	wg.Wait()
	if n := c.entries.Len(); n != 10 {
		t.Errorf("%d entries", n)
	}
	for _, o := range []Options{{Accepted: Max + 1}, {Refused: Max + 1}, {Accepted: -1}, {Entries: -1}} {
		if _, err := New(f, o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}

// A verifier can do behind a cache what it can do without, and no more.
func TestSorts(t *testing.T) {
	t.Parallel()
	type passwords struct{ authn.PasswordVerifier }
	f := people()
	f.Secrets = map[string]map[string]string{"APOP": {"alice": "s"}}
	f.Principals = map[string][]string{"alice@A": {"alice"}}
	for name, tt := range map[string]struct {
		v                          authn.PasswordVerifier
		secrets, principals, users bool
	}{
		"passwords": {passwords{f}, false, false, false},
		"secrets": {struct {
			passwords
			secrets
		}{passwords{f}, secrets{f}}, true, false, false},
		"principals": {struct {
			passwords
			principals
		}{passwords{f}, principals{f}}, false, true, false},
		"users": {struct {
			passwords
			users
		}{passwords{f}, users{found{f}}}, false, false, true},
		"secrets, users": {struct {
			passwords
			secrets
			users
		}{passwords{f}, secrets{f}, users{found{f}}}, true, false, true},
		"principals, users": {struct {
			passwords
			principals
			users
		}{passwords{f}, principals{f}, users{found{f}}}, false, true, true},
		"secrets, principals": {f, true, true, false},
		"all":                 {found{f}, true, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			v := newCache(t, tt.v, Options{Accepted: Max}).Verifier()
			if v.Name() != "fake" {
				t.Errorf("its name is %s", v.Name())
			}
			if _, ok := v.(authn.PasswordVerifier); !ok {
				t.Error("takes no passwords")
			}
			s, ok := v.(authn.SecretSource)
			if ok != tt.secrets {
				t.Errorf("has secrets: %t", ok)
			}
			if ok {
				if secret, _, err := s.Secret(t.Context(), "alice", "APOP"); err != nil || string(secret) != "s" {
					t.Error(err)
				}
			}
			p, ok := v.(authn.PrincipalMapper)
			if ok != tt.principals {
				t.Errorf("maps principals: %t", ok)
			}
			if ok {
				if _, err := p.MapPrincipal(t.Context(), &authn.Principal{Components: []string{"alice"}, Realm: "A"}, ""); err != nil {
					t.Error(err)
				}
			}
			u, ok := v.(authn.UserFinder)
			if ok != tt.users {
				t.Errorf("finds users: %t", ok)
			}
			if ok {
				if id, err := u.FindUser(t.Context(), "alice"); err != nil || id.User != "alice" {
					t.Error(id, err)
				}
			}
		})
	}
}

// found finds everybody.
type found struct{ *authntest.Fake }

func (found) FindUser(_ context.Context, login string) (*authn.Identity, error) {
	return &authn.Identity{User: login}, nil
}

// What one login does to its identity is not seen by the next.
func TestNothingIsShared(t *testing.T) {
	t.Parallel()
	id := &authn.Identity{User: "alice", Groups: []string{"staff"}, Mechanisms: []string{"PLAIN"}, Attrs: map[string]string{"a": "b"}}
	c := clone(id)
	c.Groups[0], c.Mechanisms[0], c.Attrs["a"] = "root", "USER", "c"
	if id.Groups[0] != "staff" || id.Mechanisms[0] != "PLAIN" || id.Attrs["a"] != "b" {
		t.Errorf("it became %+v", id)
	}
	if c := clone(&authn.Identity{Groups: []string{}}); c.Groups == nil {
		t.Error("in no group became in unknown ones")
	}
}

func BenchmarkHit(b *testing.B) {
	c := newCache(b, people(), Options{Accepted: Max})
	r := request("alice", "pw-alice")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.VerifyPassword(b.Context(), r); err != nil {
			b.Fatal(err)
		}
	}
}
