package file

import (
	"context"

	"github.com/kpopd/kpopd/authn"
)

var (
	_ authn.UserFinder = passwords{}
	_ authn.UserFinder = both{}
)

// FindUser implements [authn.UserFinder].
func (p passwords) FindUser(_ context.Context, login string) (*authn.Identity, error) {
	return p.find(login)
}

// FindUser implements [authn.UserFinder].
func (b both) FindUser(_ context.Context, login string) (*authn.Identity, error) {
	return b.find(login)
}

func (f *files) find(login string) (*authn.Identity, error) {
	u, known := f.users.byLogin[login]
	if !known {
		return nil, f.fail(authn.UnknownUser, nil)
	}
	if closed := u.closed(); closed != nil {
		return nil, f.fail(closed.Kind, closed.Err)
	}
	return u.identity(login), nil
}
