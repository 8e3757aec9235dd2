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
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/kpopd/kpopd/authn/file"
	"github.com/kpopd/kpopd/cmd/internal/config"
	"github.com/kpopd/kpopd/maildrop/maildir"
	"github.com/kpopd/kpopd/pop3/client"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// syncBuffer is a log that a test can read while it is written.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

const base = `listeners:
  - {name: inside, address: "127.0.0.1:0", policy: inside}
policies:
  - {name: inside, chain: staff, offers: [USER], plain: trusted, trusted: [127.0.0.0/8]}
chains:
  - {name: staff, steps: [{use: local}]}
verifiers:
  - {name: local, type: file, users: users}
maildrops: {root: mail}
`

// hash is that of password: sha512 with 5,000 rounds, as mkpasswd makes it.
const (
	hash     = "$6$peers$iTzhmhYKi.JotJSaSdGxCPIjbgbL8At.CXJMQFfJdnSZ2OmY0EBbF4InRaGYPeBbmW1zIzjMkbpKG2inHEZVD/"
	password = "pw-alice"
)

// folder has the files that base names.
func folder(t *testing.T, configuration string) (path string) {
	t.Helper()
	dir := t.TempDir()
	if err := errors.Join(
		os.Mkdir(filepath.Join(dir, "mail"), 0o700),
		maildir.Make(filepath.Join(dir, "mail", "alice")),
		file.SetHash(filepath.Join(dir, "users"), "alice", hash),
		os.WriteFile(filepath.Join(dir, "k.yaml"), []byte(configuration), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "k.yaml")
}

func serve(t *testing.T, path string) (*Server, *syncBuffer) {
	t.Helper()
	log := &syncBuffer{}
	s, err := Start(t.Context(), path, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Shutdown(nil) })
	return s, log
}

func dial(t *testing.T, s *Server) *client.Client {
	t.Helper()
	conn, err := net.Dial("tcp", s.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c, err := client.New(t.Context(), conn, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A reload that changes nothing of them keeps the store, whose listings are
// warm, and the socket.
func TestReloadKeepsParts(t *testing.T) {
	t.Parallel()
	path := folder(t, base)
	s, _ := serve(t, path)
	kept, socket := *s.current.parts, s.listening[0]
	if err := s.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p := s.current.parts; p.store != kept.store || s.listening[0] != socket || p.hashes != kept.hashes || p.throttle != kept.throttle {
		t.Error("the store, the socket, the budget of hashes or the throttle is another one")
	}
	other := strings.Replace(base, "{root: mail}", "{root: mail, trust_sizes: true}", 1)
	if err := os.WriteFile(path, []byte(other), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s.current.parts.store == kept.store {
		t.Error("the store has the old options")
	}
}

// A file that is broken when the configuration is read again leaves its old
// content in force; once it is mended, the new is.
func TestReloadReadsUsers(t *testing.T) {
	t.Parallel()
	path := folder(t, base)
	users := filepath.Join(filepath.Dir(path), "users")
	s, _ := serve(t, path)
	for _, c := range []struct {
		content string
		reloads bool
		alice   bool
	}{{"alice\n", false, true}, {"bob:*\n", true, false}} {
		if err := os.WriteFile(users, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := s.Reload(t.Context()); (err == nil) != c.reloads {
			t.Errorf("%q: %v", c.content, err)
		}
		if err := poll(t.Context(), s.Addrs()[0].String()); (err == nil) != c.alice {
			t.Errorf("%q: alice: %v", c.content, err)
		}
	}
}

// Half of the room is for those who have logged in.
func TestStrangersDoNotFillTheRoom(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ connections, preAuth, want int }{
		{100, 1024, 50}, {100, 10, 10}, {1, 1024, 1}, {100, 0, 0},
	} {
		cfg := &config.Config{Limits: config.Limits{Connections: c.connections, PreAuth: c.preAuth}}
		if got := limits(cfg).PreAuth; got != c.want {
			t.Errorf("%d connections, %d not logged in: %d, want %d", c.connections, c.preAuth, got, c.want)
		}
	}
}

// Who has logged in no longer makes room for newcomers.
func TestLoggedInStays(t *testing.T) {
	t.Parallel()
	s, log := serve(t, folder(t, base+"limits: {pre_auth: 1}\n"))
	member := dial(t, s)
	if err := member.UserPass(t.Context(), "alice", password); err != nil {
		t.Fatal(err)
	}
	oldest := dial(t, s)
	dial(t, s)
	if err := oldest.Noop(t.Context()); err == nil {
		t.Error("the oldest that has not logged in is still there")
	}
	if err := member.Noop(t.Context()); err != nil {
		t.Error("who had logged in is gone:", err)
	}
	s.Shutdown(nil) // and with it the log
	if !strings.Contains(log.String(), "closed to make room") {
		t.Errorf("the log does not say so:\n%s", log)
	}
}

// A hundred sessions log in at once while the configuration is reloaded.
func TestReloadUnderLoad(t *testing.T) {
	t.Parallel()
	s, _ := serve(t, folder(t, base))
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			for range 10 {
				if err := poll(t.Context(), s.Addrs()[0].String()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 20 {
		if err := s.Reload(t.Context()); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
}

// poll is a session of a user who may meet another one of his own.
func poll(ctx context.Context, address string) error {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	c, err := client.New(ctx, conn, nil)
	if err != nil {
		return err
	}
	err = c.UserPass(ctx, "alice", password)
	var refused *client.ServerError
	if errors.As(err, &refused) && refused.Code == "IN-USE" {
		return nil
	}
	if err != nil {
		return fmt.Errorf("log in: %w", err)
	}
	return c.Quit(ctx)
}

// What cannot work is refused at its key, before a socket is opened.
func TestStartRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, old, new, want string }{
		{"users file that is not there", "users: users", "users: nobody", "k.yaml:8: verifiers[0]: "},
		{"mail root that is not there", "root: mail", "root: nowhere", "k.yaml:9: maildrops.root: "},
		{"keytab that is not there", "maildrops:", "kerberos: {keytab: none, replay_cache: memory}\nmaildrops:", "k.yaml:9: kerberos.keytab: "},
		{"address that is not ours", "127.0.0.1:0", "192.0.2.1:1", "k.yaml:2: listeners[0].address: "},
		{"certificate that is not there", "policies:", "certificates: [{name: x, cert: x.crt, key: x.key}]\npolicies:", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			text := strings.Replace(base, c.old, c.new, 1)
			if c.want == "" {
				text = strings.Replace(text, `0", policy`, `0", tls: starttls, policy`, 1)
				c.want = "k.yaml:3: certificates[0]: read certificate"
			}
			s, err := Start(t.Context(), folder(t, text), &syncBuffer{})
			if err == nil {
				s.Shutdown(nil)
				t.Fatal("started")
			}
			var p *config.Problem
			if !errors.As(err, &p) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}
