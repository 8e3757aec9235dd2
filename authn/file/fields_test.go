package file

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kpopd/kpopd/authn"
)

// The fields by which a line of the users file closes an account, wholly, from a
// day on, or for some mechanisms.
func TestClosingFields(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, fields, mechanism string
		want                    string // outcome
	}{
		{"nothing", "", "PLAIN", "yes"},
		{"disabled", ":disabled", "PLAIN", "denied"},
		{"nologin", ":nologin", "PLAIN", "denied"},
		{"disabled among others", ":::::: maildrop=x disabled", "USER", "denied"},
		{"the day before", ":expires=2000-01-03", "PLAIN", "yes"},
		{"the day", ":expires=2000-01-02", "PLAIN", "expired"},
		{"long ago", ":expires=1999-12-31", "PLAIN", "expired"},
		{"among the mechanisms", ":mechanisms=LOGIN,PLAIN", "PLAIN", "yes"},
		{"not among the mechanisms", ":mechanisms=LOGIN,PLAIN", "USER", "denied"},
		{"none of ours", ":mechanisms=GSSAPI", "PLAIN", "denied"},
		{"a secret's mechanism", ":mechanisms=CRAM-MD5", "CRAM-MD5", "yes"},
		{"not a secret's mechanism", ":mechanisms=PLAIN", "CRAM-MD5", "denied"},
		{"disabled, and the mechanism is right", ":mechanisms=PLAIN disabled", "PLAIN", "denied"},
		{"out of date for every mechanism", ":mechanisms=CRAM-MD5 expires=2000-01-01", "CRAM-MD5", "expired"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			users, digests := filepath.Join(dir, "users"), filepath.Join(dir, "digests")
			hash, err := MakeHash("sha512", authn.Password("pw"))
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(
				os.WriteFile(users, []byte("alice:"+hash+tt.fields+"\n"), 0o600),
				os.WriteFile(digests, []byte("alice:CRAM-MD5:s3cret\n"), 0o600),
			); err != nil {
				t.Fatal(err)
			}
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(24*time.Hour + 1) // the clock begins with 2000
				v, err := Open("file", Options{Users: users, Digests: digests})
				if err != nil {
					t.Fatal(err)
				}
				if tt.mechanism == "CRAM-MD5" {
					_, _, err = v.(authn.SecretSource).Secret(t.Context(), "alice", tt.mechanism)
				} else {
					_, err = v.(authn.PasswordVerifier).VerifyPassword(t.Context(), &authn.PasswordRequest{
						Mechanism: tt.mechanism, Login: "alice", Password: authn.Password("pw"),
					})
				}
				got := "yes"
				if err != nil {
					got = authn.KindOf(err).String()
				}
				if got != tt.want {
					t.Errorf("got %s, want %s: %v", got, tt.want, err)
				}
			})
		})
	}
}

// A field that is meant to close an account and does not is refused.
func TestClosingFieldsRefused(t *testing.T) {
	t.Parallel()
	for field, want := range map[string]string{
		"expires=31.12.2026":   "users:1: alice: expires= is the first day",
		"expires=":             "users:1: alice: expires= is the first day",
		"expires=2026-02-30":   "users:1: alice: expires= is the first day",
		"expires":              "users:1: alice: expires= is the first day",
		"mechanisms=":          "users:1: alice: mechanisms= is a list",
		"mechanisms=plain":     "users:1: alice: mechanisms= is a list",
		"mechanisms=PLAIN,":    "users:1: alice: mechanisms= is a list",
		"mechanism=PLAIN":      "users:1: alice: mechanism= is no field",
		"expiry=2026-12-31":    "users:1: alice: expiry= is no field",
		"x y expire=tomorrow":  "users:1: alice: expire= is no field",
		"maildrop=a expires=x": "users:1: alice: expires= is the first day",
	} {
		if _, err := parseUsers("users", []byte("alice:*:"+field+"\n")); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v", field, err)
		}
	}
}
