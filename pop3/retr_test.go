package pop3

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/kpopd/kpopd/maildrop"
	"github.com/kpopd/kpopd/maildrop/memory"
)

// sendFrom runs the sender over body, with what it says of itself, and returns
// what was written.
func sendFrom(body io.Reader, m maildrop.Message, lines uint64) ([]byte, int, error) {
	var out bytes.Buffer
	writes := 0
	s := &session{drop: &oneDrop{m: m, body: body}}
	s.out.send = func(p []byte) error { writes++; out.Write(p); return nil }
	err := s.sendMessage(context.Background(), 0, lines)
	s.out.flush()
	return out.Bytes(), writes, err
}

// oneDrop has one message.
type oneDrop struct {
	m    maildrop.Message
	body io.Reader
}

func (d *oneDrop) Totals() (int, int64) { return 1, d.m.Size }
func (d *oneDrop) Listing(context.Context) (maildrop.Listing, error) {
	return maildrop.Messages{d.m}, nil
}
func (d *oneDrop) Commit(context.Context, []int) error { return nil }
func (d *oneDrop) Close() error                        { return nil }
func (d *oneDrop) Content(context.Context, int) (io.ReadCloser, error) {
	return io.NopCloser(d.body), nil
}

// unstuff returns the octets of the message in a multi-line reply, as a client
// reads it.
func unstuff(t testing.TB, reply []byte) []byte {
	t.Helper()
	_, text, ok := bytes.Cut(reply, []byte("\r\n"))
	if !ok || !bytes.HasPrefix(reply, []byte("+OK")) {
		t.Fatalf("no first line in %.40q", reply)
	}
	var msg []byte
	for {
		line, after, ok := bytes.Cut(text, []byte("\r\n"))
		if !ok {
			t.Fatalf("no terminator in %.80q", reply)
		}
		if string(line) == "." {
			if len(after) > 0 {
				t.Fatalf("%d octets after the terminator", len(after))
			}
			return msg
		}
		msg = append(msg, bytes.TrimPrefix(line, []byte("."))...)
		msg = append(msg, '\r', '\n')
		text = after
	}
}

// canonical is the message as a client must get it: the obvious way, slowly.
func canonical(stored []byte) []byte {
	var b []byte
	for i, c := range stored {
		if c == '\n' && (i == 0 || stored[i-1] != '\r') {
			b = append(b, '\r')
		}
		b = append(b, c)
	}
	if len(stored) > 0 && stored[len(stored)-1] != '\n' {
		b = append(b, '\r', '\n')
	}
	return b
}

var bodies = []string{
	"", ".", "..", "\n", "\r", "\r\n", ".\n", ".\r\n", "\n.\n", "\r\n.\r\n", "\r.\r", "\n.\r\n", "\r\n.\n",
	"a", "a\r", "a\r\r\n", "a\r\n.b\r\n", "a\n.b\n..c\n", "\x00\xff\n", "a\r.b\n", "H: v\n\nbody\n", "H: v\r\n\r\n.body",
	strings.Repeat("x", bodyBuffer), strings.Repeat("x", bodyBuffer) + "\n.", strings.Repeat("x", bodyBuffer-1) + "\r\n.y",
	strings.Repeat(".\n", bodyBuffer), strings.Repeat("x\r\n", bodyBuffer/2),
}

func FuzzDotStuffing(f *testing.F) {
	for _, b := range bodies {
		if len(b) < 100 {
			f.Add([]byte(b))
		}
	}
	f.Fuzz(func(t *testing.T, stored []byte) { checkSending(t, stored) })
}

func TestSending(t *testing.T) {
	t.Parallel()
	for _, b := range bodies {
		checkSending(t, []byte(b))
	}
}

// checkSending: what a client reads is the canonical message, its length is
// what maildrop measures, and neither depends on how the store cuts it up.
func checkSending(t *testing.T, stored []byte) {
	t.Helper()
	size, wire, _ := maildrop.Measure(bytes.NewReader(stored))
	want := canonical(stored)
	if int64(len(want)) != size {
		t.Fatalf("measured %d octets, canonical form has %d", size, len(want))
	}
	for name, r := range map[string]io.Reader{
		"whole":       bytes.NewReader(stored),
		"data at EOF": iotest.DataErrReader(bytes.NewReader(stored)),
		"halves":      iotest.HalfReader(bytes.NewReader(stored)),
	} {
		got, _, err := sendFrom(r, maildrop.Message{Size: size, WireForm: wire}, allLines)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !bytes.Equal(unstuff(t, got), want) {
			t.Fatalf("%s: sent %.80q of %.80q", name, got, stored)
		}
	}
	for _, lines := range []uint64{0, 1, 2} {
		got, _, err := sendFrom(bytes.NewReader(stored), maildrop.Message{Size: size}, lines)
		if err != nil {
			t.Fatal(err)
		}
		if msg := unstuff(t, got); !bytes.Equal(msg, firstLines(want, lines)) {
			t.Fatalf("TOP %d sent %.80q of %.80q", lines, got, stored)
		}
	}
}

