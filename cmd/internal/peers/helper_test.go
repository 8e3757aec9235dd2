package peers

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/emersion/go-sasl"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/gssapi"
	"github.com/kpopd/kpopd/authn/krb5"
	"github.com/kpopd/kpopd/krb5test"
	pop3 "github.com/kpopd/kpopd/pop3/client"
)

// The uids of a divided server, which are nobody's.
const (
	helperUID = 60101
	frontUID  = 60102
)

const helperConfiguration = `
auth: {socket: RUN/socket, clients: ["60102"], chain: all}
chains:
  - {name: all, steps: [{use: local}, {use: tickets}]}
verifiers:
  - {name: local, type: file, users: users, digests: digests}
  - {name: tickets, type: principal, local_realms: [EXAMPLE.TEST]}
kerberos: {keytab: keytab, replay_cache: replay}
log: {level: debug}
`

// frontConfiguration has a helper judge whatever a client shows.
const frontConfiguration = `
listeners:
  - {name: pop3, address: "127.0.0.1:0", tls: starttls, policy: internet}
  - {name: pop3s, address: "127.0.0.1:0", tls: implicit, policy: internet}
  - {name: bare, address: "127.0.0.1:0", policy: trusted}
  - {name: kpop, address: "127.0.0.1:0", protocol: kpop, tls: starttls, policy: campus}
  - {name: old, address: "127.0.0.1:0", tls: implicit, policy: old}
certificates:
  - {name: localhost, cert: cert.pem, key: key.pem}
policies:
  - {name: internet, offers: [GSSAPI, CRAM-MD5, APOP, PLAIN, LOGIN, USER], chain: all}
  - {name: trusted, offers: [GSSAPI, CRAM-MD5, APOP, PLAIN, LOGIN, USER], plain: trusted, trusted: [127.0.0.0/8], chain: all}
  - {name: campus, offers: [KPOP], chain: all}
  - {name: old, offers: [GSS-SPNEGO], chain: all}
chains:
  - {name: all, steps: [{use: helper}]}
verifiers:
  - {name: helper, type: remote, socket: RUN/socket, judges: [passwords, secrets, principals, tickets]}
kerberos: {remote: helper}
gssapi: {layers: [none, integrity, privacy], channel_binding: "off"} # as in [negotiating]
pop3: {hostname: localhost}
maildrops: {root: mail}
log: {level: debug}
`

// divided is a server in two processes, each under a uid of its own.
type divided struct {
	front, helper *server
	bin           string // that both may run
}

// divide starts both. What is in the helper's folder is the helper's alone.
func divide(t *testing.T, keytab string) *divided {
	t.Helper()
	if os.Geteuid() != 0 {
		krb5test.Missing(t, "root, to give two processes uids of their own")
	}
	built, err := command()
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.MkdirTemp("", "divided") // short enough for the name of a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	d := &divided{front: newServer(filepath.Join(root, "front")), helper: newServer(filepath.Join(root, "helper")), bin: filepath.Join(root, "kpopd")}
	run := filepath.Join(root, "run")
	program, err := os.ReadFile(built)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(
		os.Chmod(root, 0o755), install(d.bin, program),
		os.Mkdir(d.front.dir, 0o700), os.Mkdir(d.helper.dir, 0o700), os.Mkdir(run, 0o750), os.Chown(run, helperUID, frontUID),
		os.Mkdir(filepath.Join(d.front.dir, "mail"), 0o700),
	); err != nil {
		t.Fatal(err)
	}
	keys, err := os.ReadFile(keytab)
	if err != nil {
		t.Fatal(err)
	}
	d.helper.write(t, "keytab", string(keys))
	d.helper.write(t, "users", users)
	d.helper.write(t, "digests", digests)
	d.helper.write(t, "kpopd.yaml", strings.Replace(helperConfiguration, "RUN", run, 1))
	own(t, d.helper.dir, helperUID)

	text := strings.Replace(frontConfiguration, "RUN", run, 1)
	d.front.write(t, "kpopd.yaml", text)
	d.front.certify(t)
	return d
}

// own gives a folder and all in it to a uid.
func own(t testing.TB, dir string, uid int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, uid, uid))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// startHelper runs the helper, in the group that lets the front reach the socket.
func (d *divided) startHelper(t *testing.T) {
	t.Helper()
	next := newServer(d.helper.dir)
	d.helper = next
	next.launch(t, d.bin, "auth", &syscall.Credential{Uid: helperUID, Gid: frontUID})
}

// files are what a process has open, as /proc tells.
func files(t *testing.T, s *server) []string {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", s.cmd.Process.Pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var open []string
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err == nil { // it may be closed by now
			open = append(open, target)
		}
	}
	return open
}

