package app

import (
	"context"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/file"
	"github.com/kpopd/kpopd/authn/scram"
	"github.com/kpopd/kpopd/cmd/internal/config"
)

// filesInterval is how often changed users and digests files are looked for.
const filesInterval = 10 * time.Second

// watched is a verifier of files that is opened anew when they changed. A
// file that cannot be read then leaves the old content in force.
type watched struct {
	name    string
	paths   []string
	open    func() (file.Verifier, error)
	changed func() // is told of new content

	current atomic.Pointer[file.Verifier]
	seen    []os.FileInfo // of the files as they were opened last, well or not
	broken  bool          // a lasting fault is told once
}

// watch opens the verifier that v says. Of the same files it is always of the
// same sort.
func watch(v config.Verifier, open func() (file.Verifier, error)) (*watched, error) {
	f := &watched{name: v.Name, open: open, changed: func() {}}
	for _, path := range []string{v.Users, v.Digests, v.DigestsKey} {
		if path != "" {
			f.paths = append(f.paths, path)
		}
	}
	f.seen, _ = f.stat() // what is not there cannot be opened
	built, err := open()
	if err != nil {
		return nil, err
	}
	f.current.Store(&built)
	return f, nil
}

// verifier is one that can judge what the files let it.
func (f *watched) verifier() authn.Verifier {
	_, hasHashes := (*f.current.Load()).(authn.PasswordVerifier)
	_, hasSecrets := (*f.current.Load()).(authn.SecretSource)
	switch {
	case hasHashes && hasSecrets:
		return struct {
			filePasswords
			fileSecrets
			*watched
		}{filePasswords{f}, fileSecrets{f}, f}
	case hasHashes:
		return struct {
			filePasswords
			*watched
		}{filePasswords{f}, f}
	default:
		return struct {
			fileSecrets
			*watched
		}{fileSecrets{f}, f}
	}
}

// Name implements [authn.Verifier].
func (f *watched) Name() string { return f.name }

// Warnings, Has and Close are those of the verifier that is current.
func (f *watched) Warnings() []error { return (*f.current.Load()).Warnings() }

// Has implements [file.Verifier].
func (f *watched) Has(scheme string) bool { return (*f.current.Load()).Has(scheme) }

// Close implements [file.Verifier].
func (f *watched) Close() error { return (*f.current.Load()).Close() }

// filePasswords and fileSecrets ask what is current.
type (
	filePasswords struct{ f *watched }
	fileSecrets   struct{ f *watched }
)

func (p filePasswords) VerifyPassword(ctx context.Context, r *authn.PasswordRequest) (*authn.Identity, error) {
	return (*p.f.current.Load()).(authn.PasswordVerifier).VerifyPassword(ctx, r)
}

func (p filePasswords) FindUser(ctx context.Context, login string) (*authn.Identity, error) {
	return (*p.f.current.Load()).(authn.UserFinder).FindUser(ctx, login)
}

func (s fileSecrets) Secret(ctx context.Context, login, scheme string) (authn.Password, *authn.Identity, error) {
	return (*s.f.current.Load()).(authn.SecretSource).Secret(ctx, login, scheme)
}

// KeyShape implements [scram.Surveyor].
func (s fileSecrets) KeyShape(scheme string) (scram.Shape, bool) {
	v, ok := (*s.f.current.Load()).(scram.Surveyor)
	if !ok {
		return scram.Shape{}, false
	}
	return v.KeyShape(scheme)
}

// stat is not ok when a file is not there: it is being replaced.
func (f *watched) stat() (infos []os.FileInfo, ok bool) {
	for _, path := range f.paths {
		st, err := os.Stat(path)
		if err != nil {
			return nil, false
		}
		infos = append(infos, st)
	}
	return infos, true
}

// look opens the files again when they are not those of the last time.
func (f *watched) look(log *slog.Logger) {
	now, ok := f.stat()
	if !ok || same(f.seen, now) {
		return
	}
	f.seen = now
	built, err := f.open()
	switch {
	case err == nil:
		old := f.current.Swap(&built)
		f.changed()
		log.Info("users reloaded", "verifier", f.name)
		if err := (*old).Close(); err != nil {
			log.Warn("old users not closed", "verifier", f.name, "err", err)
		}
	case !f.broken:
		log.Error("users not reloaded, the old ones stay", "verifier", f.name, "err", err)
	}
	f.broken = err != nil
}

func same(a, b []os.FileInfo) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !os.SameFile(a[i], b[i]) || !a[i].ModTime().Equal(b[i].ModTime()) || a[i].Size() != b[i].Size() {
			return false
		}
	}
	return true
}

// watchFiles looks for changes until ctx ends.
func (a *assembly) watchFiles(ctx context.Context) {
	tick := time.NewTicker(filesInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, f := range a.watched {
			f.look(a.log)
		}
	}
}
