package oidc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/oidc/oidctest"
)

// ring is a keyring in a bubble of synctest, with what the issuer answers.
type ring struct {
	*keyring
	asked atomic.Int64
	mu    sync.Mutex
	keys  []*oidctest.Key
	err   error
	takes time.Duration
}

func newRing(keys ...*oidctest.Key) *ring {
	r := &ring{keys: keys}
	r.keyring = &keyring{source: "test", renew: renewURL, timeout: DefaultTimeout, log: slog.New(slog.DiscardHandler)}
	r.load = func(ctx context.Context) ([]byte, error) {
		r.asked.Add(1)
		r.mu.Lock()
		set, err, takes := oidctest.Set(r.keys...), r.err, r.takes
		r.mu.Unlock()
		select {
		case <-time.After(takes):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		return set, err
	}
	return r
}

func (r *ring) set(err error, keys ...*oidctest.Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keys, r.err = keys, err
}

// has wants k to be found, or not to be there, or not to be known of.
func (r *ring) has(t *testing.T, k *oidctest.Key, want error) {
	t.Helper()
	keys, err := r.find(t.Context(), k.ID, k.Alg)
	switch {
	case want == nil && (err != nil || len(keys) != 1):
		t.Errorf("%s: %d keys, %v", k.ID, len(keys), err)
	case want != nil && (!errors.Is(err, want) || keys != nil):
		t.Errorf("%s: %d keys, %v, want %v", k.ID, len(keys), err, want)
	}
}

func (r *ring) wasAsked(t *testing.T, want int64) {
	t.Helper()
	synctest.Wait()
	if got := r.asked.Load(); got != want {
		t.Errorf("asked %d times, want %d", got, want)
	}
}

var errDown = errors.New("connection refused")

func wait(d time.Duration) { <-time.After(d) }

func TestRule164Rotation(t *testing.T) {
	t.Parallel()
	a, b, c := oidctest.NewKey("a", "EdDSA"), oidctest.NewKey("b", "EdDSA"), oidctest.NewKey("c", "ES256")
	synctest.Test(t, func(t *testing.T) {
		r := newRing(a)
		r.has(t, a, nil)
		r.has(t, a, nil)
		r.wasAsked(t, 1)

		r.has(t, b, errNoKey) // and nobody is asked so soon
		r.wasAsked(t, 1)
		r.set(nil, a, b)
		wait(askAgain + time.Second)
		r.has(t, b, nil)
		r.wasAsked(t, 2)

		for range 1000 { // a client that makes up names of keys
			r.has(t, c, errNoKey)
		}
		r.wasAsked(t, 2)

		r.set(nil, b) // a is withdrawn
		wait(renewURL + time.Second)
		r.has(t, a, nil) // nobody waits for the new set
		r.wasAsked(t, 3)
		r.has(t, a, errNoKey)
		r.has(t, b, nil)
		r.wasAsked(t, 3)
	})
}

func TestRule147KeysCannotBeHad(t *testing.T) {
	t.Parallel()
	a, b := oidctest.NewKey("a", "EdDSA"), oidctest.NewKey("b", "EdDSA")
	synctest.Test(t, func(t *testing.T) {
		r := newRing()
		r.set(errDown)
		r.has(t, a, errDown)
		r.has(t, a, errDown) // told at once, and nobody is asked so soon
		r.wasAsked(t, 1)
		r.set(nil, a)
		wait(askAgain + time.Second)
		r.has(t, a, nil)

		r.set(errDown)
		wait(renewURL + time.Second)
		r.has(t, a, nil)     // the old set is good
		r.has(t, b, errDown) // what is not in it may be in a new one
		wait(askAgain + time.Second)
		r.has(t, b, errDown)
		wait(tooOld)
		r.has(t, a, errDown) // it may be withdrawn for long

		r.set(nil, a)
		wait(askAgain + time.Second)
		r.has(t, a, nil)
	})
}

func TestOneQuestionForAll(t *testing.T) {
	t.Parallel()
	a := oidctest.NewKey("a", "EdDSA")
	synctest.Test(t, func(t *testing.T) {
		r := newRing(a)
		r.takes = time.Second
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() { r.has(t, a, nil) })
		}
		wg.Wait()
		r.wasAsked(t, 1)
	})
}

