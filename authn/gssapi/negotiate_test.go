package gssapi

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/emersion/go-sasl"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/authntest"
)

var insideTLS = authn.Transport{TLS: &tls.ConnectionState{}, EndPoint: []byte("end point")}

// formatNegInit is the inverse of parseNegInit.
func formatNegInit(t testing.TB, i *negInit) []byte {
	t.Helper()
	var b cryptobyte.Builder
	b.AddASN1(asn1.Tag(0).Constructed()|0x40, func(b *cryptobyte.Builder) { // application 0
		b.AddBytes(oidSPNEGO)
		b.AddASN1(tag(0), func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1(tag(0), func(b *cryptobyte.Builder) { b.AddBytes(listOf(i.mechs)) })
				addOctets(b, 2, i.token)
				addOctets(b, 3, i.mic)
			})
		})
	})
	out, err := b.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func listOf(mechs [][]byte) []byte {
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(bytes.Join(mechs, nil)) })
	return b.BytesOrPanic()
}

// negotiator is a client that is, or is to be, led wrong.
type negotiator struct {
	*Client
	t       testing.TB
	mechs   [][]byte
	late    bool                // no token with the list
	mic     func([]byte) []byte // its own MIC on its way
	first   func(*negInit)      // its first message on its way
	answers []negState          // heard
	signed  bool                // sent its MIC
	proven  bool
}

func (n *negotiator) Start() (string, []byte, error) {
	i := &negInit{mechs: n.mechs}
	if !n.late {
		i.token = formatToken(tokAPReq, n.in.APReq)
		if !isKerberos(n.mechs[0]) {
			i.token = []byte("of another mechanism")
		}
	}
	if n.first != nil {
		n.first(i)
	}
	return NameSPNEGO, formatNegInit(n.t, i), nil
}

func (n *negotiator) Next(challenge []byte) ([]byte, error) {
	r, err := parseNegResp(challenge)
	if err != nil {
		return nil, err
	}
	n.answers = append(n.answers, r.state)
	out := &negResp{state: noState}
	switch {
	case r.state == reject:
		return nil, nil
	case r.state == requestMIC, r.state == acceptIncomplete && r.token == nil && r.mic == nil:
		out.token = formatToken(tokAPReq, n.in.APReq)
		if !n.o.Mutual && r.state == requestMIC {
			out.mic = n.sign()
		}
		return out.format()
	}
	if r.token != nil {
		if _, err := n.proof(r.token); err != nil {
			return nil, err
		}
		n.proven = true
	}
	if n.o.Mutual && !n.proven {
		return nil, errors.New("the server did not prove itself")
	}
	if r.mic != nil {
		if err := n.w.checkMIC(listOf(n.mechs), r.mic); err != nil {
			return nil, err
		}
	}
	if r.state == acceptIncomplete {
		out.mic = n.sign()
		return out.format()
	}
	return []byte{}, nil
}

func (n *negotiator) sign() []byte {
	n.signed = true
	mic, err := n.w.mic(listOf(n.mechs))
	if err != nil {
		n.t.Fatal(err)
	}
	if n.mic != nil {
		mic = n.mic(mic)
	}
	return mic
}

func (s *site) negotiator(t testing.TB, o Options, mechs ...[]byte) *negotiator {
	if mechs == nil {
		mechs = [][]byte{oidKrb5}
	}
	return &negotiator{Client: s.newClient(t, o), t: t, mechs: mechs}
}

func TestNegotiated(t *testing.T) {
	t.Parallel()
	s := newSite(t, 20)
	authntest.RunMechanism(t, authntest.Case{
		Mechanism: Negotiated(&Mechanism{Acceptor: s.acceptor, Chain: chain}),
		Transport: insideTLS,
		User:      "alice",
		Good:      func(t *testing.T) sasl.Client { return s.negotiator(t, Options{Mutual: true}) },
		Bad:       func(t *testing.T) sasl.Client { return s.negotiator(t, Options{Mutual: true}, oidNTLM) },
	})
}

// negotiate leads a client through a policy.
func negotiate(t testing.TB, m *Mechanism, transport *authn.Transport, c sasl.Client) (*authn.Login, *authn.Attempt, error) {
	t.Helper()
	var r authntest.Recorder
	p := &authn.Policy{Name: "test", Offers: []authn.Mechanism{Negotiated(m)}, Trace: r.Trace()}
	l, err := p.Start(t.Context(), transport, NameSPNEGO)
	if err == nil {
		err = authntest.Converse(t.Context(), l, c)
	}
	var last *authn.Attempt
	if len(r.Attempts) > 0 {
		last = r.Attempts[len(r.Attempts)-1]
	}
	return l, last, err
}

