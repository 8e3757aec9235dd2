package app

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/emersion/go-sasl"

	"github.com/kpopd/kpopd/authn/ldap/ldaptest"
	"github.com/kpopd/kpopd/authn/oidc/oidctest"
	"github.com/kpopd/kpopd/cmd/internal/certs"
	"github.com/kpopd/kpopd/krb5test"
	"github.com/kpopd/kpopd/pop3/client"
)

// Where it is proven that an outage is never told as a wrong password:
//
//	directory: one hangs, both hang, killed in mid-login    TestDirectoryOutage, TestOutageInMidLogin
//	directory: its certificate is not that of our authority TestOutageOfTrust
//	directory: mail programs                                peers.TestDirectoryClients
//	KDC: hangs, killed in mid-login, gone                   TestOutageInMidLogin, peers.TestKDCOutage
//	KDC: another key than the keytab's                      TestKrb5pw, peers.TestKDCOutage
//	KDC: expired and locked users are refused all the same  TestKrb5pw, krb5pw's with MIT's
//	checkpassword: hangs, killed in mid-login, cannot judge TestOutageInMidLogin, TestCheckpassword
//	key set and introspection: hang, closed, 500, garbage   TestOutageOfIssuer, TestRule147IssuerIsDown
//	helper: away, started anew                              TestHelper, peers.TestDivided
//	helper: hangs, killed in mid-login                      peers.TestHungHelper, remote.TestHelperDiesInMidLogin
//	users file: broken or gone at a reload                  TestReloadReadsUsers, TestOutageOfUsersFile
//	revocation list out of date                             TestExternalReload

// late is when a login in an outage has taken longer than any deadline below
// explains, on the busiest machine.
const late = time.Minute

// ways are how a password is shown: what is said before it, and with it.
var ways = []struct {
	name string
	says func(user, password string) (before, with string)
}{
	{"USER and PASS", func(user, password string) (string, string) { return "USER " + user, "PASS " + password }},
	{"AUTH PLAIN", func(user, password string) (string, string) {
		return "NOOP", "AUTH PLAIN " + base64.StdEncoding.EncodeToString([]byte("\x00"+user+"\x00"+password))
	}},
}

// judged is a server that leaves the judgement to something that can fail.
type judged struct {
	*Server
	log            *syncBuffer
	user, password string
	step           string
	hang           func() error
	kill           func() error // while it hangs and a login waits for it
	back           func() error
}

// begin shows the password and waits for nothing.
func (j *judged) begin(t *testing.T, way int) *client.Client {
	t.Helper()
	c := dial(t, j.Server)
	before, with := ways[way].says(j.user, j.password)
	if _, err := c.Cmd(t.Context(), before); err != nil && before != "NOOP" { // which is refused before a login
		t.Fatal(err)
	}
	if err := c.Send(t.Context(), with); err != nil {
		t.Fatal(err)
	}
	return c
}

// login is one to its end, in time.
func (j *judged) login(t *testing.T, c *client.Client) (result string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), late)
	defer cancel()
	_, err := c.Reply(ctx)
	if result = code(t, err); result == "OK" {
		if err := c.Quit(ctx); err != nil {
			t.Fatal(err)
		}
	}
	return result
}

// works waits until logins work, each way: what is started may need a moment.
func (j *judged) works(t *testing.T, when string) {
	t.Helper()
	for i, way := range ways {
		for end := time.Now().Add(late); ; {
			got := j.login(t, j.begin(t, i))
			if got == "OK" {
				break
			}
			if got != "SYS/TEMP" || time.Now().After(end) {
				t.Fatalf("%s, %s: got %s", when, way.name, got)
			}
		}
	}
}

