package checkpassword_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/authntest"
	"github.com/kpopd/kpopd/authn/checkpassword"
	"github.com/kpopd/kpopd/krb5test"
)

// The checker that configs has for PAM, against PAM itself and a module of
// Debian's with a password file.
func TestPAM(t *testing.T) {
	t.Parallel()
	python := krb5test.Need(t, "python3")[0]
	modules, err := filepath.Glob("/lib/*/security/pam_pwdfile.so")
	if err != nil || len(modules) == 0 {
		krb5test.Missing(t, "pam_pwdfile.so (Debian package libpam-pwdfile)")
	}
	checker, err := filepath.Abs("../../configs/checkpassword-pam.py")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// alice's password is pw-alice, bob's pw-bob
	write("passwords", `alice:$6$peers$iTzhmhYKi.JotJSaSdGxCPIjbgbL8At.CXJMQFfJdnSZ2OmY0EBbF4InRaGYPeBbmW1zIzjMkbpKG2inHEZVD/
bob:$6$peers$szi0BcOPMau1wu3BWs89y9/HHrBuUwB0/eLACk221wQmTFHbvKzpTc93290GQnCg4lS0AvOwoS.vSmrAcXPsT.
`)
	write("nobob", "bob\n")
	auth := "auth required pam_pwdfile.so nodelay pwdfile=" + filepath.Join(dir, "passwords") + "\n"
	write("kpopd", auth+"account required pam_listfile.so onerr=fail item=user sense=deny file="+filepath.Join(dir, "nobob")+"\n")
	for _, address := range []string{"192.0.2.7", "192.0.2.8"} {
		write("only-"+address, address+"\n")
		write(address, auth+"account required pam_listfile.so onerr=fail item=rhost sense=allow file="+filepath.Join(dir, "only-"+address)+"\n")
	}
	write("down", "auth required pam_nothing_of_that_name.so\n")
	write("broken", "auth required pam_pwdfile.so nodelay pwdfile="+filepath.Join(dir, "none")+"\n")

	door := func(service ...string) *checkpassword.Verifier {
		v, err := checkpassword.New("pam", checkpassword.Options{Program: python, Args: append([]string{"-I", checker}, service...)})
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	t.Run("kpopd", func(t *testing.T) {
		t.Parallel()
		authntest.RunVerifier(t, door("kpopd", dir), authntest.Account{Login: "alice", Password: "pw-alice"})
	})
	for _, tt := range []struct {
		name            string
		v               *checkpassword.Verifier
		login, password string
		kind            authn.Kind
		text            string // "" for one who is let in
	}{
		{"right", door("kpopd", dir), "alice", "pw-alice", 0, ""},
		{"wrong", door("kpopd", dir), "alice", "pw-bob", authn.Rejected, "Authentication failure"},
		{"account says no", door("kpopd", dir), "bob", "pw-bob", authn.Rejected, "Authentication failure"},
		{"client's address", door("192.0.2.7", dir), "alice", "pw-alice", 0, ""},
		{"another address", door("192.0.2.8", dir), "alice", "pw-alice", authn.Rejected, "Authentication failure"},
		{"module that is not there", door("down", dir), "alice", "pw-alice", authn.Unavailable, "Module is unknown"},
		{"password file that is not there", door("broken", dir), "alice", "pw-alice", authn.Unavailable, "Authentication service cannot retrieve"},
		{"no service named", door(), "alice", "pw-alice", authn.Internal, "usage"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			id, err := tt.v.VerifyPassword(t.Context(), &authn.PasswordRequest{
				Transport: transport, Login: tt.login, Password: authn.Password(tt.password),
			})
			if tt.text == "" {
				if err != nil || id.User != tt.login {
					t.Errorf("%+v, %v", id, err)
				}
				return
			}
			var e *authn.Error
			if !errors.As(err, &e) || e.Kind != tt.kind || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v, want %q of kind %v", err, tt.text, tt.kind)
			}
		})
	}
}
