package pop3

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/maildrop/memory"
)

// TestWiped: of what a client sent as a secret nothing is left in the buffer
// when the session waits again, whatever became of the command.
func TestWiped(t *testing.T) {
	t.Parallel()
	secret := plainMessage("alice", "hunter2")
	for _, say := range []string{
		"USER alice\r\nPASS " + secret, "PASS " + secret, "PASS " + secret + "\x00", "APOP alice " + secret, "APOP alice x " + secret,
		"AUTH PLAIN " + secret, "AUTH PLAIN\r\n" + secret, "AUTH NONE " + secret, "AUTH FIRST " + secret, "AUTH PLAIN " + secret + " x",
		"AUTH PLAIN " + secret + "\x00", "AUTH PLAIN " + secret + "!", "AUTH " + secret, "AUTH PLAIN\r\n" + secret + "!",
		"USER alice\r\nPASS " + word + "\r\nAUTH PLAIN " + secret, "PASS " + secret + strings.Repeat("x", 2*maxCommand),
	} {
		c := &scripted{in: bytes.NewReader([]byte(say + "\r\n")), step: 1 << 20}
		s := newSession(&Server{Backend: newBackend(&memory.Store{}, &first{})}, c, &authn.Transport{Remote: anywhere})
		if err := s.run(context.Background()); err != nil {
			t.Fatal(err)
		}
		if i := bytes.Index(s.in.buf, []byte(secret[8:20])); i >= 0 {
			t.Errorf("%.60q: left %q", say, s.in.buf[i:i+20])
		}
	}
}

// first is a mechanism whose server speaks first.
type first struct{ recorder }

func (*first) Name() string         { return "FIRST" }
func (*first) Traits() authn.Traits { return authn.ServerFirst }
