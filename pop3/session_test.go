package pop3

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/maildrop"
	"github.com/kpopd/kpopd/maildrop/memory"
)

// loopback returns both ends of a TCP connection.
func loopback(t testing.TB) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return client, server
}

// plainMessage is what PLAIN sends, in base64.
func plainMessage(user, password string) string {
	return base64.StdEncoding.EncodeToString([]byte("\x00" + user + "\x00" + password))
}

// TestNotReading: a client that sends commands and reads nothing waits; it
// gets every reply once it reads.
func TestNotReading(t *testing.T) {
	t.Parallel()
	const n = 100_000
	client, server := loopback(t)
	p := serve(t, &Server{Backend: newBackend(&memory.Store{})}, client, server)
	p.login("alice")
	wrote := make(chan error, 1)
	go func() { // ends when all is written
		_, err := io.WriteString(p, strings.Repeat("NOOP\r\n", n)+"QUIT\r\n")
		wrote <- err
	}()
	all, err := io.ReadAll(p.r)
	if err != nil || <-wrote != nil {
		t.Fatal(err)
	}
	if got := bytes.Count(all, []byte("+OK\r\n")); got != n || !bytes.HasSuffix(all, []byte("+OK Bye\r\n")) {
		t.Errorf("%d replies", got)
	}
}

// TestPipelining: a batch is answered by one write; in one segment or in
// segments of an octet the replies are the same.
func TestPipelining(t *testing.T) {
	t.Parallel()
	var store memory.Store
	store.Deliver("alice", "a: b\n\nc\n")
	batch := "USER alice\r\nPASS " + word + "\r\nSTAT\r\nUIDL\r\nRETR 1\r\nQUIT\r\n"
	run := func(step int) (string, int) {
		client, server := net.Pipe()
		w := &countWrites{Conn: server}
		p := serve(t, &Server{Backend: newBackend(&store)}, client, w)
		p.want("+OK")
		go func() { // ends with the batch
			for i := 0; i < len(batch); i += step {
				io.WriteString(p, batch[i:min(i+step, len(batch))])
			}
		}()
		all, err := io.ReadAll(p.r)
		if err != nil {
			t.Fatal(err)
		}
		p.ended()
		return string(all), w.n
	}
	whole, writes := run(len(batch))
	if writes != 2 {
		t.Errorf("%d writes, want the greeting and one", writes)
	}
	if octets, _ := run(1); octets != whole {
		t.Errorf("octet by octet: %q\nin one segment: %q", octets, whole)
	}
}

type countWrites struct {
	net.Conn
	n int
}

func (c *countWrites) Write(p []byte) (int, error) {
	c.n++
	return c.Conn.Write(p)
}

// TestPipelinedAfterAuth: wiping what was secret does not touch what follows.
func TestPipelinedAfterAuth(t *testing.T) {
	t.Parallel()
	for _, login := range []string{
		"AUTH PLAIN " + plainMessage("alice", word),
		"AUTH PLAIN\r\n" + plainMessage("alice", word),
		"AUTH PLAIN " + plainMessage("alice", "x") + "\r\nUSER alice\r\nPASS x\r\nUSER alice\r\nPASS " + word,
	} {
		p := talk(t, &Server{Backend: newBackend(&memory.Store{})})
		p.want("+OK")
		p.say(login, "STAT", "LIST", "UIDL", "NOOP", "NOOP", "NOOP", "QUIT")
		all, _ := io.ReadAll(p.r)
		if want := "+OK 0 0\r\n+OK 0 messages (0 octets)\r\n.\r\n+OK 0 messages (0 octets)\r\n.\r\n+OK\r\n+OK\r\n+OK\r\n+OK Bye\r\n"; !strings.HasSuffix(string(all), want) {
			t.Errorf("%q: %q", login, all)
		}
	}
}

// TestLongLines: a line over the limit is refused once, whatever its length,
// and the next one is read afresh.
func TestLongLines(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, line, reply string
	}{
		{"a command at the limit", "NOOP" + strings.Repeat(" ", maxCommand-6), "+OK"},
		{"a command over the limit", "NOOP" + strings.Repeat(" ", maxCommand-5), "-ERR Line too long"},
		{"a megabyte", strings.Repeat("x", 1<<20), "-ERR Line too long"},
		{"a megabyte of AUTH after login", "AUTH PLAIN " + strings.Repeat("A", 1<<20), "-ERR Line too long"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := talk(t, &Server{Backend: newBackend(&memory.Store{})})
			p.login("alice")
			p.say(tt.line, "STAT", "QUIT")
			p.want(tt.reply)
			p.want("+OK 0 0")
			p.want("+OK Bye")
			p.ended()
		})
	}
}

