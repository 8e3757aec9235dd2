package app

import (
	"bytes"
	"io"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/kpopd/kpopd/cmd/internal/config"
)

// How many octets of lines may wait to be written. The lines of logins, which are
// what is asked for after an incident, find room when others do not any more.
const (
	maxUnwritten = 1 << 20
	maxLogins    = 8 << 20
)

// flushTime is how long Close waits for what is left to be written.
const flushTime = 2 * time.Second

// lineSort is what a line is about.
type lineSort int

const (
	otherLine lineSort = iota
	loginLine          // an attempt, or a step of its chain
	ownLine            // the log itself
)

// room is how many octets may wait before a line of the sort.
func (s lineSort) room() int {
	switch s {
	case loginLine:
		return maxUnwritten + maxLogins
	case ownLine:
		return math.MaxInt
	}
	return maxUnwritten
}

// logWriter lets sessions go on while lines are written: neither a slow disk nor
// a pipe that nobody reads is on the path of a login. Lines that come together are
// written together. Those that find no room are lost, counted, and told of as soon
// as lines flow again.
type logWriter struct {
	w      io.Writer
	done   chan struct{} // closed when the goroutine has ended
	log    *slog.Logger
	logins *slog.Logger // for lines that are lost last
	own    *slog.Logger

	mu     sync.Mutex // guards what follows
	change sync.Cond  // a line came, or the end
	lines  []byte
	of     losses // what lines holds
	lost   losses // since it was told last
	closed bool
	ended  bool // the goroutine writes no more
}

// losses counts lines.
type losses struct {
	lines, logins int       // logins are among the lines
	since         time.Time // of the first; zero when there are none
}

func (s *losses) add(lines, logins int) {
	if s.since.IsZero() {
		s.since = time.Now()
	}
	s.lines += lines
	s.logins += logins
}

// newLogWriter starts the goroutine that writes; Close ends it.
func newLogWriter(c config.Log, level slog.Leveler, w io.Writer) *logWriter {
	l := &logWriter{w: w, done: make(chan struct{})}
	l.change.L = &l.mu
	l.log = newLog(c, level, sorted{l, otherLine})
	l.logins = newLog(c, level, sorted{l, loginLine})
	l.own = newLog(c, level, sorted{l, ownLine})
	go l.run()
	return l
}

// sorted takes whole lines of one sort.
type sorted struct {
	l    *logWriter
	sort lineSort
}

// Write waits for nobody. After the end it writes itself.
func (s sorted) Write(p []byte) (int, error) {
	l := s.l
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	if s.sort == loginLine {
		n = 1
	}
	switch {
	case l.ended:
		return l.w.Write(p)
	case len(l.lines)+len(p) > s.sort.room():
		l.lost.add(1, n)
	default:
		l.lines = append(l.lines, p...)
		l.of.add(1, n)
		l.change.Broadcast()
	}
	return len(p), nil
}

func (l *logWriter) run() {
	defer close(l.done)
	var writing []byte
	for {
		if cap(writing) > 2*maxUnwritten { // of a time that is over
			writing = nil
		}
		var of losses
		if writing, of = l.next(writing[:0]); len(writing) == 0 {
			return
		}
		n, err := l.w.Write(writing)
		l.wrote(writing, n, of, err)
	}
}

// next are the lines that have come, none at the end. free is room for those to
// come.
func (l *logWriter) next(free []byte) (lines []byte, of losses) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.lines) == 0 && !l.closed {
		l.change.Wait()
	}
	l.ended = len(l.lines) == 0
	lines, l.lines = l.lines, free
	of, l.of = l.of, losses{}
	return lines, of
}

// wrote says how many lines were lost, once one could be written.
func (l *logWriter) wrote(lines []byte, n int, of losses, err error) {
	l.mu.Lock()
	if err != nil {
		missing := bytes.Count(lines[n:], []byte("\n"))
		l.lost.add(missing, min(of.logins, missing))
	}
	lost := l.lost
	if err == nil {
		l.lost = losses{}
	}
	l.mu.Unlock()
	if err == nil && lost.lines > 0 {
		l.own.Error("log lines lost", "lines", lost.lines, "logins", lost.logins, "since", lost.since)
	}
}

// Close writes what is left, as long as that does not take too long.
func (l *logWriter) Close() {
	l.mu.Lock()
	l.closed = true
	l.change.Broadcast()
	l.mu.Unlock()
	bound := time.NewTimer(flushTime)
	defer bound.Stop()
	select {
	case <-l.done:
	case <-bound.C: // the goroutine waits for whoever does not read, and the process ends
	}
}

func newLog(c config.Log, level slog.Leveler, w io.Writer) *slog.Logger {
	o := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}
