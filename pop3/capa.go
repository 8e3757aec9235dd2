package pop3

import (
	"context"
	"slices"
	"strings"

	"github.com/kpopd/kpopd/authn"
)

// capa lists what the client may use. What is of use before login stays
// listed after it (RFC 2449 section 5, RFC 5034 section 3).
func (s *session) capa(context.Context, args) error {
	s.ok("Capabilities follow")
	if line := saslLine(s.offers); line != "" {
		s.out.str(line)
	}
	if s.offered("USER") || s.offered("KPOP") {
		s.out.str("USER\r\n")
	}
	if s.srv.StartTLS != nil && s.t.TLS == nil {
		s.out.str("STLS\r\n")
	}
	s.out.str("TOP\r\nUIDL\r\nPIPELINING\r\nRESP-CODES\r\nAUTH-RESP-CODE\r\n")
	if d := s.srv.LoginDelay; d != nil {
		d.capa(s.identity, &s.out)
	}
	if e := s.srv.Expire; e != "" {
		s.out.str("EXPIRE " + e + "\r\n")
	}
	s.out.str("UTF8\r\nLANG\r\nIMPLEMENTATION kpopd\r\n.\r\n")
	return nil
}

// piece is how much of a CAPA line fetchmail looks at in one go. It misses a
// name that lies across the end of a piece.
const piece = 63

// saslLine is the SASL capability with its line end, "" when no mechanism is
// offered. Names stand in the order of preference; in a line of more than one
// piece, those that fetchmail looks for come first.
func saslLine(offers []authn.Mechanism) string {
	var names []string
	for _, m := range offers {
		if m.Traits()&authn.Command == 0 {
			names = append(names, m.Name())
		}
	}
	if len(names) == 0 {
		return ""
	}
	line := "SASL " + strings.Join(names, " ")
	if len(line) > piece {
		slices.SortStableFunc(names, func(a, b string) int { return fetchmailRank(a) - fetchmailRank(b) })
		line = "SASL " + strings.Join(names, " ")
	}
	return line + "\r\n"
}

func fetchmailRank(name string) int {
	if name == "GSSAPI" || name == "CRAM-MD5" {
		return 0
	}
	return 1
}

// utf8 changes nothing: messages are sent as they are stored in either mode
// (see the package comment).
func (s *session) utf8(context.Context, args) error {
	if s.state == transaction && !s.srv.LenientUTF8 {
		return errTooLateUTF8
	}
	return s.ok("UTF8 enabled")
}

// lang has one language (RFC 6856 section 3): "i-default" and "*" lead to
// English too.
func (s *session) lang(_ context.Context, a args) error {
	if len(a) == 0 {
		s.ok("Language listing follows")
		s.out.str("en English\r\ni-default Default language\r\n.\r\n")
		return nil
	}
	switch {
	case equalFold("I-DEFAULT", a[0]):
		return s.ok("i-default Default language")
	case equalFold("EN", a[0]), string(a[0]) == "*":
		return s.ok("en English")
	default:
		return errNoLanguage
	}
}
