package app

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kpopd/kpopd/cmd/internal/certs"
)

// A rule on certificates holds for those that an authority vouches for, not for
// what anybody can make, and what is explained is what a client meets.
func TestRuleOnCertificates(t *testing.T) {
	t.Parallel()
	c := newCards(t)
	ruled := strings.Replace(cardsConfiguration, "offers: [EXTERNAL, PLAIN]",
		"rules: [{certificate: valid, action: allow}, {mechanisms: [PLAIN], listeners: [start, implicit], action: deny}], offers: [EXTERNAL, PLAIN]", 1)
	if err := os.WriteFile(c.path, []byte(ruled), 0o600); err != nil {
		t.Fatal(err)
	}
	alice := certs.Person{CommonName: "A", UPN: "alice@corp.example"}
	revoked := c.issue(alice)
	c.revoke(time.Now().Add(time.Hour), revoked.Leaf)
	if err := c.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	stranger, err := certs.NewAuthority("staff")
	if err != nil {
		t.Fatal(err)
	}
	foreign := *c
	foreign.ca = stranger
	offered := func(capa []string) bool { return slices.Contains(capa, "PLAIN") }
	valid := c.issue(alice)
	for i := range 2 {
		if capa, err := c.dial(i, valid).Capa(t.Context()); err != nil || !offered(capa["SASL"]) {
			t.Errorf("listener %d: with a certificate: %v, %v", i, capa, err)
		}
		if capa, err := c.dial(i, nil).Capa(t.Context()); err != nil || offered(capa["SASL"]) {
			t.Errorf("listener %d: without one: %v, %v", i, capa, err)
		}
		if capa, err := c.dial(i, revoked).Capa(t.Context()); err != nil || offered(capa["SASL"]) {
			t.Errorf("listener %d: with a revoked one: %v, %v", i, capa, err)
		}
		if capa, err := c.dial(i, foreign.issue(alice)).Capa(t.Context()); err != nil || offered(capa["SASL"]) {
			t.Errorf("listener %d: with a stranger's: %v, %v", i, capa, err)
		}
	}
	r, err := Check(c.path)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ certificate, plain string }{
		{"valid", "PLAIN\n  offered: " + c.path + ":8 allows\n"},
		{"none", "PLAIN\n  not offered: " + c.path + ":8 denies\n"},
		{"", "PLAIN\n  not offered: " + c.path + ":8 denies\n"},
	} {
		var out strings.Builder
		q := Question{Listener: "implicit", Address: "192.0.2.7", Certificate: tt.certificate, Time: time.Now()}
		if err := r.Answer(t.Context(), &out, q); err != nil {
			t.Fatal(err)
		}
		capa := strings.Contains(out.String(), "  SASL EXTERNAL PLAIN\n")
		if capa != (tt.certificate == "valid") || !strings.Contains(out.String(), tt.plain) {
			t.Errorf("certificate %q explained as\n%s", tt.certificate, out.String())
		}
	}
}
