package gssapi

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTokenHeader(t *testing.T) {
	t.Parallel()
	const oid = "06092a864886f712010202"
	tests := []struct {
		name, token, message, err string
	}{
		{"AP-REQ", "60 10" + oid + "0100 6e0141", "6e0141", ""},
		{"no message", "60 0d" + oid + "0100", "", ""},
		{"AP-REP where an AP-REQ is due", "60 0e" + oid + "0200 6f", "", "token 0x0200, not 0x0100"},
		{"empty", "", "", "empty token"},
		{"tag alone", "60", "", "not a GSSAPI token"},
		{"length of no octets", "6080" + oid + "0100", "", "not DER"},
		{"long form of a short length", "60810d" + oid + "0100", "", "not DER"},
		{"length with a zero before it", "6082000d" + oid + "0100", "", "not DER"},
		{"length of four octets", "608400000001" + oid, "", "not DER"},
		{"length cut off", "6082ff", "", "not DER"},
		{"shorter than announced", "6020" + oid + "0100", "", "announces 32 octets and has 13"},
		{"longer than announced", "600d" + oid + "010000", "", "announces 13 octets and has 14"},
		{"identifier cut off", "600c" + oid + "01", "", "ends before its identifier"},
		{"SPNEGO", "600a 06062b0601050502 a000", "", "SPNEGO"},
		{"another mechanism", "6007 06052b05010502", "", "another mechanism"},
		{"NTLM", "4e544c4d53535000 01000000", "", "NTLM"},
		{"DCE style", "6e820100", "", "DCE style"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := parseToken(unhex(t, tt.token), tokAPReq)
			switch {
			case tt.err == "" && err != nil:
				t.Fatal(err)
			case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)):
				t.Fatalf("error %v, want %q", err, tt.err)
			case !bytes.Equal(got, unhex(t, tt.message)):
				t.Fatalf("message %x, want %s", got, tt.message)
			}
		})
	}
}

func TestTokenLengths(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 100, 114, 115, 127, 128, 242, 243, 65522, 65523, 100000} {
		message := bytes.Repeat([]byte{7}, n)
		got, err := parseToken(formatToken(tokAPRep, message), tokAPRep)
		if err != nil || !bytes.Equal(got, message) {
			t.Errorf("%d octets: got %d, %v", n, len(got), err)
		}
	}
}

// FuzzGSSToken: a token that is taken is the only one that says the same.
func FuzzGSSToken(f *testing.F) {
	f.Add(formatToken(tokAPReq, []byte("\x6e\x03abc")))
	f.Add(formatToken(tokAPReq, make([]byte, 200)))
	f.Add([]byte("\x60\x84\x00\x00\x00\x01\x06"))
	f.Add([]byte("NTLMSSP\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		message, err := parseToken(b, tokAPReq)
		if err == nil && !bytes.Equal(formatToken(tokAPReq, message), b) {
			t.Errorf("%x was taken for %x", b, formatToken(tokAPReq, message))
		}
	})
}

func TestGSSChecksum(t *testing.T) {
	t.Parallel()
	const zero = "00000000000000000000000000000000"
	tests := []struct {
		name, sum string
		flags     uint32
		ok        bool
	}{
		{"curl: no mutual authentication", "10000000" + zero + "34010000", 0x134, true},
		{"delegation follows", "10000000" + zero + "3b010000 0100 0400 deadbeef", 0x13b, true},
		{"delegation cut off", "10000000" + zero + "01000000 0100", 1, true},
		{"empty", "", 0, false},
		{"flags cut off", "10000000" + zero + "340100", 0, false},
		{"binding of another length", "08000000" + zero + "34010000", 0, false},
		{"length in the wrong order", "00000010" + zero + "34010000", 0, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := parseChecksum(unhex(t, tt.sum))
			if (err == nil) != tt.ok || got.flags != tt.flags {
				t.Errorf("flags %#x, %v", got.flags, err)
			}
		})
	}
	sum := checksum{binding: [16]byte{15: 9}, flags: 0x13e}
	if got, err := parseChecksum(sum.append(nil)); err != nil || got != sum {
		t.Errorf("round trip: %+v, %v", got, err)
	}
}

// The expected hash was computed with Python's struct and hashlib over the
// octets of RFC 4121 section 4.1.1.2.
func TestBindingHash(t *testing.T) {
	t.Parallel()
	endPoint := make([]byte, 32)
	for i := range endPoint {
		endPoint[i] = byte(i)
	}
	if got := bindingHash(endPoint); hex.EncodeToString(got[:]) != "8f1214c9c9cab8dc3bf866da9aba57a7" {
		t.Errorf("%x", got)
	}
}
