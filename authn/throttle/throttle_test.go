package throttle

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/authntest"
	"github.com/kpopd/kpopd/authn/cram"
	"github.com/kpopd/kpopd/authn/plain"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	right error
	wrong = &authn.Error{Kind: authn.Rejected, Step: "test"}
	none  = &authn.Error{Kind: authn.UnknownUser, Step: "test"}
)

// guess is an attempt from address that ends with outcome; it reports how long
// it was held, negative when it was refused unjudged.
func guess(t *testing.T, th *Throttle, address, login string, outcome error) time.Duration {
	t.Helper()
	start := time.Now()
	done, err := th.Admit(t.Context(), from(address), login)
	held := time.Since(start)
	switch {
	case err == nil:
		done(outcome)
		return held
	case authn.KindOf(err) != authn.Throttled || held != 0:
		t.Errorf("after %v: %v", held, err)
	}
	return -1
}

func from(address string) *authn.Transport {
	return &authn.Transport{Remote: netip.AddrPortFrom(netip.MustParseAddr(address), 40000)}
}

// host is the n-th of many addresses, each in a network of its own.
func host(n int) string { return fmt.Sprintf("10.%d.%d.1", n/256, n%256) }

// Ten wrong passwords are free, then the space doubles, then attempts come too
// early and are refused, whoever makes them.
func TestDelaysGrow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		th := New(Options{})
		var held []time.Duration
		for n := range 16 {
			held = append(held, guess(t, th, host(n), "alice", wrong))
		}
		want := fmt.Sprint([]time.Duration{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, -1, -1})
		if fmt.Sprint(held) != want {
			t.Errorf("held for %v, want %v", held, want)
		}
	})
}

// The longest space has to pass, and then one attempt is judged.
func TestDelaysHaveABound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		th := New(Options{})
		judged := 0
		start := time.Now()
		for n := 0; time.Since(start) < time.Hour; n++ {
			if guess(t, th, host(n%10000), "alice", wrong) >= 0 {
				judged++
			}
			time.Sleep(time.Second) // of the fake clock
		}
		if judged < 60*60/30 || judged > 60*60/30+20 {
			t.Errorf("%d guesses at one user in an hour, 120 and a few are meant to be", judged)
		}
	})
}

// Guesses sent at once are spaced like others: what has no outcome yet counts.
func TestGuessesAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		th := New(Options{})
		var mu sync.Mutex
		var wg sync.WaitGroup
		atOnce, later, refused := 0, 0, 0
		for n := range 1000 {
			wg.Go(func() {
				start := time.Now()
				done, err := th.Admit(t.Context(), from(host(n)), "alice")
				held := time.Since(start)
				if err == nil {
					time.Sleep(100 * time.Millisecond) // of the fake clock: a hash
					done(wrong)
				}
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err != nil:
					refused++
				case held == 0:
					atOnce++
				default:
					later++
				}
			})
		}
		wg.Wait()
		if atOnce != 10 || later != 3 || refused != 987 {
			t.Errorf("%d judged at once, %d later, %d refused", atOnce, later, refused)
		}
	})
}

// An attacker with an account of his own logs into it between his guesses.
func TestSuccessTakesNothingBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		judged := func(own bool) (n int) {
			th := New(Options{Address: 20})
			for i := range 200 {
				if own {
					guess(t, th, "192.0.2.1", "mallory", right)
				}
				if guess(t, th, "192.0.2.1", fmt.Sprint("user", i), wrong) >= 0 {
					n++
				}
			}
			return n
		}
		with, without := judged(true), judged(false)
		if with > without || without > 50 {
			t.Errorf("%d of 200 guesses judged with an own account, %d without", with, without)
		}
	})
}

