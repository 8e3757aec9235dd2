package authn_test

import (
	"context"
	"crypto/tls"
	"fmt"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/authntest"
	"github.com/kpopd/kpopd/authn/plain"
)

// A policy offers PLAIN over a chain, explains itself, and leads a login.
func ExamplePolicy() {
	users := &authntest.Fake{Step: "file.local", Passwords: map[string]string{"alice": "tanstaaf"}}
	policy := &authn.Policy{
		Name:   "internet",
		Offers: []authn.Mechanism{plain.PLAIN(authn.Chain{{Verifier: users}})},
		Trace: &authn.Trace{Attempt: func(_ context.Context, a *authn.Attempt) {
			fmt.Println("attempt:", a.Mechanism, a.Login, a.Err)
		}},
	}
	for _, t := range []*authn.Transport{{}, {TLS: &tls.ConnectionState{}}} {
		for _, v := range policy.Explain(t) {
			fmt.Println(v.Mechanism.Name(), v.Reason)
		}
		login, err := policy.Start(context.Background(), t, "PLAIN")
		if err != nil {
			continue
		}
		if _, done, err := login.Next(context.Background(), []byte("\x00alice\x00tanstaaf")); done && err == nil {
			fmt.Println(login.Identity().User, "by", login.Identity().Step)
		}
	}
	// Output:
	// PLAIN it shows a password in the clear, start TLS first
	// attempt: PLAIN  internet: denied: PLAIN: it shows a password in the clear, start TLS first
	// PLAIN <nil>
	// attempt: PLAIN alice <nil>
	// alice by file.local
}