// TestLongResponses: inside AUTH there is room for a ticket, but not for more.
func TestLongResponses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		octets int // of the authorization identity
		reply  string
	}{
		{"a response of 90 KiB", 66 << 10, "-ERR [AUTH]"},
		{"a response of 130 KiB", 98 << 10, "-ERR Line too long"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			response := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("z", tt.octets) + "\x00alice\x00" + word))
			p := talk(t, &Server{Backend: newBackend(&memory.Store{}, greedy{})})
			p.want("+OK")
			p.say("AUTH BIG " + response)
			p.want(tt.reply)
			p.say("AUTH BIG", response, "CAPA")
			p.want("+ ")
			p.want(tt.reply)
			p.want("+OK Capa")
		})
	}
}

// greedy refuses after having seen all of a response.
type greedy struct{}

func (greedy) Name() string         { return "BIG" }
func (greedy) Traits() authn.Traits { return 0 }
func (b greedy) Start(context.Context, *authn.Transport) (authn.Exchange, error) {
	return b, nil
}
func (greedy) Identity() *authn.Identity { return nil }
func (greedy) Next(_ context.Context, response []byte) ([]byte, bool, error) {
	if response == nil {
		return []byte{}, false, nil
	}
	if !bytes.HasSuffix(response, []byte(word)) {
		return nil, false, &authn.Error{Kind: authn.Malformed, Step: "BIG"}
	}
	return nil, false, &authn.Error{Kind: authn.Rejected, Step: "BIG"}
}

// TestDecode: base64 is taken strictly, and in one piece.
func TestDecode(t *testing.T) {
	t.Parallel()
	for _, in := range []string{"", "AAAA", "YQ==", "YWI=", strings.Repeat("QUJD", 5000), strings.Repeat("QUJD", 256) + "YQ==", strings.Repeat("QUJD", 256)} {
		want, err := base64.StdEncoding.DecodeString(in)
		got, gotErr := decode([]byte(in))
		if err != nil || gotErr != nil || !bytes.Equal(got, want) || got == nil {
			t.Errorf("decode(%.20q...) = %.20q, %v", in, got, gotErr)
		}
	}
	for _, in := range []string{"=", "A", "AA", "AAA", "YR==", "YQ=", "YQ==YQ==", "A A=", "AAAA\r", "AA\rAA", "AA-_", "AAAA=", "*", "AAA*", strings.Repeat("QUJD", 255) + "YQ==QUJD"} {
		if _, err := decode([]byte(in)); authn.KindOf(err) != authn.Malformed {
			t.Errorf("decode(%q): %v", in, err)
		}
	}
}

// TestNumbers: no sign, no leading zeros, no other digits, no overflow.
func TestNumbers(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]uint64{"0": 0, "7": 7, "10": 10, "4294967297": 4294967297, "9999999999999999999": 9999999999999999999} {
		if n, ok := parseNumber([]byte(in)); !ok || n != want {
			t.Errorf("%q is %d, %v", in, n, ok)
		}
	}
	for _, in := range []string{"", "+1", "-1", "01", "00", "1x", "0x1", "1e3", " 1", "1 ", "\u0661", "\uff11", "18446744073709551616", "99999999999999999999"} {
		if n, ok := parseNumber([]byte(in)); ok {
			t.Errorf("%q is %d", in, n)
		}
	}
}

// xored is a security layer for tests: all octets are flipped.
type xored struct{ net.Conn }

func (c xored) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	flip(p[:n])
	return n, err
}

func (c xored) Write(p []byte) (int, error) {
	q := bytes.Clone(p)
	flip(q)
	return c.Conn.Write(q)
}

func flip(p []byte) {
	for i := range p {
		p[i] ^= 0x55
	}
}

// xor is a mechanism that lets everybody in and puts a layer on the session.
type xor struct{}

