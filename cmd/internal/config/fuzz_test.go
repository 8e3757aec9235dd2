package config

import (
	"errors"
	"strings"
	"testing"
)

// Whatever the file holds: it is refused with problems that each name the
// file, or every name in it leads somewhere.
func FuzzParse(f *testing.F) {
	f.Add(good)
	f.Add("")
	f.Add("listeners: {a: &x [*x]}")
	f.Add("limits: {idle_timeout: 1e9h, failures: 99999999999999999999}")
	f.Add("policies: [{name: a, trusted: [10.0.0.0/8, ::/0], offers: PLAIN}]")
	f.Add(ruled)
	f.Add(withTickets.Replace(ruled))
	f.Add("? [listeners]\n: - name: !!binary aGk=\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse("fuzz.yaml", []byte(text))
		if err != nil {
			for line := range strings.Lines(err.Error()) {
				if strings.HasPrefix(line, "fuzz.yaml:") {
					return
				}
			}
			t.Fatalf("a refusal without the file's name: %v", err)
		}
		for _, l := range c.Listeners {
			if !named(c.Policies, l.Policy) {
				t.Errorf("listener %q has no policy", l.Name)
			}
		}
		for i := range c.Policies {
			for _, r := range append(c.Rules(i), c.Act(i)...) {
				if !strings.HasPrefix(r.Source, "fuzz.yaml:") || strings.HasSuffix(r.Source, ":0") {
					t.Errorf("a rule stands at %q", r.Source)
				}
			}
		}
		var p *Problem
		if again := c.validate(); again != nil || errors.As(again, &p) {
			t.Errorf("accepted, and then refused: %v", again)
		}
	})
}

func named(policies []Policy, name string) bool {
	for _, p := range policies {
		if p.Name == name {
			return true
		}
	}
	return false
}
