package scram

import (
	"strings"
	"testing"

	"github.com/kpopd/kpopd/authn"
)

// A name that nobody has is shown one salt in all its spellings, as a name that
// somebody has would be: two of them would tell which names exist.
func TestRule176_OneSaltForAllSpellings(t *testing.T) {
	t.Parallel()
	p := &authn.Policy{
		Offers: []authn.Mechanism{mustNew(t, "SCRAM-SHA-256", options(secrets(t).Chain()))},
		Names:  &authn.Names{FoldCase: true, StripDomains: []string{"example.org"}},
	}
	for _, user := range []string{"alice", "nobody"} {
		salts := map[string]bool{}
		for _, spelling := range []string{user, strings.ToUpper(user), user + "@Example.org"} {
			l, err := p.Start(t.Context(), &authn.Transport{}, "SCRAM-SHA-256")
			if err != nil {
				t.Fatal(err)
			}
			challenge, _, err := l.Next(t.Context(), []byte("n,,n="+spelling+",r=abc"))
			if err != nil {
				t.Fatal(err)
			}
			_, offer, _ := strings.Cut(string(challenge), ",s=")
			salts[offer] = true
		}
		if len(salts) != 1 {
			t.Errorf("%s has %d salts: %v", user, len(salts), salts)
		}
	}
}
