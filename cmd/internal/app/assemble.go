package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"reflect"
	"sync"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/file"
	"github.com/kpopd/kpopd/authn/krb5"
	"github.com/kpopd/kpopd/authn/remote"
	"github.com/kpopd/kpopd/authn/throttle"
	"github.com/kpopd/kpopd/cmd/internal/certs"
	"github.com/kpopd/kpopd/cmd/internal/config"
	"github.com/kpopd/kpopd/kpop"
	"github.com/kpopd/kpopd/maildrop"
	"github.com/kpopd/kpopd/maildrop/maildir"
	"github.com/kpopd/kpopd/maildrop/mbox"
	"github.com/kpopd/kpopd/pop3"
)

// assembly is a configuration made into working parts. It is only read once
// it is complete; sessions keep the one that they began with.
type assembly struct {
	cfg       *config.Config
	parts     *parts
	log       *slog.Logger
	trace     *authn.Trace
	verifiers map[string]authn.Verifier
	files     []*fileVerifier
	chains    map[string]authn.Chain
	salts     authn.Password // key for them; nil without SCRAM
	acceptor  *krb5.Acceptor // nil without a keytab
	tickets   kpop.Tickets   // acceptor or a helper; nil without Kerberos
	policies  map[string]*authn.Policy
	doors     []*door     // as in cfg.Listeners
	closers   []io.Closer // verifiers that keep connections or write files; sessions go on with them
	watched   []*watched

	stop context.CancelFunc // of the background
	wg   sync.WaitGroup
}

// fileVerifier is a verifier of files and where it stands in the configuration.
type fileVerifier struct {
	file.Verifier
	key string
}

// parts outlive a reload as long as the configuration names the same ones:
// replay cache, old keys of the keytab, store (whose listings stay warm), and what
// is known of those who guess.
type parts struct {
	replay     krb5.ReplayCache
	replayPath string
	keytab     *krb5.Keytab
	keytabPath string
	store      maildrop.Store
	maildrops  config.Maildrops
	holders    *holders           // of maildrops; sessions outlive a reload
	throttle   *throttle.Throttle // counts what it counted, under new options
	logins     *pop3.Logins       // for LOGIN-DELAY
	hashes     *file.Budget
	hashing    file.BudgetOptions
	helpers    map[string]*remote.Client // by name of the verifier
	helperKeys map[string]string         // what they were made of
}

// assemble builds everything that cfg names, with parts of old where they
// fit. The error holds one problem for each thing that cannot work.
func assemble(cfg *config.Config, old *parts, log *slog.Logger, trace *authn.Trace) (*assembly, error) {
	a := newAssembly(cfg, log, trace)
	kerberos := a.openKerberos(old) // before the chains, in which some want the keytab
	a.boundCosts(old)
	err := errors.Join(a.checkCertificates(), a.openSaltKey(), a.buildChains(old), kerberos, a.openStore(old))
	if err == nil {
		a.chooseTickets()
		err = errors.Join(a.buildPolicies(), a.buildDoors())
	}
	if err == nil {
		err = a.checkRules()
	}
	if err != nil {
		return nil, errors.Join(err, a.parts.close(old))
	}
	return a, nil
}

func newAssembly(cfg *config.Config, log *slog.Logger, trace *authn.Trace) *assembly {
	return &assembly{
		cfg: cfg, parts: &parts{}, log: log, trace: trace,
		verifiers: map[string]authn.Verifier{}, chains: map[string]authn.Chain{}, policies: map[string]*authn.Policy{},
	}
}

// close frees what next does not use.
func (p *parts) close(next *parts) error {
	err := p.closeHelpers(next)
	if c, ok := p.replay.(io.Closer); ok && p.replay != next.replay {
		err = errors.Join(err, c.Close())
	}
	return errors.Join(err, p.closeStore(next.store))
}

// closeStore ends the long readings of a store that next is not, and no session.
func (p *parts) closeStore(next maildrop.Store) error {
	if c, ok := p.store.(io.Closer); ok && p.store != next {
		return c.Close()
	}
	return nil
}

// boundCosts makes what bounds the costs of logins.
func (a *assembly) boundCosts(old *parts) {
	l := a.cfg.Limits
	o := file.BudgetOptions{Hashes: l.Hashes, Memory: int64(l.HashMemory) << 20, Wait: l.HashWait}
	a.parts.hashes, a.parts.hashing = old.hashes, o
	if old.hashes == nil || old.hashing != o {
		a.parts.hashes = file.NewBudget(o)
	}
	a.parts.throttle, a.parts.logins = old.throttle, old.logins
	if old.throttle == nil {
		a.parts.throttle, a.parts.logins = throttle.New(throttle.Options{}), &pop3.Logins{}
	}
}

