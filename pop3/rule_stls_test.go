package pop3_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/pop3"
)

// Rules of STLS (RFC 2595).

func TestRule099_StlsAfterLogin(t *testing.T)      { play(t, "rule099-*.txt") }
func TestRule100_StlsUnderTLS(t *testing.T)        { play(t, "rule100-*.txt") }
func TestRule101_StlsTakesNoArgument(t *testing.T) { play(t, "rule101-*.txt") }

// Data that came with STLS ends the session before any handshake, and somebody
// can read of it in the log.
func TestRule102_DataAfterStls(t *testing.T) {
	play(t, "rule102-*.txt")
	w := newWorld()
	w.play(t, "S~ .*\nC+ STLS | USER mallory | PASS x\nS: -ERR Data after STLS\nE:")
	if !strings.Contains(w.log.String(), "data after STLS") {
		t.Errorf("the log does not tell:\n%s", w.log.String())
	}
	if len(w.people.logins) > 0 {
		t.Errorf("the chain was asked for %q", w.people.logins)
	}
}

func TestRule103_StillAuthorization(t *testing.T) { play(t, "rule103-*.txt") }
func TestRule104_ForgetBeforeTLS(t *testing.T)    { play(t, "rule104-*.txt") }
func TestRule105_CapaChangesWithTLS(t *testing.T) { play(t, "rule105-*.txt") }

// What is no TLS after STLS ends the connection, and no word in the clear
// follows the +OK.
func TestRule106_NoWayBackToClearText(t *testing.T) {
	t.Parallel()
	old := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	for name, shake := range map[string]func(net.Conn){
		"POP3":    func(c net.Conn) { io.WriteString(c, "USER alice\r\nPASS open sesame\r\n") },
		"nothing": func(c net.Conn) { c.(*net.TCPConn).CloseWrite() },
		"TLS 1.1": func(c net.Conn) { tls.Client(c, old).Handshake() },
		"alert":   func(c net.Conn) { io.WriteString(c, "\x15\x03\x01\x00\x02\x02\x28") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			var done pop3.SessionDone
			w.server.Trace = &pop3.Trace{Session: func(_ context.Context, d *pop3.SessionDone) { done = *d }}
			c := w.dialTCP(t)
			if _, err := c.Cmd(t.Context(), "STLS"); err != nil {
				t.Fatal(err)
			}
			shake(c.Conn())
			rest, _ := io.ReadAll(c.Conn()) // an alert, or nothing
			if strings.Contains(string(rest), "OK") || strings.Contains(string(rest), "ERR") {
				t.Errorf("in the clear: %q", rest)
			}
			w.wait(t)
			if done.Reason != pop3.NoTLS || len(w.people.logins) > 0 {
				t.Errorf("ended as %s, the chain was asked for %q", done.Reason, w.people.logins)
			}
		})
	}
}

// A policy that names nothing else keeps passwords inside TLS.
func TestRule107_PasswordsNeedTLS(t *testing.T) {
	play(t, "rule107-*.txt")
	if zero := (authn.Policy{}); zero.Plain != authn.PlainTLS {
		t.Error("the zero policy takes passwords in the clear")
	}
}

// Inside TLS the handshake comes first, and the greeting is its first word.
func TestRule108_TLSBeforeGreeting(t *testing.T) {
	t.Parallel()
	w := newWorld()
	if err := w.option("implicit-tls"); err != nil {
		t.Fatal(err)
	}
	near, far := socketPair(t)
	w.serve(t.Context(), tls.Server(far, &tls.Config{Certificates: []tls.Certificate{testCert()}}))
	c := w.client(t, tls.Client(near, &tls.Config{InsecureSkipVerify: true}))
	if caps, err := c.Capa(t.Context()); err != nil || caps.Has("STLS") || !caps.Has("USER") {
		t.Errorf("CAPA %v, %v", caps, err)
	}
	near, far = socketPair(t)
	w.serve(t.Context(), tls.Server(far, &tls.Config{Certificates: []tls.Certificate{testCert()}}))
	io.WriteString(near, "USER alice\r\n")
	said, _ := io.ReadAll(near) // an alert, or nothing
	if strings.Contains(string(said), "OK") {
		t.Errorf("without a handshake: %q", said)
	}
	near.Close()
}

// The line of a login tells the version of TLS, the cipher and the name that
// the client asked for.
func TestRule112_LoginTellsTLS(t *testing.T) {
	t.Parallel()
	w := newWorld()
	c := w.dialTCP(t)
	if err := c.StartTLS(t.Context(), &tls.Config{InsecureSkipVerify: true, ServerName: "pop.example"}); err != nil {
		t.Fatal(err)
	}
	if err := c.UserPass(t.Context(), "alice", "open sesame"); err != nil {
		t.Fatal(err)
	}
	c.Close()
	w.wait(t)
	for line := range strings.Lines(w.log.String()) {
		if strings.Contains(line, "login accepted") {
			for _, want := range []string{`"TLS 1.3"`, `"TLS_`, `"pop.example"`} {
				if !strings.Contains(line, want) {
					t.Errorf("no %s in %s", want, line)
				}
			}
			return
		}
	}
	t.Errorf("no login in the log:\n%s", w.log.String())
}
