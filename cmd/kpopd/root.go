package main

import (
	"github.com/spf13/cobra"

	"github.com/kpopd/kpopd/cmd/internal/cli"
)

func newRoot() *cobra.Command {
	root := cli.Root(&cobra.Command{
		Use:   "kpopd",
		Short: "POP3, POP3S and KPOP server",
		Long: `kpopd serves mail by POP3 with STLS (port 110), POP3S (995) and KPOP, the
Kerberized POP (1109), from one process.

To see it work without preparing anything:  kpopd demo`,
	})
	root.AddCommand(newServe(), newAuth(), newCheck(), newDemo(), newExpire(), newPasswd(), newRestore(), newVersion())
	return root
}
