package peers

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kpopd/kpopd/krb5test"
)

// mailUID owns the mail that Dovecot serves: it serves none of root's.
const mailUID = 60103

// spoolConfiguration has a master user, for both ways of naming the user.
const spoolConfiguration = `
protocols = pop3
base_dir = DIR/run
state_dir = DIR/state
instance_name = kpopd-test
log_path = DIR/dovecot.log
login_greeting = GREETING
mail_uid = UID
mail_gid = UID
first_valid_uid = UID
first_valid_gid = UID
mail_location = maildir:DIR/mail/%u
auth_mechanisms = plain login
auth_master_user_separator = *
passdb {
  driver = passwd-file
  args = scheme=PLAIN DIR/masters
  master = yes
}
passdb {
  driver = passwd-file
  args = scheme=PLAIN DIR/passwd
}
userdb {
  driver = static
  args = uid=UID gid=UID home=DIR/mail/%u allow_all_users=yes
}
ssl = yes
ssl_cert = <DIR/cert.pem
ssl_key = <DIR/key.pem
namespace inbox {
  inbox = yes
}
service pop3-login {
  inet_listener pop3 {
    address = ADDRESS
    port = 110
  }
  inet_listener pop3s {
    address = ADDRESS
    port = 995
    ssl = yes
  }
}
`

// startSpoolDovecot serves the mail of s until the test ends, at ports 110 and 995 of
// an address of its own.
func startSpoolDovecot(t *testing.T, s *server, more string) (address string) {
	t.Helper()
	bin := krb5test.Need(t, "dovecot")[0]
	// loopback is a network of 16 million addresses
	address = fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
	greeting := "kpopd-test-" + strconv.FormatUint(rand.Uint64(), 36)
	s.write(t, "passwd", "alice:pw-alice\nbob:pw-bob\n")
	s.write(t, "masters", "root:pw-root\n")
	s.write(t, "dovecot.conf", strings.NewReplacer("DIR", s.dir, "ADDRESS", address, "GREETING", greeting, "UID", strconv.Itoa(mailUID)).
		Replace(spoolConfiguration)+more)
	for _, name := range []string{"passwd", "masters"} { // its auth process is not root
		if err := os.Chmod(filepath.Join(s.dir, name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := group(context.Background(), bin, "-F", "-c", filepath.Join(s.dir, "dovecot.conf")) // ended by SIGTERM
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }() // ended by the signal
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(patience):
			t.Error("dovecot does not end")
			_ = cmd.Cancel()
			<-ended
		}
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(s.dir, "dovecot.log"))
			t.Logf("dovecot said:\n%.8000s%.8000s", said.String(), log)
		}
	})
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(patience); !greets(net.JoinHostPort(address, "110"), greeting); {
		select {
		case <-tick.C:
		case <-ended:
			t.Fatal("dovecot does not start")
		case <-late:
			t.Fatal("dovecot is not ready in time")
		}
	}
	return address
}

func greets(address, greeting string) bool {
	c, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return false
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	line, err := bufio.NewReader(c).ReadString('\n')
	return err == nil && strings.Contains(line, greeting)
}

// controller builds kpopctl, once for all tests.
var controller = sync.OnceValues(func() (string, error) {
	bin := filepath.Join(scratch, "kpopctl")
	out, err := exec.Command("go", "build", "-race="+strconv.FormatBool(race), "-o", bin, "github.com/kpopd/kpopd/cmd/kpopctl").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build kpopctl: %w\n%s", err, out)
	}
	return bin, nil
})

// counts are the totals of kpopctl uidl diff --json.
type counts struct {
	Maildrops, Equal, Failed       int
	Before, After, Same, Moved     int
	Renamed, Missing, New, Resized int
	Again, Fetch                   int
	AgainOctets                    int64 `json:"again_octets"`
	FetchOctets                    int64 `json:"fetch_octets"`
}

// moving is a site that changes servers: one Maildir root, two servers.
type moving struct {
	*server
	dovecot, kpopd string // host:port of POP3S
}

// startMoving has mail for alice and bob, owned as Dovecot wants it.
func startMoving(t *testing.T, more string, alices, bobs []message) *moving {
	t.Helper()
	krb5test.Need(t, "dovecot")
	if os.Geteuid() != 0 {
		krb5test.Missing(t, "root, to run Dovecot under uids of its own")
	}
	bin, err := command()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "moving") // short enough for the name of a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := newServer(dir)
	if err := errors.Join(os.Chmod(dir, 0o755), os.Mkdir(filepath.Join(dir, "mail"), 0o755)); err != nil {
		t.Fatal(err)
	}
	s.certify(t)
	s.write(t, "users", users)
	s.write(t, "kpopd.yaml", movedConfiguration)
	s.write(t, "logins", "alice:pw-alice\nbob:pw-bob\n")
	s.write(t, "master", "root:pw-root\n")
	s.deliver(t, "alice", alices)
	s.deliver(t, "bob", bobs)
	own(t, filepath.Join(dir, "mail"), mailUID)
	m := &moving{server: s}
	m.dovecot = net.JoinHostPort(startSpoolDovecot(t, s, more), "995")
	s.launch(t, bin, "serve", nil)
	m.kpopd = s.door("pop3s")
	return m
}

