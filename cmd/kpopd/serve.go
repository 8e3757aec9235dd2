package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/kpopd/kpopd/cmd/internal/app"
)

func newServe() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "serve -c FILE",
		Short: "Serve mail",
		Long: `Serve mail as the configuration says, in the foreground. The log goes to
standard error.

SIGHUP   reads the configuration, certificates, keytab and users files again;
         sessions go on. What is wrong is logged, and the old configuration stays.
SIGTERM  (or SIGINT) stops listening, lets downloads end within
         limits.drain_timeout, then ends. A second one ends at once.`,
		Example: "  kpopd serve -c /etc/kpopd/kpopd.yaml",
		Args:    checked(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := required(c, "config"); err != nil {
				return err
			}
			return serve(c.Context(), file, c.ErrOrStderr())
		},
	}
	c.Flags().StringVarP(&file, "config", "c", "", "configuration `FILE`")
	return c
}

func serve(ctx context.Context, file string, log io.Writer) error {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)
	s, err := app.Start(ctx, file, log)
	if err != nil {
		return err
	}
	for sig := range signals {
		if sig != syscall.SIGHUP {
			break
		}
		_ = s.Reload(ctx) // it has logged what is wrong
	}
	s.Shutdown(second(signals))
	return nil
}

// second is closed when a signal comes that asks to end. Its goroutine may
// wait as long as the process lives.
func second(signals <-chan os.Signal) <-chan struct{} {
	now := make(chan struct{})
	go func() {
		for sig := range signals {
			if sig != syscall.SIGHUP {
				close(now)
				return
			}
		}
	}()
	return now
}
