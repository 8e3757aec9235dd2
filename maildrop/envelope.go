package maildrop

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
)

// Envelope is what SMTP said of a message when it was delivered, as far as the
// deliverer wrote it into the header. Addresses are without angle brackets; they
// have no control characters.
type Envelope struct {
	From string // "" for a bounce, and where it is not known
	To   string // before aliases where that is known; "" where nothing is
}

// Octets of the header in which the fields are looked for, and of an address:
// local part, at-sign and domain of RFC 5321 section 4.5.3.1.
const (
	maxTrace   = 64 << 10
	maxAddress = 64 + 1 + 255
)

// The fields that name the recipient, the best first. X-Original-To is Postfix's,
// Envelope-To Exim's and both are what the sender wrote; Delivered-To may be what
// aliases made of it.
var recipientFields = [...]string{"x-original-to", "envelope-to", "delivered-to"}

// EnvelopeOf is that of message i of d. Errors are those of Content.
func EnvelopeOf(ctx context.Context, d Drop, i int) (e Envelope, err error) {
	r, err := d.Content(ctx, i)
	if err != nil {
		return e, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return ReadEnvelope(r)
}

// ReadEnvelope reads the beginning of a message as it is stored.
//
// A deliverer puts its fields on top. What stands below the first Received came
// with the message from somebody else, who may have written anything.
func ReadEnvelope(r io.Reader) (Envelope, error) {
	fields := map[string]string{} // the first of each name
	lines := bufio.NewReaderSize(io.LimitReader(r, maxTrace), 4096)
	for {
		line, err := lines.ReadSlice('\n')
		name, value, ok := bytes.Cut(line, []byte{':'})
		field := strings.ToLower(string(bytes.TrimRight(name, " \t")))
		folded := len(line) > 0 && (line[0] == ' ' || line[0] == '\t')
		if _, seen := fields[field]; ok && !seen && !folded && err != bufio.ErrBufferFull && field != "received" {
			fields[field] = address(value)
		}
		for err == bufio.ErrBufferFull { // no address is as long as this line
			_, err = lines.ReadSlice('\n')
		}
		switch {
		case err != nil && err != io.EOF:
			return Envelope{}, err
		case err == io.EOF, !folded && (!ok || field == "received"):
			return envelope(fields), nil
		}
	}
}

func envelope(fields map[string]string) Envelope {
	e := Envelope{From: fields["return-path"]}
	for _, f := range recipientFields {
		if e.To = fields[f]; e.To != "" {
			break
		}
	}
	return e
}

// address is the one in a field, "" when there is none or nobody could write to
// it.
func address(value []byte) string {
	a := strings.TrimSpace(string(value))
	if strings.HasPrefix(a, "<") && strings.HasSuffix(a, ">") {
		a = a[1 : len(a)-1]
	}
	if len(a) > maxAddress || strings.ContainsFunc(a, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '<' || r == '>' }) {
		return ""
	}
	return a
}
