package krb5test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// TB is the part of testing.TB that Need uses.
type TB interface {
	Helper()
	Skipf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// packages names Debian's package of a program, where that is another word.
var packages = map[string]string{
	"gcc": "gcc libc6-dev", "inc": "nmh", "kadmin.local": "krb5-admin-server", "kdb5_util": "krb5-kdc", "kinit": "krb5-user",
	"klist": "krb5-user", "krb5-config.heimdal": "heimdal-multidev", "krb5-config.mit": "libkrb5-dev", "krb5kdc": "krb5-kdc",
	"kvno": "krb5-user", "mkpasswd": "whois", "pop3test": "cyrus-clients", "script": "bsdutils", "unshare": "util-linux",
}

// outside are folders that are not on everybody's PATH.
var outside = []string{"/usr/sbin", "/sbin", "/usr/lib/cyrus/bin", "/usr/bin/mh"}

// Need skips a test whose peer is not installed, and says what to install. It
// returns the paths of the programs. With KPOPD_PEERS=require in the
// environment a missing program is a failure.
func Need(t TB, programs ...string) []string {
	t.Helper()
	paths := make([]string, len(programs))
	for i, p := range programs {
		path, err := LookPath(p)
		if err == nil {
			paths[i] = path
			continue
		}
		pkg := p
		if packages[p] != "" {
			pkg = packages[p]
		}
		report := t.Skipf
		if os.Getenv("KPOPD_PEERS") == "require" {
			report = t.Fatalf
		}
		report("%s is not installed (Debian: apt-get install %s)", p, pkg)
	}
	return paths
}

// LookPath is [exec.LookPath] that knows where daemons are kept.
func LookPath(program string) (string, error) {
	path, err := exec.LookPath(program)
	if err == nil || strings.ContainsRune(program, '/') {
		return path, err
	}
	for _, dir := range outside {
		if path, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return path, nil
		}
	}
	return "", err
}
