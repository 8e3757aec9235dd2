package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kpopd/kpopd/krb5test"
	"github.com/kpopd/kpopd/maildrop/maildir"
	"github.com/kpopd/kpopd/pop3/client"
)

// passwordLogin is a session that logs in with USER and PASS; the code is the
// one of the refusal.
func passwordLogin(ctx context.Context, s *Server, user, password string) (code string, err error) {
	conn, err := net.Dial("tcp", s.Addrs()[0].String())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	c, err := client.New(ctx, conn, nil)
	if err != nil {
		return "", err
	}
	err = c.UserPass(ctx, user, password)
	var refused *client.ServerError
	if errors.As(err, &refused) {
		return refused.Code, nil
	}
	if err != nil {
		return "", err
	}
	return "", c.Quit(ctx)
}

// wantLogin checks how a login ends: "" for one that is let in, else the code.
func wantLogin(t *testing.T, s *Server, when, user, password, code string) {
	t.Helper()
	if got, err := passwordLogin(t.Context(), s, user, password); err != nil || got != code {
		t.Errorf("%s: %s gets [%s], %v, want [%s]", when, user, got, err, code)
	}
}

// passwordFolder is folder with the verifier replaced.
func passwordFolder(t *testing.T, verifier, more string) string {
	t.Helper()
	return folder(t, strings.NewReplacer(
		"{use: local}", "{use: door, timeout: 5s}", "{name: local, type: file, users: users}", "{name: door, "+verifier+"}",
	).Replace(base)+more)
}

// passwordRealm is a KDC with alice, and a folder for a server that asks it.
func passwordRealm(t *testing.T, more string) (kdc *krb5test.KDC, path string) {
	t.Helper()
	kdc = krb5test.NewKDC("DEMO.TEST")
	for _, user := range []string{"alice", "locked", "stale"} {
		kdc.AddUser(user, "pw-"+user)
	}
	kdc.Lock("locked")
	kdc.ExpirePassword("stale")
	kdc.AddService(service)
	// at an address of its own, where nobody else gets its port when it is closed
	if err := kdc.Listen("127.0.88.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kdc.Close() })
	path = passwordFolder(t, fmt.Sprintf("type: krb5pw, realm: DEMO.TEST, kdcs: [%q]%s", kdc.Addr(), more), "kerberos: {keytab: keytab, replay_cache: memory, keytab_reload: 0s}\n")
	if err := kdc.WriteKeytab(filepath.Join(filepath.Dir(path), "keytab"), service); err != nil {
		t.Fatal(err)
	}
	return kdc, path
}

// Passwords against a KDC, which then has other keys, and then is gone.
func TestKrb5pw(t *testing.T) {
	t.Parallel()
	kdc, path := passwordRealm(t, ", mail_domains: [demo.example]")
	s, log := serve(t, path)
	wantLogin(t, s, "right", "alice", "pw-alice", "")
	wantLogin(t, s, "mail domain", "alice@demo.example", "pw-alice", "")
	wantLogin(t, s, "wrong", "alice", "pw-wrong", "AUTH")
	wantLogin(t, s, "nobody", "nobody", "pw-nobody", "AUTH")
	wantLogin(t, s, "locked", "locked", "pw-locked", "AUTH")
	wantLogin(t, s, "expired", "stale", "pw-stale", "AUTH")

	kdc.Rotate(service)
	wantLogin(t, s, "a key that the keytab lacks", "alice", "pw-alice", "SYS/TEMP")
	if err := kdc.WriteKeytab(filepath.Join(filepath.Dir(path), "keytab"), service); err != nil {
		t.Fatal(err)
	}
	if err := s.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantLogin(t, s, "the keytab has it", "alice", "pw-alice", "")

	if err := kdc.Close(); err != nil {
		t.Fatal(err)
	}
	wantLogin(t, s, "no KDC", "alice", "pw-alice", "SYS/TEMP")
	s.Shutdown(nil)
	for _, want := range []string{
		"kind=rejected", "kind=unknown-user", "kind=denied", "kind=expired", "kind=unavailable",
		"wrong password (KRB-ERROR 24", "keytab is out of date", "connection refused", "step=door",
	} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log does not say %q", want)
		}
	}
	if strings.Contains(log.String(), "pw-") {
		t.Error("a password is in the log")
	}
	if t.Failed() {
		t.Log(log)
	}
}

