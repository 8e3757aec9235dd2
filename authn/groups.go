package authn

import (
	"context"
	"fmt"
)

// findGroups learns the groups of a login whose step knows none, such as a
// mapper of principals, when rules look at groups: a rule that denies a group
// is not to be passed by with a ticket. Who is locked where he is found is
// refused; who is found nowhere is in no group. What the shadow alone wants to
// know keeps nobody out.
func (l *Login) findGroups(ctx context.Context, id *Identity) error {
	p := l.policy
	wanted := lookAtGroups(p.Rules) || id.For != "" && lookAtGroups(p.Act)
	shadow := p.Shadow != nil && lookAtGroups(p.Shadow.Rules)
	if !wanted && !shadow || id.Groups != nil || !Can[UserFinder](p.Users) || p.Users.finds(id.Step) {
		return nil
	}
	found, err := p.Users.FindUser(l.within(ctx), id.User)
	switch {
	case err == nil:
		id.Groups = found.Groups
	case KindOf(err) == UnknownUser:
	case wanted:
		return fmt.Errorf("find the groups of %s: %w", id.User, err)
	default:
		l.facts.Open = GroupsFact
	}
	return nil
}

func lookAtGroups(rules []*Rule) bool {
	for _, r := range rules {
		if len(r.Groups) > 0 {
			return true
		}
	}
	return false
}

// finds reports whether a step is a UserFinder, so that it has told what it
// knows with its answer.
func (c Chain) finds(step string) bool {
	for _, s := range c {
		if s.Name() == step {
			_, ok := s.Verifier.(UserFinder)
			return ok
		}
	}
	return false
}
