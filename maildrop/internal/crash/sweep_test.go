package crash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kpopd/kpopd/krb5test"
	"github.com/kpopd/kpopd/maildrop"
)

// patience is how long one run may take on a busy machine.
const patience = time.Minute

// fault is what happens to a system call.
type fault struct {
	call   string
	error  string // name of the error, or "" to kill the process at the call
	onward bool   // it happens to all later calls too
}

func (f fault) String() string {
	s := f.call + " " + f.error
	if f.error == "" {
		s = f.call + " KILL"
	}
	if f.onward {
		s += " from there on"
	}
	return s
}

// inject is the fault as strace wants it for the k-th call.
func (f fault) inject(k int) string {
	what := "error=" + f.error
	if f.error == "" {
		what = "signal=KILL"
	}
	plus := ""
	if f.onward {
		plus = "+"
	}
	return fmt.Sprintf("inject=%s:%s:when=%d%s", f.call, what, k, plus)
}

// A session that is killed at any of its system calls loses nothing.
func TestKillSweep(t *testing.T) {
	t.Parallel()
	var faults []fault
	for _, call := range [...]string{"openat", "openat2", "write", "pwrite64", "fsync", "fdatasync", "ftruncate", "rename", "renameat", "renameat2", "linkat", "unlinkat", "close"} {
		faults = append(faults, fault{call: call})
	}
	sweep(t, stores, faults)
}

// A session whose system calls fail loses nothing, and says what went wrong.
func TestErrorSweep(t *testing.T) {
	t.Parallel()
	var faults []fault
	for _, f := range []struct{ calls, errors string }{
		{"openat", "EIO EMFILE EINTR"},
		{"openat2", "EIO ENOSPC EDQUOT EMFILE ESTALE EINTR"},
		{"write pwrite64 ftruncate", "EIO ENOSPC EDQUOT EINTR"},
		{"rename renameat renameat2 linkat unlinkat", "EIO ENOSPC EDQUOT ESTALE EINTR"},
		{"fsync fdatasync", "EIO ENOSPC EDQUOT EINTR"},
		{"read pread64", "EIO EINTR"},
		{"getdents64", "EIO ESTALE EINTR"},
		{"newfstatat fstat", "ESTALE"},
		{"close", "EIO"},
	} {
		for call := range strings.FieldsSeq(f.calls) {
			for e := range strings.FieldsSeq(f.errors) {
				if race && e != "EIO" && e != "EINTR" {
					continue // a process with the race detector takes three times as long
				}
				faults = append(faults, fault{call: call, error: e})
			}
		}
	}
	for _, call := range [...]string{"write", "pwrite64", "ftruncate", "renameat2", "linkat"} { // nothing more can be written
		faults = append(faults, fault{call, "ENOSPC", true}, fault{call, "EDQUOT", true})
	}
	for _, call := range [...]string{"unlinkat", "fsync", "pread64"} { // the disk stays as it is
		faults = append(faults, fault{call, "EIO", true})
	}
	faults = append(faults, fault{"openat2", "EMFILE", true})
	sweep(t, slices.DeleteFunc(slices.Clone(stores), func(s store) bool { return s.variant }), faults)
}

// sweep runs a session of each of the stores with each fault at its first call, its
// second, and so on, until a run is left untouched.
func sweep(t *testing.T, stores []store, faults []fault) {
	strace := krb5test.Need(t, "strace")[0]
	for _, s := range stores {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			clean := newRun(t, s, strace)
			trace := clean.trace(t, "trace="+calls(faults))
			if clean.account.broke != "" || !well(clean.account.replies) {
				t.Fatalf("a session without a fault: %+v", clean.account)
			}
			for _, f := range faults {
				n := strings.Count(trace, " "+f.call+"(")
				if n == 0 {
					continue // the store makes no such call
				}
				t.Run(f.String(), func(t *testing.T) {
					t.Parallel()
					k := 1
					for !t.Failed() {
						r := newRun(t, s, strace)
						if !r.with(t, f, k) {
							break
						}
						k++
					}
					if k == 1 && slices.Contains([]string{"openat", "openat2", "unlinkat", "fsync"}, f.call) { // Go's runtime makes some of the others
						t.Errorf("none of %d calls was hit", n)
					}
					t.Logf("%d faults in %d calls", k-1, n)
				})
			}
		})
	}
}

