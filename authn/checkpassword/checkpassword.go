// Package checkpassword asks a program about passwords through the interface of
// D. J. Bernstein's checkpassword: the door to PAM and to whatever else a site
// has. https://cr.yp.to/checkpwd/interface.html describes it.
//
// The program reads login, password and a timestamp from file descriptor 3, each
// with a NUL behind it. It ends with 0 when the password is right, 1 when it is
// not, 2 when it was called wrongly, 111 when it cannot say now. Where it wants
// to run another program after a success, as the original does, name /bin/true
// in its arguments.
//
// # Design notes
//
// The password is written into a pipe before the program starts and stands
// nowhere else: not in arguments, not in the environment, which has a fixed PATH
// and the two addresses of the connection.
//
// Whatever else the program does is an outage, never a wrong password: another
// status, a signal, not ending in time. It runs in a process group of its own,
// which is killed when the deadline passes; and the caller is answered then,
// even when the kernel cannot end the program yet. Such a program keeps its
// place among those that may run at once.
//
// The program is found fit when it is loaded: it judges passwords with our
// rights, so nobody else may be able to replace it.
package checkpassword

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"github.com/kpopd/kpopd/authn"
)

// Options say what is run.
type Options struct {
	Program string        // absolute path
	Args    []string      // its arguments, without its name
	AtOnce  int           // programs that run at the same time; 16 when zero
	Timeout time.Duration // for one program; 10 s when zero. The attempt's own deadline counts too
}

// Verifier is an [authn.PasswordVerifier].
type Verifier struct {
	name  string
	path  string // of the program, without symbolic links
	o     Options
	slots chan struct{} // holds one for each program that runs
}

var _ authn.PasswordVerifier = (*Verifier)(nil)

const (
	defaultAtOnce  = 16
	defaultTimeout = 10 * time.Second
	maxMessage     = 512  // octets on descriptor 3: "There must be at most 512 bytes of data before end of file"
	maxStderr      = 4096 // octets that are kept of what it says
	maxShown       = 512  // octets of them that the log shows; less than the rest by a password and more
	lastWords      = 200 * time.Millisecond
)

// New checks the program. name is the chain step's.
func New(name string, o Options) (*Verifier, error) {
	path, err := fit(o.Program)
	if err != nil {
		return nil, err
	}
	if o.AtOnce <= 0 {
		o.AtOnce = defaultAtOnce
	}
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	return &Verifier{name: name, path: path, o: o, slots: make(chan struct{}, o.AtOnce)}, nil
}

// Name implements [authn.Verifier].
func (v *Verifier) Name() string { return v.name }

// String says what the verifier does, for whoever checks a configuration.
func (v *Verifier) String() string {
	return fmt.Sprintf("passwords by %s, %d at once", v.path, v.o.AtOnce)
}

func (v *Verifier) fail(kind authn.Kind, err error) error {
	return &authn.Error{Kind: kind, Step: v.name, Err: err}
}

// VerifyPassword implements [authn.PasswordVerifier].
func (v *Verifier) VerifyPassword(ctx context.Context, r *authn.PasswordRequest) (*authn.Identity, error) {
	if n := len(r.Password); n == 0 {
		return nil, v.fail(authn.Rejected, errors.New("password of 0 octets"))
	}
	if login, err := authn.PrepareLogin(r.Login); err != nil || login != r.Login {
		return nil, v.fail(authn.UnknownUser, errors.New("no login in canonical form"))
	}
	m := message(r, time.Now())
	defer clear(m)
	switch {
	case bytes.Count(m, []byte{0}) != 3:
		return nil, v.fail(authn.Rejected, errors.New("password with a NUL"))
	case len(m) > maxMessage:
		return nil, v.fail(authn.Rejected, fmt.Errorf("login and password are too long for the interface, by %d octets", len(m)-maxMessage))
	}
	ctx, cancel := context.WithTimeout(ctx, v.o.Timeout)
	defer cancel()
	select {
	case v.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, v.fail(authn.Unavailable, fmt.Errorf("wait to run the program: %w", context.Cause(ctx)))
	}
	if err := v.run(ctx, r, m); err != nil {
		return nil, err
	}
	return &authn.Identity{User: r.Login}, nil
}

