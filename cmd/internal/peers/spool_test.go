package peers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kpopd/kpopd/krb5test"
	pop "github.com/kpopd/kpopd/pop3/client"
)

// spool is a directory with alice's spool file, kpopd that serves it, and the other
// programs that write to it, all but Postfix's master under one uid.
type spool struct {
	*server
	uid *syscall.Credential
	bin string
}

const sharedConfiguration = `
listeners:
  - {name: bare, address: "127.0.0.1:0", policy: trusted}
policies:
  - {name: trusted, offers: [USER], plain: trusted, trusted: [127.0.0.0/8], chain: all}
chains:
  - {name: all, steps: [{use: local}]}
verifiers:
  - {name: local, type: file, users: users}
maildrops: {type: mbox, root: mail, state: state, lock_wait: 1m}
throttle: {off: true} # one session after the other
log: {level: debug}
`

// newSpool makes the directory and starts kpopd.
func newSpool(t *testing.T) *spool {
	t.Helper()
	if os.Geteuid() != 0 {
		krb5test.Missing(t, "root, to run delivery agents as the owner of a spool file")
	}
	mail, err := user.Lookup("mail") // procmail and maildrop want a user who exists
	if err != nil {
		krb5test.Missing(t, err.Error())
	}
	uid, err := strconv.Atoi(mail.Uid)
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.MkdirTemp("", "spool") // short enough for the names of Postfix's sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	built, err := command()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(built)
	if err != nil {
		t.Fatal(err)
	}
	s := &spool{newServer(root), &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}, filepath.Join(root, "kpopd")}
	if err := errors.Join(os.Chmod(root, 0o755), install(s.bin, program), os.Mkdir(s.path("mail"), 0o700), os.Mkdir(s.path("state"), 0o700)); err != nil {
		t.Fatal(err)
	}
	s.write(t, "users", users)
	s.write(t, "kpopd.yaml", sharedConfiguration)
	s.write(t, "mail/alice", "")
	s.write(t, "procmailrc", "LOCKSLEEP=1\n:0:\n"+s.path("mail/alice")+"\n")
	s.write(t, "maildroprc", "LOCKSLEEP=1\nto \""+s.path("mail/alice")+"\"\n")
	s.write(t, "dovecot.conf", strings.ReplaceAll(`mail_location = mbox:ROOT/folders:INBOX=ROOT/mail/alice:INDEX=MEMORY
mbox_read_locks = fcntl
mbox_write_locks = dotlock fcntl
first_valid_uid = 1
mail_uid = UID
mail_gid = UID
base_dir = ROOT/run
`, "ROOT", root))
	text, err := os.ReadFile(s.path("dovecot.conf"))
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, "dovecot.conf", strings.ReplaceAll(string(text), "UID", mail.Uid))
	own(t, root, uid)
	s.launch(t, s.bin, "serve", s.uid)
	return s
}

func (s *spool) path(name string) string { return filepath.Join(s.dir, name) }

// as prepares a program under the uid of the spool file.
func (s *spool) as(ctx context.Context, argv ...string) *exec.Cmd {
	cmd := group(ctx, argv...)
	cmd.SysProcAttr.Credential = s.uid
	cmd.Dir = s.dir
	cmd.Env = []string{"HOME=" + s.dir, "USER=mail", "LOGNAME=mail", "PATH=/usr/local/bin:/usr/bin:/bin", "LC_ALL=C"}
	return cmd
}

// run runs a program with a message on its standard input.
func (s *spool) run(t *testing.T, message string, argv ...string) {
	t.Helper()
	cmd := s.as(t.Context(), argv...)
	cmd.Stdin = strings.NewReader(message)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", argv[0], err, out)
	}
}

// movemail has mailutils append a file. It looks at the first octets of the spool
// file before it locks it, and takes it for none while another program rewrites it.
// It gives up a lock after ten seconds, unless told otherwise.
func (s *spool) movemail(t *testing.T, from string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		out, err := s.as(ctx, "movemail", "--set=locking.retry-count=100", from, "mbox:"+s.path("mail/alice")).CombinedOutput()
		if err == nil {
			return
		}
		if ctx.Err() != nil || !bytes.Contains(out, []byte("could not create mailbox")) {
			t.Errorf("movemail: %v\n%s", err, out)
			return
		}
	}
}

