// Package kpoptest has what tests of KPOP servers share: a client in C whose
// handshake is that of a real Kerberos library, and the way to compile it.
package kpoptest

import (
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kpopd/kpopd/krb5test"
)

//go:embed testdata/kpop-client.c
var source []byte

// Library is a Kerberos library that the client can be compiled with.
type Library string

const (
	MIT     Library = "mit"
	Heimdal Library = "heimdal"
)

// Client compiles the KPOP client with a library and returns the program. The
// head of testdata/kpop-client.c says what it takes.
func Client(t testing.TB, lib Library) string {
	t.Helper()
	return Compile(t, lib, "krb5", source)
}

// Compile makes a program of a source in C that uses a component of a library,
// "krb5" or "gssapi". HEIMDAL is defined where it is that one. The test is
// skipped where the compiler or the library is not installed.
func Compile(t testing.TB, lib Library, component string, source []byte) string {
	t.Helper()
	config := "krb5-config." + string(lib)
	krb5test.Need(t, "gcc", config)
	program := filepath.Join(t.TempDir(), "client")
	if err := os.WriteFile(program+".c", source, 0o600); err != nil {
		t.Fatal(err)
	}
	flags, err := exec.CommandContext(t.Context(), config, "--cflags", "--libs", component).Output()
	if err != nil {
		t.Fatalf("%s: %v", config, err)
	}
	args := []string{"-Wall", "-O", "-o", program, program + ".c"}
	if lib == Heimdal {
		args = append(args, "-DHEIMDAL")
	}
	args = append(args, strings.Fields(string(flags))...)
	if out, err := exec.CommandContext(t.Context(), "gcc", args...).CombinedOutput(); err != nil {
		t.Fatalf("compile with %s: %v\n%s", lib, err, out)
	}
	return program
}

// Kinit gets a ticket-granting ticket with MIT's kinit and returns the
// environment in which the libraries find it. conf is the text of a krb5.conf.
func Kinit(t testing.TB, conf, user, password string) (env []string) {
	t.Helper()
	kinit := krb5test.Need(t, "kinit")[0]
	dir := t.TempDir()
	path := filepath.Join(dir, "krb5.conf")
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	env = []string{"LC_ALL=C", "KRB5_CONFIG=" + path, "KRB5CCNAME=FILE:" + filepath.Join(dir, "ccache")}
	cmd := exec.CommandContext(t.Context(), kinit, user)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin = strings.NewReader(password + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("kinit %s: %v\n%s", user, err, out)
	}
	return env
}

// Result is what a run of the client gave.
type Result struct {
	Status int    // as the program's head explains
	Output string // the conversation
	Errors string // the library's words
}

func (r Result) String() string {
	return fmt.Sprintf("status %d\n%s%s", r.Status, r.Output, r.Errors)
}

// Run runs the client in an environment (KRB5_CONFIG, KRB5CCNAME) that is
// added to the test's own.
func Run(t testing.TB, env []string, program string, args ...string) Result {
	t.Helper()
	var out, errs strings.Builder
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if err != nil && cmd.ProcessState == nil {
		t.Fatalf("run %s: %v", program, err)
	}
	return Result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}
