package kpop

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/krb5"
)

// pair is a TCP connection, since refusals depend on its half-close.
func pair(t testing.TB) (server, client net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = server.Close(), client.Close() })
	return server, client
}

// attempts is a trace that keeps what it is told.
func attempts(into *[]*authn.Attempt) *authn.Trace {
	return &authn.Trace{Attempt: func(_ context.Context, a *authn.Attempt) { *into = append(*into, a) }}
}

const (
	goodAuth   = "\x00\x00\x00\x13KRB5_SENDAUTH_V1.0\x00"
	goodAppl   = "\x00\x00\x00\x09KPOPV1.0\x00"
	krb4Answer = "-ERR [AUTH] Kerberos 4 is not supported here, use a Kerberos 5 client\r\n"
	pop3Answer = "-ERR [AUTH] This port speaks Kerberos POP, use a KPOP client or the POP3 port\r\n"
)

// Clients of other protocols, and of none.
func TestOpenings(t *testing.T) {
	t.Parallel()
	refused(t, []opener{
		{"TLS 1.2 hello", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc", "\x15\x03\x01\x00\x02\x02\x0a", authn.Malformed, "TLS client"},
		{"TLS hello of two octets", "\x16\x03", "\x15\x03\x01\x00\x02\x02\x0a", authn.Malformed, "TLS client"},
		{"CAPA", "CAPA\r\n", pop3Answer, authn.Malformed, "POP3 client"},
		{"USER in lower case, and more", "user alice\r\npass secret\r\n", pop3Answer, authn.Malformed, "POP3 client"},
		{"HTTP", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", pop3Answer, authn.Malformed, "POP3 client"},
		{"empty lines", "\r\n\r\n", pop3Answer, authn.Malformed, "POP3 client"},
		{"hangs up unheard", "", pop3Answer, authn.Aborted, "silent client: EOF"},
		{"hangs up after one octet", "\x00", pop3Answer, authn.Aborted, "silent client: EOF"},
		{"octets of nobody", "\x80\x2e\x01\x03\x01", "", authn.Malformed, "garbage"},
		{"SSH", "SSH-2.0-x\r\n", pop3Answer, authn.Malformed, "POP3 client"},
	})
}

func TestRule188Messages(t *testing.T) {
	t.Parallel()
	refused(t, []opener{
		{"cut off in a length", goodAuth + "\x00\x00", "", authn.Aborted, "unexpected EOF"},
		{"cut off before the ticket", goodAuth + goodAppl, "\x00", authn.Aborted, "unexpected EOF"},
		{"cut off in the ticket", goodAuth + goodAppl + "\x00\x00\x02\x00\x6e\x82", "\x00", authn.Aborted, "unexpected EOF"},
	})
}

func TestRule189Status(t *testing.T) {
	t.Parallel()
	refused(t, []opener{
		{"length of 255", "\x00\x00\x00\xffx", "\x01", authn.Malformed, "sendauth status 1"},
		{"length of zero", "\x00\x00\x00\x00" + goodAppl, "\x01", authn.Malformed, "sendauth status 1"},
		{"other sendauth", "\x00\x00\x00\x13KRB5_SENDAUTH_V9.9\x00" + goodAppl, "\x01", authn.Malformed, "sendauth status 1"},
		{"sendauth without NUL", "\x00\x00\x00\x12KRB5_SENDAUTH_V1.0" + goodAppl, "\x01", authn.Malformed, "sendauth status 1"},
		{"both are wrong", "\x00\x00\x00\x01x\x00\x00\x00\x01y", "\x01", authn.Malformed, "sendauth status 1"},
		{"nothing is said before both were read", "\x00\x00\x00\x01x", "", authn.Aborted, "unexpected EOF"},
		{"other application", goodAuth + "\x00\x00\x00\x09KPOPV9.9\x00", "\x02", authn.Malformed, "sendauth status 2"},
		{"application of Eudora, not configured", goodAuth + "\x00\x00\x00\x09justjunk\x00", "\x02", authn.Malformed, "sendauth status 2"},
		{"application of no name", goodAuth + "\x00\x00\x00\x00", "\x02", authn.Malformed, "sendauth status 2"},
		{"application of 257 octets", goodAuth + "\x00\x00\x01\x01x", "\x02", authn.Malformed, "sendauth status 2"},
	})
}

func TestRule197Lengths(t *testing.T) {
	t.Parallel()
	refused(t, []opener{
		{"length of 2 GiB", "\x7f\xff\xff\xffx", "", authn.Malformed, "garbage"},
		{"length of 64 KiB", "\x00\x01\x00\x00x", "", authn.Malformed, "garbage"},
	})
}

func TestRule199Kerberos4(t *testing.T) {
	t.Parallel()
	refused(t, []opener{
		{"Kerberos 4", "AUTHV0.1KPOPV0.1\x00\x00\x00\x02xx", krb4Answer, authn.Malformed, "krb4 client"},
		{"AUTH of POP3", "AUTH PLAIN\r\n", krb4Answer, authn.Malformed, "krb4 client"},
		{"older Kerberos 4", "96 \x04\x07\x01", krb4Answer, authn.Malformed, "krb4 client"},
	})
}

// opener is what a client says that must be refused, and what it is answered.
type opener struct {
	name, sent, answer string
	kind               authn.Kind
	err                string
}

func refused(t *testing.T, tests []opener) {
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var traced []*authn.Attempt
			server, client := pair(t)
			answer := make(chan string, 1)
			go func() { // ends with the connection
				_, _ = io.WriteString(client, tt.sent)
				_ = client.(*net.TCPConn).CloseWrite()
				b, _ := io.ReadAll(client)
				answer <- string(b)
			}()
			a := &Acceptor{Krb5: &krb5.Acceptor{}, Trace: attempts(&traced)}
			c, peer, err := a.Accept(t.Context(), server, &authn.Transport{})
			server.Close()
			if c != nil || peer != nil || authn.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("got %v, %v, error %v; want %s %q", c, peer, err, tt.kind, tt.err)
			}
			if got := <-answer; got != tt.answer {
				t.Errorf("answer %q, want %q", got, tt.answer)
			}
			if len(traced) != 1 || traced[0].Mechanism != "KPOP" || !errors.Is(traced[0].Err, err) {
				t.Errorf("traced %+v", traced)
			}
		})
	}
}

