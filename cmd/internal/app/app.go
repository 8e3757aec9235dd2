// Package app makes a running server of a configuration: verifiers become
// chains, chains mechanisms, mechanisms policies, and policies stand behind
// listeners.
//
// # Design notes
//
// A listener holds an atomic pointer to its door. A reload builds everything
// anew beside the old, and only when all of it works are the pointers swapped;
// a session keeps what it began with. What must not be forgotten outlives a
// reload: the replay cache, old keys of the keytab, counts of connections.
//
// A login never meets a configuration error: what a policy offers and nothing
// can judge is refused here, at its key.
package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kpopd/kpopd/cmd/internal/config"
	"github.com/kpopd/kpopd/cmd/internal/listen"
)

const (
	drainSlack = time.Second     // for sessions to end by themselves when drain_timeout is over
	closeWait  = 5 * time.Second // for sessions to end once their connections are closed
)

// Server is a running kpopd.
type Server struct {
	file   string
	log    *slog.Logger
	level  slog.LevelVar
	lines  *logWriter
	gate   *listen.Gate
	panics atomic.Int64

	sessions context.Context // cancelled when the server drains
	drain    context.CancelFunc
	trimming sync.WaitGroup

	mu        sync.Mutex // guards what follows; a reload holds it
	current   *assembly
	listening []*listening
}

// listening is a bound listener and the door behind it.
type listening struct {
	*listen.Listener
	address string // as configured
	door    atomic.Pointer[door]
}

// Start serves the configuration in file. The log goes to w.
func Start(ctx context.Context, file string, w io.Writer) (*Server, error) {
	cfg, err := loadServer(file)
	if err != nil {
		return nil, err
	}
	s := &Server{file: file}
	s.lines = newLogWriter(cfg.Log, &s.level, w)
	s.log = s.lines.log
	s.sessions, s.drain = context.WithCancel(context.WithoutCancel(ctx))
	s.gate = listen.NewGate(limits(cfg))
	if err := s.install(ctx, cfg); err != nil {
		s.drain()
		s.lines.Close()
		return nil, err
	}
	s.trimming.Go(func() { trim(s.sessions, s.gate) }) // ended by Shutdown
	s.log.Info("started", "configuration", file, "connections", limits(cfg).Connections)
	return s, nil
}

// loadServer refuses the file of a helper.
func loadServer(file string) (*config.Config, error) {
	cfg, err := config.Load(file)
	if err == nil && cfg.IsHelper() {
		err = cfg.Problem("auth", errors.New("a file with auth is for kpopd auth"))
	}
	return cfg, err
}

func limits(cfg *config.Config) listen.Limits {
	l := listen.Limits{
		Connections: listen.MaxConnections(), PerAddress: cfg.Limits.PerAddress, PreAuth: cfg.Limits.PreAuth,
		DeadPeer: max(cfg.Limits.DeadPeer, cfg.Limits.WriteTimeout),
	}
	if cfg.Limits.Connections > 0 {
		l.Connections = min(l.Connections, cfg.Limits.Connections)
	}
	if l.PreAuth > 0 {
		// half of the room is for those who have logged in: a full server makes
		// no room for a newcomer, so strangers must not fill it
		l.PreAuth = min(l.PreAuth, max(1, l.Connections/2))
	}
	return l
}

// Addrs are where the listeners are bound, in the order of the configuration.
func (s *Server) Addrs() []net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	addrs := make([]net.Addr, len(s.listening))
	for i, l := range s.listening {
		addrs[i] = l.Addr()
	}
	return addrs
}

// Reload reads the configuration again, and every file that it names. On an
// error everything stays as it was.
func (s *Server) Reload(ctx context.Context) error {
	cfg, err := loadServer(s.file)
	if err == nil {
		err = s.install(ctx, cfg)
	}
	if err != nil {
		s.log.Error("configuration not reloaded, the old one stays", "err", err)
		return err
	}
	s.log.Info("configuration reloaded", "configuration", s.file)
	return nil
}

