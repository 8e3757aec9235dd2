package uidl

import (
	"crypto/sha256"
	"encoding/base64"
	"strconv"
)

// MaxOctets is how long a unique-id may be (RFC 1939 section 7).
const MaxOctets = 70

// Legal says that s may be sent as a unique-id: "one to 70 characters in the
// range 0x21 to 0x7E" (RFC 1939 section 7).
func Legal(s string) bool {
	if len(s) < 1 || len(s) > MaxOctets {
		return false
	}
	for i := range len(s) {
		if s[i] < 0x21 || s[i] > 0x7e {
			return false
		}
	}
	return true
}

// Policy says what becomes of an id that the old server gave twice. RFC 1939
// section 7 lets a server "assign the same unique-id to identical copies", and
// a client then fetches one of them.
type Policy uint8

// The policies.
const (
	Suffix Policy = iota // the second is "id-2", the third "id-3", as Dovecot's pop3_uidl_duplicates=rename has it
	Allow                // as the old server had it
)

// Assigner gives the messages of one maildrop ids that may be sent. What it
// gives is to be kept: it depends on what was given before.
type Assigner struct {
	policy Policy
	given  map[string]int // how many messages have it
}

// NewAssigner returns an assigner for a maildrop in which ids are given
// already.
func NewAssigner(p Policy, given []string) *Assigner {
	a := &Assigner{policy: p, given: make(map[string]int, len(given))}
	for _, id := range given {
		a.given[id]++
	}
	return a
}

// Assign gives a message the id that a rule found, or own, the store's, when
// that is "" or may not be sent. own must be legal and no other message's.
func (a *Assigner) Assign(id, own string) string {
	if !Legal(id) {
		id = own
	}
	if a.given[id] > 0 && (a.policy == Suffix || id == own) {
		id = a.next(id)
	}
	a.given[id]++
	return id
}

// next is id with the lowest number after it that makes it a new one. An id
// that has no room for it is hashed first.
func (a *Assigner) next(id string) string {
	const room = len("-4294967295")
	if len(id) > MaxOctets-room {
		sum := sha256.Sum256([]byte(id))
		id = "sha256:" + base64.RawURLEncoding.EncodeToString(sum[:])
		if a.given[id] == 0 {
			return id
		}
	}
	for n := max(2, a.given[id]+1); ; n++ {
		if numbered := id + "-" + strconv.Itoa(n); a.given[numbered] == 0 {
			return numbered
		}
	}
}
