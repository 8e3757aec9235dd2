package file

import (
	"maps"
	"slices"
)

// Logins are the names in the files, sorted, for whoever knows which names are
// ever asked for.
func (f *files) Logins() []string {
	all := map[string]bool{}
	if f.users != nil {
		for login := range f.users.byLogin {
			all[login] = true
		}
	}
	if f.secrets != nil {
		for k := range f.secrets.byKey {
			all[k.login] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}
