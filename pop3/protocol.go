package pop3

import (
	"bytes"
	"context"
)

// foreign are the first words of other protocols, in upper case. A PROXY
// header is one: a listener that trusts its peer has taken it off.
var foreign = []string{
	"GET ", "PUT ", "POST ", "HEAD ", "OPTIONS ", "CONNECT ", "PRI ", // HTTP
	"EHLO", "HELO", "LHLO", // SMTP
	"SSH-", "PROXY ",
}

const (
	tlsRecord = 0x16               // the first octet of a TLS hello
	proxyV2   = "\r\n\x00\r\nQUIT" // what follows the first CRLF of a PROXY header of version 2
)

// firstLine reads the first line, and refuses clients of other protocols. A
// TLS hello has no line end to wait for.
func (s *session) firstLine(ctx context.Context) ([]byte, error) {
	if got := s.in.buffered(); len(got) > 0 && got[0] == tlsRecord {
		return nil, s.mismatch()
	}
	line, err := s.readLine(ctx, s.commandLimit)
	if err != nil {
		return nil, err
	}
	if len(line) == 0 && bytes.HasPrefix(s.in.buffered(), []byte(proxyV2)) {
		return nil, s.mismatch()
	}
	start := bytes.ToUpper(line[:min(len(line), 8)])
	for _, f := range foreign {
		if bytes.HasPrefix(start, []byte(f)) {
			return nil, s.mismatch()
		}
	}
	return line, nil
}

func (s *session) mismatch() error {
	s.close(Mismatch)
	return errForeign
}
