package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// link is one connection to the helper.
type link struct {
	c      net.Conn
	judges []Proof
	send   chan struct{} // holds one while a frame is written
	done   chan struct{} // closed when the link is broken

	mu    sync.Mutex
	last  uint64
	calls map[uint64]chan reply
	err   error // why it is broken
}

// reply is a frame of the helper.
type reply struct {
	m       *message
	payload []byte
}

// hello connects and agrees on the version. It ends when ctx does.
func hello(ctx context.Context, socket string) (*link, error) {
	c, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	l := &link{c: c, send: make(chan struct{}, 1), done: make(chan struct{}), calls: map[uint64]chan reply{}}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	m, err := l.greet()
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	l.judges = m.Judges
	return l, nil
}

func (l *link) greet() (*message, error) {
	b, err := frame(&message{Op: opHello, Version: version}, nil)
	if err != nil {
		return nil, err
	}
	if _, err := l.c.Write(b); err != nil {
		return nil, err
	}
	m, payload, err := readFrame(l.c)
	clear(payload)
	switch {
	case errors.Is(err, io.EOF):
		return nil, errors.New("the helper closed the connection: is this uid among its clients?")
	case err != nil:
		return nil, fmt.Errorf("hello of the helper: %w", err)
	case m.Op != opHello || m.Version != version:
		return nil, fmt.Errorf("the helper speaks version %d, this is %d: run the same release on both sides", m.Version, version)
	}
	return m, nil
}

// read hands out frames until the link breaks.
func (l *link) read() {
	for {
		m, payload, err := readFrame(l.c)
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("the helper closed the connection")
			}
			l.fail(err)
			return
		}
		l.mu.Lock()
		select {
		case l.calls[m.ID] <- reply{m, payload}:
		default: // nobody waits any more, or for that much
			clear(payload)
		}
		l.mu.Unlock()
	}
}

// fail breaks the link; who waits learns why.
func (l *link) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return
	}
	l.err = err
	close(l.done)
	_ = l.c.Close() // what it was good for is over
}

func (l *link) broken() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

func (l *link) why() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// remember makes room for the replies to a request: a check and an answer.
func (l *link) remember() (uint64, chan reply) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	replies := make(chan reply, 2)
	l.calls[l.last] = replies
	return l.last, replies
}

// forget wipes what nobody took.
func (l *link) forget(id uint64) {
	l.mu.Lock()
	replies := l.calls[id]
	delete(l.calls, id)
	l.mu.Unlock()
	for {
		select {
		case r := <-replies:
			clear(r.payload)
		default:
			return
		}
	}
}

// wait takes the next reply. One that came before the link broke counts.
func (l *link) wait(ctx context.Context, replies chan reply) (reply, error) {
	select {
	case r := <-replies:
		return r, nil
	case <-ctx.Done():
		return reply{}, context.Cause(ctx)
	case <-l.done:
	}
	select {
	case r := <-replies:
		return r, nil
	default:
		return reply{}, l.why()
	}
}

// abandon tells the helper that nobody waits for the answer.
func (l *link) abandon(id uint64) {
	if l.broken() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = l.write(ctx, &message{Op: opCancel, ID: id}, nil) // a helper that hears nothing has a deadline
}

// write sends a frame. When it does not go out whole the link is broken: the
// helper could not tell where the next one begins.
func (l *link) write(ctx context.Context, m *message, payload []byte) error {
	b, err := frame(m, payload)
	if err != nil {
		return err
	}
	defer clear(b)
	select {
	case l.send <- struct{}{}:
		defer func() { <-l.send }()
	case <-l.done:
		return l.why()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	deadline := time.Now().Add(stallTime)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := l.c.SetWriteDeadline(deadline); err != nil {
		l.fail(err)
		return err
	}
	n, err := l.c.Write(b)
	if err == nil {
		return nil
	}
	var ne net.Error
	if n > 0 || !errors.As(err, &ne) || !ne.Timeout() {
		l.fail(err)
	}
	return err
}
