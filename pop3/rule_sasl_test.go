package pop3_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emersion/go-sasl"

	"github.com/kpopd/kpopd/pop3"
	"github.com/kpopd/kpopd/pop3/client"
)

// Rules of AUTH (RFC 5034).

func TestRule121_UnknownMechanism(t *testing.T)  { play(t, "rule121-*.txt") }
func TestRule122_Challenge(t *testing.T)         { play(t, "rule122-*.txt") }
func TestRule123_ChallengeIsBase64(t *testing.T) { play(t, "rule123-*.txt") }
func TestRule124_Cancel(t *testing.T)            { play(t, "rule124-*.txt") }
func TestRule125_StrictBase64(t *testing.T)      { play(t, "rule125-*.txt") }

func TestRule126_EmptyInitialResponse(t *testing.T) { play(t, "rule126-*.txt") }
func TestRule127_ServerFirst(t *testing.T)          { play(t, "rule127-*.txt") }
func TestRule128_NoInitialResponse(t *testing.T)    { play(t, "rule128-*.txt") }

// Responses have the length that mechanisms need, whatever the limit of
// commands is: tickets with authorization data have tens of kibibytes. The
// same goes for challenges, and for initial responses, which some clients put
// into the line of AUTH at any length.
func TestRule129_LongResponses(t *testing.T) {
	t.Parallel()
	for _, n := range []int{190, 12 << 10, 16 << 10, 64 << 10} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			if err := w.option("offers X-LARGE X-ECHO"); err != nil {
				t.Fatal(err)
			}
			token := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("t"), n))
			for _, script := range []string{"AUTH X-LARGE\r\n" + token + "\r\n", "AUTH X-LARGE " + token + "\r\n"} {
				conn := w.connect(t)
				go io.WriteString(conn, script+"*\r\n") // ends when it was read
				r := bufio.NewReader(conn)
				var last string
				for !strings.HasPrefix(last, "-ERR") {
					line, err := r.ReadString('\n')
					if err != nil {
						t.Fatal(err)
					}
					if strings.HasPrefix(line, "-ERR") && last != "+ "+base64.StdEncoding.EncodeToString(fmt.Append(nil, n))+"\r\n" {
						t.Errorf("%.20s: the answer to %d octets is %q", script, n, last)
					}
					last = line
				}
				conn.Close()
				w.wait(t)
			}
			c := w.dial(t)
			if _, err := c.Cmd(t.Context(), "AUTH X-ECHO "+token); err == nil || !strings.Contains(err.Error(), "+ ") {
				t.Errorf("the long challenge: %.80v", err)
			}
		})
	}
}

func TestRule130_OneLogin(t *testing.T)                { play(t, "rule130-*.txt") }
func TestRule131_SASLListedAfterAuth(t *testing.T)     { play(t, "rule131-*.txt") }
func TestRule132_FailedAuthLeavesSession(t *testing.T) { play(t, "rule132-*.txt") }
func TestRule133_DataWithSuccess(t *testing.T)         { play(t, "rule133-*.txt") }
func TestRule134_AuthorizationIdentity(t *testing.T)   { play(t, "rule134-*.txt") }

// layered is a client for mechanism X-LAYER.
type layered struct{}

func (layered) Start() (string, []byte, error) { return "X-LAYER", []byte("ok alice"), nil }
func (layered) Next([]byte) ([]byte, error)    { return nil, sasl.ErrUnexpectedServerChallenge }
func (layered) Layer() func(net.Conn) net.Conn {
	return func(c net.Conn) net.Conn { return swapCase{c} }
}

