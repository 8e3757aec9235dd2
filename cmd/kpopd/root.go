package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

// usageError is a command line that says nothing we could do.
type usageError struct {
	err  error
	path string // of the command whose help would help
}

func (e *usageError) Error() string {
	return fmt.Sprintf("%v\nTry '%s --help'.", e.err, e.path)
}

func (e *usageError) Unwrap() error { return e.err }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "kpopd",
		Short: "POP3, POP3S and KPOP server",
		Long: `kpopd serves mail by POP3 with STLS (port 110), POP3S (995) and KPOP, the
Kerberized POP (1109), from one process.

To see it work without preparing anything:  kpopd demo`,
		Args:          checked(cobra.NoArgs),
		RunE:          needsCommand,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return &usageError{err, c.CommandPath()} })
	root.AddCommand(newServe(), newAuth(), newCheck(), newDemo(), newPasswd(), newVersion())
	return root
}

func needsCommand(c *cobra.Command, _ []string) error {
	return &usageError{errors.New("no command given"), c.CommandPath()}
}

// checked makes refusals of arguments usage errors.
func checked(f cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if err := f(c, args); err != nil {
			return &usageError{err, c.CommandPath()}
		}
		return nil
	}
}

// required wants flags that have no default to be given.
func required(c *cobra.Command, flags ...string) error {
	for _, f := range flags {
		if c.Flag(f).Value.String() == "" {
			return &usageError{fmt.Errorf("--%s is missing", f), c.CommandPath()}
		}
	}
	return nil
}
