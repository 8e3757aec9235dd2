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
	"github.com/kpopd/kpopd/cmd/internal/cli"
)

// maxPassword is what PASS can carry in a line of 255 octets, and then some.
const maxPassword = 1024

func newPasswd() *cobra.Command {
	c := &cobra.Command{
		Use:   "passwd",
		Short: "Keep users files and digests files",
		Long: `Keep the files of a verifier of type file: the users file with password hashes,
the digests file with keys for SCRAM and sealed secrets for APOP and CRAM-MD5, and
the key file that seals them.

Passwords are read from the terminal without showing them, or, when standard
input is no terminal, from its first line. A running server sees changes after
SIGHUP.`,
		Args: cli.Args(cobra.NoArgs),
		RunE: cli.NeedsCommand,
	}
	c.AddCommand(newPasswdSet(), newPasswdScram(), newPasswdSecret(), newPasswdRemove(), newPasswdList(),
		newPasswdKey(), newPasswdSeal(), newPasswdRotate())
	return c
}

func newPasswdSet() *cobra.Command {
	var users, digests, key, scheme string
	c := &cobra.Command{
		Use:   "set LOGIN --users FILE [--digests FILE]",
		Short: "Set a password",
		Long: `Give a login a password: its hash is written to the users file. A login that is
not there is added.

With --digests, keys for SCRAM that the login has there are made anew of the new
password; without, the old password goes on to open them. A password that is the
login's secret for APOP or CRAM-MD5 is refused.

Hashes:
` + hashTable(),
		Example: "  kpopd passwd set alice --users /etc/kpopd/users\n" +
			"  kpopd passwd set alice --users users --digests digests --key digests.key",
		Args: cli.Args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if err := cli.Required(c, "users"); err != nil {
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
			if digests != "" {
				if err := renewKeys(digests, key, args[0], password); err != nil {
					return err
				}
			}
			return file.SetHash(users, args[0], hash)
		},
	}
	c.Flags().StringVar(&users, "users", "", "users `FILE`")
	c.Flags().StringVar(&digests, "digests", "", "digests `FILE` whose keys for SCRAM are made anew")
	c.Flags().StringVar(&key, "key", "", "key `FILE` of a digests file with sealed lines")
	c.Flags().StringVar(&scheme, "scheme", file.Schemes()[0], "hash: "+strings.Join(file.Schemes(), ", "))
	return c
}

// hashTable says what each scheme costs.
func hashTable() string {
	var b strings.Builder
	for _, s := range file.Schemes() {
		fmt.Fprintf(&b, "  %-9s %s\n", s, file.Parameters(s))
	}
	return strings.TrimRight(b.String(), "\n")
}

func newPasswdRemove() *cobra.Command {
	var users, digests, scheme string
	c := &cobra.Command{
		Use:   "remove LOGIN [--users FILE] [--digests FILE [--scheme SCHEME]]",
		Short: "Remove a login and its secrets",
		Example: "  kpopd passwd remove bob --users /etc/kpopd/users --digests /etc/kpopd/digests\n" +
			"  kpopd passwd remove bob --digests /etc/kpopd/digests --scheme APOP",
		Args: cli.Args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if users == "" && digests == "" {
				return cli.Usage(c, errors.New("--users or --digests is missing"))
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
				was, err := file.RemoveSecret(digests, args[0], scheme)
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
	c.Flags().StringVar(&scheme, "scheme", "", "the secret for this mechanism alone; all when empty")
	return c
}

func newPasswdList() *cobra.Command {
	var users, digests string
	c := &cobra.Command{
		Use:   "list [--users FILE] [--digests FILE]",
		Short: "List who has hashes and secrets of what kind",
		Long: `List who has which kind of hash in a users file, and secrets for what in a digests
file. Neither hash nor secret is shown, and no key is needed.`,
		Example: "  kpopd passwd list --users /etc/kpopd/users --digests /etc/kpopd/digests",
		Args:    cli.Args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if users == "" && digests == "" {
				return cli.Required(c, "users", "digests")
			}
			if users != "" {
				if err := listUsers(c.OutOrStdout(), users); err != nil {
					return err
				}
			}
			if digests != "" {
				return listSecrets(c.OutOrStdout(), digests)
			}
			return nil
		},
	}
	c.Flags().StringVar(&users, "users", "", "users `FILE`")
	c.Flags().StringVar(&digests, "digests", "", "digests `FILE`")
	return c
}

func listUsers(w io.Writer, path string) error {
	hashes, err := file.Hashes(path)
	if err != nil {
		return err
	}
	for _, h := range hashes {
		fmt.Fprintf(w, "%s %s\n", h.Login, h.Kind)
	}
	return nil
}

func listSecrets(w io.Writer, path string) error {
	secrets, err := file.Secrets(path)
	if err != nil {
		return err
	}
	for _, s := range secrets {
		how := "readable"
		switch {
		case s.KeyID != "":
			how = "sealed with key " + s.KeyID
		case s.Iterations > 0:
			how = fmt.Sprintf("%d iterations", s.Iterations)
		}
		fmt.Fprintf(w, "%s %s, %s\n", s.Login, s.Scheme, how)
	}
	return nil
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
