package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/kpopd/kpopd/cmd/internal/certs"
	"github.com/kpopd/kpopd/krb5test"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"kpopctl": main})
}

var update = flag.Bool("update", false, "rewrite the golden files of the scripts")

func TestScript(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                filepath.Join("testdata", "script"),
		RequireUniqueNames: true,
		UpdateScripts:      *update,
		Setup: func(e *testscript.Env) error {
			e.Setenv("TZ", "UTC")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"certificate": certificate, "keytab": keytab},
	})
}

// certificate writes mail.crt and mail.key for localhost.
func certificate(ts *testscript.TestScript, _ bool, _ []string) {
	ca, err := certs.NewAuthority("script CA")
	ts.Check(err)
	cert, key, err := ca.Issue("localhost")
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs("mail.crt"), cert, 0o600))
	ts.Check(os.WriteFile(ts.MkAbs("mail.key"), key, 0o600))
}

// keytab writes a keytab for pop/localhost.
func keytab(ts *testscript.TestScript, _ bool, _ []string) {
	kdc := krb5test.NewKDC("DEMO.TEST")
	kdc.AddService("pop/localhost")
	ts.Check(kdc.WriteKeytab(ts.MkAbs("keytab"), "pop/localhost"))
}

// Each flag is explained, and the examples are command lines that are taken.
func TestHelp(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"--help"}, {"explain", "--help"}} {
		var out, errs bytes.Buffer
		if status := run(args, &out, &errs); status != 0 || errs.Len() > 0 {
			t.Errorf("%v: status %d, %s", args, status, errs.String())
		}
		c, _, err := newRoot().Find(args[:len(args)-1])
		if err != nil || c.Short == "" {
			t.Fatalf("%v: %v", args, err)
		}
		for flag := range strings.Lines(c.Flags().FlagUsages()) {
			if !strings.Contains(out.String(), flag) || len(strings.Fields(flag)) < 4 {
				t.Errorf("%v does not explain %q", args, flag)
			}
		}
		for example := range strings.Lines(c.Example) {
			found, rest, err := newRoot().Find(strings.Fields(example)[1:])
			if err != nil || found.Name() != c.Name() {
				t.Fatalf("%q: %v", example, err)
			}
			if err := found.ParseFlags(rest); err != nil || len(found.Flags().Args()) > 0 {
				t.Errorf("%q: %v", example, err)
			}
		}
	}
}
