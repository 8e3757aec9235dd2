package peers

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kpopd/kpopd/krb5test"
)

// dovecotConfiguration is Dovecot 2.3 as fast as it gets with passwords in a
// directory: processes for logins and sessions are kept, nothing is counted or
// flagged. Answers of the directory are not cached, as kpopd's are not.
const dovecotConfiguration = `protocols = pop3
base_dir = DIR/run
state_dir = DIR/state
log_path = DIR/log
listen = 127.0.0.1
mail_uid = UID
mail_gid = UID
first_valid_uid = UID
mail_location = maildir:DIR/mail/%u
pop3_no_flag_updates = yes
maildir_very_dirty_syncs = yes
maildir_stat_dirs = no
stats_writer_socket_path =
mail_max_userip_connections = 0
auth_mechanisms = plain login
disable_plaintext_auth = no
passdb {
  driver = ldap
  args = DIR/ldap.conf
}
userdb {
  driver = static
  args = uid=UID gid=UID home=DIR/mail/%u allow_all_users=yes
}
ssl = yes
ssl_cert = <DIR/cert.pem
ssl_key = <DIR/key.pem
ssl_min_protocol = TLSv1.2
service anvil {
  client_limit = 4096
}
service auth {
  client_limit = 4096
}
service pop3-login {
  inet_listener pop3 {
    address = 127.0.0.1
    port = CLEARPORT
  }
  inet_listener pop3s {
    address = 127.0.0.1
    port = TLSPORT
    ssl = yes
  }
  service_count = 0
  process_min_avail = 2
  process_limit = 2
  client_limit = 1024
}
service pop3 {
  service_count = 10000
  process_min_avail = 16
  process_limit = 256
}
`

const dovecotLDAP = `uris = URL
tls_ca_cert_file = DIR/ca.pem
tls_require_cert = hard
dn = cn=kpopd,ou=services,dc=example,dc=test
dnpass = pw-kpopd
auth_bind = yes
base = ou=people,dc=example,dc=test
scope = subtree
pass_filter = (uid=%u)
pass_attrs = uid=user
`

const dovecotUID = 60103 // nobody's

// startDovecot starts Dovecot beside a hall, with the same certificate, the same
// directory and maildrops for the same users, and returns where it listens, in the
// clear and with TLS.
func startDovecot(b *testing.B, h *hall) (clear, tls string) {
	b.Helper()
	krb5test.Need(b, "dovecot", "slapd")
	if os.Geteuid() != 0 {
		krb5test.Missing(b, "root, for Dovecot to become its users")
	}
	if found, _ := filepath.Glob("/usr/lib/dovecot/modules/auth/libauthdb_ldap.so"); found == nil {
		krb5test.Missing(b, "Dovecot's LDAP (Debian package dovecot-ldap)")
	}
	dir, err := os.MkdirTemp("", "dovecot") // where other users can come
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	clear, tls = free(b), free(b)
	port := func(address string) string { return address[strings.LastIndexByte(address, ':')+1:] }
	fill := strings.NewReplacer(
		"DIR", dir, "CLEARPORT", port(clear), "TLSPORT", port(tls), "UID", fmt.Sprint(dovecotUID), "URL", h.directory.Servers[0].LDAPS)
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil { // its processes have three uids
			b.Fatal(err)
		}
	}
	write("dovecot.conf", fill.Replace(dovecotConfiguration))
	write("ldap.conf", fill.Replace(dovecotLDAP))
	for name, path := range map[string]string{
		"cert.pem": filepath.Join(h.dir, "cert.pem"), "key.pem": filepath.Join(h.dir, "key.pem"), "ca.pem": h.directory.CA,
	} {
		text, err := os.ReadFile(path)
		if err != nil {
			b.Fatal(err)
		}
		write(name, string(text))
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		b.Fatal(err)
	}
	for _, v := range h.visitors {
		deliver(b, filepath.Join(dir, "mail"), v.user, nil)
	}
	own(b, filepath.Join(dir, "mail"), dovecotUID)
	cmd := group(context.Background(), "dovecot", "-F", "-c", filepath.Join(dir, "dovecot.conf"))
	cmd.Cancel = nil
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }() // with Dovecot
	b.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		<-ended
		if text, err := os.ReadFile(filepath.Join(dir, "log")); b.Failed() && err == nil {
			b.Logf("Dovecot said:\n%.8000s", text)
		}
	})
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(patience); ; {
		err := byDirectory.visit(b.Context(), h.visitors[0], tls)
		if err == nil {
			return clear, tls
		}
		select {
		case <-tick.C:
		case <-ended:
			b.Fatal("Dovecot ended")
		case <-late:
			b.Fatal(err)
		}
	}
}

// free is an address of loopback that nobody listens at.
func free(b *testing.B) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// BenchmarkBesideDovecot is logins by PLAIN, searched for and bound at one slapd,
// of 64 clients at once, at kpopd and at Dovecot in turn, so that both meet the
// same load of the machine. An op is 512 logins at each. times is how many logins
// kpopd makes while Dovecot makes one; what the clients and slapd compute is in
// both, and with TLS, each a full handshake, that is most of it.
//
//	go test ./cmd/internal/peers -run '^$' -bench BesideDovecot -benchtime 20x
func BenchmarkBesideDovecot(b *testing.B) {
	h := openHall(b, 64)
	clear, tls := startDovecot(b, h)
	for _, x := range []struct {
		name    string
		way     way
		dovecot string
	}{{"clear", byDirectoryInTheClear, clear}, {"tls", byDirectory, tls}} {
		b.Run(x.name, func(b *testing.B) {
			const logins = 512
			turn := func(address string) time.Duration {
				start := time.Now()
				h.visitAll(b, x.way, address, len(h.visitors), logins)
				return time.Since(start)
			}
			kpopd := h.address(b, x.way)
			turn(kpopd)
			turn(x.dovecot)
			var ours, theirs time.Duration
			b.ResetTimer()
			for range b.N {
				ours += turn(kpopd)
				theirs += turn(x.dovecot)
			}
			n := float64(b.N * logins)
			b.ReportMetric(n/ours.Seconds(), "kpopd-logins/s")
			b.ReportMetric(n/theirs.Seconds(), "dovecot-logins/s")
			b.ReportMetric(theirs.Seconds()/ours.Seconds(), "times")
		})
	}
}
