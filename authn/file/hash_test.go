package file

import (
	"testing"

	"github.com/kpopd/kpopd/authn"
)

func TestHashes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, hash, password string }{
		{"yescrypt of mkpasswd", "$y$j9T$63f5pDbVLMufkVLezmUIw/$iMwbWhVuhsaADZPStfYJZu6FEd9U8CvRB.bVY/XueNB", "pw"},
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
