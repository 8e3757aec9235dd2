package krb5test_test

import (
	"net"
	"testing"

	"github.com/kpopd/kpopd/krb5test"
)

// A reserved port is there for who asks for it, time and again, and given to
// nobody else.
func TestReservePort(t *testing.T) {
	t.Parallel()
	p, err := krb5test.ReservePort()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		l, err := net.Listen("tcp", p.Addr())
		if err != nil {
			t.Fatal(err)
		}
		other, err := krb5test.ReservePort()
		if err != nil {
			t.Fatal(err)
		}
		if other.Addr() == p.Addr() {
			t.Error("one port is reserved twice")
		}
		if err := other.Close(); err != nil {
			t.Error(err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}
