package gssapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-sasl"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/authntest"
	"github.com/kpopd/kpopd/authn/krb5"
)

// owners maps alice@EXAMPLE.TEST to alice, who may also ask for "shared".
type owners struct{}

func (owners) Name() string { return "owners" }

func (owners) MapPrincipal(_ context.Context, p *authn.Principal, authzid string) (*authn.Identity, error) {
	if p.String() == "alice@EXAMPLE.TEST" && (authzid == "" || authzid == "alice" || authzid == "shared") {
		user := authzid
		if user == "" {
			user = "alice"
		}
		return &authn.Identity{User: user, Authn: p.String()}, nil
	}
	return nil, &authn.Error{Kind: authn.Denied, Step: "owners", Text: p.String() + " may not read " + authzid}
}

var (
	_     authn.PrincipalMapper = owners{}
	chain                       = authn.Chain{{Verifier: owners{}}}
)

func (s *site) newClient(t testing.TB, o Options) *Client {
	t.Helper()
	return s.initiate(t, o.ticket(), o)
}

// initiate makes a client of an AP-REQ with any checksum.
func (s *site) initiate(t testing.TB, i krb5.InitOptions, o Options) *Client {
	t.Helper()
	i.Seq = newSequence()
	in, err := s.credential.Initiate(i)
	if err != nil {
		t.Fatal(err)
	}
	c, err := newClient(in, o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func gss(sum checksum) *krb5.Checksum {
	return &krb5.Checksum{Type: gssChecksum, Data: sum.append(nil)}
}

// login leads a client through a policy, as an engine does.
func login(t testing.TB, m *Mechanism, transport *authn.Transport, c *Client) (*authn.Login, *authn.Attempt, error) {
	t.Helper()
	var traced *authn.Attempt
	p := &authn.Policy{Name: "test", Offers: []authn.Mechanism{m}, Trace: &authn.Trace{
		Attempt: func(_ context.Context, a *authn.Attempt) { traced = a },
	}}
	l, err := p.Start(t.Context(), transport, Name)
	if err != nil {
		return nil, traced, err
	}
	err = authntest.Converse(t.Context(), l, c)
	return l, traced, err
}

func TestMechanism(t *testing.T) {
	t.Parallel()
	s := newSite(t, 18)
	authntest.RunMechanism(t, authntest.Case{
		Mechanism: &Mechanism{Acceptor: s.acceptor, Chain: chain},
		User:      "alice",
		Good:      func(t *testing.T) sasl.Client { return s.newClient(t, Options{Mutual: true}) },
		Bad:       func(t *testing.T) sasl.Client { return s.newClient(t, Options{Authzid: "bob"}) },
	})
}

// TestEveryCombination runs both sides against each other.
func TestEveryCombination(t *testing.T) {
	t.Parallel()
	for _, enctype := range enctypes {
		s := newSite(t, enctype)
		for i := range 24 {
			o := Options{
				Mutual: i&1 != 0, Subkey: i&2 != 0, Prompted: i&4 != 0,
				Layers: []Layers{None, Integrity, Privacy}[i/8], Authzid: "shared",
			}
			t.Run(fmt.Sprintf("enctype %d, mutual %v, subkey %v, prompted %v, layer %d", enctype, o.Mutual, o.Subkey, o.Prompted, o.Layers), func(t *testing.T) {
				t.Parallel()
				m := &Mechanism{Acceptor: s.acceptor, Chain: chain, Layers: None | Integrity | Privacy}
				c := s.newClient(t, o)
				l, traced, err := login(t, m, &authn.Transport{}, c)
				if err != nil {
					t.Fatal(err)
				}
				if id := l.Identity(); id.User != "shared" || id.Authn != "alice@EXAMPLE.TEST" {
					t.Errorf("identity %+v", id)
				}
				if traced.Login != "shared" || traced.Principal.String() != "alice@EXAMPLE.TEST" || traced.Layer != (o.Layers != None) {
					t.Errorf("traced %+v", traced)
				}
				if (l.Layer() == nil) != (o.Layers == None) || (c.Layer() == nil) != (o.Layers == None) {
					t.Fatalf("layers %v and %v", l.Layer() != nil, c.Layer() != nil)
				}
				if o.Layers != None {
					talk(t, l.Layer(), c.Layer(), o.Layers == Privacy)
				}
			})
		}
	}
}

// spy keeps what passes.
type spy struct {
	net.Conn
	seen bytes.Buffer
}

func (s *spy) Write(b []byte) (int, error) { s.seen.Write(b); return s.Conn.Write(b) }

// talk sends a command one way and a large message the other.
func talk(t *testing.T, server, client func(net.Conn) net.Conn, sealed bool) {
	t.Helper()
	a, b := net.Pipe()
	wire := &spy{Conn: a}
	sc, cc := server(wire), client(b)
	message := bytes.Repeat([]byte("The quick brown fox.\r\n"), 10_000)
	sent := make(chan error, 1)
	go func() { // ends with the message
		command := make([]byte, 8)
		_, err := io.ReadFull(sc, command)
		if err == nil && string(command) != "RETR 1\r\n" {
			err = fmt.Errorf("command %q", command)
		}
		if err == nil {
			_, err = sc.Write(message)
		}
		sent <- errors.Join(err, sc.Close())
	}()
	if _, err := io.WriteString(cc, "RETR 1\r\n"); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(cc)
	if err != nil || !bytes.Equal(got, message) {
		t.Errorf("read %d octets, %v", len(got), err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	if bytes.Contains(wire.seen.Bytes(), []byte("quick brown")) == sealed {
		t.Errorf("sealed %v, and the wire tells otherwise", sealed)
	}
}

// steps leads an exchange by hand.
type steps struct {
	t  *testing.T
	ex authn.Exchange
}

func (m *Mechanism) steps(t *testing.T, transport *authn.Transport) steps {
	t.Helper()
	ex, err := m.Start(t.Context(), transport)
	if err != nil {
		t.Fatal(err)
	}
	return steps{t, ex}
}

func (s steps) next(response []byte) []byte {
	s.t.Helper()
	challenge, done, err := s.ex.Next(s.t.Context(), response)
	if err != nil || done || challenge == nil {
		s.t.Fatalf("challenge %x, done %v, %v", challenge, done, err)
	}
	return challenge
}

func (s steps) fails(response []byte, kind authn.Kind, text string) {
	s.t.Helper()
	_, done, err := s.ex.Next(s.t.Context(), response)
	if done || authn.KindOf(err) != kind || !strings.Contains(err.Error(), text) {
		s.t.Errorf("done %v, error %v; want %s %q", done, err, kind, text)
	}
	if s.ex.Identity() != nil {
		s.t.Error("identity after a failure")
	}
}

func TestRule162Order(t *testing.T) {
	t.Parallel()
	s := newSite(t, 18)
	m := &Mechanism{Acceptor: s.acceptor, Chain: chain}
	t.Run("no and an empty initial response are asked for a token, once", func(t *testing.T) {
		for _, first := range [][]byte{nil, {}} {
			x := m.steps(t, &authn.Transport{})
			if c := x.next(first); len(c) != 0 {
				t.Errorf("challenge %x", c)
			}
			x.fails([]byte{}, authn.Malformed, "empty token")
		}
	})
	t.Run("without mutual authentication the offer follows the ticket", func(t *testing.T) {
		c := s.newClient(t, Options{})
		_, ir, _ := c.Start()
		if offer := m.steps(t, &authn.Transport{}).next(ir); offer[0] != 5 || offer[1] != 4 {
			t.Errorf("challenge %x", offer)
		}
	})
	t.Run("with it the AP-REP does, which only an empty response answers", func(t *testing.T) {
		for _, empty := range []bool{true, false} {
			c := s.newClient(t, Options{Mutual: true})
			_, ir, _ := c.Start()
			x := m.steps(t, &authn.Transport{})
			rep := x.next(ir)
			if _, err := parseToken(rep, tokAPRep); err != nil {
				t.Fatal(err)
			}
			if empty {
				if offer := x.next([]byte{}); offer[0] != 5 || offer[2] != sentByAcceptor|hasAcceptorSubkey {
					t.Errorf("challenge %x", offer)
				}
			} else {
				x.fails([]byte{0}, authn.Malformed, "answered by none")
			}
		}
	})
	t.Run("tokens of others are refused in words", func(t *testing.T) {
		for token, text := range map[string]string{
			"NTLMSSP\x00\x01\x00\x00\x00":                      "NTLM",
			"\x60\x0a\x06\x06\x2b\x06\x01\x05\x05\x02\xa0\x00": "SPNEGO",
			"\x6e\x82\x01\x00":                                 "DCE",
		} {
			m.steps(t, &authn.Transport{}).fails([]byte(token), authn.Malformed, text)
		}
	})
}

// offered leads a client to the offer and returns what it says.
func offered(t *testing.T, m *Mechanism, transport *authn.Transport, c *Client) (steps, uint32) {
	t.Helper()
	_, token, _ := c.Start()
	x := m.steps(t, transport)
	challenge := x.next(token)
	if c.o.Mutual {
		response, err := c.Next(challenge)
		if err != nil {
			t.Fatal(err)
		}
		challenge = x.next(response)
	}
	message, sealed, err := c.w.unwrap(challenge)
	if err != nil || sealed || len(message) != 4 {
		t.Fatalf("offer %x, sealed %v, %v", message, sealed, err)
	}
	return x, binary.BigEndian.Uint32(message)
}

// offering is what a client's context and a configuration lead to.
type offering struct {
	name   string
	layers Layers
	max    int
	flags  uint32
	tls    bool
	want   uint32
}

const allFlags = flagSequence | flagReplay | flagInteg | flagConf

func offers(t *testing.T, tests []offering) {
	s := newSite(t, 20)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			transport := &authn.Transport{}
			if tt.tls {
				transport.TLS = &tls.ConnectionState{}
			}
			c := s.initiate(t, krb5.InitOptions{Checksum: gss(checksum{flags: tt.flags})}, Options{})
			m := &Mechanism{Acceptor: s.acceptor, Chain: chain, Layers: tt.layers, MaxToken: tt.max}
			if _, got := offered(t, m, transport, c); got != tt.want {
				t.Errorf("offer %08x, want %08x", got, tt.want)
			}
		})
	}
}

func TestRule162Offer(t *testing.T) {
	t.Parallel()
	offers(t, []offering{
		{"none by default, and then no size", 0, 0, allFlags, false, 0x01000000},
		{"all three", 7, 0, allFlags, false, 0x07010000},
		{"privacy alone, with our size", Privacy, 4096, allFlags, false, 0x04001000},
		{"no size beyond three octets", 7, 1 << 30, allFlags, false, 0x07ffffff},
		{"none inside TLS", 7, 0, allFlags, true, 0x01000000},
		{"none inside TLS, whatever is required outside", Privacy, 0, allFlags, true, 0x01000000},
	})
}

func TestRule163FlagsForLayers(t *testing.T) {
	t.Parallel()
	offers(t, []offering{
		{"no privacy for a context without", 7, 0, allFlags &^ flagConf, false, 0x03010000},
		{"no layer for a context without integrity or privacy", 7, 0, flagSequence, false, 0x01000000},
		{"no layer without sequence numbers", 7, 0, allFlags &^ flagSequence, false, 0x01000000},
	})
	t.Run("a required layer that the client cannot do", func(t *testing.T) {
		t.Parallel()
		s := newSite(t, 18)
		c := s.initiate(t, krb5.InitOptions{Checksum: gss(checksum{flags: flagSequence})}, Options{})
		_, _, err := login(t, &Mechanism{Acceptor: s.acceptor, Chain: chain, Layers: Privacy}, &authn.Transport{}, c)
		if authn.KindOf(err) != authn.Denied {
			t.Error(err)
		}
	})
}

// TestRule163Clock: what is wrong with the client's clock is said to it.
func TestRule163Clock(t *testing.T) {
	t.Parallel()
	s := newSite(t, 18)
	for _, off := range []time.Duration{-6 * time.Minute, 6 * time.Minute} {
		i := Options{}.ticket()
		i.Time = time.Now().Add(off)
		_, traced, err := login(t, &Mechanism{Acceptor: s.acceptor, Chain: chain}, &authn.Transport{}, s.initiate(t, i, Options{}))
		var ae *authn.Error
		if !errors.As(err, &ae) || ae.Kind != authn.Rejected || !strings.Contains(ae.Text, "Clock skew too great") || traced.Err == nil {
			t.Errorf("%s off: %v", off, err)
		}
	}
}

// Tokens of RFC 4121 are for AES.
func TestRC4IsRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t, 23)
	in, err := s.credential.Initiate(Options{}.ticket())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newClient(in, Options{}); err == nil {
		t.Error("the client goes on")
	}
	m := &Mechanism{Acceptor: s.acceptor, Chain: chain}
	m.steps(t, &authn.Transport{}).fails(formatToken(tokAPReq, in.APReq), authn.Denied, "AES session key")
}

