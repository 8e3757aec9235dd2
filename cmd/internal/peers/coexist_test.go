package peers

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/krb5test"
	pop3 "github.com/kpopd/kpopd/pop3/client"
)

// coexistScale is the environment variable that makes TestCoexistence so many
// times as long.
const coexistScale = "KPOPD_COEXIST"

// What becomes of a message is up to its number, modulo the number of fates:
// each is removed by one program, if at all.
const (
	kept    = iota // gets flags by IMAP
	erased         // is expunged by IMAP
	moved          // is moved to another folder by IMAP
	taken          // is removed by a session of kpopd
	fetched        // is removed by a session of Dovecot's POP3
	fates
)

// shared is a maildrop that kpopd, Dovecot and three delivery agents work on,
// and the ledger of it.
type shared struct {
	t      *testing.T
	server *server
	dir    string // holds all but kpopd's files, for the eyes of another uid
	uid    *syscall.Credential

	mu        sync.Mutex // guards what follows
	started   map[int]bool
	delivered map[int]bool
	tried     map[int]bool // its program may have removed it
	gone      map[int]bool // its program was told that it is removed
	views     map[string]*view
	over      bool
}

// view is what a server has shown: unique-ids and their messages.
type view struct {
	ids     map[int]string
	numbers map[string]int
}

// kpopd, Dovecot's IMAP and POP3 and the agents of three projects work on one
// Maildir, all at once: no message is lost, doubled or brought back, and none
// changes its unique-id.
func TestCoexistence(t *testing.T) {
	t.Parallel()
	krb5test.Need(t, "dovecot-lda", "imap", "pop3", "procmail", "maildrop")
	s := newShared(t)
	var agents, others sync.WaitGroup
	messages := 20 // by each agent
	if scale, err := strconv.Atoi(os.Getenv(coexistScale)); err == nil {
		messages *= scale
	}
	for i, agent := range [][]string{
		{"dovecot-lda", "-c", s.dir + "/dovecot.conf"},
		{"procmail", "-p", "-m", "DEFAULT=" + s.maildir() + "/", "ORGMAIL=" + s.maildir() + "/", "/dev/null"},
		{"maildrop", s.dir + "/filter"},
	} {
		agents.Go(func() {
			for n := 1 + i; n <= 3*messages && !t.Failed(); n += 3 {
				s.deliver(n, agent)
			}
		})
	}
	others.Go(s.readIMAP)
	others.Go(func() { s.visitKpopd(rand.New(rand.NewPCG(1, 1))) })
	others.Go(func() { s.visitDovecot(rand.New(rand.NewPCG(2, 1))) })
	agents.Wait()
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	others.Wait()
	s.audit()
}

