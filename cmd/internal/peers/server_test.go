package peers

import (
	"bufio"
	"cmp"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kpopd/kpopd/authn/file"
	"github.com/kpopd/kpopd/authn/oidc/oidctest"
	"github.com/kpopd/kpopd/cmd/internal/certs"
)

// server is the kpopd of one test.
type server struct {
	dir       string // configuration, users, certificate, mail
	cmd       *exec.Cmd
	authority *certs.Authority

	killed bool // by the test

	mu    sync.Mutex // guards what follows
	log   strings.Builder
	more  chan struct{}     // closed when the log grows
	doors map[string]string // addresses of the listeners

	ready, ended chan struct{} // told by the log
	reloaded     chan bool     // and whether that went well
}

// configuration has every door that a client may look for. What would use TLS
// unasked, or cannot and has a password, finds the bare one.
const configuration = `
listeners:
  - {name: pop3, address: "127.0.0.1:0", tls: starttls, policy: internet}
  - {name: pop3s, address: "127.0.0.1:0", tls: implicit, policy: internet}
  - {name: bare, address: "127.0.0.1:0", policy: trusted}
  - {name: kpop, address: "127.0.0.1:0", protocol: kpop, tls: starttls, policy: campus}
  - {name: many, address: "127.0.0.1:0", tls: starttls, policy: many}
  - {name: scram, address: "127.0.0.1:0", tls: starttls, policy: scram}
  - {name: scrams, address: "127.0.0.1:0", tls: implicit, policy: scram}
  - {name: scram-bare, address: "127.0.0.1:0", policy: scram-unbound}
  - {name: scram-unbound, address: "127.0.0.1:0", tls: starttls, policy: scram-unbound}
  - {name: sso, address: "127.0.0.1:0", tls: starttls, policy: sso}
  - {name: ssos, address: "127.0.0.1:0", tls: implicit, policy: sso}
  - {name: cards, address: "127.0.0.1:0", tls: starttls, policy: cards, client_ca: clients.pem, client_crl: crl.pem}
  - {name: cards-tls, address: "127.0.0.1:0", tls: implicit, policy: cards, client_ca: clients.pem, client_crl: crl.pem}
certificates:
  - {name: localhost, cert: cert.pem, key: key.pem}
policies:
  - {name: internet, offers: [GSSAPI, CRAM-MD5, APOP, PLAIN, LOGIN, USER], chain: all}
  - {name: trusted, offers: [GSSAPI, CRAM-MD5, APOP, PLAIN, LOGIN, USER], plain: trusted, trusted: [127.0.0.0/8], chain: all}
  - {name: campus, offers: [KPOP], chain: all}
  - {name: many, offers: [GSSAPI, SCRAM-SHA-256-PLUS, SCRAM-SHA-256, SCRAM-SHA-1-PLUS, SCRAM-SHA-1, CRAM-MD5, APOP, PLAIN, LOGIN, USER], chain: all}
  - {name: scram, offers: [SCRAM-SHA-256-PLUS, SCRAM-SHA-256, SCRAM-SHA-1-PLUS, SCRAM-SHA-1], chain: all}
  - {name: scram-unbound, offers: [SCRAM-SHA-256, SCRAM-SHA-1], chain: all}
  - {name: sso, offers: [OAUTHBEARER, XOAUTH2], chain: sso}
  - {name: cards, offers: [EXTERNAL, PLAIN, USER], chain: all}
chains:
  - {name: sso, steps: [{use: sso}]}
  - {name: all, steps: [{use: local}, {use: tickets}, {use: cards}]}
verifiers:
  - {name: local, type: file, users: users, digests: digests, digests_key: digests.key}
  - {name: sso, type: oidc, issuer: "https://sso.test", audiences: [kpopd], user_claim: preferred_username, keys: keys.json}
  - {name: tickets, type: principal, local_realms: [EXAMPLE.TEST]}
  - {name: cards, type: certificate, certificate_rules: [{from: upn, match: '(?i)(\w+)@corp\.example\.test', login: $1}]}
kerberos: {keytab: keytab, replay_cache: replay}
gssapi: {layers: [LAYERS]}
kpop: {app_versions: [KPOPV1.0, justjunk]}
scram: {salt_key: salt.key}
pop3: {hostname: localhost}
maildrops: {root: mail}
log: {level: debug}
`

