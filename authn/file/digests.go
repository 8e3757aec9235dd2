package file

import (
	"bytes"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/scram"
	"github.com/kpopd/kpopd/authn/sitefile"
)

var (
	errDigestLine   = errors.New("a line is login:scheme:secret")
	errDigestScheme = errors.New("the scheme is not APOP, CRAM-MD5, SCRAM-SHA-1 or SCRAM-SHA-256")
	errDigestSecret = fmt.Errorf("the secret must have 1 to %d octets, none of them NUL", authn.MaxPassword)
)

type secretKey struct{ login, scheme string }

// SecretSchemes are the mechanisms that need a secret as it is.
func SecretSchemes() []string { return []string{"APOP", "CRAM-MD5"} }

// secrets is what a digests file holds.
type secrets struct {
	byKey    map[secretKey]authn.Password
	shapes   map[string]scram.Shape // by scheme, the one that most keys have
	readable int                    // how many stand there as they are and should not
	odd      []error                // what is worth a warning
}

func loadDigests(path, keyPath string) (*secrets, error) {
	b, err := sitefile.Read(path, maxFile, sitefile.OthersUsable)
	if err != nil {
		return nil, err
	}
	defer clear(b)
	var keys *Keys
	if keyPath != "" {
		if keys, err = OpenKeys(keyPath); err != nil {
			return nil, err
		}
	}
	return parseDigests(path, b, keys)
}

func parseDigests(path string, b []byte, keys *Keys) (*secrets, error) {
	s := &secrets{byKey: make(map[secretKey]authn.Password), shapes: make(map[string]scram.Shape)}
	bad := &problems{path: path}
	seen := make(map[secretKey]int)
	var shapes shapeCount
	for n, line := range lines(b) {
		d, err := parseDigest(line, keys)
		if err != nil {
			bad.add(n, "%v", err)
			continue
		}
		if first := seen[d.secretKey]; first != 0 {
			bad.add(n, "%s has a secret for %s on line %d already: remove one of them", d.login, d.scheme, first)
			continue
		}
		seen[d.secretKey] = n
		s.byKey[d.secretKey] = d.secret
		switch {
		case d.keys != nil:
			shapes.add(d.scheme, d.keys.Shape())
		case d.keyID == "":
			s.readable++
		}
	}
	if err := bad.err(); err != nil {
		return nil, err
	}
	if s.readable > 0 {
		s.odd = append(s.odd, fmt.Errorf("%s: secrets that are readable in it: %d; seal them with kpopd passwd seal", path, s.readable))
	}
	for _, scheme := range scram.Schemes() {
		most, others, ok := shapes.most(scheme)
		if !ok {
			continue
		}
		s.shapes[scheme] = most
		if others > 0 {
			s.odd = append(s.odd, fmt.Errorf("%s: keys for %s that have other than %d iterations and %d octets of salt, which unknown users are shown: %d; "+
				"a client can tell that these users exist, make their keys anew", path, scheme, most.Iterations, most.Salt, others))
		}
	}
	return s, nil
}

// shapeCount counts the shapes of keys.
type shapeCount []struct {
	scheme string
	shape  scram.Shape
	n      int
}

func (c *shapeCount) add(scheme string, s scram.Shape) {
	for i := range *c {
		if x := &(*c)[i]; x.scheme == scheme && x.shape == s {
			x.n++
			return
		}
	}
	*c = append(*c, struct {
		scheme string
		shape  scram.Shape
		n      int
	}{scheme, s, 1})
}

// most is the most common shape of a scheme, the first of equals, and how many
// keys have another.
func (c shapeCount) most(scheme string) (most scram.Shape, others int, ok bool) {
	best, all := 0, 0
	for _, x := range c {
		if x.scheme != scheme {
			continue
		}
		all += x.n
		if x.n > best {
			best, most = x.n, x.shape
		}
	}
	return most, all - best, all > 0
}

