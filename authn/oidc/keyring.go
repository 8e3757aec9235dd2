package oidc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/sitefile"
)

// Ages of a key set.
const (
	askAgain  = 10 * time.Second // the least between two questions
	renewURL  = time.Hour        // after which a set from a URL is asked for again
	renewFile = time.Minute      // and one from a file
	tooOld    = 24 * time.Hour   // after which a set that could not be renewed is used no more
)

// keyring is the key set of an issuer, asked for when it is needed.
type keyring struct {
	source  string // path or URL
	load    func(context.Context) ([]byte, error)
	renew   time.Duration
	timeout time.Duration
	cache   string // path, "" for a set in a file
	log     *slog.Logger

	mu    sync.Mutex // guards what follows
	keys  []key
	since time.Time     // when the keys were asked for
	tried time.Time     // when they were last asked for, well or not
	err   error         // of that
	asks  chan struct{} // closed when the question under way is answered; nil when there is none
}

var errNoKey = errors.New("the issuer has no such key")

func newKeyring(name string, o Options, web *web) (*keyring, error) {
	r := &keyring{source: o.Keys, timeout: o.Timeout, log: o.Log.With("verifier", name, "source", o.Keys)}
	if !IsURL(o.Keys) {
		r.renew = renewFile
		r.load = func(context.Context) ([]byte, error) { return sitefile.Read(o.Keys, maxKeySet, sitefile.WorldWritable) }
		r.ask()
		return r, r.err
	}
	r.renew, r.cache = renewURL, o.Cache
	r.load = func(ctx context.Context) ([]byte, error) { return web.get(ctx, o.Keys, maxKeySet) }
	if _, err := os.Stat(filepath.Dir(o.Cache)); err != nil {
		return nil, fmt.Errorf("cache of the key set: %w", err)
	}
	r.recall()
	return r, nil
}

// find returns the public keys that may have signed a token with this key id and
// algorithm. The error is errNoKey when the issuer has none, anything else is that
// we could not find out.
func (r *keyring) find(ctx context.Context, id, alg string) ([]any, error) {
	keys, asks, err := r.look(id, alg)
	if asks == nil {
		return keys, err
	}
	select {
	case <-asks:
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the keys of the issuer: %w", context.Cause(ctx))
	}
	if keys, asks, err = r.look(id, alg); asks != nil {
		return nil, errors.New("the issuer is being asked for keys again")
	}
	return keys, err
}

// look is find without waiting. It returns one of three: keys, what is closed when
// the question under way is answered, or why there are no keys.
func (r *keyring) look(id, alg string) (keys []any, asks <-chan struct{}, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	age := time.Since(r.since)
	if age < tooOld {
		keys = fit(r.keys, id, alg)
	}
	if (len(keys) == 0 || age > r.renew) && r.asks == nil && time.Since(r.tried) > askAgain {
		r.asks = make(chan struct{})
		go r.ask() // ended by r.timeout
	}
	switch {
	case len(keys) > 0:
		return keys, nil, nil
	case r.asks != nil:
		return nil, r.asks, nil
	case r.err != nil:
		return nil, nil, r.err
	}
	return nil, nil, errNoKey
}

// ask asks for the key set once. A set that cannot be had leaves the old one.
func (r *keyring) ask() {
	start := time.Now()
	b, keys, err := r.question()
	if err == nil {
		r.remember(b, start)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err != nil:
		r.log.Warn("key set not renewed, old keys stay", "err", err, "keys", len(r.keys))
	default:
		r.keys, r.since = keys, start
		r.log.Info("key set renewed", "keys", len(keys))
	}
	r.err, r.tried = err, time.Now()
	if r.asks != nil {
		close(r.asks)
		r.asks = nil
	}
}

// question is the set as it came, and its keys. A panic of the parser must not end
// the server: the goroutine is nobody's.
func (r *keyring) question() (b []byte, keys []key, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &authn.PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), r.timeout)
	defer cancel()
	if b, err = r.load(ctx); err == nil {
		keys, err = parseKeys(b)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("key set %s: %w", r.source, err)
	}
	return b, keys, nil
}

// kept is the content of the cache.
type kept struct {
	Source string          `json:"source"` // URL: another issuer's keys are not ours
	Since  time.Time       `json:"since"`
	Set    json.RawMessage `json:"set"`
}

// recall takes the keys of the cache. One that is damaged is as good as none.
func (r *keyring) recall() {
	b, err := sitefile.Read(r.cache, 2*maxKeySet, sitefile.OthersWritable)
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	var k kept
	var keys []key
	if err == nil {
		err = json.Unmarshal(b, &k)
	}
	if err == nil {
		keys, err = parseKeys(k.Set)
	}
	switch {
	case err != nil:
		r.log.Warn("cache of the key set not used", "cache", r.cache, "err", err)
	case k.Source == r.source && !k.Since.After(time.Now()):
		r.keys, r.since = keys, k.Since
	}
}

// remember writes the cache, whole or not at all. Without it the server works on.
func (r *keyring) remember(set []byte, since time.Time) {
	if r.cache == "" {
		return
	}
	b, err := json.Marshal(kept{r.source, since, set})
	if err == nil {
		err = replaceFile(r.cache, b)
	}
	if err != nil {
		r.log.Error("cache of the key set not written", "cache", r.cache, "err", err)
	}
}

// replaceFile gives a file new content that survives a power cut, or leaves the
// old one.
func replaceFile(path string, content []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