// TestDivided: real clients log in at a front that cannot read one secret, also
// after its helper crashed; while the helper is away they are told of an outage.
func TestDivided(t *testing.T) {
	t.Parallel()
	ways := []struct {
		user string
		client
	}{
		{"alice", fetchmailKPOP("KPOP", "sslproto ''")},
		{"alice", curl("GSSAPI", "pop3", "pop3", "--login-options", "AUTH=GSSAPI", "-u", ":")},
		{"alice", pop3test("GSSAPI with privacy", "none, integrity, privacy", "256")},
		{"alice", pop3testAt("old", "GSS-SPNEGO", "GSS-SPNEGO", "-s", "-l", "512")},
		{"carol", curl("CRAM-MD5", "pop3", "pop3", "--login-options", "AUTH=CRAM-MD5", "-u", "USER:PASSWORD")},
		{"alice", curl("PLAIN on POP3S", "pop3s", "pop3s", "--login-options", "AUTH=PLAIN", "-u", "USER:PASSWORD")},
	}
	for _, c := range ways {
		c.need(t, ticketPrograms...)
	}
	r := inProcess.realm(t)
	d := divide(t, r.keytab)
	for _, user := range []string{"alice", "carol"} {
		d.front.deliver(t, user, messages)
	}
	own(t, d.front.dir, frontUID)
	d.startHelper(t)
	d.front.launch(t, d.bin, "serve", &syscall.Credential{Uid: frontUID, Gid: frontUID})

	all := func(t *testing.T, want func(*session, client, []message)) {
		t.Helper()
		for _, c := range ways {
			s := d.front.session(t, c.door, nil)
			s.user, s.password = c.user, "pw-"+c.user
			if c.user == "alice" {
				r.login(s, "alice", "pw-alice", "pop/localhost")
			}
			want(s, c.client, carried(c.maxLine, c.rare...))
		}
	}
	// each client carries what it can of the mail that is there
	gets := func(s *session, c client, _ []message) {
		s.t.Helper()
		if _, mail := c.fetch(s); len(mail) == 0 || !s.well {
			s.t.Errorf("%s: %d octets of mail", c.name, len(mail))
		}
	}
	outage := func(s *session, c client, _ []message) {
		s.t.Helper()
		shown, mail := c.fetch(s)
		said := shown + s.tap.conversation()
		if len(mail) > 0 || strings.Contains(said, "[AUTH]") {
			s.t.Errorf("%s: %d octets of mail while the helper is away", c.name, len(mail))
		}
	}
	t.Run("well", func(t *testing.T) { all(t, gets) })
	t.Run("nothing is open to the front", d.nothingOpen)
	d.helper.kill(t)
	t.Run("without a helper", func(t *testing.T) { all(t, outage) })
	if !strings.Contains(d.front.said(), "kind=unavailable") || strings.Contains(d.front.said(), "kind=rejected") {
		t.Error("an outage was told as something else")
	}
	d.startHelper(t)
	t.Run("after a crash of the helper", func(t *testing.T) { all(t, gets) })
	if !strings.Contains(d.front.said(), "step=local") {
		t.Error("the front's log does not name the steps of the helper's chain")
	}
}

// nothingOpen looks at the two from outside.
func (d *divided) nothingOpen(t *testing.T) {
	for _, path := range files(t, d.front) {
		if strings.HasPrefix(path, d.helper.dir) {
			t.Errorf("the front has %s open", path)
		}
	}
	seen := false
	for _, path := range files(t, d.helper) {
		seen = seen || path == filepath.Join(d.helper.dir, "replay")
	}
	if !seen {
		t.Error("the replay cache is not open in the helper, or this test is blind")
	}
	for _, name := range []string{"keytab", "users", "digests", "kpopd.yaml", "replay"} {
		cmd := group(t.Context(), "cat", filepath.Join(d.helper.dir, name))
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: frontUID, Gid: frontUID}
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "Permission denied") {
			t.Errorf("the front's uid reads %s: %.100s", name, out)
		}
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.front.cmd.Process.Pid))
	if err != nil || !strings.Contains(string(status), fmt.Sprintf("Uid:\t%d\t%d\t%d\t%d\n", frontUID, frontUID, frontUID, frontUID)) {
		t.Errorf("the front runs as another: %v", err)
	}
}

