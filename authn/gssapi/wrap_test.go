package gssapi

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"github.com/kpopd/kpopd/authn/krb5"
)

var enctypes = krb5.DefaultEnctypes()

func newKey(t testing.TB, enctype int32) krb5.Key {
	t.Helper()
	k, err := krb5.NewKey(enctype)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// sides are two wrappers that understand each other.
func sides(t testing.TB, enctype int32, subkey bool) (acceptor, initiator *wrapper) {
	k := newKey(t, enctype)
	acceptor = &wrapper{key: k, acceptor: true, subkey: subkey, send: 7, recv: 1<<32 - 1}
	initiator = &wrapper{key: k, subkey: subkey, send: acceptor.recv, recv: acceptor.send}
	return acceptor, initiator
}

func mustWrap(t testing.TB, w *wrapper, payload []byte, sealed bool) []byte {
	t.Helper()
	token, err := w.wrap(nil, payload, sealed)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestWrapRoundTrip(t *testing.T) {
	t.Parallel()
	for _, enctype := range enctypes {
		for _, subkey := range []bool{false, true} {
			for _, sealed := range []bool{false, true} {
				t.Run(fmt.Sprintf("enctype %d, subkey %v, sealed %v", enctype, subkey, sealed), func(t *testing.T) {
					t.Parallel()
					acceptor, initiator := sides(t, enctype, subkey)
					for _, n := range []int{4, 0, 1, 15, 16, 17, 1000, 70000} {
						payload := bytes.Repeat([]byte("kpop"), n)[:n]
						for _, w := range [][2]*wrapper{{acceptor, initiator}, {initiator, acceptor}} {
							token := mustWrap(t, w[0], payload, sealed)
							if len(token) != n+w[0].overhead(sealed) {
								t.Errorf("%d octets become %d, announced %d more", n, len(token), w[0].overhead(sealed))
							}
							got, gotSealed, err := w[1].unwrap(token)
							if err != nil || !bytes.Equal(got, payload) || gotSealed != sealed {
								t.Fatalf("%d octets: got %d, sealed %v, %v", n, len(got), gotSealed, err)
							}
						}
					}
				})
			}
		}
	}
}

// The layout of RFC 4121 section 4.2.6.2, as seen from MIT and Heimdal.
func TestWrapTokenLayout(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		enctype  int32
		acceptor bool
		subkey   bool
		sealed   bool
		header   string
		length   int
	}{
		{"server with subkey, aes256-sha2", 20, true, true, false, "0504 05ff 0018 0000 0000000000000007", 44},
		{"server without, aes128-sha2", 19, true, false, false, "0504 01ff 0010 0000 0000000000000007", 36},
		{"client with subkey, aes256-sha1", 18, false, true, false, "0504 04ff 000c 0000 00000000ffffffff", 32},
		{"client without, aes128-sha1", 17, false, false, false, "0504 00ff 000c 0000 00000000ffffffff", 32},
		{"server seals, aes256-sha2", 20, true, true, true, "0504 07ff 0000 0000 0000000000000007", 16 + 16 + 4 + 16 + 24},
		{"client seals, aes256-sha1", 18, false, false, true, "0504 02ff 0000 0000 00000000ffffffff", 16 + 16 + 4 + 16 + 12},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w, i := sides(t, tt.enctype, tt.subkey)
			if !tt.acceptor {
				w = i
			}
			payload := []byte{1, 0, 0, 0}
			token := mustWrap(t, w, payload, tt.sealed)
			if len(token) != tt.length || !bytes.Equal(token[:headerLen], unhex(t, tt.header)) {
				t.Errorf("%d octets, header %x", len(token), token[:headerLen])
			}
			if !tt.sealed && !bytes.Equal(token[headerLen:headerLen+4], payload) {
				t.Errorf("payload is not in the clear: %x", token)
			}
		})
	}
}

// rotate does to a token what a sender with that RRC does.
func rotate(token []byte, rrc int) []byte {
	out := bytes.Clone(token[:headerLen])
	binary.BigEndian.PutUint16(out[6:], uint16(rrc))
	body := token[headerLen:]
	at := len(body) - rrc%len(body)
	return append(append(out, body[at:]...), body[:at]...)
}

func TestUnwrapRotated(t *testing.T) {
	t.Parallel()
	for _, enctype := range enctypes {
		for _, sealed := range []bool{false, true} {
			trailer := newKey(t, enctype).ChecksumSize()
			if sealed {
				trailer += headerLen
			}
			for _, rrc := range []int{0, 1, trailer, 28, 1000, 65535} { // Heimdal rotates by the trailer
				acceptor, initiator := sides(t, enctype, true)
				token := rotate(mustWrap(t, initiator, []byte("\x01\x00\x00\x00alice"), sealed), rrc)
				got, _, err := acceptor.unwrap(token)
				if err != nil || string(got) != "\x01\x00\x00\x00alice" {
					t.Errorf("enctype %d, sealed %v, RRC %d: %q, %v", enctype, sealed, rrc, got, err)
				}
			}
		}
	}
}

