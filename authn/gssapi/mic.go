package gssapi

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Key usages of MIC tokens (RFC 4121 section 2).
const (
	usageAcceptorSign  = 23
	usageInitiatorSign = 25
)

func signUsage(fromAcceptor bool) uint32 {
	if fromAcceptor {
		return usageAcceptorSign
	}
	return usageInitiatorSign
}

// micHeader is that of RFC 4121 section 4.2.6.1:
//
//	04 04 | flags | ff ff ff ff ff | sequence number (8)
func micHeader(flags byte, seq uint64) []byte {
	h := []byte{4, 4, flags, 0xff, 0xff, 0xff, 0xff, 0xff}
	return binary.BigEndian.AppendUint64(h, seq)
}

// mic signs data for the peer, as the next token.
func (w *wrapper) mic(data []byte) ([]byte, error) {
	header := micHeader(w.flags(w.acceptor, false), w.send)
	w.send++
	sum, err := w.key.Checksum(signUsage(w.acceptor), append(append([]byte{}, data...), header...))
	return append(header, sum...), err
}

// checkMIC takes the peer's next token, which has to be one over data.
func (w *wrapper) checkMIC(data, token []byte) error {
	header := micHeader(w.flags(!w.acceptor, false), w.recv)
	if len(token) != headerLen+w.key.ChecksumSize() || string(token[:headerLen]) != string(header) {
		return fmt.Errorf("not MIC token %d", w.recv)
	}
	if !w.key.VerifyChecksum(signUsage(!w.acceptor), append(append([]byte{}, data...), header...), token[headerLen:]) {
		return errors.New("checksum of the MIC token is wrong")
	}
	w.recv++
	return nil
}
