package main

import (
	"bytes"
	"context"
	"flag"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/kpopd/kpopd/cmd/internal/app"
	"github.com/kpopd/kpopd/cmd/internal/certs"
	"github.com/kpopd/kpopd/krb5test"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"kpopctl": main})
}

var update = flag.Bool("update", false, "rewrite the golden files of the scripts")

func TestScript(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                filepath.Join("testdata", "script"),
		RequireUniqueNames: true,
		UpdateScripts:      *update,
		Setup: func(e *testscript.Env) error {
			e.Setenv("TZ", "UTC")
			e.Setenv("GORACE", "atexit_sleep_ms=0") // a second for each command
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"certificate": certificate, "keytab": keytab, "serve": serve, "mute": mute, "await": await, "interrupt": interrupt,
		},
	})
}

// patience is how long a script waits for what should happen at once.
const patience = time.Minute

// serve runs a server until the script ends, with the addresses of its listeners
// in NAME1, NAME2 and so on: serve CONFIGURATION NAME.
func serve(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: serve CONFIGURATION NAME")
	}
	s, err := app.Start(context.Background(), ts.MkAbs(args[0]), io.Discard)
	ts.Check(err)
	ts.Defer(func() { s.Shutdown(nil) })
	for i, a := range s.Addrs() {
		ts.Setenv(args[1]+strconv.Itoa(i+1), a.String())
	}
}

// mute runs a server that greets and then says nothing, at $MUTE.
func mute(ts *testscript.TestScript, _ bool, _ []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	var wg sync.WaitGroup
	wg.Go(func() { // ended with the listener and the clients
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				io.WriteString(c, "+OK\r\n")
				io.Copy(io.Discard, c)
			})
		}
	})
	ts.Defer(func() { l.Close(); wg.Wait() })
	ts.Setenv("MUTE", l.Addr().String())
}

// await waits until a file matches: await FILE REGEXP.
func await(ts *testscript.TestScript, _ bool, args []string) {
	re := regexp.MustCompile("(?m)" + args[1])
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; <-tick.C {
		text, _ := os.ReadFile(ts.MkAbs(args[0])) // it may not be there yet
		if re.Match(text) {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("%s never has %q:\n%s", args[0], args[1], text)
		}
	}
}

// interrupt sends SIGINT to the process that a file names.
func interrupt(ts *testscript.TestScript, _ bool, args []string) {
	pid, err := strconv.Atoi(strings.TrimSpace(ts.ReadFile(args[0])))
	ts.Check(err)
	ts.Check(syscall.Kill(pid, syscall.SIGINT))
}

// certificate writes mail.crt and mail.key for localhost, and their authority to
// ca.pem.
func certificate(ts *testscript.TestScript, _ bool, _ []string) {
	ca, err := certs.NewAuthority("script CA")
	ts.Check(err)
	cert, key, err := ca.Issue("localhost", "127.0.0.1")
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs("ca.pem"), ca.PEM(), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs("mail.crt"), cert, 0o600))
	ts.Check(os.WriteFile(ts.MkAbs("mail.key"), key, 0o600))
}

// keytab writes a keytab for pop/localhost.
func keytab(ts *testscript.TestScript, _ bool, _ []string) {
	kdc := krb5test.NewKDC("DEMO.TEST")
	kdc.AddService("pop/localhost")
	ts.Check(kdc.WriteKeytab(ts.MkAbs("keytab"), "pop/localhost"))
}

// Each flag is explained, and the examples are command lines that are taken.
func TestHelp(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"--help"}, {"explain", "--help"}, {"uidl", "--help"}, {"uidl", "snapshot", "--help"}, {"uidl", "diff", "--help"}} {
		var out, errs bytes.Buffer
		if status := run(args, &out, &errs); status != 0 || errs.Len() > 0 {
			t.Errorf("%v: status %d, %s", args, status, errs.String())
		}
		c, _, err := newRoot().Find(args[:len(args)-1])
		if err != nil || c.Short == "" {
			t.Fatalf("%v: %v", args, err)
		}
		for flag := range strings.Lines(c.Flags().FlagUsages()) {
			if !strings.Contains(out.String(), flag) || len(strings.Fields(flag)) < 4 {
				t.Errorf("%v does not explain %q", args, flag)
			}
		}
		for example := range strings.Lines(c.Example) {
			found, rest, err := newRoot().Find(strings.Fields(example)[1:])
			if err != nil || found.Name() != c.Name() {
				t.Fatalf("%q: %v", example, err)
			}
			if err := found.ParseFlags(rest); err != nil {
				t.Errorf("%q: %v", example, err)
			} else if err := found.Args(found, found.Flags().Args()); err != nil {
				t.Errorf("%q: %v", example, err)
			}
		}
	}
}

