package file_test

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"

	"github.com/emersion/go-sasl"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/authntest"
	"github.com/kpopd/kpopd/authn/cram"
	"github.com/kpopd/kpopd/authn/file"
	"github.com/kpopd/kpopd/authn/plain"
)

// BenchmarkLogin is a login by each mechanism through policy, chain and files.
func BenchmarkLogin(b *testing.B) {
	users, digests := filepath.Join(b.TempDir(), "users"), filepath.Join(b.TempDir(), "digests")
	if err := os.WriteFile(users, nil, 0o600); err != nil {
		b.Fatal(err)
	}
	for _, scheme := range file.Schemes() {
		hash, err := file.MakeHash(scheme, authn.Password("secret"))
		if err != nil {
			b.Fatal(err)
		}
		if err := file.SetHash(users, scheme, hash); err != nil {
			b.Fatal(err)
		}
	}
	for login, hash := range map[string]string{
		"sha512-5000": "$6$saltsalt$T8zzampJcN172f1r0kNFFiQGdtFquc5jnzebqomQxxdUNGG69JTP0XFkH2sFbHn4FG4SGRFsmj2vnmTApt5fI/",
		"sha256-1000": "$5$rounds=1000$abcdefgh$l34PgPUzd3uV9PX3NO7KejKwL6ggMZl5Q46yWGMDoBD",
		"ssha256":     saltedHash("p"),
	} {
		if err := file.SetHash(users, login, hash); err != nil {
			b.Fatal(err)
		}
	}
	for _, scheme := range file.SecretSchemes() {
		if err := file.SetSecret(digests, "", "sha512", scheme, authn.Password("secret")); err != nil {
			b.Fatal(err)
		}
	}
	v, err := file.Open("file", file.Options{Users: users, Digests: digests})
	if err != nil {
		b.Fatal(err)
	}
	chain := authn.Chain{{Verifier: v}}
	run := func(name string, m authn.Mechanism, client func() sasl.Client) {
		b.Run(name, func(b *testing.B) {
			p := &authn.Policy{Offers: []authn.Mechanism{m}}
			t := &authn.Transport{TLS: &tls.ConnectionState{}, Stamp: "<1.2@h>"}
			b.ReportAllocs()
			for b.Loop() {
				l, err := p.Start(b.Context(), t, m.Name())
				if err != nil {
					b.Fatal(err)
				}
				if err := authntest.Converse(b.Context(), l, client()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	for _, scheme := range file.Schemes() {
		run("PLAIN/"+scheme, plain.PLAIN(chain), func() sasl.Client { return sasl.NewPlainClient("", scheme, "secret") })
	}
	for _, login := range []string{"sha512-5000", "sha256-1000", "ssha256"} {
		run("PLAIN/"+login, plain.PLAIN(chain), func() sasl.Client { return sasl.NewPlainClient("", login, "p") })
	}
	run("APOP", plain.APOP(chain), func() sasl.Client {
		sum := md5.Sum([]byte("<1.2@h>secret"))
		return sasl.NewExternalClient("sha512 " + hex.EncodeToString(sum[:])) // one response and nothing else
	})
	run("CRAM-MD5", cram.New(chain, "h"), func() sasl.Client { return &cramClient{} })
}

type cramClient struct{}

func (*cramClient) Start() (string, []byte, error) { return "CRAM-MD5", nil, nil }

func (*cramClient) Next(challenge []byte) ([]byte, error) {
	mac := hmac.New(md5.New, []byte("secret"))
	mac.Write(challenge)
	return []byte("sha512 " + hex.EncodeToString(mac.Sum(nil))), nil
}

func saltedHash(password string) string {
	sum := sha256.Sum256([]byte(password + "salt"))
	return "{SSHA256}" + base64.StdEncoding.EncodeToString(append(sum[:], "salt"...))
}
