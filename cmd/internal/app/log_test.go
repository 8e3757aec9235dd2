package app

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kpopd/kpopd/cmd/internal/config"
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

func writeLines(w sorted, from, to int) {
	for i := from; i < to; i++ {
		fmt.Fprintf(w, "%d %s\n", i, strings.Repeat("x", 1000))
	}
}

// Nobody waits for a writer that is stuck; what found room comes whole and in
// order.
func TestLogWriter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := &gated{open: make(chan struct{})}
		l := newLogWriter(config.Log{}, slog.LevelInfo, g)
		other := sorted{l, otherLine}
		writeLines(other, 0, 100)
		synctest.Wait() // it writes those
		writeLines(other, 100, 1000)
		close(g.open)
		l.Close()
		writeLines(other, 1000, 1001)
		i := 0
		for got := range strings.Lines(g.wrote.String()) {
			if want := fmt.Sprintf("%d %s\n", i, strings.Repeat("x", 1000)); got != want {
				t.Fatalf("line %d is %.20q", i, got)
			}
			i++
		}
		if i != 1001 || g.largest < 900*1000 { // what had waited went in one write
			t.Errorf("%d lines, %d octets at once at most", i, g.largest)
		}
	})
}

var lossLine = regexp.MustCompile(`msg="log lines lost" lines=(\d+) logins=(\d+) since=`)

// When there is no more room lines are lost, those of logins last, and how many
// is said between what came before and what came after.
func TestLogLosesLines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := &gated{open: make(chan struct{})}
		l := newLogWriter(config.Log{}, slog.LevelInfo, g)
		other, login := sorted{l, otherLine}, sorted{l, loginLine}
		writeLines(other, 0, 1)
		synctest.Wait()
		writeLines(other, 1, 3001)      // a megabyte has room
		writeLines(login, 10000, 15000) // and five of logins after it
		writeLines(other, 3001, 3101)   // which leave none for others
		writeLines(login, 15000, 30000) // nor, in the end, for logins
		close(g.open)
		synctest.Wait()
		writeLines(other, 5000, 5001)
		l.Close()
		all := strings.SplitAfter(strings.TrimSpace(g.wrote.String()), "\n")
		others, logins, told := 0, 0, -1
		for i, line := range all {
			switch m := lossLine.FindStringSubmatch(line); {
			case m != nil && told >= 0:
				t.Errorf("told twice: %s", line)
			case m != nil:
				told = i
				if want := fmt.Sprintf("%d %d", 3101-others+20000-logins, 20000-logins); m[1]+" "+m[2] != want {
					t.Errorf("told of %s and %s, want %s", m[1], m[2], want)
				}
			case len(line) == len("10000 \n")+1000:
				logins++
			default:
				others++
			}
		}
		if told != len(all)-2 || others < 1000 || others > 1100 || logins < 8000 || logins > 9000 {
			t.Errorf("%d lines of others, %d of logins, told at %d of %d", others, logins, told, len(all))
		}
	})
}

// failing is a writer that fails until it is mended.
type failing struct {
	mu     sync.Mutex
	mended bool
	wrote  bytes.Buffer
}

func (f *failing) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.mended {
		return 0, errors.New("gone")
	}
	return f.wrote.Write(p)
}

// What could not be written is lost too.
func TestLogCannotBeWritten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &failing{}
		l := newLogWriter(config.Log{Format: "json"}, slog.LevelError, f)
		writeLines(sorted{l, otherLine}, 0, 3)
		writeLines(sorted{l, loginLine}, 3, 5)
		synctest.Wait()
		f.mu.Lock()
		f.mended = true
		f.mu.Unlock()
		writeLines(sorted{l, otherLine}, 5, 6)
		l.Close()
		lines := strings.SplitAfter(f.wrote.String(), "\n")
		if len(lines) != 3 || !strings.HasPrefix(lines[0], "5 ") || !strings.Contains(lines[1], `"msg":"log lines lost","lines":5,"logins":2,"since":"`) {
			t.Errorf("got %.300q", f.wrote.String())
		}
	})
}

// Close does not wait for ever, and neither does who logs after it.
func TestLogIsGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := &gated{open: make(chan struct{})}
		l := newLogWriter(config.Log{}, slog.LevelInfo, g)
		writeLines(sorted{l, otherLine}, 0, 10)
		start := time.Now()
		l.Close()
		if took := time.Since(start); took != flushTime {
			t.Errorf("took %v", took)
		}
		writeLines(sorted{l, loginLine}, 10, 20)
		close(g.open) // ends the goroutine
		<-l.done
		if n := strings.Count(g.wrote.String(), "\n"); n != 20 {
			t.Errorf("%d lines", n)
		}
	})
}

// With standard error a pipe that nobody reads, users log in as long as they
// like, and the server ends.
func TestServeWithStuckLog(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	s, err := Start(t.Context(), folder(t, base), w)
	if err != nil {
		t.Fatal(err)
	}
	lost := func() losses {
		s.lines.mu.Lock()
		defer s.lines.mu.Unlock()
		return s.lines.lost
	}
	for lost().logins == 0 { // until there is no room
		writeLines(sorted{s.lines, loginLine}, 0, 1000)
	}
	before := lost()
	for lost() == before { // not even for a short line
		fmt.Fprintln(sorted{s.lines, loginLine})
	}
	before = lost()
	for range 2 {
		if code := loginCode(t, s, "alice", "wrong"); code != "AUTH" {
			t.Errorf("refused with %q", code)
		}
	}
	if code := loginCode(t, s, "alice", password); code != "" {
		t.Errorf("refused with %q", code)
	}
	if after := lost(); after.logins < before.logins+3 {
		t.Errorf("lost %d lines of logins, %d before", after.logins, before.logins)
	}
	s.Shutdown(nil)
}
