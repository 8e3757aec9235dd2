package scram

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	xdg "github.com/xdg-go/scram"

	"github.com/kpopd/kpopd/authn"
)

// Keys of a client that somebody else wrote are the same.
func TestMake(t *testing.T) {
	t.Parallel()
	for scheme, h := range map[string]xdg.HashGeneratorFcn{"SCRAM-SHA-1": xdg.SHA1, "SCRAM-SHA-256": xdg.SHA256} {
		for _, password := range []string{"pencil", "Käse mit Löchern", "пароль", strings.Repeat("x", 1024)} {
			k, err := Make(scheme, authn.Password(password), 5000)
			if err != nil {
				t.Fatal(err)
			}
			c, err := h.NewClient("user", password, "")
			if err != nil {
				t.Fatal(err)
			}
			want, err := c.GetStoredCredentialsWithError(xdg.KeyFactors{Salt: string(k.Salt), Iters: 5000})
			if err != nil || !bytes.Equal(want.StoredKey, k.Stored) || !bytes.Equal(want.ServerKey, k.Server) {
				t.Errorf("%s of %.20q: other keys, %v", scheme, password, err)
			}
			again, err := Parse(k.Text())
			if err != nil || again.Scheme != scheme || again.Shape() != (Shape{5000, 16}) || !bytes.Equal(again.Stored, k.Stored) || !bytes.Equal(again.Server, k.Server) {
				t.Errorf("%s was read as %+v, %v", scheme, again, err)
			}
			if ok, err := again.Match(authn.Password(password)); !ok || err != nil {
				t.Errorf("do not match: %v", err)
			}
			if ok, err := again.Match(authn.Password(password + "x")); ok || err != nil {
				t.Errorf("match another: %v", err)
			}
		}
	}
	a, _ := Make("SCRAM-SHA-1", authn.Password("p"), 4096)
	b, _ := Make("SCRAM-SHA-1", authn.Password("p"), 4096)
	if bytes.Equal(a.Salt, b.Salt) {
		t.Error("two users have one salt")
	}
}

func TestMakeRefuses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, scheme, password string
		iterations             int
	}{
		{"no scheme", "SCRAM-SHA-512", "pencil", 4096},
		{"name of the mechanism", "SCRAM-SHA-256-PLUS", "pencil", 4096},
		{"empty password", "SCRAM-SHA-256", "", 4096},
		{"long password", "SCRAM-SHA-256", strings.Repeat("x", 1025), 4096},
		{"few iterations", "SCRAM-SHA-256", "pencil", 4095},
		{"many iterations", "SCRAM-SHA-256", "pencil", 10_000_001},
		{"what SASLprep takes apart", "SCRAM-SHA-256", "\ufb01sh²", 4096},
		{"what SASLprep drops", "SCRAM-SHA-256", "soft\u00adhyphen", 4096},
		{"what SASLprep does not know", "SCRAM-SHA-256", "\U0001F600", 4096},
		{"no UTF-8", "SCRAM-SHA-256", "p\xFF", 4096},
	} {
		k, err := Make(tt.scheme, authn.Password(tt.password), tt.iterations)
		if err == nil {
			t.Errorf("%s: made %+v", tt.name, k)
		} else if strings.Contains(err.Error(), "pencil") {
			t.Errorf("%s: %v tells the password", tt.name, err)
		}
	}
}

// What PostgreSQL stores for the password pencil is read; so is what RFC 7677's
// example has.
const stored = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="

func TestParse(t *testing.T) {
	t.Parallel()
	k, err := Parse([]byte(stored))
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := k.Match(authn.Password("pencil")); !ok || err != nil {
		t.Errorf("do not match: %v", err)
	}
	for _, tt := range []struct{ name, old, new string }{
		{"other scheme", "SHA-256", "SHA-512"},
		{"scheme of other size", "SHA-256", "SHA-1"},
		{"few iterations", "4096", "1000"},
		{"no iterations", "4096", ""},
		{"leading zero", "4096", "04096"},
		{"sign", "4096", "+4096"},
		{"many iterations", "4096", "99999999999999999999"},
		{"short salt", "W22ZaJ0SNY7soEsUEjb6gQ==", "W22Z"},
		{"no salt", ":W22ZaJ0SNY7soEsUEjb6gQ==", ""},
		{"base64 with another end", "gQ==$", "gR==$"},
		{"line end", "W22Z", "W2\n2Z"},
		{"short key", "WG5d8oPm3", "WG5d8"},
		{"no second key", ":wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=", ""},
		{"something behind", "2dU=", "2dU=$x"},
	} {
		text := strings.Replace(stored, tt.old, tt.new, 1)
		if k, err := Parse([]byte(text)); err == nil || text == stored {
			t.Errorf("%s: read as %+v", tt.name, k)
		} else if strings.Contains(err.Error(), "wfPL") || strings.Contains(err.Error(), "WG5d") {
			t.Errorf("%s: %v tells the keys", tt.name, err)
		}
	}
}

func TestKeysDoNotPrint(t *testing.T) {
	t.Parallel()
	k, err := Parse([]byte(stored))
	if err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"%v", "%+v", "%s", "%q", "%d", "%x"} {
		if s := fmt.Sprintf(format, k); !strings.Contains(s, "***") || strings.Contains(s, string(k.Stored)) {
			t.Errorf("%s prints %s", format, s)
		}
	}
	k.Wipe()
	if !zeros(k.Stored) || !zeros(k.Server) {
		t.Error("not wiped")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(stored))
	f.Add([]byte("SCRAM-SHA-1$4096:QSXCR+Q6sek8bf92$AAAAAAAAAAAAAAAAAAAAAAAAAAA=:AAAAAAAAAAAAAAAAAAAAAAAAAAA="))
	f.Add([]byte("SCRAM-SHA-1$4096:$:"))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := Parse(b)
		if err == nil && !bytes.Equal(k.Text(), b) {
			t.Errorf("%q was read as %q", b, []byte(k.Text()))
		}
	})
}

// BenchmarkMake is what a client computes at each login, and kpopd passwd once.
func BenchmarkMake(b *testing.B) {
	for _, scheme := range Schemes() {
		b.Run(scheme, func(b *testing.B) {
			for b.Loop() {
				if _, err := Make(scheme, authn.Password("pencil"), DefaultIterations); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