// TestExample: the example of rules answers as its comments say.
func TestExample(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "..", "configs", "rules.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	ca, err := certs.NewAuthority("example")
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := ca.Issue("localhost")
	if err != nil {
		t.Fatal(err)
	}
	kdc := krb5test.NewKDC("CAMPUS.EXAMPLE")
	kdc.AddService("pop/localhost")
	file := filepath.Join(dir, "rules.yaml")
	here := strings.NewReplacer("/etc/kpopd", dir, "/var/lib/kpopd", dir, "/var/mail/kpopd", dir)
	for name, octets := range map[string][]byte{
		"mail.crt": cert, "mail.key": key, "users": []byte("alice:*\n"), "digests": nil, "rules.yaml": []byte(here.Replace(string(text))),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), octets, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := kdc.WriteKeytab(filepath.Join(dir, "keytab"), "pop/localhost"); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ args, want string }{
		{"--listener pop3 --address 192.0.2.7 --mechanism PLAIN", "PLAIN\n  not offered: it shows a password in the clear, start TLS first\n"},
		{"--listener pop3s --address 192.0.2.7 --tls 1.2 --mechanism PLAIN", "PLAIN\n  not offered: "},
		{"--listener pop3s --address 10.1.2.3 --tls 1.2 --mechanism PLAIN --user alice", "\n  login: accepted: "},
		{"--listener pop3s --address 10.1.2.3 --mechanism PLAIN --user mallory", "\n  login: denied: "},
		{"--listener pop3s --address 192.0.2.7 --mechanism CRAM-MD5 --user alice", "\n  to come: "},
		{"--listener pop3s --address 192.0.2.7 --mechanism CRAM-MD5 --at 2030-01-07T10:05", "\n  the client hears: -ERR [AUTH] CRAM-MD5 is retired, see https://help.campus.example/mail\n"},
		{"--listener pop3s --address 192.0.2.7 --mechanism GSSAPI --user bob --enctype rc4-hmac", "allows and warns\n"},
		{"--listener pop3s --address 10.9.1.1 --mechanism PLAIN --user backup --as alice", "\n  acting for alice: " + file},
		{"--listener pop3s --address 10.8.1.1 --mechanism PLAIN --user backup --group staff --as alice", "\n  acting for alice: denied: no rule\n"},
		{"--listener pop3s --address 192.0.2.7 --mechanism PLAIN --user eve --group students --at 2029-01-01T09:00", "\n  shadow tomorrow: denied: "},
	} {
		args := append([]string{"explain", "-c", file, "--at", "2029-01-01T09:00"}, strings.Fields(tt.args)...)
		var out, errs bytes.Buffer
		if status := run(args, &out, &errs); status != 0 || !strings.Contains(out.String(), tt.want) {
			t.Errorf("%s: status %d, %swant %q in\n%s", tt.args, status, errs.String(), tt.want, out.String())
		}
	}
}

// TestReadme runs the commands that the README gives for a move, and wants the
// table that it shows.
func TestReadme(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## Moving mail to it\n")
	blocks := strings.Split(section, "```\n")
	if len(blocks) < 5 || strings.Count(blocks[1], "\n") != 3 {
		t.Fatal("the README has no such commands and table")
	}
	dir := t.TempDir()
	old := movingServer(t, filepath.Join(dir, "old"), "1", "2", "3")
	renamed := movingServer(t, filepath.Join(dir, "new"), "9", "2", "3")
	if err := os.WriteFile(filepath.Join(dir, "users"), []byte("alice:pw-alice\nbob:pw-alice\neve:pw-alice\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(dir, "ca.pem")
	trusted := []byte{}
	for _, name := range []string{"old", "new"} {
		pem, err := os.ReadFile(filepath.Join(dir, name, "ca.pem"))
		if err != nil {
			t.Fatal(err)
		}
		trusted = append(trusted, pem...)
	}
	if err := os.WriteFile(ca, trusted, 0o600); err != nil {
		t.Fatal(err)
	}
	here := strings.NewReplacer("old.example.org:995", old, "new.example.org:995", renamed)
	var shown []byte
	for line := range strings.Lines(here.Replace(blocks[1])) {
		args := strings.Fields(line)
		cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "SSL_CERT_FILE="+ca) // as if the system trusted it
		out, err := cmd.CombinedOutput()
		if differs := slices.Contains(args, "diff"); (err != nil) != differs || differs && cmd.ProcessState.ExitCode() != 1 {
			t.Fatalf("%s%v\n%s", line, err, out)
		}
		shown = out
	}
	if string(shown) != blocks[3] {
		t.Errorf("the README shows\n%swant\n%s", blocks[3], shown)
	}
}

// movingServer serves mail of alice with those names, and none of two others.
func movingServer(t *testing.T, dir string, names ...string) (address string) {
	t.Helper()
	const hash = "$6$peers$iTzhmhYKi.JotJSaSdGxCPIjbgbL8At.CXJMQFfJdnSZ2OmY0EBbF4InRaGYPeBbmW1zIzjMkbpKG2inHEZVD/"
	ca, err := certs.NewAuthority("move")
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := ca.Issue("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{
		"ca.pem": string(ca.PEM()), "mail.crt": string(cert), "mail.key": string(key), "users": "", "k.yaml": `
listeners: [{name: pop3, address: "127.0.0.1:0", tls: starttls, policy: all}]
certificates: [{name: mail, cert: mail.crt, key: mail.key}]
policies: [{name: all, offers: [PLAIN], chain: all}]
chains: [{name: all, steps: [{use: local}]}]
verifiers: [{name: local, type: file, users: users}]
maildrops: {root: mail}
`,
	}
	for _, user := range []string{"alice", "bob", "eve"} {
		files["users"] += user + ":" + hash + "\n"
		for _, folder := range []string{"new", "cur", "tmp"} {
			if err := os.MkdirAll(filepath.Join(dir, "mail", user, folder), 0o700); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, name := range names {
		files["mail/alice/new/"+name] = "Subject: " + name + "\n\n" + strings.Repeat("x", i+3) + "\n"
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, err := app.Start(t.Context(), filepath.Join(dir, "k.yaml"), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Shutdown(nil) })
	return s.Addrs()[0].String()
}
