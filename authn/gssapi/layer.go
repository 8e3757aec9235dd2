package gssapi

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// conn is a connection inside a security layer (RFC 4422 section 3.7): each
// way, tokens behind their length in four octets. An error of either way is
// that way's last.
type conn struct {
	net.Conn
	w      *wrapper
	sealed bool
	limit  int // octets of the longest token taken
	chunk  int // octets of payload in the longest token sent
	batch  int // octets of payload in one write, a multiple of chunk

	rmu    sync.Mutex
	rerr   error
	length [4]byte
	token  []byte // being read
	have   int    // octets of length and token that were read
	plain  []byte // not yet handed out

	wmu  sync.Mutex
	werr error
}

// maxBatch is how many octets of tokens are made before they are written, and
// of payload in one token. It is tokens that count: to a peer that takes one
// octet in each, they are sixty times their payload.
const maxBatch = 64 << 10

func newConn(c net.Conn, w *wrapper, sealed bool, limit, peerLimit int) *conn {
	overhead := w.overhead(sealed)
	chunk := min(peerLimit-overhead, maxBatch)
	batch := max(1, maxBatch/(4+overhead+chunk)) * chunk
	return &conn{Conn: c, w: w, sealed: sealed, limit: limit, chunk: chunk, batch: batch}
}

// CloseWrite is that of the connection underneath: a layer has no end of its
// own.
func (c *conn) CloseWrite() error {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return half.CloseWrite()
}

// Read hands out what a token holds. A deadline that passes in the middle of
// one loses nothing.
func (c *conn) Read(b []byte) (int, error) {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	for len(c.plain) == 0 && len(b) > 0 {
		if c.rerr != nil {
			return 0, c.rerr
		}
		if err := c.fill(); err != nil {
			var ne net.Error
			if !errors.As(err, &ne) || !ne.Timeout() {
				c.rerr = err
			}
			return 0, err
		}
	}
	n := copy(b, c.plain)
	if c.plain = c.plain[n:]; len(c.plain) == 0 {
		c.plain = nil
	}
	return n, nil
}

// fill reads one token.
func (c *conn) fill() error {
	if err := c.more(c.length[:], 0); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(c.length[:])
	if int64(n) > int64(c.limit) {
		return fmt.Errorf("token of %d octets, %d were agreed on", n, c.limit)
	}
	if c.token == nil {
		c.token = make([]byte, n)
	}
	if err := c.more(c.token, len(c.length)); err != nil {
		return err
	}
	token := c.token
	c.token, c.have = nil, 0
	plain, sealed, err := c.w.unwrap(token)
	if err != nil {
		return err
	}
	if sealed != c.sealed {
		return errors.New("token of another layer than was agreed on")
	}
	c.plain = plain
	return nil
}

// more reads on into b, which begins after skip octets of the frame.
func (c *conn) more(b []byte, skip int) error {
	for c.have < skip+len(b) {
		n, err := c.Conn.Read(b[c.have-skip:])
		c.have += n
		if err == nil || c.have >= skip+len(b) {
			continue
		}
		if errors.Is(err, io.EOF) && c.have > 0 {
			return io.ErrUnexpectedEOF
		}
		return err
	}
	return nil
}

// Write sends b in tokens that the peer takes, several in one write.
func (c *conn) Write(b []byte) (int, error) {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	done := 0
	for done < len(b) && c.werr == nil {
		batch := b[done:min(len(b), done+c.batch)]
		var frames []byte
		if frames, c.werr = c.frames(batch); c.werr != nil {
			break
		}
		// a token that went out in part is beyond repair, whatever the reason
		if _, c.werr = c.Conn.Write(frames); c.werr == nil {
			done += len(batch)
		}
	}
	return done, c.werr
}

func (c *conn) frames(b []byte) ([]byte, error) {
	overhead := 4 + c.w.overhead(c.sealed)
	out := make([]byte, 0, len(b)+(len(b)+c.chunk-1)/c.chunk*overhead)
	for len(b) > 0 {
		payload := b[:min(len(b), c.chunk)]
		b = b[len(payload):]
		at := len(out)
		var err error
		if out, err = c.w.wrap(append(out, 0, 0, 0, 0), payload, c.sealed); err != nil {
			return nil, err
		}
		binary.BigEndian.PutUint32(out[at:], uint32(len(out)-at-4))
	}
	return out, nil
}