// While the whole world guesses at alice, she logs in from where she usually
// is as if nothing were.
func TestNobodyLocksAUserOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		th := New(Options{})
		guess(t, th, "192.0.2.1", "alice", right)
		for n := range 10000 {
			guess(t, th, host(n), "alice", wrong)
			if n%1000 != 0 {
				continue
			}
			if held := guess(t, th, "192.0.2.1", "alice", right); held != 0 {
				t.Fatalf("alice was held for %v after %d guesses", held, n)
			}
		}
		if guess(t, th, "198.51.100.1", "alice", right) >= 0 {
			t.Error("a stranger met no limit")
		}
		// the guessing ends, and a new place is open again
		time.Sleep(2 * time.Hour) // of the fake clock
		if held := guess(t, th, "198.51.100.1", "alice", right); held != 0 {
			t.Errorf("held for %v two hours later", held)
		}
	})
}

// A campus behind one address: one laptop guesses at everyone. Who is known
// there is not held, strangers are, and the guessing is slow.
func TestOneAddressForACampus(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		th := New(Options{Rate: -1})
		const nat = "192.0.2.1"
		members := func() {
			t.Helper()
			for n := range 5000 {
				if held := guess(t, th, nat, fmt.Sprint("member", n), right); held != 0 {
					t.Fatalf("a member was held for %v", held)
				}
			}
		}
		inAnHour := func(who string, outcome error) (judged int) {
			start := time.Now()
			for n := 0; time.Since(start) < time.Hour; n++ {
				if guess(t, th, nat, fmt.Sprint(who, n%5000), outcome) >= 0 {
					judged++
				} else {
					time.Sleep(time.Second) // of the fake clock
				}
			}
			return judged
		}
		members()
		if n := inAnHour("stranger", none); n > 2000 {
			t.Errorf("%d guesses at names were judged", n)
		}
		members()
		// guesses at the members themselves have a bound too: two each
		if n := inAnHour("member", wrong); n > 11_000 {
			t.Errorf("%d guesses at members were judged", n)
		}
	})
}

// At a familiar address a user's own count bounds guesses, and it touches
// nobody else, nor the user elsewhere.
func TestGuessesAtAFamiliarAddress(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		th := New(Options{})
		for _, user := range []string{"alice", "bob"} {
			guess(t, th, "192.0.2.1", user, right)
		}
		guess(t, th, "198.51.100.1", "alice", right)
		judged := 0
		for range 100 {
			if guess(t, th, "192.0.2.1", "alice", wrong) >= 0 {
				judged++
			}
		}
		if judged != 14 {
			t.Errorf("%d guesses were judged, want 10 free ones and 4 that waited", judged)
		}
		if len(th.users.byKey) != 2 || len(th.pairs.byKey) != 1 { // the first logins were strangers'
			t.Errorf("%d users and %d pairs are counted", len(th.users.byKey), len(th.pairs.byKey))
		}
		if guess(t, th, "192.0.2.1", "bob", right) != 0 || guess(t, th, "198.51.100.1", "alice", right) != 0 {
			t.Error("others were held")
		}
	})
}

func TestFamiliarityEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		th := New(Options{User: 1, MaxDelay: time.Minute, HalfLife: 10 * Familiar})
		guess(t, th, "192.0.2.1", "alice", right)
		for n := range 20 {
			guess(t, th, host(n), "alice", wrong)
		}
		time.Sleep(Familiar - time.Minute) // of the fake clock
		for n := range 20 {
			guess(t, th, host(n), "alice", wrong)
		}
		if held := guess(t, th, "192.0.2.1", "alice", errors.New("outage")); held != 0 {
			t.Errorf("held for %v where she is known", held)
		}
		time.Sleep(time.Minute) // of the fake clock
		guess(t, th, host(1), "alice", wrong)
		if held := guess(t, th, "192.0.2.1", "alice", right); held == 0 {
			t.Error("known for ever")
		}
	})
}

