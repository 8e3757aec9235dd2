// Command kpopctl answers questions about a kpopd server and its configuration.
//
// # Design notes
//
// What it says of a configuration is asked of the parts that a server is made
// of, which cmd/internal/app builds: it has no opinion of its own on what a
// policy does. It opens no socket and changes nothing.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/kpopd/kpopd/cmd/internal/config"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run ends with 1 when something went wrong and 2 when the command line did.
func run(args []string, out, errs io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errs)
	err := root.ExecuteContext(context.Background())
	var usage *usageError
	var problem *config.Problem
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usage):
		fmt.Fprintf(errs, "kpopctl: %v\n", err)
		return 2
	case errors.As(err, &problem): // has a line for each, which begins with the file
		fmt.Fprintln(errs, err)
		return 1
	default:
		fmt.Fprintf(errs, "kpopctl: %v\n", err)
		return 1
	}
}

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
		Use:           "kpopctl",
		Short:         "Answers about a kpopd server and its configuration",
		Long:          `kpopctl answers questions about a kpopd server and its configuration.`,
		Args:          noArgs,
		RunE:          needsCommand,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return &usageError{err, c.CommandPath()} })
	root.AddCommand(newExplain())
	return root
}

func needsCommand(c *cobra.Command, _ []string) error {
	return &usageError{errors.New("no command given"), c.CommandPath()}
}

func noArgs(c *cobra.Command, args []string) error {
	if err := cobra.NoArgs(c, args); err != nil {
		return &usageError{err, c.CommandPath()}
	}
	return nil
}
