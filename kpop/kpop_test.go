package kpop

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/emersion/go-sasl"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/authntest"
	"github.com/kpopd/kpopd/authn/gssapi"
	"github.com/kpopd/kpopd/authn/krb5"
)

func (s *site) initiate(t testing.TB, o krb5.InitOptions) *krb5.Initiator {
	t.Helper()
	in, err := s.credential.Initiate(o)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// opened is all that a client says up to the ticket.
func opened(apReq []byte) string {
	return goodAuth + goodAppl + string(frame(nil, apReq))
}

// accept says things to an acceptor and returns what it answers, the
// connection still open when it accepts.
func accept(t testing.TB, a *Acceptor, say func(client net.Conn)) (c, client net.Conn, peer *authn.Principal, err error) {
	t.Helper()
	server, client := pair(t)
	go say(client) // ends with the connection
	c, peer, err = a.Accept(t.Context(), server, &authn.Transport{})
	if err != nil {
		server.Close()
	}
	return c, client, peer, err
}

func TestHandshake(t *testing.T) {
	t.Parallel()
	for _, enctype := range []int32{17, 18, 19, 20} {
		for _, mutual := range []bool{true, false} {
			for _, atOnce := range []bool{true, false} {
				t.Run(fmt.Sprintf("enctype %d, mutual %v, at once %v", enctype, mutual, atOnce), func(t *testing.T) {
					t.Parallel()
					s := newSite(t, enctype)
					var traced []*authn.Attempt
					a := &Acceptor{Krb5: s.acceptor, Trace: attempts(&traced)}
					in := s.initiate(t, krb5.InitOptions{Mutual: mutual})
					shaken := make(chan error, 1)
					c, client, peer, err := accept(t, a, func(client net.Conn) {
						shaken <- (&Client{AtOnce: atOnce}).Handshake(t.Context(), client, in)
					})
					if err != nil {
						t.Fatal(err)
					}
					if err := <-shaken; err != nil {
						t.Fatal(err)
					}
					if peer.String() != "alice@EXAMPLE.TEST" || len(traced) != 0 {
						t.Errorf("peer %v, traced %+v", peer, traced)
					}
					if _, ok := c.(*conn); ok {
						t.Error("a buffer is held for nothing")
					}
					if _, err := io.WriteString(c, "+OK\r\n"); err != nil {
						t.Fatal(err)
					}
					greeting := make([]byte, 5)
					if _, err := io.ReadFull(client, greeting); err != nil || string(greeting) != "+OK\r\n" {
						t.Errorf("greeting %q, %v", greeting, err)
					}
				})
			}
		}
	}
}

// TestRule187Octets looks at what both sides write.
func TestRule187Octets(t *testing.T) {
	t.Parallel()
	s := newSite(t, 18)
	in := s.initiate(t, krb5.InitOptions{Mutual: true})
	want := "\x00\x00\x00\x13KRB5_SENDAUTH_V1.0\x00" + "\x00\x00\x00\x09KPOPV1.0\x00"
	server, client := pair(t)
	go func() { // ends with the connection
		_ = (&Client{}).Handshake(t.Context(), client, in)
	}()
	hello := make([]byte, len(want))
	if _, err := io.ReadFull(server, hello); err != nil || string(hello) != want {
		t.Errorf("client says %q, %v", hello, err)
	}
}

// answers is what the server says to a good ticket, and the client whose it is.
func answers(t *testing.T, mutual bool) (string, *krb5.Initiator) {
	t.Helper()
	s := newSite(t, 20)
	in := s.initiate(t, krb5.InitOptions{Mutual: mutual})
	c, client, _, err := accept(t, &Acceptor{Krb5: s.acceptor}, func(client net.Conn) {
		_, _ = io.WriteString(client, opened(in.APReq))
	})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	got, _ := io.ReadAll(client)
	return string(got), in
}

func TestRule190Accepted(t *testing.T) {
	t.Parallel()
	if got, _ := answers(t, false); got != "\x00\x00\x00\x00\x00" {
		t.Errorf("answer %x, want the status and four octets of zero", got)
	}
}

func TestRule191MutualAuthentication(t *testing.T) {
	t.Parallel()
	got, in := answers(t, true)
	rep, ok := strings.CutPrefix(got, "\x00\x00\x00\x00\x00")
	if !ok || len(rep) < 5 || int(binary.BigEndian.Uint32([]byte(rep))) != len(rep)-4 || rep[4] != 0x6f {
		t.Fatalf("answer %x", got)
	}
	if _, err := in.VerifyAPRep([]byte(rep[4:])); err != nil {
		t.Error(err)
	}
}

// TestRule192Segments: everything at once, octet by octet, and with the first
// POP3 commands behind it.
func TestRule192Segments(t *testing.T) {
	t.Parallel()
	s := newSite(t, 18)
	const commands = "USER alice\r\nPASS hej\r\nSTAT\r\n"
	tests := []struct {
		name string
		cut  func(all string) []string
	}{
		{"one segment", func(all string) []string { return []string{all} }},
		{"octet by octet", func(all string) []string { return strings.Split(all, "") }},
		{"as Heimdal's library writes", func(all string) []string {
			return []string{all[:4], all[4:23], all[23:27], all[27:36], all[36:40], all[40 : len(all)-len(commands)], commands}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			in := s.initiate(t, krb5.InitOptions{})
			c, _, _, err := accept(t, &Acceptor{Krb5: s.acceptor}, func(client net.Conn) {
				_ = client.(*net.TCPConn).SetNoDelay(true)
				for _, part := range tt.cut(opened(in.APReq) + commands) {
					if _, err := io.WriteString(client, part); err != nil {
						return
					}
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(commands))
			if _, err := io.ReadFull(c, got); err != nil || string(got) != commands {
				t.Errorf("then read %q, %v", got, err)
			}
			if k, ok := c.(*conn); ok && k.r != nil {
				t.Error("the buffer is held though it is empty")
			}
		})
	}
}

// refusal runs a handshake that must be refused.
func (s *site) refusal(t *testing.T, a *Acceptor, in *krb5.Initiator) (*ServerError, *authn.Attempt, error) {
	t.Helper()
	var traced []*authn.Attempt
	a.Trace = attempts(&traced)
	told := make(chan error, 1)
	_, _, _, err := accept(t, a, func(client net.Conn) {
		told <- (&Client{}).Handshake(context.Background(), client, in)
		_ = client.Close()
	})
	var se *ServerError
	if got := <-told; err == nil || !errors.As(got, &se) {
		t.Fatalf("server says %v, client says %v", err, got)
	}
	if len(traced) != 1 || !errors.Is(traced[0].Err, err) {
		t.Fatalf("traced %+v", traced)
	}
	return se, traced[0], err
}

func TestRule193Service(t *testing.T) {
	t.Parallel()
	s := newSite(t, 18)
	s.acceptor.Services = []string{"imap"}
	se, _, err := s.refusal(t, &Acceptor{Krb5: s.acceptor}, s.initiate(t, krb5.InitOptions{}))
	if se.Code != krb5.CodeNotUs || !strings.Contains(se.Text, "pop/localhost@EXAMPLE.TEST") || authn.KindOf(err) != authn.Rejected {
		t.Errorf("client hears %v, error %v", se, err)
	}
}

// TestRule200ErrorContent: the client can show what its user should do.
func TestRule200ErrorContent(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		init krb5.InitOptions
		code int32
		text string
	}{
		{"clock behind", krb5.InitOptions{Time: time.Now().Add(-10 * time.Minute)}, krb5.CodeSkew, "Clock skew too great"},
		{"clock ahead", krb5.InitOptions{Time: time.Now().Add(10 * time.Minute)}, krb5.CodeSkew, "Clock skew too great"},
		{"another realm than the ticket's", krb5.InitOptions{Realm: "EVIL.TEST"}, krb5.CodeBadMatch, "another client"},
		{"another client than the ticket's", krb5.InitOptions{Components: []string{"bob"}}, krb5.CodeBadMatch, "another client"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, 20)
			se, _, _ := s.refusal(t, &Acceptor{Krb5: s.acceptor}, s.initiate(t, tt.init))
			if se.Code != tt.code || !strings.Contains(se.Text, tt.text) {
				t.Errorf("client hears %v", se)
			}
		})
	}
}

