package app

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/kpopd/kpopd/authn/krb5"
	"github.com/kpopd/kpopd/cmd/internal/config"
)

// chooseTickets has tickets taken by the keytab that is here, or by the helper
// that has it.
func (a *assembly) chooseTickets() {
	if c := a.parts.helpers[a.cfg.Kerberos.Remote]; c != nil {
		a.tickets = c
	}
	if a.acceptor != nil {
		a.tickets = a.acceptor
	}
}

func (a *assembly) openKerberos(old *parts) error {
	k := a.cfg.Kerberos
	if k.Keytab == "" {
		return nil
	}
	keytab, err := krb5.OpenKeytab(k.Keytab)
	if err != nil {
		return a.cfg.Problem("kerberos.keytab", err)
	}
	a.parts.keytab, a.parts.keytabPath = keytab, k.Keytab
	if err := a.openReplay(old); err != nil {
		return a.cfg.Problem("kerberos.replay_cache", err)
	}
	a.acceptor = &krb5.Acceptor{
		Keytab: keytab, Services: k.Services, Hosts: k.Hosts, Enctypes: k.EnctypeNumbers(),
		Skew: k.ClockSkew, Replay: a.parts.replay, CheckAddresses: k.CheckAddresses,
	}
	if len(a.acceptor.Usable()) == 0 {
		return a.cfg.Problem("kerberos.keytab", fmt.Errorf("no ticket could be taken: %s has keys for %s; "+
			"add one for pop/HOST, or change services, hosts or enctypes", k.Keytab, nameList(keytab.Services())))
	}
	if old.keytab != nil && old.keytabPath == k.Keytab {
		keytab.Keep(old.keytab)
	}
	return nil
}

func nameList(names []string) string {
	if len(names) == 0 {
		return "nobody"
	}
	return strings.Join(names, ", ")
}

func (a *assembly) openReplay(old *parts) error {
	path := a.cfg.Kerberos.ReplayCache
	a.parts.replayPath = path
	if old.replay != nil && old.replayPath == path {
		a.parts.replay = old.replay
		return nil
	}
	if path == config.ReplayMemory {
		a.parts.replay = &krb5.MemoryReplay{}
		return nil
	}
	cache, err := krb5.OpenFileReplay(path)
	if err != nil {
		return err
	}
	a.parts.replay = cache
	return nil
}

func (a *assembly) watchKeytab(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	broken := false // a lasting fault is told once
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !a.parts.keytab.Changed() {
			continue
		}
		err := a.parts.keytab.Reload()
		switch {
		case err == nil:
			a.log.Info("keytab reloaded", "keytab", a.parts.keytabPath, "services", a.parts.keytab.Services())
		case !broken:
			a.log.Error("keytab not reloaded, old keys stay", "keytab", a.parts.keytabPath, "err", err)
		}
		broken = err != nil
	}
}