// A user has so many familiar places, and the last of them win.
func TestPlacesOfAUser(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		th := New(Options{})
		for n := range maxPlaces + 2 {
			guess(t, th, host(n), "alice", right)
			time.Sleep(time.Minute) // of the fake clock
		}
		p := th.known.find(hash(th, "alice"))
		for n := range maxPlaces + 2 {
			address, _ := prefixes(netip.MustParseAddr(host(n)))
			if got, want := p.has(hash(th, address), time.Now()), n >= 2; got != want {
				t.Errorf("place %d familiar: %v", n, got)
			}
		}
	})
}

func TestOnlyRefusalsCount(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for kind := authn.Internal; kind <= authn.Aborted; kind++ {
			th := New(Options{})
			held := time.Duration(0)
			for range 20 {
				held += guess(t, th, "192.0.2.1", "alice", &authn.Error{Kind: kind, Step: "test"})
			}
			counts := kind == authn.UnknownUser || kind == authn.Rejected || kind == authn.Denied || kind == authn.Expired
			if counts != (held != 0) {
				t.Errorf("%v: held for %v", kind, held)
			}
		}
	})
}

// Failures far apart never add up to a delay.
func TestCountsDecay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		th := New(Options{})
		for n := range 200 {
			if held := guess(t, th, "192.0.2.1", "alice", wrong); held != 0 {
				t.Fatalf("failure %d was held for %v", n, held)
			}
			time.Sleep(2 * time.Minute) // of the fake clock: the count settles at 6.7
		}
		for range 2 {
			if held := guess(t, th, "192.0.2.1", "alice", wrong); held != 0 {
				t.Errorf("at once, one was held for %v", held)
			}
		}
	})
}

// An attempt without an outcome stays counted, however long it takes.
func TestPendingStays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		th := New(Options{})
		done, err := th.Admit(t.Context(), from("192.0.2.1"), "alice")
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(24 * time.Hour) // of the fake clock
		guess(t, th, "198.51.100.1", "bob", wrong)
		guess(t, th, "198.51.100.1", "bob", wrong)
		c := th.users.find(hash(th, "alice"))
		if c == nil || c.pending != 1 {
			t.Errorf("the count of a pending attempt is %+v", c)
		}
		done(wrong)
		if c != nil && (c.pending != 0 || c.score != 1) {
			t.Errorf("after it, the count is %+v", c)
		}
	})
}

// What is refused unjudged counts for nothing: a client that comes back every
// second waits no longer than one that does not.
func TestRefusedUnjudgedCountsForNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		th := New(Options{})
		for n := range 14 {
			guess(t, th, host(n), "alice", wrong)
		}
		for range 15 {
			if guess(t, th, host(99), "alice", right) >= 0 {
				break
			}
			time.Sleep(time.Second) // of the fake clock
		}
		if held := guess(t, th, host(99), "alice", right); held != 0 {
			t.Errorf("held for %v", held)
		}
	})
}

func TestWhatIsOneAddress(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, guesses, victim string
		address, network      bool // counts together
	}{
		{"IPv4", "192.0.2.1", "192.0.2.1", true, true},
		{"IPv4 in IPv6", "::ffff:192.0.2.1", "192.0.2.1", true, true},
		{"neighbour", "192.0.2.1", "192.0.2.200", false, true},
		{"next network", "192.0.2.1", "192.0.3.1", false, false},
		{"IPv6 of one customer", "2001:db8:1:2:3::4", "2001:db8:1:2:ffff::", true, true},
		{"IPv6 with a zone", "fe80::1%eth0", "fe80::2%eth1", true, true},
		{"IPv6 of one site", "2001:db8:1:2::1", "2001:db8:1:3::1", false, true},
		{"IPv6 of another site", "2001:db8:1:2::1", "2001:db8:2:2::1", false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				for o, want := range map[*Options]bool{{Address: 5, Network: -1, User: -1}: tt.address, {Address: -1, Network: 5, User: -1}: tt.network} {
					th := New(*o)
					for n := range 30 {
						guess(t, th, tt.guesses, fmt.Sprint(n), wrong)
					}
					if held := guess(t, th, tt.victim, "bob", right); (held != 0) != want {
						t.Errorf("%+v: held for %v", o, held)
					}
				}
			})
		})
	}
}