// movedConfiguration serves the Maildirs that Dovecot serves.
const movedConfiguration = `
listeners:
  - {name: pop3s, address: "127.0.0.1:0", tls: implicit, policy: all}
certificates:
  - {name: localhost, cert: cert.pem, key: key.pem}
policies:
  - {name: all, offers: [PLAIN, USER], chain: all}
chains:
  - {name: all, steps: [{use: local}]}
verifiers:
  - {name: local, type: file, users: users}
pop3: {hostname: localhost}
maildrops: {root: mail}
`

// ctl runs kpopctl, which must end with status, and gives what it wrote.
func (m *moving) ctl(t *testing.T, status int, args ...string) []byte {
	t.Helper()
	bin, err := controller()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := group(ctx, append([]string{bin}, args...)...)
	cmd.Dir = m.dir
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if got := cmd.ProcessState.ExitCode(); got != status {
		t.Fatalf("kpopctl %q: status %d, %v\n%s%.2000s", args, got, err, errs.String(), out)
	}
	return out
}

func (m *moving) snapshot(t *testing.T, name, address string, args ...string) {
	t.Helper()
	m.ctl(t, 0, append([]string{"uidl", "snapshot", address, "--tls", "implicit", "--server-name", "localhost", "--ca", "ca.pem", "--output", name}, args...)...)
}

// diff compares two snapshots, which are the same or not.
func (m *moving) diff(t *testing.T, before, after string, same bool) counts {
	t.Helper()
	status := 1
	if same {
		status = 0
	}
	var last string
	for line := range strings.Lines(string(m.ctl(t, status, "uidl", "diff", before, after, "--json"))) {
		last = line
	}
	var total struct{ Total counts }
	if err := json.Unmarshal([]byte(last), &total); err != nil {
		t.Fatal(err)
	}
	return total.Total
}

// The same Maildirs, served by Dovecot and by kpopd: with Dovecot's unique-ids of
// its own everything would be fetched again, and kpopctl says so, in both
// directions; with those that are file names nothing would. Dovecot does not
// count the line end that it adds to a message without one.
func TestMoveBetweenDovecotAndKpopd(t *testing.T) {
	t.Parallel()
	var whole, torn []message
	for _, m := range carried(anyLine) {
		if strings.HasSuffix(m.text, "\n") {
			whole = append(whole, m)
		} else {
			torn = append(torn, m)
		}
	}
	sum := octets(whole) + octets(whole[:3])
	const names = "pop3_uidl_format = %f\n"
	for _, tt := range []struct {
		name, format string
		alices, bobs []message
		want         counts // but for Before and After, which are all
	}{
		{"Dovecot's own", "", whole, whole[:3], counts{
			Renamed: len(whole) + 3, Again: len(whole) + 3, AgainOctets: sum, Fetch: len(whole) + 3, FetchOctets: sum,
		}},
		{"file names", names, whole, whole[:3], counts{Equal: 2, Same: len(whole) + 3}},
		{"no last line end", names, whole, torn, counts{Equal: 1, Same: len(whole) + len(torn), Resized: len(torn)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := startMoving(t, tt.format, tt.alices, tt.bobs)
			m.snapshot(t, "dovecot", m.dovecot, "--users", "logins")
			m.snapshot(t, "kpopd", m.kpopd, "--users", "logins")
			m.snapshot(t, "separator", m.dovecot, "--users", "logins", "--master", "master", "--separator", "*")
			m.snapshot(t, "plain", m.dovecot, "--users", "logins", "--master", "master")
			n := len(tt.alices) + len(tt.bobs)
			for _, other := range []string{"separator", "plain"} {
				if d := cmp.Diff(counts{Maildrops: 2, Equal: 2, Before: n, After: n, Same: n}, m.diff(t, "dovecot", other, true)); d != "" {
					t.Error("as master:", d)
				}
			}
			tt.want.Maildrops, tt.want.Before, tt.want.After = 2, n, n
			for _, way := range [][2]string{{"dovecot", "kpopd"}, {"kpopd", "dovecot"}} {
				if d := cmp.Diff(tt.want, m.diff(t, way[0], way[1], tt.want.Equal == 2)); d != "" {
					t.Errorf("from %s to %s: %s", way[0], way[1], d)
				}
			}
		})
	}
}

// octets are those of ms on the wire.
func octets(ms []message) (n int64) {
	for _, m := range ms {
		n += int64(len(m.wire()))
	}
	return n
}