// Every way to come to an agreement, with every layer; who signed is told by the
// place of Kerberos on the list (RFC 4178 section 5).
func TestNegotiation(t *testing.T) {
	t.Parallel()
	other := []byte{0x06, 0x03, 0x2a, 0x03, 0x04}
	for _, enctype := range enctypes {
		s := newSite(t, enctype)
		for _, tt := range []struct {
			name    string
			mechs   [][]byte
			late    bool
			mutual  bool
			answers string
			signed  bool
		}{
			{"Kerberos alone", [][]byte{oidKrb5}, false, true, "[0]", false},
			{"Kerberos alone, unproven", [][]byte{oidKrb5}, false, false, "[0]", false},
			{"Microsoft's Kerberos first", [][]byte{oidMSKrb5, oidKrb5, oidNTLM}, false, true, "[0]", false},
			{"no ticket with the list", [][]byte{oidKrb5}, true, true, "[1 0]", false},
			{"NTLM first", [][]byte{oidNTLM, oidKrb5}, false, true, "[3 1 0]", true},
			{"NTLM first, unproven", [][]byte{oidNTLM, oidKrb5}, false, false, "[3 0]", true},
			{"unknown first, no token", [][]byte{other, oidMSKrb5}, true, true, "[3 1 0]", true},
		} {
			for _, layer := range []Layers{None, Integrity, Privacy} {
				t.Run(fmt.Sprintf("enctype %d, %s, layer %d", enctype, tt.name, layer), func(t *testing.T) {
					t.Parallel()
					c := s.negotiator(t, Options{Mutual: tt.mutual, Layers: layer}, tt.mechs...)
					c.late = tt.late
					l, traced, err := negotiate(t, &Mechanism{Acceptor: s.acceptor, Chain: chain}, &insideTLS, c)
					if err != nil {
						t.Fatal(err)
					}
					if l.Identity().User != "alice" || traced.Principal.String() != "alice@EXAMPLE.TEST" || traced.Layer != (layer != None) {
						t.Errorf("traced %+v", traced)
					}
					if got := fmt.Sprint(c.answers); got != tt.answers || c.signed != tt.signed {
						t.Errorf("answers %s, want %s; client signed: %v", got, tt.answers, c.signed)
					}
					if (l.Layer() != nil) != (layer != None) {
						t.Fatalf("a layer: %v", l.Layer() != nil)
					}
					if layer != None {
						w := c.w
						talk(t, l.Layer(), func(under net.Conn) net.Conn {
							return newConn(under, w, layer == Privacy, negotiatedLimit, 64<<10)
						}, layer == Privacy)
					}
				})
			}
		}
	}
}

func TestNegotiationRefuses(t *testing.T) {
	t.Parallel()
	s := newSite(t, 18)
	damage := func(b []byte) []byte { b[len(b)-1] ^= 1; return b }
	none := func([]byte) []byte { return nil }
	for _, tt := range []struct {
		name   string
		mechs  [][]byte
		mutual bool
		first  func(*negInit)
		mic    func([]byte) []byte
		kind   authn.Kind
		err    string
	}{
		{"NTLM alone", [][]byte{oidNTLM}, true, nil, nil, authn.Denied, "NTLM is not taken"},
		{"nothing known", [][]byte{{0x06, 0x01, 0x2a}}, true, nil, nil, authn.Denied, "none of the client's 1 mechanisms"},
		{"a list that lost its head on the way", [][]byte{oidNTLM, oidKrb5}, true, func(i *negInit) { i.mechs = [][]byte{{0x06, 0x01, 0x2a}, oidKrb5} }, nil, authn.Malformed, ""},
		{"a signature that is damaged", [][]byte{oidNTLM, oidKrb5}, true, nil, damage, authn.Denied, "checksum of the MIC token"},
		{"a signature that is damaged, unproven", [][]byte{oidNTLM, oidKrb5}, false, nil, damage, authn.Denied, "checksum of the MIC token"},
		{"no signature where one is due", [][]byte{oidNTLM, oidKrb5}, true, nil, none, authn.Denied, "not MIC token"},
		{"a signature of the past", [][]byte{oidNTLM, oidKrb5}, true, nil, func(b []byte) []byte { b[15]--; return b }, authn.Denied, "not MIC token"},
		{"a signature before the context", nil, true, func(i *negInit) { i.mic = []byte{4, 4} }, nil, authn.Malformed, "a MIC before"},
		{"a signature that was not needed and is wrong", nil, false, func(i *negInit) { i.mic = []byte{4, 4} }, nil, authn.Denied, "not MIC token"},
		{"a token that is none", nil, true, func(i *negInit) { i.token = []byte("x") }, nil, authn.Malformed, "not a GSSAPI token"},
		{"an empty token", nil, true, func(i *negInit) { i.token = []byte{} }, nil, authn.Malformed, "empty token"},
		{"an NTLM message as Kerberos", nil, true, func(i *negInit) { i.token = []byte("NTLMSSP\x00\x01") }, nil, authn.Malformed, "NTLM token"},
		{"another's ticket message", nil, true, func(i *negInit) { i.token[len(i.token)-1] ^= 1 }, nil, authn.Rejected, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := s.negotiator(t, Options{Mutual: tt.mutual}, tt.mechs...)
			c.first, c.mic = tt.first, tt.mic
			l, traced, err := negotiate(t, &Mechanism{Acceptor: s.acceptor, Chain: chain}, &insideTLS, c)
			if tt.kind == authn.Malformed && tt.err == "" { // the client finds it out
				if err == nil || l.Identity() != nil {
					t.Errorf("got %v", err)
				}
				return
			}
			if authn.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.err) || l.Identity() != nil || traced.Err == nil {
				t.Errorf("got %v, want %v with %q", err, tt.kind, tt.err)
			}
			if rejected := fmt.Sprint(c.answers) == "[2]"; rejected != (tt.kind == authn.Denied && c.mic == nil && c.first == nil) {
				t.Errorf("the client heard %v", c.answers)
			}
		})
	}
}

