package app

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
)

// gated is a writer that does not write until it may.
type gated struct {
	open    chan struct{}
	mu      sync.Mutex
	wrote   bytes.Buffer
	largest int // octets of one write
}

func (g *gated) Write(p []byte) (int, error) {
	<-g.open
	g.mu.Lock()
	defer g.mu.Unlock()
	g.largest = max(g.largest, len(p))
	return g.wrote.Write(p)
}

// Nobody waits for a writer that is stuck, until the buffer is full; then all
// lines come, whole and in the order of each writer.
func TestLogWriter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := &gated{open: make(chan struct{})}
		l := newLogWriter(g)
		line := strings.Repeat("x", 1000)
		for i := range 100 {
			fmt.Fprintf(l, "%d %s\n", i, line)
		}
		synctest.Wait()
		full := make(chan struct{})
		go func() { // ends when there is room
			defer close(full)
			for i := 100; i < 3000; i++ {
				fmt.Fprintf(l, "%d %s\n", i, line)
			}
		}()
		synctest.Wait()
		select {
		case <-full:
			t.Fatal("three megabytes fit into one")
		default:
		}
		close(g.open)
		<-full
		l.Close()
		fmt.Fprintf(l, "3000 %s\n", line)
		i := 0
		for got := range strings.Lines(g.wrote.String()) {
			if want := fmt.Sprintf("%d %s\n", i, line); got != want {
				t.Fatalf("line %d is %.20q", i, got)
			}
			i++
		}
		if i != 3001 || g.largest < maxUnwritten { // what had waited went in one write
			t.Errorf("%d lines, %d octets at once at most", i, g.largest)
		}
	})
}
