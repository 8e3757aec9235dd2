package checkpassword

import (
	"bytes"
	"fmt"

	"github.com/kpopd/kpopd/authn"
)

// limited keeps the beginning of what is written.
type limited struct{ b []byte }

// Write implements [io.Writer]; it takes everything.
func (l *limited) Write(p []byte) (int, error) {
	l.b = append(l.b, p[:min(len(p), maxStderr-len(l.b))]...)
	return len(p), nil
}

// text is for the log. A program that repeats the password is not quoted: a
// password that begins in what is shown ends in what is kept.
func (l *limited) text(p authn.Password) string {
	b := bytes.TrimSpace(l.b)
	switch {
	case len(b) == 0:
		return ""
	case bytes.Contains(b, p):
		return ", and the password is in what it said"
	}
	return fmt.Sprintf(": %q", b[:min(len(b), maxShown)])
}
