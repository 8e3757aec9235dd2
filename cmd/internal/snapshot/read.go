package snapshot

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
)

// maxLine bounds the line of one maildrop, in octets: a million messages have
// about a tenth of it.
const maxLine = 1 << 30

// File is a snapshot that is being read. Of the maildrops only their places are
// in memory.
type File struct {
	Header Header

	name  string
	r     io.ReaderAt
	size  int64 // octets of the lines that are complete
	place map[string]span
}

type span struct {
	at, length int64
	failed     bool
}

// Open reads a snapshot's header and finds its maildrops. An unfinished last
// line is taken for one that is not there.
func Open(f *os.File) (*File, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file", f.Name())
	}
	return open(f.Name(), f, st.Size())
}

func open(name string, r io.ReaderAt, size int64) (*File, error) {
	s := &File{name: name, r: r, place: map[string]span{}}
	lines := bufio.NewReaderSize(io.NewSectionReader(r, 0, size), 64<<10)
	for n := 1; ; n++ {
		line, err := readLine(lines)
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = s.line(n, line)
		}
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, n, err)
		}
		s.size += int64(len(line))
	}
	if s.Header.Format == "" {
		return nil, fmt.Errorf("%s: no snapshot: it has no complete line", name)
	}
	return s, nil
}

// readLine returns a line with its line end, and io.EOF for none or half of one.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case err == nil:
			return line, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		case len(line) > maxLine:
			return nil, fmt.Errorf("line of more than %d octets", maxLine)
		}
	}
}

// line takes line n of the file, which begins where the ones before it end.
func (s *File) line(n int, line []byte) error {
	if n == 1 {
		if err := json.Unmarshal(line, &s.Header); err != nil || s.Header.Format != format {
			return errors.New("not a snapshot of kpopctl uidl")
		}
		if s.Header.Version != version {
			return fmt.Errorf("version %d of the format is not known, only %d", s.Header.Version, version)
		}
		return nil
	}
	var m struct {
		User    string
		Failure *Failure
	}
	if err := json.Unmarshal(line, &m); err != nil {
		return err
	}
	if m.User == "" {
		return errors.New("a maildrop without a user")
	}
	s.place[m.User] = span{s.size, int64(len(line)), m.Failure != nil}
	return nil
}

// Size is the number of octets of what is complete.
func (s *File) Size() int64 { return s.size }

// Users are those of whom there is anything, sorted.
func (s *File) Users() []string { return slices.Sorted(maps.Keys(s.place)) }

// Complete reports whether there is a listing of user's maildrop.
func (s *File) Complete(user string) bool {
	p, ok := s.place[user]
	return ok && !p.failed
}

// Maildrop reads what was recorded last of user; nil when nothing was.
func (s *File) Maildrop(user string) (*Maildrop, error) {
	p, ok := s.place[user]
	if !ok {
		return nil, nil
	}
	line := make([]byte, p.length)
	if _, err := s.r.ReadAt(line, p.at); err != nil {
		return nil, fmt.Errorf("%s: maildrop of %s: %w", s.name, user, err)
	}
	var m Maildrop
	if err := json.NewDecoder(bytes.NewReader(line)).Decode(&m); err != nil {
		return nil, fmt.Errorf("%s: maildrop of %s: %w", s.name, user, err)
	}
	m.count() // what is counted is not believed
	return &m, nil
}
