package remote

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/kpopd/kpopd/authn/authntest"
)

// BenchmarkPassword is what the socket adds to a login: the verifier behind it
// does nothing.
func BenchmarkPassword(b *testing.B) {
	f := &authntest.Fake{Passwords: map[string]string{"alice": "pw-alice"}}
	socket := filepath.Join(b.TempDir(), "s")
	l, err := Listen(b.Context(), socket)
	if err != nil {
		b.Fatal(err)
	}
	s := &Server{Clients: []uint32{uint32(os.Getuid())}, Log: slog.New(slog.DiscardHandler)}
	s.SetJudge(&Judge{Chain: f.Chain()})
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }() // ended by cancel
	c := New("helper", Options{Socket: socket, Judges: everything})
	defer func() {
		c.Close()
		cancel()
		<-ended
	}()
	b.Run("one", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := verify(b.Context(), c, "alice", "pw-alice"); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("64 at once", func(b *testing.B) {
		b.ReportAllocs()
		b.SetParallelism(32)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := verify(context.Background(), c, "alice", "pw-alice"); err != nil {
					b.Error(err)
				}
			}
		})
	})
}
