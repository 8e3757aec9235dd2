package pop3

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/maildrop"
	"github.com/kpopd/kpopd/maildrop/memory"
)

// files is a maildrop whose messages are files, as in a maildir.
type files struct {
	list  []maildrop.Message
	paths []string
}

func (f *files) Messages() []maildrop.Message        { return f.list }
func (f *files) Commit(context.Context, []int) error { return nil }
func (f *files) Close() error                        { return nil }
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

// BenchmarkSession is connect, login, STAT, QUIT, each command a round trip,
// with the client in the same process. TLS makes a full handshake.
func BenchmarkSession(b *testing.B) {
	cfg := certificate(b)
	user := "USER alice\r\nPASS " + word + "\r\n"
	b.Run("tcp/USER", func(b *testing.B) { sessions(b, nil, user) })
	b.Run("tcp/PLAIN", func(b *testing.B) { sessions(b, nil, "AUTH PLAIN "+plainMessage("alice", word)+"\r\n") })
	b.Run("tls/USER", func(b *testing.B) { sessions(b, cfg, user) })
}

func sessions(b *testing.B, cfg *tls.Config, login string) {
	srv := &Server{Backend: newBackend(&memory.Store{})}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	var running sync.WaitGroup
	defer running.Wait()
	defer l.Close()
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
	script := strings.SplitAfter(login+"STAT\r\nQUIT\r\n", "\n")
	script = script[:len(script)-1]
	r := bufio.NewReader(nil)
	b.ReportAllocs()
	for b.Loop() {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		if cfg != nil {
			c = tls.Client(c, &tls.Config{InsecureSkipVerify: true})
		}
		r.Reset(c)
		r.ReadSlice('\n')
		for _, cmd := range script {
			io.WriteString(c, cmd)
			if l, err := r.ReadSlice('\n'); err != nil || !bytes.HasPrefix(l, []byte("+OK")) {
				b.Fatalf("%q: %q, %v", cmd, l, err)
			}
		}
		c.Close()
	}
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
// heap and stack, without what the kernel holds. Of the clients only the
// sockets are left.
func BenchmarkIdle(b *testing.B) {
	cfg := certificate(b)
	b.Run("tcp", func(b *testing.B) { idle(b, nil) })
	b.Run("tls", func(b *testing.B) { idle(b, cfg) })
}

func idle(b *testing.B, cfg *tls.Config) {
	const sessions = 9000 // two descriptors each, and 20,000 is a usual limit
	srv := &Server{Backend: newBackend(openAs(&files{}))}
	for b.Loop() {
		before := memoryInUse()
		clients := make([]net.Conn, sessions)
		var all sync.WaitGroup
		for i := range clients {
			client, server := loopback(b)
			clients[i] = client
			if cfg != nil {
				client, server = tls.Client(client, &tls.Config{InsecureSkipVerify: true}), tls.Server(server, cfg)
			}
			all.Go(func() { srv.ServeConn(context.Background(), server, &authn.Transport{Remote: anywhere}) })
			p := &peer{t: b, Conn: client, r: bufio.NewReader(client)}
			p.loginFast()
		}
		b.ReportMetric(float64(memoryInUse()-before)/sessions, "octets/session")
		for _, c := range clients {
			c.Close()
		}
		all.Wait()
	}
}

func memoryInUse() int64 {
	runtime.GC()
	runtime.GC() // shrinks stacks, empties the pools
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
