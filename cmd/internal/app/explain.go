package app

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/cmd/internal/config"
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
	r.assembly, err = assemble(cfg, &parts{}, slog.New(slog.DiscardHandler), nil)
	if err := errors.Join(err, noCache); err != nil {
		return nil, err
	}
	for _, w := range append(r.assembly.warnings(), r.assembly.certificateWarnings(time.Now())...) {
		r.Warnings = append(r.Warnings, w)
	}
	return r, nil
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
}

func (a *assembly) explain(w io.Writer, l config.Listener) {
	p := a.policies[l.Policy]
	fmt.Fprintf(w, "listener %s, %s, policy %s\n", l.Name, l.Address, l.Policy)
	t := authn.Transport{Listener: l.Name, Stamp: "<1.2@" + a.hostname() + ">"}
	if l.KPOP() {
		t.Peer = &authn.Principal{}
	}
	if l.TLS != config.TLSImplicit {
		writeVerdicts(w, "in the clear", p.Explain(&t))
		for _, n := range p.Trusted {
			from := t
			from.Remote = netip.AddrPortFrom(n.Addr(), 0)
			writeVerdicts(w, "in the clear from "+n.String(), p.Explain(&from))
		}
	}
	if l.UsesTLS() {
		t.TLS, t.EndPoint = &tls.ConnectionState{}, []byte{} // of a certificate that is not there yet
		writeVerdicts(w, "inside TLS", p.Explain(&t))
	}
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
		if v.Reason != nil {
			fmt.Fprintf(w, "    not %s: %v\n", v.Mechanism.Name(), v.Reason)
		}
	}
}
