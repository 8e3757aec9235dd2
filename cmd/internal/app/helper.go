package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/remote"
	"github.com/kpopd/kpopd/cmd/internal/config"
)

// Helper is a running kpopd auth.
type Helper struct {
	file   string
	log    *slog.Logger
	level  slog.LevelVar
	lines  *logWriter
	panics atomic.Int64
	server *remote.Server
	trace  *authn.Trace
	stop   context.CancelFunc
	ended  chan error
	socket string

	mu      sync.Mutex // guards current; a reload holds it
	current *assembly
}

// StartHelper judges for kpopd serve as the configuration in file says. The log
// goes to w.
func StartHelper(ctx context.Context, file string, w io.Writer) (*Helper, error) {
	cfg, err := loadHelper(file)
	if err != nil {
		return nil, err
	}
	h := &Helper{file: file, socket: cfg.Auth.Socket, ended: make(chan error, 1)}
	h.lines = newLogWriter(cfg.Log, &h.level, w)
	h.log = h.lines.log
	h.trace = attemptLog(h.lines.logins, &h.panics)
	h.server = &remote.Server{Log: h.log, Trace: h.trace}
	if err := h.start(ctx, cfg); err != nil {
		h.lines.Close()
		return nil, err
	}
	h.log.Info("started", "configuration", file, "socket", cfg.Auth.Socket, "judges", judgeOf(h.current).Judges())
	return h, nil
}

func (h *Helper) start(ctx context.Context, cfg *config.Config) error {
	uids, err := clients(cfg)
	if err != nil {
		return err
	}
	h.server.Clients = uids
	if err := h.install(cfg); err != nil {
		return err
	}
	l, err := remote.Listen(ctx, cfg.Auth.Socket)
	if err != nil {
		h.current.quit()
		return errors.Join(cfg.Problem("auth.socket", err), h.current.parts.close(&parts{}))
	}
	ctx, h.stop = context.WithCancel(context.WithoutCancel(ctx))
	go func() { h.ended <- h.server.Serve(ctx, l) }() // ended by Shutdown
	return nil
}

// loadHelper refuses a file that is not for a helper.
func loadHelper(file string) (*config.Config, error) {
	cfg, err := config.Load(file)
	if err == nil && !cfg.IsHelper() {
		err = cfg.Problem("auth", errors.New("missing; a file with listeners is for kpopd serve"))
	}
	return cfg, err
}

// clients are the uids of those who may ask.
func clients(cfg *config.Config) ([]uint32, error) {
	var uids []uint32
	var errs []error
	for i, name := range cfg.Auth.Clients {
		id := name
		if u, err := user.Lookup(name); err == nil {
			id = u.Uid
		}
		n, err := strconv.ParseUint(id, 10, 32)
		if err != nil {
			errs = append(errs, cfg.Problem(fmt.Sprintf("auth.clients[%d]", i), fmt.Errorf("no user is named %q; write a name of this machine or a uid", name)))
			continue
		}
		uids = append(uids, uint32(n))
	}
	return uids, errors.Join(errs...)
}

// assembleHelper builds what a helper needs of cfg.
func assembleHelper(cfg *config.Config, old *parts, log *slog.Logger, trace *authn.Trace) (*assembly, error) {
	a := newAssembly(cfg, log, trace)
	kerberos := a.openKerberos(old) // before the chains, in which some want the keytab
	a.boundCosts(old)
	if err := errors.Join(a.buildChains(old), kerberos); err != nil {
		return nil, errors.Join(err, a.parts.close(old))
	}
	return a, nil
}

// judgeOf is what an assembly judges.
func judgeOf(a *assembly) *remote.Judge {
	j := &remote.Judge{Chain: a.chains[a.cfg.Auth.Chain], Names: a.cfg.LoginNames()}
	if a.acceptor != nil {
		j.Tickets = a.acceptor
	}
	return j
}

// install makes cfg the one by which later requests are judged.
func (h *Helper) install(cfg *config.Config) error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Log.Level)); err != nil {
		return cfg.Problem("log.level", err)
	}
	old := &parts{}
	if h.current != nil {
		old = h.current.parts
	}
	a, err := assembleHelper(cfg, old, h.log, h.trace)
	if err != nil {
		return err
	}
	h.level.Set(level)
	h.server.SetJudge(judgeOf(a))
	if h.current != nil {
		h.current.quit()
	}
	if err := old.close(a.parts); err != nil {
		h.log.Warn("replay cache not closed", "err", err)
	}
	h.current = a
	a.warn()
	a.background()
	return nil
}

