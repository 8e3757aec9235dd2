package app

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/kpopd/kpopd/authn"
)

// costs is a policy with everything that a site may turn on: names, throttle,
// rules, a shadow, a list that denies, a users file that is watched, and the log.
const costs = `listeners:
  - {name: inside, address: "127.0.0.1:0", policy: today}
policies:
  - name: today
    chain: staff
    offers: [PLAIN, USER]
    plain: trusted
    trusted: [192.0.2.0/24]
    shadow: tomorrow
    rules:
      - {users: [mallory], action: deny}
      - {mechanisms: [USER], action: deny, sunset: {date: "2099-01-01", brownouts: ["mon 10:00-10:10"]}}
      - {networks: [10.0.0.0/8], action: allow}
      - {groups: [staff], action: warn}
  - {name: tomorrow, chain: staff, offers: [PLAIN], rules: [{tls: [none], action: deny}]}
chains:
  - {name: staff, steps: [{use: gone}, {use: guests}, {use: local, timeout: 5s}]}
verifiers:
  - {name: gone, type: deny, list: gone}
  - {name: guests, type: file, users: guests}
  - {name: local, type: file, users: users}
names: {fold_case: true, strip_domains: [example.org]}
throttle: {address_rate: 0}
maildrops: {root: mail}
`

// costlyLogin is alice's login at a server of costs, whose log goes nowhere, and
// the part of it that is the users file's: her hash is one round of SHA-256.
func costlyLogin(tb testing.TB) (login, hash func()) {
	tb.Helper()
	dir := tb.TempDir()
	sum := sha256.Sum256([]byte(password + "salt"))
	if err := errors.Join(
		os.WriteFile(filepath.Join(dir, "k.yaml"), []byte(costs), 0o600),
		os.WriteFile(filepath.Join(dir, "gone"), []byte("mallory\n"), 0o600),
		os.WriteFile(filepath.Join(dir, "guests"), []byte("gina:*\n"), 0o600),
		os.WriteFile(filepath.Join(dir, "users"), []byte("alice:{SSHA256}"+base64.StdEncoding.EncodeToString(append(sum[:], "salt"...))+":groups=staff\n"), 0o600),
		os.Mkdir(filepath.Join(dir, "mail"), 0o700),
	); err != nil {
		tb.Fatal(err)
	}
	s, err := Start(tb.Context(), filepath.Join(dir, "k.yaml"), io.Discard)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.Shutdown(nil) })
	policy := s.current.policies["today"]
	t := &authn.Transport{Session: "4cc3be87b3940f9c", Listener: "inside", Remote: netip.MustParseAddrPort("192.0.2.7:1025"), TLS: &tls.ConnectionState{Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_128_GCM_SHA256}}
	message := []byte("\x00Alice@example.org\x00" + password)
	login = func() {
		if len(policy.Mechanisms(t)) != 2 {
			tb.Fatal("not offered")
		}
		l, err := policy.Start(tb.Context(), t, "PLAIN")
		if err != nil {
			tb.Fatal(err)
		}
		if _, done, err := l.Next(tb.Context(), message); !done || err != nil {
			tb.Fatal(done, err)
		}
		if id := l.Identity(); id.User != "alice" {
			tb.Fatal(id)
		}
	}
	hash = func() {
		v := s.current.verifiers["local"].(authn.PasswordVerifier)
		r := &authn.PasswordRequest{Login: "alice", Password: authn.Password(password)}
		if _, err := v.VerifyPassword(tb.Context(), r); err != nil {
			tb.Fatal(err)
		}
	}
	return login, hash
}

// Policy with a shadow, throttle, chain of three steps and lines of the log take
// at most 30 allocations a login, with the mechanism and without the hash.
func TestLoginAllocatesLittle(t *testing.T) {
	login, hash := costlyLogin(t)
	all, beside := testing.AllocsPerRun(200, login), testing.AllocsPerRun(200, hash)
	if n := all - beside; n > 30 {
		t.Errorf("%v allocations, of %v in all", n, all)
	}
}

// BenchmarkLogin is the same without a connection: all is a login, hash the part of
// it that the users file has.
func BenchmarkLogin(b *testing.B) {
	login, hash := costlyLogin(b)
	for name, f := range map[string]func(){"all": login, "hash": hash} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				f()
			}
		})
	}
}

// A name that is written here is the library's.
func TestCipherNames(t *testing.T) {
	t.Parallel()
	for _, s := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		if got := cipherName(s.ID); got != s.Name {
			t.Errorf("got %s, want %s", got, s.Name)
		}
	}
}
