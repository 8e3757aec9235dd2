package uidl

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
)

// MaxEntries is the number of lines in a list of ids beyond which it is taken
// for something else; a maildrop of 100,000 messages is a large one.
const MaxEntries = 2_000_000

// maxLine is the length of a line in a list: a file name has up to 255 octets,
// and Dovecot and Courier write up to 2048 octets.
const maxLine = 4096

// LineError says where a list of ids breaks off.
type LineError struct {
	File string
	Line int // from 1
	What string
}

func (e *LineError) Error() string {
	return fmt.Sprintf("%s line %d: %s", e.File, e.Line, e.What)
}

// scanLines hands each line of r to take, without its line end. What take
// says is wrong with a line ends it. A last line without a line end is being
// written, or was cut off: it is left out, as a wrong id is worse than none.
// skip says which lines after the first need not be looked at; nil when all are.
func scanLines(file string, r io.Reader, skip func(line []byte) bool, take func(line string, n int) (wrong string)) error {
	b := bufio.NewReaderSize(r, maxLine)
	for n := 1; ; n++ {
		line, err := b.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, bufio.ErrBufferFull):
			return &LineError{file, n, fmt.Sprintf("longer than %d octets", maxLine)}
		case err != nil:
			return fmt.Errorf("read %s: %w", file, err)
		}
		if n > MaxEntries {
			return &LineError{file, n, fmt.Sprintf("more than %d lines", MaxEntries)}
		}
		if n > 1 && skip != nil && skip(line[:len(line)-1]) {
			continue
		}
		if wrong := take(string(line[:len(line)-1]), n); wrong != "" {
			return &LineError{file, n, wrong}
		}
	}
}

// bases is a set of base names; nil is all there are.
type bases map[string]bool

func basesOf(names []string) bases {
	if names == nil {
		return nil
	}
	b := make(bases, len(names))
	for _, name := range names {
		b[name] = true
	}
	return b
}

// lacks says that the file name is of none of them.
func (b bases) lacks(name []byte) bool {
	base, _, _ := bytes.Cut(name, []byte(":"))
	return b != nil && !b[string(base)]
}

// cutLast takes a blank and what follows the last one off a line.
func cutLast(line []byte) []byte { return line[:max(0, bytes.LastIndexByte(line, ' '))] }

// baseOf is a file name up to the colon before its flags.
func baseOf(name string) string {
	base, _, _ := strings.Cut(name, ":")
	return base
}

// plainName says that s can be the name of a file in a directory.
func plainName(s string) bool {
	return s != "" && s[0] != '.' && !strings.ContainsAny(s, "/\x00")
}