func TestRule162Choice(t *testing.T) {
	t.Parallel()
	s := newSite(t, 18)
	tests := []struct {
		name    string
		layers  Layers
		message string
		sealed  bool
		user    string // "" is a refusal
		text    string // of the refusal; else whom the client asks to act for
	}{
		{"none, nobody named", 1, "\x01\x00\x00\x00", false, "alice", ""},
		{"none, with a size that says nothing", 1, "\x01\xff\xff\xffalice", false, "alice", ""},
		{"a sealed choice", 1, "\x01\x00\x00\x00shared", true, "shared", ""},
		{"one NUL behind the name, as old fetchmail sends it", 1, "\x01\x00\x00\x00alice\x00", false, "alice", ""},
		{"one NUL and no name", 1, "\x01\x00\x00\x00\x00", false, "alice", ""},
		{"two NULs", 1, "\x01\x00\x00\x00alice\x00\x00", false, "", "authzid"},
		{"NUL within the name", 1, "\x01\x00\x00\x00ali\x00ce", false, "", "authzid"},
		{"name that is not UTF-8", 1, "\x01\x00\x00\x00alic\xe9", false, "", "authzid"},
		{"another user's name, which is for the policy to judge", 1, "\x01\x00\x00\x00bob", false, "alice", "bob"},
		{"integrity", 7, "\x02\x00\x04\x00alice", false, "alice", ""},
		{"privacy", 7, "\x04\x00\x04\x00alice", false, "alice", ""},
		{"privacy, all that three octets hold", 7, "\x04\xff\xff\xff", false, "alice", ""},
		{"privacy, and no room for a token", 7, "\x04\x00\x00\x00", false, "", "nothing fits"},
		{"privacy, and no room for an octet in it", 7, "\x04\x00\x00\x3c", false, "", "nothing fits"},
		{"privacy, and room for one octet", 7, "\x04\x00\x00\x3d", false, "alice", ""},
		{"no layer at all", 7, "\x00\x00\x00\x00", false, "", "chose layer"},
		{"two layers", 7, "\x03\x00\x04\x00", false, "", "chose layer"},
		{"a bit of nobody", 7, "\x08\x00\x04\x00", false, "", "chose layer"},
		{"a layer and a bit of nobody", 7, "\x84\x00\x04\x00", false, "", "chose layer"},
		{"integrity that was not offered", 1, "\x02\x00\x04\x00", false, "", "chose layer"},
		{"none where a layer is required", 6, "\x01\x00\x00\x00", false, "", "chose layer"},
		{"three octets", 1, "\x01\x00\x00", false, "", "choice of 3 octets"},
		{"nothing", 1, "", false, "", "choice of 0 octets"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := &Mechanism{Acceptor: s.acceptor, Chain: chain, Layers: tt.layers}
			c := s.newClient(t, Options{Mutual: true, Layers: 7})
			x, _ := offered(t, m, &authn.Transport{}, c)
			token := mustWrap(t, c.w, []byte(tt.message), tt.sealed)
			if tt.user == "" {
				x.fails(token, authn.Malformed, tt.text)
				return
			}
			if _, done, err := x.ex.Next(t.Context(), token); !done || err != nil {
				t.Fatal(err)
			}
			if id := x.ex.Identity(); id.User != tt.user || id.For != tt.text {
				t.Errorf("identity %+v", id)
			}
		})
	}
	t.Run("damaged", func(t *testing.T) {
		t.Parallel()
		c := s.newClient(t, Options{Mutual: true})
		x, _ := offered(t, &Mechanism{Acceptor: s.acceptor, Chain: chain}, &authn.Transport{}, c)
		token := mustWrap(t, c.w, []byte("\x01\x00\x00\x00alice"), false)
		token[headerLen+4] = 'b'
		x.fails(token, authn.Malformed, "checksum")
	})
}

