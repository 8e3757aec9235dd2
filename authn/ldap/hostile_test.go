package ldap

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"

	"github.com/kpopd/kpopd/authn"
)

// puppet is an LDAP server that answers what a test wants.
type puppet struct {
	url    string
	answer func(q question) []byte // nil closes the connection, an empty one says nothing

	mu    sync.Mutex
	heard []question
}

type question struct {
	conn int // number of the connection, from 1
	id   int64
	op   ber.Tag
	text string // DN of a bind, OID of an extended request
	wire []byte
}

// newPuppet listens on a unix socket, or on TCP.
func newPuppet(t *testing.T, network string, answer func(question) []byte) *puppet {
	t.Helper()
	p := &puppet{answer: answer}
	addr := "127.0.0.1:0"
	if network == "unix" {
		dir, err := os.MkdirTemp("", "ldap") // t.TempDir is too long for a unix socket
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		addr = filepath.Join(dir, "s")
	}
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	p.url = "ldap://" + l.Addr().String()
	if network == "unix" {
		p.url = "ldapi://" + url.QueryEscape(addr)
	}
	var wg sync.WaitGroup
	wg.Go(func() { // ended by the listener's end
		for n := 1; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { p.serve(c, n) }) // ended by the client
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() }) // after the verifier was closed
	return p
}

func (p *puppet) serve(c net.Conn, n int) {
	defer c.Close()
	for {
		var wire bytes.Buffer
		packet, err := ber.ReadPacket(io.TeeReader(c, &wire))
		if err != nil || len(packet.Children) < 2 {
			return
		}
		q := question{conn: n, op: packet.Children[1].Tag, wire: wire.Bytes()}
		q.id, _ = packet.Children[0].Value.(int64)
		switch op := packet.Children[1]; {
		case q.op == ldap.ApplicationBindRequest && len(op.Children) > 1:
			q.text, _ = op.Children[1].Value.(string)
		case q.op == ldap.ApplicationExtendedRequest && len(op.Children) > 0:
			q.text = op.Children[0].Data.String()
		}
		p.mu.Lock()
		p.heard = append(p.heard, q)
		p.mu.Unlock()
		reply := p.answer(q)
		if reply == nil {
			return
		}
		if _, err := c.Write(reply); err != nil {
			return
		}
	}
}

// binds are the DNs that were bound.
func (p *puppet) binds() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []string
	for _, q := range p.heard {
		if q.op == ldap.ApplicationBindRequest {
			all = append(all, q.text)
		}
	}
	return all
}

func message(id int64, op *ber.Packet) []byte {
	m := ber.NewSequence("")
	m.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagInteger, id, ""))
	m.AppendChild(op)
	return m.Bytes()
}

func text(s string) *ber.Packet {
	return ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, s, "")
}

// result is an LDAPResult.
func result(q question, op ber.Tag, code int64) []byte {
	r := ber.Encode(ber.ClassApplication, ber.TypeConstructed, op, nil, "")
	r.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagEnumerated, code, ""))
	r.AppendChild(text(""))
	r.AppendChild(text(""))
	return message(q.id, r)
}

func bound(q question, code int64) []byte {
	return result(q, ldap.ApplicationBindResponse, code)
}

// found is entries with a uid and the end of a search.
func found(q question, code int64, dns ...string) []byte {
	var b []byte
	for _, dn := range dns {
		e := ber.Encode(ber.ClassApplication, ber.TypeConstructed, ldap.ApplicationSearchResultEntry, nil, "")
		e.AppendChild(text(dn))
		list := ber.NewSequence("")
		a := ber.NewSequence("")
		a.AppendChild(text("uid"))
		set := ber.Encode(ber.ClassUniversal, ber.TypeConstructed, ber.TagSet, nil, "")
		set.AppendChild(text("alice"))
		a.AppendChild(set)
		list.AppendChild(a)
		e.AppendChild(list)
		b = append(b, message(q.id, e)...)
	}
	return append(b, result(q, ldap.ApplicationSearchResultDone, code)...)
}

// malformed is success with a control that nobody can read.
func malformed(q question) []byte {
	m := ber.NewSequence("")
	m.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagInteger, q.id, ""))
	r := ber.Encode(ber.ClassApplication, ber.TypeConstructed, ldap.ApplicationBindResponse, nil, "")
	r.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagEnumerated, int64(0), ""))
	r.AppendChild(text(""))
	r.AppendChild(text(""))
	m.AppendChild(r)
	controls := ber.Encode(ber.ClassContext, ber.TypeConstructed, 0, nil, "")
	c := ber.NewSequence("")
	c.AppendChild(text(ldap.ControlTypeBeheraPasswordPolicy))
	c.AppendChild(text("\x30\x03\x81\x01\x63")) // error 99
	controls.AppendChild(c)
	m.AppendChild(controls)
	return m.Bytes()
}

