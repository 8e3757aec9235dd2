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
	"io"
	"os"

	"github.com/kpopd/kpopd/cmd/internal/cli"
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

func run(args []string, in io.Reader, out, errs io.Writer) int {
	return cli.Run(newRoot(), args, in, out, errs)
}
