// Package crash shows that stores lose nothing: it kills sessions at each of
// their system calls, lets each of these fail, cuts the power beneath them, and
// compares what is left with a ledger.
//
// # Design notes
//
// A store joins with a row of [stores]. The tests know messages by a number in
// their text and unique-ids by what sessions were shown, so they need to know
// nothing of how a store keeps them.
//
// What is tested is a session of the protocol, since the promise is the +OK to
// QUIT: the test binary runs itself as a small server with a client on a pipe
// in memory. The client keeps the [ledger] in memory that is shared with the
// test, for it must outlive the process and must not be hit by the faults that
// are meant for the store.
//
// strace counts calls by thread, so a session stays on one. What a store does
// on other threads is counted apart, from one as well.
package crash

import (
	"fmt"
	"os"
	"runtime"
	"testing"

	"go.uber.org/goleak"
)

// role is the environment variable that makes this binary something else than
// a test: "session" or "writer", with the store, the root and the ledger as its
// arguments.
const role = "KPOPD_TEST_CRASH_ROLE"

// init keeps a session on the thread that the process began with.
func init() {
	if os.Getenv(role) != "" {
		runtime.LockOSThread()
	}
}

func TestMain(m *testing.M) {
	if os.Getenv(role) == "" {
		goleak.VerifyTestMain(m)
		return
	}
	if err := play(os.Getenv(role), os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func play(role, kind, root, path string) error {
	s, err := storeNamed(kind)
	if err != nil {
		return err
	}
	l, err := openLedger(path)
	if err != nil {
		return err
	}
	l.say("begin")
	switch role {
	case "session":
		session(s, root, l)
	case "writer":
		write(s, root, l)
	default:
		return fmt.Errorf("no role %q", role)
	}
	l.say("end")
	return nil
}