// postfix runs Postfix with a queue of its own, which delivers by virtual(8), until
// the test ends.
func (s *spool) postfix(t *testing.T) {
	t.Helper()
	dir := s.path("postfix")
	files := map[string]string{
		"main.cf": strings.ReplaceAll(strings.ReplaceAll(`compatibility_level = 3.6
queue_directory = ROOT/postfix/queue
data_directory = ROOT/postfix/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
inet_interfaces = loopback-only
myhostname = spool.test
mydestination =
alias_maps =
alias_database =
virtual_mailbox_domains = mbox.test
virtual_mailbox_base = ROOT/mail
virtual_mailbox_maps = static:alice
virtual_minimum_uid = 1
virtual_uid_maps = static:UID
virtual_gid_maps = static:UID
virtual_mailbox_lock = fcntl, dotlock
deliver_lock_delay = 1s
queue_run_delay = 1s
minimal_backoff_time = 1s
maximal_backoff_time = 2s
maillog_file = ROOT/postfix/log
maillog_file_prefixes = ROOT
`, "ROOT", s.dir), "UID", fmt.Sprint(s.uid.Uid)),
		"master.cf": `pickup unix n - n 1 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 2 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
error unix - - n - - error
virtual unix - n n - - virtual
postlog unix-dgram n - n - 1 postlogd
`,
	}
	owner, err := user.Lookup("postfix")
	if err != nil {
		t.Fatal(err)
	}
	uid, err := strconv.Atoi(owner.Uid)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Mkdir(dir, 0o755), os.Mkdir(dir+"/queue", 0o755), os.Mkdir(dir+"/data", 0o755), os.Chown(dir+"/data", uid, -1)); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := group(t.Context(), "postfix", "-c", dir, "check").CombinedOutput(); err != nil {
		t.Fatalf("postfix check: %v\n%s", err, out)
	}
	// it makes a session of its own, which a leader of a group cannot
	master := exec.Command("/usr/lib/postfix/sbin/master", "-c", dir)
	if err := master.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		master.Process.Signal(syscall.SIGTERM) // its children too
		_ = master.Wait()                      // by the signal
		if t.Failed() {
			log, _ := os.ReadFile(dir + "/log")
			t.Logf("Postfix said:\n%.20000s", log)
		}
	})
}

// mailOf is a message that can be told apart.
func mailOf(id string, more string) string {
	return fmt.Sprintf("Message-ID: <%s@example.test>\nSubject: %s\n%s\n%s", id, id, more, bodyOf(id))
}

func bodyOf(id string) string {
	return strings.Repeat("a line of "+id+"\n\n", 1+len(id)*7%5) + "the end of " + id + "\n"
}

// ledger is what became of the messages.
type ledger struct {
	uids    map[string]string // unique-ids by Message-ID
	ids     map[string]string // and the other way round
	removed map[string]bool
}