func TestRule189Versions(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		versions []string
		sent     string
		want     bool
	}{
		{"default", nil, "KPOPV1.0\x00", true},
		{"default without NUL", nil, "KPOPV1.0", true},
		{"default in lower case", nil, "kpopv1.0\x00", false},
		{"default with more", nil, "KPOPV1.0\x00\x00", false},
		{"one of two", []string{"KPOPV1.0", "justjunk"}, "justjunk\x00", true},
		{"none of two", []string{"KPOPV1.0", "justjunk"}, "*\x00", false},
		{"any", []string{"*"}, "\xff\x00", true},
		{"any, and nothing came", []string{"*"}, "", true},
	}
	for _, tt := range tests {
		h := &handshake{Acceptor: &Acceptor{Versions: tt.versions}}
		if got := h.takes(tt.sent); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

// A POP3 client waits for a greeting that does not come. It is told why when
// the time is up, and so is one that stops in the middle, if only by the end.
func TestSilence(t *testing.T) {
	tests := []struct {
		name, sent, answer string
		kind               authn.Kind
	}{
		{"nothing", "", pop3Answer, authn.Malformed},
		{"three octets", "\x00\x00\x00", pop3Answer, authn.Malformed},
		{"one version", goodAuth, "", authn.Aborted},
		{"both versions", goodAuth + goodAppl, "\x00", authn.Aborted},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server, client := net.Pipe()
				answer := make(chan string)
				go func() { // ends with the connection
					_, _ = io.WriteString(client, tt.sent)
					b, _ := io.ReadAll(client)
					answer <- string(b)
				}()
				start := time.Now()
				a := &Acceptor{Krb5: &krb5.Acceptor{}}
				_, _, err := a.Accept(t.Context(), server, &authn.Transport{})
				server.Close()
				if authn.KindOf(err) != tt.kind || !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("error %v, want %s", err, tt.kind)
				}
				if got := <-answer; got != tt.answer {
					t.Errorf("answer %q, want %q", got, tt.answer)
				}
				if d := time.Since(start); d != 30*time.Second {
					t.Errorf("ended after %s", d)
				}
			})
		})
	}
}

// Octets that trickle in gain no time.
func TestTotalDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, client := net.Pipe()
		defer client.Close()
		var wg sync.WaitGroup
		wg.Go(func() {
			for _, o := range []byte(goodAuth + goodAppl) {
				<-time.After(4 * time.Second)
				if _, err := client.Write([]byte{o}); err != nil {
					return
				}
			}
		})
		start := time.Now()
		a := &Acceptor{Krb5: &krb5.Acceptor{}, Timeout: 50 * time.Second}
		_, _, err := a.Accept(t.Context(), server, &authn.Transport{})
		d := time.Since(start)
		server.Close()
		wg.Wait()
		if d != 50*time.Second || authn.KindOf(err) != authn.Aborted {
			t.Errorf("ended after %s: %v", d, err)
		}
	})
}

// The session that follows has its own deadlines.
func TestDeadlineEndsWithHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 18)
		in := s.initiate(t, krb5.InitOptions{Mutual: true})
		server, client := net.Pipe()
		shaken := make(chan error, 1)
		go func() { // ends with the greeting
			err := (&Client{}).Handshake(t.Context(), client, in)
			<-time.After(time.Minute)
			shaken <- err
			_, _ = io.WriteString(client, "QUIT\r\n")
			client.Close()
		}()
		c, _, err := (&Acceptor{Krb5: s.acceptor}).Accept(t.Context(), server, &authn.Transport{})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(c); string(got) != "QUIT\r\n" || err != nil {
			t.Errorf("read %q, %v", got, err)
		}
		if err := <-shaken; err != nil {
			t.Error(err)
		}
	})
}

func TestAcceptEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, client := net.Pipe()
		defer client.Close()
		go io.Copy(io.Discard, client) // ends with the connection
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		_, _, err := (&Acceptor{Krb5: &krb5.Acceptor{}}).Accept(ctx, server, &authn.Transport{})
		server.Close()
		if d := time.Since(start); d != time.Second || err == nil {
			t.Errorf("ended after %s: %v", d, err)
		}
	})
}

func TestReadAheadComesFirst(t *testing.T) {
	t.Parallel()
	server, client := net.Pipe()
	defer client.Close()
	go func() { // ends when both were read
		_, _ = io.WriteString(client, "USER a\r\n")
		_, _ = io.WriteString(client, "PASS b\r\n")
	}()
	r := bufio.NewReader(server)
	if _, err := r.Peek(1); err != nil {
		t.Fatal(err)
	}
	c := &conn{Conn: server, r: r}
	b := make([]byte, 16)
	for _, want := range []string{"USER", " a\r\n", "PASS"} {
		n, err := c.Read(b[:4])
		if err != nil || string(b[:n]) != want {
			t.Fatalf("read %q, %v, want %q", b[:n], err, want)
		}
		if held := c.r != nil; held != (want == "USER") {
			t.Errorf("buffer held after %q: %v", want, held)
		}
	}
}
