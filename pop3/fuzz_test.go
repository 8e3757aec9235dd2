package pop3

import (
	"bytes"
	"context"
	"encoding/base64"
	"net"
	"testing"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/maildrop"
	"github.com/kpopd/kpopd/maildrop/memory"
)

// scripted is a connection whose client says what is in the reader, step
// octets at a time, and leaves.
type scripted struct {
	in   *bytes.Reader
	step int
	out  bytes.Buffer
}

func (c *scripted) Read(p []byte) (int, error) {
	return c.in.Read(p[:min(len(p), c.step)])
}
func (c *scripted) Write(p []byte) (int, error)    { return c.out.Write(p) }
func (*scripted) Close() error                     { return nil }
func (*scripted) LocalAddr() net.Addr              { return nil }
func (*scripted) RemoteAddr() net.Addr             { return nil }
func (*scripted) SetDeadline(time.Time) error      { return nil }
func (*scripted) SetReadDeadline(time.Time) error  { return nil }
func (*scripted) SetWriteDeadline(time.Time) error { return nil }

// FuzzSession: whatever a client says, however it is cut up, the session ends
// when it leaves, the maildrop is free, nothing is gone without QUIT, each
// attempt to log in was recorded once, and the first line of each reply is
// one. The octets sent do not depend on how the input was cut up.
func FuzzSession(f *testing.F) {
	in := "USER alice\r\nPASS " + word + "\r\n"
	for _, s := range []string{
		"CAPA\r\nQUIT\r\n", in + "STAT\r\nLIST\r\nUIDL\r\nRETR 1\r\nTOP 2 1\r\nDELE 1\r\nQUIT\r\n",
		in + "DELE 1\r\nDELE 1\r\nRSET\r\nLIST 1\r\nLANG *\r\nUTF8\r\n", "AUTH\r\nAUTH PLAIN\r\n*\r\nAUTH PLAIN =\r\n",
		"AUTH PLAIN " + plainMessage("alice", word) + "\r\nRETR 2\r\nQUIT\r\n", "AUTH XOR =\r\n\x00\x01\x02",
		"USER alice\nPASS\n\x00\r\n", "APOP a b\r\nSTLS\r\nRPOP x\r\n", "GET / HTTP/1.0\r\n\r\n", "\x16\x03\x01",
	} {
		f.Add([]byte(s), uint16(1))
	}
	f.Fuzz(func(t *testing.T, say []byte, step uint16) {
		whole := fuzzSession(t, say, len(say)+1)
		cut := fuzzSession(t, say, int(step%2048)+1)
		// what is buffered when a layer or another protocol starts may differ
		if !bytes.Equal(whole, cut) && !bytes.Contains(bytes.ToUpper(say), []byte("XOR")) && !bytes.HasPrefix(say, []byte("\r\n")) {
			t.Errorf("in one piece: %q\nin pieces of %d: %q", whole, step%2048+1, cut)
		}
	})
}

func fuzzSession(t *testing.T, say []byte, step int) []byte {
	var store memory.Store
	store.Deliver("alice", "Subject: a\n\n.b\nc")
	store.Deliver("alice", "Subject: b\r\n\r\nd\r\n")
	starts, ends := 0, 0
	b := newBackend(&store, xor{})
	b.Trace = &authn.Trace{Attempt: func(context.Context, *authn.Attempt) { ends++ }}
	srv := &Server{Backend: counted{b, &starts}}
	var done *SessionDone
	srv.Trace = &Trace{Session: func(_ context.Context, d *SessionDone) { done = d }}
	c := &scripted{in: bytes.NewReader(say), step: step}
	if err := srv.ServeConn(context.Background(), c, &authn.Transport{Remote: anywhere}); err != nil {
		t.Fatal(err)
	}
	if done == nil || starts != ends {
		t.Fatalf("record %v, %d attempts begun, %d recorded", done, starts, ends)
	}
	drop, err := store.Open(context.Background(), maildrop.Ref{User: "alice"})
	if err != nil {
		t.Fatalf("after the session: %v", err)
	}
	defer drop.Close()
	if n, _ := drop.Totals(); n < 2 && !bytes.Contains(bytes.ToUpper(say), []byte("QUIT")) && !bytes.Contains(say, []byte("XOR")) {
		t.Fatalf("%d messages left without QUIT", n)
	}
	if !bytes.HasPrefix(c.out.Bytes(), []byte("+OK kpopd ready\r\n")) {
		t.Fatalf("said %.40q", c.out.Bytes())
	}
	for line := range bytes.Lines(c.out.Bytes()) {
		if done.Identity == nil && (len(line) > 512 || !bytes.HasSuffix(line, []byte("\r\n"))) {
			t.Fatalf("said %q", line)
		}
	}
	return c.out.Bytes()
}

