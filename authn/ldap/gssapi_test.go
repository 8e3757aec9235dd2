package ldap

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/ldap/ldaptest"
	"github.com/kpopd/kpopd/krb5test"
)

// The verifier binds with a key of its own, to slapd with Cyrus SASL and MIT's
// library, whose tickets come from MIT's KDC.
func TestGSSAPIBind(t *testing.T) {
	t.Parallel()
	krb5test.Need(t, "slapd", "krb5kdc", "kdb5_util", "kadmin.local")
	if found, err := filepath.Glob("/usr/lib/*/sasl2/libgssapiv2.so"); err != nil || len(found) == 0 {
		krb5test.Missing(t, "SASL's GSSAPI mechanism (Debian package libsasl2-modules-gssapi-mit)")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	kdc, err := krb5test.StartMIT(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kdc.Stop() })
	file := func(name string) string { return filepath.Join(kdc.Dir, name) }
	if err := kdc.Kadmin(ctx, "EXAMPLE.TEST",
		"addprinc -randkey ldap/127.0.0.1", "ktadd -k "+file("ldap.keytab")+" -norandkey ldap/127.0.0.1",
		"addprinc -randkey kpopd", "ktadd -k "+file("kpopd.keytab")+" -norandkey kpopd",
		"addprinc -randkey stranger", "ktadd -k "+file("stranger.keytab")+" -norandkey stranger",
	); err != nil {
		t.Fatal(err)
	}
	for _, binding := range []string{"none", "tls-endpoint"} {
		t.Run("channel binding "+binding, func(t *testing.T) {
			d := start(t, ldaptest.Options{
				Lines: []string{"sasl-host 127.0.0.1", "sasl-realm EXAMPLE.TEST", "sasl-cbinding " + binding},
				Env:   []string{"KRB5_CONFIG=" + file("krb5.conf"), "KRB5_KTNAME=FILE:" + file("ldap.keytab")},
			})
			for _, tt := range []struct{ name, url, principal, keytab, text string }{
				{"LDAPS", d.Servers[0].LDAPS, "kpopd@EXAMPLE.TEST", "kpopd.keytab", ""},
				{"StartTLS", d.Servers[0].LDAP, "kpopd@EXAMPLE.TEST", "kpopd.keytab", ""},
				{"who may not search", d.Servers[0].LDAPS, "stranger@EXAMPLE.TEST", "stranger.keytab", "search below"},
				{"another's key", d.Servers[0].LDAPS, "kpopd@EXAMPLE.TEST", "stranger.keytab", "bind as the verifier: "},
				{"no such principal", d.Servers[0].LDAPS, "nobody@EXAMPLE.TEST", "kpopd.keytab", "bind as the verifier: "},
			} {
				o := options(t, d, tt.url)
				o.Bind, o.BindDN, o.BindPassword = BindGSSAPI, "", ""
				o.BindPrincipal, o.BindKeytab, o.BindKrb5Conf = tt.principal, file(tt.keytab), file("krb5.conf")
				v := open(t, o)
				for range 2 {
					id, err := verify(t.Context(), v, "alice", "pw-alice")
					switch {
					case tt.text == "":
						if err != nil || id.User != "alice" {
							t.Errorf("%s: got %+v, %v", tt.name, id, err)
						}
					case id != nil || authn.KindOf(err) != authn.Unavailable || !strings.Contains(err.Error(), tt.text):
						t.Errorf("%s: got %+v, %v", tt.name, id, err)
					}
				}
			}
		})
	}
}

// A KDC that does not answer is an outage within the time.
func TestGSSAPIBindWithoutKDC(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	conf, keytab := filepath.Join(dir, "krb5.conf"), filepath.Join(dir, "keytab")
	kdc := krb5test.NewKDC("DEMO.TEST")
	kdc.AddService("kpopd/localhost")
	if err := kdc.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(conf, []byte(kdc.Krb5Conf()), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := kdc.WriteKeytab(keytab, "kpopd/localhost"); err != nil {
		t.Fatal(err)
	}
	kdc.Close()
	o := puppetOptions(newPuppet(t, "unix", honest))
	k, err := newKerberos(&Options{BindPrincipal: "kpopd/localhost@DEMO.TEST", BindKeytab: keytab, BindKrb5Conf: conf})
	if err != nil {
		t.Fatal(err)
	}
	v := open(t, o).(passwords)
	v.dir.servers[0].searches.dial = func(ctx context.Context) (*conn, error) { return v.dir.servers[0].connect(ctx, k.bind) }
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if id, err := verify(ctx, v, "alice", "pw-alice"); id != nil || authn.KindOf(err) != authn.Unavailable {
		t.Errorf("got %+v, %v", id, err)
	}
	if ctx.Err() != nil {
		t.Errorf("no answer in %v", patience)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := k.ticket(gone, "ldap/localhost", nil); err == nil {
		t.Error("a ticket without a KDC")
	}
}
