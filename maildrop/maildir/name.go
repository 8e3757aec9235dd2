package maildir

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"math"
	"strconv"
	"strings"
)

// baseOf is the part of a file name that stays when flags change: all before
// the colon of ":2,S". A name that begins with a colon has no such part and
// stays whole.
func baseOf(name string) string {
	if i := strings.IndexByte(name, ':'); i > 0 {
		return name[:i]
	}
	return name
}

// uidOf is the unique-id of a base name: the name itself where RFC 1939
// section 7 allows that, 1 to 70 octets in 0x21 to 0x7E, else a hash of it,
// the same in every session. No base name looks like one: they hold no colon.
func uidOf(base string) string {
	if legalUID(base) {
		return base
	}
	sum := sha256.Sum256([]byte(base))
	return "sha256:" + base64.RawURLEncoding.EncodeToString(sum[:])
}

func legalUID(s string) bool {
	if len(s) < 1 || len(s) > 70 {
		return false
	}
	for i := range len(s) {
		if s[i] < 0x21 || s[i] > 0x7e {
			return false
		}
	}
	return true
}

// timeOf is the number that a base name begins with, the second of delivery;
// 0 where there is none.
func timeOf(base string) uint64 {
	var n uint64
	for i := 0; i < len(base) && base[i]-'0' <= 9; i++ {
		if n > (math.MaxUint64-9)/10 {
			return math.MaxUint64
		}
		n = n*10 + uint64(base[i]-'0')
	}
	return n
}

// compareNames orders messages by their time of delivery, those of one second
// by name.
func compareNames(aTime, bTime uint64, aBase, bBase string) int {
	if c := cmp.Compare(aTime, bTime); c != 0 {
		return c
	}
	return strings.Compare(aBase, bBase)
}

// wireSize is the number after ",W=" in a base name: the size with CRLF line
// ends, by the convention of Maildir++.
func wireSize(base string) (size int64, ok bool) {
	_, after, found := strings.Cut(base, ",W=")
	if !found {
		return 0, false
	}
	digits, _, _ := strings.Cut(after, ",")
	n, err := strconv.ParseUint(digits, 10, 63)
	return int64(n), err == nil
}
