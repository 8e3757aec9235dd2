package krb5test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// ErrNotInstalled is what StartMIT returns where MIT's KDC is missing.
var ErrNotInstalled = errors.New("MIT's krb5kdc, kdb5_util and kadmin.local are not all installed (Debian packages krb5-kdc, krb5-admin-server)")

// MIT is a KDC of MIT's for the realms EXAMPLE.TEST and OTHER.TEST. Clients of
// OTHER.TEST get tickets of EXAMPLE.TEST and not the other way round.
//
// Its users are alice, bob and alice/admin, locked, who is, short, whose
// tickets live for 30 s, and alice@OTHER.TEST; the password is "pw-" and the
// name without instance and realm. Its services are pop/localhost,
// pop/mail.example.test, host/localhost and imap/localhost, with keys of all
// enctypes of AES and of RC4; their keytab is server.keytab.
type MIT struct {
	Dir string // where all its files are

	port *Port
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
	path map[string]string
}

// Keys of services, and what their tickets' session keys may be.
const (
	mitKeys     = "aes256-sha1:normal,aes128-sha1:normal,aes256-sha2:normal,aes128-sha2:normal,rc4-hmac:normal"
	mitSessions = "aes256-sha2 aes128-sha2 aes256-sha1 aes128-sha1 rc4"
)

// StartMIT starts a KDC on a free loopback port, as any user and with every
// file in dir, and waits until it serves. ctx bounds the start.
func StartMIT(ctx context.Context, dir string) (*MIT, error) {
	m := &MIT{Dir: dir, path: map[string]string{}}
	for _, p := range []string{"krb5kdc", "kdb5_util", "kadmin.local"} {
		path, err := LookPath(p)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNotInstalled, err)
		}
		m.path[p] = path
	}
	err := m.configure()
	if err == nil {
		err = m.populate(ctx)
	}
	for left := 10; err == nil; left-- {
		if err = m.configure(); err == nil { // with another port
			err = m.serve(ctx)
		}
		if err == nil {
			return m, nil
		}
		if left > 0 && errors.Is(err, errEnded) {
			err = nil
		}
	}
	return nil, fmt.Errorf("start MIT's KDC: %w", err)
}

// errEnded is a KDC that ends, as it does when it cannot have its port.
var errEnded = errors.New("krb5kdc ended")

// choosePort finds a port that is free for UDP too. Nothing keeps it free for
// that until the KDC takes it.
func (m *MIT) choosePort() error {
	for range 20 {
		port, err := ReservePort()
		if err != nil {
			return err
		}
		udp, err := net.ListenPacket("udp", port.Addr())
		if err != nil {
			if err := port.Close(); err != nil {
				return err
			}
			continue
		}
		if m.port != nil {
			err = m.port.Close()
		}
		m.port = port
		return errors.Join(err, udp.Close())
	}
	return errors.New("no port is free for both TCP and UDP")
}

func (m *MIT) file(name string) string { return filepath.Join(m.Dir, name) }

