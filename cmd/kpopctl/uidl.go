package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/kpopd/kpopd/cmd/internal/cli"
)

func newUIDL() *cobra.Command {
	c := &cobra.Command{
		Use:   "uidl",
		Short: "Compare the unique-ids of two servers",
		Long: `Compare what two POP3 servers list, or one server at two times: a client that
leaves mail on the server fetches everything again whose unique-id has changed.

Take a snapshot of the old server and one of the new server, and compare them.`,
		Args: cli.Args(cobra.NoArgs),
		RunE: cli.NeedsCommand,
	}
	c.AddCommand(newSnapshot(), newDiff())
	return c
}

// exactly wants so many arguments, which have names.
func exactly(names ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return cli.Usage(c, errors.New(names[len(args)]+" is missing"))
		case len(args) > len(names):
			return cli.Usage(c, errors.New("too many arguments"))
		}
		return nil
	}
}
