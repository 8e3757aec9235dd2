package external

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/sitefile"
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
	b, err := sitefile.Read(path, maxMap, sitefile.OthersWritable)
	if err != nil {
		return nil, err
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
	word, rest, err := sitefile.Word(s) // with backslashes, as RFC 4514 has them in names
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
