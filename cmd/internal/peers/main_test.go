// Package peers runs the mail programs that people have against kpopd as it is
// installed: the built command, a configuration file, a keytab, certificates,
// users and a Maildir, with tickets from MIT's KDC and from our own.
//
// # Design notes
//
// Every test has a server, a mail root and a home directory of its own, so
// that all of them run side by side and nothing of the machine is read but its
// programs. A client talks to the server through a [tap], which keeps the
// conversation for a failure's report and can steal a ticket on the way.
//
// A client that cannot carry a message (a line too long for its buffer, a NUL)
// is not given it: the limit stands in the client's row with what it does
// otherwise.
package peers

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
)

// scratch is the directory of what all tests share: the command and the KDCs.
var scratch string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "kpopd-peers-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	scratch = dir
	code := m.Run()
	if err := stopRealms(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// command builds kpopd, once for all tests, with the race detector when the
// tests have it. A race that it finds shows in how kpopd ends.
var command = sync.OnceValues(func() (string, error) {
	bin := filepath.Join(scratch, "kpopd")
	out, err := exec.Command("go", "build", "-race="+strconv.FormatBool(race), "-o", bin, "github.com/kpopd/kpopd/cmd/kpopd").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build kpopd: %w\n%s", err, out)
	}
	return bin, nil
})

// install writes a program that is to be run. A child that another test forks
// meanwhile would have a copy of the file open to write to until it has executed
// its own program, and "text file busy" would be what comes of running this one:
// nobody forks while the lock is held.
func install(path string, program []byte) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	return os.WriteFile(path, program, 0o755)
}
