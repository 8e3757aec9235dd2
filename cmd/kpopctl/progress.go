package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/kpopd/kpopd/cmd/internal/snapshot"
)

// barWidth is that of the bar, in characters.
const barWidth = 30

// progress tells how far a snapshot is: failures as they come, and a bar when
// somebody sits in front of it.
type progress struct {
	w   io.Writer
	bar bool

	total, done, failed, messages int
}

func newProgress(w io.Writer, total int) *progress {
	f, ok := w.(*os.File)
	return &progress{w: w, bar: ok && term.IsTerminal(int(f.Fd())), total: total}
}

// add counts a maildrop.
func (p *progress) add(m *snapshot.Maildrop) {
	p.done++
	p.messages += len(m.Messages)
	if m.Failure != nil {
		p.failed++
		p.clear()
		fmt.Fprintf(p.w, "%s: %s\n", oneLine(m.User), oneLine(m.Failure.String()))
	}
	if !p.bar {
		return
	}
	full := barWidth * p.done / p.total
	p.clear()
	fmt.Fprintf(p.w, "[%s%s] %d of %d maildrops, %d messages, %d failed",
		strings.Repeat("#", full), strings.Repeat("-", barWidth-full), p.done, p.total, p.messages, p.failed)
}

// end leaves the bar where it is.
func (p *progress) end() {
	if p.bar && p.done > 0 {
		fmt.Fprintln(p.w)
	}
}

// clear takes the bar away.
func (p *progress) clear() {
	if p.bar {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}

// oneLine is text of a server, which must not move the cursor about.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}
