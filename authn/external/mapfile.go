package external

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/authn"
)

const (
	maxMap    = 16 << 20 // octets
	maxErrors = 20       // told at once
	nobody    = "-"      // in place of a login: the certificate opens nothing
)

func load(path string) (map[string]string, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // nobody is waited for, should it be a FIFO
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !st.Mode().IsRegular():
		return nil, fmt.Errorf("%s: not a regular file", path)
	case st.Mode()&0o022 != 0:
		return nil, fmt.Errorf("%s: mode %04o lets others write it: chmod %04o it", path, st.Mode().Perm(), st.Mode().Perm()&^0o022)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxMap+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if len(b) > maxMap {
		return nil, fmt.Errorf("%s: larger than %d octets", path, maxMap)
	}
	return parseMap(path, b)
}

// parseMap reads lines of a key and a login:
//
//	upn:alice@CORP.EXAMPLE                     alice
//	email:bob@example.org                      bob
//	"dn:CN=Carol Jones,OU=Staff,O=Example"     carol
//	sha256:5f:3a:…                             dave
//	sha256:91:0c:…                             -          no one, whatever the rules say
func parseMap(path string, b []byte) (map[string]string, error) {
	byKey := make(map[string]string)
	var errs []error
	n := 0
	for line := range bytes.Lines(b) {
		n++
		s := strings.TrimSpace(string(line))
		if s == "" || s[0] == '#' {
			continue
		}
		key, login, err := parseLine(s)
		if before, taken := byKey[key]; err == nil && taken && before != login {
			err = fmt.Errorf("%s is %s in a line above", key, before)
		}
		if err != nil {
			if errs = append(errs, fmt.Errorf("%s:%d: %w", path, n, err)); len(errs) == maxErrors {
				break
			}
			continue
		}
		byKey[key] = login
	}
	return byKey, errors.Join(errs...)
}

func parseLine(s string) (key, login string, err error) {
	if !utf8.ValidString(s) {
		return "", "", errors.New("no UTF-8")
	}
	word, rest, err := cutWord(s)
	if err != nil {
		return "", "", err
	}
	if key, err = parseKey(word); err != nil {
		return "", "", err
	}
	login = strings.TrimSpace(rest)
	if login == nobody {
		return key, nobody, nil
	}
	if login, err = authn.PrepareLogin(login); err != nil {
		return "", "", fmt.Errorf("%q is no login", strings.TrimSpace(rest))
	}
	return key, login, nil
}

// cutWord cuts the first word off s, which may stand in double quotes when it
// has blanks. A backslash, as RFC 4514 has it in names, takes the next octet
// with it.
func cutWord(s string) (word, rest string, err error) {
	quoted := s[0] == '"'
	if quoted {
		s = s[1:]
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\':
			i++
		case quoted && c == '"':
			return s[:i], s[i+1:], nil
		case !quoted && (c == ' ' || c == '\t'):
			return s[:i], s[i:], nil
		}
	}
	if quoted {
		return "", "", errors.New("no quote at the end of the name")
	}
	return s, "", nil
}

func parseKey(word string) (string, error) {
	from, name, ok := strings.Cut(word, ":")
	if !ok || name == "" {
		return "", fmt.Errorf("%q is no name of a certificate; write sha256:, dn:, upn: or email: before it", word)
	}
	switch from {
	case FromDN:
		return word, nil
	case FromUPN:
		return upnKey(name), nil
	case FromEmail:
		return emailKey(name), nil
	case fromFingerprint:
		sum, err := hex.DecodeString(strings.ReplaceAll(name, ":", ""))
		if err != nil || len(sum) != 32 {
			return "", fmt.Errorf("%q is no fingerprint; openssl x509 -fingerprint -sha256 prints one", word)
		}
		return fromFingerprint + ":" + hex.EncodeToString(sum), nil
	}
	return "", fmt.Errorf("%q is not known; write sha256, dn, upn or email", from)
}