func (xor) Name() string         { return "XOR" }
func (xor) Traits() authn.Traits { return 0 }
func (x xor) Start(context.Context, *authn.Transport) (authn.Exchange, error) {
	return x, nil
}

func (xor) Next(context.Context, []byte) ([]byte, bool, error) { return nil, true, nil }
func (xor) Identity() *authn.Identity                          { return &authn.Identity{User: "alice"} }

func (xor) Layer() func(net.Conn) net.Conn {
	return func(c net.Conn) net.Conn { return xored{c} }
}

// TestLayer: a security layer starts with the octet after the CRLF of +OK, on
// both sides, also when its first octets came with the last response.
func TestLayer(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		together bool
	}{{"in the next segment", false}, {"in the same segment", true}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := talk(t, &Server{Backend: newBackend(&memory.Store{}, xor{})})
			p.want("+OK")
			layered := []byte("STAT\r\nCAPA\r\nQUIT\r\n")
			flip(layered)
			auth := []byte("AUTH XOR =\r\n")
			go func() { // ends when the server has read it
				if tt.together {
					p.Write(append(auth, layered...))
					return
				}
				p.Write(auth)
				p.Write(layered)
			}()
			p.want("+OK 0 messages")
			all, err := io.ReadAll(p.r)
			if err != nil {
				t.Fatal(err)
			}
			flip(all)
			if !bytes.HasPrefix(all, []byte("+OK 0 0\r\n+OK Cap")) || !bytes.HasSuffix(all, []byte("+OK Bye\r\n")) {
				t.Errorf("under the layer: %q", all)
			}
		})
	}
}

// TestLimits: too many refusals end the session with the last of them.
func TestLimits(t *testing.T) {
	t.Parallel()
	login := "USER alice\r\nPASS " + word + "\r\n"
	for _, tt := range []struct {
		name, say string
		refused   int
		reason    Reason
	}{
		{"bad commands before login", strings.Repeat("CAPA\r\nXYZZY\r\n", 10), maxBadBefore, Refused},
		{"bad commands after login", login + strings.Repeat("RETR 9\r\n", 30), maxBadAfter, Refused},
		{"good commands between", login + strings.Repeat("RETR 9\r\nNOOP\r\n", 30) + "QUIT\r\n", 30, Quit},
		{"refused logins", strings.Repeat("AUTH PLAIN "+plainMessage("alice", "x")+"\r\n", 10), 3, Refused},
		{"HTTP", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", 1, Mismatch},
		{"SMTP", "ehlo x\r\nMAIL FROM:<>\r\n", 1, Mismatch},
		{"TLS without a line end", "\x16\x03\x01\x02\x00", 1, Mismatch},
		{"a PROXY header", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", 1, Mismatch},
		{"a PROXY header, version 2", "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c", 1, Mismatch},
		{"HTTP later is a bad command", "CAPA\r\nGET / HTTP/1.1\r\nQUIT\r\n", 1, Quit},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			client, server := loopback(t)
			srv, done := traced(&Server{Backend: newBackend(&memory.Store{})})
			p := serve(t, srv, client, server)
			go io.WriteString(p, tt.say) // ends when it is written
			all, err := io.ReadAll(p.r)
			if err != nil {
				t.Fatal(err)
			}
			p.Close()
			if n := bytes.Count(all, []byte("-ERR")); n != tt.refused {
				t.Errorf("refused %d times, want %d: %q", n, tt.refused, all)
			}
			if d := <-done; d.Reason != tt.reason {
				t.Errorf("ended by %s, want %s", d.Reason, tt.reason)
			}
		})
	}
}

// panicky panics where it is told to.
type panicky struct {
	endless
	where string
}

func (d *panicky) Content(ctx context.Context, i int) (io.ReadCloser, error) {
	if d.where == "content" {
		panic("content")
	}
	return io.NopCloser(readFunc(func([]byte) (int, error) { panic("read") })), nil
}

func (d *panicky) Commit(context.Context, []int) error { panic("commit") }

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

