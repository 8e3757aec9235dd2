package krb5test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// TB is the part of testing.TB that [Need] uses.
type TB interface {
	Helper()
	Skipf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// packages names the Debian package of each program that tests use.
var packages = map[string]string{
	"curl":                "curl",
	"doveadm":             "dovecot-core",
	"dovecot":             "dovecot-pop3d",
	"dovecot-lda":         "dovecot-core",
	"faketime":            "faketime",
	"fetchmail":           "fetchmail",
	"gcc":                 "gcc",
	"gsasl":               "gsasl",
	"imap":                "dovecot-imapd",
	"inc":                 "nmh",
	"kadmin.local":        "krb5-admin-server",
	"kdb5_util":           "krb5-kdc",
	"kinit":               "krb5-user",
	"klist":               "krb5-user",
	"krb5-config.heimdal": "heimdal-multidev",
	"krb5-config.mit":     "krb5-multidev",
	"krb5kdc":             "krb5-kdc",
	"kvno":                "krb5-user",
	"maildrop":            "maildrop",
	"mkfs.ext4":           "e2fsprogs",
	"mkpasswd":            "whois",
	"mount":               "mount",
	"movemail":            "mailutils",
	"mpop":                "mpop",
	"mutt":                "mutt",
	"neomutt":             "neomutt",
	"openssl":             "openssl",
	"perl":                "perl",
	"pop3":                "dovecot-pop3d",
	"postfix":             "postfix",
	"pop3test":            "cyrus-clients",
	"procmail":            "procmail",
	"python3":             "python3",
	"script":              "bsdutils",
	"sendmail":            "postfix",
	"slapd":               "slapd",
	"strace":              "strace",
	"systemd-analyze":     "systemd",
	"unshare":             "util-linux",
}

// Need returns the paths of programs, in order. A test whose program is not
// installed is skipped with the name of the program and of its Debian package;
// with KPOPD_PEERS=require in the environment it fails instead.
func Need(t TB, programs ...string) []string {
	t.Helper()
	paths := make([]string, len(programs))
	for i, name := range programs {
		p, err := LookPath(name)
		if err != nil {
			refuse(t, "needs %s, which is not installed%s", name, packageHint(name))
		}
		paths[i] = p
	}
	return paths
}

// Missing skips or fails a test, as [Need] does, for want of something that is
// no program: a Perl module, a kernel feature.
func Missing(t TB, what string) {
	t.Helper()
	refuse(t, "needs %s", what)
}

func refuse(t TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("KPOPD_PEERS") == "require" {
		t.Fatalf(format+" (KPOPD_PEERS=require)", args...)
	}
	t.Skipf(format, args...)
}

func packageHint(program string) string {
	if p := packages[program]; p != "" {
		return " (Debian package " + p + ")"
	}
	return ""
}

// LookPath is exec.LookPath that also looks where daemons and the tools of
// Cyrus, Dovecot and nmh live, which an ordinary user's PATH leaves out.
func LookPath(program string) (string, error) {
	if p, err := exec.LookPath(program); err == nil {
		return p, nil
	}
	if !strings.Contains(program, "/") {
		for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/lib/cyrus/bin", "/usr/lib/dovecot", "/usr/bin/mh"} {
			if p, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
				return p, nil
			}
		}
	}
	return "", fmt.Errorf("look up %s: %w", program, exec.ErrNotFound)
}