// install makes cfg the one that new connections meet.
func (s *Server) install(ctx context.Context, cfg *config.Config) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Log.Level)); err != nil {
		return cfg.Problem("log.level", err)
	}
	old := &parts{}
	if s.current != nil {
		old = s.current.parts
	}
	a, err := assemble(cfg, old, s.log, attemptLog(s.lines.logins, &s.panics))
	if err != nil {
		return err
	}
	next, fresh, err := s.bind(ctx, cfg)
	if err != nil {
		return errors.Join(err, a.parts.close(old))
	}
	s.level.Set(level)
	for i, l := range next {
		l.door.Store(a.doors[i])
	}
	for _, l := range s.listening {
		if !slices.Contains(next, l) {
			s.log.Info("no longer listening", "listener", l.Name, "address", l.Addr().String())
			l.Close()
		}
	}
	for _, l := range fresh {
		l.Start(s.sessions)
		s.log.Info("listening", "listener", l.Name, "address", l.Addr().String())
	}
	s.gate.SetLimits(limits(cfg))
	a.parts.throttle.Set(throttling(cfg.Throttle))
	if s.current != nil {
		s.current.quit()
	}
	if err := old.close(a.parts); err != nil {
		s.log.Warn("replay cache not closed", "err", err)
	}
	s.current, s.listening = a, next
	a.warn()
	a.background()
	return nil
}

// bind finds or opens a socket for each listener. When one cannot be opened
// none is.
func (s *Server) bind(ctx context.Context, cfg *config.Config) (next, fresh []*listening, err error) {
	var errs []error
	for i, l := range cfg.Listeners {
		if x := s.bound(l); x != nil {
			next = append(next, x)
			continue
		}
		x := &listening{address: l.Address}
		x.Listener = &listen.Listener{
			Name: l.Name, Gate: s.gate, Log: s.log, Panics: &s.panics,
			Handle:  func(ctx context.Context, c *listen.Conn) { x.door.Load().serve(ctx, c) },
			Refusal: func() []byte { return x.door.Load().refusal() },
		}
		if err := x.Bind(ctx, l.Address); err != nil {
			errs = append(errs, cfg.Problem(fmt.Sprintf("listeners[%d].address", i), err))
			continue
		}
		next, fresh = append(next, x), append(fresh, x)
	}
	if len(errs) > 0 {
		for _, x := range fresh {
			x.Close()
		}
		return nil, nil, errors.Join(errs...)
	}
	return next, fresh, nil
}

// bound is the socket that is open at the listener's address. Where the system
// chose the port, the name must be the same too.
func (s *Server) bound(l config.Listener) *listening {
	_, port, _ := net.SplitHostPort(l.Address) // it was validated
	for _, x := range s.listening {
		if x.address == l.Address && (port != "0" || x.Name == l.Name) {
			return x
		}
	}
	return nil
}

// Shutdown stops listening and lets sessions end: idle ones at once, a
// download within limits.drain_timeout. When that is over, or when now is
// closed, the rest is cut off.
func (s *Server) Shutdown(now <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log.Info("stopping", "sessions", s.gate.Open())
	for _, l := range s.listening {
		l.Close()
	}
	s.drain()
	s.current.parts.throttle.Close()
	_ = s.current.parts.closeStore(nil) // no login waits for a long reading any more
	s.trimming.Wait()
	s.current.quit()
	bound := time.NewTimer(s.current.cfg.Limits.DrainTimeout + drainSlack)
	defer bound.Stop()
	empty := s.gate.Empty()
	select {
	case <-empty:
	case <-bound.C:
		s.cut(empty)
	case <-now:
		s.cut(empty)
	}
	if err := s.current.parts.close(&parts{}); err != nil {
		s.log.Error("replay cache not closed", "err", err)
	}
	s.log.Info("stopped", "panics", s.panics.Load())
	s.lines.Close()
}

func (s *Server) cut(empty <-chan struct{}) {
	s.log.Warn("sessions cut off", "sessions", s.gate.CloseAll())
	bound := time.NewTimer(closeWait)
	defer bound.Stop()
	select {
	case <-empty:
	case <-bound.C:
		s.log.Error("sessions do not end", "sessions", s.gate.Open())
	}
}
