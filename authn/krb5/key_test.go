package krb5_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/kpopd/kpopd/authn/krb5"
	"github.com/kpopd/kpopd/krb5test"
)

var allEnctypes = append(krb5.DefaultEnctypes(), krb5.RC4)

func TestKeyRoundTrip(t *testing.T) {
	t.Parallel()
	for _, e := range allEnctypes {
		t.Run(krb5.EnctypeName(e), func(t *testing.T) {
			k, err := krb5.NewKey(e)
			if err != nil || k.IsZero() || k.Enctype() != e {
				t.Fatal(err)
			}
			for n := range 50 {
				plain := octets(n)
				c, err := k.Encrypt(11, plain)
				if err != nil {
					t.Fatal(err)
				}
				got, err := k.Decrypt(11, c)
				if err != nil || !bytes.Equal(got[:n], plain) {
					t.Fatalf("%d octets: %x, %v", n, got, err)
				}
				if _, err := k.Decrypt(12, c); err == nil {
					t.Error("another key usage opens it")
				}
				for cut := range c {
					if _, err := k.Decrypt(11, c[:cut]); err == nil || strings.Contains(err.Error(), "panic") {
						t.Fatalf("%d of %d octets: %v", cut, len(c), err)
					}
				}
			}
			sum, err := k.Checksum(10, []byte("data"))
			if err != nil || len(sum) != k.ChecksumSize() || !k.VerifyChecksum(10, []byte("data"), sum) {
				t.Errorf("checksum of %d octets: %v", len(sum), err)
			}
			for _, bad := range [][]byte{nil, {}, sum[:len(sum)-1], append(bytes.Clone(sum), 0), octets(len(sum))} {
				if k.VerifyChecksum(10, []byte("data"), bad) {
					t.Errorf("checksum %x", bad)
				}
			}
			for n := range 70 {
				if _, err := krb5.KeyFrom(e, octets(n)); (err == nil) != (n == keySize(e)) {
					t.Errorf("a key of %d octets: %v", n, err)
				}
			}
		})
	}
}

func keySize(enctype int32) int {
	if enctype == krb5.AES256SHA1 || enctype == krb5.AES256SHA2 {
		return 32
	}
	return 16
}

func TestKeyZeroDoesNothing(t *testing.T) {
	t.Parallel()
	var k krb5.Key
	if _, err := k.Encrypt(1, nil); err == nil {
		t.Error("encrypted")
	}
	if _, err := k.Decrypt(1, octets(64)); err == nil {
		t.Error("decrypted")
	}
	if _, err := k.Checksum(1, nil); err == nil || k.VerifyChecksum(1, nil, nil) {
		t.Error("checked")
	}
	for _, e := range []int32{0, 1, 3, 16, 24, 25, 26, -128} {
		if _, err := krb5.NewKey(e); err == nil {
			t.Errorf("made a key of enctype %d", e)
		}
	}
}

// No verb, logger or encoder shows a key, wherever it stands.
func TestKeyNeverPrints(t *testing.T) {
	t.Parallel()
	secret := []byte("0123456789abcdef")
	k, err := krb5.KeyFrom(krb5.AES128SHA1, secret)
	if err != nil {
		t.Fatal(err)
	}
	kdc := realm()
	a := acceptorFor(t, kdc)
	type hidden struct {
		k krb5.Key
		p *krb5.Key
	}
	var out bytes.Buffer
	values := []any{k, &k, hidden{k, &k}, &hidden{k, &k}, []krb5.Key{k}, map[string]krb5.Key{"k": k}, krb5.Context{Session: k}, &krb5.Context{Session: k}, &krb5.Initiator{Session: k}}
	for _, v := range values {
		out.WriteString(everyVerb(v))
		slog.New(slog.NewTextHandler(&out, nil)).Info("key", "k", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("key", "k", v)
		json.NewEncoder(&out).Encode(v)
	}
	for _, form := range []string{
		string(secret), fmt.Sprintf("%x", secret), fmt.Sprintf("%X", secret),
		strings.Trim(fmt.Sprint(secret), "[]"), strings.Trim(fmt.Sprintf("%o", secret), "[]"), "MDEyMzQ1",
	} {
		if strings.Contains(out.String(), form) {
			t.Errorf("%q is in the output", form)
		}
	}
	key := kdc.Keytab("pop/localhost")
	last := key[len(key)-4-16 : len(key)-4]
	if text := everyVerb(a.Keytab) + everyVerb(a); strings.Contains(text, fmt.Sprintf("%x", last)) ||
		strings.Contains(text, strings.Trim(fmt.Sprint(last), "[]")) {
		t.Error("the keytab prints a key")
	}
	c, err := kdc.Mint(krb5test.Spec{SessionEnctype: krb5.AES128SHA1, SessionKey: secret})
	if err != nil {
		t.Fatal(err)
	}
	if text := everyVerb(c) + everyVerb(*c); strings.Contains(text, fmt.Sprintf("%x", secret)) || strings.Contains(text, strings.Trim(fmt.Sprint(secret), "[]")) {
		t.Error("the credential prints its key")
	}
}

// everyVerb prints v in each way that fmt has.
func everyVerb(v any) string {
	var b strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x", "%X", "%o", "%b", "%c", "%T"} {
		fmt.Fprintf(&b, verb+"\n", v)
	}
	return b.String()
}

func TestParseEnctype(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]int32{
		"aes256-sha2": krb5.AES256SHA2, "aes128-cts-hmac-sha256-128": krb5.AES128SHA2, "AES256-SHA1": krb5.AES256SHA1,
		"aes128-sha1": krb5.AES128SHA1, "arcfour-hmac": krb5.RC4, "rc4-hmac": krb5.RC4,
		"des-cbc-md5": 0, "des3-cbc-sha1": 0, "": 0, "enctype 17": 0,
	} {
		got, err := krb5.ParseEnctype(name)
		if got != want || (err == nil) != (want != 0) {
			t.Errorf("%q: %d, %v", name, got, err)
		}
	}
}
