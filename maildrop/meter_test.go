package maildrop_test

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/kpopd/kpopd/maildrop"
	"github.com/kpopd/kpopd/maildrop/droptest"
)

func isWireForm(stored string) bool {
	return stored == droptest.Wire(stored) && !strings.HasPrefix(stored, ".") && !strings.Contains(stored, "\n.")
}

func TestMeter(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		stored   string
		size     int64
		wireForm bool
	}{
		{"the empty message is empty", "", 0, true},
		{"CRLF throughout is the wire form", "a\r\nb\r\n", 6, true},
		{"a LF counts two octets", "a\nb\n", 6, false},
		{"line ends may be mixed", "a\r\nb\nc\r\n", 9, false},
		{"a missing last line end is added", "a\r\nb", 6, false},
		{"a CR alone is an octet like any other", "a\rb\r\n", 5, true},
		{"a CR at the end gets a line end", "a\r", 4, false},
		{"CR CR LF is one line end", "a\r\r\n", 4, true},
		{"LF CR is a line end and a line of one CR", "a\n\r", 6, false},
		{"only LFs", "\n\n\n", 6, false},
		{"only CRs", "\r\r", 4, false},
		{"a lone LF", "\n", 2, false},
		{"a dot at the start is to be stuffed", ".\r\n", 3, false},
		{"a dot after CRLF is to be stuffed", "a\r\n.b\r\n", 7, false},
		{"a dot inside a line is not", "a.b\r\n.", 8, false},
		{"a dot after a lone CR is inside a line", "a\r.\r\n", 5, true},
		{"NUL and 8-bit octets count one each", "\x00\xff\r\n", 4, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			size, wireForm, err := maildrop.Measure(strings.NewReader(tt.stored))
			if size != tt.size || wireForm != tt.wireForm || err != nil {
				t.Errorf("Measure(%q) = %d, %v, %v, want %d, %v", tt.stored, size, wireForm, err, tt.size, tt.wireForm)
			}
			if n := len(droptest.Wire(tt.stored)); int64(n) != tt.size {
				t.Errorf("the reference counts %d", n)
			}
		})
	}
}

// A message as long as a line may be must not be held.
func TestMeasureHoldsNoMessage(t *testing.T) {
	t.Parallel()
	const n = 100 << 20
	size, wireForm, err := maildrop.Measure(io.LimitReader(zeros{}, n))
	if size != n+2 || wireForm || err != nil {
		t.Errorf("got %d, %v, %v", size, wireForm, err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestMeasureReportsReadErrors(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	_, _, err := maildrop.Measure(io.MultiReader(strings.NewReader("a\n"), iotest.ErrReader(broken)))
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

func FuzzMeter(f *testing.F) {
	for _, s := range []string{"", "a\nb\r\n.c\r", "\r\n\r\n.\r\n", "\n.\n", "a\r\nb\nc\rd"} {
		f.Add([]byte(s), uint8(1), uint8(3))
	}
	f.Fuzz(func(t *testing.T, stored []byte, first, step uint8) {
		var m maildrop.Meter
		rest := stored
		for n := int(first); len(rest) > 0; n = int(step) {
			n = min(max(n, 1), len(rest))
			m.Write(rest[:n])
			rest = rest[n:]
		}
		if got, want := m.Size(), int64(len(droptest.Wire(string(stored)))); got != want {
			t.Errorf("size %d, want %d", got, want)
		}
		if got, want := m.WireForm(), isWireForm(string(stored)); got != want {
			t.Errorf("wire form %v, want %v", got, want)
		}
	})
}

func BenchmarkMeter(b *testing.B) {
	line := strings.Repeat("x", 71)
	for _, bb := range []struct{ name, text string }{
		{"LF", strings.Repeat(line+"\n", 900)},
		{"CRLF", strings.Repeat(line+"\r\n", 900)},
		{"one line", strings.Repeat(line, 900)},
		{"empty lines", strings.Repeat("\r\n", 32<<10)},
	} {
		b.Run(bb.name, func(b *testing.B) {
			text := []byte(bb.text)
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				var m maildrop.Meter
				m.Write(text)
			}
		})
	}
}

// Wherever a message is cut, its header ends with the first empty line.
func TestMeterHeader(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		stored string
		header int64
	}{
		{"", 0},
		{"\n", 2},
		{"\r\nb\r\n", 2},
		{"a\n\nb\n", 5},
		{"a\r\n\r\nb\r\n\r\n", 5},
		{"a\nb\r\n\nc\n", 8},
		{"a\n\r\nb\n", 5},
		{"a\n\r\r\nb", 9}, // a line of CR is not empty: all is header
		{"\r\r\n\n", 5},
		{"a\nb", 6},
	} {
		for cut := range len(tt.stored) + 1 {
			var m maildrop.Meter
			m.Write([]byte(tt.stored[:cut]))
			m.Write([]byte(tt.stored[cut:]))
			if got := m.Header(); got != tt.header {
				t.Errorf("%q, cut at %d: header of %d octets, want %d", tt.stored, cut, got, tt.header)
			}
		}
		var m maildrop.Meter
		for i := range len(tt.stored) {
			m.Write([]byte{tt.stored[i]})
		}
		if got := m.Header(); got != tt.header {
			t.Errorf("%q, octet by octet: header of %d octets, want %d", tt.stored, got, tt.header)
		}
	}
}