// A sealed token may have filler octets before the inner header.
func TestUnwrapFiller(t *testing.T) {
	t.Parallel()
	acceptor, initiator := sides(t, 18, false)
	header := [headerLen]byte{5, 4, isSealed, 0xff, 0, 5}
	binary.BigEndian.PutUint64(header[8:], initiator.send)
	cipher, err := initiator.key.Encrypt(usageInitiator, append([]byte("alice12345"), header[:]...))
	if err != nil {
		t.Fatal(err)
	}
	if got, sealed, err := acceptor.unwrap(append(header[:], cipher...)); err != nil || string(got) != "alice" || !sealed {
		t.Errorf("%q, %v", got, err)
	}
}

func TestUnwrapRefuses(t *testing.T) {
	t.Parallel()
	for _, sealed := range []bool{false, true} {
		tests := []struct {
			name  string
			token func(acceptor, initiator *wrapper) []byte
			err   string
		}{
			{"nothing", func(_, _ *wrapper) []byte { return nil }, "not a wrap token"},
			{"half a header", func(_, i *wrapper) []byte { return mustWrap(t, i, nil, sealed)[:15] }, "not a wrap token"},
			{"a header alone", func(_, i *wrapper) []byte { return mustWrap(t, i, nil, sealed)[:16] }, ""},
			{"a MIC token", func(_, i *wrapper) []byte { b := mustWrap(t, i, nil, sealed); b[0] = 4; return b }, "not a wrap token"},
			{"our own, sent back", func(a, _ *wrapper) []byte { return mustWrap(t, a, nil, sealed) }, "flags"},
			{"without the subkey", func(_, i *wrapper) []byte { i.subkey = false; return mustWrap(t, i, nil, sealed) }, "flags"},
			{"the one before", func(_, i *wrapper) []byte { i.send--; return mustWrap(t, i, nil, sealed) }, "token 4294967294, not 4294967295"},
			{"one left out", func(_, i *wrapper) []byte { i.send++; return mustWrap(t, i, nil, sealed) }, "token 4294967296, not"},
			{"another key", func(_, i *wrapper) []byte { i.key = newKey(t, 18); return mustWrap(t, i, nil, sealed) }, ""},
			{"usage of the other side", func(_, i *wrapper) []byte {
				i.acceptor = true
				b := mustWrap(t, i, []byte("x"), sealed)
				b[2] &^= sentByAcceptor
				return b
			}, ""},
			{"longer EC", func(_, i *wrapper) []byte { b := mustWrap(t, i, nil, sealed); b[4] = 0xff; return b }, ""},
		}
		for _, tt := range tests {
			t.Run(fmt.Sprintf("%s, sealed %v", tt.name, sealed), func(t *testing.T) {
				t.Parallel()
				acceptor, initiator := sides(t, 18, true)
				was := acceptor.recv
				got, _, err := acceptor.unwrap(tt.token(acceptor, initiator))
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %q, %v; want %q", got, err, tt.err)
				}
				if acceptor.recv != was {
					t.Error("a refused token counts")
				}
			})
		}
	}
}

// FuzzWrapToken: what was wrapped comes out; a token that was changed
// anywhere does not, but for RRC, which nothing protects: with it changed the
// same comes out, or nothing.
func FuzzWrapToken(f *testing.F) {
	f.Add([]byte("\x01\x00\x00\x00alice"), uint8(0), false, uint16(0), uint16(0), uint8(0))
	f.Add([]byte("\x01\x00\x00\x00alice"), uint8(1), true, uint16(28), uint16(2), uint8(2))
	f.Add([]byte{}, uint8(2), false, uint16(24), uint16(7), uint8(1))
	f.Add([]byte("+OK\r\n"), uint8(3), true, uint16(40), uint16(60), uint8(0x80))
	f.Fuzz(func(t *testing.T, payload []byte, enctype uint8, sealed bool, rrc, at uint16, flip uint8) {
		acceptor, initiator := sides(t, enctypes[enctype%4], true)
		token := rotate(mustWrap(t, initiator, payload, sealed), int(rrc))
		i := int(at) % len(token)
		token[i] ^= flip
		changed := flip != 0
		got, _, err := acceptor.unwrap(token)
		switch {
		case err == nil && !bytes.Equal(got, payload):
			t.Errorf("%q became %q", payload, got)
		case err == nil && changed && i != 6 && i != 7:
			t.Errorf("octet %d was changed unseen", i)
		case err != nil && !changed:
			t.Error(err)
		}
	})
}

func BenchmarkWrap(b *testing.B) {
	for _, enctype := range []int32{18, 20} {
		for _, sealed := range []bool{false, true} {
			for _, n := range []int{64, 1 << 10, 64 << 10} {
				b.Run(fmt.Sprintf("enctype=%d/sealed=%v/octets=%d", enctype, sealed, n), func(b *testing.B) {
					w, _ := sides(b, enctype, true)
					payload := make([]byte, n)
					b.SetBytes(int64(n))
					b.ReportAllocs()
					for b.Loop() {
						mustWrap(b, w, payload, sealed)
					}
				})
			}
		}
	}
}