// loginDelay is nil where users need not wait.
func (a *assembly) loginDelay() *pop3.LoginDelay {
	l := a.cfg.Limits
	switch {
	case l.LoginDelayMax > 0:
		return &pop3.LoginDelay{Longest: l.LoginDelayMax, Of: a.loginDelayOf, Logins: a.parts.logins}
	case l.LoginDelay > 0:
		return &pop3.LoginDelay{Longest: l.LoginDelay, Logins: a.parts.logins}
	}
	return nil
}

// loginDelayOf is a user's own delay. One that no verifier should have let
// through is told, and is taken for the longest.
func (a *assembly) loginDelayOf(id *authn.Identity) time.Duration {
	text, ok := id.Attrs[authn.AttrLoginDelay]
	if !ok {
		return a.cfg.Limits.LoginDelay
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		a.log.Warn("login delay of a user is no duration", "user", bounded(id.User, maxName), "step", id.Step, "err", bounded(err.Error(), maxError))
		return a.cfg.Limits.LoginDelayMax
	}
	return d
}

// throttling are the options of the throttle: what is zero in the configuration
// does not exist.
func throttling(t config.Throttle) throttle.Options {
	never := func(n int) int {
		if n == 0 {
			return -1
		}
		return n
	}
	return throttle.Options{
		Address: never(t.AddressFailures), Network: never(t.NetworkFailures), User: never(t.UserFailures),
		HalfLife: t.HalfLife, MaxDelay: t.MaxDelay, MaxWait: t.MaxWait,
		Rate: float64(never(t.AddressRate)), Burst: 10 * t.AddressRate, Exempt: t.Exempt, Size: t.Entries,
	}
}

func (a *assembly) openStore(old *parts) error {
	if a.parts.holders = old.holders; a.parts.holders == nil {
		a.parts.holders = &holders{}
	}
	m := a.cfg.Maildrops
	m.Takeover = "" // not the store's business
	a.parts.maildrops = m
	if old.store != nil && reflect.DeepEqual(old.maildrops, m) {
		a.parts.store = old.store
		return nil
	}
	store, key, err := newStore(m, a.log)
	if err != nil {
		return a.cfg.Problem(key, err)
	}
	a.parts.store = store
	return nil
}

// newStore makes the store that is configured. With an error it says whose key is to
// blame.
func newStore(m config.Maildrops, log *slog.Logger) (store maildrop.Store, key string, err error) {
	if m.Type != config.StoreMbox {
		o := maildirOptions(m, log)
		if o.UIDs, err = uniqueIDs(m); err != nil {
			return nil, "maildrops.uidl", err
		}
		store, err = maildir.New(m.Root, o)
		return store, "maildrops.root", err
	}
	uids, err := spoolIDs(m)
	if err != nil {
		return nil, "maildrops.uidl", err
	}
	store, err = mbox.New(m.Root, mbox.Options{
		State: m.State, Layout: m.Layout, Owner: m.Owner, Locks: m.Locks, LockWait: m.LockWait, UIDs: uids, Log: log,
	})
	if errors.Is(err, mbox.ErrState) {
		return nil, "maildrops.state", err
	}
	return store, "maildrops.root", err
}

func maildirOptions(m config.Maildrops, log *slog.Logger) maildir.Options {
	o := maildir.Options{
		Layout: m.Layout, Create: m.Create, Owner: m.Owner, TrustSizes: m.TrustSizes,
		CacheOctets: int64(m.CacheMemory) << 20, ScanWait: m.ScanWait, Log: log,
		Trash: m.Deleted == config.DeletedTrash,
		Expire: maildir.Retention{
			Arrived:   time.Duration(m.ExpireArrived) * maildir.Day,
			Retrieved: time.Duration(m.ExpireRetrieved) * maildir.Day,
			AtQuit:    m.ExpireAtQuit,
		},
	}
	if m.CacheMemory == 0 {
		o.CacheOctets = -1
	}
	return o
}

func (a *assembly) openSaltKey() error {
	if !a.cfg.OffersSCRAM() {
		return nil
	}
	keys, err := file.OpenKeys(a.cfg.SCRAM.SaltKey)
	if err == nil {
		a.salts, err = keys.Salt()
	}
	if errors.Is(err, os.ErrNotExist) {
		err = fmt.Errorf("%w; make it with kpopd passwd key %s", err, a.cfg.SCRAM.SaltKey)
	}
	if err != nil {
		return a.cfg.Problem("scram.salt_key", err)
	}
	return nil
}

