package krb5pw_test

import (
	"testing"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/krb5pw"
)

// BenchmarkVerifyPassword is a login against a KDC in the same process, whose
// work is in the figure too.
func BenchmarkVerifyPassword(b *testing.B) {
	v := verifier(b, krb5pw.Options{})
	r := &authn.PasswordRequest{Transport: &authn.Transport{}, Login: "alice", Password: authn.Password("pw-alice")}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.VerifyPassword(b.Context(), r); err != nil {
			b.Fatal(err)
		}
	}
}