// firstLines is the header of a canonical message, the empty line, and n lines.
func firstLines(msg []byte, n uint64) []byte {
	end := 0
	for header := true; end < len(msg) && (header || n > 0); {
		i := bytes.IndexByte(msg[end:], '\n') + 1
		if !header {
			n--
		} else if i == 2 && msg[end] == '\r' {
			header = false
		}
		end += i
	}
	return msg[:end]
}

// TestSendingOctetByOctet: a store that yields single octets changes nothing.
func TestSendingOctetByOctet(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		b := make([]byte, rnd.IntN(40))
		for i := range b {
			b[i] = "\r\n.x"[rnd.IntN(4)]
		}
		size, wire, _ := maildrop.Measure(bytes.NewReader(b))
		got, _, err := sendFrom(iotest.OneByteReader(bytes.NewReader(b)), maildrop.Message{Size: size, WireForm: wire}, allLines)
		if err != nil {
			t.Fatalf("%q: %v", b, err)
		}
		if !bytes.Equal(unstuff(t, got), canonical(b)) {
			t.Fatalf("sent %q of %q", got, b)
		}
	}
}

// TestTerminatorInLastWrite: whatever the length, the octets before the
// terminator leave together with it.
func TestTerminatorInLastWrite(t *testing.T) {
	t.Parallel()
	for n := 2*bodyBuffer - 60; n <= 2*bodyBuffer+20; n++ {
		short := strings.Repeat("x", n%80) + strings.Repeat("\n.x", n/5) // ends in lines sent in 5 octets
		for _, text := range []string{strings.Repeat("x", n), strings.Repeat("x", n) + "\r\n", short, short + "\n"} {
			size, wire, _ := maildrop.Measure(strings.NewReader(text))
			s := &session{drop: &oneDrop{m: maildrop.Message{Size: size, WireForm: wire}, body: strings.NewReader(text)}}
			var last []byte
			s.out.send = func(p []byte) error { last = append(last[:0], p...); return nil }
			if err := s.sendMessage(t.Context(), 0, allLines); err != nil {
				t.Fatal(err)
			}
			s.out.flush()
			if !bytes.HasSuffix(last, []byte("\r\n.\r\n")) {
				t.Fatalf("%d octets, wire form %v: the last write is %q", n, wire, last)
			}
		}
	}
}

// TestTorn: a message that is not what was announced has no terminator, and
// the session ends.
func TestTorn(t *testing.T) {
	t.Parallel()
	disk := errors.New("input/output error")
	long := strings.Repeat("line\r\n", 20000)
	for _, tt := range []struct {
		name string
		body io.Reader
		m    maildrop.Message
	}{
		{"shorter than announced", strings.NewReader("abc\n"), maildrop.Message{Size: 6}},
		{"longer than announced", strings.NewReader("abc\n"), maildrop.Message{Size: 4}},
		{"shorter, in wire form", strings.NewReader("abc\r\n"), maildrop.Message{Size: 6, WireForm: true}},
		{"longer, in wire form", strings.NewReader("abc\r\n"), maildrop.Message{Size: 4, WireForm: true}},
		{"wire form without an end", strings.NewReader("abc"), maildrop.Message{Size: 3, WireForm: true}},
		{"read error", io.MultiReader(strings.NewReader(long), iotest.ErrReader(disk)), maildrop.Message{Size: 1 << 40}},
		{"read error, in wire form", io.MultiReader(strings.NewReader(long), iotest.ErrReader(disk)), maildrop.Message{Size: 1 << 40, WireForm: true}},
		{"much longer", io.MultiReader(strings.NewReader(long), strings.NewReader(long)), maildrop.Message{Size: 9}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, _, err := sendFrom(tt.body, tt.m, allLines)
			var end *ending
			if !errors.As(err, &end) || end.reason != Torn {
				t.Errorf("error is %v", err)
			}
			if bytes.Contains(got, []byte("\r\n.\r\n")) {
				t.Errorf("sent a terminator")
			}
		})
	}
}

// TestUnreadable: as long as nothing was promised, an error is a reply.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	got, _, err := sendFrom(iotest.ErrReader(maildrop.ErrTemporary), maildrop.Message{Size: 9}, allLines)
	if !errors.Is(err, maildrop.ErrTemporary) || errors.As(err, new(*ending)) {
		t.Errorf("error is %v", err)
	}
	if len(got) > 0 {
		t.Errorf("sent %q", got)
	}
}

