package pop3

import (
	"strconv"
	"sync"
)

const (
	replyBuffer = 4 << 10  // enough for the replies of most batches
	bodyBuffer  = 64 << 10 // for listings and messages; also what one write holds at most
)

var (
	replyBuffers = sync.Pool{New: func() any { return new([replyBuffer]byte) }}
	bodyBuffers  = sync.Pool{New: func() any { return new([bodyBuffer]byte) }}
)

// writer collects replies in a buffer borrowed from the pools, and sends them
// when it is full. The buffer is a small one, so that a client that reads
// nothing costs no more, unless enlarge is called for a listing or a message.
// There is none after flush.
type writer struct {
	send  func([]byte) error
	buf   []byte // what waits to be sent; the array is small or large
	small *[replyBuffer]byte
	large *[bodyBuffer]byte
	err   error // of the first write that went wrong; nothing is sent after it
}

// reserve makes room for n octets, at most replyBuffer.
func (w *writer) reserve(n int) {
	switch {
	case cap(w.buf)-len(w.buf) >= n:
	case w.buf != nil:
		w.push()
	default:
		w.small = replyBuffers.Get().(*[replyBuffer]byte)
		w.buf = w.small[:0]
	}
}

// enlarge exchanges the small buffer for a large one.
func (w *writer) enlarge() {
	if w.large != nil {
		return
	}
	w.large = bodyBuffers.Get().(*[bodyBuffer]byte)
	w.buf = append(w.large[:0], w.buf...)
	if w.small != nil {
		replyBuffers.Put(w.small)
		w.small = nil
	}
}

// push sends what waits and keeps the buffer.
func (w *writer) push() error {
	if w.err == nil && len(w.buf) > 0 {
		w.err = w.send(w.buf)
	}
	w.buf = w.buf[:0]
	return w.err
}

// flush sends what waits and gives the buffer back.
func (w *writer) flush() error {
	err := w.push()
	w.release()
	return err
}

func (w *writer) release() {
	if w.small != nil {
		replyBuffers.Put(w.small)
	}
	if w.large != nil {
		bodyBuffers.Put(w.large)
	}
	w.buf, w.small, w.large = nil, nil, nil
}

// str adds a text shorter than a reply line.
func (w *writer) str(s string) {
	w.reserve(len(s))
	w.buf = append(w.buf, s...)
}

// num adds n in decimal.
func (w *writer) num(n uint64) {
	w.reserve(20)
	w.buf = strconv.AppendUint(w.buf, n, 10)
}
