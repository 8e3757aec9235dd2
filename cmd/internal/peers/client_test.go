package peers

import (
	"testing"

	"github.com/kpopd/kpopd/krb5test"
)

// client is one program in one way of use.
type client struct {
	name  string
	needs []string // programs it runs
	trial string   // shell command that works when they are built with what it needs; may be empty
	door  string   // name of the listener it connects to

	service string // that its ticket is for; "pop/localhost" when empty

	maxLine int                  // octets of the longest line that it carries
	rare    []string             // rare messages that it carries
	form    func(message) string // of a message as it stores it

	names bool // tells the server whose mail it wants, and so can want another's

	takes bool // can be told to delete what it has got

	says string // a command that it must use, where it has a choice

	layers  string // security layers that the server offers; "none" when empty
	layered bool   // it uses one of them
	sealed  bool   // nothing is readable on the wire after the login
	hidden  bool   // neither is the login

	// fetch collects all mail and tells what the program showed.
	fetch func(s *session) (shown string, mail []byte)
}

const anyLine = 1 << 30

// need skips the test, or fails it, where the client or one of programs cannot
// run.
func (c client) need(t *testing.T, programs ...string) {
	t.Helper()
	krb5test.Need(t, append(programs, c.needs...)...)
	if c.trial == "" {
		return
	}
	if out, err := group(t.Context(), "sh", "-c", c.trial).CombinedOutput(); err != nil {
		krb5test.Missing(t, c.trial+": "+string(out))
	}
}

// saying holds a client to a command.
func saying(command string, c client) client {
	c.says = command
	return c
}
