package app

import (
	"encoding/base64"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/emersion/go-sasl"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/file"
	"github.com/kpopd/kpopd/authn/gssapi"
	"github.com/kpopd/kpopd/authn/krb5"
	"github.com/kpopd/kpopd/authn/scram"
	"github.com/kpopd/kpopd/krb5test"
	"github.com/kpopd/kpopd/maildrop/maildir"
	"github.com/kpopd/kpopd/pop3/client"
)

const judging = `auth: {socket: socket, clients: ["UID"], chain: all}
chains:
  - {name: all, steps: [{use: local}, {use: tickets}]}
verifiers:
  - {name: local, type: file, users: users, digests: digests, cache: 30s}
  - {name: tickets, type: principal, local_realms: [DEMO.TEST]}
kerberos: {keytab: keytab, replay_cache: replay, keytab_reload: 0s}
`

const asking = `listeners:
  - {name: kpop, address: "127.0.0.1:0", protocol: kpop, policy: tickets}
  - {name: pop3, address: "127.0.0.1:0", policy: trusted}
policies:
  - {name: tickets, chain: all, offers: [KPOP]}
  - {name: trusted, chain: all, offers: [GSSAPI, CRAM-MD5, PLAIN, USER], plain: trusted, trusted: [127.0.0.0/8]}
chains:
  - {name: all, steps: [{use: helper}]}
verifiers:
  - {name: helper, type: remote, socket: SOCKET, judges: [passwords, secrets, principals, tickets]}
kerberos: {remote: helper}
maildrops: {root: mail}
limits: {failures: 100}
`

// divided is a site whose secrets are in one folder and whose mail is in
// another.
type divided struct {
	kdc           *krb5test.KDC
	helper, front string // configuration files
}

func divide(t *testing.T) *divided {
	t.Helper()
	secret, err := os.MkdirTemp("", "secret") // a name of t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(secret) })
	open := t.TempDir()
	d := &divided{kdc: krb5test.NewKDC("DEMO.TEST"), helper: filepath.Join(secret, "auth.yaml"), front: filepath.Join(open, "k.yaml")}
	d.kdc.AddUser("alice", "pw-alice")
	d.kdc.AddService(service)
	if err := errors.Join(
		d.kdc.Listen("127.0.0.1:0"),
		d.kdc.WriteKeytab(filepath.Join(secret, "keytab"), service),
		file.SetHash(filepath.Join(secret, "users"), "alice", hash),
		os.WriteFile(filepath.Join(secret, "digests"), []byte("alice:CRAM-MD5:pw-alice\n"), 0o600),
		os.WriteFile(d.helper, []byte(strings.Replace(judging, "UID", strconv.Itoa(os.Getuid()), 1)), 0o600),
		os.Mkdir(filepath.Join(open, "mail"), 0o700),
		maildir.Make(filepath.Join(open, "mail", "alice")),
		os.WriteFile(d.front, []byte(strings.Replace(asking, "SOCKET", filepath.Join(secret, "socket"), 1)), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.kdc.Close() })
	return d
}

func judgeFor(t *testing.T, d *divided) (*Helper, *syncBuffer) {
	t.Helper()
	log := &syncBuffer{}
	h, err := StartHelper(t.Context(), d.helper, log)
	if err != nil {
		t.Fatal(err)
	}
	return h, log
}