// digest is a line of a digests file.
type digest struct {
	secretKey
	secret authn.Password
	keyID  string      // of the key that sealed it; "" when it is readable
	keys   *scram.Keys // of a SCRAM scheme, without their secrets
}

// parseDigest takes a line apart, whose secret may have colons. Sealed ones are
// opened with keys, which may be nil.
func parseDigest(line []byte, keys *Keys) (d digest, err error) {
	value, err := d.parse(line)
	if err != nil {
		return digest{}, err
	}
	d.secret = append(authn.Password{}, value...)
	if bytes.HasPrefix(value, []byte(sealed)) {
		if d.secret, err = keys.open(d.login, d.scheme, value); err != nil {
			return digest{}, fmt.Errorf("%s for %s: %w", d.scheme, d.login, err)
		}
	}
	if err := d.check(); err != nil {
		d.secret.Wipe()
		return digest{}, err
	}
	return d, nil
}

// parse takes a line apart and opens nothing. value shares memory with it.
func (d *digest) parse(line []byte) (value []byte, err error) {
	f := bytes.SplitN(line, []byte(":"), 3)
	if len(f) != 3 {
		return nil, errDigestLine
	}
	if d.login, err = checkLogin(f[0]); err != nil {
		return nil, err
	}
	d.scheme = string(f[1])
	if !slices.Contains(SecretSchemes(), d.scheme) && !slices.Contains(scram.Schemes(), d.scheme) {
		return nil, errDigestScheme
	}
	if text, ok := bytes.CutPrefix(f[2], []byte(sealed)); ok {
		id, _, _ := bytes.Cut(text, []byte("$"))
		d.keyID = "?"
		if len(id) == 8 && len(bytes.Trim(id, "0123456789abcdef")) == 0 {
			d.keyID = string(id)
		}
	}
	return f[2], nil
}

// check looks at the secret itself.
func (d *digest) check() error {
	if slices.Contains(SecretSchemes(), d.scheme) {
		if n := len(d.secret); n == 0 || n > authn.MaxPassword || bytes.IndexByte(d.secret, 0) >= 0 {
			return errDigestSecret
		}
		return nil
	}
	k, err := scram.Parse(d.secret)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", d.scheme, err)
	case k.Scheme != d.scheme:
		k.Wipe()
		return fmt.Errorf("keys for %s in a line of %s", k.Scheme, d.scheme)
	}
	k.Wipe()
	d.keys = k
	return nil
}

// IsSecret reports whether password is the secret of a login for APOP or CRAM-MD5
// in the digests file at path.
func IsSecret(path, keyPath, login string, password authn.Password) (bool, error) {
	s, err := loadDigests(path, keyPath)
	if err != nil {
		return false, err
	}
	same := 0
	for _, scheme := range SecretSchemes() {
		same |= subtle.ConstantTimeCompare(s.byKey[secretKey{login, scheme}], password)
	}
	return same == 1 && len(password) > 0, nil
}

// Secret is what may be told of one secret of a digests file.
type Secret struct {
	Login, Scheme string
	KeyID         string // of the key that sealed it; "" when whoever reads the file reads it
	Iterations    int    // of keys for SCRAM that are not sealed; else zero
}

// Secrets lists whose secrets the digests file at path has, in its order. It
// needs no key.
func Secrets(path string) ([]Secret, error) {
	b, err := sitefile.Read(path, maxFile, sitefile.OthersUsable)
	if err != nil {
		return nil, err
	}
	defer clear(b)
	var all []Secret
	bad := &problems{path: path}
	for n, line := range lines(b) {
		var d digest
		value, err := d.parse(line)
		if err == nil && d.keyID == "" {
			d.secret = append(authn.Password{}, value...)
			err = d.check()
			d.secret.Wipe()
		}
		if err != nil {
			bad.add(n, "%v", err)
			continue
		}
		s := Secret{Login: d.login, Scheme: d.scheme, KeyID: d.keyID}
		if d.keys != nil {
			s.Iterations = d.keys.Iterations
		}
		all = append(all, s)
	}
	return all, bad.err()
}
