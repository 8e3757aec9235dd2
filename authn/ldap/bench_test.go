package ldap

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/kpopd/kpopd/authn/ldap/ldaptest"
)

// BenchmarkLogin is a search and a bind at a slapd on the same machine, which
// does most of the work.
func BenchmarkLogin(b *testing.B) {
	d := start(b, ldaptest.Options{Quiet: true})
	for _, clients := range []int{1, 64} {
		for name, o := range map[string]Options{"search": options(b, d), "template": byTemplate(options(b, d))} {
			b.Run(fmt.Sprintf("%s/clients=%d", name, clients), func(b *testing.B) {
				v := open(b, o)
				b.ReportAllocs()
				login := func(n int) {
					user := fmt.Sprintf("user%02d", n%64)
					if id, err := verify(b.Context(), v, user, "pw-"+user); err != nil || id.User != user {
						b.Errorf("got %+v, %v", id, err)
					}
				}
				if clients == 1 {
					for i := 0; b.Loop(); i++ {
						login(i)
					}
					return
				}
				var next atomic.Int64
				b.SetParallelism((clients + runtime.GOMAXPROCS(0) - 1) / runtime.GOMAXPROCS(0))
				b.RunParallel(func(pb *testing.PB) {
					n := int(next.Add(1))
					for pb.Next() {
						login(n)
					}
				})
			})
		}
	}
}