// To Dovecot, which takes a directory whose name begins with a dot for a folder,
// our files are none, and nothing to complain about.
func TestOurFilesAreNoFolders(t *testing.T) {
	t.Parallel()
	krb5test.Need(t, "dovecot-lda", "imap", "pop3")
	s := newShared(t)
	for n := range 3 {
		s.deliver(n+1, []string{"dovecot-lda", "-c", s.dir + "/dovecot.conf"})
	}
	s.visitOnce(3)
	ours := []string{".kpopd.lock", ".kpopd.index", ".kpopd.index.tmp", ".kpopd.uids", ".kpopd.uids.tmp"}
	for i, name := range ours {
		path := filepath.Join(s.maildir(), name)
		switch _, err := os.Lstat(path); {
		case i < 2 && err != nil: // what a session leaves
			t.Fatal(err)
		case i >= 2:
			if err := os.WriteFile(path, []byte("x\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	cmd := s.command("imap", "-c", s.dir+"/dovecot.conf")
	var said strings.Builder
	cmd.Stderr = &said
	conn, err := s.attach(cmd)
	if err != nil {
		t.Fatal(err)
	}
	m := &mailReader{shared: s, conn: conn, lines: bufio.NewReader(conn)}
	_, err = m.lines.ReadString('\n') // greeting
	var list, status string
	for _, c := range []struct {
		command string
		reply   *string
	}{{`LIST "" "*"`, &list}, {`LSUB "" "*"`, new(string)}, {"STATUS INBOX (MESSAGES)", &status}, {"LOGOUT", new(string)}} {
		if err == nil {
			*c.reply, err = m.ask(c.command)
		}
	}
	conn.Close()
	if err := errors.Join(err, cmd.Wait()); err != nil {
		t.Fatalf("imap: %v\n%s", err, said.String())
	}
	if strings.Contains(list+said.String(), "kpopd.") || strings.Count(list, "* LIST") != 2 ||
		!strings.Contains(list, "Archive") || !strings.Contains(status, "MESSAGES 3") {
		t.Errorf("imap lists %q, %q, and says\n%s", list, status, said.String())
	}
	for _, name := range ours {
		if _, err := os.Lstat(filepath.Join(s.maildir(), name)); err != nil {
			t.Errorf("after Dovecot: %v", err)
		}
	}
}

// visitOnce is a session at kpopd.
func (s *shared) visitOnce(messages int) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	conn, err := s.dial()
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	c, err := pop3.New(ctx, conn, nil)
	if err == nil {
		err = c.UserPass(ctx, "alice", "pw-alice")
	}
	if err != nil {
		s.t.Fatal(err)
	}
	ids, err := c.UIDL(ctx)
	if err := errors.Join(err, c.Quit(ctx)); err != nil || len(ids) != messages {
		s.t.Fatalf("kpopd lists %d messages, %v", len(ids), err)
	}
}

func newShared(t *testing.T) *shared {
	t.Helper()
	// not t.TempDir(), into which no other uid can look
	dir, err := os.MkdirTemp("", "kpopd-shared-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	s := &shared{
		t: t, dir: dir,
		started: map[int]bool{}, delivered: map[int]bool{}, tried: map[int]bool{}, gone: map[int]bool{},
		views: map[string]*view{},
	}
	for _, name := range []string{"kpopd", "dovecot"} {
		s.views[name] = &view{map[int]string{}, map[string]int{}}
	}
	for _, sub := range []string{"new", "cur", "tmp", ".Archive/new", ".Archive/cur", ".Archive/tmp"} {
		if err := os.MkdirAll(filepath.Join(s.maildir(), sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		"dovecot.conf": strings.ReplaceAll(sharedDovecot, "DIR", dir),
		"filter":       `DEFAULT="` + s.maildir() + `/"` + "\n", // maildrop(1) wants it to be its own
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if os.Geteuid() == 0 { // Dovecot serves no mail of root's
		s.uid = &syscall.Credential{Uid: 65534, Gid: 65534}
		own(t, dir, 65534)
	}
	s.server = startWith(t, inProcess.realm(t).keytab, strings.NewReplacer("LAYERS", "none", "{root: mail}", "{root: "+dir+"/mail}", "level: debug", "level: info").Replace(configuration))
	return s
}

// sharedDovecot is for Dovecot's programs without its daemon.
const sharedDovecot = `
base_dir = DIR
log_path = /dev/stderr
mail_location = maildir:DIR/mail/alice
default_internal_user = nobody
default_internal_group = nogroup
default_login_user = nobody
first_valid_uid = 1
stats_writer_socket_path =
ssl = no
protocol lda {
  postmaster_address = postmaster@example.test
}
`

func (s *shared) maildir() string { return filepath.Join(s.dir, "mail", "alice") }

// command is a program of another server, for alice.
func (s *shared) command(argv ...string) *exec.Cmd {
	cmd := group(s.t.Context(), argv...)
	cmd.Args[0] = cmd.Path // Dovecot's programs look for themselves
	cmd.Dir = s.dir
	cmd.Env = []string{"HOME=" + s.dir, "USER=alice", "LOGNAME=alice", "PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
	cmd.SysProcAttr.Credential = s.uid
	return cmd
}

// text is a message; sizes differ.
func (s *shared) text(n int) string {
	return fmt.Sprintf("Subject: message %d\nX-Number: %d\n\n%s", n, n, strings.Repeat(".\nline\n", n%50))
}

var numberLine = regexp.MustCompile(`(?m)^X-Number: (\d+)\r?$`)

func numberIn(text string) (n int) {
	if m := numberLine.FindStringSubmatch(text); m != nil {
		n, _ = strconv.Atoi(m[1])
	}
	return n
}

func (s *shared) deliver(n int, agent []string) {
	s.set(s.started, n)
	cmd := s.command(agent...)
	cmd.Stdin = strings.NewReader(s.text(n))
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Errorf("%s: %v\n%s", agent[0], err, out)
		return
	}
	s.set(s.delivered, n)
}

func (s *shared) set(which map[int]bool, ns ...int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range ns {
		which[n] = true
	}
}

func (s *shared) ended() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.over || s.t.Failed()
}

// visitKpopd holds one session of kpopd after the other, and one after all mail
// is there.
func (s *shared) visitKpopd(r *rand.Rand) {
	for last := false; !last; {
		last = s.ended()
		conn, err := s.dial()
		if err == nil {
			err = s.session("kpopd", conn, r)
		}
		if err != nil {
			s.t.Errorf("kpopd: %v", err)
			return
		}
	}
}

func (s *shared) dial() (net.Conn, error) { return net.Dial("tcp", s.server.door("bare")) }

// intrude tries to hold a second session.
func (s *shared) intrude(ctx context.Context) error {
	conn, err := s.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	c, err := pop3.New(ctx, conn, nil)
	if err != nil {
		return err
	}
	var refusal *pop3.ServerError
	if err := c.UserPass(ctx, "alice", "pw-alice"); !errors.As(err, &refusal) || refusal.Code != "IN-USE" {
		s.t.Errorf("a second session: %v", err)
	}
	return nil
}

// visitDovecot does the same with Dovecot's POP3, which may break off when
// messages vanish.
func (s *shared) visitDovecot(r *rand.Rand) {
	for last := false; !last; {
		last = s.ended()
		cmd := s.command("pop3", "-c", s.dir+"/dovecot.conf")
		conn, err := s.attach(cmd)
		if err != nil {
			s.t.Error(err)
			return
		}
		// the greeting comes from the program before it
		_ = s.session("dovecot", greeted{conn, io.MultiReader(strings.NewReader("+OK\r\n"), conn)}, r)
		conn.Close()
		_ = cmd.Wait() // its session is over, however
	}
}

// greeted is a connection with a beginning put before it.
type greeted struct {
	net.Conn
	r io.Reader
}

func (g greeted) Read(p []byte) (int, error) { return g.r.Read(p) }

// attach starts a program that speaks on a socket.
func (s *shared) attach(cmd *exec.Cmd) (net.Conn, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	defer ours.Close()
	defer theirs.Close()
	cmd.Stdin, cmd.Stdout = theirs, theirs
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, err
	}
	return conn, cmd.Start()
}

// session lists the maildrop, compares that with the ledger, reads what is new
// to it, and removes some of what is its to remove.
func (s *shared) session(name string, conn net.Conn, r *rand.Rand) error {
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	defer conn.Close()
	c, err := pop3.New(ctx, conn, nil)
	if err != nil {
		return err
	}
	before := s.snapshot()
	mine := fetched
	if name == "kpopd" {
		mine = taken
		if err := c.UserPass(ctx, "alice", "pw-alice"); err != nil {
			return err
		}
	}
	ids, err := c.UIDL(ctx)
	if err != nil {
		return err
	}
	if name == "kpopd" && r.IntN(8) == 0 {
		if err := s.intrude(ctx); err != nil {
			return err
		}
	}
	listed := map[int]bool{}
	var mark []int
	for _, id := range ids {
		n, err := s.identify(ctx, c, name, id, r)
		if err != nil {
			return err
		}
		if n == 0 {
			continue // gone already
		}
		if listed[n] {
			s.t.Errorf("%s lists message %d twice", name, n)
		}
		listed[n] = true
		if n%fates == mine && r.IntN(3) == 0 {
			mark = append(mark, n)
			s.set(s.tried, n)
			if err := c.Dele(ctx, id.Number); err != nil {
				return err
			}
		}
	}
	if name == "kpopd" {
		s.compare(before, listed)
	}
	if err := c.Quit(ctx); err != nil {
		return err
	}
	s.set(s.gone, mark...)
	return nil
}

// snapshot is the ledger of now, of messages that are surely there (true) or
// surely gone (false).
func (s *shared) snapshot() map[int]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	sure := map[int]bool{}
	for n := range s.delivered {
		if s.gone[n] {
			sure[n] = false
		} else if n%fates == kept {
			sure[n] = true
		}
	}
	return sure
}

// compare holds a listing against a ledger that is older than it.
func (s *shared) compare(before, listed map[int]bool) {
	for n, there := range before {
		if there && !listed[n] {
			s.t.Errorf("message %d is not listed", n)
		}
		if !there && listed[n] {
			s.t.Errorf("message %d was removed, and is listed", n)
		}
	}
}

// identify finds the number of a message, and reads it when its unique-id is
// new, and now and then. It is 0 for a message that is gone.
func (s *shared) identify(ctx context.Context, c *pop3.Client, name string, id pop3.UniqueID, r *rand.Rand) (n int, err error) {
	s.mu.Lock()
	known := s.views[name].numbers[id.UID]
	s.mu.Unlock()
	if known != 0 && r.IntN(8) != 0 {
		return known, nil
	}
	body, err := c.Retr(ctx, id.Number)
	var refusal *pop3.ServerError
	if errors.As(err, &refusal) && (known == 0 || known%fates != kept) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("message %d, %s: %w", known, id.UID, err)
	}
	text, err := io.ReadAll(body)
	if err != nil {
		return 0, err
	}
	n = numberIn(string(text))
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.views[name]
	switch old, shown := v.ids[n]; {
	case !s.started[n]:
		s.t.Errorf("%s sends a message that nobody delivered: %.200q", name, text)
	case !strings.HasSuffix(strings.ReplaceAll(string(text), "\r\n", "\n"), s.text(n)[strings.Index(s.text(n), "\n\n"):]):
		s.t.Errorf("%s sends message %d as %.200q", name, n, text)
	case shown && old != id.UID:
		s.t.Errorf("%s: message %d has the unique-id %q, had %q", name, n, id.UID, old)
	case known != 0 && known != n:
		s.t.Errorf("%s: unique-id %q is that of message %d, was that of %d", name, id.UID, n, known)
	}
	v.ids[n], v.numbers[id.UID] = id.UID, n
	return n, nil
}

// readIMAP is a mail program: it changes flags, expunges and moves.
func (s *shared) readIMAP() {
	cmd := s.command("imap", "-c", s.dir+"/dovecot.conf")
	var said strings.Builder
	cmd.Stderr = &said
	conn, err := s.attach(cmd)
	if err != nil {
		s.t.Error(err)
		return
	}
	m := &mailReader{shared: s, conn: conn, lines: bufio.NewReader(conn), numbers: map[int]int{}, rand: rand.New(rand.NewPCG(3, 1))}
	err = m.run()
	conn.Close()
	if err := errors.Join(err, cmd.Wait()); err != nil {
		s.t.Errorf("imap: %v\n%s", err, said.String())
	}
}

type mailReader struct {
	*shared
	conn    net.Conn
	lines   *bufio.Reader
	tag     int
	last    int         // greatest UID seen
	numbers map[int]int // of messages that are there, by UID
	rand    *rand.Rand
}

func (m *mailReader) run() error {
	if _, err := m.lines.ReadString('\n'); err != nil { // greeting
		return err
	}
	if _, err := m.ask("SELECT INBOX"); err != nil {
		return err
	}
	for last := false; !last; {
		last = m.ended()
		if err := m.look(); err != nil {
			return err
		}
		for uid, n := range m.numbers {
			if err := m.work(uid, n); err != nil {
				return err
			}
		}
	}
	_, err := m.ask("LOGOUT")
	return err
}

// look learns of new messages.
func (m *mailReader) look() error {
	reply, err := m.ask(fmt.Sprintf("UID FETCH %d:* (UID BODY.PEEK[HEADER.FIELDS (X-Number)])", m.last+1))
	if err != nil {
		return err
	}
	uid := 0
	for line := range strings.Lines(reply) {
		if f := uidOf.FindStringSubmatch(line); f != nil {
			uid, _ = strconv.Atoi(f[1])
		}
		if n := numberIn(line); n != 0 && uid > m.last {
			m.numbers[uid], m.last = n, uid
		}
	}
	return nil
}

var uidOf = regexp.MustCompile(`FETCH \(.*UID (\d+)`)

// work does with one message what is to be done, more often than not nothing.
func (m *mailReader) work(uid, n int) error {
	if m.rand.IntN(4) != 0 {
		return nil
	}
	switch n % fates {
	case erased:
		m.set(m.tried, n)
		if _, err := m.ask(fmt.Sprintf(`UID STORE %d +FLAGS.SILENT (\Deleted)`, uid)); err != nil {
			return err
		}
		if _, err := m.ask(fmt.Sprintf("UID EXPUNGE %d", uid)); err != nil {
			return err
		}
		m.set(m.gone, n)
		delete(m.numbers, uid)
	case moved:
		m.set(m.tried, n)
		if _, err := m.ask(fmt.Sprintf("UID MOVE %d Archive", uid)); err != nil {
			return err
		}
		m.set(m.gone, n)
		delete(m.numbers, uid)
	case kept:
		flags := [...]string{`+FLAGS (\Seen)`, `-FLAGS (\Seen)`, `+FLAGS (\Flagged $Label)`, `FLAGS (\Answered)`}
		if _, err := m.ask(fmt.Sprintf("UID STORE %d %s", uid, flags[m.rand.IntN(len(flags))])); err != nil {
			return err
		}
	default: // another program's
		delete(m.numbers, uid)
	}
	return nil
}

// ask says a command and returns what comes before OK.
func (m *mailReader) ask(command string) (reply string, err error) {
	m.tag++
	tag := fmt.Sprintf("t%d ", m.tag)
	if _, err := io.WriteString(m.conn, tag+command+"\r\n"); err != nil {
		return "", err
	}
	for {
		line, err := m.lines.ReadString('\n')
		if err != nil {
			return "", fmt.Errorf("%s: %w", command, err)
		}
		if status, ours := strings.CutPrefix(line, tag); ours {
			if !strings.HasPrefix(status, "OK") {
				return "", fmt.Errorf("%s: %s", command, status)
			}
			return reply, nil
		}
		reply += line
	}
}

// audit counts the messages in the files, when nobody works on them any more.
func (s *shared) audit() {
	inbox, archive := s.count("new", "cur"), s.count(".Archive/new", ".Archive/cur")
	left := 0
	for n := range s.started {
		in, out := inbox[n], archive[n]
		left += in
		switch {
		case !s.delivered[n]:
			s.t.Errorf("message %d was not delivered", n)
		case n%fates == moved && (in+out != 1 || s.gone[n] && in != 0):
			s.t.Errorf("message %d, moved: %v, is there %d times, in the other folder %d", n, s.gone[n], in, out)
		case n%fates == moved:
		case out != 0:
			s.t.Errorf("message %d was moved by nobody", n)
		case s.gone[n] && in != 0:
			s.t.Errorf("message %d was removed, and is there", n)
		case !s.tried[n] && in != 1:
			s.t.Errorf("message %d was not removed, and is there %d times", n, in)
		case in > 1:
			s.t.Errorf("message %d is there %d times", n, in)
		}
	}
	for _, name := range []string{"kpopd", "dovecot"} {
		if len(s.views[name].ids) == 0 {
			s.t.Errorf("%s has shown nothing", name)
		}
	}
	s.t.Logf("%d messages delivered, %d removed or moved, %d left; kpopd has shown %d, Dovecot %d",
		len(s.delivered), len(s.gone), left, len(s.views["kpopd"].ids), len(s.views["dovecot"].ids))
}

func (s *shared) count(dirs ...string) map[int]int {
	times := map[int]int{}
	for _, dir := range dirs {
		err := filepath.WalkDir(filepath.Join(s.maildir(), dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			text, err := os.ReadFile(path)
			times[numberIn(string(text))]++
			return err
		})
		if err != nil {
			s.t.Error(err)
		}
	}
	if times[0] != 0 {
		s.t.Errorf("%d files hold no message that was delivered", times[0])
	}
	return times
}
