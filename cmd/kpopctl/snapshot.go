package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/kpopd/kpopd/cmd/internal/cli"
	"github.com/kpopd/kpopd/cmd/internal/snapshot"
)

// snapshotFlags are those of one run.
type snapshotFlags struct {
	users, output, tls, ca, serverName string
	master, separator                  string
	parallel                           int
	timeout                            time.Duration
	resume                             bool
}

func newSnapshot() *cobra.Command {
	var o snapshotFlags
	c := &cobra.Command{
		Use:   "snapshot HOST:PORT --users FILE",
		Short: "Record what a server lists for each user",
		Long: `Log in to a POP3 server for each user, and record number, unique-id and size of
every message: a line of JSON for each maildrop. No message is retrieved or
deleted, and no session ends with QUIT, so that the server removes nothing.

The users file has mode 0600 and a line login:password for each user. With a
master user (--master) the logins alone are enough: he logs in with SASL PLAIN
and asks to act for each user, or, with --separator '*', as user*master.

A maildrop that cannot be listed is recorded with the reason, and the others go
on; the status is then 1. --resume lists what is missing or failed in --output.
Ctrl-C keeps what is there. Passwords are never recorded.`,
		Example: "  kpopctl uidl snapshot old.example.org:995 --users users --output old.jsonl\n" +
			"  kpopctl uidl snapshot 192.0.2.7:995 --server-name mail.example.org --users users --output new.jsonl --resume\n" +
			"  kpopctl uidl snapshot old.example.org:110 --users logins --master master --separator * --parallel 8",
		Args: exactly("HOST:PORT"),
		RunE: func(c *cobra.Command, args []string) error {
			source, err := o.source(c, args[0])
			if err != nil {
				return err
			}
			return o.run(c, source)
		},
	}
	f := c.Flags()
	f.StringVarP(&o.users, "users", "u", "", "`FILE` of login:password lines, mode 0600")
	f.StringVarP(&o.output, "output", "o", "", "`FILE` to write; standard output when absent")
	f.BoolVar(&o.resume, "resume", false, "go on with the file of --output: list what is missing or failed there")
	f.StringVar(&o.tls, "tls", "", "`WORD` is implicit, starttls or none; implicit on port 995 and starttls elsewhere when absent")
	f.StringVar(&o.ca, "ca", "", "`FILE` of authorities to trust, PEM; those of the system when absent")
	f.StringVar(&o.serverName, "server-name", "", "`NAME` that the server's certificate must have; HOST when absent")
	f.StringVar(&o.master, "master", "", "`FILE` with the line master:password of a master user, mode 0600")
	f.StringVar(&o.separator, "separator", "", "`CHARACTER` between user and master in a login; SASL PLAIN tells the user when absent")
	f.IntVarP(&o.parallel, "parallel", "p", 4, "`NUMBER` of sessions at a time")
	f.DurationVar(&o.timeout, "timeout", 10*time.Minute, "`TIME` that one maildrop may take")
	return c
}

