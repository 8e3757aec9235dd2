package plain

import (
	"bytes"
	"context"
	"unicode/utf8"

	"github.com/kpopd/kpopd/authn"
)

// login is LOGIN. The name may come as an initial response; an empty one is
// taken for none.
type login struct {
	attempt
	state loginState
}

type loginState uint8

const (
	loginStart loginState = iota
	loginName
	loginPassword
)

var _ authn.Claimer = (*login)(nil)

// Next implements [authn.Exchange].
func (l *login) Next(ctx context.Context, response []byte) ([]byte, bool, error) {
	if l.state == loginStart {
		l.state = loginName
		if len(response) == 0 {
			return []byte("Username:"), false, nil
		}
	}
	if l.state == loginName {
		if !utf8.Valid(response) || bytes.IndexByte(response, 0) >= 0 {
			return nil, false, l.fail(authn.Malformed, "name is no UTF-8 or has a NUL")
		}
		l.login, l.state = string(response), loginPassword
		return []byte("Password:"), false, nil
	}
	if bytes.IndexByte(response, 0) >= 0 {
		return nil, false, l.fail(authn.Malformed, "password has a NUL")
	}
	if err := l.verify(ctx, "", l.login, response); err != nil {
		return nil, false, err
	}
	return nil, true, nil
}
