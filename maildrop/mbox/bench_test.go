package mbox

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/kpopd/kpopd/maildrop"
)

// BenchmarkOpen is a login: unchanged, after one delivery, and the first ever. One
// that finds the file as it was, or longer, reads the index and what is new: its cost
// must not grow with the octets that are stored.
func BenchmarkOpen(b *testing.B) {
	for _, bb := range []struct{ messages, octets int }{{1000, 10 << 10}, {100_000, 10 << 10}} {
		w := newWorld(b)
		fillSpool(b, w.file("alice"), bb.messages, bb.octets)
		s := w.store(Options{})
		open := func(b *testing.B) {
			d, err := s.Open(b.Context(), maildrop.Ref{User: "alice"})
			if err != nil {
				b.Fatal(err)
			}
			d.Close()
		}
		size := fmt.Sprintf("%d messages of %d octets", bb.messages, bb.octets)
		b.Run(size+", the first time", func(b *testing.B) {
			b.SetBytes(int64(bb.messages) * int64(bb.octets))
			b.ReportAllocs()
			for b.Loop() {
				os.Remove(w.state + "/" + stateName("alice", "index"))
				open(b)
			}
		})
		b.Run(size+", unchanged", func(b *testing.B) {
			open(b)
			b.ReportAllocs()
			for b.Loop() {
				open(b)
			}
		})
		b.Run(size+", after a delivery", func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				w.deliver("alice", asDelivered(fmt.Sprintf("Message-ID: <%d>\n\n", i)))
				open(b)
			}
		})
	}
}

func fillSpool(b *testing.B, path string, messages, octets int) {
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	out := bufio.NewWriterSize(f, 1<<20)
	line := strings.Repeat("x", 71) + "\n"
	body := strings.Repeat(line, octets/len(line))
	for i := range messages {
		fmt.Fprintf(out, "%sReceived: from a by b\nMessage-ID: <%d@example.test>\nSubject: %d\n\n%s\n", fromLine, i, i, body)
	}
	if err := out.Flush(); err != nil {
		b.Fatal(err)
	}
}