// saslAt logs in at the second door and out again.
func saslAt(t *testing.T, s *Server, c sasl.Client) error {
	t.Helper()
	conn, err := net.Dial("tcp", s.Addrs()[1].String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	p, err := client.New(t.Context(), conn, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Auth(t.Context(), c); err != nil {
		return err
	}
	return p.Quit(t.Context())
}

func responseCode(err error) string {
	var e *client.ServerError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// Every sort of login through a front that has no secret of any sort; an outage
// while the helper is away, and not a wrong password; all well when it is back,
// be it the helper or the front that was started anew.
func TestHelper(t *testing.T) {
	t.Parallel()
	d := divide(t)
	h, judged := judgeFor(t, d)
	s, log := serve(t, d.front)
	kc := login(t, d.kdc, "DEMO.TEST")
	ways := map[string]func() error{
		"KPOP": func() error { return show(t.Context(), s, 0, initiate(t, kc)) },
		"GSSAPI": func() error {
			c, err := gssapi.NewClient(t.Context(), kc, service, gssapi.Options{Mutual: true})
			if err != nil {
				t.Fatal(err)
			}
			return saslAt(t, s, c)
		},
		"PLAIN": func() error { return saslAt(t, s, sasl.NewPlainClient("", "alice", "pw-alice")) },
	}
	all := func(when string, good bool) {
		t.Helper()
		for name, way := range ways {
			err := way()
			if good {
				if err != nil {
					t.Errorf("%s, %s: %v", when, name, err)
				}
				continue
			}
			if code := responseCode(err); code != "SYS/TEMP" && !refusedWith(err, krb5.CodeGeneric) {
				t.Errorf("%s, %s: %v", when, name, err)
			}
		}
	}
	all("well", true)
	if code := responseCode(saslAt(t, s, sasl.NewPlainClient("", "alice", "pw-bob"))); code != "AUTH" {
		t.Errorf("wrong password: %s", code)
	}
	if code := responseCode(saslAt(t, s, sasl.NewPlainClient("", "bob", "pw-bob"))); code != "AUTH" {
		t.Errorf("unknown user: %s", code)
	}
	in := initiate(t, kc)
	if err := show(t.Context(), s, 0, in); err != nil {
		t.Fatal(err)
	}
	h.Shutdown()
	all("helper away", false)
	if err := s.Reload(t.Context()); err != nil {
		t.Error(err) // a front is reloaded and started without it
	}
	all("helper away, front reloaded", false)
	h, judgedNext := judgeFor(t, d)
	all("helper back", true)
	if err := show(t.Context(), s, 0, in); !refusedWith(err, krb5.CodeRepeat) {
		t.Errorf("a replay to the next helper: %v", err)
	}
	if err := s.Reload(t.Context()); err != nil {
		t.Error(err)
	}
	all("front reloaded", true)
	s.Shutdown(nil)
	s, log2 := serve(t, d.front)
	all("front restarted", true)
	s.Shutdown(nil)
	h.Shutdown()
	for _, want := range []string{
		"kind=accepted", "mechanism=PLAIN login=alice user=alice step=local", "principal=alice@DEMO.TEST",
		"service=pop/localhost@DEMO.TEST", "kind=rejected", "kind=unknown-user", "kind=unavailable",
	} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the front's log has no %q:\n%s", want, log)
		}
	}
	for who, l := range map[string]*syncBuffer{"helper": judged, "next helper": judgedNext, "front": log, "next front": log2} {
		if strings.Contains(l.String(), "pw-") {
			t.Errorf("a password is in the log of the %s:\n%s", who, l)
		}
	}
}

// SIGHUP has the helper read its files again; a broken one changes nothing. What
// the cache had is forgotten.
func TestHelperReload(t *testing.T) {
	t.Parallel()
	d := divide(t)
	h, _ := judgeFor(t, d)
	defer h.Shutdown()
	s, _ := serve(t, d.front)
	users := filepath.Join(filepath.Dir(d.helper), "users")
	for _, c := range []struct {
		content string
		reloads bool
		code    string
	}{
		{"", true, "AUTH"}, // an empty file has nobody
		{"alice:" + hash + "\n", true, ""},
		{"alice\n", false, ""},
		{"alice:" + hash + ":nologin\n", true, "AUTH"},
	} {
		if err := os.WriteFile(users, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := h.Reload(); (err == nil) != c.reloads {
			t.Errorf("%q: %v", c.content, err)
		}
		if code := responseCode(saslAt(t, s, sasl.NewPlainClient("", "alice", "pw-alice"))); code != c.code {
			t.Errorf("%q: code %q, want %q", c.content, code, c.code)
		}
	}
	text, err := os.ReadFile(d.helper)
	if err != nil {
		t.Fatal(err)
	}
	moved := strings.Replace(string(text), "socket: socket", "socket: other", 1)
	if err := os.WriteFile(d.helper, []byte(moved), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := h.Reload(); err == nil || !strings.Contains(err.Error(), "auth: socket and clients change with a restart only") {
		t.Errorf("another socket: %v", err)
	}
}

// Each of the two commands refuses the other's file; a check takes both and asks
// the helper what it can do.
func TestHelperChecked(t *testing.T) {
	t.Parallel()
	d := divide(t)
	if _, err := Start(t.Context(), d.helper, &syncBuffer{}); err == nil || !strings.Contains(err.Error(), "auth.yaml:1: auth: a file with auth is for kpopd auth") {
		t.Errorf("serve takes the helper's file: %v", err)
	}
	if _, err := StartHelper(t.Context(), d.front, &syncBuffer{}); err == nil || !strings.Contains(err.Error(), "k.yaml: auth: missing; a file with listeners is for kpopd serve") {
		t.Errorf("auth takes the front's file: %v", err)
	}
	check := func(path string) (*Report, string) {
		t.Helper()
		r, err := Check(path)
		if err != nil {
			t.Fatal(err)
		}
		return r, errors.Join(r.Warnings...).Error()
	}
	if _, warned := check(d.front); !strings.Contains(warned, "k.yaml:10: verifiers[0].socket: the helper does not answer") {
		t.Errorf("without a helper: %v", warned)
	}
	text, err := os.ReadFile(d.helper)
	if err != nil {
		t.Fatal(err)
	}
	less := strings.NewReplacer("{use: local}, ", "", "  - {name: local, type: file, users: users, digests: digests, cache: 30s}\n", "").Replace(string(text))
	if err := os.WriteFile(d.helper, []byte(less), 0o600); err != nil {
		t.Fatal(err)
	}
	h, _ := judgeFor(t, d)
	defer h.Shutdown()
	if _, warned := check(d.front); !strings.Contains(warned, "k.yaml:10: verifiers[0].judges[0]: the helper cannot judge passwords") {
		t.Errorf("with a helper that has no passwords: %v", warned)
	}
	var b strings.Builder
	r, err := Check(d.helper)
	if err != nil {
		t.Fatal(err)
	}
	r.Explain(&b)
	if !strings.Contains(b.String(), "judges principals, tickets\n  takes tickets for pop/localhost@DEMO.TEST\n") {
		t.Errorf("explained: %s", b.String())
	}
	for old, want := range map[string]string{
		`clients: ["` + strconv.Itoa(os.Getuid()) + `"]`: `clients: ["no such user"]`,
		"socket: socket": "socket: nowhere/socket",
	} {
		if err := os.WriteFile(d.helper, []byte(strings.Replace(less, old, want, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Check(d.helper); err == nil || !strings.Contains(err.Error(), "auth.yaml:1: auth.") {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// probe begins a SCRAM login and keeps what the server shows.
type probe struct{ login, shown string }

func (p *probe) Start() (string, []byte, error) {
	return "SCRAM-SHA-256", []byte("n,,n=" + p.login + ",r=fyko"), nil
}

func (p *probe) Next(challenge []byte) ([]byte, error) {
	p.shown = string(challenge)
	nonce, _, _ := strings.Cut(p.shown, ",")
	return []byte("c=biws," + nonce + ",p=" + base64.StdEncoding.EncodeToString(make([]byte, 32))), nil
}

// A name that nobody has is shown the iterations that users have whose keys only
// the helper can read, from the first on, and after they have changed.
func TestNobodyBehindHelper(t *testing.T) {
	t.Parallel()
	d := divide(t)
	dir := filepath.Dir(d.helper)
	write := func(iterations int) {
		t.Helper()
		k, err := scram.Make("SCRAM-SHA-256", authn.Password("pw-alice"), iterations)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "digests"), []byte("alice:SCRAM-SHA-256:"+string(k.Text())+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(4096)
	front, err := os.ReadFile(d.front)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(front), "offers: [GSSAPI, ", "offers: [SCRAM-SHA-256, GSSAPI, ", 1) + "scram: {salt_key: salt.key}\n"
	if err := errors.Join(os.WriteFile(d.front, []byte(text), 0o600), file.MakeKeyFile(filepath.Join(filepath.Dir(d.front), "salt.key"))); err != nil {
		t.Fatal(err)
	}
	h, _ := judgeFor(t, d)
	defer h.Shutdown()
	s, _ := serve(t, d.front)
	expect := func(iterations string) {
		t.Helper()
		for _, login := range []string{"nobody", "alice", "nobody2"} {
			p := &probe{login: login}
			if code := responseCode(saslAt(t, s, p)); code != "AUTH" {
				t.Errorf("%s: refused with %q", login, code)
			}
			if !strings.HasSuffix(p.shown, iterations) {
				t.Errorf("%s is shown %q, want %s", login, p.shown, iterations)
			}
		}
	}
	expect(",i=4096")
	write(7777)
	if err := h.Reload(); err != nil {
		t.Fatal(err)
	}
	expect(",i=7777")
}
