package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/kpopd/kpopd/cmd/internal/app"
	"github.com/kpopd/kpopd/cmd/internal/cli"
)

func newRestore() *cobra.Command {
	var file, user, path string
	var all bool
	c := &cobra.Command{
		Use:   "restore -c FILE --user USER [--all | UID...]",
		Short: "Give deleted messages back",
		Long: `List the deleted messages in a user's trash (maildrops.deleted: trash), or give
those with the named unique-ids back. They keep their unique-ids, so that clients
which had them do not download them again; retention begins anew. The user need
not log out: the next session has them.

Without this command, move a file from kpopd-trash/DAY of the maildrop to its new,
or to its cur if there is a colon in the name, and touch it.`,
		Example: "  kpopd restore -c kpopd.yaml --user alice\n  kpopd restore -c kpopd.yaml --user alice 1700000000.M1P1.host\n  kpopd restore -c kpopd.yaml --user alice --all",
		RunE: func(c *cobra.Command, uids []string) error {
			if err := cli.Required(c, "config", "user"); err != nil {
				return err
			}
			if all && len(uids) > 0 {
				return cli.Usage(c, errors.New("--all and unique-ids do not go together"))
			}
			r, err := app.NewRestorer(file, user, path)
			if err != nil {
				return err
			}
			defer r.Close()
			if !all && len(uids) == 0 {
				return listTrash(c, r)
			}
			back, err := r.Restore(c.Context(), uids)
			for _, m := range back {
				fmt.Fprintf(c.OutOrStdout(), "%s is back\n", m.UID)
			}
			return err
		},
	}
	c.Flags().StringVarP(&file, "config", "c", "", "configuration `FILE`")
	c.Flags().StringVar(&user, "user", "", "whose mail: the `NAME` under which the maildrop is kept")
	c.Flags().StringVar(&path, "maildrop", "", "where it is below the root, at `PATH`, if not where the layout says")
	c.Flags().BoolVar(&all, "all", false, "give back all that is in the trash")
	return c
}

func listTrash(c *cobra.Command, r *app.Restorer) error {
	messages, err := r.List(c.Context())
	for _, m := range messages {
		fmt.Fprintf(c.OutOrStdout(), "%s  %10d octets  %s\n", m.Deleted.Format("2006-01-02"), m.Octets, m.UID)
	}
	return err
}
