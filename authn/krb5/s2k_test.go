package krb5

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/kpopd/kpopd/authn"
)

func TestStringToKey(t *testing.T) {
	t.Parallel()
	params := func(s string) string { b, _ := hex.DecodeString(s); return string(b) }
	salt := params("10df9dd783e5bc8acea1730e74355f61") + "ATHENA.MIT.EDUraeburn"
	for _, tt := range []struct{ name, password, salt, params, want string }{
		{"RFC 8009 appendix A, aes128", "password", salt, "00008000", "089bca48b105ea6ea77ca5d2f39dc5e7"},
		{"RFC 8009 appendix A, aes256", "password", salt, "00008000", "45bd806dbf6a833a9cffc1c94589a222367a79bc21c413718906e9f578a78467"},
		{"RFC 8009, default iterations, aes256", "password", salt, "", "45bd806dbf6a833a9cffc1c94589a222367a79bc21c413718906e9f578a78467"},
		{"RFC 4757 section 2, rc4", "foo", "", "", "ac8e657f83df82beea5d43bdaf7800cc"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			enctype := AES128SHA2
			switch {
			case strings.HasSuffix(tt.name, "aes256"):
				enctype = AES256SHA2
			case strings.HasSuffix(tt.name, "rc4"):
				enctype = RC4
			}
			k, err := stringToKey(authn.Password(tt.password), hint{enctype, tt.salt, params(tt.params)})
			if err != nil {
				t.Fatal(err)
			}
			if got := hex.EncodeToString(k.secret()); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// A false KDC chooses how much work a key is.
func TestIterations(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		enctype int32
		params  string
		ok      bool
	}{
		{AES256SHA1, "\x00\x00\x10\x00", true},
		{AES256SHA1, "\x00\x00\x0f\xff", false},
		{AES256SHA2, "\x00\x00\x10\x00", false},
		{AES256SHA2, "\x00\x00\x80\x00", true},
		{AES256SHA1, "\x00\x04\x00\x01", false},
		{AES256SHA1, "\xff\xff\xff\xff", false},
		{AES256SHA1, "\x00\x00\x00\x00", false}, // 2^32
		{AES256SHA1, "\x10\x00", false},
		{16, "", false},
	} {
		if _, err := stringToKey(authn.Password("password"), hint{tt.enctype, "salt", tt.params}); (err == nil) != tt.ok {
			t.Errorf("enctype %d, %x: %v", tt.enctype, tt.params, err)
		}
	}
}
