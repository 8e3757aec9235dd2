package pop3

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"strings"

	"github.com/kpopd/kpopd/authn"
)

const maxMechanism = 20 // octets in a name (RFC 4422 section 3.1)

// auth runs a SASL exchange (RFC 5034 section 4). Without an argument it lists
// the mechanisms, as Outlook asks for.
func (s *session) auth(ctx context.Context, a args) error {
	if len(a) == 0 {
		return s.listMechanisms()
	}
	mech, initial, err := s.begin(ctx, a)
	if err != nil {
		if err == errNoMechanism || authn.KindOf(err) == authn.Denied { // by a rule
			s.exposed(ctx, strings.ToUpper(string(a[0])), "", a[1:])
		}
		clear(a[len(a)-1]) // what a client takes for an initial response
		return err
	}
	return s.exchange(ctx, mech, initial)
}

// begin reads the arguments of AUTH: the mechanism, and the initial response,
// nil when there is none.
func (s *session) begin(ctx context.Context, a args) (mech string, initial []byte, err error) {
	if len(a[0]) > maxMechanism {
		return "", nil, errNoMechanism
	}
	name := strings.ToUpper(string(a[0]))
	m := s.mechanism(name)
	switch {
	case m == nil:
		return "", nil, s.notOffered(ctx, name, errNoMechanism)
	case m.Traits()&authn.Command != 0:
		return "", nil, errNoMechanism
	case len(a) == 2 && m.Traits()&authn.ServerFirst != 0:
		return "", nil, errNoInitial
	case len(a) == 2:
		initial, err = decodeInitial(a[1])
	}
	return m.Name(), initial, err
}

func (s *session) listMechanisms() error {
	s.ok("Mechanisms follow")
	for _, m := range s.offers {
		if m.Traits()&authn.Command == 0 {
			s.out.str(m.Name())
			s.out.str("\r\n")
		}
	}
	s.out.str(".\r\n")
	return nil
}

// exchange runs one attempt to its end. Refused, the session stands where it
// stood before AUTH, a name given to USER included.
func (s *session) exchange(ctx context.Context, mech string, initial []byte) error {
	attempt, cancel := s.attempt(ctx)
	defer cancel()
	l, err := s.srv.Backend.Start(attempt, s.t, mech)
	if err == nil {
		err = s.converse(attempt, l, mech, initial)
	}
	if err != nil {
		s.logLogin(ctx, mech, "", err)
		return err
	}
	return s.enter(ctx, l, mech)
}

// converse carries challenges and responses. An exchange that the client or
// the connection ends is recorded with the reason.
func (s *session) converse(ctx context.Context, l *authn.Login, mech string, response []byte) error {
	for {
		challenge, done, err := l.Next(ctx, response)
		clear(response)
		if err != nil || done {
			return err
		}
		s.challenge(challenge)
		if response, err = s.response(ctx); err != nil {
			return giveUp(ctx, l, mech, err)
		}
	}
}

// giveUp records that err came in place of a response, and returns what the
// client is told: of a refusal that it knew of already, "*" makes nothing else.
func giveUp(ctx context.Context, l *authn.Login, mech string, err error) error {
	refused := l.Abort(ctx, ended(mech, err))
	if refused == nil || kindOf(err) == authn.Aborted {
		return err
	}
	return refused
}

// ended is err as the end of an exchange of mech.
func ended(mech string, err error) error {
	return &authn.Error{Kind: kindOf(err), Step: mech, Err: err}
}

// kindOf is [authn.KindOf] for the errors of this package too: the client went
// away, or broke the framing.
func kindOf(err error) authn.Kind {
	var end *ending
	var pe protocolError
	switch {
	case errors.As(err, &end):
		return authn.Aborted
	case errors.As(err, &pe):
		return authn.Malformed
	default:
		return authn.KindOf(err)
	}
}

// challenge sends "+ " and base64; an empty challenge is "+ " alone.
func (s *session) challenge(c []byte) {
	s.out.str("+ ")
	for len(c) > 0 {
		n := min(len(c), 3<<9) // whole groups of three octets
		s.out.reserve(base64.StdEncoding.EncodedLen(n))
		s.out.buf = base64.StdEncoding.AppendEncode(s.out.buf, c[:n])
		c = c[n:]
	}
	s.out.str("\r\n")
}

// response reads the client's answer to a challenge.
func (s *session) response(ctx context.Context) ([]byte, error) {
	line, err := s.readLine(ctx, saslLimit)
	if err != nil {
		return nil, err
	}
	if string(line) == "*" {
		return nil, &authn.Error{Kind: authn.Cancelled, Err: errors.New("the client sent *")}
	}
	return decode(line)
}

// decodeInitial decodes an initial response, in which "=" stands for an empty
// one.
func decodeInitial(b []byte) ([]byte, error) {
	if string(b) == "=" {
		return []byte{}, nil
	}
	return decode(b)
}

// decode decodes base64 in place, never nil. Of what stood there before
// nothing is left.
func decode(b []byte) ([]byte, error) {
	n, err := decodeInPlace(b)
	clear(b[n:])
	if err != nil {
		return nil, err
	}
	return b[:n:n], nil
}

// decodeInPlace takes nothing but the octets of the alphabet, and padding where
// it belongs (RFC 5034 section 4). It works through a second buffer, because
// the package does not promise to work in place.
func decodeInPlace(b []byte) (int, error) {
	const group = 1 << 10 // octets of base64
	var piece [group / 4 * 3]byte
	defer clear(piece[:])
	if bytes.ContainsAny(b, "\r\n") { // which the package would skip
		return 0, malformed("base64 with a line end")
	}
	n := 0
	for i := 0; i < len(b); i += group {
		end := min(i+group, len(b))
		m, err := base64.StdEncoding.Strict().Decode(piece[:], b[i:end])
		if err != nil || end < len(b) && m < len(piece) {
			return 0, malformed("base64")
		}
		n += copy(b[n:], piece[:m])
	}
	return n, nil
}

func malformed(what string) error {
	return &authn.Error{Kind: authn.Malformed, Step: "sasl", Err: errors.New(what)}
}