// Neither a policy nor the mechanism itself begins without TLS; a required binding
// is required here too.
func TestNegotiationNeedsTLS(t *testing.T) {
	t.Parallel()
	s := newSite(t, 18)
	m := &Mechanism{Acceptor: s.acceptor, Chain: chain, Binding: BindingRequired}
	if _, _, err := negotiate(t, m, &authn.Transport{}, s.negotiator(t, Options{})); err == nil || !strings.Contains(err.Error(), "start TLS first") {
		t.Errorf("in the clear: %v", err)
	}
	if _, _, err := negotiate(t, m, &insideTLS, s.negotiator(t, Options{})); authn.KindOf(err) != authn.Denied {
		t.Errorf("unbound: %v", err)
	}
	if _, traced, err := negotiate(t, m, &insideTLS, s.negotiator(t, Options{EndPoint: insideTLS.EndPoint})); err != nil || traced.Note != "" {
		t.Errorf("bound: %v", err)
	}
}

func TestNegotiationTokens(t *testing.T) {
	t.Parallel()
	many := bytes.Repeat([]byte{0x06, 0x01, 0x2a}, maxMechs+1)
	for _, tt := range []struct{ name, token, err string }{
		{"Kerberos and nothing else", "60 1f 06062b0601050502 a015 3013 a00d 300b 06092a864886f712010202 a202 0400", ""},
		{"empty list", "60 12 06062b0601050502 a008 3006 a004 3002 0500", "not a negotiation"},
		{"list of nothing", "60 10 06062b0601050502 a006 3004 a002 3000", "no mechanism"},
		{"no list", "60 0c 06062b0601050502 a002 3000", "not a negotiation"},
		{"Kerberos, raw", "60 0d 06092a864886f712010202 0100", "not a negotiation"},
		{"NTLM, raw", "4e544c4d53535000 01000000", "NTLM"},
		{"an answer", "a1 02 3000", "not a GSSAPI token"},
		{"octets behind the list", "60 1e 06062b0601050502 a014 3012 a00d 300b 06092a864886f712010202 a501 00", "not a negotiation"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			i, err := parseNegInit(unhex(t, tt.token))
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("got %+v, %v", i, err)
			}
		})
	}
	i := &negInit{mechs: bytes.SplitAfter(many, []byte{0x2a})[:maxMechs+1]}
	if _, err := parseNegInit(formatNegInit(t, i)); err == nil || !strings.Contains(err.Error(), "more than 32") {
		t.Error("33 mechanisms:", err)
	}
	i.mechs, i.token = i.mechs[:1], make([]byte, maxNegotiation)
	if _, err := parseNegInit(formatNegInit(t, i)); err == nil {
		t.Error("a message above the bound was read")
	}
	if _, err := parseNegResp(make([]byte, maxNegotiation+1)); err == nil {
		t.Error("an answer above the bound was read")
	}
}

// FuzzNegInit: what is taken has a bounded list that stands in it, and says the
// same when it is written anew.
func FuzzNegInit(f *testing.F) {
	f.Add(formatNegInit(f, &negInit{mechs: [][]byte{oidMSKrb5, oidKrb5, oidNTLM}, token: formatToken(tokAPReq, []byte("abc"))}))
	f.Add(formatNegInit(f, &negInit{mechs: [][]byte{oidKrb5}, mic: []byte{4, 4}}))
	f.Add([]byte("\x60\x10\x06\x06\x2b\x06\x01\x05\x05\x02\xa0\x06\x30\x04\xa0\x02\x30\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		i, err := parseNegInit(b)
		if err != nil {
			return
		}
		if len(i.mechs) == 0 || len(i.mechs) > maxMechs || !bytes.Contains(b, i.list) || !bytes.Equal(i.list, listOf(i.mechs)) {
			t.Fatalf("%d mechanisms, list %x of %x", len(i.mechs), i.list, b)
		}
		again, err := parseNegInit(formatNegInit(t, i))
		if err != nil || !bytes.Equal(again.list, i.list) || !bytes.Equal(again.token, i.token) || !bytes.Equal(again.mic, i.mic) {
			t.Errorf("%x became %+v, %v", b, again, err)
		}
	})
}

// FuzzNegResp: an answer that is taken is the only one that says the same.
func FuzzNegResp(f *testing.F) {
	for _, r := range []*negResp{{state: reject}, {state: noState, token: []byte("abc"), mic: []byte{}}, {state: requestMIC, mech: oidKrb5}} {
		b, err := r.format()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseNegResp(b)
		if err != nil {
			return
		}
		if again, err := r.format(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("%x was taken for %x, %v", b, again, err)
		}
	})
}
