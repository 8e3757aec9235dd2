package krb5_test

import (
	"testing"
	"time"

	"github.com/kpopd/kpopd/authn/krb5"
	"github.com/kpopd/kpopd/krb5test"
)

// BenchmarkAccept is a login with a ticket, less the network: the cost of a
// request that passes, without and with the AP-REP.
func BenchmarkAccept(b *testing.B) {
	for _, enctype := range allEnctypes {
		b.Run(krb5.EnctypeName(enctype), func(b *testing.B) {
			k := krb5test.NewKDC("EXAMPLE.TEST")
			k.AddService("pop/localhost", enctype)
			a := acceptorFor(b, k)
			a.Enctypes, a.Replay = allEnctypes, new(spyReplay) // one request again and again
			i := mint(b, k, krb5test.Spec{Enctype: enctype, SessionEnctype: enctype}, krb5.InitOptions{Mutual: true})
			b.ReportAllocs()
			for b.Loop() {
				c, err := a.Accept(b.Context(), i.APReq, krb5.Options{})
				if err != nil {
					b.Fatal(err)
				}
				if _, err := c.APRep(nil, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkReplay is one authenticator remembered.
func BenchmarkReplay(b *testing.B) {
	file, err := krb5.OpenFileReplay(b.TempDir() + "/replay")
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	for name, c := range map[string]krb5.ReplayCache{"memory": new(krb5.MemoryReplay), "file": file} {
		b.Run(name, func(b *testing.B) {
			n := 0
			b.ReportAllocs()
			for b.Loop() {
				// ended at once, so that neither fills up
				if _, err := c.Seen(b.Context(), tag(n), time.Unix(0, 0)); err != nil {
					b.Fatal(err)
				}
				n++
			}
		})
	}
}
