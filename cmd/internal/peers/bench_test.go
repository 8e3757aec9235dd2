package peers

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkLogins is sessions of connect, TLS with a full handshake, login and
// QUIT at the command as it is installed, which writes its log; KPOP says STLS
// after the ticket. Clients are in the process of the benchmark. A login is the
// time of one divided by those at once; server-cpu and client-cpu are what the
// two processes computed for it, directory-cpu what slapd did. On one machine
// the sum of them divided by its cores is the least that ns/op can be.
//
//	go test ./cmd/internal/peers -run '^$' -bench Logins
func BenchmarkLogins(b *testing.B) {
	h := openHall(b, 64)
	for _, w := range ways {
		for _, clients := range []int{1, 64} {
			b.Run(fmt.Sprintf("%s/clients=%d", w.name, clients), func(b *testing.B) {
				address := h.address(b, w)
				h.visitAll(b, w, address, len(h.visitors), len(h.visitors)) // what is built once is built
				server, self, directory := cpu(b, h.cmd.Process.Pid), ownCPU(b), h.directoryCPU(b)
				b.ResetTimer()
				h.visitAll(b, w, address, clients, b.N)
				b.StopTimer()
				each := func(d time.Duration, unit string) { b.ReportMetric(float64(d.Nanoseconds())/float64(b.N), unit) }
				each(cpu(b, h.cmd.Process.Pid)-server, "server-cpu-ns/login")
				each(ownCPU(b)-self, "client-cpu-ns/login")
				if h.directory != nil && strings.HasPrefix(w.door, "ldap") {
					each(h.directoryCPU(b)-directory, "directory-cpu-ns/login")
				}
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "logins/s")
			})
		}
	}
}

// visitAll has so many clients at once make n logins, each as a user of its own.
func (h *hall) visitAll(b *testing.B, w way, address string, clients, n int) {
	b.Helper()
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	var next atomic.Int64
	var all sync.WaitGroup
	for _, v := range h.visitors[:clients] {
		all.Go(func() {
			for next.Add(1) <= int64(n) && ctx.Err() == nil {
				if err := w.visit(ctx, v, address); err != nil {
					b.Error(err)
					cancel()
				}
			}
		})
	}
	all.Wait()
	if b.Failed() {
		b.FailNow()
	}
}

// cpu is what a process has computed, with threads that are gone.
func cpu(b *testing.B, pid int) time.Duration {
	b.Helper()
	return clock(b, int32(^pid<<3|2)) // the process's own clock, as the kernel counts (clock_getcpuclockid(3))
}

func ownCPU(b *testing.B) time.Duration {
	b.Helper()
	return clock(b, unix.CLOCK_PROCESS_CPUTIME_ID)
}

func clock(b *testing.B, id int32) time.Duration {
	b.Helper()
	var t unix.Timespec
	if err := unix.ClockGettime(id, &t); err != nil {
		b.Fatal(err)
	}
	return time.Duration(t.Nano())
}

func (h *hall) directoryCPU(b *testing.B) time.Duration {
	b.Helper()
	if h.directory == nil {
		return 0
	}
	return cpu(b, h.directory.Servers[0].PID())
}