// xs yields octets without end.
type xs struct{}

func (xs) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

// TestOneLongLine: a line of 100 MB goes out as it is.
func TestOneLongLine(t *testing.T) {
	t.Parallel()
	const size = 100_000_000
	s := &session{drop: &oneDrop{m: maildrop.Message{Size: size + 2}, body: io.LimitReader(xs{}, size)}}
	sent, largest := 0, 0
	s.out.send = func(p []byte) error { sent += len(p); largest = max(largest, len(p)); return nil }
	if err := s.sendMessage(t.Context(), 0, allLines); err != nil {
		t.Fatal(err)
	}
	s.out.flush()
	if want := size + len("+OK 100000002 octets\r\n\r\n.\r\n"); sent != want || largest > bodyBuffer {
		t.Errorf("sent %d octets, at most %d in one write; want %d", sent, largest, want)
	}
}

// TestRetrAllocations: the number of allocations does not grow with the size,
// in wire form or not.
func TestRetrAllocations(t *testing.T) {
	for _, end := range []string{"\n", "\r\n"} {
		for _, size := range []int{1 << 10, 1 << 20, 8 << 20} {
			if n := retrAllocations(t, strings.Repeat(strings.Repeat("x", 71)+end, size/72)); n > 10 {
				t.Errorf("%d octets with %q: %v allocations", size, end, n)
			}
		}
	}
}

func retrAllocations(t *testing.T, text string) float64 {
	m := maildrop.Message{}
	m.Size, m.WireForm, _ = maildrop.Measure(strings.NewReader(text))
	body := strings.NewReader(text)
	s := &session{drop: &oneDrop{m: m, body: body}}
	s.out.send = func([]byte) error { return nil }
	return testing.AllocsPerRun(10, func() {
		body.Reset(text)
		if err := s.sendMessage(t.Context(), 0, allLines); err != nil {
			t.Fatal(err)
		}
		s.out.flush()
	})
}

// TestPooledBuffers: what a session left in a buffer never reaches another.
func TestPooledBuffers(t *testing.T) {
	poison := func() {
		for range 64 {
			small, large := new([replyBuffer]byte), new([bodyBuffer]byte)
			for i := range large {
				large[i] = '!'
			}
			copy(small[:], large[:])
			replyBuffers.Put(small)
			bodyBuffers.Put(large)
		}
	}
	var store memory.Store
	for i := range 300 {
		store.Deliver("alice", "Subject: "+strconv.Itoa(i)+"\n\n.\n"+strings.Repeat("a\n", i))
	}
	for range 3 {
		poison()
		p := talk(t, &Server{Backend: newBackend(&store)})
		p.login("alice")
		p.say("LIST", "UIDL", "RETR 300", "TOP 299 3", "RETR 1", "QUIT")
		all, err := io.ReadAll(p.r)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(all, []byte("!")) {
			t.Fatalf("octets of another session")
		}
		p.ended()
	}
}

// many is a maildrop of so many messages, none of which it keeps.
type many int

func (d many) Totals() (int, int64)                              { return int(d), int64(d) << 13 }
func (d many) Listing(context.Context) (maildrop.Listing, error) { return d, nil }
func (d many) Len() int                                          { return int(d) }
func (d many) At(int) maildrop.Message                           { return maildrop.Message{UID: uid, Size: 1 << 13} }

func (d many) Content(context.Context, int) (io.ReadCloser, error) { return nil, maildrop.ErrGone }
func (d many) Commit(context.Context, []int) error                 { return nil }
func (d many) Close() error                                        { return nil }

const uid = "1700000000.M123456P4242.mail.example"

// LIST and UIDL of 100,000 messages hold one buffer of the reply, whatever its
// length.
func TestListingIsNotBuilt(t *testing.T) {
	const n = 100_000
	for name, command := range map[string]func(*session, context.Context, args) error{"LIST": (*session).list, "UIDL": (*session).uidl} {
		lines, largest := 0, 0
		s := &session{drop: many(n)}
		s.recount()
		s.out.send = func(p []byte) error {
			lines, largest = lines+bytes.Count(p, []byte{'\n'}), max(largest, len(p))
			return nil
		}
		allocs := testing.AllocsPerRun(3, func() {
			if err := command(s, t.Context(), nil); err != nil {
				t.Error(err)
			}
			s.out.flush()
		})
		if lines != 4*(n+2) || largest > bodyBuffer {
			t.Errorf("%s: %d lines in four replies, up to %d octets at once", name, lines, largest)
		}
		if allocs > 20 { // buffers, where the pools have none
			t.Errorf("%s: %v allocations", name, allocs)
		}
	}
}