func TestChannelBinding(t *testing.T) {
	t.Parallel()
	s := newSite(t, 20)
	const open = flagSequence
	mine, other := []byte("hash of our certificate"), []byte("hash of another")
	demand := []krb5.AuthData{{Type: adAPOptions, Data: []byte{0, 0x40, 0, 0}}}
	bound := func(endPoint []byte) *krb5.Checksum {
		return gss(checksum{binding: bindingHash(endPoint), flags: open})
	}
	none := gss(checksum{flags: open})
	tests := []struct {
		name     string
		binding  Binding
		endPoint []byte
		sum      *krb5.Checksum
		ad       []krb5.AuthData
		refused  string
		note     string
	}{
		{"K-8 right", BindingIfOffered, mine, bound(mine), nil, "", ""},
		{"K-8 another TLS connection", BindingIfOffered, mine, bound(other), nil, "does not end at this server", ""},
		{"bound, and TLS does not end here", BindingIfOffered, nil, bound(mine), nil, "does not end at this server", ""},
		{"not sent", BindingIfOffered, mine, none, nil, "", "no channel binding, though TLS has one"},
		{"not sent, no TLS either", BindingIfOffered, nil, none, nil, "", ""},
		{"not sent by a client that always does", BindingIfOffered, mine, none, demand, "Channel binding is required", ""},
		{"no TLS for a client that always binds", BindingIfOffered, nil, none, demand, "", ""},
		{"right, by a client that always does", BindingIfOffered, mine, bound(mine), demand, "", ""},
		{"off, and wrong", BindingOff, mine, bound(other), nil, "", ""},
		{"off, and demanded", BindingOff, mine, none, demand, "", ""},
		{"required and right", BindingRequired, mine, bound(mine), nil, "", ""},
		{"required and not sent", BindingRequired, mine, none, nil, "Channel binding is required", ""},
		{"required and no checksum to hold it", BindingRequired, mine, nil, nil, "Channel binding is required", ""},
		{"required and no TLS", BindingRequired, nil, none, nil, "GSSAPI needs TLS", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			transport := &authn.Transport{EndPoint: tt.endPoint}
			if tt.endPoint != nil {
				transport.TLS = &tls.ConnectionState{}
			}
			c := s.initiate(t, krb5.InitOptions{Checksum: tt.sum, AuthData: tt.ad}, Options{})
			_, traced, err := login(t, &Mechanism{Acceptor: s.acceptor, Chain: chain, Binding: tt.binding}, transport, c)
			if tt.refused == "" {
				if err != nil || traced.Note != tt.note {
					t.Errorf("error %v, note %q", err, traced.Note)
				}
				return
			}
			var ae *authn.Error
			if !errors.As(err, &ae) || ae.Kind != authn.Denied || !strings.Contains(ae.Text, tt.refused) {
				t.Errorf("error %v, want %q", err, tt.refused)
			}
		})
	}
}

