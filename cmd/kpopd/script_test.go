package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/kpopd/kpopd/cmd/internal/certs"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"kpopd": main})
}

// patience is how long a script waits for what should happen at once.
const patience = time.Minute

// secrets of the scripts. They may stand in no log and in no output
// (rule 186); scripts send them in places where they do not belong, too.
var secrets = []string{"s3cret-alice", "s3cret-bob", "s3cret-typed"}

func TestScript(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                filepath.Join("testdata", "script"),
		RequireUniqueNames: true,
		Setup: func(e *testscript.Env) error {
			e.Values[connsKey{}] = map[string]*conn{}
			e.Defer(func() { noSecrets(t, e.WorkDir) })
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"await": await, "signal": sendSignal, "certificate": certificate,
			"dial": dialListener, "send": send, "recv": recv, "eof": eof, "drain": drain, "until": until, "age": age,
		},
		Condition: func(cond string) (bool, error) {
			if cond != "ipv6" {
				return false, fmt.Errorf("no condition %s", cond)
			}
			l, err := net.Listen("tcp", "[::1]:0")
			if err != nil {
				return false, nil
			}
			return true, l.Close()
		},
	})
}

// noSecrets looks through all that the programs of a script wrote.
func noSecrets(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.Contains(d.Name(), "log") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, s := range secrets {
			for what, form := range map[string]string{
				"itself": s, "in base64": base64.StdEncoding.EncodeToString([]byte("\x00alice\x00" + s)),
			} {
				if bytes.Contains(text, []byte(form)) {
					t.Errorf("rule 186: %s holds %s %s", d.Name(), s, what)
				}
			}
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// await waits until a file has a number of matches: await FILE REGEXP [COUNT].
func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: await FILE REGEXP [COUNT]")
	}
	want := 1
	if len(args) > 2 {
		n, err := strconv.Atoi(args[2])
		ts.Check(err)
		want = n
	}
	re := regexp.MustCompile("(?m)" + args[1])
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; <-tick.C {
		text, _ := os.ReadFile(ts.MkAbs(args[0])) // it may not be there yet
		if len(re.FindAll(text, want)) == want {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("%s never has %q %d times:\n%s", args[0], args[1], want, text)
		}
	}
}

// sendSignal sends HUP, TERM or INT to the process that a file names: signal NAME PIDFILE.
func sendSignal(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: signal NAME PIDFILE")
	}
	pid, err := strconv.Atoi(strings.TrimSpace(ts.ReadFile(args[1])))
	ts.Check(err)
	sig := map[string]syscall.Signal{"HUP": syscall.SIGHUP, "TERM": syscall.SIGTERM, "INT": syscall.SIGINT}[args[0]]
	ts.Check(syscall.Kill(pid, sig))
}

// certificate writes NAME.crt and NAME.key for localhost: certificate NAME.
func certificate(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: certificate NAME")
	}
	ca, err := certs.NewAuthority("script CA")
	ts.Check(err)
	cert, key, err := ca.Issue("localhost")
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+".crt"), cert, 0o600))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+".key"), key, 0o600))
}

type connsKey struct{}

// conn is a connection of a script.
type conn struct {
	net.Conn
	r *bufio.Reader
}

func named(ts *testscript.TestScript, name string) *conn {
	c := ts.Value(connsKey{}).(map[string]*conn)[name]
	if c == nil {
		ts.Fatalf("no connection %s", name)
	}
	ts.Check(c.SetDeadline(time.Now().Add(patience)))
	return c
}

// dialListener connects to where the log says that a listener is, and reads
// nothing: dial CONN LOG LISTENER [tls].
func dialListener(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: dial CONN LOG LISTENER [tls]")
	}
	pattern := fmt.Sprintf(`msg=listening listener=%s address=(\S+)`, args[2])
	await(ts, false, []string{args[1], pattern})
	found := regexp.MustCompile(pattern).FindAllStringSubmatch(ts.ReadFile(args[1]), -1)
	c, err := net.Dial("tcp", found[len(found)-1][1])
	ts.Check(err)
	if len(args) > 3 {
		c = tls.Client(c, &tls.Config{InsecureSkipVerify: true})
	}
	ts.Defer(func() { c.Close() })
	ts.Value(connsKey{}).(map[string]*conn)[args[0]] = &conn{c, bufio.NewReader(c)}
}

// send writes a line: send CONN TEXT.
func send(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: send CONN TEXT")
	}
	_, err := named(ts, args[0]).Write([]byte(args[1] + "\r\n"))
	ts.Check(err)
}

// recv reads a line, which must match: recv CONN REGEXP.
func recv(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: recv CONN REGEXP")
	}
	line, err := named(ts, args[0]).r.ReadString('\n')
	if err != nil {
		ts.Fatalf("%s: %v after %q", args[0], err, line)
	}
	if !regexp.MustCompile(args[1]).MatchString(strings.TrimSuffix(line, "\r\n")) {
		ts.Fatalf("%s: got %q, want %s", args[0], line, args[1])
	}
}

// eof wants the server to have closed without another word: eof CONN.
func eof(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: eof CONN")
	}
	if line, err := named(ts, args[0]).r.ReadString('\n'); err == nil || line != "" {
		ts.Fatalf("%s: got %q, want the end", args[0], line)
	}
}

// until reads a multi-line reply, which must have a line that matches: until CONN REGEXP.
func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: until CONN REGEXP")
	}
	c, re, found := named(ts, args[0]), regexp.MustCompile(args[1]), false
	var reply strings.Builder
	for line := ""; line != ".\r\n"; {
		var err error
		if line, err = c.r.ReadString('\n'); err != nil {
			ts.Fatalf("%s: %v within the reply", args[0], err)
		}
		reply.WriteString(line)
		found = found || re.MatchString(strings.TrimSuffix(line, "\r\n"))
	}
	if !found {
		ts.Fatalf("%s: got %q, want a line %s", args[0], reply.String(), args[1])
	}
}

// drain reads a multi-line reply to its end, and then the end: drain CONN.
func drain(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: drain CONN")
	}
	c := named(ts, args[0])
	for line := ""; line != ".\r\n"; {
		var err error
		if line, err = c.r.ReadString('\n'); err != nil {
			ts.Fatalf("%s: %v within the reply", args[0], err)
		}
	}
	eof(ts, false, args)
}
