package main

import (
	"fmt"
	"io"
	"regexp"
	"strings"
)

// describe says what was made.
func (w *world) describe(out io.Writer) {
	fmt.Fprintf(out, `kpopd demo in %s

  POP3, STLS   %s
  POP3S        %s
  KPOP         %s
  KDC          %s, realm %s, service %s
  configuration %s
  log           %s

  user   PLAIN, LOGIN, USER   APOP, CRAM-MD5   kinit
`, w.Dir, w.Addresses.POP3, w.Addresses.POP3S, w.Addresses.KPOP, w.Addresses.KDC, w.Realm, w.Service, w.Configuration, w.Log)
	for _, u := range w.Users {
		fmt.Fprintf(out, "  %-6s %-20s %-16s %s\n", u.Name, u.Password, u.Secret, u.Kerberos)
	}
}

// hints are commands to paste into another terminal. They are tried by a test
// where the programs are installed.
func (w *world) hints(out io.Writer) {
	fmt.Fprintf(out, "\nIt stays up until Ctrl-C. In another terminal:\n")
	for _, h := range w.commands() {
		fmt.Fprintf(out, "\n# %s\n%s\n", h.what, h.command)
	}
}

type hint struct{ what, program, command string }

func (w *world) commands() []hint {
	alice, bob := w.user("alice"), w.user("bob")
	pop3, pop3s := placeOf(w.Addresses.POP3), placeOf(w.Addresses.POP3S)
	path := func(name string) string { return quoted(w.path(name)) }
	ca := quoted(w.CA)
	return []hint{
		{"a ticket for alice", "kinit", fmt.Sprintf(
			"export KRB5_CONFIG=%s KRB5CCNAME=FILE:%s\necho %s | kinit %s", quoted(w.Krb5Conf), path("ccache"), alice.Kerberos, alice.Principal)},
		{"KPOP with the ticket, then STLS; fetchmail wants the port to be called kpop in\n# /etc/services: here it sees another one (or append its last line to yours)", "fetchmail", fmt.Sprintf(
			`unshare -rm sh -c 'mount --bind "$0" /etc/services && exec "$@"' %s fetchmail -v -f %s --pidfile %s --idfile %s`,
			quoted(w.Services), path("fetchmailrc"), path("fetchmail.pid"), path("fetchmail.ids"))},
		{"GSSAPI with the ticket", "curl", fmt.Sprintf(
			"curl -v --ssl-reqd --cacert %s --login-options AUTH=GSSAPI -u : pop3://%s/1", ca, pop3)},
		{"APOP after STLS", "curl", fmt.Sprintf(
			"curl -v --ssl-reqd --cacert %s --login-options AUTH=+APOP -u %s:%s pop3://%s/1", ca, bob.Name, bob.Secret, pop3)},
		{"CRAM-MD5 after STLS", "curl", fmt.Sprintf(
			"curl --ssl-reqd --cacert %s --login-options AUTH=CRAM-MD5 -u %s:%s pop3://%s/1", ca, bob.Name, bob.Secret, pop3)},
		{"a password inside TLS: the list of messages", "curl", fmt.Sprintf(
			"curl --cacert %s --login-options AUTH=PLAIN -u %s:%s pop3s://%s/", ca, alice.Name, alice.Password, pop3s)},
		{"by hand, in the clear and then STLS: type CAPA, USER, PASS, STAT, QUIT", "openssl", fmt.Sprintf(
			"openssl s_client -quiet -crlf -starttls pop3 -connect %s -servername localhost -CAfile %s", pop3, ca)},
		{"by hand, POP3S", "openssl", fmt.Sprintf(
			"openssl s_client -quiet -crlf -connect %s -servername localhost -CAfile %s", pop3s, ca)},
	}
}

var plainWord = regexp.MustCompile(`^[-+,./:=@_0-9A-Za-z]+$`)

// quoted is s as one word of a shell.
func quoted(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