// A security layer begins after the CRLF of +OK, inside TLS where there is
// any, and holds for all that follows.
func TestRule135_SecurityLayer(t *testing.T) {
	t.Parallel()
	for _, under := range []bool{false, true} {
		t.Run(fmt.Sprintf("TLS %t", under), func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			if err := w.option("offers X-LAYER USER"); err != nil {
				t.Fatal(err)
			}
			w.store.Deliver("alice", "Subject: one\n\n.\n")
			c := w.dialTCP(t)
			if under {
				if err := c.StartTLS(t.Context(), &tls.Config{InsecureSkipVerify: true}); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.Auth(t.Context(), layered{}); err != nil {
				t.Fatal(err)
			}
			if all := retrAll(t, c, "RETR N"); len(all) != 1 || all[0] != "Subject: one\r\n\r\n.\r\n" {
				t.Errorf("under the layer: %q", all)
			}
			caps, err := c.Capa(t.Context())
			if err != nil || !slices.Equal(caps["SASL"], []string{"X-LAYER"}) {
				t.Errorf("CAPA under the layer: %v, %v", caps, err)
			}
			if err := c.Quit(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("what rode along is under the layer", func(t *testing.T) {
		t.Parallel()
		w := newWorld()
		w.option("offers X-LAYER")
		w.store.Deliver("alice", "Subject: x\n")
		w.play(t, "S~ .*\nC+ AUTH X-LAYER b2sgYWxpY2U= | noop | LIST 8 | list 1\n"+
			"S: +OK 1 messages (12 octets)\nS: +ok\nS: +ok 8 87\nS: -err nO SUCH MESSAGE")
	})
	t.Run("no layer without success", func(t *testing.T) {
		t.Parallel()
		w := newWorld()
		w.option("offers X-LAYER")
		w.play(t, "S~ .*\nC: AUTH X-LAYER bm8=\nS: -ERR [AUTH] Authentication failed\nC: AUTH\nS~ .OK .*\nS: X-LAYER\nS: .")
	})
}

func TestRule136_PlainOverTLS(t *testing.T)          { play(t, "rule136-*.txt") }
func TestRule137_NoPlaintextWithoutTLS(t *testing.T) { play(t, "rule137-*.txt") }
func TestRule138_WithoutPassword(t *testing.T)       { play(t, "rule138-*.txt") }
func TestRule139_AuthWithoutArgument(t *testing.T)   { play(t, "rule139-*.txt") }
func TestRule140_MechanismName(t *testing.T)         { play(t, "rule140-*.txt") }
func TestRule141_OneText(t *testing.T)               { play(t, "rule141-*.txt") }
func TestRule164_RefusalIsAChallenge(t *testing.T)   { play(t, "rule164-*.txt") }

// An exchange that the connection ends is told as aborted, and one that the
// client ends as cancelled. Neither is a wrong password.
func TestRule142_AbortIsNoFailure(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		end  func(*testing.T, *client.Client)
		want string
	}{
		{"hang up", func(_ *testing.T, c *client.Client) { c.Close() }, "aborted"},
		{"hang up inside the response", func(_ *testing.T, c *client.Client) { io.WriteString(c.Conn(), "AGF"); c.Close() }, "aborted"},
		{"silence", func(_ *testing.T, c *client.Client) { io.ReadAll(c) }, "aborted"},
		{"cancel", func(t *testing.T, c *client.Client) { c.Cmd(t.Context(), "*") }, "cancelled"},
		{"no base64", func(t *testing.T, c *client.Client) { c.Cmd(t.Context(), "%") }, "malformed"},
		{"wrong password", func(t *testing.T, c *client.Client) { c.Cmd(t.Context(), "AGFsaWNlAHdyb25n") }, "rejected"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				var done pop3.SessionDone
				w.server.Trace = &pop3.Trace{Session: func(_ context.Context, d *pop3.SessionDone) { done = *d }}
				start := time.Now()
				c := w.dial(t)
				c.Cmd(t.Context(), "AUTH PLAIN") // the challenge is no reply
				tt.end(t, c)
				c.Close()
				w.wait(t)
				if got := w.kinds(); !slices.Equal(got, []string{tt.want}) {
					t.Errorf("attempts: %q, want %q", got, tt.want)
				}
				if tt.name == "silence" && (done.Reason != pop3.LoginTimeout || time.Since(start) != time.Minute) {
					t.Errorf("ended as %s after %v", done.Reason, time.Since(start))
				}
			})
		})
	}
}
