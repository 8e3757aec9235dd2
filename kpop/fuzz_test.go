package kpop

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/krb5"
)

// tape is a connection to a client that says one thing and hangs up.
type tape struct {
	net.Conn
	says     *strings.Reader
	consumed int
	answer   bytes.Buffer
}

func (c *tape) Read(b []byte) (int, error) {
	n, err := c.says.Read(b)
	c.consumed += n
	return n, err
}

func (c *tape) Write(b []byte) (int, error)      { return c.answer.Write(b) }
func (c *tape) SetDeadline(time.Time) error      { return nil }
func (c *tape) SetReadDeadline(time.Time) error  { return nil }
func (c *tape) SetWriteDeadline(time.Time) error { return nil }

// FuzzSendauth: without a ticket nobody gets in, no more is read than a
// handshake may have, and the answer is one that some client understands.
func FuzzSendauth(f *testing.F) {
	for _, s := range []string{
		opened([]byte("\x6e\x82\x01\x00")), goodAuth + goodAppl, goodAuth + goodAppl + "\xff\xff\xff\xff",
		"\x00\x00\x00\x01x\x00\x00\x00\x01y", "AUTHV0.1KPOPV0.1", "617 ", "\x16\x03\x01", "CAPA\r\n", "", "\x80\x2e\x01\x03",
	} {
		f.Add(s)
	}
	s := newSite(f, 18)
	const limit = 1024
	a := &Acceptor{Krb5: s.acceptor, MaxAPReq: limit, Versions: []string{"*"}}
	f.Fuzz(func(t *testing.T, says string) {
		c := &tape{says: strings.NewReader(says)}
		got, peer, err := a.Accept(t.Context(), c, &authn.Transport{})
		if got != nil || peer != nil || err == nil {
			t.Fatalf("%q got in as %v", says, peer)
		}
		if k := authn.KindOf(err); k == authn.Internal || k == authn.Unavailable {
			t.Errorf("%q: %v", says, err)
		}
		const most = 4 + maxSendauth + 4 + maxAppVersion + 4 + limit
		if c.consumed > most+2048 { // what the buffer read ahead
			t.Errorf("%d octets were read", c.consumed)
		}
		answer := c.answer.Bytes()
		switch {
		case len(answer) == 0, len(answer) == 1 && answer[0] <= statusBadAppl, bytes.Equal(answer, tlsHello.answer()):
		case len(answer) > 5 && answer[0] == statusOK && int(binary.BigEndian.Uint32(answer[1:])) == len(answer)-5:
			if _, _, err := krb5.ParseError(answer[5:]); err != nil {
				t.Errorf("%q is answered with %x: %v", says, answer, err)
			}
		case bytes.HasPrefix(answer, []byte("-ERR [AUTH] ")) && bytes.Count(answer, []byte("\r\n")) == 1:
		default:
			t.Errorf("%q is answered with %q", says, answer)
		}
	})
}

// BenchmarkLogin is the handshake of both sides over TCP, with a ticket that
// is there.
func BenchmarkLogin(b *testing.B) {
	s := newSite(b, 18)
	a := &Acceptor{Krb5: s.acceptor}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	b.ReportAllocs()
	for b.Loop() {
		in := s.initiate(b, krb5.InitOptions{Mutual: true})
		shaken := make(chan error, 1)
		go func() { // ends with the handshake
			c, err := net.Dial("tcp", l.Addr().String())
			if err == nil {
				err = (&Client{}).Handshake(b.Context(), c, in)
				_ = c.Close()
			}
			shaken <- err
		}()
		c, err := l.Accept()
		if err != nil {
			b.Fatal(err)
		}
		if _, _, err := a.Accept(b.Context(), c, &authn.Transport{}); err != nil {
			b.Fatal(err)
		}
		if err := <-shaken; err != nil {
			b.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, c)
		_ = c.Close()
	}
}
