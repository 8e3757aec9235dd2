package file

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/sitefile"
)

const (
	keySize = 32 // octets of a key
	maxKeys = 16 // in a file

	// credentialPrefix begins the name of a key that systemd hands over
	// (LoadCredential=, systemd.exec(5)) where else a path stands.
	credentialPrefix = "credential:"
)

// Labels of what is derived from a key. Changing one makes sealed secrets
// unreadable.
const (
	labelSeal = "kpopd sealed secret"
	labelID   = "kpopd key id"
	labelSalt = "kpopd salts of unknown users"
)

// Keys are those of a key file: one in base64 a line, of 32 octets. The first
// seals, all of them open.
type Keys struct {
	path string
	all  []sealingKey
}

type sealingKey struct {
	id   string // in what it sealed; tells nothing of the key
	aead cipher.AEAD
	salt authn.Password
}

// OpenKeys reads a key file: a path, or credential: and the name of a systemd
// credential.
func OpenKeys(path string) (*Keys, error) {
	bar := sitefile.OthersUsable
	if name, ok := strings.CutPrefix(path, credentialPrefix); ok {
		dir := os.Getenv("CREDENTIALS_DIRECTORY")
		if dir == "" || name == "" || strings.Contains(name, "/") {
			return nil, fmt.Errorf("%s: no such systemd credential: LoadCredential=NAME:FILE makes one; by hand, set CREDENTIALS_DIRECTORY to the directory of the file", path)
		}
		// systemd makes the directory the service's own; the mask of an access
		// list shows as the group's bits
		path, bar = filepath.Join(dir, name), sitefile.MaskUsable
	}
	b, err := sitefile.Read(path, maxFile, bar)
	if err != nil {
		return nil, err
	}
	defer clear(b)
	return parseKeys(path, b)
}

func parseKeys(path string, b []byte) (*Keys, error) {
	ks := &Keys{path: path}
	bad := &problems{path: path}
	for n, line := range lines(b) {
		k, err := parseKey(line)
		switch {
		case err != nil:
			bad.add(n, "%v", err)
		case slices.ContainsFunc(ks.all, func(o sealingKey) bool { return o.id == k.id }):
			bad.add(n, "the key is there already: remove one of them")
		default:
			ks.all = append(ks.all, k)
		}
	}
	switch err := bad.err(); {
	case err != nil:
		return nil, err
	case len(ks.all) == 0:
		return nil, fmt.Errorf("%s: no key in it: make one with kpopd passwd key", path)
	case len(ks.all) > maxKeys:
		return nil, fmt.Errorf("%s: more than %d keys", path, maxKeys)
	}
	return ks, nil
}

var errKey = fmt.Errorf("a line is a key of %d octets in base64: make one with kpopd passwd key", keySize)

func parseKey(line []byte) (sealingKey, error) {
	root := make(authn.Password, base64.StdEncoding.DecodedLen(len(line)))
	defer root.Wipe()
	n, err := base64.StdEncoding.Strict().Decode(root, line)
	if err != nil || n != keySize {
		return sealingKey{}, errKey
	}
	derive := func(label string, octets int) authn.Password {
		k, err := hkdf.Key(sha256.New, root[:keySize], nil, label, octets)
		if err != nil {
			panic(err) // the lengths are ours
		}
		return k
	}
	k := sealingKey{id: hex.EncodeToString(derive(labelID, 4)), salt: derive(labelSalt, keySize)}
	key := derive(labelSeal, keySize)
	defer key.Wipe()
	block, err := aes.NewCipher(key)
	if err != nil {
		return sealingKey{}, err
	}
	k.aead, err = cipher.NewGCMWithRandomNonce(block)
	return k, err
}

// Salt is the key that makes salts for users that there are not. It is made of
// the one key of a file: with another one, who asked before and after would see
// who has a real salt.
func (k *Keys) Salt() (authn.Password, error) {
	if len(k.all) != 1 {
		return nil, fmt.Errorf("%s: %d keys, salts are made of one", k.path, len(k.all))
	}
	return slices.Clone(k.all[0].salt), nil
}

// sealed begins a secret that is sealed and says with what: AES-256 in Galois
// counter mode with a random nonce of 12 octets, under a key of the key file.
const sealed = "{AES-256-GCM}"

// seal closes a secret so that it can be opened for this login and this scheme
// only: a line that was moved to another user is of no use to him.
func (k *Keys) seal(login, scheme string, secret authn.Password) []byte {
	first := k.all[0]
	box := first.aead.Seal(nil, nil, secret, associated(login, scheme))
	return base64.StdEncoding.AppendEncode([]byte(sealed+first.id+"$"), box)
}