// configure chooses a port and writes what depends on it.
func (m *MIT) configure() error {
	if err := m.choosePort(); err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "[kdcdefaults]\n    kdc_listen = %[1]s\n    kdc_tcp_listen = %[1]s\n[realms]\n", m.Addr())
	for _, r := range []string{"EXAMPLE.TEST", "OTHER.TEST"} {
		fmt.Fprintf(&b, `    %[1]s = {
        database_name = %[2]s
        key_stash_file = %[2]s.stash
        acl_file = %[3]s
        max_life = 10h
        max_renewable_life = 7d
        master_key_type = aes256-sha1
        supported_enctypes = aes256-sha1:normal aes128-sha1:normal
        default_principal_flags = +preauth
    }
`, r, m.file("db-"+r), m.file("kadm5.acl"))
	}
	fmt.Fprintf(&b, "[logging]\n    kdc = FILE:%s\n    default = FILE:%s\n", m.file("kdc.log"), m.file("krb5.log"))
	for name, text := range map[string]string{"kdc.conf": b.String(), "krb5.conf": m.Krb5Conf(), "kadm5.acl": "", "kdc.log": ""} {
		if err := os.WriteFile(m.file(name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (m *MIT) populate(ctx context.Context) error {
	for _, realm := range []string{"EXAMPLE.TEST", "OTHER.TEST"} {
		if out, err := m.command(ctx, "kdb5_util", "-r", realm, "create", "-s", "-P", "master").CombinedOutput(); err != nil {
			return fmt.Errorf("kdb5_util create %s: %w: %s", realm, err, bytes.TrimSpace(out))
		}
	}
	lines := []string{
		"addprinc -pw pw-alice alice", "addprinc -pw pw-bob bob", "addprinc -pw pw-alice alice/admin",
		"addprinc -pw pw-locked locked", "modprinc -allow_tix locked",
		"addprinc -maxlife 30s -pw pw-short short",
		"addprinc -pw trust krbtgt/EXAMPLE.TEST@OTHER.TEST",
	}
	for _, s := range []string{"pop/localhost", "pop/mail.example.test", "host/localhost", "imap/localhost"} {
		lines = append(lines,
			"addprinc -randkey -e "+mitKeys+" "+s,
			fmt.Sprintf("setstr %s session_enctypes %q", s, mitSessions),
			"ktadd -k "+m.file("server.keytab")+" -norandkey "+s)
	}
	if err := m.Kadmin(ctx, "EXAMPLE.TEST", lines...); err != nil {
		return err
	}
	return m.Kadmin(ctx, "OTHER.TEST", "addprinc -pw pw-alice alice", "addprinc -pw trust krbtgt/EXAMPLE.TEST")
}

// Kadmin runs commands of kadmin.local in a realm.
func (m *MIT) Kadmin(ctx context.Context, realm string, lines ...string) error {
	cmd := m.command(ctx, "kadmin.local", "-r", realm)
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	var failed bytes.Buffer // kadmin.local ends with 0 whatever its commands did
	cmd.Stderr = &failed
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("kadmin.local: %w: %s", err, bytes.TrimSpace(failed.Bytes()))
	}
	for line := range strings.Lines(failed.String()) {
		if !strings.HasPrefix(line, "No policy specified") {
			return fmt.Errorf("kadmin.local: %s", strings.TrimSpace(line))
		}
	}
	return nil
}

// Rotate gives a service of EXAMPLE.TEST new keys. The keytab gets them beside
// the old ones, as kadmin's ktadd does it.
func (m *MIT) Rotate(ctx context.Context, service, keytab string) error {
	return m.Kadmin(ctx, "EXAMPLE.TEST", "ktadd -k "+keytab+" -e "+mitKeys+" "+service)
}

// SessionEnctypes sets what session keys of tickets for a service of
// EXAMPLE.TEST may be, in MIT's words: "aes128-sha1".
func (m *MIT) SessionEnctypes(ctx context.Context, service, enctypes string) error {
	return m.Kadmin(ctx, "EXAMPLE.TEST", fmt.Sprintf("setstr %s session_enctypes %q", service, enctypes))
}

// serve starts krb5kdc and waits until it listens.
func (m *MIT) serve(ctx context.Context) error {
	out, err := os.OpenFile(m.file("kdc.out"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	// not bound to ctx, which ends with the start
	m.cmd = exec.Command(m.path["krb5kdc"], "-n", "-r", "EXAMPLE.TEST", "-r", "OTHER.TEST", "-P", m.file("kdc.pid"))
	m.cmd.Env, m.cmd.Dir = m.Env(), m.Dir
	m.cmd.Stdout, m.cmd.Stderr = out, out
	if err := m.cmd.Start(); err != nil {
		return err
	}
	m.done = make(chan struct{})
	go func() { // until the process ends
		m.cmd.Wait()
		close(m.done)
	}()
	if err := m.await(ctx); err != nil {
		text, _ := os.ReadFile(m.file("kdc.out"))
		return errors.Join(fmt.Errorf("%w: %s", err, bytes.TrimSpace(text)), m.Stop())
	}
	return nil
}

// await waits until the KDC says that it has its sockets: that something
// answers at the port would not tell whose it is.
func (m *MIT) await(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		log, err := os.ReadFile(m.file("kdc.log"))
		if err != nil || bytes.Contains(log, []byte("commencing operation")) {
			return err
		}
		select {
		case <-m.done:
			return errEnded
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// Stop ends the KDC and waits for it. Its files stay.
func (m *MIT) Stop() error {
	select {
	case <-m.done:
		return nil
	default:
	}
	err := m.cmd.Process.Kill()
	<-m.done
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// Serve starts the KDC again at the port that it had.
func (m *MIT) Serve(ctx context.Context) error {
	if err := os.WriteFile(m.file("kdc.log"), nil, 0o600); err != nil {
		return err
	}
	return m.serve(ctx)
}

// Suspend stops the KDC as it is: connections are made and nothing is answered. It
// returns when the process has stopped.
func (m *MIT) Suspend() error {
	if err := m.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.cmd.Process.Pid))
		if err != nil {
			return err
		}
		// state is the word after the name in brackets
		if _, rest, _ := bytes.Cut(stat, []byte(") ")); bytes.HasPrefix(rest, []byte("T")) {
			return nil
		}
		<-tick.C
	}
}

// Resume ends what Suspend began.
func (m *MIT) Resume() error { return m.cmd.Process.Signal(syscall.SIGCONT) }

// Addr is where it listens.
func (m *MIT) Addr() string { return m.port.Addr() }

// Keytab is the path of the keytab of all services.
func (m *MIT) Keytab() string { return m.file("server.keytab") }

// Krb5Conf is a configuration for clients.
func (m *MIT) Krb5Conf() string { return krb5Conf(m.Addr(), "EXAMPLE.TEST", "OTHER.TEST") }

// Env is the environment in which MIT's programs work with this KDC. The
// credential cache is the file ccache in Dir, unless KRB5CCNAME is set anew.
func (m *MIT) Env() []string {
	return append(os.Environ(), "LC_ALL=C",
		"KRB5_CONFIG="+m.file("krb5.conf"), "KRB5_KDC_PROFILE="+m.file("kdc.conf"),
		"KRB5CCNAME=FILE:"+m.file("ccache"), "KRB5_KTNAME=FILE:"+m.Keytab(), "KRB5RCACHEDIR="+m.Dir)
}

func (m *MIT) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, m.path[program], args...)
	cmd.Env, cmd.Dir = m.Env(), m.Dir
	return cmd
}
