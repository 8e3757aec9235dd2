// Command kpopctl answers questions about a kpopd server and its configuration,
// and about the unique-ids of any POP3 server.
//
// # Design notes
//
// What it says of a configuration is asked of the parts that a server is made
// of, which cmd/internal/app builds: it has no opinion of its own on what a
// policy does. It changes nothing, and only uidl snapshot opens sockets.
package main

import (
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kpopd/kpopd/cmd/internal/cli"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run reads nothing.
func run(args []string, out, errs io.Writer) int {
	return cli.Run(newRoot(), args, strings.NewReader(""), out, errs)
}

func newRoot() *cobra.Command {
	root := cli.Root(&cobra.Command{
		Use:   "kpopctl",
		Short: "Answers about a kpopd server and its configuration",
		Long: `kpopctl answers questions about a kpopd server and its configuration, and
compares what two POP3 servers list.`,
	})
	root.AddCommand(newExplain(), newUIDL())
	return root
}
