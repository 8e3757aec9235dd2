package main

import (
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// age makes messages of a maildrop, all when none is named, as many days old as
// it says: the files, and when the index says that they were seen or retrieved:
// age MAILDROP DAYS [BASENAME...].
func age(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: age MAILDROP DAYS [BASENAME...]")
	}
	days, err := strconv.Atoi(args[1])
	ts.Check(err)
	at := time.Now().Add(-time.Duration(days) * 24 * time.Hour)
	is := func(base string) bool { return len(args) == 2 || slices.Contains(args[2:], base) }
	files, err := filepath.Glob(filepath.Join(ts.MkAbs(args[0]), "[nc][eu][wr]", "*"))
	ts.Check(err)
	for _, f := range files {
		if base, _, _ := strings.Cut(filepath.Base(f), ":"); is(base) {
			ts.Check(os.Chtimes(f, at, at))
		}
	}
	index := filepath.Join(ts.MkAbs(args[0]), ".kpopd.index")
	b, err := os.ReadFile(index)
	if os.IsNotExist(err) {
		return // nobody has seen them yet
	}
	ts.Check(err)
	ts.Check(os.WriteFile(index, backdate(b, at, is), 0o600))
}

// backdate changes when an index says that messages were seen: its header is of
// 128 octets, and each record of 48 has the time at 40 and the length of the base
// name at 44.
func backdate(b []byte, at time.Time, is func(base string) bool) []byte {
	le, table := binary.LittleEndian, crc32.MakeTable(crc32.Castagnoli)
	n := int(le.Uint64(b[16:]))
	text := b[128+48*n:]
	start := uint32(0)
	for i := range n {
		r := b[128+48*i:]
		if base := string(text[start : start+uint32(le.Uint16(r[44:]))]); is(base) {
			le.PutUint32(r[40:], uint32(at.Unix()))
		}
		start = le.Uint32(r[32:])
	}
	le.PutUint32(b[96:], crc32.Checksum(b[128:], table))
	le.PutUint32(b[124:], crc32.Checksum(b[:124], table))
	return b
}