var errSealed = errors.New("the secret does not open: it was sealed for another login or scheme, or is damaged")

// open undoes seal. With no keys it says what is missing.
func (k *Keys) open(login, scheme string, value []byte) (authn.Password, error) {
	id, text, ok := bytes.Cut(bytes.TrimPrefix(value, []byte(sealed)), []byte("$"))
	if !ok {
		return nil, errSealed
	}
	if k == nil {
		return nil, errors.New("the secret is sealed: name the key file (digests_key, --key)")
	}
	i := slices.IndexFunc(k.all, func(s sealingKey) bool { return s.id == string(id) })
	if i < 0 {
		return nil, fmt.Errorf("the secret is sealed with key %.8q, which is not in %s", id, k.path)
	}
	box, err := base64.StdEncoding.Strict().AppendDecode(nil, text)
	if err != nil {
		return nil, errSealed
	}
	secret, err := k.all[i].aead.Open(nil, nil, box, associated(login, scheme))
	if err != nil {
		return nil, errSealed
	}
	return secret, nil
}

func associated(login, scheme string) []byte {
	return []byte(labelSeal + "\x00" + login + "\x00" + scheme)
}

// MakeKeyFile makes a key file with one new key, with mode 0600. One that is
// there is left alone: what it sealed would be lost with it.
func MakeKeyFile(path string) error {
	key := newKeyLine()
	defer clear(key)
	return change(path, func(old []byte, exists bool) ([]byte, error) {
		if exists {
			return nil, errors.New("is there already; kpopd passwd rotate puts a new key in its place")
		}
		return key, nil
	})
}

func newKeyLine() []byte {
	key := make(authn.Password, keySize)
	defer key.Wipe()
	_, _ = rand.Read(key)
	return append(base64.StdEncoding.AppendEncode(nil, key), '\n')
}

// Rotate puts a new key first into the key file, seals all secrets of the
// digests files with it, and takes the older keys out of the key file unless
// keep says that somebody still needs them. Wherever it is interrupted, all
// that is sealed can still be opened, and it can be run again.
func Rotate(keyPath string, keep bool, digests ...string) error {
	key := newKeyLine()
	defer clear(key)
	err := change(keyPath, func(old []byte, exists bool) ([]byte, error) {
		if !exists {
			return nil, os.ErrNotExist
		}
		if _, err := parseKeys(keyPath, old); err != nil {
			return nil, err
		}
		next := slices.Concat(key, old)
		_, err := parseKeys(keyPath, next) // not too many
		return next, err
	})
	if err != nil {
		return err
	}
	for _, d := range digests {
		if _, err := Seal(d, keyPath); err != nil {
			return err
		}
	}
	if keep {
		return nil
	}
	return change(keyPath, func(old []byte, _ bool) ([]byte, error) {
		// somebody may have put another one before it meanwhile
		i := bytes.Index(old, key)
		if i < 0 {
			return nil, errors.New("the new key is gone: was the file restored meanwhile?")
		}
		return bytes.Clone(old[:i+len(key)]), nil
	})
}

// Seal seals every secret of the digests file at path with the first key of
// the key file, those that are readable and those that another key of it
// sealed, and says how many it was.
func Seal(path, keyPath string) (n int, err error) {
	err = change(path, func(old []byte, exists bool) ([]byte, error) {
		if !exists {
			return nil, os.ErrNotExist
		}
		// read under the lock: whoever seals after a rotation has the new key
		keys, err := OpenKeys(keyPath)
		if err != nil {
			return nil, err
		}
		var next []byte
		n, next, err = reseal(path, old, keys)
		return next, err
	})
	return n, err
}

func reseal(path string, old []byte, keys *Keys) (n int, next []byte, err error) {
	bad := &problems{path: path}
	number := 0
	for raw := range bytes.Lines(old) {
		number++
		line := bytes.TrimRight(raw, "\r\n")
		if len(bytes.TrimSpace(line)) == 0 || line[0] == '#' {
			next = append(next, raw...)
			continue
		}
		d, err := parseDigest(line, keys)
		switch {
		case err != nil:
			bad.add(number, "%v", err)
		case d.keyID == keys.all[0].id:
			next = append(next, raw...)
		default:
			n++
			next = append(next, d.login+":"+d.scheme+":"...)
			next = append(append(next, keys.seal(d.login, d.scheme, d.secret)...), raw[len(line):]...)
		}
		d.secret.Wipe()
	}
	return n, next, bad.err()
}
