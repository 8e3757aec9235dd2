// Command kpopd is a POP server: POP3 with STLS, POP3S and KPOP, the
// Kerberized POP, from one process.
//
// # Design notes
//
// Each command is one file; what they do is in cmd/internal/app and the
// packages below it. Errors go to standard error. The status is 1 when
// something went wrong and 2 when the command line was.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/kpopd/kpopd/cmd/internal/config"
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

func run(args []string, in io.Reader, out, errs io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errs)
	err := root.ExecuteContext(context.Background())
	var usage *usageError
	var problem *config.Problem
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usage):
		fmt.Fprintf(errs, "kpopd: %v\n", err)
		return 2
	case errors.As(err, &problem): // has a line for each, which begins with the file
		fmt.Fprintln(errs, err)
		return 1
	default:
		fmt.Fprintf(errs, "kpopd: %v\n", err)
		return 1
	}
}
