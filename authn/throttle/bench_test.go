package throttle

import (
	"fmt"
	"testing"
)

// BenchmarkAdmit is what a login costs that is not held.
func BenchmarkAdmit(b *testing.B) {
	for _, known := range []bool{true, false} {
		b.Run(fmt.Sprintf("familiar=%v", known), func(b *testing.B) {
			th := New(Options{Rate: 1e9})
			tr := from("192.0.2.1")
			outcome := right
			if !known {
				outcome = &outage{}
			}
			b.ReportAllocs()
			for b.Loop() {
				done, err := th.Admit(b.Context(), tr, "alice")
				if err != nil {
					b.Fatal(err)
				}
				done(outcome)
			}
		})
	}
}

type outage struct{}

func (*outage) Error() string { return "outage" }