// TestPanic: a panic passes through, but the maildrop is free and the
// connection closed.
func TestPanic(t *testing.T) {
	t.Parallel()
	for where, say := range map[string]string{"content": "RETR 1", "read": "RETR 1", "commit": "QUIT"} {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			drop := &panicky{where: where}
			drop.m.Size = 1
			srv, done := traced(&Server{Backend: newBackend(openAs(drop))})
			client, server := net.Pipe()
			recovered := make(chan any, 1)
			go func() { // ends with the panic
				defer func() { recovered <- recover() }()
				srv.ServeConn(t.Context(), server, &authn.Transport{Remote: anywhere})
			}()
			go io.WriteString(client, "USER a\r\nPASS "+word+"\r\n"+say+"\r\n") // ends when it is read
			io.Copy(io.Discard, client)
			if v := <-recovered; v != where {
				t.Errorf("recovered %v", v)
			}
			if d := <-done; d.Reason != Panicked || !drop.closed.Load() {
				t.Errorf("ended by %s, maildrop closed: %v", d.Reason, drop.closed.Load())
			}
		})
	}
}

// TestErrorsOfAStore: an error that looks like a lost connection is a reply,
// and tells nothing.
func TestErrorsOfAStore(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		err  error
		want string
	}{
		{io.EOF, "-ERR [SYS/TEMP] "},
		{net.ErrClosed, "-ERR [SYS/TEMP] "},
		{errors.New("open /var/mail/alice: secret"), "-ERR [SYS/TEMP] "},
		{maildrop.ErrInUse, "-ERR [IN-USE] "},
		{
			fmt.Errorf("open: %w", &maildrop.InUseError{Since: time.Unix(0, 0), Remote: "[2001:db8::7]:1", Own: true}),
			"-ERR [IN-USE] Maildrop is in use by another session since 1970-01-01 00:00:00 UTC, from 2001:db8::7",
		},
		{
			&maildrop.InUseError{Since: time.Unix(0, 0), Remote: "secret:1"},
			"-ERR [IN-USE] Maildrop is in use by another session since 1970-01-01 00:00:00 UTC",
		},
		{maildrop.ErrTemporary, "-ERR [SYS/TEMP] "},
		{maildrop.ErrPermanent, "-ERR [SYS/PERM] "},
	} {
		store := storeFunc(func(context.Context, maildrop.Ref) (maildrop.Drop, error) { return nil, tt.err })
		p := talk(t, &Server{Backend: newBackend(store)})
		p.want("+OK")
		p.say("USER alice", "PASS "+word, "QUIT")
		p.want("+OK")
		if got := p.line(); !strings.HasPrefix(got, tt.want) || strings.Contains(got, "secret") {
			t.Errorf("%v: %q", tt.err, got)
		}
		p.want("+OK Bye")
		p.ended()
	}
}

// TestReplyText: what a mechanism says to the client is one line of printable
// ASCII that fits.
func TestReplyText(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		kind authn.Kind
		text string
		want string
	}{
		{authn.Denied, "alice@R may not read bob", "[AUTH] alice@R may not read bob"},
		{authn.Rejected, "", "[AUTH] Authentication failed"},
		{authn.Unavailable, "a\r\n+OK b", `[SYS/TEMP] a\r\n+OK b`},
		{authn.Malformed, "", "Malformed authentication exchange"},
		{authn.Internal, "", "[SYS/TEMP] Login is unavailable, try later"},
		{authn.Decline, "", "[SYS/TEMP] Login is unavailable, try later"},
	} {
		got := reply(&authn.Error{Kind: tt.kind, Text: tt.text, Err: errors.New("inner")})
		if got != tt.want {
			t.Errorf("%v: %q, want %q", tt.kind, got, tt.want)
		}
	}
	if got := reply(&authn.Error{Text: strings.Repeat("\x00", 5000)}); len(got) > 500 {
		t.Errorf("%d octets", len(got))
	}
}

// TestLog: one line for each fact, whatever the client sends, and no secret in
// any.
func TestLog(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	log := slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug}))
	evil := "al\x1b[2Jice\xff\u202e" + strings.Repeat("x", 300)
	client, server := net.Pipe()
	p := serve(t, &Server{Backend: newBackend(&memory.Store{}), Log: log}, client, server)
	p.want("+OK")
	for _, l := range []string{
		"AUTH PLAIN " + plainMessage(evil, "hunter2"), "PASS hunter2",
		"USER " + strings.Repeat("y", 300) + "\xff", "PASS hunter2", "XPASS hunter2", "hunter2",
	} {
		p.say(l)
		p.line()
	}
	p.ended()
	out := b.String()
	for line := range strings.Lines(out) {
		if !strings.HasPrefix(line, "time=") || len(line) > 1000 {
			t.Errorf("line of %d octets: %.200q", len(line), line)
		}
	}
	for _, bad := range []string{"hunter2", base64.StdEncoding.EncodeToString([]byte("hunter2")), "\x1b", "\xff", "\u202e", strings.Repeat("y", 200)} {
		if strings.Contains(out, bad) {
			t.Errorf("%q is in the log", bad)
		}
	}
	for _, want := range []string{"login refused", "session ended", "reason=refused"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in the log:\n%s", want, out)
		}
	}
}

