package pop3

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/kpopd/kpopd/maildrop"
	"github.com/kpopd/kpopd/maildrop/memory"
)

// EXPIRE says the same before and after login: it has no USER, because no user
// has a retention of his own.
func TestRule087And090ExpireIsAnnouncedAsEnforced(t *testing.T) {
	t.Parallel()
	for _, expire := range []string{"", "0", "30", "NEVER"} {
		srv := &Server{Backend: newBackend(&memory.Store{}), Expire: expire}
		want := ""
		if expire != "" {
			want = "EXPIRE " + expire
		}
		if before, after := capability(t, srv, "alice", "EXPIRE"); before != want || after != want {
			t.Errorf("%q: before login %q, after it %q", expire, before, after)
		}
	}
}

// The store hears which messages the client was sent whole: by RETR, not by TOP.
func TestRule080TheStoreKnowsWhatWasRetrieved(t *testing.T) {
	t.Parallel()
	store := &noting{}
	store.Deliver("alice", "Subject: 1\r\n\r\na\r\n")
	store.Deliver("alice", "Subject: 2\r\n\r\nb\r\n")
	store.Deliver("alice", "Subject: 3\r\n\r\nc\r\n")
	p := talk(t, &Server{Backend: newBackend(store)})
	p.want("+OK")
	for _, command := range []string{"USER alice", "PASS " + word, "TOP 1 100", "RETR 3", "RETR 9", "RETR 2", "QUIT"} {
		p.say(command)
		first := p.line()
		if text := strings.HasPrefix(command, "TOP") || strings.HasPrefix(command, "RETR"); !text || !strings.HasPrefix(first, "+OK") {
			continue
		}
		for p.line() != "." {
		}
	}
	p.ended()
	if want := []int{2, 1}; !slices.Equal(store.retrieved, want) {
		t.Errorf("retrieved: %v, want %v", store.retrieved, want)
	}
}

// noting is a store that notes what its one session retrieves.
type noting struct {
	memory.Store
	retrieved []int
}

func (n *noting) Open(ctx context.Context, r maildrop.Ref) (maildrop.Drop, error) {
	d, err := n.Store.Open(ctx, r)
	return &notingDrop{d, n}, err
}

type notingDrop struct {
	maildrop.Drop
	store *noting
}

func (d *notingDrop) Retrieved(i int) { d.store.retrieved = append(d.store.retrieved, i) }
