package uidl

import (
	"io"
	"strings"
)

// ListFile is a list that a site writes itself, from whatever knows the ids:
// a Cyrus index, a database, the replies to UIDL of the old server.
const ListFile = "kpopd-uidl"

// ParseList reads lines of a Maildir's file name, a blank, and an id. The name
// may have flags and may hold blanks. The last line needs its line end.
func ParseList(r io.Reader) (map[string]string, error) { return parseList(r, nil) }

// parseList reads the lines of some messages.
func parseList(r io.Reader, want bases) (map[string]string, error) {
	ids := make(map[string]string)
	err := scanLines(ListFile, r, func(line []byte) bool { return want.lacks(cutLast(line)) }, func(line string, _ int) string {
		line = strings.TrimSuffix(line, "\r") // it may come from anywhere
		i := strings.LastIndexByte(line, ' ')
		if i < 0 || i == len(line)-1 {
			return "not a file name, a blank and an id"
		}
		base := baseOf(line[:i])
		if !plainName(base) {
			return "no file name"
		}
		if _, twice := ids[base]; twice {
			return "a message that has an id already"
		}
		ids[base] = line[i+1:]
		return ""
	})
	if err != nil {
		return nil, err
	}
	return ids, nil
}

func openList(from Source) (Rule, error) {
	f, err := from.file(ListFile)
	if err != nil || f == nil {
		return nothing, err
	}
	defer f.Close()
	ids, err := parseList(f, basesOf(from.Bases))
	if err != nil {
		return nil, err
	}
	return func(m Message) string { return ids[m.Base] }, nil
}
