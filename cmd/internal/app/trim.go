package app

import (
	"context"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/kpopd/kpopd/cmd/internal/listen"
)

const (
	trimInterval = time.Second
	trimSessions = 256 // fewer may come and go unnoticed
)

// trim gives memory back after sessions have come or gone in numbers. A login
// needs far more of it than the idle session that stays, in garbage and in
// depth of stack, and by itself the runtime would keep it for minutes. It
// returns when ctx is done.
func trim(ctx context.Context, gate *listen.Gate) {
	tick := time.NewTicker(trimInterval)
	defer tick.Stop()
	trimmed, before := 0, 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		open := gate.Open()
		if worthTrim(trimmed, before, open) {
			runtime.GC() // one cycle halves a stack, and a login can leave four times what idling takes
			debug.FreeOSMemory()
			trimmed = open
		}
		before = open
	}
}

// worthTrim: the number of open sessions is another one than when memory was
// trimmed, by a quarter and more than a few, and has come to rest since the
// last look. A storm of short sessions is never worth it: their number stays.
func worthTrim(trimmed, before, open int) bool {
	return distance(open, trimmed) > max(trimSessions, trimmed/4) && distance(open, before) <= open/32
}

func distance(a, b int) int { return max(a-b, b-a) }