func TestExempt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		th := New(Options{Address: 1, Network: 1, Burst: 1, Exempt: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}})
		for n := range 100 {
			if held := guess(t, th, "::ffff:192.0.2.1", fmt.Sprint("user", n), wrong); held != 0 {
				t.Fatalf("web mail is held for %v", held)
			}
		}
		for range 20 {
			guess(t, th, "192.0.2.1", "alice", wrong)
		}
		if guess(t, th, "192.0.2.1", "alice", wrong) == 0 {
			t.Error("guesses at one user through web mail are not held")
		}
	})
}

// The rate of all attempts of an address, good ones too.
func TestRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		th := New(Options{Rate: 5, Burst: 20})
		logins := func(address string) (n int) {
			for range 100 {
				if guess(t, th, address, "alice", right) == 0 {
					n++
				}
			}
			return n
		}
		if a, b := logins("192.0.2.1"), logins("192.0.2.2"); a != 20 || b != 20 {
			t.Errorf("%d and %d at once", a, b)
		}
		time.Sleep(2 * time.Second) // of the fake clock
		if n := logins("192.0.2.1"); n != 10 {
			t.Errorf("%d after two seconds", n)
		}
		th.Set(Options{Rate: 50, Burst: 20})
		logins("192.0.2.1")         // the next attempt finds the change
		time.Sleep(2 * time.Second) // of the fake clock
		if n := logins("192.0.2.1"); n != 20 {
			t.Errorf("%d after the options changed", n)
		}
	})
}

// A wait ends with the session, holds nobody else up, and few wait at once.
func TestWaiting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		th := New(Options{User: 1, Rate: -1})
		guess(t, th, "192.0.2.1", "alice", wrong)
		guess(t, th, "192.0.2.1", "alice", wrong)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		ended := make(chan error)
		go func() { // ends with ctx
			_, err := th.Admit(ctx, from("192.0.2.1"), "alice")
			ended <- err
		}()
		synctest.Wait()
		if held := guess(t, th, "192.0.2.1", "bob", right); held != 0 {
			t.Errorf("bob was held for %v", held)
		}
		if err := <-ended; authn.KindOf(err) != authn.Throttled || !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		if th.waiting != 0 {
			t.Errorf("%d wait", th.waiting)
		}
		th.waiting = maxWaiting
		if guess(t, th, "192.0.2.1", "alice", wrong) >= 0 {
			t.Error("one more waits")
		}
	})
}

// A server that stops waits for nobody.
func TestClose(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		th := New(Options{User: 1})
		guess(t, th, "192.0.2.1", "alice", wrong)
		time.AfterFunc(100*time.Millisecond, th.Close)
		for _, want := range []time.Duration{100 * time.Millisecond, 0} {
			start := time.Now()
			_, err := th.Admit(t.Context(), from("192.0.2.1"), "alice")
			if held := time.Since(start); authn.KindOf(err) != authn.Throttled || held != want {
				t.Errorf("after %v: %v", held, err)
			}
			time.Sleep(900 * time.Millisecond) // of the fake clock
		}
		th.Close()
		if held := guess(t, th, "192.0.2.1", "bob", right); held != 0 {
			t.Errorf("held for %v", held)
		}
	})
}

// A million names and addresses take no more memory than the tables have, and
// what has decayed goes.
func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const size = 1 << 10
		th := New(Options{Size: size})
		sizes := func() []int {
			return []int{len(th.addresses.byKey), len(th.networks.byKey), len(th.users.byKey), len(th.pairs.byKey), len(th.known.byKey), th.users.recent.Len()}
		}
		for n := range 100_000 {
			address := netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}).String()
			guess(t, th, address, fmt.Sprint("user", n), right)
			guess(t, th, address, fmt.Sprint("user", n), wrong)
		}
		for _, n := range sizes() {
			if n > size {
				t.Fatalf("tables of %v entries", sizes())
			}
		}
		time.Sleep(Familiar + time.Hour) // of the fake clock
		for n := range size {
			guess(t, th, host(n/10), "alice", wrong)
		}
		for _, n := range sizes() {
			if n > size/4 {
				t.Fatalf("tables of %v entries after a month", sizes())
			}
		}
	})
}

