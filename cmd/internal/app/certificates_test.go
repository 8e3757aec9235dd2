package app

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kpopd/kpopd/cmd/internal/certs"
	"github.com/kpopd/kpopd/cmd/internal/config"
)

// withTLS assembles a configuration with a certificate that is valid for 30
// days from now on.
func withTLS(t *testing.T, log *slog.Logger) *assembly {
	t.Helper()
	ca, err := certs.NewAuthority("test CA")
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := ca.Issue("mail.example")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(base, "policies:", "certificates: [{name: x, cert: x.crt, key: x.key}]\npolicies:", 1)
	path := folder(t, strings.Replace(text, `0", policy`, `0", tls: starttls, policy`, 1))
	dir := filepath.Dir(path)
	cfg, loadErr := config.Load(path)
	if err := errors.Join(
		loadErr,
		os.WriteFile(filepath.Join(dir, "x.crt"), cert, 0o600),
		os.WriteFile(filepath.Join(dir, "x.key"), key, 0o600),
	); err != nil {
		t.Fatal(err)
	}
	a, err := assemble(cfg, &parts{}, log, nil)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestCertificateWarnings(t *testing.T) {
	t.Parallel()
	a := withTLS(t, slog.New(slog.DiscardHandler))
	const day = 24 * time.Hour
	for _, c := range []struct {
		name  string
		after time.Duration
		mode  os.FileMode
		want  string
	}{
		{"good", 0, 0o600, ""},
		{"for its group", 0, 0o640, ""},
		{"soon out of date", 17 * day, 0o600, "k.yaml:3: certificates[0].cert: runs out on "},
		{"out of date", 31 * day, 0o600, "k.yaml:3: certificates[0].cert: ran out on "},
		{"not valid yet", -day, 0o600, "k.yaml:3: certificates[0].cert: is valid from "},
		{"key open to everybody", 0, 0o644, "x.key is open to everybody (mode 0644): chmod 600 it"},
	} {
		if err := os.Chmod(a.cfg.Certificates[0].Key, c.mode); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, w := range a.certificateWarnings(time.Now().Add(c.after)) {
			got = append(got, w.Error())
		}
		if all := strings.Join(got, "\n"); !strings.Contains(all, c.want) || (c.want == "") != (all == "") || len(got) > 1 {
			t.Errorf("%s: got %q, want %q", c.name, all, c.want)
		}
	}
}

// A server that runs for longer than its certificates warns before they end.
func TestCertificatesAreWatched(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out syncBuffer
		a := withTLS(t, plainLog(&out, slog.LevelInfo))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); a.watchCertificates(ctx) }() // ended by cancel
		time.Sleep(15*24*time.Hour + time.Hour)
		synctest.Wait()
		if early := out.String(); early != "" {
			t.Errorf("half a month before the end: %s", early)
		}
		time.Sleep(48 * time.Hour)
		cancel()
		<-done
		if !strings.Contains(out.String(), "level=WARN msg=certificate key=certificates[0].cert line=3 warning=\"runs out on ") {
			t.Errorf("log: %q", out.String())
		}
	})
}
