package authn

import (
	"context"
	"slices"
)

// account refuses an identity whose account is closed where a step of the chain
// has it, whatever the proof was. by is the step that vouched: when it knows
// accounts itself, its yes has told. A map of tickets or certificates, an issuer
// of tokens and a KDC know none, or none that the site closes here; so every step
// that does is asked, in whatever order they stand. One that could not be asked
// may be the one that has the account closed, so that is an outage.
//
// Groups that are found on the way are the identity's.
func (c Chain) account(ctx context.Context, by Verifier, id *Identity) error {
	var outages []error
	for _, s := range c.others(by) {
		f := s.Verifier.(UserFinder)
		found, err := s.ask(ctx, func(ctx context.Context) (*Identity, error) { return f.FindUser(ctx, id.User) })
		switch {
		case err == nil && id.Groups == nil:
			id.Groups = found.Groups
		case err == nil || KindOf(err) == UnknownUser || KindOf(err) == Decline:
		case KindOf(err) == Unavailable || KindOf(err) == Internal:
			if outages = append(outages, err); ctx.Err() != nil {
				return outageOr(outages, nil)
			}
		default:
			return err
		}
	}
	return outageOr(outages, nil)
}

// others are the steps that are asked about an account when by has vouched.
func (c Chain) others(by Verifier) Chain {
	_, knows := by.(UserFinder)
	if _, relays := by.(Relay); knows && !relays { // a relay has asked those behind it alone
		return nil
	}
	var all Chain
	for _, s := range c {
		if _, ok := s.Verifier.(UserFinder); ok && s.Name() != by.Name() {
			all = append(all, s)
		}
	}
	return all
}

// AccountSteps names the steps that are asked about an account when one of those
// named has vouched.
func (c Chain) AccountSteps(vouching ...string) []string {
	var names []string
	for _, by := range c {
		if !slices.Contains(vouching, by.Name()) {
			continue
		}
		for _, s := range c.others(by.Verifier) {
			if !slices.Contains(names, s.Name()) {
				names = append(names, s.Name())
			}
		}
	}
	return names
}
