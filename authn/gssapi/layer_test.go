package gssapi

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// recorder keeps what is written and has nothing to read.
type recorder struct {
	net.Conn
	bytes.Buffer
	writes  int
	longest int // octets of a write
	err     error
}

func (r *recorder) Write(b []byte) (int, error) {
	r.writes++
	r.longest = max(r.longest, len(b))
	if r.err != nil {
		return len(b) / 2, r.err
	}
	return r.Buffer.Write(b)
}

func (r *recorder) Read(b []byte) (int, error) { return r.Buffer.Read(b) }

func frameOf(token []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(token))), token...)
}

// pop3test announces 1,024 octets: not one token may be longer.
func TestLayerSplits(t *testing.T) {
	t.Parallel()
	for _, sealed := range []bool{false, true} {
		for _, peerLimit := range []int{1024, 100, 73, 65536, maxSize} {
			for _, n := range []int{1, 960, 1024, 5000, 200000} {
				if peerLimit <= 100 && n > 5000 {
					continue
				}
				t.Run(fmt.Sprintf("sealed %v, %d octets for a peer that takes %d", sealed, n, peerLimit), func(t *testing.T) {
					t.Parallel()
					acceptor, initiator := sides(t, 20, true)
					var r recorder
					payload := bytes.Repeat([]byte("0123456789abcdef"), n/16+1)[:n]
					c := newConn(&r, acceptor, sealed, 65536, peerLimit)
					if done, err := c.Write(payload); done != n || err != nil {
						t.Fatalf("wrote %d, %v", done, err)
					}
					if want := (n + c.batch - 1) / c.batch; r.writes != want {
						t.Errorf("%d writes, want %d", r.writes, want)
					}
					if most := maxBatch + 4 + acceptor.overhead(sealed); r.longest > most || r.writes > 1 && r.longest < maxBatch/2 {
						t.Errorf("writes of up to %d octets", r.longest)
					}
					for rest := r.Bytes(); len(rest) > 0; {
						length := int(binary.BigEndian.Uint32(rest))
						if length > peerLimit {
							t.Fatalf("token of %d octets", length)
						}
						rest = rest[4+length:]
					}
					got, err := io.ReadAll(newConn(&r, initiator, sealed, peerLimit, 65536))
					if err != nil || !bytes.Equal(got, payload) {
						t.Errorf("read %d octets, %v", len(got), err)
					}
				})
			}
		}
	}
}

func TestLayerReadRefuses(t *testing.T) {
	t.Parallel()
	token := func(t *testing.T, i *wrapper, sealed bool) []byte { return mustWrap(t, i, []byte("NOOP\r\n"), sealed) }
	tests := []struct {
		name  string
		sent  func(t *testing.T, i *wrapper) []byte
		err   string
		errIs error
	}{
		{"ends between tokens", func(t *testing.T, i *wrapper) []byte { return nil }, "", io.EOF},
		{"ends in a length", func(t *testing.T, i *wrapper) []byte { return []byte{0, 0} }, "", io.ErrUnexpectedEOF},
		{"ends after a length", func(t *testing.T, i *wrapper) []byte { return []byte{0, 0, 0, 60} }, "", io.ErrUnexpectedEOF},
		{"ends in a token", func(t *testing.T, i *wrapper) []byte { b := frameOf(token(t, i, true)); return b[:len(b)-1] }, "", io.ErrUnexpectedEOF},
		{"is one octet too long", func(t *testing.T, i *wrapper) []byte { return []byte{0, 0, 4, 1} }, "token of 1025 octets, 1024 were agreed on", nil},
		{"is 4 GiB long", func(t *testing.T, i *wrapper) []byte { return []byte{255, 255, 255, 255} }, "agreed on", nil},
		{"is in the clear", func(t *testing.T, i *wrapper) []byte { return []byte("NOOP\r\n") }, "agreed on", nil},
		{"is empty", func(t *testing.T, i *wrapper) []byte { return []byte{0, 0, 0, 0} }, "not a wrap token", nil},
		{"is signed only", func(t *testing.T, i *wrapper) []byte { return frameOf(token(t, i, false)) }, "another layer", nil},
		{"comes twice", func(t *testing.T, i *wrapper) []byte { b := frameOf(token(t, i, true)); return append(b, b...) }, "token 4294967295, not 4294967296", nil},
		{"is damaged", func(t *testing.T, i *wrapper) []byte { b := frameOf(token(t, i, true)); b[len(b)-1]++; return b }, "", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			acceptor, initiator := sides(t, 18, true)
			var r recorder
			r.Buffer.Write(tt.sent(t, initiator))
			c := newConn(&r, acceptor, true, 1024, 1024)
			got, err := io.ReadAll(c)
			if errors.Is(tt.errIs, io.EOF) && err == nil {
				err = io.EOF
			}
			if err == nil || !strings.Contains(err.Error(), tt.err) || tt.errIs != nil && !errors.Is(err, tt.errIs) {
				t.Errorf("read %q, %v", got, err)
			}
			r.Buffer.Write(frameOf(token(t, initiator, true)))
			if n, again := c.Read(make([]byte, 9)); n != 0 || again == nil {
				t.Errorf("went on after it: %d, %v", n, again)
			}
		})
	}
}