// A KDC that takes connections and says nothing is an outage when the step's
// time is over.
func TestKrb5pwHung(t *testing.T) {
	t.Parallel()
	hung, err := net.Listen("tcp", "127.0.0.1:0") // nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer hung.Close()
	kdc, path := passwordRealm(t, "")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text = bytes.Replace(text, []byte(kdc.Addr()), []byte(hung.Addr().String()), 1)
	text = bytes.Replace(text, []byte("timeout: 5s"), []byte("timeout: 50ms"), 1)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	s, log := serve(t, path)
	wantLogin(t, s, "hung", "alice", "pw-alice", "SYS/TEMP")
	s.Shutdown(nil)
	if !strings.Contains(log.String(), "deadline exceeded") {
		t.Errorf("the log does not say why:\n%s", log)
	}
}

// Users of a second realm have a domain, and maildrops of their own.
func TestKrb5pwTwoRealms(t *testing.T) {
	t.Parallel()
	_, path := passwordRealm(t, ", domain: partner.example")
	s, _ := serve(t, path)
	wantLogin(t, s, "without the domain", "alice", "pw-alice", "AUTH")
	if err := maildir.Make(filepath.Join(filepath.Dir(path), "mail", "alice@partner.example")); err != nil {
		t.Fatal(err)
	}
	wantLogin(t, s, "with the domain", "alice@partner.example", "pw-alice", "")
}

const checker = `set -f; set -- $(tr '\000' '\n' <&3); [ "$1:$2" = alice:pw-alice ] || exit 1`

// Passwords by a program, which a reload replaces.
func TestCheckpassword(t *testing.T) {
	t.Parallel()
	path := passwordFolder(t, fmt.Sprintf("type: checkpassword, program: /bin/sh, args: [-c, %q], at_once: 2", checker), "")
	s, log := serve(t, path)
	wantLogin(t, s, "right", "alice", "pw-alice", "")
	wantLogin(t, s, "wrong", "alice", "pw-wrong", "AUTH")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for script, code := range map[string]string{
		"exit 111": "SYS/TEMP", "exit 2": "SYS/TEMP", "exit 1": "AUTH", "kill -9 $$": "SYS/TEMP", "exit 0": "",
	} {
		other := bytes.Replace(text, fmt.Appendf(nil, "%q", checker), fmt.Appendf(nil, "%q", script), 1)
		if err := os.WriteFile(path, other, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := s.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantLogin(t, s, script, "alice", "pw-alice", code)
	}
	s.Shutdown(nil)
	if strings.Contains(log.String(), "pw-") {
		t.Errorf("a password is in the log:\n%s", log)
	}
}

// What a verifier cannot do is told at its line; what it found, by check -v.
func TestPasswordVerifiersAtLoad(t *testing.T) {
	t.Parallel()
	_, path := passwordRealm(t, "")
	r, err := Check(path)
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	r.Explain(&said)
	if want := "verifier door: passwords of realm DEMO.TEST, proven by a ticket for pop/localhost@DEMO.TEST\n"; !strings.Contains(said.String(), "\n"+want) {
		t.Errorf("got:\n%swant in it:\n%s", &said, want)
	}
	_, unknown := passwordRealm(t, ", service: imap/localhost")
	_, lost := passwordRealm(t, "")
	if err := os.Remove(filepath.Join(filepath.Dir(lost), "keytab")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, path, want string }{
		{"service without a key", unknown, "k.yaml:8: verifiers[0]: the keytab has no key of imap/localhost@DEMO.TEST, with which to tell a false KDC"},
		{"keytab that is not there", lost, "k.yaml:10: kerberos.keytab: "},
		{"program that is not there", passwordFolder(t, "type: checkpassword, program: /nowhere/checker", ""), "k.yaml:8: verifiers[0]: "},
		{"program with a relative path", passwordFolder(t, "type: checkpassword, program: checker", ""), `k.yaml:8: verifiers[0]: "checker" is no absolute path`},
	} {
		_, err := Check(c.path)
		if lines := strings.Split(fmt.Sprint(err), "\n"); err == nil || len(lines) != 1 || !strings.Contains(lines[0], c.want) {
			t.Errorf("%s: got %v, want %s", c.name, err, c.want)
		}
	}
}