func TestRule198Replay(t *testing.T) {
	t.Parallel()
	s := newSite(t, 20)
	a := &Acceptor{Krb5: s.acceptor}
	in := s.initiate(t, krb5.InitOptions{Mutual: true})
	if _, _, _, err := accept(t, a, func(client net.Conn) { _, _ = io.WriteString(client, opened(in.APReq)) }); err != nil {
		t.Fatal(err)
	}
	se, _, err := s.refusal(t, a, in)
	if se.Code != 34 || authn.KindOf(err) != authn.Rejected {
		t.Errorf("client hears %v, error %v", se, err)
	}
}

// A ticket that was shown to AUTH GSSAPI does not open this door, and an
// attempt to use it here does not spend it there.
func TestGSSAPIAuthenticatorIsRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t, 20)
	m := &gssapi.Mechanism{Acceptor: s.acceptor, Chain: chain}
	sum := make([]byte, 24)
	sum[0] = 16
	in := s.initiate(t, krb5.InitOptions{Checksum: &krb5.Checksum{Type: 0x8003, Data: sum}})
	token := gssToken(in.APReq)
	se, attempt, err := s.refusal(t, &Acceptor{Krb5: s.acceptor}, in)
	want := ServerError{Code: 50, Text: "This request was made for GSSAPI and is not good for KPOP"}
	if diff := cmp.Diff(want, *se); diff != "" || authn.KindOf(err) != authn.Denied {
		t.Errorf("%v\n%s", err, diff)
	}
	if attempt.Principal == nil || attempt.Principal.String() != "alice@EXAMPLE.TEST" {
		t.Errorf("traced %+v", attempt)
	}
	ex, err := m.Start(t.Context(), &authn.Transport{})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := ex.Next(t.Context(), token); err != nil {
		t.Errorf("the login that was led astray is refused where it belongs: %v", err)
	}
	if se, _, _ := s.refusal(t, &Acceptor{Krb5: s.acceptor}, in); se.Code != 50 {
		t.Errorf("used and brought here: %v", se)
	}
}