// What comes where the GSSAPI checksum should be.
func TestAuthenticatorChecksums(t *testing.T) {
	t.Parallel()
	s := newSite(t, 18)
	tests := []struct {
		name    string
		init    krb5.InitOptions
		mutual  bool
		refused authn.Kind
		text    string
	}{
		{"none", krb5.InitOptions{}, false, 0, ""},
		{"none, mutual by the AP-REQ's options", krb5.InitOptions{Mutual: true}, true, 0, ""},
		{"S-23 too short", krb5.InitOptions{Checksum: &krb5.Checksum{Type: gssChecksum, Data: make([]byte, 23)}}, false, authn.Malformed, "no GSSAPI checksum"},
		{"S-23 empty", krb5.InitOptions{Checksum: &krb5.Checksum{Type: gssChecksum}}, false, authn.Malformed, "no GSSAPI checksum"},
		{"a true one that is wrong", krb5.InitOptions{Checksum: &krb5.Checksum{Type: 16, Data: make([]byte, 12)}}, false, authn.Malformed, "no GSSAPI checksum"},
		{"delegated credentials, not looked at", krb5.InitOptions{Checksum: &krb5.Checksum{Type: gssChecksum, Data: append(checksum{flags: flagDelegate}.append(nil), 1, 0, 4, 0, 9, 9, 9, 9)}}, false, 0, ""},
		{"mutual by the checksum decides", krb5.InitOptions{Mutual: true, Checksum: gss(checksum{})}, false, 0, ""},
		{"DCE style", krb5.InitOptions{Checksum: gss(checksum{flags: flagDCE | flagMutual})}, false, authn.Malformed, "DCE style"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := s.initiate(t, tt.init, Options{Mutual: tt.mutual})
			_, traced, err := login(t, &Mechanism{Acceptor: s.acceptor, Chain: chain}, &authn.Transport{}, c)
			if tt.text == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if authn.KindOf(err) != tt.refused || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("error %v, want %s %q", err, tt.refused, tt.text)
			}
			if traced.Principal == nil {
				t.Error("the trace does not say whose ticket it was")
			}
		})
	}
}

