package peers

import (
	"bufio"
	"encoding/base64"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

const accepted = "accepted"

// present shows an AP-REQ at a listener as if it came from a client of it.
func (s *server) present(t *testing.T, door string, apReq []byte) string {
	t.Helper()
	if door == "kpop" {
		return presentKPOP(t, s.door(door), apReq)
	}
	return presentGSSAPI(t, s.door(door), apReq)
}

// presentKPOP shows an AP-REQ at a kpop listener: "accepted", or the KRB-ERROR
// as it came.
func presentKPOP(t *testing.T, addr string, apReq []byte) string {
	t.Helper()
	c := dial(t, addr)
	defer c.Close()
	var opening []byte
	for _, m := range [][]byte{[]byte("KRB5_SENDAUTH_V1.0\x00"), []byte("KPOPV1.0\x00"), apReq} {
		opening = binary.BigEndian.AppendUint32(opening, uint32(len(m)))
		opening = append(opening, m...)
	}
	if _, err := c.Write(opening); err != nil {
		t.Fatal(err)
	}
	var head [5]byte // status and length
	if _, err := io.ReadFull(c, head[:]); err != nil {
		t.Fatal("kpop listener:", err)
	}
	if head[0] != 0 {
		t.Fatalf("kpop listener refuses the versions with %d", head[0])
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n == 0 {
		return accepted
	}
	reply := make([]byte, min(n, 64<<10))
	if _, err := io.ReadFull(c, reply); err != nil {
		t.Fatal("kpop listener:", err)
	}
	return string(reply)
}

// presentGSSAPI shows an AP-REQ at a pop3 listener: "accepted", or the line
// with -ERR.
func presentGSSAPI(t *testing.T, addr string, apReq []byte) string {
	t.Helper()
	c := dial(t, addr)
	defer c.Close()
	lines := bufio.NewReader(c)
	for _, say := range []string{"", "AUTH GSSAPI\r\n", base64.StdEncoding.EncodeToString(gssToken(apReq)) + "\r\n"} {
		if _, err := io.WriteString(c, say); err != nil {
			t.Fatal(err)
		}
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal("pop3 listener:", err)
		}
		if strings.HasPrefix(line, "-ERR") {
			return line
		}
	}
	return accepted
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(patience))
	return c
}
