package peers

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
)

// tap stands between a client and the server: it hands on what both say and
// keeps it.
type tap struct {
	addr *net.TCPAddr
	to   string // the server

	// onTicket is called once with the first AP-REQ that a client sends,
	// before the server has all of it.
	onTicket func(apReq []byte)

	mu     sync.Mutex
	talk   strings.Builder // both sides, one quoted line for each piece
	client []byte          // what the client said on the connection that was opened last
	ticket []byte          // the first AP-REQ
}

// newTap listens on a free port of the loopback until the test ends.
func newTap(t *testing.T, to string, onTicket func([]byte)) *tap {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &tap{addr: l.Addr().(*net.TCPAddr), to: to, onTicket: onTicket}
	var conns sync.WaitGroup
	conns.Go(func() { // ended by closing the listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { p.serve(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		conns.Wait()
		if t.Failed() {
			t.Logf("conversation with %s:\n%s", to, p.conversation())
		}
	})
	return p
}

func (p *tap) conversation() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.talk.String()
}

// apReq is the ticket that a client showed, nil when none did.
func (p *tap) apReq() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ticket
}

func (p *tap) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", p.to)
	if err != nil {
		return
	}
	defer server.Close()
	p.mu.Lock()
	p.client = nil
	p.mu.Unlock()
	var pumps sync.WaitGroup
	pumps.Go(func() { p.pump(client.(*net.TCPConn), server.(*net.TCPConn), "S") })
	p.pump(server.(*net.TCPConn), client.(*net.TCPConn), "C")
	pumps.Wait()
}

// pump hands on octets until src ends, and then the end. A dst that is gone
// ends src too.
func (p *tap) pump(dst, src *net.TCPConn, who string) {
	buf := make([]byte, 64<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			p.note(who, buf[:n])
			if _, werr := dst.Write(buf[:n]); werr != nil {
				src.Close()
				return
			}
		}
		if err != nil {
			p.note(who, fmt.Appendf(nil, "<%v>", err))
			dst.CloseWrite()
			return
		}
	}
}

func (p *tap) note(who string, b []byte) {
	p.mu.Lock()
	if p.talk.Len() < 64<<10 || len(b) < 80 {
		fmt.Fprintf(&p.talk, "%s: %.300q\n", who, b)
	}
	var stolen []byte
	if who == "C" && p.ticket == nil {
		p.client = append(p.client, b...)
		if p.ticket = findAPReq(p.client); p.ticket != nil {
			stolen = p.ticket
		}
	}
	p.mu.Unlock()
	if stolen != nil && p.onTicket != nil {
		p.onTicket(stolen)
	}
}

// findAPReq finds the AP-REQ in what a client said: the third message of
// sendauth, or a line of base64 with a GSSAPI token.
func findAPReq(said []byte) []byte {
	if bytes.HasPrefix(said, []byte{0, 0, 0, 19}) {
		rest := said
		for i := range 3 {
			if len(rest) < 4 {
				return nil
			}
			n := int(binary.BigEndian.Uint32(rest))
			if len(rest) < 4+n {
				return nil
			}
			if i == 2 {
				return bytes.Clone(rest[4 : 4+n])
			}
			rest = rest[4+n:]
		}
	}
	for line := range strings.Lines(string(said)) {
		if !strings.HasSuffix(line, "\n") {
			break
		}
		token, err := base64.StdEncoding.DecodeString(lastField(line))
		if err != nil || len(token) < 2 || token[0] != 0x60 {
			continue
		}
		if _, apReq, ok := bytes.Cut(token, gssHeader); ok {
			return apReq
		}
	}
	return nil
}

func lastField(line string) string {
	f := strings.Fields(line)
	if len(f) == 0 {
		return ""
	}
	return f[len(f)-1]
}

// gssHeader is the mechanism and the token id of an initial token (RFC 4121
// section 4.1).
var gssHeader = []byte{0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 0x01, 0x02, 0x02, 0x01, 0x00}

// gssToken puts an AP-REQ into an initial token.
func gssToken(apReq []byte) []byte {
	inner := append(bytes.Clone(gssHeader), apReq...)
	n := len(inner)
	switch {
	case n < 0x80:
		return append([]byte{0x60, byte(n)}, inner...)
	case n < 0x100:
		return append([]byte{0x60, 0x81, byte(n)}, inner...)
	default:
		return append([]byte{0x60, 0x82, byte(n >> 8), byte(n)}, inner...)
	}
}
