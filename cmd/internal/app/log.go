package app

import (
	"io"
	"log/slog"
	"sync"

	"github.com/kpopd/kpopd/cmd/internal/config"
)

// maxUnwritten is how many octets of log lines may wait; who logs more waits
// until there is room, as an audit must not have holes.
const maxUnwritten = 1 << 20

// logWriter lets sessions go on while lines are written: a slow disk or
// terminal is not on the path of a login. Lines that come together are written
// together.
type logWriter struct {
	w    io.Writer
	done chan struct{} // closed when the goroutine has ended

	mu     sync.Mutex // guards what follows
	change sync.Cond  // a line came, room was made, or the end
	lines  []byte
	closed bool
}

// newLogWriter starts the goroutine that writes; Close ends it.
func newLogWriter(w io.Writer) *logWriter {
	l := &logWriter{w: w, done: make(chan struct{})}
	l.change.L = &l.mu
	go l.run()
	return l
}

// Write takes whole lines. After Close it writes them itself.
func (l *logWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.lines) > maxUnwritten && !l.closed {
		l.change.Wait()
	}
	if l.closed {
		l.mu.Unlock()
		<-l.done
		l.mu.Lock()
		return l.w.Write(p)
	}
	l.lines = append(l.lines, p...)
	l.change.Broadcast()
	return len(p), nil
}

func (l *logWriter) run() {
	defer close(l.done)
	var writing []byte
	for {
		l.mu.Lock()
		for len(l.lines) == 0 && !l.closed {
			l.change.Wait()
		}
		writing, l.lines = l.lines, writing[:0]
		end := l.closed && len(writing) == 0
		l.change.Broadcast()
		l.mu.Unlock()
		if end {
			return
		}
		_, _ = l.w.Write(writing) // there is nobody to tell
	}
}

// Close writes what is left.
func (l *logWriter) Close() {
	l.mu.Lock()
	l.closed = true
	l.change.Broadcast()
	l.mu.Unlock()
	<-l.done
}

func newLog(c config.Log, level slog.Leveler, w io.Writer) *slog.Logger {
	o := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}
