package file

import (
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/krb5test"
)

// libcrypt computes hashes with the crypt(3) of the system.
func libcrypt(t *testing.T, password, setting string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "perl", "-e", `print crypt($ARGV[0], $ARGV[1])`, password, setting).Output()
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 13 || out[0] == '*' {
		t.Skipf("crypt(3) of this system does not take %s", setting)
	}
	return string(out)
}

func TestPeerLibcrypt(t *testing.T) {
	t.Parallel()
	krb5test.Need(t, "perl")
	const salt = "abcdefghijklmnopqrstuu" // bcrypt wants 22
	passwords := []string{"p", "Grüße aus Köln", "\xff\xfe", " spaces  and\ttab ", strings.Repeat("x", 71), strings.Repeat("y", 72), strings.Repeat("z", 200)}
	for _, setting := range []string{
		"$y$j75$" + salt[:8], "$y$j75$" + salt[:16], "$6$rounds=1000$" + salt[:16], "$6$" + salt[:8], "$6$rounds=1234$a", "$5$rounds=1000$" + salt[:16],
		"$5$" + salt[:8], "$2b$04$" + salt, "$2y$05$" + salt, "$2a$04$" + salt,
	} {
		t.Run(setting[:4], func(t *testing.T) {
			t.Parallel()
			for i, p := range passwords {
				hash := libcrypt(t, p, setting)
				h, _, err := parseHash(hash)
				if err != nil {
					t.Fatalf("%s: %v", hash, err)
				}
				if ok, err := h.MatchBytesAdvanced([]byte(p)); !ok || err != nil {
					t.Errorf("%s is not %q: %v", hash, p, err)
				}
				if i > 0 {
					continue
				}
				if ok, _ := h.MatchBytesAdvanced([]byte("!" + p)); ok {
					t.Errorf("%s is also %q", hash, "!"+p)
				}
			}
		})
	}
}

func TestPeerLibcryptTakesOurHashes(t *testing.T) {
	t.Parallel()
	krb5test.Need(t, "perl")
	for _, scheme := range []string{"yescrypt", "bcrypt", "sha512"} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			p := fmt.Sprintf("Grüße %d", rand.Uint64())
			hash, err := MakeHash(scheme, authn.Password(p))
			if err != nil {
				t.Fatal(err)
			}
			if got := libcrypt(t, p, hash); got != hash {
				t.Errorf("crypt(3) makes %s of it, we made %s", got, hash)
			}
		})
	}
}

func TestPeerMkpasswd(t *testing.T) {
	t.Parallel()
	krb5test.Need(t, "mkpasswd")
	for _, method := range []string{"yescrypt", "sha512crypt", "sha256crypt", "bcrypt", "bcrypt-a"} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), "mkpasswd", "-m", method, "-s")
			cmd.Stdin = strings.NewReader("s3cr3t w")
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			us, err := parseUsers("u", []byte("alice:"+string(out)))
			if err != nil {
				t.Fatal(err)
			}
			if ok, err := us.byLogin["alice"].hash.MatchBytesAdvanced([]byte("s3cr3t w")); !ok || err != nil {
				t.Errorf("%s: %v, %v", out, ok, err)
			}
		})
	}
}