// A request without a checksum is good for either door, once.
func TestReplayAcrossDoors(t *testing.T) {
	t.Parallel()
	for _, gssapiFirst := range []bool{true, false} {
		t.Run(fmt.Sprintf("GSSAPI first %v", gssapiFirst), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, 20)
			in := s.initiate(t, krb5.InitOptions{})
			gss := func() error {
				ex, err := (&gssapi.Mechanism{Acceptor: s.acceptor, Chain: chain}).Start(t.Context(), &authn.Transport{})
				if err == nil {
					_, _, err = ex.Next(t.Context(), gssToken(in.APReq))
				}
				return err
			}
			kpop := func() error {
				_, _, _, err := accept(t, &Acceptor{Krb5: s.acceptor}, func(client net.Conn) {
					_, _ = io.WriteString(client, opened(in.APReq))
					_ = client.(*net.TCPConn).CloseWrite()
				})
				return err
			}
			first, second := kpop, gss
			if gssapiFirst {
				first, second = gss, kpop
			}
			if err := first(); err != nil {
				t.Fatal(err)
			}
			var ke *krb5.Error
			if err := second(); !errors.As(err, &ke) || ke.Code != krb5.CodeRepeat {
				t.Errorf("the second door says %v", err)
			}
		})
	}
}

// gssToken puts the header of RFC 4121 section 4.1 before an AP-REQ of 256
// octets or more.
func gssToken(apReq []byte) []byte {
	b := binary.BigEndian.AppendUint16([]byte{0x60, 0x82}, uint16(len(apReq)+13))
	b = append(b, "\x06\x09\x2a\x86\x48\x86\xf7\x12\x01\x02\x02\x01\x00"...)
	return append(b, apReq...)
}

// A message takes the memory that it needs, however it arrives.
func TestMessageMemory(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 2047, 2048, 2049, 5000, 65537, defaultMaxAPReq} {
		want := bytes.Repeat([]byte("ticket "), n/7+1)[:n]
		r := bytes.NewReader(append(frame(nil, want), "USER alice"...))
		h := &handshake{r: bufio.NewReaderSize(iotest.HalfReader(r), 2048)}
		got, ok, err := h.message(defaultMaxAPReq)
		if err != nil || !ok || !bytes.Equal(got, want) || cap(got) != n {
			t.Errorf("%d octets: %d in memory for %d, %v, %v", n, len(got), cap(got), ok, err)
		}
		if rest, err := io.ReadAll(h.r); string(rest) != "USER alice" || err != nil {
			t.Errorf("%d octets: then %q, %v", n, rest, err)
		}
		h.r = bufio.NewReader(bytes.NewReader(frame(nil, want)[:3+n]))
		if _, ok, err := h.message(defaultMaxAPReq); ok || err != io.ErrUnexpectedEOF {
			t.Errorf("%d octets, and one is missing: %v, %v", n, ok, err)
		}
	}
}

func TestRule197TicketLengths(t *testing.T) {
	t.Parallel()
	s := newSite(t, 18)
	tests := []struct {
		name   string
		length uint32
		body   string
		code   int32
	}{
		{"2 GiB", 1 << 31, "", 61},
		{"4 GiB less one octet", 1<<32 - 1, "", 61},
		{"one octet too many", 128<<10 + 1, "x", 61},
		{"all that may be, of nothing", 128 << 10, strings.Repeat("\x6e", 128<<10), 40},
		{"nothing", 0, "", 40},
		{"one octet", 1, "\x6e", 40},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, client, _, err := accept(t, &Acceptor{Krb5: s.acceptor}, func(client net.Conn) {
				_, _ = io.WriteString(client, goodAuth+goodAppl+string(binary.BigEndian.AppendUint32(nil, tt.length))+tt.body)
				_ = client.(*net.TCPConn).CloseWrite()
			})
			if authn.KindOf(err) != authn.Malformed {
				t.Errorf("error %v", err)
			}
			answer, _ := io.ReadAll(client)
			if len(answer) < 6 || answer[0] != 0 {
				t.Fatalf("answer %x", answer)
			}
			code, text, err := krb5.ParseError(answer[5:])
			if err != nil || code != tt.code {
				t.Errorf("KRB-ERROR %d %q, %v", code, text, err)
			}
		})
	}
}

