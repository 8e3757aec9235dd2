package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"github.com/kpopd/kpopd/cmd/internal/config"
	"github.com/kpopd/kpopd/maildrop"
	"github.com/kpopd/kpopd/maildrop/maildir"
)

// expireScan is how long a run of kpopd expire waits for a maildrop that nobody
// has read before. Nobody waits for the run.
const expireScan = 24 * time.Hour

// Expiry is what a run of [Expire] did.
type Expiry struct {
	Maildrops int // that were looked at
	InUse     int // left alone
	Failed    int // could not be looked at
	Messages  int // removed, or to be removed
	Octets    int64
}

// Expire removes from all maildrops below the root what is kept no longer, and
// from their trash. The log has a line for each message.
func Expire(ctx context.Context, file string, dry bool, log io.Writer) (e Expiry, err error) {
	cfg, err := loadServer(file)
	if err != nil {
		return e, err
	}
	l := newLog(cfg.Log, slog.LevelInfo, log) // a line for each message, whatever the server's log leaves out
	store, err := openOffline(cfg, l)
	if err != nil {
		return e, err
	}
	defer store.Close()
	trash := time.Duration(cfg.Maildrops.TrashDays) * maildir.Day
	message := "message expired"
	if dry {
		message = "message would expire"
	}
	err = store.Walk(ctx, func(path string, err error) error {
		if err == nil {
			err = store.Expire(ctx, path, trash, dry, func(m maildir.Expired) {
				e.Messages++
				e.Octets += m.Octets
				l.Info(message, "maildrop", bounded(path, maxName), "uid", m.UID, "octets", m.Octets, "days", int(m.Age/maildir.Day), "after", m.After)
			})
		}
		switch {
		case err == nil:
			e.Maildrops++
		case errors.Is(err, maildrop.ErrInUse):
			e.InUse++
			l.Info("maildrop in use, left alone", "maildrop", bounded(path, maxName))
		default:
			e.Failed++
			l.Error("maildrop not looked at", "maildrop", bounded(path, maxName), "err", bounded(err.Error(), maxError))
		}
		return ctx.Err()
	})
	return e, err
}

// openOffline opens the store beside a server.
func openOffline(cfg *config.Config, log *slog.Logger) (*maildir.Store, error) {
	m := cfg.Maildrops
	m.Create, m.ScanWait = false, expireScan
	if m.Type == config.StoreMbox {
		return nil, cfg.Problem("maildrops.type", fmt.Errorf("messages expire, and have a trash, in type: %s alone", config.StoreMaildir))
	}
	store, key, err := newStore(m, log)
	if err != nil {
		return nil, cfg.Problem(key, err)
	}
	return store.(*maildir.Store), nil
}

// Restorer gives back deleted messages of one maildrop.
type Restorer struct {
	store *maildir.Store
	ref   maildrop.Ref
}

// NewRestorer opens the maildrop of user, or the one at path below the root
// unless that is empty.
func NewRestorer(file, user, path string) (*Restorer, error) {
	cfg, err := loadServer(file)
	if err != nil {
		return nil, err
	}
	store, err := openOffline(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	return &Restorer{store, maildrop.Ref{User: user, Path: path}}, nil
}

// List is what is in the trash.
func (r *Restorer) List(ctx context.Context) ([]maildir.Trashed, error) {
	return r.store.Trash(ctx, r.ref)
}

// Restore gives back the messages with the unique-ids, all when there are none,
// and returns which.
func (r *Restorer) Restore(ctx context.Context, uids []string) (back []maildir.Trashed, err error) {
	all, err := r.List(ctx)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, uid := range uids {
		if !slices.ContainsFunc(all, func(m maildir.Trashed) bool { return m.UID == uid }) {
			errs = append(errs, fmt.Errorf("no message %q is in the trash", uid))
		}
	}
	slices.Reverse(all) // of several with one unique-id, that which was deleted last
	for _, m := range all {
		if len(uids) > 0 && !slices.Contains(uids, m.UID) || slices.ContainsFunc(back, func(b maildir.Trashed) bool { return b.UID == m.UID }) {
			continue
		}
		if err := r.store.Restore(ctx, r.ref, m); err != nil {
			errs = append(errs, err)
			continue
		}
		back = append(back, m)
	}
	slices.Reverse(back)
	return back, errors.Join(errs...)
}

// Close ends it.
func (r *Restorer) Close() error { return r.store.Close() }