func TestDeadlines(t *testing.T) {
	t.Parallel()
	a := oidctest.NewKey("a", "EdDSA")
	synctest.Test(t, func(t *testing.T) {
		r := newRing(a)
		r.takes = time.Hour
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := r.find(ctx, "a", "EdDSA"); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		r.has(t, a, context.DeadlineExceeded)
		if took := time.Since(start); took != DefaultTimeout {
			t.Errorf("the question ended after %v", took)
		}
	})
}

func TestPanicOfTheParserIsAnOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRing()
		r.load = func(context.Context) ([]byte, error) { panic("boom") }
		_, err := r.find(t.Context(), "a", "EdDSA")
		var p *authn.PanicError
		if !errors.As(err, &p) || errors.Is(err, errNoKey) {
			t.Errorf("got %v", err)
		}
	})
}

// A file is read again when a token names a key that was not in it.
func TestRotationOfFile(t *testing.T) {
	t.Parallel()
	a, b := keyOf()["EdDSA"], keyOf()["ES256"]
	path := write(t, "keys", oidctest.Set(a))
	synctest.Test(t, func(t *testing.T) {
		r, err := newKeyring("v", Options{Keys: path, Log: slog.New(slog.DiscardHandler), Timeout: time.Second}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, oidctest.Set(b), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := r.find(t.Context(), b.ID, b.Alg); !errors.Is(err, errNoKey) {
			t.Errorf("so soon: %v", err)
		}
		wait(askAgain + time.Second)
		if _, err := r.find(t.Context(), b.ID, b.Alg); err != nil {
			t.Error(err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		wait(renewFile)
		if _, err := r.find(t.Context(), b.ID, b.Alg); err != nil {
			t.Errorf("the file is gone: %v", err)
		}
	})
}

// A server that starts when its issuer is down has the keys of its last life.
func TestRule164CacheOutlivesRestart(t *testing.T) {
	t.Parallel()
	i := oidctest.Start(t, allKeys()...)
	o := atURL(t, i)
	token := keyOf()["RS256"].Sign(oidctest.Claims(issuer, nil))
	if _, err := verify(t.Context(), open(t, o), "alice", token); err != nil {
		t.Fatal(err)
	}
	i.Fail(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	before := i.Asked(oidctest.KeysPath)
	if _, err := verify(t.Context(), open(t, o), "alice", token); err != nil {
		t.Error(err)
	}
	if n := i.Asked(oidctest.KeysPath); n != before {
		t.Errorf("asked %d times more", n-before)
	}
	st, err := os.Stat(o.Cache)
	if err != nil || st.Mode() != 0o600 {
		t.Error(st.Mode(), err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(o.Cache), ".*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}

	// of another URL they are nobody's keys here
	other := o
	other.Keys += "?other"
	id, err := verify(t.Context(), open(t, other), "alice", token)
	wantKind(t, id, err, authn.Unavailable)
}

func TestCachesThatAreNotUsed(t *testing.T) {
	t.Parallel()
	set := oidctest.Set(allKeys()...)
	for _, tt := range []struct {
		name  string
		since time.Time
		set   string
		mode  os.FileMode
		used  bool
	}{
		{"good", time.Now().Add(-time.Hour), string(set), 0o600, true},
		{"too old", time.Now().Add(-tooOld - time.Hour), string(set), 0o600, false},
		{"from the future", time.Now().Add(time.Hour), string(set), 0o600, false},
		{"for everybody to write", time.Now(), string(set), 0o666, false},
		{"without keys", time.Now(), `{"keys":[]}`, 0o600, false},
		{"damaged", time.Now(), "", 0o600, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			i := oidctest.Start(t)
			i.Fail(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
			o := atURL(t, i)
			b, err := json.Marshal(kept{o.Keys, tt.since, json.RawMessage(tt.set)})
			if tt.set == "" {
				b, err = []byte(`{"source":`), nil
			}
			if err := errors.Join(err, os.WriteFile(o.Cache, b, 0o600), os.Chmod(o.Cache, tt.mode)); err != nil {
				t.Fatal(err)
			}
			id, err := verify(t.Context(), open(t, o), "alice", keyOf()["EdDSA"].Sign(oidctest.Claims(issuer, nil)))
			if tt.used {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantKind(t, id, err, authn.Unavailable)
		})
	}
}

// faults are what an issuer may do instead of answering. None of them makes a
// token wrong.
var faults = map[string]http.HandlerFunc{
	"status 500": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
	"status 401": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) },
	"status 404": http.NotFound,
	"status 204": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) },
	"nothing":    func(http.ResponseWriter, *http.Request) {},
	"HTML":       func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>log in</html>")) },
	"null":       func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("null")) },
	"an object": func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"Active":true,"active":"true"}`))
	},
	"too much": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(bytes.Repeat([]byte{' '}, maxKeySet+1)) },
	"hangs up": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	"half an answer": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = w.Write([]byte(`{"active":true`))
	},
}

func TestRule147FaultsOfTheIssuer(t *testing.T) {
	t.Parallel()
	token := keyOf()["EdDSA"].Sign(oidctest.Claims(issuer, nil))
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i := oidctest.Start(t, allKeys()...)
			i.Know(token, oidctest.Claims(issuer, nil))
			for _, o := range []Options{atURL(t, i), asking(t, i)} {
				i.Fail(fault)
				v := open(t, o)
				id, err := verify(t.Context(), v, "alice", token)
				wantKind(t, id, err, authn.Unavailable)
				i.Fail(nil)
				if o.Introspection == "" {
					continue // does not ask again so soon
				}
				if _, err := verify(t.Context(), v, "alice", token); err != nil {
					t.Errorf("when it is over: %v", err)
				}
			}
		})
	}
}

// No redirect is followed: neither keys nor questions go where nobody said.
func TestRedirects(t *testing.T) {
	t.Parallel()
	i := oidctest.Start(t, allKeys()...)
	token := keyOf()["EdDSA"].Sign(oidctest.Claims(issuer, nil))
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("followed") }))
	defer elsewhere.Close()
	for _, status := range []int{301, 302, 303, 307, 308} {
		i.Fail(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, status) })
		for _, o := range []Options{atURL(t, i), asking(t, i)} {
			id, err := verify(t.Context(), open(t, o), "alice", token)
			wantKind(t, id, err, authn.Unavailable)
		}
	}
}

// A certificate that the CA did not sign, and nobody there at all.
func TestRule147IssuerCannotBeReached(t *testing.T) {
	t.Parallel()
	i, gone := oidctest.Start(t, allKeys()...), oidctest.Start(t)
	token := keyOf()["EdDSA"].Sign(oidctest.Claims(issuer, nil))
	i.Know(token, oidctest.Claims(issuer, nil))
	gone.Close()
	for _, o := range []Options{atURL(t, i), asking(t, i), atURL(t, gone), asking(t, gone)} {
		if strings.HasPrefix(o.Keys+o.Introspection, i.URL) {
			o.CA = "" // the system's, who do not know the test's
		}
		id, err := verify(t.Context(), open(t, o), "alice", token)
		wantKind(t, id, err, authn.Unavailable)
	}
	if n := i.Asked(oidctest.IntrospectionPath) + i.Asked(oidctest.KeysPath); n != 0 {
		t.Errorf("asked %d times without a good certificate", n)
	}
}

// The deadline of a login is kept while the issuer says nothing.
func TestRule147IssuerHangs(t *testing.T) {
	t.Parallel()
	i := oidctest.Start(t, allKeys()...)
	token := keyOf()["EdDSA"].Sign(oidctest.Claims(issuer, nil))
	for _, o := range []Options{atURL(t, i), asking(t, i)} {
		o.Timeout = time.Hour
		asked, over := make(chan struct{}), make(chan struct{})
		i.Fail(func(_ http.ResponseWriter, r *http.Request) {
			close(asked)
			select {
			case <-over:
			case <-r.Context().Done():
			}
		})
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-asked; cancel() }() // ended by the question
		id, err := verify(ctx, open(t, o), "alice", token)
		wantKind(t, id, err, authn.Unavailable)
		close(over)
	}
}

// No proxy of the environment sees keys or tokens.
func TestNoProxy(t *testing.T) {
	t.Parallel()
	w, err := newWeb("", time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if p := w.Transport.(*http.Transport).Proxy; p != nil {
		t.Error("a proxy is looked for")
	}
}

// A cache that cannot be written is told of, and nobody is refused for it.
func TestCacheCannotBeWritten(t *testing.T) {
	t.Parallel()
	i := oidctest.Start(t, allKeys()...)
	o := atURL(t, i)
	var log bytes.Buffer
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	v := open(t, o)
	if err := os.Remove(filepath.Dir(o.Cache)); err != nil {
		t.Fatal(err)
	}
	if _, err := verify(t.Context(), v, "alice", keyOf()["EdDSA"].Sign(oidctest.Claims(issuer, nil))); err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), "cache of the key set not written") {
		t.Errorf("log: %s", log.String())
	}
}
