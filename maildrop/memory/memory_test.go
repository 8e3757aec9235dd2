package memory_test

import (
	"testing"

	"github.com/kpopd/kpopd/maildrop/droptest"
	"github.com/kpopd/kpopd/maildrop/memory"
)

func TestStore(t *testing.T) {
	t.Parallel()
	droptest.RunStore(t, harness)
}

func TestCrowd(t *testing.T) {
	t.Parallel()
	droptest.Crowd(t, harness)
}

func harness(t *testing.T) *droptest.Harness {
	s := new(memory.Store)
	return &droptest.Harness{
		Store:   s,
		Deliver: func(user, stored string) { s.Deliver(user, stored) },
		Remove: func(user, uid string) {
			if !s.Remove(user, uid) {
				t.Errorf("no message %q to remove", uid)
			}
		},
	}
}