// helperWays show the front of [divided] each sort of proof that a helper judges.
var helperWays = []struct {
	user string
	way
}{
	{"alice", way{"USER", "pop3s", overTLS(func(ctx context.Context, c *pop3.Client, v *visitor) error {
		return c.UserPass(ctx, v.user, v.password)
	})}},
	{"alice", way{"PLAIN", "pop3s", bySASL(func(_ context.Context, v *visitor) (sasl.Client, error) {
		return sasl.NewPlainClient("", v.user, v.password), nil
	})}},
	{"carol", way{"CRAM-MD5", "pop3s", bySASL(func(_ context.Context, v *visitor) (sasl.Client, error) { return &cramClient{v}, nil })}},
	{"alice", way{"GSSAPI", "pop3s", bySASL(func(ctx context.Context, v *visitor) (sasl.Client, error) {
		return gssapi.NewClient(ctx, v.tickets, "pop/localhost", gssapi.Options{Mutual: true})
	})}},
}

// atOnce logs in each way at once and tells by the way's name with which code
// each was refused, "OK" where it was not.
func (d *divided) atOnce(t *testing.T, visitors map[string]*visitor) (ended <-chan map[string]string) {
	t.Helper()
	done := make(chan map[string]string, 1)
	type outcome struct{ way, code string }
	outcomes := make(chan outcome, len(helperWays))
	for _, w := range helperWays {
		go func() { // ended by its deadline
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			err := w.visit(ctx, visitors[w.user], d.front.door(w.door))
			var refused *pop3.ServerError
			switch {
			case err == nil:
				outcomes <- outcome{w.name, "OK"}
			case errors.As(err, &refused):
				outcomes <- outcome{w.name, refused.Code}
			default:
				outcomes <- outcome{w.name, err.Error()}
			}
		}()
	}
	go func() {
		all := map[string]string{}
		for range helperWays {
			o := <-outcomes
			all[o.way] = o.code
		}
		done <- all
	}()
	return done
}

// TestHungHelper: a helper that stands still is an outage to every sort of login,
// in time, and so is its death while they wait for it. The first login after it
// goes on, or is there anew, gets in.
func TestHungHelper(t *testing.T) {
	t.Parallel()
	r := inProcess.realm(t)
	d := divide(t, r.keytab)
	visitors := map[string]*visitor{}
	roots := x509.NewCertPool()
	roots.AddCert(d.front.authority.Certificate())
	conf, err := os.ReadFile(r.conf)
	if err != nil {
		t.Fatal(err)
	}
	tickets, err := krb5.NewClient(string(conf), "alice", "EXAMPLE.TEST", authn.Password("pw-alice"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tickets.Close)
	for _, user := range []string{"alice", "carol"} {
		d.front.deliver(t, user, nil)
		visitors[user] = &visitor{user: user, password: "pw-" + user, tickets: tickets, tls: &tls.Config{RootCAs: roots, ServerName: "localhost"}}
	}
	own(t, d.front.dir, frontUID)
	d.startHelper(t)
	d.front.launch(t, d.bin, "serve", &syscall.Credential{Uid: frontUID, Gid: frontUID})
	signal := func(s syscall.Signal) {
		t.Helper()
		if err := d.helper.cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
	}
	want := func(when, code string, got map[string]string) {
		t.Helper()
		for _, w := range helperWays {
			if got[w.name] != code {
				t.Errorf("%s, %s: got %s, want %s", when, w.name, got[w.name], code)
			}
		}
	}
	works := func(when string) {
		t.Helper()
		for _, w := range helperWays { // one after the other: a maildrop has one session
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			if err := w.visit(ctx, visitors[w.user], d.front.door(w.door)); err != nil {
				t.Errorf("%s: %v", when, err)
			}
			cancel()
		}
	}
	works("well")
	signal(syscall.SIGSTOP)
	began := time.Now()
	want("stopped", "SYS/TEMP", <-d.atOnce(t, visitors))
	if took := time.Since(began); took < time.Second {
		t.Errorf("the outage was told after %v: nobody was asked", took)
	}
	signal(syscall.SIGCONT)
	works("goes on")
	signal(syscall.SIGSTOP)
	waiting := d.atOnce(t, visitors)
	d.helper.kill(t)
	want("killed in mid-login", "SYS/TEMP", <-waiting)
	d.startHelper(t)
	works("started anew")
	// one that stands still before the front has said a word to it
	d.helper.kill(t)
	d.startHelper(t)
	signal(syscall.SIGSTOP)
	want("stopped at once", "SYS/TEMP", <-d.atOnce(t, visitors))
	signal(syscall.SIGCONT)
	works("goes on again")
	if said := d.front.said(); strings.Contains(said, "kind=rejected") || !strings.Contains(said, "kind=unavailable") {
		t.Error("an outage was told as something else")
	}
}