// A true checksum over no data stands for a context with sequence numbers.
func TestTrueChecksum(t *testing.T) {
	t.Parallel()
	s := newSite(t, 18)
	in, err := s.credential.Initiate(krb5.InitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	sum, err := in.Session.Checksum(10, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := s.initiate(t, krb5.InitOptions{Mutual: true, Checksum: &krb5.Checksum{Type: 16, Data: sum}}, Options{Mutual: true})
	if _, _, err := login(t, &Mechanism{Acceptor: s.acceptor, Chain: chain}, &authn.Transport{}, c); err != nil {
		t.Error(err)
	}
}

// TestClientRefuses has a server that is not what it says.
func TestClientRefuses(t *testing.T) {
	t.Parallel()
	s := newSite(t, 18)
	offer := func(c *Client, message string, sealed bool) []byte {
		server := &wrapper{key: c.w.key, acceptor: true, send: c.w.recv}
		return mustWrap(t, server, []byte(message), sealed)
	}
	tests := []struct {
		name      string
		o         Options
		challenge func(c *Client) []byte
		err       string
	}{
		{"a challenge before the ticket", Options{Prompted: true}, func(*Client) []byte { return []byte("x") }, "unexpected server challenge"},
		{"no AP-REP", Options{Mutual: true}, func(c *Client) []byte { return offer(c, "\x01\x00\x00\x00", false) }, "not a GSSAPI token"},
		{"an AP-REP of somebody else", Options{Mutual: true}, func(*Client) []byte { return formatToken(tokAPRep, []byte("\x6f\x00")) }, "did not prove itself"},
		{"a refusal in words", Options{Mutual: true}, func(*Client) []byte {
			der := krb5.ErrorReply(&krb5.Error{Code: krb5.CodeSkew, Text: "Clock skew too great"})
			return formatToken(tokError, der)
		}, "server refused the ticket: Clock skew too great (Kerberos error 37)"},
		{"a refusal of no sense", Options{Mutual: true}, func(*Client) []byte { return formatToken(tokError, []byte("x")) }, "KRB-ERROR"},
		{"no wrap token", Options{}, func(*Client) []byte { return []byte("+OK") }, "not a wrap token"},
		{"an offer of five octets", Options{}, func(c *Client) []byte { return offer(c, "\x01\x00\x00\x00\x00", false) }, "offer of 5 octets"},
		{"layers that are not wanted", Options{}, func(c *Client) []byte { return offer(c, "\x06\x00\x10\x00", false) }, "server offers layers 0x6, not any of 0x1"},
		{"a layer and no room in its tokens", Options{Layers: Privacy}, func(c *Client) []byte { return offer(c, "\x07\x00\x00\x10", false) }, "nothing fits"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := s.initiate(t, tt.o.ticket(), tt.o)
			if _, _, err := c.Start(); err != nil {
				t.Fatal(err)
			}
			if response, err := c.Next(tt.challenge(c)); err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("response %x, error %v, want %q", response, err, tt.err)
			}
			if c.Layer() != nil {
				t.Error("a layer all the same")
			}
		})
	}
	t.Run("goes on after the end", func(t *testing.T) {
		t.Parallel()
		c := s.initiate(t, Options{}.ticket(), Options{})
		if _, err := c.Next(offer(c, "\x01\x00\x00\x00", false)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Next(nil); !errors.Is(err, sasl.ErrUnexpectedServerChallenge) {
			t.Error(err)
		}
	})
}

// TestReplayK4 records a whole conversation and says it again.
func TestReplayK4(t *testing.T) {
	t.Parallel()
	for _, mutual := range []bool{false, true} {
		t.Run(fmt.Sprintf("mutual %v", mutual), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, 20)
			m := &Mechanism{Acceptor: s.acceptor, Chain: chain}
			c := s.newClient(t, Options{Mutual: mutual})
			_, ticket, _ := c.Start()
			said := [][]byte{ticket}
			x := m.steps(t, &authn.Transport{})
			for {
				challenge, done, err := x.ex.Next(t.Context(), said[len(said)-1])
				if err != nil {
					t.Fatal(err)
				}
				if done {
					break
				}
				response, err := c.Next(challenge)
				if err != nil {
					t.Fatal(err)
				}
				said = append(said, response)
			}
			m.steps(t, &authn.Transport{}).fails(ticket, authn.Rejected, "")
			if !mutual {
				return // the replay cache is all there is
			}
			x = s.forgetful().steps(t, &authn.Transport{})
			x.next(said[0])
			x.next(said[1])
			x.fails(said[2], authn.Malformed, "")
		})
	}
}
