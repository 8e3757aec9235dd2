package peers

import (
	"bufio"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

const accepted = "accepted"

// present shows an AP-REQ at a listener as a client of it would. The answer is
// "accepted", the KRB-ERROR or the line with -ERR as it came, or why there is
// none.
func (s *server) present(door string, apReq []byte) string {
	c, err := net.DialTimeout("tcp", s.door(door), patience)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	show := showGSSAPI
	if door == "kpop" {
		show = showKPOP
	}
	reply, err := show(c, apReq)
	if err != nil {
		return err.Error()
	}
	return reply
}

func showKPOP(c net.Conn, apReq []byte) (string, error) {
	var opening []byte
	for _, m := range [][]byte{[]byte("KRB5_SENDAUTH_V1.0\x00"), []byte("KPOPV1.0\x00"), apReq} {
		opening = binary.BigEndian.AppendUint32(opening, uint32(len(m)))
		opening = append(opening, m...)
	}
	if _, err := c.Write(opening); err != nil {
		return "", err
	}
	var head [5]byte // status and length
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return "", err
	}
	if head[0] != 0 {
		return "", fmt.Errorf("status %d", head[0])
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n == 0 {
		return accepted, nil
	}
	reply := make([]byte, min(n, 64<<10))
	_, err := io.ReadFull(c, reply)
	return string(reply), err
}

func showGSSAPI(c net.Conn, apReq []byte) (string, error) {
	lines := bufio.NewReader(c)
	for _, say := range []string{"", "AUTH GSSAPI\r\n", base64.StdEncoding.EncodeToString(gssToken(apReq)) + "\r\n"} {
		if _, err := io.WriteString(c, say); err != nil {
			return "", err
		}
		line, err := lines.ReadString('\n')
		if err != nil || strings.HasPrefix(line, "-ERR") {
			return line, err
		}
	}
	return accepted, nil
}
