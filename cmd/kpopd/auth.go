package main

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"github.com/kpopd/kpopd/cmd/internal/app"
	"github.com/kpopd/kpopd/cmd/internal/cli"
)

func newAuth() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "auth -c FILE",
		Short: "Judge logins for kpopd serve",
		Long: `Judge logins for a kpopd serve that runs under another uid, over a unix socket,
in the foreground. Keytab, password hashes and secrets are then files that the
process which talks to strangers cannot read. The log goes to standard error.

SIGHUP   reads the configuration, keytab and users files again. What is wrong is
         logged, and the old configuration stays.
SIGTERM  (or SIGINT) ends it. Logins that wait for an answer hear "try later".`,
		Example: "  kpopd auth -c /etc/kpopd-auth/auth.yaml",
		Args:    cli.Args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := cli.Required(c, "config"); err != nil {
				return err
			}
			return auth(c.Context(), file, c.ErrOrStderr())
		},
	}
	c.Flags().StringVarP(&file, "config", "c", "", "configuration `FILE`")
	return c
}

func auth(ctx context.Context, file string, log io.Writer) error {
	return cli.Serve(func() (cli.Server, error) {
		h, err := app.StartHelper(ctx, file, log)
		if err != nil {
			return cli.Server{}, err
		}
		return cli.Server{Reload: func() { _ = h.Reload() }, Shutdown: func(<-chan struct{}) { h.Shutdown() }}, nil
	})
}
