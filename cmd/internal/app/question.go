package app

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/krb5"
	"github.com/kpopd/kpopd/cmd/internal/config"
	"github.com/kpopd/kpopd/pop3"
)

// Question is what to explain: a connection, and as much of a login as is
// known. What is left empty is open, and the answer says what depends on it.
type Question struct {
	Listener    string
	Address     string // of the client
	TLS         string // none, 1.2, 1.3; what the listener begins with when empty
	Certificate string // of the client: valid, none; none when empty
	Mechanism   string // explain this one only
	User        string
	Groups      []string
	Realm       string // of the ticket
	Enctype     string // of the ticket
	Binding     string // used, none
	As          string // whom the login asks to act for
	Time        time.Time
}

// Answer writes what a client that q describes is offered, and what becomes of
// its login: CAPA as the engine writes it, each mechanism's verdict with the
// rules behind it, the steps that can judge it.
func (r *Report) Answer(ctx context.Context, w io.Writer, q Question) error {
	e, err := r.assembly.explainer(q)
	if err != nil {
		return err
	}
	capa, err := e.capa(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "listener %s, %s, policy %s%s\n", e.l.Name, e.l.Address, e.policy.Name, shadowOf(e.policy))
	fmt.Fprintf(w, "client %s, TLS %s, at %s\n\nCAPA\n", q.Address, e.tls, q.Time.Format("Mon 2006-01-02 15:04 MST"))
	for _, line := range capa {
		fmt.Fprintf(w, "  %s\n", line)
	}
	if v := e.view.String(); v != "" {
		fmt.Fprintf(w, "\nview %s\n", v)
	}
	before, after := e.policy.Judge(e.before), e.policy.Judge(e.login)
	for i := range before {
		if name := before[i].Mechanism.Name(); q.Mechanism == "" || q.Mechanism == name {
			e.mechanism(w, before[i], after[i])
		}
	}
	return nil
}

// explainer is a question put to its listener.
type explainer struct {
	a             *assembly
	q             Question
	l             config.Listener
	d             *door
	policy        *authn.Policy
	tls           string
	before, login authn.Facts
	view          authn.View // that the login asks for
}

func (a *assembly) explainer(q Question) (*explainer, error) {
	i := slices.IndexFunc(a.cfg.Listeners, func(l config.Listener) bool { return l.Name == q.Listener })
	if i < 0 {
		return nil, fmt.Errorf("no listener is named %q", q.Listener)
	}
	e := &explainer{a: a, q: q, l: a.cfg.Listeners[i], d: a.doors[i], policy: a.doors[i].policy}
	t, err := e.transport()
	if err != nil {
		return nil, err
	}
	if q.Mechanism != "" && !slices.ContainsFunc(e.policy.Offers, func(m authn.Mechanism) bool { return m.Name() == q.Mechanism }) {
		return nil, fmt.Errorf("policy %q does not offer %s at all", e.policy.Name, q.Mechanism)
	}
	e.before = authn.Before(t, q.Time)
	if err := e.certificate(); err != nil {
		return nil, err
	}
	e.login = e.before
	return e, e.proof(t)
}

