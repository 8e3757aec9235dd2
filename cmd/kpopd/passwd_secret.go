package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/file"
	"github.com/kpopd/kpopd/authn/scram"
	"github.com/kpopd/kpopd/cmd/internal/cli"
)

func newPasswdScram() *cobra.Command {
	var digests, key string
	var schemes []string
	iterations := scram.DefaultIterations
	c := &cobra.Command{
		Use:   "scram LOGIN --digests FILE",
		Short: "Make keys for SCRAM of a password",
		Long: fmt.Sprintf(`Make keys for SCRAM-SHA-256, SCRAM-SHA-1 or both of a password, in the digests
file. The password cannot be read from them, only guessed, like that of a hash. It
may be the login's password.

Salt: 16 octets at random. Iterations: %d, which is what the client computes at
each login; Cyrus SASL refuses more than 65536. With --key the keys are sealed as well.`, scram.DefaultIterations),
		Example: "  kpopd passwd scram alice --digests /etc/kpopd/digests\n  kpopd passwd scram alice --digests digests --scheme SCRAM-SHA-256 --iterations 65536",
		Args:    cli.Args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if err := cli.Required(c, "digests"); err != nil {
				return err
			}
			password, err := readPassword(c, args[0])
			if err != nil {
				return err
			}
			defer password.Wipe()
			for _, scheme := range schemes {
				if err := makeKeys(digests, key, args[0], scheme, password, iterations); err != nil {
					return err
				}
			}
			return nil
		},
	}
	c.Flags().StringVar(&digests, "digests", "", "digests `FILE`")
	c.Flags().StringVar(&key, "key", "", "key `FILE` to seal the keys with; not sealed when empty")
	c.Flags().StringSliceVar(&schemes, "scheme", scram.Schemes(), "mechanisms that the keys are for")
	c.Flags().IntVar(&iterations, "iterations", iterations, "iterations of PBKDF2, 4096 or more")
	return c
}

func makeKeys(digests, key, login, scheme string, password authn.Password, iterations int) error {
	keys, err := scram.Make(scheme, password, iterations)
	if err != nil {
		return err
	}
	defer keys.Wipe()
	text := keys.Text()
	defer text.Wipe()
	return file.SetSecret(digests, key, login, scheme, text)
}

// renewKeys makes the keys that a login has of another password: readable ones
// with as many iterations as they had, sealed ones sealed, with the default.
func renewKeys(digests, key, login string, password authn.Password) error {
	same, err := file.IsSecret(digests, key, login, password)
	if err != nil {
		return err
	}
	if same {
		return errors.New("this is a secret of " + login + " for APOP or CRAM-MD5: choose another password")
	}
	all, err := file.Secrets(digests)
	if err != nil {
		return err
	}
	for _, s := range all {
		if s.Login != login || !slices.Contains(scram.Schemes(), s.Scheme) {
			continue
		}
		sealing := ""
		if s.KeyID != "" {
			sealing = key
		}
		if err := makeKeys(digests, sealing, login, s.Scheme, password, cmp.Or(s.Iterations, scram.DefaultIterations)); err != nil {
			return err
		}
	}
	return nil
}

func newPasswdSecret() *cobra.Command {
	var digests, key, users string
	var schemes []string
	c := &cobra.Command{
		Use:   "secret LOGIN --digests FILE --key FILE --users FILE",
		Short: "Set a secret for APOP and CRAM-MD5",
		Long: `Give a login a secret for APOP, CRAM-MD5 or both, in the digests file. These
mechanisms need the secret itself, so it is sealed with the first key of a key file
(AES-256-GCM), for this login and mechanism alone.

It must not be the login's password: with the key that would be readable too. It is
refused when it opens the login in the users file; --users none says that there is no
such file.`,
		Example: "  kpopd passwd secret bob --digests /etc/kpopd/digests --key /etc/kpopd/digests.key --users /etc/kpopd/users",
		Args:    cli.Args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if err := cli.Required(c, "digests", "key", "users"); err != nil {
				return err
			}
			secret, err := readPassword(c, args[0])
			if err != nil {
				return err
			}
			defer secret.Wipe()
			if users != "none" {
				fits, err := file.Fits(users, args[0], secret)
				if err != nil {
					return err
				}
				if fits {
					return errors.New("this is the password of " + args[0] + ": choose another secret")
				}
			}
			for _, scheme := range schemes {
				if err := file.SetSecret(digests, key, args[0], scheme, secret); err != nil {
					return err
				}
			}
			return nil
		},
	}
	c.Flags().StringVar(&digests, "digests", "", "digests `FILE`")
	c.Flags().StringVar(&key, "key", "", "key `FILE`")
	c.Flags().StringVar(&users, "users", "", "users `FILE` whose password for the login it must not be, or none")
	c.Flags().StringSliceVar(&schemes, "scheme", file.SecretSchemes(), "mechanisms that the secret is for: "+strings.Join(file.SecretSchemes(), ", "))
	return c
}

func newPasswdKey() *cobra.Command {
	return &cobra.Command{
		Use:   "key FILE",
		Short: "Make a key file",
		Long: `Make a file with a new key, which nobody but its owner may read. One seals the
secrets of digests files (digests_key), another makes the salts that SCRAM shows for
users who do not exist (scram.salt_key). Keep a copy of it, apart from those of the
digests file.`,
		Example: "  kpopd passwd key /etc/kpopd/digests.key",
		Args:    cli.Args(cobra.ExactArgs(1)),
		RunE:    func(_ *cobra.Command, args []string) error { return file.MakeKeyFile(args[0]) },
	}
}

func newPasswdSeal() *cobra.Command {
	var digests, key string
	c := &cobra.Command{
		Use:     "seal --digests FILE --key FILE",
		Short:   "Seal the secrets that are not sealed",
		Long:    "Seal every secret of a digests file with the first key of the key file: those that stand there readably and those that an older key sealed.",
		Example: "  kpopd passwd seal --digests /etc/kpopd/digests --key /etc/kpopd/digests.key",
		Args:    cli.Args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := cli.Required(c, "digests", "key"); err != nil {
				return err
			}
			n, err := file.Seal(digests, key)
			if err == nil {
				fmt.Fprintf(c.OutOrStdout(), "%d sealed\n", n)
			}
			return err
		},
	}
	c.Flags().StringVar(&digests, "digests", "", "digests `FILE`")
	c.Flags().StringVar(&key, "key", "", "key `FILE`")
	return c
}

func newPasswdRotate() *cobra.Command {
	var digests []string
	var key string
	var keep bool
	c := &cobra.Command{
		Use:   "rotate --key FILE --digests FILE...",
		Short: "Seal all secrets with a new key",
		Long: `Put a new key into the key file, seal all secrets of the digests files with it, and
take the old keys out. Name every digests file that the key has sealed. With --keep
the old keys stay, for as long as other servers have an older digests file.

When it is interrupted nothing is lost: run it again. A running server goes on with
what it has until SIGHUP.`,
		Example: "  kpopd passwd rotate --key /etc/kpopd/digests.key --digests /etc/kpopd/digests",
		Args:    cli.Args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := cli.Required(c, "key"); err != nil {
				return err
			}
			if len(digests) == 0 {
				return cli.Usage(c, errors.New("--digests is missing"))
			}
			return file.Rotate(key, keep, digests...)
		},
	}
	c.Flags().StringSliceVar(&digests, "digests", nil, "digests `FILE`; may be given again")
	c.Flags().StringVar(&key, "key", "", "key `FILE`")
	c.Flags().BoolVar(&keep, "keep", false, "leave the old keys in the key file")
	return c
}
