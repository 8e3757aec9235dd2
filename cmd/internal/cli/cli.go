// Package cli is what the commands of kpopd and kpopctl have in common: command
// lines that say nothing we could do, the status at the end, and the signals that
// a server obeys.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/kpopd/kpopd/cmd/internal/config"
)

// Run runs a command line. The status is 1 when something went wrong and 2 when
// the command line did; errs says what.
func Run(root *cobra.Command, args []string, in io.Reader, out, errs io.Writer) (status int) {
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errs)
	err := root.ExecuteContext(context.Background())
	var usage *usageError
	var problem *config.Problem
	var answer *statusError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &answer):
		if answer.err != nil {
			fmt.Fprintf(errs, "%s: %v\n", root.Name(), answer.err)
		}
		return answer.status
	case errors.As(err, &usage):
		fmt.Fprintf(errs, "%s: %v\n", root.Name(), err)
		return 2
	case errors.As(err, &problem): // has a line for each, which begins with the file
		fmt.Fprintln(errs, err)
		return 1
	default:
		fmt.Fprintf(errs, "%s: %v\n", root.Name(), err)
		return 1
	}
}

// Root makes c the command that all others stand below: it does nothing itself.
func Root(c *cobra.Command) *cobra.Command {
	c.Args, c.RunE = Args(cobra.NoArgs), NeedsCommand
	c.SilenceErrors, c.SilenceUsage = true, true
	c.CompletionOptions.DisableDefaultCmd = true
	c.SetFlagErrorFunc(Usage)
	c.SetHelpCommand(newHelp())
	return c
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

// Usage makes err one that is the command line's fault.
func Usage(c *cobra.Command, err error) error { return &usageError{err, c.CommandPath()} }

// statusError ends with a status of its own.
type statusError struct {
	status int
	err    error
}

func (e *statusError) Error() string { return fmt.Sprintf("status %d: %v", e.status, e.err) }
func (e *statusError) Unwrap() error { return e.err }

// Status is err with the status that a command ends with; nil says nothing, for a
// status that is an answer.
func Status(status int, err error) error { return &statusError{status, err} }

// NeedsCommand is the RunE of a command that does nothing itself.
func NeedsCommand(c *cobra.Command, _ []string) error {
	return Usage(c, errors.New("no command given"))
}

// Args makes refusals of arguments usage errors.
func Args(f cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if err := f(c, args); err != nil {
			return Usage(c, err)
		}
		return nil
	}
}

// Required wants flags that have no default to be given.
func Required(c *cobra.Command, flags ...string) error {
	for _, f := range flags {
		if c.Flag(f).Value.String() == "" {
			return Usage(c, fmt.Errorf("--%s is missing", f))
		}
	}
	return nil
}

// newHelp is in place of cobra's, whose status is 0 for a command that there is
// not.
func newHelp() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Explain a command",
		RunE: func(c *cobra.Command, args []string) error {
			about, rest, err := c.Root().Find(args)
			if err == nil && len(rest) > 0 {
				err = fmt.Errorf("unknown command %q for %q", rest[0], about.CommandPath())
			}
			if err != nil {
				return Usage(c.Root(), err)
			}
			about.InitDefaultHelpFlag() // or the help would not name it
			return about.Help()
		},
	}
}
