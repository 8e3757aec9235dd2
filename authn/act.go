package authn

import (
	"cmp"
	"context"
	"errors"
	"fmt"
)

// UserFinder is a [Verifier] that knows accounts, and tells of a user who proves
// nothing to it: whom somebody else acts for, or whom another step vouched for. Kinds of errors are
// those of a login: UnknownUser, Denied and Expired for who may not log in
// himself, Unavailable.
type UserFinder interface {
	Verifier
	FindUser(ctx context.Context, login string) (*Identity, error)
}

// FindUser asks every step that can find users.
func (c Chain) FindUser(ctx context.Context, login string) (*Identity, error) {
	login, err := canonical(ctx, login)
	if err != nil {
		return nil, err
	}
	id, _, err := walk(ctx, c, func(ctx context.Context, v UserFinder) (*Identity, error) {
		return v.FindUser(ctx, login)
	})
	return id, err
}

var errNobodyElse = errors.New("may act for nobody else")

// actFor makes the identity of a client that proved to be id the one of id.For,
// if the policy says that it may: the one place that does.
func (l *Login) actFor(ctx context.Context, id *Identity) (*Identity, error) {
	l.facts.As = id.For
	l.act = grant(l.policy.Act, &l.facts)
	if l.act == nil || l.act.Action == Deny {
		l.reason = errNobodyElse
		return nil, l.notFor(id)
	}
	whom := &Identity{User: id.For}
	if Can[UserFinder](l.policy.Users) {
		found, err := l.policy.Users.FindUser(l.within(ctx), id.For)
		if err != nil {
			return nil, fmt.Errorf("find %s, whom %s acts for: %w", id.For, id.User, err)
		}
		whom.Attrs, whom.Groups = found.Attrs, found.Groups
	}
	whom.Authn, whom.Step, whom.Expires, whom.Note = cmp.Or(id.Authn, id.User), id.Step, id.Expires, id.Note
	return whom, nil
}

// MayAct is the rule that decides whether a login may act for f.As, nil when
// none does: then it may not. open says that it depends on what is not known.
func (p *Policy) MayAct(f Facts) (r *Rule, open bool) {
	if len(openRules(p.Act, &f)) > 0 {
		return nil, true
	}
	return grant(p.Act, &f), false
}

// grant is the rule that decides whether somebody may act for another, nil when
// there is none: then he may not.
func grant(rules []*Rule, f *Facts) *Rule {
	for _, r := range rules {
		if r.match(f) == certainly {
			return r
		}
	}
	return nil
}

// notFor is the refusal to let id act for another: the rule's own, the one of
// the verifier that was asked first, or one that tells nothing.
func (l *Login) notFor(id *Identity) error {
	err := &Error{Kind: Denied, Step: l.mech, Err: fmt.Errorf("%s for %s: %w", cmp.Or(id.Authn, id.User), id.For, errNobodyElse)}
	switch {
	case l.act != nil:
		err.Step, err.Text = l.policy.Name, l.act.Text
		err.Err = fmt.Errorf("%w: rule %s", err.Err, l.act.Source)
	case id.refusal != nil:
		return id.refusal
	}
	return err
}

// asAnother is for a mapper's refusal to let a principal have the login that he
// asks for: who is he by himself? A policy may let him act for authzid then.
func (c Chain) asAnother(ctx context.Context, p *Principal, authzid string, refusal error) (*Identity, error) {
	whom, err := CanonicalLogin(ctx, authzid)
	if err != nil {
		return nil, refusal
	}
	id, err := c.MapOwn(ctx, p, "")
	switch {
	case err == nil:
		id.For, id.refusal = whom, refusal
		return id, nil
	case KindOf(err) == Unavailable || KindOf(err) == Internal:
		return nil, err
	}
	return nil, refusal
}