func TestLayerWriteErrorIsLast(t *testing.T) {
	t.Parallel()
	acceptor, _ := sides(t, 18, true)
	r := &recorder{err: errors.New("broken pipe")}
	c := newConn(r, acceptor, true, 1024, 1024)
	for range 2 {
		if n, err := c.Write([]byte("+OK\r\n")); n != 0 || !errors.Is(err, r.err) {
			t.Errorf("wrote %d, %v", n, err)
		}
	}
	if r.writes != 1 {
		t.Errorf("%d writes", r.writes)
	}
}

// A token that comes octet by octet, with deadlines that pass between them,
// is read all the same.
func TestLayerDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		acceptor, initiator := sides(t, 18, true)
		server, client := net.Pipe()
		defer client.Close()
		c := newConn(server, acceptor, true, 1024, 1024)
		defer c.Close()
		frame := frameOf(mustWrap(t, initiator, []byte("QUIT\r\n"), true))
		go func() { // ends with the frame
			for _, o := range frame {
				<-time.After(time.Second)
				_, _ = client.Write([]byte{o})
			}
		}()
		b, timeouts := make([]byte, 100), 0
		for {
			_ = c.SetReadDeadline(time.Now().Add(1500 * time.Millisecond))
			n, err := c.Read(b)
			if err == nil {
				if string(b[:n]) != "QUIT\r\n" {
					t.Errorf("read %q", b[:n])
				}
				break
			}
			if timeouts++; !errors.Is(err, os.ErrDeadlineExceeded) || timeouts > 100 {
				t.Fatal(err)
			}
		}
		if timeouts < 10 {
			t.Errorf("%d deadlines passed", timeouts)
		}
	})
}

func TestLayerSmallReads(t *testing.T) {
	t.Parallel()
	acceptor, initiator := sides(t, 19, false)
	var r recorder
	for _, s := range []string{"USER a\r\n", "", "PASS b\r\n"} {
		r.Buffer.Write(frameOf(mustWrap(t, initiator, []byte(s), false)))
	}
	c := newConn(&r, acceptor, false, 1024, 1024)
	var got []byte
	for b := make([]byte, 3); ; {
		n, err := c.Read(b)
		got = append(got, b[:n]...)
		if err != nil {
			break
		}
	}
	if string(got) != "USER a\r\nPASS b\r\n" {
		t.Errorf("read %q", got)
	}
}

func BenchmarkLayer(b *testing.B) {
	for _, sealed := range []bool{false, true} {
		for _, peerLimit := range []int{1024, 65536} {
			b.Run(fmt.Sprintf("sealed=%v/token=%d", sealed, peerLimit), func(b *testing.B) {
				acceptor, initiator := sides(b, 20, true)
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					b.Fatal(err)
				}
				defer l.Close()
				done := make(chan error, 1)
				go func() { // ends with the connection
					c, err := net.Dial("tcp", l.Addr().String())
					if err == nil {
						_, err = io.Copy(io.Discard, newConn(c, initiator, sealed, peerLimit, 65536))
						c.Close()
					}
					done <- err
				}()
				under, err := l.Accept()
				if err != nil {
					b.Fatal(err)
				}
				c := newConn(under, acceptor, sealed, 65536, peerLimit)
				message := make([]byte, 1<<20)
				b.SetBytes(int64(len(message)))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := c.Write(message); err != nil {
						b.Fatal(err)
					}
				}
				c.Close()
				if err := <-done; err != nil {
					b.Fatal(err)
				}
			})
		}
	}
}

// An engine hangs up half, to let the client read its last words.
func TestLayerCloseWrite(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	acceptor, initiator := sides(t, 20, true)
	s, c := newConn(server, acceptor, true, 65536, 65536), newConn(client, initiator, true, 65536, 65536)
	if _, err := s.Write([]byte("-ERR")); err != nil {
		t.Fatal(err)
	}
	if err := s.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err != nil || string(got) != "-ERR" {
		t.Errorf("the client reads %q, %v", got, err)
	}
	if _, err := c.Write([]byte("QUIT")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4)
	if _, err := io.ReadFull(s, b); err != nil || string(b) != "QUIT" {
		t.Errorf("the server reads %q, %v", b, err)
	}
	pipe, _ := net.Pipe()
	defer pipe.Close()
	if err := newConn(pipe, acceptor, true, 65536, 65536).CloseWrite(); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("half of a pipe is closed: %v", err)
	}
}
