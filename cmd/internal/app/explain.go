package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/external"
	"github.com/kpopd/kpopd/cmd/internal/config"
	"github.com/kpopd/kpopd/maildrop/mbox"
)

// Report is what a check of a configuration found.
type Report struct {
	Warnings []error
	assembly *assembly
}

// Check loads the configuration in file and builds all of it except the
// sockets and the replay cache, which the running server may hold.
func Check(file string) (*Report, error) {
	cfg, err := config.Load(file)
	if err != nil {
		return nil, err
	}
	r := &Report{}
	var noCache error
	if cache := cfg.Kerberos.ReplayCache; cfg.Kerberos.Keytab != "" && cache != config.ReplayMemory {
		if _, err := os.Stat(filepath.Dir(cache)); err != nil {
			noCache = cfg.Problem("kerberos.replay_cache", err)
		}
	}
	cfg.Kerberos.ReplayCache = config.ReplayMemory
	r.assembly, err = build(cfg)
	if err := errors.Join(err, noCache); err != nil {
		return nil, err
	}
	for _, w := range r.assembly.helperWarnings(context.Background()) {
		r.Warnings = append(r.Warnings, w)
	}
	if err := r.assembly.parts.closeHelpers(&parts{}); err != nil {
		return nil, err
	}
	for _, w := range append(r.assembly.warnings(), r.assembly.certificateWarnings(time.Now())...) {
		r.Warnings = append(r.Warnings, w)
	}
	return r, nil
}

// build assembles what cfg is for.
func build(cfg *config.Config) (*assembly, error) {
	log := slog.New(slog.DiscardHandler)
	if !cfg.IsHelper() {
		return assemble(cfg, &parts{}, log, nil)
	}
	a, err := assembleHelper(cfg, &parts{}, log, nil)
	_, noClient := clients(cfg)
	var noFolder error
	if _, err := os.Stat(filepath.Dir(cfg.Auth.Socket)); err != nil {
		noFolder = cfg.Problem("auth.socket", err)
	}
	return a, errors.Join(err, noClient, noFolder)
}

// Explain writes what each listener offers to a client at each stage of a
// connection, and what verifiers found out by themselves. It asks the policy what
// CAPA and a login ask it.
func (r *Report) Explain(w io.Writer) {
	for _, l := range r.assembly.cfg.Listeners {
		r.assembly.explain(w, l)
	}
	for _, v := range r.assembly.cfg.Verifiers {
		if s, ok := r.assembly.verifiers[v.Name].(fmt.Stringer); ok {
			fmt.Fprintf(w, "verifier %s: %s\n", v.Name, s)
		}
	}
	r.assembly.explainHelpers(w)
	if m := r.assembly.cfg.Maildrops; m.Type == config.StoreMbox {
		locks := m.Locks
		if len(locks) == 0 {
			locks = []string{mbox.Fcntl, mbox.Dotlock}
		}
		fmt.Fprintf(w, "maildrops: spool files below %s, locked by %s; state in %s\n", m.Root, strings.Join(locks, ", then "), m.State)
	}
	explainViews(w, r.assembly.cfg.Views)
	explainThrottle(w, r.assembly.cfg.Throttle)
	switch l := r.assembly.cfg.Limits; {
	case l.LoginDelayMax > 0:
		fmt.Fprintf(w, "login delay: %v, up to %v for users who have their own\n", l.LoginDelay, l.LoginDelayMax)
	case l.LoginDelay > 0:
		fmt.Fprintf(w, "login delay: %v\n", l.LoginDelay)
	}
	explainRetention(w, r.assembly.cfg.Maildrops)
}

// explainRetention says what becomes of messages, where it is more than nothing.
func explainRetention(w io.Writer, m config.Maildrops) {
	if e := m.Expire(); e != "" {
		fmt.Fprintf(w, "announced: EXPIRE %s\n", e)
	}
	for _, x := range []struct {
		days int
		what string
	}{{m.ExpireArrived, "they arrived"}, {m.ExpireRetrieved, "they were retrieved first"}} {
		if x.days > 0 {
			fmt.Fprintf(w, "  messages expire %d days after %s, at QUIT and by kpopd expire\n", x.days, x.what)
		}
	}
	if m.ExpireAtQuit {
		fmt.Fprintln(w, "  messages that were retrieved expire at QUIT")
	}
	if m.Deleted == config.DeletedTrash {
		fmt.Fprintf(w, "deleted: kept in the trash for %d days, which kpopd expire enforces\n", m.TrashDays)
	}
}

