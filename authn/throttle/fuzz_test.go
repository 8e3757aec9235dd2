package throttle

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kpopd/kpopd/authn"
)

// FuzzThrottle lets attempts of a few users, addresses and outcomes begin, end
// and wait in any order. Whatever that was: nothing is held longer than
// MaxWait, all counts return to nothing, and in the end the door is open.
func FuzzThrottle(f *testing.F) {
	for _, s := range []string{"", "\x01\x02\x03", "AAAAAAAAAAAAAAAA", "\x00\x40\x80\xc0\xff\x3f", "a1b2c3d4e5f6g7h8i9j0"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, ops []byte) {
		synctest.Test(t, func(t *testing.T) {
			th := New(Options{Address: 6, Network: 9, User: 3, Burst: 8, Size: 3})
			var open []func(error)
			outcomes := []error{nil, wrong, none, errors.New("outage")}
			for _, op := range ops[:min(len(ops), 200)] {
				switch op & 3 {
				case 0: // time passes
					time.Sleep(time.Duration(op) * time.Second) // of the fake clock
				case 1: // an attempt ends
					if len(open) > 0 {
						open[0](outcomes[op>>2&3])
						open = open[1:]
					}
				default: // an attempt begins
					start := time.Now()
					done, err := th.Admit(t.Context(), from(fmt.Sprintf("2001:db8:%d:%d::1", op>>2&1, op>>3&3)), fmt.Sprint(op>>5))
					if held := time.Since(start); held > 10*time.Second || err != nil && held != 0 {
						t.Fatalf("held for %v: %v", held, err)
					}
					if err == nil {
						open = append(open, done)
					} else if authn.KindOf(err) != authn.Throttled {
						t.Fatal(err)
					}
				}
			}
			for _, done := range open {
				done(wrong)
			}
			for _, x := range []*table[count]{&th.addresses, &th.networks, &th.users, &th.pairs} {
				if len(x.byKey) > 3 || len(x.byKey) != x.recent.Len() {
					t.Errorf("%d entries, %d in order", len(x.byKey), x.recent.Len())
				}
				for e := x.recent.Front(); e != nil; e = e.Next() {
					if c := e.Value.(*entry[count]).v; c.pending != 0 || c.score < 0 {
						t.Errorf("left over: %+v", c)
					}
				}
			}
			time.Sleep(24 * time.Hour) // of the fake clock
			if held := guess(t, th, "2001:db8::1", "0", nil); held != 0 || th.waiting != 0 {
				t.Errorf("held for %v a day later, %d wait", held, th.waiting)
			}
		})
	})
}
