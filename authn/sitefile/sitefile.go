// Package sitefile reads the files that a site writes for its server: lists of
// users, maps, secrets, certificates, the configuration.
//
// # Design notes
//
// What is looked at is what is read: mode and kind are those of the open file and
// not of a name, which may be another file's a moment later. A FIFO waits for
// nobody, and no file takes more memory than its kind may need, whoever made it
// grow.
//
// Symbolic links are followed: sites deploy with them, and who can turn one can
// write the folder.
package sitefile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Bar is the bits of a file's mode that may not be set.
type Bar fs.FileMode

// What keeps a file from being read.
const (
	None           Bar = 0
	WorldWritable  Bar = 0o002
	OthersWritable Bar = 0o022
	WorldUsable    Bar = 0o007
	OthersUsable   Bar = 0o077
	MaskUsable     Bar = 0o037 // but that the group may read: so the mask of an access list shows
)

// lets says what a mode with a bit of b permits.
func (b Bar) lets() string {
	switch b {
	case WorldWritable:
		return "everybody write it"
	case OthersWritable:
		return "others write it"
	case WorldUsable:
		return "everybody use it"
	}
	return "others use it"
}

// Read returns the content of a regular file of at most limit octets. Nothing
// else has a copy of it, so a caller can wipe a secret.
func Read(path string, limit int64, b Bar) ([]byte, error) {
	text, _, err := ReadInfo(path, limit, b)
	return text, err
}

// ReadInfo is Read, and what the system said of the file that was read.
func ReadInfo(path string, limit int64, b Bar) (_ []byte, _ fs.FileInfo, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // else a FIFO would wait for a writer
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if err := b.check(path, st); err != nil {
		return nil, nil, err
	}
	// large enough from the start: a buffer that grows leaves copies behind
	text := bytes.NewBuffer(make([]byte, 0, min(st.Size(), limit)+bytes.MinRead+1))
	_, err = text.ReadFrom(io.LimitReader(f, limit+1))
	if err == nil && int64(text.Len()) > limit {
		err = fmt.Errorf("%s: larger than %d octets", path, limit)
	}
	if err != nil {
		clear(text.Bytes())
		return nil, nil, err
	}
	return text.Bytes(), st, nil
}

func (b Bar) check(path string, st fs.FileInfo) error {
	mode := st.Mode()
	switch {
	case !mode.IsRegular():
		return fmt.Errorf("%s: not a regular file", path)
	case mode&fs.FileMode(b) != 0:
		return fmt.Errorf("%s: mode %04o lets %s: chmod %04o it", path, mode.Perm(), b.lets(), mode.Perm()&^fs.FileMode(b))
	}
	return nil
}

var errQuote = errors.New("no quote at the end of the first word")

// Word cuts the first word off a line, which may stand in double quotes when it
// has blanks. A backslash takes the next octet with it, and both stay.
func Word(line string) (word, rest string, err error) {
	s, quoted := line, false
	if len(s) > 0 && s[0] == '"' {
		s, quoted = s[1:], true
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
		return "", "", errQuote
	}
	return s, "", nil
}
