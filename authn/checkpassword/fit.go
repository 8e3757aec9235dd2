package checkpassword

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// fit looks whether a program can be run, and by nobody else be replaced. It
// returns the path without symbolic links.
func fit(program string) (string, error) {
	if !filepath.IsAbs(program) {
		return "", fmt.Errorf("%q is no absolute path", program)
	}
	path, err := filepath.EvalSymlinks(program)
	if err != nil {
		return "", err
	}
	if err := fitFile(path); err != nil {
		return "", err
	}
	return path, fitDirectories(path)
}

func fitFile(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a file", path)
	}
	if err := unix.Access(path, unix.X_OK); err != nil {
		return fmt.Errorf("%s cannot be executed: %w; chmod +x it", path, err)
	}
	if err := ours(path, info); err != nil {
		return err
	}
	if m := info.Mode().Perm(); m&0o022 != 0 {
		return fmt.Errorf("%s can be written by others (mode %04o); chmod go-w it", path, m)
	}
	return nil
}

func fitDirectories(path string) error {
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		// in a sticky directory nobody can replace what is ours
		if m := info.Mode(); m&0o002 != 0 && m&os.ModeSticky == 0 {
			return fmt.Errorf("%s is in %s, where everybody can replace it; chmod o-w the directory", path, dir)
		}
		if err := ours(dir, info); err != nil {
			return err
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

// ours wants a file of root's or of the user that we run as.
func ours(path string, info os.FileInfo) error {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("the system does not say who owns " + path)
	}
	if s.Uid != 0 && int(s.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to user %d, who can replace it; chown root it", path, s.Uid)
	}
	return nil
}