// TestHangupAnywhere: a client that is gone after any octet leaves nothing
// locked, removed or unrecorded.
func TestHangupAnywhere(t *testing.T) {
	t.Parallel()
	for _, say := range []string{
		"AUTH PLAIN\r\n" + plainMessage("alice", word) + "\r\nDELE 1\r\nRETR 2\r\n",
		"AUTH PLAIN " + plainMessage("alice", "wrong") + "\r\nUSER alice\r\nPASS " + word + "\r\nDELE 1\r\n",
	} {
		for i := range len(say) + 1 {
			fuzzSession(t, []byte(say[:i]), 7)
		}
	}
}

// counted counts attempts.
type counted struct {
	*fakeBackend
	starts *int
}

func (c counted) Start(ctx context.Context, t *authn.Transport, mech string) (*authn.Login, error) {
	*c.starts++
	return c.fakeBackend.Start(ctx, t, mech)
}

// FuzzBase64: what is taken is exactly what would be sent.
func FuzzBase64(f *testing.F) {
	for _, s := range []string{"", "=", "YQ==", "YR==", "AAAA", "A\rAA", "YQ==YQ=="} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		text := string(in)
		got, err := decode(in)
		if err == nil && base64.StdEncoding.EncodeToString(got) != text {
			t.Errorf("took %q", text)
		}
		if _, want := base64.StdEncoding.Strict().DecodeString(text); err != nil && want == nil && !bytes.ContainsAny([]byte(text), "\r\n") {
			t.Errorf("refused %q", text)
		}
	})
}

// FuzzResponses: a mechanism gets what the client encoded, or nothing.
func FuzzResponses(f *testing.F) {
	f.Add([]byte("hello"), []byte(""), true)
	f.Add([]byte{}, []byte("x\x00y"), false)
	f.Fuzz(func(t *testing.T, first, second []byte, initial bool) {
		m := &recorder{}
		enc := base64.StdEncoding.EncodeToString
		say := "AUTH REC\r\n" + enc(first) + "\r\n"
		if initial {
			say = "AUTH rec " + enc(first) + "\r\n"
			if len(first) == 0 {
				say = "AUTH REC =\r\n"
			}
		}
		say += enc(second) + "\r\nQUIT\r\n"
		c := &scripted{in: bytes.NewReader([]byte(say)), step: 1 << 20}
		srv := &Server{Backend: newBackend(&memory.Store{}, m)}
		if err := srv.ServeConn(context.Background(), c, &authn.Transport{Remote: anywhere}); err != nil {
			t.Fatal(err)
		}
		if len(m.got) != 2 || !bytes.Equal(m.got[0], first) || !bytes.Equal(m.got[1], second) {
			t.Errorf("got %q of %q and %q", m.got, first, second)
		}
		if !bytes.HasSuffix(c.out.Bytes(), []byte("+OK Bye\r\n")) {
			t.Errorf("said %q", c.out.Bytes())
		}
	})
}

// recorder takes two responses, that which answers an empty challenge not
// counted, and lets the client in.
type recorder struct{ got [][]byte }

func (*recorder) Name() string         { return "REC" }
func (*recorder) Traits() authn.Traits { return 0 }
func (r *recorder) Start(context.Context, *authn.Transport) (authn.Exchange, error) {
	return r, nil
}
func (*recorder) Identity() *authn.Identity { return &authn.Identity{User: "alice"} }
func (r *recorder) Next(_ context.Context, response []byte) ([]byte, bool, error) {
	if response == nil {
		return []byte{}, false, nil
	}
	r.got = append(r.got, bytes.Clone(response))
	if len(r.got) == 2 {
		return nil, true, nil
	}
	return []byte("more"), false, nil
}
