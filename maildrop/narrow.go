package maildrop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Dated is a [Listing] that knows when messages came.
type Dated interface {
	Listing
	// Arrived is when the message of index i was delivered, as exactly as the
	// store knows. It does not change.
	Arrived(i int) time.Time
}

// Narrow is d without the messages that r does not want to see: what a store
// returns from Open. It is d itself when r wants all. With an error d is closed.
//
// To find recipients it reads the header of each message: a maildrop of many
// users is opened in a time that grows with it.
func Narrow(ctx context.Context, d Drop, r Ref) (Drop, error) {
	if r.Since.IsZero() && len(r.To) == 0 {
		return d, nil
	}
	n := &narrowed{Drop: d}
	err := n.choose(ctx, r)
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return n, nil
}

// narrowed is a Drop some of whose messages are not seen.
type narrowed struct {
	Drop
	all    Listing
	seen   []int // indexes in all, ascending
	octets int64
}

func (n *narrowed) choose(ctx context.Context, r Ref) (err error) {
	if n.all, err = n.Drop.Listing(ctx); err != nil {
		return err
	}
	dated, ok := n.all.(Dated)
	if !ok && !r.Since.IsZero() {
		return fmt.Errorf("%w: when messages arrived is not known", ErrPermanent)
	}
	for i := range n.all.Len() {
		if !r.Since.IsZero() && dated.Arrived(i).Before(r.Since) {
			continue
		}
		if len(r.To) > 0 {
			to, err := n.isFor(ctx, i, r.To)
			if err != nil {
				return fmt.Errorf("read envelope of %s: %w", n.all.At(i).UID, err)
			}
			if !to {
				continue
			}
		}
		n.seen = append(n.seen, i)
		n.octets += n.all.At(i).Size
	}
	return nil
}

// isFor reports whether message i is for one of to. One that is gone is for
// nobody.
func (n *narrowed) isFor(ctx context.Context, i int, to []string) (bool, error) {
	e, err := EnvelopeOf(ctx, n.Drop, i)
	if errors.Is(err, ErrGone) {
		return false, nil
	}
	return slices.ContainsFunc(to, func(a string) bool { return strings.EqualFold(a, e.To) }), err
}

func (n *narrowed) Totals() (messages int, octets int64) { return len(n.seen), n.octets }

func (n *narrowed) Listing(context.Context) (Listing, error) { return n, nil }

func (n *narrowed) Len() int { return len(n.seen) }

func (n *narrowed) At(i int) Message { return n.all.At(n.seen[i]) }

func (n *narrowed) Content(ctx context.Context, i int) (io.ReadCloser, error) {
	return n.Drop.Content(ctx, n.seen[i])
}

// Retrieved implements [Retriever].
func (n *narrowed) Retrieved(i int) {
	if r, ok := n.Drop.(Retriever); ok {
		r.Retrieved(n.seen[i])
	}
}

func (n *narrowed) Commit(ctx context.Context, del []int) error {
	in := make([]int, len(del))
	for k, i := range del {
		in[k] = n.seen[i]
	}
	err := n.Drop.Commit(ctx, in)
	var ce *CommitError
	if errors.As(err, &ce) {
		left := make([]int, 0, len(ce.Left))
		for _, i := range ce.Left {
			if k, ok := slices.BinarySearch(n.seen, i); ok {
				left = append(left, k)
			}
		}
		return &CommitError{Left: left, Err: ce.Err}
	}
	return err
}
