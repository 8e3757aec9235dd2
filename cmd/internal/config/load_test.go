package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A configuration that anybody could have written is not obeyed, and none is
// waited for.
func TestLoadRefuses(t *testing.T) {
	t.Parallel()
	for want, put := range map[string]func(path string) error{
		"no such file":       func(string) error { return nil },
		"not a regular file": func(path string) error { return unix.Mkfifo(path, 0o600) },
		"mode 0646 lets everybody write it: chmod": func(path string) error { return errors.Join(os.WriteFile(path, nil, 0o600), os.Chmod(path, 0o646)) },
		"larger than 1048576 octets":               func(path string) error { return os.WriteFile(path, make([]byte, maxConfig+1), 0o600) },
	} {
		path := filepath.Join(t.TempDir(), "k.yaml")
		if err := put(path); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(path); err == nil || !strings.HasPrefix(err.Error(), "read configuration: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
