package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/kpopd/kpopd/cmd/internal/app"
	"github.com/kpopd/kpopd/cmd/internal/cli"
)

func newCheck() *cobra.Command {
	var file, certificate string
	var verbose bool
	c := &cobra.Command{
		Use:   "check -c FILE",
		Short: "Check a configuration",
		Long: `Check a configuration and all that it names: users files, certificates, keytab,
mail root. What is wrong is told with file, line, key and what to do, all of a
kind at once: keys, then values, then what they name. The status is then 1. No
socket is opened.

With -v, say what each listener offers a client at each stage of a connection,
and why it does not offer the rest. With --certificate, say on which listeners
EXTERNAL lets somebody in with that client certificate, whom, and why not.`,
		Example: "  kpopd check -c /etc/kpopd/kpopd.yaml\n  kpopd check -v -c kpopd.yaml",
		Args:    cli.Args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := cli.Required(c, "config"); err != nil {
				return err
			}
			r, err := app.Check(file)
			if err != nil {
				return err
			}
			for _, w := range r.Warnings {
				fmt.Fprintf(c.ErrOrStderr(), "warning: %v\n", w)
			}
			if verbose {
				r.Explain(c.OutOrStdout())
			}
			if certificate != "" {
				if err := r.ExplainCertificate(c.OutOrStdout(), certificate); err != nil {
					return err
				}
			}
			fmt.Fprintf(c.OutOrStdout(), "%s: good\n", file)
			return nil
		},
	}
	c.Flags().StringVarP(&file, "config", "c", "", "configuration `FILE`")
	c.Flags().StringVar(&certificate, "certificate", "", "say whose the client certificate in `FILE` is")
	c.Flags().BoolVarP(&verbose, "verbose", "v", false, "say what each listener offers")
	return c
}
