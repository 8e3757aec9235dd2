package pop3

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/md5"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/cram"
	"github.com/kpopd/kpopd/authn/plain"
	"github.com/kpopd/kpopd/maildrop"
	"github.com/kpopd/kpopd/maildrop/memory"
)

// files is a maildrop whose messages are files, as in a maildir.
type files struct {
	list  maildrop.Messages
	paths []string
}

func (f *files) Totals() (int, int64)                              { return f.list.Totals() }
func (f *files) Listing(context.Context) (maildrop.Listing, error) { return f.list, nil }
func (f *files) Commit(context.Context, []int) error               { return nil }
func (f *files) Close() error                                      { return nil }
func (f *files) Content(_ context.Context, i int) (io.ReadCloser, error) {
	return os.Open(f.paths[i])
}

func newFile(b *testing.B, text string) *files {
	b.Helper()
	path := filepath.Join(b.TempDir(), "message")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	var m maildrop.Message
	m.UID = "1"
	m.Size, m.WireForm, _ = maildrop.Measure(strings.NewReader(text))
	return &files{[]maildrop.Message{m}, []string{path}}
}

// certificate signs for loopback.
func certificate(b testing.TB) *tls.Config {
	b.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		b.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

// dialTLS returns both ends of a connection, with TLS when cfg is not nil.
func dialTLS(b testing.TB, cfg *tls.Config) (client, server net.Conn) {
	b.Helper()
	client, server = loopback(b)
	if cfg == nil {
		return client, server
	}
	client = tls.Client(client, &tls.Config{InsecureSkipVerify: true}) // the benchmark's own certificate
	return client, tls.Server(server, cfg)
}

// loginFast logs in in one write.
func (p *peer) loginFast() {
	p.t.Helper()
	p.want("+OK")
	fmt.Fprintf(p, "USER alice\r\nPASS %s\r\n", word)
	p.want("+OK")
	p.want("+OK")
}

// BenchmarkEncoder is what RETR does between file and socket.
func BenchmarkEncoder(b *testing.B) {
	for name, end := range map[string]string{"LF": "\n", "CRLF": "\r\n"} {
		b.Run(name, func(b *testing.B) {
			text := []byte(strings.Repeat(strings.Repeat("x", 70)+end, 900))
			w := writer{send: func([]byte) error { return nil }}
			w.enlarge()
			e := encoder{w: &w, lines: allLines, header: true}
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				if err := e.write(text); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkRetr is one message after the other, with the client in the same
// process. On TLS the allocations that grow with the size are the client's,
// one for each record it reads; TestRetrAllocations counts those of a session.
func BenchmarkRetr(b *testing.B) {
	line := strings.Repeat("x", 70)
	cfg := certificate(b)
	for _, size := range []int{8 << 10, 1 << 20, 16 << 20} {
		for _, sec := range []string{"tcp", "tls"} {
			for _, end := range []string{"LF", "wire"} {
				b.Run(fmt.Sprintf("size=%dKiB/%s/%s", size>>10, sec, end), func(b *testing.B) {
					eol, conf := "\n", cfg
					if end == "wire" {
						eol = "\r\n"
					}
					if sec == "tcp" {
						conf = nil
					}
					text := strings.Repeat(line+eol, size/(len(line)+len(eol)))
					retr(b, newFile(b, text), conf)
				})
			}
		}
	}
}

func retr(b *testing.B, drop *files, cfg *tls.Config) {
	client, server := dialTLS(b, cfg)
	p := serve(b, &Server{Backend: newBackend(openAs(drop))}, client, server)
	p.loginFast()
	want := drop.list[0].Size + int64(len("+OK  octets\r\n.\r\n")+len(strconv.FormatInt(drop.list[0].Size, 10)))
	buf := make([]byte, 256<<10)
	cmd := []byte("RETR 1\r\n")
	b.SetBytes(drop.list[0].Size)
	b.ReportAllocs()
	for b.Loop() {
		p.Write(cmd)
		for got := int64(0); got < want; {
			n, err := p.Conn.Read(buf)
			if err != nil {
				b.Fatal(err)
			}
			got += int64(n)
		}
	}
	p.Close()
	p.ended()
}

// BenchmarkTop is what fetchmail does in place of RETR.
func BenchmarkTop(b *testing.B) {
	drop := newFile(b, strings.Repeat(strings.Repeat("x", 70)+"\n", 1<<20/71))
	s := &session{drop: drop}
	s.out.send = func([]byte) error { return nil }
	b.SetBytes(drop.list[0].Size)
	b.ReportAllocs()
	a := args{[]byte("1"), []byte("99999999")}
	for b.Loop() {
		if err := s.top(b.Context(), a); err != nil {
			b.Fatal(err)
		}
		s.out.flush()
	}
}

// BenchmarkBatch is one segment of commands and their replies.
func BenchmarkBatch(b *testing.B) {
	var store memory.Store
	for range 100 {
		store.Deliver("alice", "Subject: x\n\nbody\n")
	}
	client, server := loopback(b)
	p := serve(b, &Server{Backend: newBackend(&store)}, client, server)
	p.loginFast()
	batch := []byte(strings.Repeat("LIST 7\r\n", 50) + "UIDL\r\n")
	b.ReportAllocs()
	for b.Loop() {
		p.Write(batch)
		for range 50 + 102 {
			if _, err := p.r.ReadSlice('\n'); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(51*float64(b.N)/b.Elapsed().Seconds(), "commands/s")
	p.Close()
	p.ended()
}

// keeper is a verifier that has a secret for every login as well.
type keeper struct{ anyone }

func (keeper) Secret(_ context.Context, login, _ string) (authn.Password, *authn.Identity, error) {
	return authn.Password(word), &authn.Identity{User: login}, nil
}

// logins are what a client says for each mechanism. ask sends a line and
// returns the reply without its end.
var logins = []struct {
	mech string
	in   func(greeting string, ask func(line string) (reply string))
}{
	{"USER", func(_ string, ask func(string) string) { ask("USER alice"); ask("PASS " + word) }},
	{"PLAIN", func(_ string, ask func(string) string) { ask("AUTH PLAIN " + plainMessage("alice", word)) }},
	{"LOGIN", func(_ string, ask func(string) string) {
		ask("AUTH LOGIN")
		ask(base64.StdEncoding.EncodeToString([]byte("alice")))
		ask(base64.StdEncoding.EncodeToString([]byte(word)))
	}},
	{"APOP", func(greeting string, ask func(string) string) {
		sum := md5.Sum([]byte(greeting[strings.IndexByte(greeting, '<'):] + word))
		ask("APOP alice " + hex.EncodeToString(sum[:]))
	}},
	{"CRAM-MD5", func(_ string, ask func(string) string) {
		challenge, _ := base64.StdEncoding.DecodeString(ask("AUTH CRAM-MD5")[len("+ "):])
		mac := hmac.New(md5.New, []byte(word))
		mac.Write(challenge)
		ask(base64.StdEncoding.EncodeToString([]byte("alice " + hex.EncodeToString(mac.Sum(nil)))))
	}},
}

// BenchmarkLogin is connect, login, STAT, QUIT, each command a round trip,
// with the client in the same process. TLS makes a full handshake.
func BenchmarkLogin(b *testing.B) {
	for _, sec := range []string{"tcp", "tls"} {
		var cfg *tls.Config
		if sec == "tls" {
			cfg = certificate(b)
		}
		for _, l := range logins {
			b.Run(sec+"/"+l.mech, func(b *testing.B) { login(b, cfg, l.in) })
		}
	}
}

func login(b *testing.B, cfg *tls.Config, in func(string, func(string) string)) {
	chain := authn.Chain{{Verifier: keeper{}}}
	backend := newBackend(&memory.Store{})
	backend.Offers = append(newOffers(chain), plain.LOGIN(chain), plain.APOP(chain), cram.New(chain, "pop.example"))
	addr := listen(b, &Server{Backend: backend}, cfg)
	r := bufio.NewReader(nil)
	b.ReportAllocs()
	for b.Loop() {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			b.Fatal(err)
		}
		if cfg != nil {
			c = tls.Client(c, &tls.Config{InsecureSkipVerify: true})
		}
		r.Reset(c)
		greeting, err := r.ReadString('\n')
		if err != nil {
			b.Fatal(err)
		}
		ask := func(line string) string {
			io.WriteString(c, line+"\r\n")
			reply, err := r.ReadString('\n')
			if err != nil || reply[0] != '+' {
				b.Fatalf("%q: %q, %v", line, reply, err)
			}
			return strings.TrimSuffix(reply, "\r\n")
		}
		in(strings.TrimSuffix(greeting, "\r\n"), ask)
		ask("STAT")
		ask("QUIT")
		c.Close()
	}
}

// listen serves srv on a port of loopback until b is over.
func listen(b *testing.B, srv *Server, cfg *tls.Config) (addr string) {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	var running sync.WaitGroup
	b.Cleanup(func() { l.Close(); running.Wait() })
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if cfg != nil {
				c = tls.Server(c, cfg)
			}
			running.Go(func() { srv.ServeConn(context.Background(), c, &authn.Transport{Remote: anywhere}) })
		}
	})
	return l.Addr().String()
}

// BenchmarkListing is UIDL of a large maildrop.
func BenchmarkListing(b *testing.B) {
	const n = 100_000
	list := make([]maildrop.Message, n)
	for i := range list {
		list[i] = maildrop.Message{UID: "1700000000.M" + strconv.Itoa(i) + "P42.mail.example", Size: int64(3000 + i)}
	}
	s := &session{drop: &files{list: list}}
	s.out.send = func([]byte) error { return nil }
	b.ReportAllocs()
	for b.Loop() {
		s.uidl(b.Context(), nil)
		s.out.flush()
	}
}

// BenchmarkIdle reports what an authenticated session holds while it waits:
// heap and stack, without what the kernel holds. The clients are in a process
// of their own, which has the other 10,000 descriptors.
func BenchmarkIdle(b *testing.B) {
	cfg := certificate(b)
	b.Run("tcp", func(b *testing.B) { idle(b, nil) })
	b.Run("tls", func(b *testing.B) { idle(b, cfg) })
}

const idleSessions = 10_000

func idle(b *testing.B, cfg *tls.Config) {
	addr := listen(b, &Server{Backend: newBackend(openAs(&files{}))}, cfg)
	exe, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		before := memoryInUse()
		clients := exec.Command(exe)
		clients.Env = append(os.Environ(), fmt.Sprintf("%s=%s %t", idleEnv, addr, cfg != nil))
		clients.Stderr = os.Stderr
		leave, err := clients.StdinPipe()
		if err != nil {
			b.Fatal(err)
		}
		said, err := clients.StdoutPipe()
		if err != nil {
			b.Fatal(err)
		}
		if err := clients.Start(); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(said, make([]byte, 1)); err != nil { // all are logged in
			b.Fatal(err)
		}
		b.ReportMetric(float64(memoryInUse()-before)/idleSessions, "octets/session")
		leave.Close()
		if err := clients.Wait(); err != nil {
			b.Fatal(err)
		}
	}
}

// idleEnv tells the process of the clients of BenchmarkIdle where to go.
const idleEnv = "KPOPD_TEST_IDLE_CLIENTS"

// idleClients logs in 10,000 times at to, an address and whether to speak TLS,
// and leaves when standard input ends.
func idleClients(to string) error {
	addr, sec, _ := strings.Cut(to, " ")
	clients := make([]net.Conn, idleSessions)
	for i := range clients {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return err
		}
		if sec == "true" {
			c = tls.Client(c, &tls.Config{InsecureSkipVerify: true})
		}
		clients[i] = c
		r := bufio.NewReader(c)
		for _, line := range []string{"", "USER alice\r\n", "PASS " + word + "\r\n"} {
			io.WriteString(c, line)
			if reply, err := r.ReadString('\n'); err != nil || reply[0] != '+' {
				return fmt.Errorf("session %d: %.4s: %q, %w", i, line, reply, err)
			}
		}
	}
	if _, err := io.WriteString(os.Stdout, "."); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, os.Stdin)
	runtime.KeepAlive(clients)
	return err
}

func memoryInUse() int64 {
	runtime.GC()
	runtime.GC() // shrinks stacks, empties the pools
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