// transport is the connection that is asked about.
func (e *explainer) transport() (*authn.Transport, error) {
	addr, err := netip.ParseAddr(e.q.Address)
	if err != nil {
		return nil, fmt.Errorf("%q is no address of a client; write 192.0.2.7 or 2001:db8::7", e.q.Address)
	}
	t := &authn.Transport{Listener: e.l.Name, Session: "explain", Remote: netip.AddrPortFrom(addr, 0), Stamp: e.a.stamp()}
	if e.l.KPOP() {
		t.Peer = &authn.Principal{Realm: e.q.Realm}
	}
	versions := map[string]uint16{config.TLSNone: 0, "1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}
	begins := config.TLSNone
	if e.l.TLS == config.TLSImplicit {
		begins = "1.3"
	}
	e.tls = cmp.Or(e.q.TLS, begins)
	version, known := versions[e.tls]
	switch {
	case !known:
		return nil, fmt.Errorf("TLS %q is not spoken; write none, 1.2 or 1.3", e.tls)
	case version != 0 && !e.l.UsesTLS():
		return nil, fmt.Errorf("listener %q never has TLS", e.l.Name)
	case version == 0 && e.l.TLS == config.TLSImplicit:
		return nil, fmt.Errorf("listener %q has TLS from the first octet on", e.l.Name)
	case version != 0:
		t.TLS, t.EndPoint = &tls.ConnectionState{Version: version}, make([]byte, 32)
	}
	return t, nil
}

// certificate gives the client the one that is asked about.
func (e *explainer) certificate() error {
	switch q := e.q.Certificate; {
	case q == "" || q == config.CertificateNone:
		return nil
	case q != config.CertificateValid:
		return fmt.Errorf("certificate %q is not known; write valid or none", q)
	case e.before.Transport.TLS == nil:
		return errors.New("certificates come in TLS; say which version")
	case e.l.ClientCA == "":
		return fmt.Errorf("listener %q asks for no client certificate", e.l.Name)
	}
	showCertificate(&e.before)
	return nil
}

// proof adds to what is known of the login what the question says of it.
func (e *explainer) proof(t *authn.Transport) error {
	f, q := &e.login, e.q
	if q.User != "" {
		user, view, err := e.policy.Names.Split(q.User)
		if err != nil {
			return fmt.Errorf("user %q: %w", q.User, err)
		}
		e.view = view
		f.User, f.Open = user, f.Open&^authn.UserFact
	}
	if len(q.Groups) > 0 {
		f.Groups, f.Open = q.Groups, f.Open&^authn.GroupsFact
	}
	ticket := &authn.Principal{Realm: q.Realm, Ticket: &authn.Ticket{}}
	if q.Realm != "" {
		f.Open &^= authn.RealmFact
	}
	if q.Enctype != "" {
		n, err := krb5.ParseEnctype(q.Enctype)
		if err != nil {
			return err
		}
		ticket.Ticket.Enctype, f.Open = krb5.EnctypeName(n), f.Open&^authn.EnctypeFact
	}
	if f.Principal = ticket; t.Peer != nil { // it came before the greeting
		t.Peer, e.before.Principal = ticket, ticket
		if err := e.ticketKnown(); err != nil {
			return err
		}
	}
	switch q.Binding {
	case config.BindingUsed, config.BindingNone:
		f.Bound, f.Open = q.Binding == config.BindingUsed, f.Open&^authn.BindingFact
	case "":
	default:
		return fmt.Errorf("channel binding %q is not known; write used or none", q.Binding)
	}
	if q.As != "" {
		as, view, err := e.policy.Names.Split(q.As)
		if err != nil {
			return fmt.Errorf("as %q: %w", q.As, err)
		}
		e.view = view
		f.As = as
	}
	return nil
}

// ticketKnown wants all of a ticket that rules look at: the greeting comes after
// it.
func (e *explainer) ticketKnown() error {
	for _, r := range e.policy.Rules {
		switch {
		case len(r.Realms) > 0 && e.q.Realm == "":
			return fmt.Errorf("a client of listener %q begins with a ticket, and rule %s looks at its realm; say which", e.l.Name, r.Source)
		case len(r.Enctypes) > 0 && e.q.Enctype == "":
			return fmt.Errorf("a client of listener %q begins with a ticket, and rule %s looks at its enctype; say which", e.l.Name, r.Source)
		}
	}
	return nil
}

// mechanism writes what becomes of one.
func (e *explainer) mechanism(w io.Writer, before, after authn.Verdict) {
	name := before.Mechanism.Name()
	offered, outcome := "not offered", e.outcome(after)
	if before.Reason == nil {
		offered = "offered"
	}
	fmt.Fprintf(w, "\n%s\n  %s: %s\n", name, offered, because(before))
	if before.Reason == nil {
		fmt.Fprintf(w, "  login: %s: %s\n", outcome, because(after))
	}
	if r := before.Sunset; r != nil {
		fmt.Fprintf(w, "  to come: %s\n", decision(r))
	}
	if text := ruleText(after); text != "" && outcome != "accepted" {
		fmt.Fprintf(w, "  the client hears: -ERR [AUTH] %s\n", text)
	}
	if before.Reason == nil && e.q.As != "" && config.NamesAnother(name) {
		e.acting(w, e.policy, "acting for "+e.q.As)
	}
	var steps []string
	x := e.a.cfg.Policies[slices.IndexFunc(e.a.cfg.Policies, func(x config.Policy) bool { return x.Name == e.policy.Name })]
	for _, s := range e.a.cfg.StepsFor(x, name) {
		steps = append(steps, s.Use)
	}
	fmt.Fprintf(w, "  steps of chain %s: %s\n", x.Chain, strings.Join(steps, ", "))
	if asked := e.policy.Users.AccountSteps(steps...); len(asked) > 0 {
		fmt.Fprintf(w, "  then asked about the account: %s\n", strings.Join(asked, ", "))
	}
	if s := e.policy.Shadow; s != nil {
		e.shadow(w, s, name)
	}
}

// outcome is what the rules make of the login, if its proof is good.
func (e *explainer) outcome(v authn.Verdict) string {
	switch {
	case v.Reason != nil:
		return "denied"
	case len(v.Open) == 0:
		return "accepted"
	}
	denies := v.Rule != nil && v.Rule.Action == authn.Deny
	for _, r := range v.Open {
		if (r.Action == authn.Deny) != denies {
			return "depends"
		}
	}
	return "accepted"
}

func ruleText(v authn.Verdict) string {
	if v.Rule == nil || v.Rule.Action != authn.Deny {
		return ""
	}
	return v.Rule.Text
}

// acting writes whether the login may act for another.
func (e *explainer) acting(w io.Writer, p *authn.Policy, what string) {
	switch r, open := p.MayAct(e.login); {
	case open:
		fmt.Fprintf(w, "  %s: depends on who logs in\n", what)
	case r == nil:
		fmt.Fprintf(w, "  %s: denied: %s\n", what, noRule)
	default:
		fmt.Fprintf(w, "  %s: %s\n", what, decision(r))
	}
}

// shadow writes what a shadow would do.
func (e *explainer) shadow(w io.Writer, s *authn.Policy, mech string) {
	vs := s.Judge(e.login)
	i := slices.IndexFunc(vs, func(v authn.Verdict) bool { return v.Mechanism.Name() == mech })
	if i < 0 {
		fmt.Fprintf(w, "  shadow %s: denied: not in the policy\n", s.Name)
		return
	}
	fmt.Fprintf(w, "  shadow %s: %s: %s\n", s.Name, e.outcome(vs[i]), because(vs[i]))
	if e.q.As != "" && config.NamesAnother(mech) {
		e.acting(w, s, "shadow "+s.Name+", acting for "+e.q.As)
	}
}

// at is a backend that knows what the question says, the time too, for sessions
// that only ask for CAPA.
type at struct {
	*backend
	facts authn.Facts
}

func (b at) Mechanisms(t *authn.Transport) []authn.Mechanism {
	f := b.facts
	f.Transport = t
	return b.Usable(f)
}

// capa is what the engine itself answers to CAPA.
func (e *explainer) capa(ctx context.Context) (lines []string, err error) {
	server := e.a.server(e.d)
	server.Backend, server.Log = at{&backend{Policy: e.policy}, e.before}, slog.New(slog.DiscardHandler)
	client, conn := net.Pipe()
	t := *e.before.Transport
	t.Stamp = ""
	done := make(chan error, 1)
	go func() { done <- server.ServeConn(ctx, conn, &t) }() // ended by QUIT, or by closing the pipe
	defer func() { err = errors.Join(err, client.Close(), <-done) }()
	said := make(chan error, 1)
	go func() { _, err := io.WriteString(client, "CAPA\r\nQUIT\r\n"); said <- err }() // ended with the pipe
	octets, err := io.ReadAll(client)
	if err = errors.Join(err, <-said); err != nil {
		return nil, fmt.Errorf("ask the engine for CAPA: %w", err)
	}
	for line := range strings.SplitSeq(string(octets), "\r\n") {
		if line == "." {
			return lines, nil
		}
		if !strings.HasPrefix(line, "+OK") {
			lines = append(lines, line)
		}
	}
	return nil, fmt.Errorf("the engine answered CAPA with %q", octets)
}

var _ pop3.Backend = at{}