// start runs kpopd with a keytab until the test ends, which fails when kpopd
// does not end well. layers are the security layers to offer, with commas
// between, "none" when empty.
func start(t *testing.T, keytab, layers string) *server {
	t.Helper()
	return startWith(t, keytab, strings.Replace(configuration, "LAYERS", cmp.Or(layers, "none"), 1))
}

// startWith is start with a configuration of its own.
func startWith(t *testing.T, keytab, configuration string) *server {
	t.Helper()
	bin, err := command()
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t.TempDir())
	s.write(t, "kpopd.yaml", configuration)
	s.write(t, "users", users)
	s.write(t, "digests", digests)
	s.makeKeys(t)
	s.write(t, "keys.json", string(oidctest.Set(signingKey(), curveKey())))
	s.certify(t)
	if err := os.Mkdir(filepath.Join(s.dir, "mail"), 0o700); err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(keytab)
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, "keytab", string(key))

	s.launch(t, bin, "serve", nil)
	return s
}

// newServer is one that does not run yet.
func newServer(dir string) *server {
	return &server{
		dir: dir, more: make(chan struct{}), doors: map[string]string{},
		ready: make(chan struct{}), reloaded: make(chan bool, 1), ended: make(chan struct{}),
	}
}

// launch runs a command of kpopd on the configuration in s.dir until the test
// ends, under another uid where one is given.
func (s *server) launch(t testing.TB, bin, command string, uid *syscall.Credential) {
	t.Helper()
	// not t.Context(): the server must end by itself, by a signal
	s.cmd = group(context.Background(), bin, command, "-c", filepath.Join(s.dir, "kpopd.yaml"))
	s.cmd.SysProcAttr.Credential = uid
	s.cmd.Env = []string{"HOME=" + s.dir, "PATH=" + os.Getenv("PATH")}
	stderr, err := s.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go s.keep(stderr) // ended by the server's end
	t.Cleanup(func() { s.stop(t) })
	select {
	case <-s.ready:
	case <-s.ended:
		t.Fatal("kpopd does not start")
	case <-time.After(patience):
		t.Fatal("kpopd is not ready in time")
	}
}

