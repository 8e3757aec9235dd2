// Package ldaptest starts OpenLDAP's slapd for tests: servers that hold the same
// people and do not know of each other, so that one can hang or die alone.
//
// # Design notes
//
// A server listens on loopback and ports that were free, with every file in one
// folder. It is ended by its own process, never by name.
package ldaptest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/kpopd/kpopd/krb5test"
)

// Directory is servers with the same people.
type Directory struct {
	Dir     string // where all files are
	Servers []*Server
	CA      string // path of the certificate that signed the servers'
	OtherCA string // path of one that signed nothing
	Cert    string // path of a client certificate, of the service account
	Key     string // path of its key
	slapd   string
}

// Server is one slapd.
type Server struct {
	LDAP, LDAPS, LDAPI string // URLs

	d     *Directory
	n     int
	ports [2]*krb5test.Port // of LDAP and LDAPS, also while it does not run
	cmd   *exec.Cmd
	done  chan struct{} // closed when the process has ended
}

// Options of servers.
type Options struct {
	Servers int      // how many; one when zero
	Quiet   bool     // keep no log of operations
	Lines   []string // more lines of slapd.conf, before the database
	Env     []string // more environment
}

// Start starts servers with every file in dir, whose path should be short
// because a unix socket is in it, and waits until they answer. ctx bounds the
// start. A missing slapd is an error of [krb5test.LookPath]; [krb5test.Need]
// tells of it beforehand.
func Start(ctx context.Context, dir string, o Options) (*Directory, error) {
	d := &Directory{Dir: dir}
	var err error
	if d.slapd, err = krb5test.LookPath("slapd"); err != nil {
		return nil, err
	}
	if err := d.certify(); err != nil {
		return nil, fmt.Errorf("make certificates: %w", err)
	}
	for n := range max(o.Servers, 1) {
		s, err := d.newServer(n, &o)
		if err != nil {
			return nil, err
		}
		d.Servers = append(d.Servers, s)
	}
	errs := make([]error, len(d.Servers))
	var wg sync.WaitGroup
	for i, s := range d.Servers {
		wg.Go(func() { // ended by the start of the server
			if errs[i] = s.populate(ctx); errs[i] == nil {
				errs[i] = s.Start(ctx)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, errors.Join(err, d.Stop())
	}
	return d, nil
}

// Stop ends the servers that run.
func (d *Directory) Stop() error {
	var errs []error
	for _, s := range d.Servers {
		errs = append(errs, s.Kill())
	}
	return errors.Join(errs...)
}

func (d *Directory) file(format string, a ...any) string {
	return filepath.Join(d.Dir, fmt.Sprintf(format, a...))
}

func (d *Directory) newServer(n int, o *Options) (*Server, error) {
	s := &Server{d: d, n: n, done: make(chan struct{})}
	close(s.done)
	for i := range s.ports {
		p, err := krb5test.ReservePort()
		if err != nil {
			return nil, err
		}
		s.ports[i] = p
	}
	s.LDAP, s.LDAPS = "ldap://"+s.ports[0].Addr(), "ldaps://"+s.ports[1].Addr()
	s.LDAPI = "ldapi://" + url.QueryEscape(d.file("ldapi%d", n))
	level := "stats"
	if o.Quiet {
		level = "none"
	}
	conf := strings.NewReplacer("{dir}", d.Dir, "{n}", fmt.Sprint(n), "{level}", level, "{lines}", strings.Join(o.Lines, "\n")).Replace(slapdConf)
	return s, errors.Join(
		os.WriteFile(d.file("kpopd.schema"), []byte(schema), 0o600),
		os.WriteFile(d.file("slapd%d.conf", n), []byte(conf), 0o600),
		os.WriteFile(d.file("people%d.ldif", n), []byte(people(s.LDAP)), 0o600),
		os.WriteFile(d.file("env%d", n), []byte(strings.Join(o.Env, "\n")), 0o600),
		os.Mkdir(d.file("db%d", n), 0o700),
	)
}

func (s *Server) populate(ctx context.Context) error {
	// slapd's argument -T chooses the tool that it is
	cmd := exec.CommandContext(ctx, s.d.slapd, "-T", "add", "-q", "-f", s.d.file("slapd%d.conf", s.n), "-l", s.d.file("people%d.ldif", s.n))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("slapadd: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// Start starts a server, again after a Kill, and waits until it answers.
func (s *Server) Start(ctx context.Context) error {
	out, err := os.OpenFile(s.log(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	level := "0"
	if conf, _ := os.ReadFile(s.d.file("slapd%d.conf", s.n)); bytes.Contains(conf, []byte("loglevel stats")) {
		level = "stats"
	}
	// not bound to ctx, which ends with the start; -d keeps it in the foreground
	s.cmd = exec.Command(s.d.slapd, "-f", s.d.file("slapd%d.conf", s.n), "-h", s.LDAP+" "+s.LDAPS+" "+s.LDAPI, "-d", level)
	env, _ := os.ReadFile(s.d.file("env%d", s.n))
	s.cmd.Env = append(os.Environ(), strings.Fields(string(env))...)
	s.cmd.Stdout, s.cmd.Stderr = out, out
	if err := s.cmd.Start(); err != nil {
		return err
	}
	done := make(chan struct{})
	s.done = done
	go func() { // until the process ends
		s.cmd.Wait()
		close(done)
	}()
	if err := s.await(ctx); err != nil {
		return errors.Join(fmt.Errorf("start slapd: %w: %.2000s", err, s.Log()), s.Kill())
	}
	return nil
}

func (s *Server) await(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if c, err := net.DialTimeout("tcp", strings.TrimPrefix(s.LDAPS, "ldaps://"), time.Second); err == nil {
			return c.Close()
		}
		select {
		case <-s.done:
			return errors.New("slapd ended")
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func (s *Server) log() string { return s.d.file("slapd%d.log", s.n) }

// Log is what the server said so far: "conn=1000 op=0 BIND dn=..." and so on.
func (s *Server) Log() string {
	text, _ := os.ReadFile(s.log())
	return string(text)
}

// PID is the process that runs.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// Hang stops the server as SIGSTOP does: connections stay open, new ones are
// taken by the system, and nothing is answered. It returns when the process
// has stopped.
func (s *Server) Hang() error {
	if err := s.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
		if err != nil {
			return err
		}
		// state is the word after the name in brackets; every thread has stopped when it is T
		if _, rest, _ := bytes.Cut(stat, []byte(") ")); bytes.HasPrefix(rest, []byte("T")) {
			return nil
		}
		<-tick.C
	}
}

// Resume ends a Hang.
func (s *Server) Resume() error { return s.cmd.Process.Signal(syscall.SIGCONT) }

// Kill ends the server as SIGKILL does and waits for its end.
func (s *Server) Kill() error {
	select {
	case <-s.done:
		return nil
	default:
	}
	err := s.cmd.Process.Kill()
	<-s.done
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}