// explainViews writes what a login can ask for.
func explainViews(w io.Writer, v config.Views) {
	if v.Folders != "" {
		fmt.Fprintf(w, "views: USER%sFOLDER opens a folder\n", v.Folders)
	}
	if v.Recent > 0 {
		fmt.Fprintf(w, "views: recent:USER sees what arrived in the last %v\n", v.Recent)
	}
	for _, h := range v.Hosts {
		fmt.Fprintf(w, "views: NAME+%s sees of the maildrop of %s what is for NAME at %s\n", h.User, h.User, strings.Join(h.Domains, ", "))
	}
	if v.Envelopes {
		fmt.Fprintln(w, "views: *ENV tells sender and recipient of a message")
	}
}

func explainThrottle(w io.Writer, t config.Throttle) {
	if t.Off {
		fmt.Fprintln(w, "throttle: off")
		return
	}
	var free []string
	for _, x := range []struct {
		n    int
		what string
	}{{t.AddressFailures, "an address"}, {t.NetworkFailures, "a network"}, {t.UserFailures, "a user"}} {
		if x.n > 0 {
			free = append(free, fmt.Sprintf("%d of %s", x.n, x.what))
		}
	}
	if free == nil {
		free = []string{"all"}
	}
	fmt.Fprintf(w, "throttle: failed logins that are free: %s, and half of them again every %v\n", strings.Join(free, ", "), t.HalfLife)
	fmt.Fprintf(w, "  then up to %v between attempts, refused unjudged when that is more than %v away\n", t.MaxDelay, t.MaxWait)
	for _, n := range t.Exempt {
		fmt.Fprintf(w, "  addresses in %v are not counted\n", n)
	}
}

func (a *assembly) explain(w io.Writer, l config.Listener) {
	p := a.policies[l.Policy]
	fmt.Fprintf(w, "listener %s, %s, policy %s%s\n", l.Name, l.Address, l.Policy, shadowOf(p))
	for _, s := range stages(l, p, a.stamp()) {
		writeVerdicts(w, s.when, p.Judge(s.facts))
	}
	for _, r := range p.Act {
		fmt.Fprintf(w, "  %s %s some to act for %s\n", r.Source, verbs[r.Action], strings.Join(r.As, ", "))
	}
}

func shadowOf(p *authn.Policy) string {
	if p.Shadow == nil {
		return ""
	}
	return ", shadow " + p.Shadow.Name
}

// stamp is an APOP timestamp of nobody.
func (a *assembly) stamp() string { return "<1.2@" + a.hostname() + ">" }

// stage is a connection of a listener, as far as a client can bring it without
// logging in. Where it comes from and when is open.
type stage struct {
	when  string
	facts authn.Facts
}

func stages(l config.Listener, p *authn.Policy, stamp string) []stage {
	var all []stage
	add := func(when string, from netip.Addr, state *tls.ConnectionState) {
		t := &authn.Transport{Listener: l.Name, Stamp: stamp, Remote: netip.AddrPortFrom(from, 0), TLS: state}
		f := authn.Before(t, time.Now())
		f.Open |= authn.NetworkFact | authn.TimeFact
		if l.KPOP() {
			t.Peer = &authn.Principal{} // whose realm and ticket are open
		}
		if state != nil {
			t.EndPoint = make([]byte, 32)
		}
		all = append(all, stage{when, f})
	}
	if l.TLS != config.TLSImplicit {
		add("in the clear", netip.Addr{}, nil)
		for _, n := range p.Trusted {
			add("in the clear from "+n.String(), n.Addr(), nil)
		}
	}
	if l.UsesTLS() {
		add("inside TLS", netip.Addr{}, &tls.ConnectionState{Version: tls.VersionTLS13})
		if l.ClientCA != "" {
			add("inside TLS with a certificate that belongs to somebody", netip.Addr{}, &tls.ConnectionState{Version: tls.VersionTLS13})
			showCertificate(&all[len(all)-1].facts)
		}
	}
	return all
}

// showCertificate makes f the facts of a client with a certificate that belongs to
// somebody. Nobody can tell whose it is, so EXTERNAL looks no further than
// whether the policy takes any.
func showCertificate(f *authn.Facts) {
	f.Transport.Client = &authn.Certificate{Err: &authn.Error{Kind: authn.Unavailable, Step: "check"}}
	f.Certificate = true
}