func TestClientErrors(t *testing.T) {
	t.Parallel()
	s := newSite(t, 18)
	tests := []struct {
		name, answer, err string
		errIs             error
	}{
		{"another sendauth", "\x01", "", ErrSendauthVersion},
		{"another application", "\x02", "", ErrAppVersion},
		{"a POP3 server", "+OK POP3 ready\r\n", "first octet is 0x2b", nil},
		{"hangs up", "", "", io.ErrUnexpectedEOF},
		{"hangs up after the status", "\x00", "", io.ErrUnexpectedEOF},
		{"hangs up before the AP-REP", "\x00\x00\x00\x00\x00", "", io.ErrUnexpectedEOF},
		{"no AP-REP", "\x00\x00\x00\x00\x00\x00\x00\x00\x02xx", "did not prove itself", nil},
		{"a refusal of no sense", "\x00\x00\x00\x00\x03-ER", "not understood", nil},
		{"a refusal without end", "\x00\x7f\xff\xff\xff", "answer of 2147483647 octets", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server, client := pair(t)
			go func() { // ends with the connection
				_, _ = io.WriteString(server, tt.answer)
				_ = server.(*net.TCPConn).CloseWrite()
				_, _ = io.Copy(io.Discard, server)
			}()
			err := (&Client{}).Handshake(t.Context(), client, s.initiate(t, krb5.InitOptions{Mutual: true}))
			if err == nil || !strings.Contains(err.Error(), tt.err) || tt.errIs != nil && !errors.Is(err, tt.errIs) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
		})
	}
}

// owners maps alice@EXAMPLE.TEST to alice.
type owners struct{}

func (owners) Name() string { return "owners" }

func (owners) MapPrincipal(_ context.Context, p *authn.Principal, authzid string) (*authn.Identity, error) {
	if p.String() == "alice@EXAMPLE.TEST" && (authzid == "alice" || authzid == "") {
		return &authn.Identity{User: "alice", Authn: p.String()}, nil
	}
	return nil, &authn.Error{Kind: authn.Denied, Step: "owners", Text: p.String() + " may not read " + authzid}
}

var chain = authn.Chain{{Verifier: owners{}}}

// TestRule194 and 195: the name given to USER is what the chain judges.
func TestRule194Mechanism(t *testing.T) {
	t.Parallel()
	alice := authn.Transport{Peer: &authn.Principal{Components: []string{"alice"}, Realm: "EXAMPLE.TEST"}}
	authntest.RunMechanism(t, authntest.Case{
		Mechanism: Mechanism(chain), Transport: alice, User: "alice",
		Good: func(*testing.T) sasl.Client { return user("alice") },
		Bad:  func(*testing.T) sasl.Client { return user("bob") },
	})
}

func TestRule195OtherMaildrop(t *testing.T) {
	t.Parallel()
	peer := &authn.Principal{Components: []string{"alice"}, Realm: "OTHER.TEST"}
	var traced []*authn.Attempt
	p := &authn.Policy{Name: "campus", Offers: []authn.Mechanism{Mechanism(chain)}, Trace: attempts(&traced)}
	l, err := p.Start(t.Context(), &authn.Transport{Peer: peer}, "KPOP")
	if err != nil {
		t.Fatal(err)
	}
	_, done, err := l.Next(t.Context(), []byte("alice"))
	var ae *authn.Error
	if done || !errors.As(err, &ae) || ae.Kind != authn.Denied || ae.Text != "alice@OTHER.TEST may not read alice" {
		t.Errorf("done %v, %v", done, err)
	}
	if len(traced) != 1 || traced[0].Login != "alice" || traced[0].Principal != peer {
		t.Errorf("traced %+v", traced)
	}
	if _, err := p.Start(t.Context(), &authn.Transport{}, "KPOP"); authn.KindOf(err) != authn.Denied {
		t.Errorf("without a ticket: %v", err)
	}
}

// user is a client that says one name.
type user string

func (u user) Start() (string, []byte, error) { return "KPOP", []byte(u), nil }
func (user) Next([]byte) ([]byte, error)      { return nil, sasl.ErrUnexpectedServerChallenge }
