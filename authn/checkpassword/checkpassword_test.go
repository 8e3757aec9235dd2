package checkpassword_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/authntest"
	"github.com/kpopd/kpopd/authn/checkpassword"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shell makes a verifier of a shell script. The system's shell is the program: a
// file that is written here may be open in a child that another test begins,
// and then cannot be executed.
func shell(t testing.TB, script string, o checkpassword.Options, args ...string) *checkpassword.Verifier {
	t.Helper()
	o.Program, o.Args = "/bin/sh", append([]string{"-c", script, "checker"}, args...)
	v, err := checkpassword.New("door", o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// reads puts login, password and timestamp into $1, $2 and $3.
const reads = `set -f; set -- $(tr '\000' '\n' <&3); `

var transport = &authn.Transport{
	Remote: netip.MustParseAddrPort("[::ffff:192.0.2.7]:4711"), Local: netip.MustParseAddrPort("[2001:db8::1]:110"),
}

func ask(ctx context.Context, v *checkpassword.Verifier, password string) error {
	id, err := v.VerifyPassword(ctx, &authn.PasswordRequest{
		Transport: transport, Login: "alice", Password: authn.Password(password),
	})
	if (err == nil) != (id != nil) {
		return fmt.Errorf("identity %+v and error %w", id, err)
	}
	return err
}

func TestVerifier(t *testing.T) {
	t.Parallel()
	v := shell(t, reads+`[ "$1:$2" = alice:pw-alice ] || exit 1`, checkpassword.Options{})
	authntest.RunVerifier(t, v, authntest.Account{Login: "alice", Password: "pw-alice"})
}

func TestVerdicts(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, script string
		kind         authn.Kind
		text         string
	}{
		{"wrong", "exit 1", authn.Rejected, "door: rejected: program refused"},
		{"wrong, and says so", "echo no such user >&2; exit 1", authn.Rejected, `program refused: "no such user"`},
		{"called wrongly", "exit 2", authn.Internal, "called wrongly"},
		{"temporary", "echo LDAP is down >&2; exit 111", authn.Unavailable, `program cannot say now: "LDAP is down"`},
		{"status of the interface's that none is", "exit 3", authn.Unavailable, "exit status 3"},
		{"program that it runs is not there", "exec /nonexistent", authn.Unavailable, "exit status 127"},
		{"signal", "kill -9 $$", authn.Unavailable, "signal: killed"},
		{"repeats the password", reads + "echo cannot take $2 >&2; exit 111", authn.Unavailable, "program cannot say now, and the password is in what it said"},
		{"says lines and worse", `printf 'a\nb\033[1m' >&2; exit 111`, authn.Unavailable, `"a\nb\x1b[1m"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := ask(t.Context(), shell(t, tt.script, checkpassword.Options{}), "pw-alice")
			if authn.KindOf(err) != tt.kind || !strings.Contains(fmt.Sprint(err), tt.text) {
				t.Errorf("got %v of kind %v, want %q of kind %v", err, authn.KindOf(err), tt.text, tt.kind)
			}
			if strings.Contains(fmt.Sprint(err), "pw-alice") {
				t.Errorf("the password is in %v", err)
			}
		})
	}
}

// What a program says is bounded, whatever it says, and it is not stopped.
func TestChatter(t *testing.T) {
	t.Parallel()
	err := ask(t.Context(), shell(t, `i=0; while [ $i -lt 9999 ]; do echo 0123456789012345678901234567890123456789; i=$((i+1)); done >&2; exit 111`, checkpassword.Options{}), "pw-alice")
	if n := len(fmt.Sprint(err)); authn.KindOf(err) != authn.Unavailable || n < 500 || n > 700 {
		t.Errorf("%d octets, %v", n, err)
	}
	// and a password at the end of what is shown is not cut in two
	err = ask(t.Context(), shell(t, reads+`printf '%0509d%s' 0 "$2" >&2; exit 111`, checkpassword.Options{}), "pw-alice")
	if strings.Contains(fmt.Sprint(err), "pw-") {
		t.Errorf("a part of the password is in %v", err)
	}
}

// The program reads what the interface says, and finds the password nowhere
// else.
func TestInterface(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	script := `exec 2>&1; cd ` + dir + ` && cat <&3 >message && env >environment && tr '\000' ' ' </proc/$$/cmdline >arguments &&
		pwd >directory && ls -l /proc/$$/fd >descriptors && cat >input && cut -d" " -f1,5 /proc/$$/stat >group`
	before := time.Now().Unix()
	if err := ask(t.Context(), shell(t, script, checkpassword.Options{}, "more", "arguments"), "pw-älice"); err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	parts := strings.Split(read("message"), "\x00")
	if len(parts) != 4 || parts[0] != "alice" || parts[1] != "pw-älice" || parts[3] != "" {
		t.Fatalf("message %q", parts)
	}
	if n, err := strconv.ParseInt(parts[2], 10, 64); err != nil || n < before || n > time.Now().Unix() {
		t.Errorf("timestamp %q", parts[2])
	}
	env := read("environment")
	for _, want := range []string{"PATH=/usr/bin:/bin\n", "PROTO=TCP\n", "TCPREMOTEIP=192.0.2.7\n", "TCPREMOTEPORT=4711\n", "TCPLOCALIP=2001:db8::1\n", "TCPLOCALPORT=110\n"} {
		if !strings.Contains(env, want) {
			t.Errorf("no %q in the environment:\n%s", want, env)
		}
	}
	for line := range strings.Lines(env) {
		name, _, _ := strings.Cut(line, "=")
		switch name {
		case "PATH", "PROTO", "TCPREMOTEIP", "TCPREMOTEPORT", "TCPLOCALIP", "TCPLOCALPORT", "PWD", "OLDPWD", "SHLVL", "_": // the last are the shell's
		default:
			t.Errorf("%q is in the environment", line)
		}
	}
	if args := read("arguments"); !strings.HasPrefix(args, "/bin/sh -c ") || !strings.HasSuffix(args, "checker more arguments ") || strings.Contains(args, "pw-") {
		t.Errorf("arguments %q", args)
	}
	if in := read("input"); in != "" {
		t.Errorf("standard input %q", in)
	}
	if f := strings.Fields(read("group")); len(f) != 2 || f[0] != f[1] {
		t.Errorf("process and group %q", f)
	}
	if strings.Contains(env, "pw-") {
		t.Error("the password is in the environment")
	}
}

// Names and passwords that the interface cannot carry do not reach the program.
func TestUnfit(t *testing.T) {
	t.Parallel()
	v := shell(t, "exit 0", checkpassword.Options{})
	for _, tt := range []struct {
		name, login, password string
		kind                  authn.Kind
	}{
		{"S-27: empty password", "alice", "", authn.Rejected},
		{"S-27: NUL first", "alice", "\x00pw", authn.Rejected},
		{"NUL inside", "alice", "pw\x00bob\x00", authn.Rejected},
		{"513 octets", "alice", strings.Repeat("x", 512-len("alice.1234567890.")), authn.Rejected},
		{"NUL in the name", "alice\x00", "pw", authn.UnknownUser},
		{"S-17: shell in the name", "$(id)", "pw", authn.UnknownUser},
		{"name that is not prepared", "ａlice", "pw", authn.UnknownUser},
	} {
		id, err := v.VerifyPassword(t.Context(), &authn.PasswordRequest{Login: tt.login, Password: authn.Password(tt.password)})
		if id != nil || authn.KindOf(err) != tt.kind {
			t.Errorf("%s: %+v, %v", tt.name, id, err)
		}
	}
	fits := strings.Repeat("x", 512-len("alice.1234567890.")-1)
	if err := ask(t.Context(), v, fits); err != nil {
		t.Errorf("512 octets: %v", err)
	}
}

// TestDeadline: a program that does not end is an outage, and it and its
// children are gone soon after.
func TestDeadline(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, script string }{
		{"sleeps", `echo ready >&4; exec sleep 600`},
		{"has a child that sleeps", `sleep 600 & echo ready >&4; wait`},
		{"takes no signal but one", `trap '' TERM INT HUP; echo ready >&4; while :; do sleep 600; done`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ready := fifo(t)
			v := shell(t, `exec 4>"$1"; `+tt.script, checkpassword.Options{}, ready)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := make(chan error, 1)
			go func() { // until the program is killed
				ended <- ask(ctx, v, "pw-alice")
				unblock(ready)
			}()
			lines := bufio.NewReader(open(t, ready))
			if line, err := lines.ReadString('\n'); err != nil {
				t.Fatalf("%q, %v, and the verifier says %v", line, err, <-ended)
			}
			cancel()
			if err := <-ended; authn.KindOf(err) != authn.Unavailable || !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
			// the pipe ends when nobody of the group is left to write into it
			if rest, err := io.ReadAll(lines); err != nil || len(rest) > 0 {
				t.Errorf("%q, %v", rest, err)
			}
		})
	}
}

func fifo(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// open waits until somebody has the other side open.
func open(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// unblock lets go who waits in open for a program that will never come.
func unblock(path string) {
	if f, err := os.OpenFile(path, os.O_WRONLY|syscall.O_NONBLOCK, 0); err == nil {
		f.Close()
	}
}

// No more programs run at once than may, and nobody waits for his turn past his
// deadline.
func TestAtOnce(t *testing.T) {
	t.Parallel()
	ready, let := fifo(t), fifo(t)
	v := shell(t, reads+`[ "$2" = waits ] || exit 0; echo ready >`+ready+`; read line <`+let, checkpassword.Options{AtOnce: 1})
	ended := make(chan error, 1)
	go func() { // until the program has read a line
		ended <- ask(t.Context(), v, "waits")
		unblock(ready)
	}()
	if line, err := io.ReadAll(open(t, ready)); err != nil || string(line) != "ready\n" {
		t.Fatalf("%q, %v, and the verifier says %v", line, err, <-ended)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := ask(ctx, v, "pw-alice"); authn.KindOf(err) != authn.Unavailable || !strings.Contains(fmt.Sprint(err), "wait to run the program") {
		t.Errorf("while another runs: %v", err)
	}
	if err := os.WriteFile(let, []byte("go\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("the one that ran: %v", err)
	}
	if err := ask(t.Context(), v, "pw-alice"); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// The whole time is bounded without a deadline of the caller's too.
func TestTimeout(t *testing.T) {
	t.Parallel()
	err := ask(t.Context(), shell(t, "exec sleep 600", checkpassword.Options{Timeout: 50 * time.Millisecond}), "pw-alice")
	if authn.KindOf(err) != authn.Unavailable || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// A child that lives on with standard error open delays nobody for long.
func TestLeftBehind(t *testing.T) {
	t.Parallel()
	pids := filepath.Join(t.TempDir(), "pid")
	if err := ask(t.Context(), shell(t, `sleep 600 3<&- & echo $! >"$1"`, checkpassword.Options{}, pids), "pw-alice"); err != nil {
		t.Errorf("got %v", err)
	}
	b, err := os.ReadFile(pids)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 {
		t.Fatalf("process %q", b)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
}

// A program that others could replace is refused when it is loaded, with what
// to do.
func TestFit(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	program := func(name string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("#!/bin/sh\n"), 0o700), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	link := func(name, to string) string {
		path := filepath.Join(dir, name)
		if err := os.Symlink(to, path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := program("good", 0o700)
	open := program("open/program", 0o755)
	if err := os.Chmod(filepath.Dir(open), 0o777); err != nil {
		t.Fatal(err)
	}
	sticky := program("sticky/program", 0o755)
	if err := os.Chmod(filepath.Dir(sticky), 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	foreign := program("foreign", 0o755)
	cases := []struct{ name, program, want string }{
		{"good", good, ""},
		{"link", link("link", good), ""},
		{"the system's", "/bin/true", ""},
		{"in a sticky directory", sticky, ""},
		{"relative", "good", "no absolute path"},
		{"none", "", "no absolute path"},
		{"not there", filepath.Join(dir, "nothing"), "no such file"},
		{"directory", dir, "not a file"},
		{"device", "/dev/null", "not a file"},
		{"not executable", program("data", 0o600), "chmod +x"},
		{"writable by the group", program("group", 0o775), "can be written by others (mode 0775); chmod go-w"},
		{"writable by all", program("all", 0o707), "can be written by others"},
		{"link to one that is writable", link("bad", filepath.Join(dir, "all")), "can be written by others"},
		{"in a directory of everybody's", open, "where everybody can replace it"},
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(foreign, 4711, -1); err != nil {
			t.Fatal(err)
		}
		cases = append(cases, struct{ name, program, want string }{"of another user", foreign, "belongs to user 4711"})
	}
	for _, tt := range cases {
		v, err := checkpassword.New("door", checkpassword.Options{Program: tt.program})
		if (tt.want == "") != (err == nil) || (v == nil) != (err != nil) || !strings.Contains(fmt.Sprint(err), tt.want) && tt.want != "" {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

// One login of 16 at once, with a shell as the program.
func BenchmarkVerifyPassword(b *testing.B) {
	v := shell(b, "exit 0", checkpassword.Options{})
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if err := ask(b.Context(), v, "pw-alice"); err != nil {
				b.Error(err)
			}
		}
	})
}