// Those who are guessed at all the time stay in the table, whatever names are
// made up to push them out.
func TestHotEntriesStay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		th := New(Options{Size: 100, Rate: -1, Address: -1, Network: -1})
		judged := 0
		for n := range 10_000 {
			if n%50 == 0 && guess(t, th, host(n), "alice", wrong) >= 0 {
				judged++
			}
			guess(t, th, host(n), fmt.Sprint("nobody", n), none)
		}
		if judged > 15 {
			t.Errorf("%d guesses at alice were judged", judged)
		}
	})
}

// One Throttle serves many sessions at once.
func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	th := New(Options{Size: 16, User: 1 << 20, Address: 1 << 20, Network: 1 << 20, Rate: -1})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for n := range 500 {
				done, err := th.Admit(t.Context(), from(host(n%40)), fmt.Sprint("user", (n+g)%40))
				if err != nil {
					t.Error(err)
					continue
				}
				done([]error{right, wrong, none}[n%3])
				if n%100 == 0 {
					th.Set(Options{Size: 16, User: 1 << 20, Address: 1 << 20, Network: 1 << 20, Rate: -1})
				}
			}
		})
	}
	wg.Wait()
	for e := th.users.recent.Front(); e != nil; e = e.Next() {
		if p := e.Value.(*entry[count]).v.pending; p != 0 {
			t.Errorf("%d are pending", p)
		}
	}
}

// Through a policy: no verifier is asked about what is refused unjudged, known
// and unknown names are refused alike, and a client that goes away in the
// middle leaves nothing behind.
func TestThroughAPolicy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, login := range []string{"alice", "nobody"} {
			f := &authntest.Fake{
				Passwords: map[string]string{"alice": "p"},
				Secrets:   map[string]map[string]string{"CRAM-MD5": {"alice": "s"}},
			}
			th := New(Options{User: 2, MaxWait: time.Nanosecond})
			p := &authn.Policy{
				Name: "test", Plain: authn.PlainTrusted, Trusted: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}, Throttle: th,
				Offers: []authn.Mechanism{plain.PLAIN(f.Chain()), cram.New(f.Chain(), "pop.example")},
			}
			try := func(mech string, responses ...string) error {
				l, err := p.Start(t.Context(), from("192.0.2.1"), mech)
				if err != nil {
					t.Fatal(err)
				}
				for _, r := range responses {
					in := []byte(r)
					if r == "" {
						in = nil
					}
					if _, _, err = l.Next(t.Context(), in); err != nil {
						return err
					}
				}
				l.Abort(t.Context(), nil)
				return nil
			}
			const digest = "0123456789abcdef0123456789abcdef"
			kinds := []authn.Kind{}
			for range 2 {
				kinds = append(kinds, authn.KindOf(try("PLAIN", "\x00"+login+"\x00wrong")))
			}
			if err := try("CRAM-MD5", ""); err != nil {
				t.Error(err)
			}
			asked := f.Asked.Load()
			for range 3 {
				kinds = append(kinds, authn.KindOf(try("PLAIN", "\x00"+login+"\x00p")), authn.KindOf(try("CRAM-MD5", "", login+" "+digest)))
			}
			for i, k := range kinds {
				if got, want := k == authn.Throttled, i >= 2; got != want {
					t.Errorf("%s, attempt %d: %v", login, i, k)
				}
			}
			if n := f.Asked.Load() - asked; n != 0 {
				t.Errorf("%s: %d questions to the verifier", login, n)
			}
		}
	})
}
