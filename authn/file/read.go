package file

import (
	"bytes"
	"errors"
	"fmt"
	"iter"

	"github.com/kpopd/kpopd/authn"
)

// Bounds of a file that is read whole.
const (
	maxFile   = 64 << 20 // octets
	maxLine   = 8 << 10  // octets
	maxErrors = 20       // told at once
)

// lines yields the lines that are neither empty nor comments, with their
// numbers from 1 on and without line ends.
func lines(b []byte) iter.Seq2[int, []byte] {
	return func(yield func(int, []byte) bool) {
		n := 0
		for line := range bytes.Lines(b) {
			n++
			line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
			if len(bytes.TrimSpace(line)) == 0 || line[0] == '#' {
				continue
			}
			if !yield(n, line) {
				return
			}
		}
	}
}

// problems collects what is wrong with a file. The texts never hold a hash or
// a secret.
type problems struct {
	path string
	errs []error
	more int
}

func (p *problems) add(line int, format string, a ...any) {
	if len(p.errs) == maxErrors {
		p.more++
		return
	}
	p.errs = append(p.errs, fmt.Errorf("%s:%d: %s", p.path, line, fmt.Sprintf(format, a...)))
}

func (p *problems) err() error {
	if p.more > 0 {
		p.errs = append(p.errs, fmt.Errorf("%s: %d more", p.path, p.more))
	}
	return errors.Join(p.errs...)
}

// checkLogin takes a login of a file, which must be in canonical form: a name
// that no client can send is a mistake.
func checkLogin(b []byte) (string, error) {
	login, err := authn.PrepareLogin(string(b))
	switch {
	case err != nil && len(b) > authn.MaxLogin:
		return "", fmt.Errorf("login of %d octets, at most %d are taken", len(b), authn.MaxLogin)
	case err != nil:
		return "", fmt.Errorf("%q is not a login: letters, digits and ._+@- are, not beginning with . or -", b)
	case login != string(b):
		return "", fmt.Errorf("write the login %q as %q (RFC 8265)", b, login)
	}
	return login, nil
}