// session logs in, reads all, and removes two of three, or all. It says how many
// messages were listed.
func (l *ledger) session(t *testing.T, address string, all bool) (listed int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c, err := pop.New(ctx, conn, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.UserPass(ctx, "alice", "pw-alice"); err != nil {
		t.Fatal(err)
	}
	uids, err := c.UIDL(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var marked []string
	for i, u := range uids {
		id, ok, err := l.read(t, ctx, c, i+1)
		if errors.Is(err, io.ErrUnexpectedEOF) { // Dovecot moved it while it was sent: without QUIT nothing is removed
			t.Logf("message %d broke off", i+1)
			return len(uids)
		}
		if err != nil {
			t.Fatalf("RETR %d: %v", i+1, err)
		}
		if !ok { // expunged by Dovecot, or moved while it was read
			continue
		}
		if old, known := l.uids[id]; known && old != u.UID {
			t.Errorf("the unique-id of %s was %s and is %s", id, old, u.UID)
		}
		if other, known := l.ids[u.UID]; known && other != id {
			t.Errorf("%s is the unique-id of %s and of %s", u.UID, other, id)
		}
		if l.removed[id] {
			t.Errorf("%s is back", id)
		}
		l.uids[id], l.ids[u.UID] = u.UID, id
		if all || i%3 != 1 {
			if err := c.Dele(ctx, i+1); err != nil {
				t.Fatal(err)
			}
			marked = append(marked, id)
		}
	}
	if err := c.Quit(ctx); err != nil {
		t.Errorf("QUIT: %v", err)
		return len(uids)
	}
	for _, id := range marked {
		l.removed[id] = true
	}
	return len(uids)
}

// read fetches a message and makes sure that it is whole.
func (l *ledger) read(t *testing.T, ctx context.Context, c *pop.Client, n int) (id string, ok bool, err error) {
	t.Helper()
	size, err := c.Size(ctx, n)
	if err != nil {
		t.Fatal(err)
	}
	body, err := c.Retr(ctx, n)
	var b []byte
	if err == nil {
		b, err = io.ReadAll(body)
	}
	if refused := (*pop.ServerError)(nil); errors.As(err, &refused) {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	text := strings.ReplaceAll(string(b), "\r\n", "\n")
	if got := int64(len(text) + strings.Count(text, "\n")); got != size {
		t.Errorf("message %d: %d octets came, %d were listed", n, got, size)
	}
	_, after, _ := strings.Cut(text, "Message-ID: <")
	id, _, _ = strings.Cut(after, "@")
	if header, stored, found := strings.Cut(text, "\n\n"); !found || strings.TrimRight(stored, "\n") != strings.TrimRight(bodyOf(id), "\n") ||
		strings.Contains("\n"+header, "\nX-UID:") || strings.Contains("\n"+header, "\nStatus:") {
		t.Errorf("message %d, %s, came as\n%s", n, id, text)
	}
	return id, true, nil
}

// TestSpoolFileOfMany: procmail, maildrop, mailutils' movemail and Postfix deliver to
// a spool file, Dovecot marks its messages as read and expunges some, and sessions
// read and remove, all at once. Every message is seen whole, under one unique-id, and
// none is lost, doubled or resurrected.
func TestSpoolFileOfMany(t *testing.T) {
	t.Parallel()
	krb5test.Need(t, "procmail", "maildrop", "movemail", "postfix", "sendmail", "doveadm")
	s := newSpool(t)
	s.postfix(t)
	const each = 8
	var agents sync.WaitGroup
	came := make(chan struct{}, 100) // a message; holds them all
	want := []string{}
	agent := func(name string, deliver func(id string, i int)) {
		for i := range each {
			want = append(want, fmt.Sprintf("%s-%d", name, i))
		}
		agents.Go(func() { // ends with its last message
			for i := range each {
				deliver(fmt.Sprintf("%s-%d", name, i), i)
				came <- struct{}{}
			}
		})
	}
	agent("procmail", func(id string, i int) {
		s.run(t, mailOf(id, ""), "procmail", "-f", "a@example.test", s.path("procmailrc"))
		s.run(t, mailOf("expunged-"+id, "X-Expunge: yes\n"), "procmail", "-f", "a@example.test", s.path("procmailrc"))
	})
	agent("maildrop", func(id string, i int) {
		s.run(t, mailOf(id, ""), "maildrop", s.path("maildroprc"))
	})
	agent("movemail", func(id string, i int) {
		// own file, which movemail empties
		from := s.path(fmt.Sprintf("from-%d", i))
		text := "From b@example.test Tue Nov 14 22:13:20 2023\n" + mailOf(id, "") + "\n"
		if err := errors.Join(os.WriteFile(from, []byte(text), 0o600), os.Chown(from, int(s.uid.Uid), int(s.uid.Gid))); err != nil {
			t.Error(err)
		}
		s.movemail(t, from)
	})
	agent("postfix", func(id string, i int) {
		cmd := group(t.Context(), "sendmail", "-C", s.path("postfix"), "-f", "c@example.test", "alice@mbox.test")
		cmd.Stdin = strings.NewReader(mailOf(id, ""))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("sendmail: %v\n%s", err, out)
		}
	})
	agents.Go(func() {
		for range each {
			s.run(t, "", "doveadm", "-c", s.path("dovecot.conf"), "flags", "add", `\Seen`, "mailbox", "INBOX", "all")
			s.run(t, "", "doveadm", "-c", s.path("dovecot.conf"), "expunge", "mailbox", "INBOX", "header", "X-Expunge", "yes")
		}
	})
	done := make(chan struct{})
	go func() { agents.Wait(); close(done) }()

	l := &ledger{uids: map[string]string{}, ids: map[string]string{}, removed: map[string]bool{}}
	var missing []string
	sessions, late := 0, time.After(3*patience)
	for last := false; ; sessions++ {
		listed := l.session(t, s.door("bare"), last)
		missing = nil
		for _, id := range want {
			if !l.removed[id] {
				missing = append(missing, id)
			}
		}
		if t.Failed() || last && len(missing) == 0 && listed == 0 {
			break
		}
		select {
		case <-came:
		case <-done: // but for what Postfix has in its queue
			last = true
		case <-late:
			t.Fatalf("missing: %q", missing)
		}
	}
	// Dovecot puts its pseudo message into a file that an expunge would leave empty
	text, err := os.ReadFile(s.path("mail/alice"))
	if pseudo := bytes.HasPrefix(text, []byte("From MAILER_DAEMON ")) && bytes.Count(text, []byte("\nFrom ")) == 0; err != nil || len(text) > 0 && !pseudo && !t.Failed() {
		t.Errorf("the file holds %q, %v", text, err)
	}
	t.Logf("%d messages in %d sessions", len(want), sessions)
}