// Reload reads the configuration again, and every file that it names. On an
// error everything stays as it was. Socket and clients are those of the start.
func (h *Helper) Reload() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	cfg, err := loadHelper(h.file)
	if err == nil && (cfg.Auth.Socket != h.socket || !slices.Equal(cfg.Auth.Clients, h.current.cfg.Auth.Clients)) {
		err = cfg.Problem("auth", errors.New("socket and clients change with a restart only"))
	}
	if err == nil {
		err = h.install(cfg)
	}
	if err != nil {
		h.log.Error("configuration not reloaded, the old one stays", "err", err)
		return err
	}
	h.log.Info("configuration reloaded", "configuration", h.file)
	return nil
}

// Shutdown ends it. Logins that wait for an answer are told to come later.
func (h *Helper) Shutdown() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stop()
	if err := <-h.ended; err != nil {
		h.log.Error("socket not served to the end", "err", err)
	}
	h.current.quit()
	if err := h.current.parts.close(&parts{}); err != nil {
		h.log.Error("replay cache not closed", "err", err)
	}
	h.log.Info("stopped", "panics", h.panics.Load())
	h.lines.Close()
}

func (a *assembly) warnHelpers(ctx context.Context) {
	for _, w := range a.helperWarnings(ctx) {
		if ctx.Err() == nil {
			a.log.Warn("helper", "key", w.Key, "line", w.Line, "warning", w.Err.Error())
		}
	}
}

// askTime is for a helper to say what it can judge.
const askTime = 5 * time.Second

// helperWarnings ask each helper what it can judge. One that is away may come
// later, so that is no reason not to serve.
func (a *assembly) helperWarnings(ctx context.Context) []*config.Problem {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	var list []*config.Problem
	for i, v := range a.cfg.Verifiers {
		c := a.parts.helpers[v.Name]
		if c == nil {
			continue
		}
		can, err := c.Ask(ctx)
		if err != nil {
			list = append(list, a.cfg.Problem(fmt.Sprintf("verifiers[%d].socket", i), fmt.Errorf("the helper does not answer, and logins wait for it: %w", err)))
			continue
		}
		for j, want := range v.Judges {
			if !slices.Contains(can, remote.Proof(want)) {
				list = append(list, a.cfg.Problem(fmt.Sprintf("verifiers[%d].judges[%d]", i, j), fmt.Errorf("the helper cannot judge %s: add a verifier to its chain, or remove the word", want)))
			}
		}
	}
	return list
}

// explainHelpers writes who asks whom about what.
func (a *assembly) explainHelpers(w io.Writer) {
	for _, v := range a.cfg.Verifiers {
		if v.Type == config.VerifierRemote {
			fmt.Fprintf(w, "verifier %s asks the helper at %s about %s\n", v.Name, v.Socket, strings.Join(v.Judges, ", "))
		}
	}
	if !a.cfg.IsHelper() {
		return
	}
	var judges []string
	for _, p := range judgeOf(a).Judges() {
		judges = append(judges, string(p))
	}
	fmt.Fprintf(w, "helper at %s, for %s: judges %s\n", a.cfg.Auth.Socket, strings.Join(a.cfg.Auth.Clients, ", "), strings.Join(judges, ", "))
	if a.acceptor != nil {
		fmt.Fprintf(w, "  takes tickets for %s\n", strings.Join(a.acceptor.Usable(), ", "))
	}
}

// helperClient is the client of a helper; one for the same helper outlives a
// reload, with its connection.
func (a *assembly) helperClient(v config.Verifier, old *parts) *remote.Client {
	if c := old.helpers[v.Name]; c != nil && old.helperKeys[v.Name] == helperKey(v) {
		a.parts.addHelper(v, c)
		return c
	}
	var judges []remote.Proof
	for _, j := range v.Judges {
		judges = append(judges, remote.Proof(j))
	}
	c := remote.New(v.Name, remote.Options{Socket: v.Socket, Judges: judges})
	a.parts.addHelper(v, c)
	return c
}

func helperKey(v config.Verifier) string { return fmt.Sprintf("%q %q", v.Socket, v.Judges) }

func (p *parts) addHelper(v config.Verifier, c *remote.Client) {
	if p.helpers == nil {
		p.helpers, p.helperKeys = map[string]*remote.Client{}, map[string]string{}
	}
	p.helpers[v.Name], p.helperKeys[v.Name] = c, helperKey(v)
}

// closeHelpers closes those that next does not use.
func (p *parts) closeHelpers(next *parts) error {
	var errs []error
	for name, c := range p.helpers {
		if next.helpers[name] != c {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(errs...)
}
