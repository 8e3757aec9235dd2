package maildir

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Make makes the directories of a Maildir at path, and path.
func Make(path string) error {
	for _, name := range [...]string{"tmp", "new", "cur"} {
		if err := os.MkdirAll(filepath.Join(path, name), 0o700); err != nil {
			return fmt.Errorf("make maildir: %w", err)
		}
	}
	return nil
}

// Deliver stores what it reads from message, as it is, in the Maildir at path,
// and returns the file's base name. The message is on disk when Deliver
// returns. It is what a delivery agent does, for tests and demonstrations; the
// path is the caller's own and is not checked.
func Deliver(path string, message io.Reader) (base string, err error) {
	base = newName(time.Now())
	tmp, dst := filepath.Join(path, "tmp", base), filepath.Join(path, "new", base)
	if err = writeFile(tmp, message); err == nil {
		err = os.Link(tmp, dst) // unlike rename, it replaces nothing
	}
	err = errors.Join(err, os.Remove(tmp))
	if err == nil {
		err = syncDir(filepath.Join(path, "new"))
	}
	if err != nil {
		return "", fmt.Errorf("deliver to %s: %w", path, err)
	}
	return base, nil
}

func writeFile(path string, r io.Reader) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err = io.Copy(f, r); err != nil {
		return err
	}
	return f.Sync()
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// newName is a base name fit for a unique-id: second, microsecond, 64 random
// bits, host, at most 70 octets.
func newName(now time.Time) string {
	var random [8]byte
	rand.Read(random[:]) // never fails
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	host = strings.Map(func(r rune) rune {
		if r <= ' ' || r >= 0x7f || strings.ContainsRune("/:,", r) {
			return '_'
		}
		return r
	}, host)
	return fmt.Sprintf("%d.M%06dR%s.%.32s", now.Unix(), now.Nanosecond()/1000, hex.EncodeToString(random[:]), host)
}