// source is the server that the flags name.
func (o *snapshotFlags) source(c *cobra.Command, address string) (*snapshot.Source, error) {
	usage := func(format string, a ...any) (*snapshot.Source, error) {
		return nil, cli.Usage(c, fmt.Errorf(format, a...))
	}
	host, port, err := net.SplitHostPort(address)
	s := &snapshot.Source{Address: address, TLS: snapshot.TLS(o.tls), Timeout: o.timeout, Separator: o.separator}
	switch {
	case err != nil || host == "" || port == "":
		return usage("%q is not HOST:PORT", address)
	case o.users == "":
		return usage("--users is missing")
	case o.separator != "" && o.master == "":
		return usage("--separator needs --master")
	case o.resume && o.output == "":
		return usage("--resume needs --output")
	case o.parallel < 1 || o.parallel > 1000:
		return usage("--parallel %d: from 1 to 1000", o.parallel)
	case o.timeout <= 0:
		return usage("--timeout %v: more than nothing", o.timeout)
	case o.tls == "" && port == "995":
		s.TLS = snapshot.Implicit
	case o.tls == "":
		s.TLS = snapshot.StartTLS
	case !slices.Contains([]snapshot.TLS{snapshot.Implicit, snapshot.StartTLS, snapshot.None}, s.TLS):
		return usage("--tls %q is not known; write implicit, starttls or none", o.tls)
	}
	s.Config = &tls.Config{ServerName: host}
	if o.serverName != "" {
		s.Config.ServerName = o.serverName
	}
	if o.ca != "" {
		pem, err := os.ReadFile(o.ca)
		if err != nil {
			return nil, err
		}
		s.Config.RootCAs = x509.NewCertPool()
		if !s.Config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s: no certificate in PEM", o.ca)
		}
	}
	if o.master != "" {
		if s.Master, err = snapshot.ReadMaster(o.master); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (o *snapshotFlags) run(c *cobra.Command, s *snapshot.Source) (err error) {
	users, err := snapshot.ReadUsers(o.users, s.Master != nil)
	if err != nil {
		return err
	}
	defer wipe(users, s.Master)
	ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := s.Probe(ctx); err != nil {
		return err
	}
	out, left, err := o.open(c.OutOrStdout(), s.Address, users)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	p := newProgress(c.ErrOrStderr(), len(left))
	err = s.Take(ctx, left, o.parallel, func(m *snapshot.Maildrop) error {
		p.add(m)
		return snapshot.Write(out, m)
	})
	p.end()
	switch {
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("interrupted: %d of %d maildrops done, %d of them failed%s", p.done, len(left), p.failed, o.hint())
	case err != nil:
		return err
	case p.failed > 0:
		return fmt.Errorf("%d of %d maildrops failed%s", p.failed, len(left), o.hint())
	}
	return nil
}

func (o *snapshotFlags) hint() string {
	if o.output == "" {
		return ""
	}
	return "; --resume lists what is left"
}

func wipe(users []snapshot.Login, master *snapshot.Login) {
	for _, u := range users {
		u.Password.Wipe()
	}
	if master != nil {
		master.Password.Wipe()
	}
}

// open begins a snapshot or goes on with one, and says which users are left.
func (o *snapshotFlags) open(stdout io.Writer, server string, users []snapshot.Login) (io.WriteCloser, []snapshot.Login, error) {
	if o.output == "" {
		return plainWriter{stdout}, users, snapshot.Begin(stdout, server)
	}
	how := os.O_RDWR | os.O_CREATE
	if !o.resume {
		how |= os.O_EXCL
	}
	f, err := os.OpenFile(o.output, how, 0o600) // who has mail, and what its unique-ids are, is nobody else's business
	if errors.Is(err, os.ErrExist) {
		return nil, nil, fmt.Errorf("%s is there already; --resume goes on with it", o.output)
	}
	if err != nil {
		return nil, nil, err
	}
	left, err := o.resumed(f, server, users)
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return &syncedFile{f}, left, nil
}

// resumed puts f at the end of what is complete.
func (o *snapshotFlags) resumed(f *os.File, server string, users []snapshot.Login) ([]snapshot.Login, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.Size() == 0 {
		return users, snapshot.Begin(f, server)
	}
	old, err := snapshot.Open(f)
	if err != nil {
		return nil, err
	}
	if old.Header.Server != server {
		return nil, fmt.Errorf("%s is of %s, not of %s", o.output, old.Header.Server, server)
	}
	if err := f.Truncate(old.Size()); err != nil {
		return nil, err
	}
	if _, err := f.Seek(old.Size(), io.SeekStart); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(users), func(u snapshot.Login) bool { return old.Complete(u.User) }), nil
}

// plainWriter is standard output, which stays open.
type plainWriter struct{ io.Writer }

func (plainWriter) Close() error { return nil }

// syncedFile is durable once it is closed.
type syncedFile struct{ *os.File }

func (f *syncedFile) Close() error { return errors.Join(f.Sync(), f.File.Close()) }