// hostname stands in challenges and timestamps. A machine without a name is
// localhost.
func (a *assembly) hostname() string {
	if h := a.cfg.POP3.Hostname; h != "" {
		return h
	}
	h, err := os.Hostname()
	if err != nil {
		return "localhost"
	}
	return h
}

func (a *assembly) buildDoors() error {
	var errs []error
	for i, l := range a.cfg.Listeners {
		d := &door{name: l.Name, policy: a.policies[l.Policy], log: a.log}
		if l.UsesTLS() {
			s, err := certs.New(a.certificates(l), certs.Clients{CA: l.ClientCA, CRL: l.ClientCRL})
			if err != nil {
				key := "client_ca" // the certificates have been looked at before
				if _, err := certs.New(a.certificates(l), certs.Clients{CA: l.ClientCA}); err == nil {
					key = "client_crl"
				}
				errs = append(errs, a.cfg.Problem(fmt.Sprintf("listeners[%d].%s", i, key), err))
				continue
			}
			d.certs, d.implicit = s, l.TLS == config.TLSImplicit
		}
		if l.KPOP() {
			d.kpop = &kpop.Acceptor{
				Krb5: a.tickets, Versions: a.cfg.KPOP.AppVersions, Timeout: a.cfg.KPOP.HandshakeTimeout, Trace: a.trace,
			}
		}
		d.server = a.server(d)
		a.doors = append(a.doors, d)
	}
	return errors.Join(errs...)
}

func (a *assembly) server(d *door) *pop3.Server {
	l := a.cfg.Limits
	s := &pop3.Server{
		Backend:  &backend{Policy: d.policy, store: a.parts.store, holders: a.parts.holders, takeover: a.cfg.Maildrops.Takeover, views: a.cfg.Views, log: a.log},
		Hostname: a.hostname(), Log: a.log, LoginsTraced: true, LenientUTF8: a.cfg.POP3.LenientUTF8, Envelopes: a.cfg.Views.Envelopes,
		LoginTimeout: l.LoginTimeout, IdleTimeout: l.IdleTimeout, WriteTimeout: l.WriteTimeout,
		DrainTimeout: l.DrainTimeout, MaxFailures: l.Failures, MaxAttempts: l.Attempts, LoginDelay: a.loginDelay(),
		Expire: a.cfg.Maildrops.Expire(),
	}
	if d.certs != nil && !d.implicit {
		s.StartTLS = d.startTLS
	}
	return s
}

// background looks for changed files until quit is called.
func (a *assembly) background() {
	ctx, cancel := context.WithCancel(context.Background())
	a.stop = cancel
	for _, d := range a.doors {
		if d.certs != nil {
			a.wg.Go(func() { d.certs.Watch(ctx, certificateInterval, a.log) }) // ended by quit
		}
	}
	a.wg.Go(func() { a.watchCertificates(ctx) }) // ended by quit
	a.wg.Go(func() { a.warnHelpers(ctx) })       // ended by quit
	a.wg.Go(func() { a.watchFiles(ctx) })        // ended by quit
	if every := a.cfg.Kerberos.KeytabReload; a.acceptor != nil && every > 0 {
		a.wg.Go(func() { a.watchKeytab(ctx, every) }) // ended by quit
	}
}

func (a *assembly) quit() {
	if a.stop != nil {
		a.stop()
		a.wg.Wait()
	}
	for _, c := range a.closers {
		if err := c.Close(); err != nil {
			a.log.Warn("verifier not closed", "err", err)
		}
	}
}

// warnings are what works and should be mended: settings, and files that they
// name.
func (a *assembly) warnings() []*config.Problem {
	all := a.cfg.Warnings()
	for _, f := range a.files {
		for _, w := range f.Warnings() {
			all = append(all, a.cfg.Problem(f.key, w))
		}
	}
	for i, x := range a.cfg.Policies {
		for j, name := range x.Offers {
			if a.opensNothing(a.chains[x.Chain], name) {
				all = append(all, a.cfg.Problem(fmt.Sprintf("policies[%d].offers[%d]", i, j),
					fmt.Errorf("nobody has a secret for %s, so that it lets nobody in: make one with kpopd passwd, or do not offer it", name)))
			}
		}
	}
	return all
}

// warn tells what the owner of the configuration should know about.
func (a *assembly) warn() {
	for _, w := range a.warnings() {
		a.log.Warn("configuration", "key", w.Key, "line", w.Line, "warning", w.Err.Error())
	}
	a.warnCertificates()
}