func calls(faults []fault) string {
	var names []string
	for _, f := range faults {
		names = append(names, "?"+f.call) // not every machine has each of them
	}
	return strings.Join(names, ",")
}

// run is one session and what it left.
type run struct {
	store
	strace             string
	dir, root, records string
	books              *books
	account            account
	state              *os.ProcessState
}

// newRun makes a maildrop of eight messages of which a server has seen five, and
// a mail client three.
func newRun(t *testing.T, s store, strace string) *run {
	t.Helper()
	dir, err := os.MkdirTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	r := &run{store: s, strace: strace, dir: dir, root: filepath.Join(dir, "mail"), records: filepath.Join(dir, "ledger"), books: newBooks()}
	if err := errors.Join(os.Mkdir(r.root, 0o700), makeLedger(r.records), r.fill()); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *run) fill() error {
	if err := r.make(r.root); err != nil {
		return err
	}
	add := func(numbers ...int) error {
		for _, n := range numbers {
			if err := r.put(r.root, message(n)); err != nil {
				return err
			}
			r.books.fates[n] = stays
		}
		return nil
	}
	if err := add(1, 2, 3); err != nil {
		return err
	}
	if r.show != nil {
		if err := r.show(r.root); err != nil {
			return err
		}
	}
	if err := add(4, 5); err != nil {
		return err
	}
	err := list(r.store, r.root, func(n int, m maildrop.Message, _ string) { r.books.show(n, m.UID) })
	return errors.Join(err, add(6, 7, 8))
}

// trace runs the session to its end and returns what strace wrote of it.
func (r *run) trace(t *testing.T, options ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out := filepath.Join(r.dir, "trace")
	argv := []string{"-f", "-q", "-o", out}
	for _, o := range options {
		argv = append(argv, "-e", o)
	}
	cmd := exec.CommandContext(ctx, r.strace, append(argv, "--", os.Args[0], r.name, r.root, r.records)...)
	cmd.Env = append(os.Environ(), role+"=session", "GOMAXPROCS=1", "GORACE=atexit_sleep_ms=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	said, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		t.Fatalf("the session does not end\n%s", said)
	}
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	r.state = cmd.ProcessState
	if bytes.Contains(said, []byte("ptrace")) && !r.state.Success() {
		t.Skipf("no process may be traced here: %s", said)
	}
	lines, err := readLedger(r.records)
	if err != nil {
		t.Fatal(err)
	}
	var wrong []string
	r.account, wrong = r.books.enter(lines)
	r.report(t, wrong, string(said))
	trace, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return joined(string(trace))
}

// joined puts a call that strace broke in two, because another thread had
// something to say in between, on one line again.
func joined(trace string) string {
	var b strings.Builder
	begun := map[string]string{} // by thread
	for line := range strings.Lines(trace) {
		thread, _, _ := strings.Cut(line, " ")
		if begin, broken := strings.CutSuffix(line, " <unfinished ...>\n"); broken {
			begun[thread] = begin
			continue
		}
		if _, end, found := strings.Cut(line, " resumed>"); found {
			line = begun[thread] + end
			delete(begun, thread)
		}
		b.WriteString(line)
	}
	for _, begin := range begun { // the process was killed in it
		b.WriteString(begin + "\n")
	}
	return b.String()
}