// honest answers well.
func honest(q question) []byte {
	if q.op == ldap.ApplicationBindRequest {
		return bound(q, 0)
	}
	return found(q, 0, "uid=alice,dc=example")
}

func puppetOptions(p ...*puppet) Options {
	o := Options{Base: "dc=example", Filter: "(uid=%u)", Timeout: patience}
	for _, x := range p {
		o.URLs = append(o.URLs, x.url)
	}
	return o
}

// S-28, S-29: whatever a directory sends, it is a login, an answer about the
// user or an outage; and it costs no more than it may.
func TestHostileServer(t *testing.T) {
	t.Parallel()
	onSearch := func(f func(question) []byte) func(question) []byte {
		return func(q question) []byte {
			if q.op == ldap.ApplicationSearchRequest {
				return f(q)
			}
			return honest(q)
		}
	}
	onBind := func(f func(question) []byte) func(question) []byte {
		return func(q question) []byte {
			if q.op == ldap.ApplicationBindRequest {
				return f(q)
			}
			return honest(q)
		}
	}
	for _, tt := range []struct {
		name   string
		answer func(question) []byte
		want   authn.Kind // Internal for a login
		text   string     // in the error
	}{
		{"honest", honest, authn.Internal, ""},
		{"nothing found", onSearch(func(q question) []byte { return found(q, 0) }), authn.UnknownUser, ""},
		{"two entries", onSearch(func(q question) []byte { return found(q, 0, "uid=a", "uid=b") }), authn.Unavailable, "more than one entry"},
		{"two entries and the limit", onSearch(func(q question) []byte { return found(q, 4, "uid=a", "uid=b") }), authn.Unavailable, ""},
		{"one entry and the limit", onSearch(func(q question) []byte { return found(q, 4, "uid=a") }), authn.Unavailable, ""},
		{"one entry and an error", onSearch(func(q question) []byte { return found(q, 80, "uid=a") }), authn.Unavailable, ""},
		{"one entry and a referral", onSearch(func(q question) []byte { return found(q, 10, "uid=a") }), authn.Unavailable, ""},
		{"no base", onSearch(func(q question) []byte { return found(q, 32) }), authn.Unavailable, ""},
		{"may not search", onSearch(func(q question) []byte { return found(q, 50) }), authn.Unavailable, ""},
		{"an entry without a DN", onSearch(func(q question) []byte { return found(q, 0, "") }), authn.Unavailable, "without a DN"},
		{"entries without end", onSearch(func(q question) []byte {
			one := found(q, 0, "uid="+strings.Repeat("x", 1<<10))
			return bytes.Repeat(one[:len(one)-len(found(q, 0))], maxReply>>10)
		}), authn.Unavailable, "more than 4194304 octets"},
		{"nesting without end", onSearch(func(question) []byte { return bytes.Repeat([]byte{0x30, 0x80}, 1<<20) }), authn.Unavailable, "nesting depth"},
		{"nesting with lengths", onSearch(func(question) []byte {
			return bytes.Repeat([]byte{0x30, 0x84, 0x7f, 0xff, 0xff, 0xff}, 1<<18)
		}), authn.Unavailable, ""},
		{"a string of 2 GiB", onSearch(func(question) []byte {
			return append([]byte{0x30, 0x84, 0x7f, 0xff, 0xff, 0xff, 0x04, 0x84, 0x7f, 0xff, 0xff, 0xf0}, make([]byte, maxReply)...)
		}), authn.Unavailable, "more than 4194304 octets"},
		{"closed before the search", onSearch(func(question) []byte { return nil }), authn.Unavailable, ""},
		{"closed before the bind", onBind(func(question) []byte { return nil }), authn.Unavailable, ""},
		{"a message that is no bind response", onBind(func(q question) []byte { return message(q.id, text("")) }), authn.Unavailable, ""},
		{"a control that cannot be read", onBind(malformed), authn.Unavailable, ""},
		{"busy", onBind(func(q question) []byte { return bound(q, 51) }), authn.Unavailable, ""},
		{"wrong password", onBind(func(q question) []byte { return bound(q, 49) }), authn.Rejected, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := newPuppet(t, "unix", tt.answer)
			id, err := verify(t.Context(), open(t, puppetOptions(p)), "alice", "pw-alice")
			if tt.want == authn.Internal {
				if err != nil || id.User != "alice" {
					t.Errorf("got %+v, %v", id, err)
				}
			} else if id != nil || authn.KindOf(err) != tt.want || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %+v, %v, want %v with %q", id, err, tt.want, tt.text)
			}
			for _, dn := range p.binds() {
				if dn == "" {
					t.Error("a password was shown without a DN")
				}
			}
		})
	}
}