// message is what the program reads.
func message(r *authn.PasswordRequest, now time.Time) []byte {
	stamp := strconv.FormatInt(now.Unix(), 10)
	m := make([]byte, 0, len(r.Login)+len(r.Password)+len(stamp)+3) // or appending would leave copies
	m = append(append(m, r.Login...), 0)
	m = append(append(m, r.Password...), 0)
	return append(append(m, stamp...), 0)
}

// run gives its slot back when the program has ended, which may be after it
// returns.
func (v *Verifier) run(ctx context.Context, r *authn.PasswordRequest, m []byte) error {
	said := &limited{}
	cmd, err := v.start(ctx, r.Transport, m, said)
	if err != nil {
		<-v.slots
		return v.fail(authn.Unavailable, err)
	}
	ended := make(chan struct{})
	go func() { // until the program ends
		defer func() { <-v.slots }()
		defer close(ended)
		_ = cmd.Wait() // the status tells
	}()
	select {
	case <-ended:
	case <-ctx.Done():
		// it is being killed; a moment for it to go, no more
		late := time.NewTimer(lastWords)
		defer late.Stop()
		select {
		case <-ended:
		case <-late.C:
			return v.late(ctx)
		}
	}
	switch status := cmd.ProcessState; {
	case status.Success():
		return nil
	case !status.Exited() && ctx.Err() != nil: // killed, and by us
		return v.late(ctx)
	}
	kind, what := verdict(cmd.ProcessState)
	return v.fail(kind, fmt.Errorf("program %s%s", what, said.text(r.Password)))
}

func (v *Verifier) late(ctx context.Context) error {
	return v.fail(authn.Unavailable, fmt.Errorf("program did not end: %w", context.Cause(ctx)))
}

func (v *Verifier) start(ctx context.Context, t *authn.Transport, m []byte, said *limited) (*exec.Cmd, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make a pipe: %w", err)
	}
	defer r.Close()
	_, err = w.Write(m) // a pipe takes far more than maxMessage without a reader
	if err = errors.Join(err, w.Close()); err != nil {
		return nil, fmt.Errorf("write into a pipe: %w", err)
	}
	cmd := exec.CommandContext(ctx, v.path, v.o.Args...)
	cmd.Args[0] = v.o.Program
	cmd.Dir = "/"
	cmd.Env = environment(t)
	cmd.ExtraFiles = []*os.File{r}
	cmd.Stderr = said
	cmd.WaitDelay = lastWords // for a child of it that keeps standard error open
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // the group
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start: %w", err)
	}
	return cmd, nil
}

// environment is that of UCSPI servers, in which such programs look for the
// address of the client.
func environment(t *authn.Transport) []string {
	env := []string{"PATH=/usr/bin:/bin"}
	if t == nil || !t.Remote.IsValid() {
		return env
	}
	env = append(env, "PROTO=TCP", "TCPREMOTEIP="+t.Remote.Addr().Unmap().String(), "TCPREMOTEPORT="+strconv.Itoa(int(t.Remote.Port())))
	if t.Local.IsValid() {
		env = append(env, "TCPLOCALIP="+t.Local.Addr().Unmap().String(), "TCPLOCALPORT="+strconv.Itoa(int(t.Local.Port())))
	}
	return env
}

// verdict is what it means that a program did not succeed.
func verdict(s *os.ProcessState) (authn.Kind, string) {
	switch s.ExitCode() {
	case 1:
		return authn.Rejected, "refused"
	case 2:
		return authn.Internal, "says that it was called wrongly: look at its arguments"
	case 111:
		return authn.Unavailable, "cannot say now"
	default:
		return authn.Unavailable, "ended with " + s.String()
	}
}
