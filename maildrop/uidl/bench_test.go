package uidl

import (
	"fmt"
	"io"
	"strings"
	"testing"
)

// A list is read whenever a message is new, also long after the move.
func BenchmarkRule100000(b *testing.B) {
	var list strings.Builder
	list.WriteString("3 V1709546912 N100001 G3abdab3af5de056b7f1c000083ecc375\n")
	for i := range 100_000 {
		fmt.Fprintf(&list, "%d W2048 S2000 :%d.M%dP1.mail.example.test,S=2000,W=2048\n", i+1, 1700000000+i, i)
	}
	text := list.String()
	s, err := ByName("auto")
	if err != nil {
		b.Fatal(err)
	}
	const base = "1700000001.M1P1.mail.example.test,S=2000,W=2048"
	from := Source{Bases: []string{base}, Open: func(name string) (io.ReadCloser, error) {
		return source(map[string]string{UIDListFile: text}).Open(name)
	}}
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		rule, err := s.Rule(from)
		if err != nil {
			b.Fatal(err)
		}
		if rule(Message{Base: base}) != "0000000265e59da0" {
			b.Fatal("not read")
		}
	}
}
