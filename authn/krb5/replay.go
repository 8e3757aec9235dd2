package krb5

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"sync"
	"time"
)

// ReplayCache remembers authenticators. Seen is atomic: of any number of calls
// with one tag exactly one returns false. It remembers tag until expires. An
// error means that it cannot tell; nobody gets in then.
type ReplayCache interface {
	Seen(ctx context.Context, tag [32]byte, expires time.Time) (bool, error)
}

// replayTag covers all that tells one request from another, each part with its
// length, so that no two requests run together. All of it was sealed: a part
// that can be changed on the way, as the service's name can where several have
// one key, would make a new request of a replay.
func replayTag(client name, ctime time.Time, cusec int, cipher []byte) [32]byte {
	h := sha256.New()
	for _, part := range [][]byte{[]byte(client.key()), cipher} {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		h.Write(part)
	}
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(ctime.Unix())))
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(cusec)))
	return [32]byte(h.Sum(nil))
}

// maxReplays bounds a cache: a million tags take about 80 MB, and ten minutes
// of 1,700 logins a second fill it.
const maxReplays = 1 << 20

var errReplayFull = errors.New("replay cache is full")

// MemoryReplay forgets with the process: within the clock skew after a restart
// a request can be replayed. The zero value is empty and ready.
type MemoryReplay struct {
	mu   sync.Mutex
	tags tagSet
}

// Seen implements [ReplayCache].
func (m *MemoryReplay) Seen(_ context.Context, tag [32]byte, expires time.Time) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	seen, err := m.tags.has(tag, time.Now())
	if seen || err != nil {
		return seen, err
	}
	m.tags.add(tag, expires)
	return false, nil
}

// tagSet is tags with their ends, in the order in which they came. It is not
// safe for concurrent use.
type tagSet struct {
	ends  map[[32]byte]int64 // Unix seconds
	order [][32]byte
	max   int // maxReplays when zero
}

// has drops what has ended and looks for tag. Ends come nearly in order, so
// the look at the first few is enough to keep the set small.
func (s *tagSet) has(tag [32]byte, now time.Time) (bool, error) {
	for len(s.order) > 0 && s.ends[s.order[0]] < now.Unix() {
		delete(s.ends, s.order[0])
		s.order = s.order[1:]
	}
	if _, ok := s.ends[tag]; ok {
		return true, nil
	}
	if len(s.order) >= cmp.Or(s.max, maxReplays) {
		return false, errReplayFull
	}
	return false, nil
}

func (s *tagSet) add(tag [32]byte, expires time.Time) {
	if s.ends == nil {
		s.ends = map[[32]byte]int64{}
	}
	s.ends[tag] = expires.Unix() + 1
	s.order = append(s.order, tag)
}