// makeKeys has new keys seal what of the digests is readable, and make salts.
func (s *server) makeKeys(t testing.TB) {
	t.Helper()
	for _, name := range []string{"digests.key", "salt.key"} {
		if err := file.MakeKeyFile(filepath.Join(s.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := file.Seal(filepath.Join(s.dir, "digests"), filepath.Join(s.dir, "digests.key")); err != nil {
		t.Fatal(err)
	}
}

// keep reads the log until the server ends.
func (s *server) keep(stderr io.Reader) {
	defer close(s.ended)
	lines := bufio.NewScanner(stderr)
	lines.Buffer(nil, 1<<20) // a line may hold a stack
	for lines.Scan() {
		line := lines.Text()
		s.mu.Lock()
		s.log.WriteString(line + "\n")
		close(s.more)
		s.more = make(chan struct{})
		if m := listening.FindStringSubmatch(line); m != nil {
			s.doors[m[1]] = m[2]
		}
		s.mu.Unlock()
		switch {
		case strings.Contains(line, " msg=started "):
			close(s.ready)
		case strings.Contains(line, ` msg="configuration reloaded" `):
			s.reloaded <- true
		case strings.Contains(line, ` msg="configuration not reloaded`):
			s.reloaded <- false
		}
	}
}

var listening = regexp.MustCompile(` msg=listening listener=(\S+) address=(\S+)`)

func (s *server) stop(t testing.TB) {
	t.Helper()
	if s.killed {
		return
	}
	s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.ended:
	case <-time.After(patience):
		t.Error("kpopd does not end after SIGTERM")
		s.cmd.Process.Kill()
		<-s.ended
	}
	if err := s.cmd.Wait(); err != nil {
		t.Error("kpopd ended with", err)
	}
	if strings.Contains(s.said(), "pw-") {
		t.Error("a password is in the log")
	}
	if t.Failed() {
		t.Logf("kpopd said:\n%.20000s", s.said())
	}
}

// kill ends it as a crash would.
func (s *server) kill(t *testing.T) {
	t.Helper()
	s.killed = true
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-s.ended
	_ = s.cmd.Wait() // it was killed
}

// reload has kpopd take a new configuration.
func (s *server) reload(t *testing.T) {
	t.Helper()
	if !s.reloads(t) {
		t.Fatal("kpopd does not take the configuration")
	}
}

// reloads sends SIGHUP and says whether kpopd takes what it reads then.
func (s *server) reloads(t *testing.T) (well bool) {
	t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	select {
	case well = <-s.reloaded:
	case <-time.After(patience):
		t.Fatal("kpopd does not reload")
	}
	return well
}

// said is the log so far.
func (s *server) said() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

// line waits for a line of the log that holds words, as a line is written some
// time after the client has its answer.
func (s *server) line(t *testing.T, words string) string {
	t.Helper()
	late := time.After(patience)
	for {
		s.mu.Lock()
		log, more := s.log.String(), s.more
		s.mu.Unlock()
		for line := range strings.Lines(log) {
			if strings.Contains(line, words) {
				return line
			}
		}
		select {
		case <-more:
		case <-late:
			t.Fatalf("the log has no line with %q", words)
		}
	}
}

// door is the address of a listener.
func (s *server) door(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.doors[name]
}

func (s *server) write(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// deliver fills the maildrop of a user.
func (s *server) deliver(t testing.TB, user string, ms []message) {
	t.Helper()
	deliver(t, filepath.Join(s.dir, "mail"), user, ms)
}

// left are the files of a user's messages.
func (s *server) left(t *testing.T, user string) []string {
	t.Helper()
	fresh, err := filepath.Glob(filepath.Join(s.dir, "mail", user, "new", "*"))
	if err != nil {
		t.Fatal(err)
	}
	seen, err := filepath.Glob(filepath.Join(s.dir, "mail", user, "cur", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return slices.Concat(fresh, seen)
}

// session prepares a run of a client against a door.
func (s *server) session(t *testing.T, door string, onTicket func([]byte)) *session {
	t.Helper()
	home := t.TempDir()
	return &session{
		t: t, tap: newTap(t, s.door(door), onTicket), home: home, ca: filepath.Join(s.dir, "ca.pem"),
		env: []string{
			"HOME=" + home, "PATH=" + os.Getenv("PATH"),
			"LC_ALL=C", "TERM=xterm", "TMPDIR=" + home, "MAILDIR=" + home,
		},
	}
}

// certify gives the server a certificate for localhost.
func (s *server) certify(t testing.TB) {
	t.Helper()
	ca, err := certs.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := ca.Issue("localhost")
	if err != nil {
		t.Fatal(err)
	}
	s.authority = ca
	s.write(t, "ca.pem", string(ca.PEM()))
	s.write(t, "clients.pem", string(ca.PEM()))
	s.revoke(t)
	s.write(t, "cert.pem", string(cert))
	s.write(t, "key.pem", string(key))
}

// The users: alice and bob have passwords, carol has secrets for APOP and
// CRAM-MD5 and no password (RFC 1939 section 7), dave has keys for SCRAM, of
// 50,000 iterations. The password is "pw-" and the name.
const (
	users = `alice:$6$peers$iTzhmhYKi.JotJSaSdGxCPIjbgbL8At.CXJMQFfJdnSZ2OmY0EBbF4InRaGYPeBbmW1zIzjMkbpKG2inHEZVD/
bob:$6$peers$szi0BcOPMau1wu3BWs89y9/HHrBuUwB0/eLACk221wQmTFHbvKzpTc93290GQnCg4lS0AvOwoS.vSmrAcXPsT.
carol:*
dave:*
`
	digests = `carol:APOP:pw-carol
carol:CRAM-MD5:pw-carol
dave:SCRAM-SHA-256:SCRAM-SHA-256$50000:YHNwa1uuEkhELmoVoUqp3g==$UdlPSIM+aMx+CM4dZRgfjPJ+jnGve2OTf/6U/qv5bsQ=:AUamxO55sbhNznVlkBxJWlsUt48JNQ3BztUTZ9rz1bI=
dave:SCRAM-SHA-1:SCRAM-SHA-1$50000:+2LmnLzcOAlW8ceB2baxIQ==$uP6qFM4sv7wtqxduSjDcZwEz6N4=:lyQd9IPq4Y+lsx8VVNPlUxiU438=
`
)
