package file

import (
	"regexp"
	"strings"
	"testing"

	"github.com/kpopd/kpopd/authn"
)

func TestHashes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, hash, password string }{
		{"yescrypt of mkpasswd", "$y$j9T$63f5pDbVLMufkVLezmUIw/$iMwbWhVuhsaADZPStfYJZu6FEd9U8CvRB.bVY/XueNB", "pw"},
		{"pbkdf2 of Python, SHA-1", "$pbkdf2$1000$c2FsdHNhbHRzYWx0c2FsdA$LREQYXavGxLoaJVTPdUYyAhfJco", "p"},
		{"pbkdf2 of Python, SHA-256", "$pbkdf2-sha256$1000$c2FsdHNhbHRzYWx0c2FsdA$i4VYC5Q9gtOkZof/0ghl2HlnAA2mo/actIbw/pDnRSg", "p"},
		{"pbkdf2 of Python, SHA-512", "$pbkdf2-sha512$1000$c2FsdHNhbHRzYWx0c2FsdA$buorXYjYWO7knk/r5jQRpaHBoGxXyi1gKMpX6vVlKGJI37VmpzA9WxU9gtoQBPSa0mqI173IQy53TsqL5FhY5w", "p"},
		{"scrypt of Python", "$scrypt$ln=4,r=8,p=1$c2FsdHNhbHRzYWx0c2FsdA$L2XRQ/3MeYuLHxG2FjXVNfaTA0WFt/ADDu/tRcPzbOE", "p"},
		{"argon2id of the reference code", "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4", "password"},
		{"argon2i of the reference code", "{ARGON2I}$argon2i$v=19$m=256,t=2,p=1$c29tZXNhbHQ$iekCn0Y3spW+sCcFanM2xBT63UP2sghkUoHLIUpWRS8", "password"},
		{"salted SHA-256", "{SSHA256}GCn+7MjzuQfWygQqpvvrQ5wcb1FOH7ByIRNm5AlRbEpzYWx0", "p"},
		{"salted SHA-512", "{ssha512}A6Yqo1io+ha+ANUiF8e7J96JPgeEuuEwa6nYUw2F/CksLOQqGus6x5g3nhYMXMZMrqn2Fzj64qEzA5cDzlrrtHNhbHQ=", "p"},
		{"sha512 without rounds", "$6$saltsalt$T8zzampJcN172f1r0kNFFiQGdtFquc5jnzebqomQxxdUNGG69JTP0XFkH2sFbHn4FG4SGRFsmj2vnmTApt5fI/", "p"},
		{"bcrypt 2b", "$2b$05$abcdefghijklmnopqrstuuqwWMzKt5N8p.u2GX5MuH1t19BMWuLOW", "p"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h, _, err := parseHash(tt.hash)
			if err != nil {
				t.Fatal(err)
			}
			if ok, err := h.MatchBytesAdvanced([]byte(tt.password)); !ok || err != nil {
				t.Errorf("right password: %v, %v", ok, err)
			}
			if ok, err := h.MatchBytesAdvanced([]byte(tt.password + "x")); ok || err != nil {
				t.Errorf("wrong password: %v, %v", ok, err)
			}
		})
	}
}

func TestMakeHash(t *testing.T) {
	t.Parallel()
	for _, scheme := range Schemes() {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			s, err := MakeHash(scheme, authn.Password("Grüße 1"))
			if err != nil {
				t.Fatal(err)
			}
			h, class, err := parseHash(s)
			if err != nil {
				t.Fatalf("%s: %v", s, err)
			}
			t.Log(s, class)
			if ok, err := h.MatchBytesAdvanced([]byte("Grüße 1")); !ok || err != nil {
				t.Errorf("right password: %v, %v", ok, err)
			}
		})
	}
}

// A hash that loads can be computed: nothing is left to fail at a login.
// checkStrength: the kind of every hash is known, and what is weaker than one
// scheme is weaker than every better one.
func checkStrength(t *testing.T, class string) {
	t.Helper()
	kind, _ := splitClass(class)
	if _, ok := strength[kind]; !ok {
		t.Errorf("nobody knows how strong %s is", class)
	}
	before := true
	for _, scheme := range Schemes() { // the best first
		if w := weaker(class, scheme); w && !before {
			t.Errorf("%s is weaker than %s and not than something better", class, scheme)
		} else {
			before = w
		}
	}
}

func FuzzHash(f *testing.F) {
	for _, s := range []string{
		hashP, hashSHA5, hashSHA6, hashYes, "{BLF-CRYPT}" + hashP, "$5$$l34PgPUzd3uV9PX3NO7KejKwL6ggMZl5Q46yWGMDoBD",
		"$scrypt$ln=1,r=1,p=1$YWJj$YWJjZGVmZ2hpamtsbW5vcA", "$scrypt$ln=0,r=0,p=0$YWJj$YWJjZGVmZ2hpamtsbW5vcA",
		"$argon2id$v=19$m=8,t=1,p=1$YWJjZGVmZ2g$YWJjZGVmZ2hpamtsbW5vcA", "$argon2i$v=19$m=0,t=0,p=9$YWJjZGVmZ2g$YWJjZGVmZ2hpamtsbW5vcA",
		"$pbkdf2-sha256$1$YWJj$YWJjZGVmZ2hpamtsbW5vcA", "$pbkdf2$0$YWJj$YWJjZGVmZ2hpamtsbW5vcA",
		"$2b$00$abcdefghijklmnopqrstuuqwWMzKt5N8p.u2GX5MuH1t19BMWuLOW", "{SSHA256}" + strings.Repeat("YWJj", 13),
	} {
		f.Add(s)
	}
	cheap := regexp.MustCompile(`^(\{[A-Z0-9-]+\})?\$(5|6)\$(rounds=[01]?[0-9]{1,3}\$|[^r])|\$2.\$0[0-5]|ln=[0-8],|m=[0-9]{1,4},t=.,|pbkdf2[^$]*\$[0-9]{1,4}\$|\$y\$j[./0-5][./0-9]|SSHA`)
	f.Fuzz(func(t *testing.T, s string) {
		h, class, err := parseHash(s)
		if err == nil {
			checkStrength(t, class)
		}
		if err != nil || !cheap.MatchString(s) {
			return
		}
		if _, err := h.MatchBytesAdvanced([]byte("password")); err != nil || class == "" {
			t.Errorf("%s of class %q loads but cannot be computed: %v", s, class, err)
		}
	})
}
