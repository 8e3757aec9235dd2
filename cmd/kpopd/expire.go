package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/kpopd/kpopd/cmd/internal/app"
	"github.com/kpopd/kpopd/cmd/internal/cli"
)

func newExpire() *cobra.Command {
	var file string
	var dry bool
	c := &cobra.Command{
		Use:   "expire -c FILE",
		Short: "Remove messages that are kept no longer",
		Long: `Remove from all maildrops what maildrops.expire_arrived and expire_retrieved keep
no longer, and from their trash what trash_days does not. It is for a daily timer,
as the user who owns the mail, beside a server that runs. A maildrop in use is
left alone; its session removes the same when it ends with QUIT.

The log goes to standard error and has a line for each message. The status is 1
when a maildrop could not be looked at. A first run keeps all that kpopd has not
seen before: retention counts from then.`,
		Example: "  kpopd expire --dry-run -c /etc/kpopd/kpopd.yaml\n  kpopd expire -c /etc/kpopd/kpopd.yaml",
		Args:    cli.Args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := cli.Required(c, "config"); err != nil {
				return err
			}
			e, err := app.Expire(c.Context(), file, dry, c.ErrOrStderr())
			if err != nil {
				return err
			}
			verb := "removed"
			if dry {
				verb = "would be removed"
			}
			fmt.Fprintf(c.OutOrStdout(), "%d messages of %d octets %s; maildrops: %d looked at, %d in use, %d failed\n",
				e.Messages, e.Octets, verb, e.Maildrops, e.InUse, e.Failed)
			if e.Failed > 0 {
				return cli.Status(1, nil)
			}
			return nil
		},
	}
	c.Flags().StringVarP(&file, "config", "c", "", "configuration `FILE`")
	c.Flags().BoolVarP(&dry, "dry-run", "n", false, "say what would be removed, and remove nothing")
	return c
}