// with runs the session with a fault at call k, and compares what it left with
// the books. It is false when there was no such call.
func (r *run) with(t *testing.T, f fault, k int) (hit bool) {
	t.Helper()
	trace := r.trace(t, "trace="+f.call, f.inject(k))
	killed := strings.Contains(trace, "+++ killed by SIGKILL")
	faulty := strings.Contains(trace, "(INJECTED)")
	hit = killed && f.error == "" || faulty && f.error != ""
	var wrong []string
	switch a := r.account; {
	case killed != (f.error == "" && hit):
		wrong = append(wrong, "the process was killed")
	case !hit && !well(a.replies):
		wrong = append(wrong, "the session went wrong without a fault")
	case f.error != "" && a.begun && !wakes(trace): // before it has begun it is not our program that fails
		wrong = append(wrong, r.manners(f, trace)...)
	}
	wrong = append(wrong, r.books.check(r.store, r.root)...)
	r.report(t, wrong, fmt.Sprintf("%v at call %d\n%s", f, k, tail(trace)))
	if err := os.RemoveAll(r.dir); err != nil {
		t.Fatal(err)
	}
	return hit
}

// wakes says that the fault hit Go's runtime, which wakes a thread by writing
// the number one, and gives up when it cannot.
func wakes(trace string) bool {
	for line := range strings.Lines(trace) {
		if strings.Contains(line, "(INJECTED)") && strings.Contains(line, `, "\1\0\0\0\0\0\0\0", 8)`) {
			return true
		}
	}
	return false
}

// manners says what a session with a fault did that it may not do: end the
// process, say something else than a clear refusal, or leave a file open.
func (r *run) manners(f fault, trace string) (wrong []string) {
	a := r.account
	if !a.ended || !r.state.Success() {
		return append(wrong, "the process ended: "+r.state.String())
	}
	if a.leaked != 0 && f.call != "close" {
		wrong = append(wrong, fmt.Sprintf("%d descriptors are left open", a.leaked))
	}
	for _, reply := range a.replies {
		switch word, said := reply[0], reply[1]; {
		case said == "+OK":
		case word == "quit" && strings.Contains(said, "Some deleted messages not removed"):
		case word != "quit" && strings.Contains(said, "[SYS/TEMP]"):
		default:
			wrong = append(wrong, fmt.Sprintf("%s is answered %q", word, said))
		}
	}
	if a.broke != "" && !slices.Contains([]string{"read", "pread64"}, f.call) { // in the middle of a message there is no other way
		wrong = append(wrong, "the connection ended: "+a.broke)
	}
	if f.error != "EINTR" && r.rewrites && onlyQuit(a.replies) &&
		slices.Contains([]string{"pwrite64", "ftruncate", "renameat", "renameat2"}, f.call) {
		return wrong // it said that the messages are still there
	}
	if harmless(f, trace) && (a.broke != "" || a.stopped != "" || !well(a.replies)) {
		wrong = append(wrong, fmt.Sprintf("the fault must not be noticed: %v %s %s", a.replies, a.stopped, a.broke))
	}
	return wrong
}

// onlyQuit says that all replies but the one to QUIT were +OK.
func onlyQuit(replies [][2]string) bool {
	n := len(replies) - 1
	return n >= 0 && replies[n][0] == "quit" && well(append(slices.Clone(replies[:n]), [2]string{"quit", "+OK"}))
}

// harmless says that a fault must be made up for: a call that was interrupted,
// and a disk or quota that is full for whoever creates, writes or renames.
func harmless(f fault, trace string) bool {
	if f.error == "EINTR" || f.call == "close" {
		return true
	}
	if f.error != "ENOSPC" && f.error != "EDQUOT" {
		return false
	}
	if !slices.Contains([]string{"openat", "openat2"}, f.call) {
		return !slices.Contains([]string{"unlinkat", "fsync", "fdatasync"}, f.call)
	}
	for line := range strings.Lines(trace) {
		if strings.Contains(line, "(INJECTED)") && !strings.Contains(line, "O_CREAT") {
			return false
		}
	}
	return true
}

func (r *run) report(t *testing.T, wrong []string, context string) {
	t.Helper()
	if len(wrong) > 0 {
		t.Errorf("%s\n%s\nthe session: %+v", strings.Join(wrong, "\n"), context, r.account)
	}
}

// well says that a session was answered +OK throughout.
func well(replies [][2]string) bool {
	for _, reply := range replies {
		if reply[1] != "+OK" {
			return false
		}
	}
	return len(replies) > 0 && replies[len(replies)-1][0] == "quit"
}

func tail(s string) string { return s[max(0, len(s)-2000):] }
