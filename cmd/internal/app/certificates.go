package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/kpopd/kpopd/cmd/internal/certs"
	"github.com/kpopd/kpopd/cmd/internal/config"
)

// certificateInterval is how often changed certificate files are looked for.
const certificateInterval = time.Minute

// runsOutSoon is how long before its end a certificate is warned about. Who
// renews by a program does so a month before.
const runsOutSoon = 14 * 24 * time.Hour

// checkCertificates tells of each certificate that cannot be used, once and not
// for every listener.
func (a *assembly) checkCertificates() error {
	var errs []error
	for i, c := range a.cfg.Certificates {
		if _, err := certs.New([]certs.File{{Cert: c.Cert, Key: c.Key}}, certs.Clients{}); err != nil {
			errs = append(errs, a.cfg.Problem(fmt.Sprintf("certificates[%d]", i), err))
		}
	}
	return errors.Join(errs...)
}

// certificates are all there are, the one that the listener names first.
func (a *assembly) certificates(l config.Listener) []certs.File {
	var files []certs.File
	for _, c := range a.cfg.Certificates {
		f := certs.File{Cert: c.Cert, Key: c.Key}
		if c.Name == l.Certificate {
			files = slices.Insert(files, 0, f)
		} else {
			files = append(files, f)
		}
	}
	return files
}

func (a *assembly) warnCertificates() {
	for _, w := range a.certificateWarnings(time.Now()) {
		a.log.Warn("certificate", "key", w.Key, "line", w.Line, "warning", w.Err.Error())
	}
}

// watchCertificates warns every day, as a server may run for longer than its
// certificates.
func (a *assembly) watchCertificates(ctx context.Context) {
	tick := time.NewTicker(24 * time.Hour)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			a.warnCertificates()
		}
	}
}

// certificateWarnings are about the certificates that listeners show: dates,
// and keys that everybody may read.
func (a *assembly) certificateWarnings(now time.Time) []*config.Problem {
	list := a.clientWarnings(now)
	i := slices.IndexFunc(a.doors, func(d *door) bool { return d.certs != nil })
	if i < 0 {
		return list
	}
	// every store has all certificates, the one that its listener names first
	leaves, files := a.doors[i].certs.Leaves(), a.certificates(a.cfg.Listeners[i])
	for i, c := range a.cfg.Certificates {
		leaf := leaves[slices.Index(files, certs.File{Cert: c.Cert, Key: c.Key})]
		add := func(key, format string, args ...any) {
			list = append(list, a.cfg.Problem(fmt.Sprintf("certificates[%d].%s", i, key), fmt.Errorf(format, args...)))
		}
		switch {
		case now.After(leaf.NotAfter):
			add("cert", "ran out on %s; clients refuse it: renew it", leaf.NotAfter.Format(time.DateOnly))
		case now.Before(leaf.NotBefore):
			add("cert", "is valid from %s on only; clients refuse it: check the clock", leaf.NotBefore.Format(time.DateOnly))
		case leaf.NotAfter.Sub(now) < runsOutSoon:
			add("cert", "runs out on %s; renew it", leaf.NotAfter.Format(time.DateOnly))
		}
		if st, err := os.Stat(c.Key); err == nil && st.Mode()&0o007 != 0 {
			add("key", "%s is open to everybody (mode %04o): chmod 600 it", c.Key, st.Mode().Perm())
		}
	}
	return list
}

// clientWarnings are about the authorities of client certificates.
func (a *assembly) clientWarnings(now time.Time) []*config.Problem {
	var list []*config.Problem
	for i, d := range a.doors {
		if d.certs == nil {
			continue
		}
		ca, crl := d.certs.ClientsWarnings(now, runsOutSoon)
		for _, err := range ca {
			list = append(list, a.cfg.Problem(fmt.Sprintf("listeners[%d].client_ca", i), err))
		}
		for _, err := range crl {
			list = append(list, a.cfg.Problem(fmt.Sprintf("listeners[%d].client_crl", i), err))
		}
	}
	return list
}
