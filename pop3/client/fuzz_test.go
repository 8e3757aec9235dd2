package client_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/kpopd/kpopd/pop3/client"
)

func encode(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// canned is a connection whose other side says all it has to say at once.
type canned struct {
	net.Conn
	r io.Reader
}

func (c canned) Read(p []byte) (int, error)  { return c.r.Read(p) }
func (c canned) Write(p []byte) (int, error) { return len(p), nil }

func newCanned(says []byte) (c canned, close func()) {
	near, far := net.Pipe()
	return canned{near, bytes.NewReader(says)}, func() { near.Close(); far.Close() }
}

// FuzzBody sends a message stuffed as RFC 1939 section 3 says, and what
// comes out must be what went in, with the session still in step after it.
func FuzzBody(f *testing.F) {
	for _, s := range []string{"", ".", "..\r\n.", "a\r\n\r\n.b\n.c\r.d", ".\r\n", strings.Repeat("x", 4095) + "\r\n.", "a\r\n.\r\nb"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		if len(message) > 0 && !bytes.HasSuffix(message, []byte("\r\n")) {
			message = append(message, "\r\n"...)
		}
		var wire bytes.Buffer
		wire.WriteString("+OK\r\n+OK\r\n")
		for _, line := range bytes.SplitAfter(message, []byte("\r\n")) {
			if bytes.HasPrefix(line, []byte(".")) {
				wire.WriteByte('.')
			}
			wire.Write(line)
		}
		wire.WriteString(".\r\n+OK in step\r\n")
		conn, done := newCanned(wire.Bytes())
		defer done()
		c, err := client.New(t.Context(), conn, nil)
		if err != nil {
			t.Fatal(err)
		}
		r, err := c.Retr(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, message) {
			t.Fatalf("got %q, %v, want %q", got, err, message)
		}
		if text, err := c.Reply(t.Context()); err != nil || text != "in step" {
			t.Fatalf("after the message: %q, %v", text, err)
		}
	})
}

// FuzzReply lets a server say anything: each call ends, and no reply is taken
// for success that does not begin with +OK.
func FuzzReply(f *testing.F) {
	for _, s := range []string{"+OK\r\n1 2\r\n.\r\n", "-ERR [A/B] c\r\n", "-ERR [\r\n", "+OK\n..\n.\n", "+\r\n", "\x00\r\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, says []byte) {
		conn, done := newCanned(append([]byte("+OK\r\n"), says...))
		defer done()
		c, err := client.New(t.Context(), conn, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.List(context.Background())
		var se *client.ServerError
		switch {
		case errors.As(err, &se):
			if !bytes.HasPrefix(says, []byte("-ERR")) {
				t.Fatalf("%q is no refusal: %v", says, err)
			}
		case err == nil && !bytes.HasPrefix(says, []byte("+OK")):
			t.Fatalf("%q was taken for success", says)
		}
	})
}