// fails wants an outage, each way.
func (j *judged) fails(t *testing.T, when string) {
	t.Helper()
	for i, way := range ways {
		if got := j.login(t, j.begin(t, i)); got != "SYS/TEMP" {
			t.Errorf("%s, %s: got %s", when, way.name, got)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestOutageInMidLogin stops what judges passwords, hung and then dead while a
// login waits for it, and brings it back.
func TestOutageInMidLogin(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(*testing.T) *judged{
		"directory": judgedByDirectory, "KDC": judgedByKDC, "checkpassword": judgedByProgram,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := start(t)
			j.works(t, "well")
			must(t, j.hang())
			j.fails(t, "hung")
			for i, way := range ways {
				c := j.begin(t, i)
				must(t, j.kill())
				if got := j.login(t, c); got != "SYS/TEMP" {
					t.Errorf("killed in mid-login, %s: got %s", way.name, got)
				}
				j.fails(t, "dead")
				must(t, j.back())
				j.works(t, "back")
				must(t, j.hang())
			}
			must(t, j.kill())
			j.Shutdown(nil) // and with it the log
			for _, want := range []string{`kind=unavailable .* err="chain: unavailable: ` + j.step + ": unavailable: ", "kind=accepted .* step=" + j.step} {
				if !matches(j.log.String(), want) {
					t.Errorf("the log has no %s:\n%s", want, j.log)
				}
			}
			if strings.Contains(j.log.String(), "kind=rejected") || strings.Contains(j.log.String(), j.password) {
				t.Errorf("the log tells of a wrong password, or shows one:\n%s", j.log)
			}
		})
	}
}

func amend(t *testing.T, path string, oldnew ...string) {
	t.Helper()
	text, err := os.ReadFile(path)
	must(t, err)
	must(t, os.WriteFile(path, []byte(strings.NewReplacer(oldnew...).Replace(string(text))), 0o600))
}

func judgedByDirectory(t *testing.T) *judged {
	d, path := directory(t)
	amend(t, path, "    timeout: 10s\n", "    timeout: 2s\n")
	each := func(f func(*ldaptest.Server) error) func() error {
		return func() error { return errors.Join(f(d.Servers[0]), f(d.Servers[1])) }
	}
	j := &judged{
		user: "user00", password: "pw-user00", step: "corp",
		hang: each((*ldaptest.Server).Hang), kill: each((*ldaptest.Server).Kill),
		back: each(func(s *ldaptest.Server) error { return s.Start(t.Context()) }),
	}
	j.Server, j.log = serve(t, path)
	return j
}

func judgedByKDC(t *testing.T) *judged {
	krb5test.Need(t, "krb5kdc", "kdb5_util", "kadmin.local")
	ctx, cancel := context.WithTimeout(t.Context(), late)
	defer cancel()
	m, err := krb5test.StartMIT(ctx, t.TempDir())
	must(t, err)
	t.Cleanup(func() { must(t, m.Stop()) })
	path := passwordFolder(t, fmt.Sprintf("type: krb5pw, realm: EXAMPLE.TEST, service: pop/localhost, kdcs: [%q]", m.Addr()),
		fmt.Sprintf("kerberos: {keytab: %q, replay_cache: memory, keytab_reload: 0s}\n", m.Keytab()))
	amend(t, path, "timeout: 5s", "timeout: 2s", "offers: [USER]", "offers: [USER, PLAIN]", "maildrops:", "limits: {failures: 100}\nmaildrops:")
	j := &judged{
		user: "alice", password: "pw-alice", step: "door",
		hang: m.Suspend, kill: m.Stop, back: func() error { return m.Serve(t.Context()) },
	}
	j.Server, j.log = serve(t, path)
	return j
}

// program does what the file "state" says, if there is one.
const program = `[ -e "$1/state" ] && . "$1/state"; set -f; cd "$1"; set -- $(tr '\000' '\n' <&3); [ "$1:$2" = alice:pw-alice ] || exit 1`

func judgedByProgram(t *testing.T) *judged {
	dir := t.TempDir()
	path := passwordFolder(t, fmt.Sprintf("type: checkpassword, program: /bin/sh, args: [-c, %q, sh, %q]", program, dir), "")
	amend(t, path, "timeout: 5s", "timeout: 2s", "offers: [USER]", "offers: [USER, PLAIN]", "maildrops:", "limits: {failures: 100}\nmaildrops:")
	state, pid := filepath.Join(dir, "state"), filepath.Join(dir, "pid")
	j := &judged{
		user: "alice", password: "pw-alice", step: "door",
		back: func() error { return os.Remove(state) },
	}
	j.hang = func() error {
		return os.WriteFile(state, fmt.Appendf(nil, "echo $$ >%q.new; mv %q.new %q; kill -STOP $$", pid, pid, pid), 0o600)
	}
	j.kill = func() error {
		err := os.WriteFile(state+".new", []byte("kill -KILL $$"), 0o600)
		return errors.Join(err, os.Rename(state+".new", state), killProgram(pid))
	}
	j.Server, j.log = serve(t, path)
	return j
}

// killProgram kills the program that wrote its number last, if it is there yet.
func killProgram(path string) error {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || n < 2 {
		return fmt.Errorf("no process: %q", text)
	}
	if err := syscall.Kill(n, syscall.SIGKILL); !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}

// A directory whose certificate is not of our authority is not asked.
func TestOutageOfTrust(t *testing.T) {
	t.Parallel()
	d, path := directory(t)
	alien, err := certs.NewAuthority("another")
	must(t, err)
	other := filepath.Join(filepath.Dir(path), "other.pem")
	must(t, os.WriteFile(other, alien.PEM(), 0o600))
	amend(t, path, d.CA, other)
	s, log := serve(t, path)
	j := &judged{Server: s, log: log, user: "user00", password: "pw-user00"}
	j.fails(t, "alien certificate")
	s.Shutdown(nil)
	if !matches(log.String(), "kind=unavailable .*certificate") {
		t.Errorf("the log does not say why:\n%s", log)
	}
}

// A users file that is gone leaves its old content in force, and a reload says
// that it is.
func TestOutageOfUsersFile(t *testing.T) {
	t.Parallel()
	path := folder(t, strings.Replace(base, "offers: [USER]", "offers: [USER, PLAIN]", 1))
	s, log := serve(t, path)
	j := &judged{Server: s, log: log, user: "alice", password: password}
	j.works(t, "well")
	users := filepath.Join(filepath.Dir(path), "users")
	must(t, os.Rename(users, users+".away"))
	if err := s.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "users") {
		t.Errorf("reload: %v", err)
	}
	j.works(t, "without its file")
	must(t, os.Rename(users+".away", users))
	must(t, s.Reload(t.Context()))
	j.works(t, "with it")
}