// TestRecord: the trace has the facts of a session.
func TestRecord(t *testing.T) {
	t.Parallel()
	var store memory.Store
	for range 3 {
		store.Deliver("alice", "a\n")
	}
	srv, done := traced(&Server{Backend: newBackend(&store)})
	p := talk(t, srv)
	p.login("alice")
	p.say("RETR 1", "TOP 2 0", "RETR 3", "DELE 1", "DELE 2", "QUIT")
	n, _ := io.Copy(io.Discard, p.r)
	d := <-done
	if d.Commands != 8 || d.Retrieved != 2 || d.Deleted != 2 || d.Octets <= n || d.Reason != Quit || d.Err != nil || d.Identity.User != "alice" {
		t.Errorf("%+v", d)
	}
}

// TestIdleMemory: what a session holds while it waits, its pipe included. The
// stack of its goroutine comes on top. What other tests left behind may go or
// come meanwhile, so the least of some measurements counts.
func TestIdleMemory(t *testing.T) {
	const limit = 6 << 10
	least := idleHeap(t)
	for range 4 {
		if least <= limit {
			return
		}
		least = min(least, idleHeap(t))
	}
	t.Errorf("%d octets each", least)
}

func idleHeap(t *testing.T) int64 {
	const n = 1000
	srv := &Server{Backend: newBackend(&memory.Store{})}
	before := heap()
	var peers []*peer
	for range n {
		client, server := net.Pipe()
		p := &peer{t: t, Conn: client, done: make(chan error, 1)}
		go func() { p.done <- srv.ServeConn(t.Context(), server, &authn.Transport{}) }() // ends when client is closed
		var greeting [64]byte
		client.Read(greeting[:])
		peers = append(peers, p)
	}
	each := (heap() - before) / n
	for _, p := range peers {
		p.Close()
		<-p.done
	}
	return each
}