// offers reports whether p may let anybody log in there.
func (s stage) offers(p *authn.Policy) bool {
	return slices.ContainsFunc(p.Judge(s.facts), func(v authn.Verdict) bool { return v.Reason == nil })
}

// ExplainCertificate writes, for each listener that asks for client
// certificates, whose the one in a PEM file is, or why nobody's. Certificates
// after the first are those that a client sends along.
func (r *Report) ExplainCertificate(w io.Writer, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read certificate: %w", err)
	}
	var shown []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue // its key may stand beside it
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("read certificate %s: %w", file, err)
		}
		shown = append(shown, c)
	}
	if len(shown) == 0 {
		return fmt.Errorf("no certificate in %s", file)
	}
	asked := false
	for i, d := range r.assembly.doors {
		if d.certs == nil || r.assembly.cfg.Listeners[i].ClientCA == "" {
			continue
		}
		asked = true
		t := &authn.Transport{Listener: d.name, TLS: &tls.ConnectionState{}, Client: d.certs.Judge(shown)}
		fmt.Fprintf(w, "listener %s, certificate %s: %s\n", d.name, external.DN(shown[0].RawSubject), owner(d.policy, t))
	}
	if !asked {
		return errors.New("no listener asks for client certificates")
	}
	return nil
}

// owner is the user whom EXTERNAL lets in on t, or why nobody. Rules look at more
// than the certificate, so they are not asked.
func owner(p *authn.Policy, t *authn.Transport) string {
	ruleless := *p
	ruleless.Rules, ruleless.Shadow = nil, nil
	// a directory may be asked about the account
	ctx, cancel := context.WithTimeout(authn.WithPolicy(context.Background(), &ruleless), askTime)
	defer cancel()
	l, err := ruleless.Start(ctx, t, external.Name)
	if err == nil {
		_, _, err = l.Next(ctx, []byte{})
	}
	switch {
	case t.Client.Err != nil:
		return t.Client.Err.Error()
	case authn.KindOf(err) == authn.Unavailable:
		if id, mapErr := p.Users.OwnsCertificate(ctx, t.Client.Chain); mapErr == nil {
			return fmt.Sprintf("is %s's, by step %s, unless the account is closed: %v", id.User, id.Step, err)
		}
		return err.Error()
	case err != nil:
		return err.Error()
	}
	found := fmt.Sprintf("logs in as %s, by step %s", l.Identity().User, l.Identity().Step)
	if len(p.Rules) > 0 {
		found += ", unless a rule refuses"
	}
	return found
}

func writeVerdicts(w io.Writer, when string, vs []authn.Verdict) {
	var offered []string
	for _, v := range vs {
		if v.Reason == nil {
			offered = append(offered, v.Mechanism.Name())
		}
	}
	if offered == nil {
		offered = []string{"nothing"}
	}
	fmt.Fprintf(w, "  %s: %s\n", when, strings.Join(offered, " "))
	for _, v := range vs {
		switch name, why := v.Mechanism.Name(), because(v); {
		case v.Reason != nil:
			fmt.Fprintf(w, "    not %s: %s\n", name, why)
		case why != noRule:
			fmt.Fprintf(w, "    %s: %s\n", name, why)
		}
	}
}

const noRule = "no rule"

var verbs = map[authn.Action]string{authn.Allow: "allows", authn.Deny: "denies", authn.Warn: "allows and warns"}

// because is why a mechanism may be used or not: the rules that may decide, and
// then the one that does.
func because(v authn.Verdict) string {
	if v.Reason != nil && v.Rule == nil {
		return v.Reason.Error()
	}
	var b strings.Builder
	for _, r := range v.Open {
		fmt.Fprintf(&b, "%s may %s%s, then ", r.Source, r.Action, sunsetOf(r))
	}
	if v.Rule == nil {
		return b.String() + noRule
	}
	return b.String() + decision(v.Rule)
}

func decision(r *authn.Rule) string { return r.Source + " " + verbs[r.Action] + sunsetOf(r) }

func sunsetOf(r *authn.Rule) string {
	if r.Sunset == nil {
		return ""
	}
	return r.Sunset.Date.Format(" (sunset of 2006-01-02 15:04)")
}