// TestOutageOfIssuer has the issuer fail in each way that a web server can, for
// its keys and for questions about a token.
func TestOutageOfIssuer(t *testing.T) {
	t.Parallel()
	faults := map[string]http.HandlerFunc{
		"hung":    nil, // below,
		"closed":  func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"500":     func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"garbage": func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("<html>")) },
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := startTokens(t)
			release := make(chan struct{})
			if fault == nil {
				fault = func(http.ResponseWriter, *http.Request) { <-release }
			}
			amend(t, c.path, "{use: sso}, {use: asked}", "{use: sso, timeout: 2s}, {use: asked, timeout: 2s}")
			must(t, c.Reload(t.Context()))
			c.issuer.Know("opaque", oidctest.Claims(c.issuer.URL, nil))
			c.issuer.Fail(fault)
			for what, m := range map[string]sasl.Client{"keys": bearer("alice", c.token(0)), "introspection": &legacy{login: "alice", token: "opaque"}} {
				if got := code(t, c.login(t, m)); got != "SYS/TEMP" {
					t.Errorf("%s: got %s", what, got)
				}
			}
			c.issuer.Fail(nil)
			close(release)
			// a busy machine may need longer than an answer may
			back := func(what string, m func() sasl.Client) {
				t.Helper()
				for end := time.Now().Add(late); ; {
					got := code(t, c.login(t, m()))
					if got == "OK" {
						return
					}
					if got != "SYS/TEMP" || time.Now().After(end) {
						t.Fatalf("%s is back: got %s", what, got)
					}
				}
			}
			back("introspection", func() sasl.Client { return &legacy{login: "alice", token: "opaque"} })
			must(t, c.Reload(t.Context())) // or ten seconds later
			back("key set", func() sasl.Client { return bearer("alice", c.token(0)) })
			c.Shutdown(nil)
			for _, step := range []string{"sso", "asked"} {
				if !matches(c.log.String(), "kind=unavailable .* err=.*"+step) {
					t.Errorf("the log does not name step %s:\n%s", step, c.log)
				}
			}
		})
	}
}
