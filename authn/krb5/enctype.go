package krb5

import (
	"fmt"
	"slices"
	"strings"
)

// Encryption types (RFC 3962, RFC 8009, RFC 4757). DES and Triple DES are not
// among them and cannot be configured.
const (
	AES128SHA1 int32 = 17
	AES256SHA1 int32 = 18
	AES128SHA2 int32 = 19
	AES256SHA2 int32 = 20
	RC4        int32 = 23 // for sites that cannot do without; never by default
)

// profile is what has to be known of an enctype before a key or a ciphertext
// of it is used.
type profile struct {
	id       int32
	name     string // as registered
	alias    string // as krb5.conf has it
	key      int    // octets of a key
	overhead int    // octets of confounder and checksum: no ciphertext is shorter
	checksum int    // octets of a checksum

	checksumType int32
}

var profiles = [...]profile{
	{AES256SHA2, "aes256-cts-hmac-sha384-192", "aes256-sha2", 32, 40, 24, 20},
	{AES128SHA2, "aes128-cts-hmac-sha256-128", "aes128-sha2", 16, 32, 16, 19},
	{AES256SHA1, "aes256-cts-hmac-sha1-96", "aes256-sha1", 32, 28, 12, 16},
	{AES128SHA1, "aes128-cts-hmac-sha1-96", "aes128-sha1", 16, 28, 12, 15},
	{RC4, "arcfour-hmac", "rc4-hmac", 16, 24, 16, -138},
}

func profileOf(enctype int32) (profile, bool) {
	i := slices.IndexFunc(profiles[:], func(p profile) bool { return p.id == enctype })
	if i < 0 {
		return profile{}, false
	}
	return profiles[i], true
}

// DefaultEnctypes are the four of AES, strongest first.
func DefaultEnctypes() []int32 { return []int32{AES256SHA2, AES128SHA2, AES256SHA1, AES128SHA1} }

// EnctypeName is the registered name, or the number of an enctype that we do
// not know.
func EnctypeName(enctype int32) string {
	if p, ok := profileOf(enctype); ok {
		return p.name
	}
	return fmt.Sprintf("enctype %d", enctype)
}

// ParseEnctype knows the registered names and those of krb5.conf.
func ParseEnctype(name string) (int32, error) {
	var known []string
	for _, p := range profiles {
		if strings.EqualFold(name, p.name) || strings.EqualFold(name, p.alias) {
			return p.id, nil
		}
		known = append(known, p.alias)
	}
	return 0, fmt.Errorf("no enctype %q, or one that is not taken: choose from %s", name, strings.Join(known, ", "))
}