// heap is what lives on the heap.
func heap() int64 {
	runtime.GC()
	runtime.GC() // empties the pools
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestMessageGone: a message that vanished is refused; asking twice ends the
// session.
func TestMessageGone(t *testing.T) {
	t.Parallel()
	var store memory.Store
	a, b := store.Deliver("alice", "a\n"), store.Deliver("alice", "b\n")
	store.Deliver("alice", "c\n")
	srv, done := traced(&Server{Backend: newBackend(&store)})
	p := talk(t, srv)
	p.login("alice")
	store.Remove("alice", a)
	store.Remove("alice", b)
	p.say("RETR 1", "RETR 2", "RETR 3")
	p.want("-ERR [SYS/TEMP]")
	p.want("-ERR [SYS/TEMP]")
	p.want("+OK 3 octets")
	p.want("c")
	p.want(".")
	p.say("TOP 2 0", "NOOP")
	p.want("-ERR [SYS/TEMP]")
	if l, err := p.r.ReadString('\n'); err == nil {
		t.Errorf("then said %q", l)
	}
	if d := <-done; d.Reason != Refused {
		t.Errorf("ended by %s", d.Reason)
	}
}

// TestStamps: digits and one dot before the "@", never the same.
func TestStamps(t *testing.T) {
	t.Parallel()
	form := regexp.MustCompile(`^<[0-9]+\.[0-9]+@pop\.example>$`)
	seen := make(map[string]bool)
	for range 1000 {
		s := stamp("pop.example")
		if seen[s] || !form.MatchString(s) {
			t.Fatalf("%q", s)
		}
		seen[s] = true
	}
}

// TestSASLLine: no name that fetchmail knows lies across the end of what fetchmail looks at.
func TestSASLLine(t *testing.T) {
	t.Parallel()
	names := []string{"PLAIN", "SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "SCRAM-SHA-1", "OAUTHBEARER", "GSSAPI", "CRAM-MD5", "LOGIN"}
	var offers []authn.Mechanism
	for _, n := range names {
		offers = append(offers, named(n))
	}
	line := saslLine(offers)
	for _, n := range []string{"GSSAPI", "CRAM-MD5"} {
		if i := strings.Index(line, n); i < 0 || i/piece != (i+len(n)-1)/piece {
			t.Errorf("%s at %d of %q", n, i, line)
		}
	}
	if len(strings.Fields(line)) != 1+len(names) {
		t.Errorf("%q", line)
	}
	if got := saslLine([]authn.Mechanism{named("PLAIN"), named("GSSAPI")}); got != "SASL PLAIN GSSAPI\r\n" {
		t.Errorf("%q", got)
	}
}

type named string

func (n named) Name() string       { return string(n) }
func (named) Traits() authn.Traits { return 0 }
func (named) Start(context.Context, *authn.Transport) (authn.Exchange, error) {
	return nil, errors.New("not for use")
}

// TestQuitThenGone: QUIT counts also when the client does not wait for its
// reply; going without it removes nothing.
func TestQuitThenGone(t *testing.T) {
	t.Parallel()
	for say, left := range map[string]int{"DELE 1\r\nQUIT\r\n": 0, "DELE 1\r\n": 1, "DELE 1\r\nQUIT": 1} {
		var store memory.Store
		store.Deliver("alice", "a\n")
		client, server := loopback(t)
		p := serve(t, &Server{Backend: newBackend(&store)}, client, server)
		p.login("alice")
		io.WriteString(client, say)
		client.Close()
		if err := p.ended(); err != nil {
			t.Error(err)
		}
		d, err := store.Open(t.Context(), maildrop.Ref{User: "alice"})
		if err != nil {
			t.Fatal(err)
		}
		if n, _ := d.Totals(); n != left {
			t.Errorf("%q: %d left", say, n)
		}
		d.Close()
	}
}

// TestUserThenPass: a name holds for one PASS, and only for the next command;
// CAPA and a refused AUTH do not count.
func TestUserThenPass(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		say  []string
		last string
	}{
		{"at once", []string{"USER alice"}, "+OK"},
		{"CAPA between", []string{"USER alice", "CAPA"}, "+OK"},
		{"a refused AUTH between", []string{"USER alice", "AUTH PLAIN " + plainMessage("bob", "x")}, "+OK"},
		{"an unknown AUTH between", []string{"USER alice", "AUTH NONE"}, "+OK"},
		{"another command between", []string{"USER alice", "NOOP"}, "-ERR Send USER"},
		{"an unknown command between", []string{"USER alice", "XYZZY"}, "-ERR Send USER"},
		{"LANG between", []string{"USER alice", "LANG *"}, "-ERR Send USER"},
		{"a refused USER between", []string{"USER alice", "USER"}, "-ERR Send USER"},
		{"a refused PASS between", []string{"USER alice", "PASS wrong"}, "-ERR Send USER"},
		{"a malformed PASS between", []string{"USER alice", "PASS a\x00b"}, "-ERR Send USER"},
		{"two names", []string{"USER bob", "USER alice"}, "+OK"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := talk(t, &Server{Backend: newBackend(&memory.Store{})})
			p.want("+OK")
			p.say(append(tt.say, "PASS "+word, "QUIT")...)
			all, err := io.ReadAll(p.r)
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(string(all), "\r\n")
			if got := lines[len(lines)-3]; !strings.HasPrefix(got, tt.last) {
				t.Errorf("PASS answered %q: %q", got, all)
			}
			p.ended()
		})
	}
}

// TestLongChallenge: the plus leaves together with what follows it.
func TestLongChallenge(t *testing.T) {
	t.Parallel()
	var writes [][]byte
	s := &session{}
	s.out.send = func(p []byte) error { writes = append(writes, bytes.Clone(p)); return nil }
	c := bytes.Repeat([]byte("c"), 20_000)
	s.challenge(c)
	s.out.flush()
	if got, want := string(bytes.Join(writes, nil)), "+ "+base64.StdEncoding.EncodeToString(c)+"\r\n"; got != want || len(writes[0]) < 1000 {
		t.Errorf("%d octets, %d of them in the first write; want %d", len(got), len(writes[0]), len(want))
	}
}
