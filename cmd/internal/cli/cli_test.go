package cli

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/spf13/cobra"
	"go.uber.org/goleak"

	"github.com/kpopd/kpopd/cmd/internal/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newRoot has a command that needs a flag, one that fails, and one with a
// command below.
func newRoot() *cobra.Command {
	root := Root(&cobra.Command{Use: "prog", Long: "prog does things."})
	var file string
	do := &cobra.Command{
		Use: "do", Args: Args(cobra.NoArgs), Long: "Do a thing.",
		RunE: func(c *cobra.Command, _ []string) error { return Required(c, "file") },
	}
	do.Flags().StringVar(&file, "file", "", "`FILE` to do")
	fail := &cobra.Command{Use: "fail", RunE: func(*cobra.Command, []string) error { return errors.New("broken") }}
	wrong := &cobra.Command{Use: "wrong", RunE: func(*cobra.Command, []string) error {
		return &config.Problem{File: "k.yaml", Line: 3, Key: "a", Err: errors.New("b")}
	}}
	parent := &cobra.Command{Use: "parent", Args: Args(cobra.NoArgs), RunE: NeedsCommand}
	parent.AddCommand(&cobra.Command{Use: "child", Long: "I am a child.", Run: func(*cobra.Command, []string) {}})
	root.AddCommand(do, fail, wrong, parent)
	return root
}

func TestRun(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		line   string
		status int
		out    string // the beginning
		errs   string // all of it
	}{
		{"", 2, "", "prog: no command given\nTry 'prog --help'.\n"},
		{"nope", 2, "", "prog: unknown command \"nope\" for \"prog\"\nTry 'prog --help'.\n"},
		{"do", 2, "", "prog: --file is missing\nTry 'prog do --help'.\n"},
		{"do --file x", 0, "", ""},
		{"do --file x y", 2, "", "prog: unknown command \"y\" for \"prog do\"\nTry 'prog do --help'.\n"},
		{"do --bogus", 2, "", "prog: unknown flag: --bogus\nTry 'prog do --help'.\n"},
		{"fail", 1, "", "prog: broken\n"},
		{"wrong", 1, "", "k.yaml:3: a: b\n"},
		{"parent", 2, "", "prog: no command given\nTry 'prog parent --help'.\n"},
		{"parent nope", 2, "", "prog: unknown command \"nope\" for \"prog parent\"\nTry 'prog parent --help'.\n"},
		{"help", 0, "prog does things.\n", ""},
		{"help do", 0, "Do a thing.\n", ""},
		{"help parent child", 0, "I am a child.\n", ""},
		{"help help", 0, "Explain a command\n", ""},
		{"help nope", 2, "", "prog: unknown command \"nope\" for \"prog\"\nTry 'prog --help'.\n"},
		{"help parent nope", 2, "", "prog: unknown command \"nope\" for \"prog parent\"\nTry 'prog --help'.\n"},
		{"help do nope", 2, "", "prog: unknown command \"nope\" for \"prog do\"\nTry 'prog --help'.\n"},
		{"help --bogus", 2, "", "prog: unknown flag: --bogus\nTry 'prog help --help'.\n"},
	} {
		t.Run(tt.line, func(t *testing.T) {
			t.Parallel()
			var out, errs bytes.Buffer
			status := Run(newRoot(), strings.Fields(tt.line), strings.NewReader(""), &out, &errs)
			if status != tt.status || errs.String() != tt.errs || !strings.HasPrefix(out.String(), tt.out) || tt.out == "" && out.Len() > 0 {
				t.Errorf("status %d, output %q, errors %q", status, out.String(), errs.String())
			}
		})
	}
}

// The help of a command is the same by either way.
func TestHelpIsHelp(t *testing.T) {
	t.Parallel()
	var a, b, errs bytes.Buffer
	Run(newRoot(), []string{"help", "do"}, nil, &a, &errs)
	Run(newRoot(), []string{"do", "--help"}, nil, &b, &errs)
	if a.String() != b.String() || !strings.Contains(a.String(), "--file FILE") || errs.Len() > 0 {
		t.Errorf("%q and %q, %s", a.String(), b.String(), errs.String())
	}
}

// SIGHUP reloads, however often; another one ends it, and one more cuts it off.
func TestObey(t *testing.T) {
	t.Parallel()
	for _, end := range []os.Signal{syscall.SIGTERM, syscall.SIGINT} {
		signals := make(chan os.Signal, 4)
		signals <- syscall.SIGHUP
		signals <- syscall.SIGHUP
		signals <- end
		signals <- syscall.SIGHUP // while it ends, says nothing
		reloads, ended := 0, false
		Server{
			Reload: func() { reloads++ },
			Shutdown: func(now <-chan struct{}) {
				select {
				case <-now:
					t.Error("cut off at the first signal")
				default:
				}
				signals <- syscall.SIGTERM
				<-now
				ended = true
			},
		}.obey(signals)
		if reloads != 2 || !ended {
			t.Errorf("%v: %d reloads, ended %v", end, reloads, ended)
		}
	}
}

// What cannot start is not shut down.
func TestServeRefused(t *testing.T) {
	t.Parallel()
	refusal := errors.New("no")
	if err := Serve(func() (Server, error) { return Server{}, refusal }); !errors.Is(err, refusal) {
		t.Error(err)
	}
}
