package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/kpopd/kpopd/cmd/internal/app"
	"github.com/kpopd/kpopd/cmd/internal/cli"
)

func newExplain() *cobra.Command {
	var file, when string
	var q app.Question
	c := &cobra.Command{
		Use:   "explain -c FILE --listener NAME --address ADDRESS",
		Short: "Say what a client would be offered, and why",
		Long: `Say what a client would be offered by a configuration, and what would become of
its login: CAPA as the client would see it, for each mechanism of the policy
whether it is offered, the rule behind that with file and line, the steps of the
chain that can judge it, and what a shadow policy would do.

What is known of the login can be told: user, groups, and of a ticket its realm
and enctype. What is not told is open, and the answer says which rules it
depends on. Nothing is asked of a running server; the files that the
configuration names must be there.`,
		Example: "  kpopctl explain -c /etc/kpopd/kpopd.yaml --listener pop3 --address 10.1.2.3\n" +
			"  kpopctl explain -c kpopd.yaml --listener pop3s --address 192.0.2.7 --user alice --group staff --mechanism PLAIN\n" +
			"  kpopctl explain -c kpopd.yaml --listener pop3 --address 192.0.2.7 --tls 1.3 --at 2027-03-01T10:05",
		Args: cli.Args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := cli.Required(c, "config", "listener", "address"); err != nil {
				return err
			}
			var err error
			if q.Time, err = moment(when); err != nil {
				return cli.Usage(c, err)
			}
			r, err := app.Check(file)
			if err != nil {
				return err
			}
			return r.Answer(c.Context(), c.OutOrStdout(), q)
		},
	}
	f := c.Flags()
	f.StringVarP(&file, "config", "c", "", "configuration `FILE`")
	f.StringVar(&q.Listener, "listener", "", "`NAME` of the listener that the client comes to")
	f.StringVar(&q.Address, "address", "", "`ADDRESS` that the client comes from")
	f.StringVar(&q.TLS, "tls", "", "`VERSION` of TLS: none, 1.2 or 1.3; what the listener begins with when absent")
	f.StringVar(&q.Certificate, "certificate", "", "the client's certificate: `WORD` is valid, one that belongs to somebody, or none")
	f.StringVar(&q.Mechanism, "mechanism", "", "explain the mechanism `NAME` only")
	f.StringVar(&q.User, "user", "", "`LOGIN` that proves itself")
	f.StringArrayVar(&q.Groups, "group", nil, "`NAME` of a group that the user is in; may be given more than once")
	f.StringVar(&q.Realm, "realm", "", "Kerberos `REALM` of the client's ticket")
	f.StringVar(&q.Enctype, "enctype", "", "`NAME` of the ticket's enctype")
	f.StringVar(&q.Binding, "binding", "", "whether the login is bound to TLS: `WORD` is used or none")
	f.StringVar(&q.As, "as", "", "`LOGIN` that the user asks to act for")
	f.StringVar(&when, "at", "", "`TIME` of the login, local: 2027-03-01T10:05; now when absent")
	return c
}

func moment(s string) (time.Time, error) {
	if s == "" {
		return time.Now(), nil
	}
	t, err := time.ParseInLocation("2006-01-02T15:04", s, time.Local)
	if err != nil {
		return t, fmt.Errorf("%q is no time; write 2027-03-01T10:05", s)
	}
	return t, nil
}
