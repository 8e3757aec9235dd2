package kpop

import (
	"errors"
	"fmt"
	"os"
)

// opening is what the first octets of a connection say of its client.
type opening uint8

const (
	sendauth opening = iota // Kerberos 5: a length below 256
	silence                 // nothing yet, or too little to tell: waits for a greeting
	krb4                    // "AUTHV0.1" or, older, the length of a ticket in digits
	tlsHello
	pop3Verb
	garbage
)

// openingOf looks at the first four octets, or fewer when no more came.
//
// AUTH is also a command of POP3. Here it is more likely the beginning of
// "AUTHV0.1", and the answer suits both.
func openingOf(b []byte) opening {
	switch {
	case len(b) >= 2 && b[0] == 0x16 && b[1] == 3:
		return tlsHello
	case len(b) < 4:
		return silence
	case b[0] == 0 && b[1] == 0 && b[2] == 0:
		return sendauth
	case string(b) == "AUTH", b[0] >= '1' && b[0] <= '9':
		return krb4
	}
	for _, o := range b {
		if (o < ' ' || o > '~') && o != '\r' && o != '\n' {
			return garbage
		}
	}
	return pop3Verb
}

// answer is what such a client understands. A Kerberos 4 client asks for no
// mutual authentication and takes the next line for the greeting, so it shows
// the text.
func (o opening) answer() []byte {
	switch o {
	case krb4:
		return []byte("-ERR [AUTH] Kerberos 4 is not supported here, use a Kerberos 5 client\r\n")
	case tlsHello:
		return []byte{0x15, 3, 1, 0, 2, 2, 10} // fatal alert, unexpected_message (RFC 5246 section 7.2)
	case pop3Verb, silence:
		return []byte("-ERR [AUTH] This port speaks Kerberos POP, use a KPOP client or the POP3 port\r\n")
	default:
		return nil
	}
}

var openings = [...]string{"sendauth", "silent client", "krb4 client", "TLS client", "POP3 client", "garbage"}

// error is the outcome of such an opening; err is what ended the reading.
func (o opening) error(err error) error {
	why := errors.New(openings[o])
	if err != nil {
		why = fmt.Errorf("%s: %w", openings[o], err)
	}
	if o == silence && !errors.Is(err, os.ErrDeadlineExceeded) {
		return aborted(why)
	}
	return malformed(why)
}