// A server of another protocol sends what may be the beginning of an answer.
func TestOtherProtocol(t *testing.T) {
	t.Parallel()
	p := newPuppet(t, "unix", func(question) []byte { return []byte("-ERR go away\r\n") })
	o := puppetOptions(p)
	o.Timeout = 100 * time.Millisecond
	if id, err := verify(t.Context(), open(t, o), "alice", "pw-alice"); id != nil || authn.KindOf(err) != authn.Unavailable {
		t.Errorf("got %+v, %v", id, err)
	}
}

// The verifier's own bind and StartTLS have result codes too. None is about the
// user, and where TLS does not begin no password is sent.
func TestOthersCodes(t *testing.T) {
	t.Parallel()
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("pw-kpopd"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, code := range []int64{1, 2, 4, 10, 19, 32, 48, 49, 50, 53, 80} {
		own := newPuppet(t, "unix", func(q question) []byte { return bound(q, code) })
		o := puppetOptions(own)
		o.Bind, o.BindDN, o.BindPassword = BindSimple, "cn=kpopd", password
		if id, err := verify(t.Context(), open(t, o), "alice", "pw-alice"); id != nil || authn.KindOf(err) != authn.Unavailable {
			t.Errorf("own bind, code %d: got %+v, %v", code, id, err)
		}
		stripped := newPuppet(t, "tcp", func(q question) []byte { return result(q, ldap.ApplicationExtendedResponse, code) })
		for _, o := range []Options{puppetOptions(stripped), byTemplate(puppetOptions(stripped))} {
			if id, err := verify(t.Context(), open(t, o), "alice", "pw-alice"); id != nil || authn.KindOf(err) != authn.Unavailable {
				t.Errorf("StartTLS, code %d: got %+v, %v", code, id, err)
			}
		}
		stripped.mu.Lock()
		for _, q := range stripped.heard {
			if q.op != ldap.ApplicationExtendedRequest || bytes.Contains(q.wire, []byte("pw-")) {
				t.Errorf("StartTLS, code %d: %q was sent in the clear", code, q.wire)
			}
		}
		stripped.mu.Unlock()
	}
}

// What comes in the clear behind the answer to StartTLS is not taken for an
// answer inside TLS.
func TestStartTLSInjection(t *testing.T) {
	t.Parallel()
	p := newPuppet(t, "tcp", func(q question) []byte {
		return append(result(q, ldap.ApplicationExtendedResponse, 0), bound(question{id: q.id + 1}, 0)...)
	})
	o := byTemplate(puppetOptions(p))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	time.AfterFunc(100*time.Millisecond, cancel) // if the handshake waits
	if id, err := verify(ctx, open(t, o), "alice", "pw-alice"); id != nil || authn.KindOf(err) != authn.Unavailable {
		t.Errorf("got %+v, %v", id, err)
	}
}

// A connection that the server closed while it was idle is replaced unseen.
func TestIdleConnectionsEnd(t *testing.T) {
	t.Parallel()
	p := newPuppet(t, "unix", nil)
	var mu sync.Mutex
	asked := map[int]int{}
	p.answer = func(q question) []byte {
		mu.Lock()
		defer mu.Unlock()
		if asked[q.conn]++; asked[q.conn] > 1 {
			return nil // hangs up on the second question
		}
		return honest(q)
	}
	v := open(t, puppetOptions(p))
	for range 5 {
		if id, err := verify(t.Context(), v, "alice", "pw-alice"); err != nil {
			t.Errorf("got %+v, %v", id, err)
		}
	}
}

// The answer to a bind that was given up is nobody's: a wrong password that
// comes next is not let in by it.
func TestLateAnswer(t *testing.T) {
	t.Parallel()
	held, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	p := newPuppet(t, "unix", func(q question) []byte {
		if q.op != ldap.ApplicationBindRequest {
			return honest(q)
		}
		first := false
		once.Do(func() { first = true })
		if first {
			close(held)
			<-release
			return bound(q, 0)
		}
		return bound(q, 49)
	})
	o := puppetOptions(p)
	o.Connections = 1
	v := open(t, o)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { // ended by cancel
		_, err := verify(ctx, v, "alice", "pw-alice")
		done <- err
	}()
	<-held
	cancel()
	if err := <-done; authn.KindOf(err) != authn.Unavailable {
		t.Errorf("given up: %v", err)
	}
	close(release)
	if id, err := verify(t.Context(), v, "alice", "pw-wrong"); id != nil || authn.KindOf(err) != authn.Rejected {
		t.Errorf("got %+v, %v", id, err)
	}
}

// A server that says it is busy is not asked again before the next.
func TestBusyServer(t *testing.T) {
	t.Parallel()
	busy := newPuppet(t, "unix", func(q question) []byte {
		if q.op == ldap.ApplicationBindRequest {
			return bound(q, 51)
		}
		return found(q, 52)
	})
	idle := newPuppet(t, "unix", honest)
	v := open(t, puppetOptions(busy, idle))
	for range 3 {
		if id, err := verify(t.Context(), v, "alice", "pw-alice"); err != nil {
			t.Errorf("got %+v, %v", id, err)
		}
	}
}

// An unknown user costs a bind as well, of a DN that is nobody's.
func TestUnknownUserBinds(t *testing.T) {
	t.Parallel()
	p := newPuppet(t, "unix", func(q question) []byte {
		if q.op == ldap.ApplicationBindRequest {
			return bound(q, 0)
		}
		return found(q, 0)
	})
	v := open(t, puppetOptions(p))
	for range 2 {
		if id, err := verify(t.Context(), v, "alice", "pw-alice"); id != nil || authn.KindOf(err) != authn.UnknownUser {
			t.Errorf("got %+v, %v", id, err)
		}
	}
	binds := p.binds()
	if len(binds) != 2 || binds[0] == binds[1] || !strings.HasSuffix(binds[0], ",dc=example") {
		t.Errorf("bound %v", binds)
	}
}

// After Close a verifier still answers, and keeps nothing open.
func TestClose(t *testing.T) {
	t.Parallel()
	p := newPuppet(t, "unix", honest)
	v := open(t, puppetOptions(p))
	for _, what := range []string{"before", "after", "long after"} {
		if id, err := verify(t.Context(), v, "alice", "pw-alice"); err != nil || id.User != "alice" {
			t.Errorf("%s Close: got %+v, %v", what, id, err)
		}
		s := v.(passwords).dir.servers[0]
		if kept := len(s.binds.idle) + len(s.searches.idle); (kept == 2) != (what == "before") || kept == 1 {
			t.Errorf("%s Close: %d connections are kept", what, kept)
		}
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A connection whose answer was not understood is not used again, though it is
// open and well.
func TestConfusedConnection(t *testing.T) {
	t.Parallel()
	confuse := true
	p := newPuppet(t, "unix", nil)
	p.answer = func(q question) []byte {
		if q.op == ldap.ApplicationBindRequest && confuse {
			confuse = false
			return malformed(q)
		}
		return honest(q)
	}
	v := open(t, puppetOptions(p))
	if id, err := verify(t.Context(), v, "alice", "pw-alice"); id != nil || authn.KindOf(err) != authn.Unavailable {
		t.Errorf("got %+v, %v", id, err)
	}
	if id, err := verify(t.Context(), v, "alice", "pw-alice"); err != nil || id.User != "alice" {
		t.Errorf("got %+v, %v", id, err)
	}
	on := map[int]int{} // binds of each connection
	p.mu.Lock()
	for _, q := range p.heard {
		if q.op == ldap.ApplicationBindRequest {
			on[q.conn]++
		}
	}
	p.mu.Unlock()
	if len(on) != 2 {
		t.Errorf("binds by connection: %v, want one on each of two", on)
	}
}

func TestPasswordFile(t *testing.T) {
	t.Parallel()
	write := func(text string, mode os.FileMode) string {
		path := filepath.Join(t.TempDir(), "password")
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, s := range []string{"pw kpopd", "pw kpopd\n", "pw kpopd\r\nmore\n"} {
		if p, err := readPassword(write(s, 0o600)); err != nil || string(p) != "pw kpopd" {
			t.Errorf("%q: got %d octets, %v", s, len(p), err)
		}
	}
	for want, path := range map[string]string{
		"missing":                 "",
		"no such file":            "/nonexistent",
		"not a regular file":      t.TempDir(),
		"larger than 4096 octets": write(strings.Repeat("x", maxPasswordFile+1), 0o600),
		"the first line is empty": write("\npw", 0o600),
		"chmod 0600 it":           write("pw", 0o640),
	} {
		if p, err := readPassword(path); p != nil || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", path, err, want)
		}
	}
}
