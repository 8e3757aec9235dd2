package main

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"github.com/kpopd/kpopd/cmd/internal/app"
	"github.com/kpopd/kpopd/cmd/internal/cli"
)

func newServe() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "serve -c FILE",
		Short: "Serve mail",
		Long: `Serve mail as the configuration says, in the foreground. The log goes to
standard error.

SIGHUP   reads the configuration, certificates, keytab and users files again;
         sessions go on. What is wrong is logged, and the old configuration stays.
SIGTERM  (or SIGINT) stops listening, lets downloads end within
         limits.drain_timeout, then ends. A second one ends at once.`,
		Example: "  kpopd serve -c /etc/kpopd/kpopd.yaml",
		Args:    cli.Args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := cli.Required(c, "config"); err != nil {
				return err
			}
			return serve(c.Context(), file, c.ErrOrStderr())
		},
	}
	c.Flags().StringVarP(&file, "config", "c", "", "configuration `FILE`")
	return c
}

func serve(ctx context.Context, file string, log io.Writer) error {
	return cli.Serve(func() (cli.Server, error) {
		s, err := app.Start(ctx, file, log)
		if err != nil {
			return cli.Server{}, err
		}
		return cli.Server{Reload: func() { _ = s.Reload(ctx) }, Shutdown: s.Shutdown}, nil
	})
}
