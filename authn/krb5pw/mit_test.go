package krb5pw_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/authntest"
	"github.com/kpopd/kpopd/authn/krb5"
	"github.com/kpopd/kpopd/authn/krb5pw"
	"github.com/kpopd/kpopd/krb5test"
)

// startMIT starts MIT's KDC with a user of each sort.
func startMIT(t *testing.T) *krb5test.MIT {
	t.Helper()
	krb5test.Need(t, "krb5kdc", "kdb5_util", "kadmin.local")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	m, err := krb5test.StartMIT(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err := m.Kadmin(ctx, "EXAMPLE.TEST",
		"addprinc -pw pw-stale stale", `modprinc -pwexpire "2020-01-01 00:00:00" stale`,
		"addprinc -pw pw-gone gone", `modprinc -expire "2020-01-01 00:00:00" gone`,
		"addprinc -pw pw-bare -requires_preauth bare",
		"addprinc -pw pw-sha2 -e aes256-sha2:normal sha2", "addprinc -pw pw-short2 -e aes128-sha2:normal short2",
		"addprinc -pw pw-älice älice", "addprinc -pw pw-small -e aes128-sha1:normal small",
		"addprinc -pw pw-salted -e aes256-sha1:special salted",
		"addprinc -pw pw-weak -e rc4-hmac:normal weak",
		"addpol -maxfailure 2 strict", "addprinc -pw pw-tried -policy strict tried",
	); err != nil {
		t.Fatal(err)
	}
	return m
}

func mitPasswords(t *testing.T, m *krb5test.MIT, enctypes ...int32) *krb5pw.Verifier {
	t.Helper()
	kt, err := krb5.OpenKeytab(m.Keytab())
	if err != nil {
		t.Fatal(err)
	}
	p, err := krb5.NewPasswords(krb5.PasswordOptions{
		Realm: "EXAMPLE.TEST", KDCs: []string{m.Addr()}, Keytab: kt, Service: "pop/localhost", Enctypes: enctypes,
	})
	if err != nil {
		t.Fatal(err)
	}
	v, err := krb5pw.New("campus", p, krb5pw.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func ask(ctx context.Context, v authn.PasswordVerifier, user, password string) error {
	_, err := v.VerifyPassword(ctx, &authn.PasswordRequest{Transport: &authn.Transport{}, Login: user, Password: authn.Password(password)})
	return err
}

// TestMIT: what MIT's KDC says of each sort of user.
func TestMIT(t *testing.T) {
	t.Parallel()
	m := startMIT(t)
	v := mitPasswords(t, m)
	authntest.RunVerifier(t, v, authntest.Account{Login: "alice", Password: "pw-alice"})
	for _, user := range []string{"bob", "bare", "sha2", "short2", "small", "salted", "älice", "short", "tried"} {
		if err := ask(t.Context(), v, user, "pw-"+user); err != nil {
			t.Errorf("%s: %v", user, err)
		}
	}
	for _, tt := range []struct {
		user, password string
		kind           authn.Kind
		text           string
	}{
		{"alice", "pw-Alice", authn.Rejected, "wrong password (KRB-ERROR 24"},
		{"bare", "pw-Bare", authn.Rejected, "does not open the reply"},
		{"nobody", "pw-nobody", authn.UnknownUser, "no such principal (KRB-ERROR 6"},
		{"stale", "pw-stale", authn.Expired, "password has expired (KRB-ERROR 23"},
		{"gone", "pw-gone", authn.Denied, "account has expired (KRB-ERROR 1 "},
		{"locked", "pw-locked", authn.Denied, "locked or disabled (KRB-ERROR 18"},
		{"weak", "pw-weak", authn.Unavailable, "enctype"},
	} {
		if err := ask(t.Context(), v, tt.user, tt.password); authn.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %v of kind %v, want %q of kind %v", tt.user, err, authn.KindOf(err), tt.text, tt.kind)
		}
	}
	// a lockout of the KDC's own
	for _, want := range []authn.Kind{authn.Rejected, authn.Rejected, authn.Denied} {
		if err := ask(t.Context(), v, "tried", "wrong"); authn.KindOf(err) != want {
			t.Errorf("tried: %v, want %v", err, want)
		}
	}
	if err := ask(t.Context(), v, "tried", "pw-tried"); authn.KindOf(err) != authn.Denied {
		t.Errorf("tried: %v", err)
	}
	if err := ask(t.Context(), mitPasswords(t, m, append(krb5.DefaultEnctypes(), krb5.RC4)...), "weak", "pw-weak"); err != nil {
		t.Error(err)
	}
}

// TestMITOutages: nothing that befalls the KDC is a wrong password.
func TestMITOutages(t *testing.T) {
	t.Parallel()
	m := startMIT(t)
	v := mitPasswords(t, m)
	if err := ask(t.Context(), v, "alice", "pw-alice"); err != nil {
		t.Fatal(err)
	}
	if err := m.Suspend(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := ask(ctx, v, "alice", "pw-alice"); authn.KindOf(err) != authn.Unavailable || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("hung: %v", err)
	}
	if err := m.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := ask(t.Context(), v, "alice", "pw-alice"); err != nil {
		t.Errorf("resumed: %v", err)
	}
	// the service has a key now that our keytab lacks, and a wrong password is
	// still one
	other := m.Keytab() + ".other"
	if err := m.Rotate(t.Context(), "pop/localhost", other); err != nil {
		t.Fatal(err)
	}
	if err := ask(t.Context(), v, "alice", "pw-alice"); authn.KindOf(err) != authn.Unavailable || !strings.Contains(err.Error(), "keytab is out of date") {
		t.Errorf("other key: %v", err)
	}
	if err := ask(t.Context(), v, "alice", "wrong"); authn.KindOf(err) != authn.Rejected {
		t.Errorf("other key, wrong password: %v", err)
	}
	// a key of the same version that is not ours, as a false KDC has it
	if err := errors.Join(
		m.Kadmin(t.Context(), "EXAMPLE.TEST", "delprinc -force pop/localhost", "addprinc -randkey pop/localhost"), os.Remove(other),
	); err != nil {
		t.Fatal(err)
	}
	if err := ask(t.Context(), v, "alice", "pw-alice"); authn.KindOf(err) != authn.Unavailable || !strings.Contains(err.Error(), "not made with this server's key") {
		t.Errorf("wrong key: %v", err)
	}
	if err := m.Kadmin(t.Context(), "EXAMPLE.TEST", "delprinc -force pop/localhost"); err != nil {
		t.Fatal(err)
	}
	if err := ask(t.Context(), v, "alice", "pw-alice"); authn.KindOf(err) != authn.Unavailable || !strings.Contains(err.Error(), "does not know our service") {
		t.Errorf("no service: %v", err)
	}
	if err := m.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := ask(t.Context(), v, "alice", "pw-alice"); authn.KindOf(err) != authn.Unavailable || !strings.Contains(err.Error(), "refused") {
		t.Errorf("killed: %v", err)
	}
}
