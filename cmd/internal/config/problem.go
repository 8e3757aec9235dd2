package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Problem is one thing that is wrong with a configuration.
type Problem struct {
	File string
	Line int    // zero when the key is not in the file
	Key  string // listeners[1].policy; "" when the file as a whole is meant
	Err  error  // what is wrong, and what to do
}

// Error begins with the place, in each line when Err is several joined.
func (p *Problem) Error() string {
	place := p.File
	if p.Line > 0 {
		place += fmt.Sprintf(":%d", p.Line)
	}
	place += ": "
	if p.Key != "" {
		place += p.Key + ": "
	}
	return place + strings.ReplaceAll(p.Err.Error(), "\n", "\n"+place)
}

// Unwrap returns what is wrong.
func (p *Problem) Unwrap() error { return p.Err }

// Problem says that the value of key is wrong. A key that is absent is told
// at the line of the thing that it is missing in.
func (c *Config) Problem(key string, err error) *Problem {
	return &Problem{File: c.file, Line: c.line(key), Key: key, Err: err}
}

func (c *Config) line(key string) int {
	for key != "" {
		if n := c.lines[key]; n > 0 {
			return n
		}
		key = key[:max(strings.LastIndexAny(key, ".["), 0)]
	}
	return 0
}

// problems collects.
type problems struct {
	c    *Config
	list []*Problem
}

func (p *problems) add(key, format string, args ...any) {
	p.list = append(p.list, p.c.Problem(key, fmt.Errorf(format, args...)))
}

// err is everything collected, in the order of the file.
func (p *problems) err() error {
	slices.SortStableFunc(p.list, func(a, b *Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Key, b.Key))
	})
	errs := make([]error, len(p.list))
	for i, x := range p.list {
		errs[i] = x
	}
	return errors.Join(errs...)
}

// suggest is `; did you mean "x"?` for the nearest of known, or "" when none
// is near.
func suggest(word string, known []string) string {
	best, least := "", 3
	for _, k := range known {
		if d := distance(strings.ToLower(word), strings.ToLower(k)); d < least && d < len(k) {
			best, least = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

// distance is the number of octets to insert, delete or change.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
