package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/kpopd/kpopd/cmd/internal/cli"
)

// demoOptions are the flags of the demonstration.
type demoOptions struct {
	dir       string
	addresses addresses
	ready     string
	exit      bool
}

func newDemo() *cobra.Command {
	var o demoOptions
	c := &cobra.Command{
		Use:   "demo",
		Short: "Show all of it, with nothing prepared",
		Long: `Make a scratch folder with users, mail, certificates, a keytab and a
configuration; start a KDC for the realm ` + demoRealm + ` and a server with three
listeners, all on the loopback; go through each door as a client, showing what
travels (secrets masked) and comparing the mail octet for octet. Then stay up and
print commands to try with kinit, fetchmail, curl and openssl. Ctrl-C ends it.

The passwords are the same in every demonstration: do not open it to a network.`,
		Example: "  kpopd demo\n  kpopd demo --exit\n  kpopd demo --dir /tmp/kpop --pop3 127.0.0.1:1110 --ready-file /tmp/ready.json",
		Args:    cli.Args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			return demo(c.Context(), &o, c.OutOrStdout())
		},
	}
	f := c.Flags()
	f.StringVar(&o.dir, "dir", "", "use the empty or missing `FOLDER` and keep it; a temporary one otherwise")
	f.StringVar(&o.addresses.POP3, "pop3", "", "`ADDRESS` of the POP3 listener; a free port on 127.0.0.1 otherwise")
	f.StringVar(&o.addresses.POP3S, "pop3s", "", "`ADDRESS` of the POP3S listener")
	f.StringVar(&o.addresses.KPOP, "kpop", "", "`ADDRESS` of the KPOP listener")
	f.StringVar(&o.addresses.KDC, "kdc", "", "`ADDRESS` of the KDC, UDP and TCP")
	f.StringVar(&o.ready, "ready-file", "", "write `FILE` (JSON: addresses, files, users) when the server is up")
	f.BoolVar(&o.exit, "exit", false, "end after the walk, with status 1 if anything went wrong")
	return c
}

func demo(ctx context.Context, o *demoOptions, out io.Writer) (err error) {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if o.ready != "" { // of an earlier demonstration, which would be read too soon
		if err := os.Remove(o.ready); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("ready file: %w", err)
		}
	}
	dir, remove, err := scratch(o.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	w, err := build(dir, o.addresses)
	if err != nil {
		return err
	}
	defer w.close()
	log, err := os.Create(w.Log)
	if err != nil {
		return fmt.Errorf("demo log: %w", err)
	}
	defer log.Close()
	s, err := w.serve(ctx, log)
	if err != nil {
		return err
	}
	defer s.Shutdown(nil)
	if o.ready != "" {
		if err := w.writeReady(o.ready); err != nil {
			return err
		}
	}
	w.describe(out)
	err = w.walk(ctx, out)
	if o.exit || ctx.Err() != nil {
		return err
	}
	w.hints(out)
	<-ctx.Done()
	return nil
}

// scratch is an empty folder, and what to do with it in the end.
func scratch(dir string) (path string, remove func() error, err error) {
	if dir == "" {
		path, err = os.MkdirTemp("", "kpopd-demo-")
		if err != nil {
			return "", nil, fmt.Errorf("demo folder: %w", err)
		}
		return path, func() error { return os.RemoveAll(path) }, nil
	}
	path, err = filepath.Abs(dir)
	if err == nil {
		err = os.MkdirAll(path, 0o700)
	}
	if err != nil {
		return "", nil, fmt.Errorf("demo folder: %w", err)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return "", nil, fmt.Errorf("demo folder: %w", err)
	}
	if len(entries) > 0 {
		return "", nil, fmt.Errorf("demo folder %s is not empty; name one that is, or that is not there", path)
	}
	return path, func() error { return nil }, nil
}
