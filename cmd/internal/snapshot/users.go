package snapshot

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/sitefile"
)

// maxUsers bounds a file of credentials, in octets.
const maxUsers = 256 << 20

// Login is a name and its password.
type Login struct {
	User     string
	Password authn.Password // nil where a master user logs in
}

// ReadUsers reads lines of login:password, or of logins alone when a master user
// logs in for them: what may follow the colon is then not looked at. Empty lines
// and those that begin with # are skipped.
func ReadUsers(path string, master bool) ([]Login, error) {
	b, err := sitefile.Read(path, maxUsers, sitefile.OthersUsable)
	if err != nil {
		return nil, err
	}
	defer clear(b)
	var users []Login
	at := map[string]int{}
	n := 0
	for line := range bytes.Lines(b) {
		n++
		line = bytes.TrimRight(line, "\r\n")
		if len(bytes.TrimSpace(line)) == 0 || line[0] == '#' {
			continue
		}
		u, err := login(line, master)
		if err == nil && at[u.User] > 0 {
			err = fmt.Errorf("%q stands in line %d already", u.User, at[u.User])
		}
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, n, err)
		}
		at[u.User] = n
		users = append(users, u)
	}
	if len(users) == 0 {
		return nil, fmt.Errorf("%s: no users", path)
	}
	return users, nil
}

// ReadMaster reads the one line master:password.
func ReadMaster(path string) (*Login, error) {
	users, err := ReadUsers(path, false)
	if err != nil {
		return nil, err
	}
	if len(users) != 1 {
		return nil, fmt.Errorf("%s: %d users; a master is one", path, len(users))
	}
	return &users[0], nil
}

// login reads one line. Errors do not show it: it may be a password.
func login(line []byte, master bool) (Login, error) {
	name, password, found := bytes.Cut(line, []byte(":"))
	u := Login{User: string(name)}
	if master {
		u.User = strings.TrimSpace(u.User)
	}
	switch {
	case u.User == "" || bytes.ContainsFunc(name, func(r rune) bool { return r < 0x20 || r == 0x7f }):
		return Login{}, errors.New("does not begin with a login")
	case master:
		return u, nil
	case !found || len(password) == 0:
		return Login{}, errors.New("no password; write login:password")
	case bytes.ContainsAny(password, "\r\x00"):
		return Login{}, errors.New("the password holds a control character that POP3 does not carry")
	}
	u.Password = bytes.Clone(password)
	return u, nil
}
