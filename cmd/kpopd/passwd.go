package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/file"
)

// maxPassword is what PASS can carry in a line of 255 octets, and then some.
const maxPassword = 1024

func newPasswd() *cobra.Command {
	c := &cobra.Command{
		Use:   "passwd",
		Short: "Keep users files and digests files",
		Long: `Keep the files of a verifier of type file: the users file with password hashes,
and the digests file with the secrets that APOP and CRAM-MD5 need in the clear.

Passwords are read from the terminal without showing them, or, when standard
input is no terminal, from its first line. A running server sees changes after
SIGHUP.`,
		Args: checked(cobra.NoArgs),
		RunE: needsCommand,
	}
	c.AddCommand(newPasswdSet(), newPasswdSecret(), newPasswdRemove(), newPasswdList())
	return c
}

func newPasswdSet() *cobra.Command {
	var users, scheme string
	c := &cobra.Command{
		Use:     "set LOGIN --users FILE",
		Short:   "Set a password",
		Long:    "Give a login a password: its hash is written to the users file. A login that is not there is added.",
		Example: "  kpopd passwd set alice --users /etc/kpopd/users",
		Args:    checked(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if err := required(c, "users"); err != nil {
				return err
			}
			password, err := readPassword(c, args[0])
			if err != nil {
				return err
			}
			defer password.Wipe()
			hash, err := file.MakeHash(scheme, password)
			if err != nil {
				return err
			}
			return file.SetHash(users, args[0], hash)
		},
	}
	c.Flags().StringVar(&users, "users", "", "users `FILE`")
	c.Flags().StringVar(&scheme, "scheme", file.Schemes()[0], "hash: "+strings.Join(file.Schemes(), ", "))
	return c
}

func newPasswdSecret() *cobra.Command {
	var digests string
	var schemes []string
	c := &cobra.Command{
		Use:   "secret LOGIN --digests FILE",
		Short: "Set a secret for APOP and CRAM-MD5",
		Long: `Give a login a secret for APOP, CRAM-MD5 or both, in the digests file. The
file holds it readably, as these mechanisms need it: let it be nobody's password
elsewhere.`,
		Example: "  kpopd passwd secret bob --digests /etc/kpopd/digests\n  kpopd passwd secret bob --digests digests --scheme CRAM-MD5",
		Args:    checked(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if err := required(c, "digests"); err != nil {
				return err
			}
			secret, err := readPassword(c, args[0])
			if err != nil {
				return err
			}
			defer secret.Wipe()
			for _, scheme := range schemes {
				if err := file.SetSecret(digests, args[0], scheme, secret); err != nil {
					return err
				}
			}
			return nil
		},
	}
	c.Flags().StringVar(&digests, "digests", "", "digests `FILE`")
	c.Flags().StringSliceVar(&schemes, "scheme", file.SecretSchemes(), "mechanisms that the secret is for")
	return c
}

func newPasswdRemove() *cobra.Command {
	var users, digests string
	c := &cobra.Command{
		Use:     "remove LOGIN [--users FILE] [--digests FILE]",
		Short:   "Remove a login and its secrets",
		Example: "  kpopd passwd remove bob --users /etc/kpopd/users --digests /etc/kpopd/digests",
		Args:    checked(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if users == "" && digests == "" {
				return &usageError{errors.New("--users or --digests is missing"), c.CommandPath()}
			}
			found := false
			if users != "" {
				was, err := file.RemoveUser(users, args[0])
				if err != nil {
					return err
				}
				found = was
			}
			if digests != "" {
				was, err := file.RemoveSecret(digests, args[0], "")
				if err != nil {
					return err
				}
				found = found || was
			}
			if !found {
				return fmt.Errorf("%s is not there", args[0])
			}
			return nil
		},
	}
	c.Flags().StringVar(&users, "users", "", "users `FILE`")
	c.Flags().StringVar(&digests, "digests", "", "digests `FILE`")
	return c
}

func newPasswdList() *cobra.Command {
	var digests string
	c := &cobra.Command{
		Use:     "list --digests FILE",
		Short:   "List who has secrets for what",
		Example: "  kpopd passwd list --digests /etc/kpopd/digests",
		Args:    checked(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := required(c, "digests"); err != nil {
				return err
			}
			secrets, err := file.Secrets(digests)
			if err != nil {
				return err
			}
			for _, s := range secrets {
				fmt.Fprintf(c.OutOrStdout(), "%s %s\n", s.Login, s.Scheme)
			}
			return nil
		},
	}
	c.Flags().StringVar(&digests, "digests", "", "digests `FILE`")
	return c
}

// readPassword asks a person twice, and takes the first line of anything else.
func readPassword(c *cobra.Command, login string) (authn.Password, error) {
	in, ok := c.InOrStdin().(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return firstLine(c.InOrStdin())
	}
	ask := func(prompt string) (authn.Password, error) {
		fmt.Fprint(c.ErrOrStderr(), prompt)
		p, err := term.ReadPassword(int(in.Fd()))
		fmt.Fprintln(c.ErrOrStderr())
		if err != nil {
			return nil, fmt.Errorf("read password: %w", err)
		}
		return p, nil
	}
	p, err := ask("Password for " + login + ": ")
	if err != nil {
		return nil, err
	}
	again, err := ask("Once more: ")
	if err != nil {
		return nil, err
	}
	defer again.Wipe()
	if !bytes.Equal(p, again) {
		p.Wipe()
		return nil, errors.New("the two are not the same")
	}
	return usable(p)
}

func firstLine(r io.Reader) (authn.Password, error) {
	b := bufio.NewReaderSize(io.LimitReader(r, maxPassword+2), maxPassword+2)
	line, err := b.ReadBytes('\n')
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("read password: %w", err)
	}
	return usable(bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r")))
}

// usable refuses what no client could send.
func usable(p authn.Password) (authn.Password, error) {
	switch {
	case len(p) == 0:
		return nil, errors.New("the password is empty")
	case len(p) > maxPassword:
		return nil, fmt.Errorf("the password is longer than %d octets", maxPassword)
	}
	return p, nil
}
