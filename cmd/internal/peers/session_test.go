package peers

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/kpopd/kpopd/krb5test"
)

// patience is how long a client may take for everything on a busy machine.
// None needs more than three seconds of it on an idle one.
const patience = time.Minute

// session is one run of a client as one person on one machine.
type session struct {
	t    *testing.T
	tap  *tap
	home string   // HOME, work directory, and where the client puts the mail
	env  []string // all of its environment
	ca   string   // file of the certificate authority to trust

	user, password string
	skew           string // of the clock, "+630" for so many seconds ahead; "" for none
	take           bool   // delete from the server what was got

	well bool // the program that was run last ended with status 0
}

// port is where the client finds the server, on localhost.
func (s *session) port() string { return strconv.Itoa(s.tap.addr.Port) }

// write makes a file of the client's in its home, for its eyes only, as
// fetchmail and mpop insist, and tells its path.
func (s *session) write(name, text string) string {
	s.t.Helper()
	path := filepath.Join(s.home, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// read is what the client put into a file of its home, nil when it did not.
func (s *session) read(name string) []byte {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.home, name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.t.Fatal(err)
	}
	return text
}

// run is what argv shows. It is killed, with what it started, when it has not
// ended in time.
func (s *session) run(argv ...string) string {
	s.t.Helper()
	return s.feed("", argv...)
}

// feed is run with stdin from a file of the home.
func (s *session) feed(stdin string, argv ...string) string {
	s.t.Helper()
	if s.skew != "" {
		program, err := krb5test.LookPath(argv[0])
		if err != nil {
			s.t.Fatal(err)
		}
		argv = append([]string{"faketime", "-f", s.skew, program}, argv[1:]...)
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	cmd := group(ctx, argv...)
	cmd.Dir, cmd.Env = s.home, s.env
	if stdin != "" {
		f, err := os.Open(filepath.Join(s.home, stdin))
		if err != nil {
			s.t.Fatal(err)
		}
		defer f.Close()
		cmd.Stdin = f
	}
	start := time.Now()
	out, err := cmd.CombinedOutput()
	s.t.Cleanup(func() {
		if s.t.Failed() {
			s.t.Logf("%q after %v: %v\n%.8000s", argv, time.Since(start).Round(time.Millisecond), err, out)
		}
	})
	switch exit := (*exec.ExitError)(nil); {
	case ctx.Err() != nil:
		s.t.Fatalf("%s hangs", argv[0])
	case err != nil && !errors.As(err, &exit):
		s.t.Fatal(err)
	}
	s.well = err == nil
	return string(out)
}

// group is a command in a process group of its own, killed as one. The program
// is looked for where [krb5test.Need] finds it.
func group(ctx context.Context, argv ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	if path, err := krb5test.LookPath(argv[0]); err == nil {
		cmd.Path, cmd.Err = path, nil
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 2 * time.Second
	return cmd
}
