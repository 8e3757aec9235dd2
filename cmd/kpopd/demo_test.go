package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kpopd/kpopd/cmd/internal/app"
	"github.com/kpopd/kpopd/krb5test"
)

// The wire form that the demonstration compares with, by hand.
func TestOnWire(t *testing.T) {
	t.Parallel()
	for stored, want := range map[string]string{
		"":               "",
		"a\nb\n":         "a\r\nb\r\n",
		"a\r\nb\r\n":     "a\r\nb\r\n",
		"no end":         "no end\r\n",
		"\n.\n":          "\r\n.\r\n",
		"a CR\ralone\n":  "a CR\ralone\r\n",
		"a CR at last\r": "a CR at last\r\r\n",
	} {
		if got := onWire([]byte(stored)); string(got) != want {
			t.Errorf("%q goes as %q, want %q", stored, got, want)
		}
	}
}

// fetched counts the messages that fetchmail has put into its file.
func fetched(t *testing.T, w *world) int {
	t.Helper()
	text, err := os.ReadFile(w.path("fetched"))
	if err != nil {
		t.Error(err)
	}
	return bytes.Count(text, []byte(" with POP3 (fetchmail-")) // in the Received line that it adds
}

// The commands that the demonstration prints work with the real programs, at
// localhost and at an address that localhost is not.
func TestDemoCommands(t *testing.T) {
	t.Parallel()
	for host, at := range map[string]addresses{
		"localhost": {},
		"127.0.0.2": {POP3: "127.0.0.2:0", POP3S: "127.0.0.2:0", KPOP: "127.0.0.2:0"},
	} {
		t.Run(host, func(t *testing.T) {
			t.Parallel()
			testDemoCommands(t, at, host)
		})
	}
}

func testDemoCommands(t *testing.T, at addresses, host string) {
	t.Helper()
	krb5test.Need(t, "sh", "kinit", "fetchmail", "curl", "openssl", "unshare", "mount")
	trial := []string{"unshare", "-rm", "mount", "--bind", "/etc/services", "/etc/services"}
	if out, err := exec.CommandContext(t.Context(), trial[0], trial[1:]...).CombinedOutput(); err != nil {
		krb5test.Missing(t, strings.Join(trial, " ")+" to work: "+string(out))
	}
	dir := filepath.Join(t.TempDir(), "a folder that isn't plain")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	w, err := build(dir, at)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	var log bytes.Buffer
	s, err := w.serve(t.Context(), &log)
	if err != nil {
		t.Fatal(err)
	}
	commands := w.commands()
	if len(commands) != 8 {
		t.Fatalf("%d commands are printed, want 8", len(commands))
	}
	ticket := commands[0].command + "\n"
	for i, want := range []string{
		"Password for alice@DEMO.TEST",
		"13 messages for alice at " + host,
		"This is a demonstration of kpopd.",
		"This is a demonstration of kpopd.",
		"This is a demonstration of kpopd.",
		"13 ",
		"+OK 13 ",
		"+OK 13 ",
	} {
		h := commands[i]
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		cmd := exec.CommandContext(ctx, "sh", "-c", ticket+h.command+" 2>&1")
		// openssl is typed into by a person
		cmd.Stdin = strings.NewReader("USER alice\nPASS " + w.user("alice").Password + "\nSTAT\nQUIT\n")
		out, err := cmd.CombinedOutput()
		cancel()
		if err == nil && i > 1 && !strings.Contains(h.command, host+":") {
			err = errors.New("leads to another host")
		}
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%s: %v; want %q in\n%.3000s\nof\n%s", h.what, err, want, out, h.command)
		}
	}
	if got := fetched(t, w); got != len(demoMail()) {
		t.Errorf("fetchmail has delivered %d messages, want %d", got, len(demoMail()))
	}
	s.Shutdown(nil)
	if t.Failed() {
		t.Logf("server:\n%.6000s", log.String())
	}
}

// A client on this machine is told what it can connect to.
func TestPlaceOf(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"127.0.0.1:110":     "localhost:110",
		"[::1]:110":         "localhost:110",
		"[::]:110":          "localhost:110",
		"0.0.0.0:110":       "localhost:110",
		"127.0.0.2:110":     "127.0.0.2:110",
		"192.0.2.7:110":     "192.0.2.7:110",
		"[2001:db8::7]:110": "[2001:db8::7]:110",
	} {
		if got := placeOf(address); got != want {
			t.Errorf("%s: got %s, want %s", address, got, want)
		}
	}
}

// A port that is lost between finding and binding it is told in the way that
// world.serve looks for.
func TestDemoPortLost(t *testing.T) {
	t.Parallel()
	w, err := build(t.TempDir(), addresses{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	if err := w.findPorts(); err != nil {
		t.Fatal(err)
	}
	thief, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer thief.Close()
	w.Addresses.KPOP = thief.Addr().String()
	if err := w.makeConfiguration(); err != nil {
		t.Fatal(err)
	}
	if _, err := app.Start(t.Context(), w.Configuration, io.Discard); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a taken port is told as %v", err)
	}
}
