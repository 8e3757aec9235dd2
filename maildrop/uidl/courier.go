package uidl

import (
	"fmt"
	"io"
	"strconv"
	"strings"
)

// SizeListFile is Courier's list of messages in a Maildir.
const SizeListFile = "courierpop3dsizelist"

// SizeEntry is one message of a courierpop3dsizelist.
type SizeEntry struct {
	N           uint32 // 0: the id is the file name, as up to version 0.42
	UIDValidity uint32 // 0 when the message was numbered by a version 1 list
}

// ParseSizeList reads a courierpop3dsizelist, entries by base name:
//
//	name size                  no header, version 0
//	/1 next                    name size n
//	/2 next uidvalidity        name size n:uidvalidity
//	/3 next uidvalidity        name size n:uidvalidity:utf8
//
// The name is the file's with its flags and may hold blanks.
func ParseSizeList(r io.Reader) (map[string]SizeEntry, error) { return parseSizeList(r, nil) }

// parseSizeList reads the lines of some messages.
func parseSizeList(r io.Reader, want bases) (map[string]SizeEntry, error) {
	entries := make(map[string]SizeEntry)
	version, known := byte('0'), false
	skip := func(line []byte) bool {
		if version > '0' {
			line = cutLast(line)
		}
		return want.lacks(cutLast(line))
	}
	err := scanLines(SizeListFile, r, skip, func(line string, n int) (wrong string) {
		known = true
		if n == 1 && strings.HasPrefix(line, "/") {
			version, wrong = sizeListVersion(line)
			return wrong
		}
		name, e, wrong := parseSizeEntry(line, version)
		if wrong == "" {
			entries[name] = e
		}
		return wrong
	})
	if err == nil && !known {
		err = &LineError{SizeListFile, 1, "no line: the file is empty or cut off"}
	}
	if err != nil {
		return nil, err
	}
	return entries, nil
}

func sizeListVersion(line string) (version byte, wrong string) {
	fields := strings.Fields(line[1:])
	if len(fields) == 0 || len(fields[0]) != 1 || fields[0] < "1" || fields[0] > "3" {
		return 0, "not the header of version 1, 2 or 3"
	}
	for _, f := range fields[1:] {
		if _, err := strconv.ParseUint(f, 10, 64); err != nil {
			return 0, "a header with something that is no number"
		}
	}
	return fields[0][0], ""
}

func parseSizeEntry(line string, version byte) (base string, e SizeEntry, wrong string) {
	number := ""
	if version > '0' {
		i := strings.LastIndexByte(line, ' ')
		if i < 0 {
			return "", e, "no number of the message"
		}
		line, number = line[:i], line[i+1:]
	}
	i := strings.LastIndexByte(line, ' ')
	if i < 0 {
		return "", e, "no size"
	}
	if _, err := strconv.ParseUint(line[i+1:], 10, 64); err != nil {
		return "", e, "a size that is no number"
	}
	if base = baseOf(line[:i]); !plainName(base) {
		return "", e, "no file name"
	}
	parts := strings.Split(number, ":")
	if want := [...]int{'0': 1, '1': 1, '2': 2, '3': 3}[version]; len(parts) != want {
		return "", e, fmt.Sprintf("a number of %d parts in a list of version %c", len(parts), version)
	}
	for k, into := range []*uint32{&e.N, &e.UIDValidity} {
		if version == '0' || k >= len(parts) {
			break
		}
		n, err := strconv.ParseUint(parts[k], 10, 32)
		if err != nil {
			return "", e, "a number that is none"
		}
		*into = uint32(n)
	}
	return base, e, ""
}

// ID is how Courier writes the entry of a message.
func (e SizeEntry) ID(base string) string {
	switch {
	case e.N == 0:
		return courier0(base)
	case e.UIDValidity == 0:
		return fmt.Sprintf("UID%d", e.N)
	}
	return fmt.Sprintf("UID%d-%d", e.N, e.UIDValidity)
}

// courier0 is a base name with '+' and two hexadecimal digits for what Courier
// does not send.
func courier0(base string) string {
	var b strings.Builder
	for i := range len(base) {
		c := base[i]
		if c < 0x21 || c > 0x7e || c == '\'' || c == '"' || c == '+' {
			fmt.Fprintf(&b, "+%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

func openSizeList(from Source) (Rule, error) {
	f, err := from.file(SizeListFile)
	if err != nil || f == nil {
		return nothing, err
	}
	defer f.Close()
	entries, err := parseSizeList(f, basesOf(from.Bases))
	if err != nil {
		return nil, err
	}
	return func(m Message) string {
		e, ok := entries[m.Base]
		if !ok {
			return ""
		}
		return e.ID(m.Base)
	}, nil
}
