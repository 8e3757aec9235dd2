package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/cmd/internal/config"
	"github.com/kpopd/kpopd/maildrop"
	"github.com/kpopd/kpopd/maildrop/maildir"
	"github.com/kpopd/kpopd/maildrop/uidl"
)

// uniqueIDs gives messages of a Maildir the unique-ids that the configuration
// asks for; nil when those are the store's own.
func uniqueIDs(m config.Maildrops) (maildir.UIDs, error) {
	if m.UIDL == "" {
		return nil, nil
	}
	scheme, err := uidl.ByName(m.UIDL)
	if err != nil {
		return nil, err
	}
	policy := uidl.Suffix
	if m.UIDLDuplicates == "allow" {
		policy = uidl.Allow
	}
	return func(_ context.Context, dir int, bases []string, given map[string]string) ([]string, error) {
		rule, err := scheme.Rule(uidl.Source{
			Bases: bases,
			Open:  func(name string) (io.ReadCloser, error) { return openIn(dir, name) },
		})
		var broken *uidl.LineError
		if errors.As(err, &broken) {
			err = fmt.Errorf("%w: %w", maildrop.ErrPermanent, err) // it will not mend by itself
		}
		if err != nil {
			return nil, err
		}
		ids := make([]string, len(bases))
		for i, base := range bases {
			ids[i] = rule(uidl.Message{Base: base})
		}
		// what clients know comes first: a name must not take it from them
		a := uidl.NewAssigner(policy, among(given, append(ids, bases...)))
		for i, id := range ids {
			if uidl.Legal(id) { // of others the store makes its own, and says so
				ids[i] = a.Assign(id, bases[i])
			}
		}
		for i, base := range bases {
			if ids[i] == "" && uidl.Legal(base) {
				ids[i] = a.Assign(base, base)
			}
		}
		return ids, nil
	}, nil
}

// spoolIDs gives messages of an mbox the unique-ids that the configuration asks
// for; nil when those are the store's own.
func spoolIDs(m config.Maildrops) (func(first []byte) (func(head []byte) string, error), error) {
	if m.UIDL == "" {
		return nil, nil
	}
	scheme, err := uidl.ByName(m.UIDL)
	if err != nil {
		return nil, err
	}
	return func(first []byte) (func(head []byte) string, error) {
		rule, err := scheme.Rule(uidl.Source{First: first})
		if err != nil {
			return nil, err
		}
		return func(head []byte) string { return rule(uidl.Message{Head: head}) }, nil
	}, nil
}

// among is the ids that were given, or none when no new one is among them, as
// almost always: they may be 100,000, and the new ones one.
func among(given map[string]string, ids []string) []string {
	fresh := make(map[string]bool, len(ids))
	for _, id := range ids {
		fresh[id] = true
	}
	for _, id := range given {
		if fresh[id] {
			return slices.Collect(maps.Values(given))
		}
	}
	return nil
}

// openIn opens a file in a maildrop's directory: a file and nothing else, not
// through a link, and without waiting for a FIFO. name has no slash.
func openIn(dir int, name string) (io.ReadCloser, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%w: %s is no file", maildrop.ErrPermanent, name)
	}
	if err != nil {
		_ = f.Close() // nothing was written
		return nil, err
	}
	return f, nil
}
