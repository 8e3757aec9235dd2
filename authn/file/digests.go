package file

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/kpopd/kpopd/authn"
)

var (
	errDigestLine   = errors.New("a line is login:scheme:secret")
	errDigestScheme = errors.New("the scheme is not APOP or CRAM-MD5")
	errDigestSecret = fmt.Errorf("the secret must have 1 to %d octets, none of them NUL", authn.MaxPassword)
)

type secretKey struct{ login, scheme string }

// SecretSchemes are the mechanisms that a digests file has secrets for.
func SecretSchemes() []string { return []string{"APOP", "CRAM-MD5"} }

func loadDigests(path string) (map[secretKey]authn.Password, error) {
	b, err := read(path, 0o077, "others use its secrets")
	if err != nil {
		return nil, err
	}
	defer clear(b)
	return parseDigests(path, b)
}

func parseDigests(path string, b []byte) (map[secretKey]authn.Password, error) {
	secrets := make(map[secretKey]authn.Password)
	bad := &problems{path: path}
	seen := make(map[secretKey]int)
	for n, line := range lines(b) {
		k, secret, err := parseDigest(line)
		if err != nil {
			bad.add(n, "%v", err)
			continue
		}
		if first := seen[k]; first != 0 {
			bad.add(n, "%s has a secret for %s on line %d already: remove one of them", k.login, k.scheme, first)
			continue
		}
		seen[k] = n
		secrets[k] = append(authn.Password{}, secret...)
	}
	if err := bad.err(); err != nil {
		return nil, err
	}
	return secrets, nil
}

// parseDigest takes a line apart; secret, which may have colons, shares memory
// with it.
func parseDigest(line []byte) (k secretKey, secret []byte, err error) {
	f := bytes.SplitN(line, []byte(":"), 3)
	if len(f) != 3 {
		return k, nil, errDigestLine
	}
	if k.login, err = checkLogin(f[0]); err != nil {
		return k, nil, err
	}
	k.scheme = string(f[1])
	switch {
	case !slices.Contains(SecretSchemes(), k.scheme):
		return k, nil, errDigestScheme
	case len(f[2]) == 0 || len(f[2]) > authn.MaxPassword || bytes.IndexByte(f[2], 0) >= 0:
		return k, nil, errDigestSecret
	}
	return k, f[2], nil
}

// Secret names one secret of a digests file.
type Secret struct{ Login, Scheme string }

// Secrets lists whose secrets the digests file at path has, in its order.
func Secrets(path string) ([]Secret, error) {
	b, err := read(path, 0o077, "others use its secrets")
	if err != nil {
		return nil, err
	}
	defer clear(b)
	var all []Secret
	bad := &problems{path: path}
	for n, line := range lines(b) {
		k, _, err := parseDigest(line)
		if err != nil {
			bad.add(n, "%v", err)
			continue
		}
		all = append(all, Secret{k.login, k.scheme})
	}
	return all, bad.err()
}
