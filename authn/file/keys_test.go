package file

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/scram"
)

const (
	keyA = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	keyB = "BAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="

	// scramP is keys for the password pencil, of the example of RFC 7677.
	scramP = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func keyFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	must(t, MakeKeyFile(path))
	return path
}

// secretOf is what a verifier with the files hands out.
func secretOf(t *testing.T, digestsPath, keyPath, login, scheme string) (string, error) {
	t.Helper()
	v, err := Open("file", Options{Digests: digestsPath, Key: keyPath})
	if err != nil {
		return "", err
	}
	s, _, err := v.(authn.SecretSource).Secret(t.Context(), login, scheme)
	return string(s), err
}

func TestKeyFile(t *testing.T) {
	t.Parallel()
	path := keyFile(t)
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	before := content(t, path)
	if err := MakeKeyFile(path); err == nil || content(t, path) != before {
		t.Errorf("made a key in the place of another: %v", err)
	}
	if other := content(t, keyFile(t)); other == before {
		t.Error("two key files are the same")
	}
	for _, tt := range []struct {
		name, content string
		mode          os.FileMode
		want          string
	}{
		{"key and comment", "# c\n\n" + keyA + "\r\n" + keyB, 0o600, ""},
		{"empty", "# nothing\n", 0o600, "no key in it: make one with kpopd passwd key"},
		{"short", "AAAA\n", 0o600, "k:1: a line is a key of 32 octets"},
		{"no base64", keyA + "\n" + strings.Replace(keyA, "=", "*", 1), 0o600, "k:2: a line is a key"},
		{"twice", keyA + "\n" + keyA, 0o600, "k:2: the key is there already"},
		{"readable by others", keyA, 0o640, "mode 0640 lets others use it: chmod 0600 it"},
	} {
		_, err := OpenKeys(write(t, "k", tt.content, tt.mode))
		if (err == nil) != (tt.want == "") || err != nil && (!strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "AAAA")) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if _, err := OpenKeys(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

func TestSystemdCredential(t *testing.T) {
	path := write(t, "digests.key", keyA, 0o440) // as an access list's mask shows
	t.Setenv("CREDENTIALS_DIRECTORY", filepath.Dir(path))
	if _, err := OpenKeys("credential:digests.key"); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"", "other", "../" + filepath.Base(filepath.Dir(path)) + "/digests.key"} {
		if _, err := OpenKeys("credential:" + name); err == nil {
			t.Errorf("opened %q", name)
		}
	}
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	if _, err := OpenKeys("credential:digests.key"); err == nil || !strings.Contains(err.Error(), "LoadCredential=") {
		t.Errorf("without systemd: %v", err)
	}
}

func TestSaltOfKeys(t *testing.T) {
	t.Parallel()
	salt := func(content string) (authn.Password, error) {
		k, err := OpenKeys(write(t, "k", content, 0o600))
		must(t, err)
		return k.Salt()
	}
	a, err := salt(keyA)
	must(t, err)
	again, err := salt("# the same\n" + keyA)
	must(t, err)
	b, err := salt(keyB)
	must(t, err)
	if !bytes.Equal(a, again) || bytes.Equal(a, b) || len(a) != 32 {
		t.Error("not a function of the key")
	}
	if _, err := salt(keyA + "\n" + keyB); err == nil {
		t.Error("made of two keys")
	}
}

func TestSealedSecrets(t *testing.T) {
	t.Parallel()
	key, path := keyFile(t), filepath.Join(t.TempDir(), "digests")
	must(t, SetSecret(path, key, "alice", "APOP", authn.Password("s3cret:a")))
	must(t, SetSecret(path, key, "alice", "CRAM-MD5", authn.Password("s3cret:a")))
	must(t, SetSecret(path, key, "bob", "SCRAM-SHA-256", authn.Password(scramP)))
	must(t, SetSecret(path, key, "alice", "APOP", authn.Password("s3cret:b")))
	text := content(t, path)
	if strings.Contains(text, "s3cret") || strings.Contains(text, "W22Z") || strings.Count(text, ":{AES-256-GCM}") != 3 {
		t.Errorf("the file is\n%s", text)
	}
	for scheme, want := range map[string]string{"APOP": "s3cret:b", "CRAM-MD5": "s3cret:a"} {
		if got, err := secretOf(t, path, key, "alice", scheme); got != want || err != nil {
			t.Errorf("%s: got %q, %v", scheme, got, err)
		}
	}
	all, err := Secrets(path)
	id := text[strings.IndexByte(text, '}')+1:][:8]
	if diff := cmp.Diff([]Secret{{"alice", "APOP", id, 0}, {"alice", "CRAM-MD5", id, 0}, {"bob", "SCRAM-SHA-256", id, 0}}, all); diff != "" || err != nil {
		t.Error(diff, err)
	}

	// nothing opens with another key, as another user's, or changed
	for _, tt := range []struct{ name, old, new, key, want string }{
		{"no key", "", "", "", "digests:1: APOP for alice: the secret is sealed: name the key file (digests_key, --key)"},
		{"another key", "", "", keyFile(t), "digests:1: APOP for alice: the secret is sealed with key \"" + id + "\", which is not in "},
		{"moved to another user", "bob:", "carol:", key, "digests:3: SCRAM-SHA-256 for carol: the secret does not open"},
		{"moved to another scheme", "alice:CRAM-MD5:", "carol:APOP:", key, "digests:2: APOP for carol: the secret does not open"},
		{"swapped", "alice:APOP:", "alice:SCRAM-SHA-1:", key, "digests:1: SCRAM-SHA-1 for alice: the secret does not open"},
		{"cut", text, text[:len(text)-9] + "\n", key, "digests:3: SCRAM-SHA-256 for bob: the secret does not open"},
		{"empty", text, "alice:APOP:{AES-256-GCM}" + id + "$\n", key, "digests:1: APOP for alice: the secret does not open"},
	} {
		changed := write(t, "digests", strings.Replace(text, tt.old, tt.new, 1), 0o600)
		_, err := Open("file", Options{Digests: changed, Key: tt.key})
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if err := SetSecret(path, key, "carol", "APOP", authn.Password("{AES-256-GCM}x")); err == nil {
		t.Error("took a secret that looks sealed")
	}
	if err := SetSecret(path, filepath.Join(t.TempDir(), "none"), "carol", "APOP", authn.Password("x")); err == nil || content(t, path) != text {
		t.Errorf("without a key: %v", err)
	}
}

// One and the same secret is sealed in another way each time.
func TestSealIsRandom(t *testing.T) {
	t.Parallel()
	k, err := OpenKeys(keyFile(t))
	must(t, err)
	a, b := k.seal("alice", "APOP", authn.Password("s")), k.seal("alice", "APOP", authn.Password("s"))
	if bytes.Equal(a, b) {
		t.Error("twice the same")
	}
	for i := range a {
		bad := bytes.Clone(a)
		bad[i] ^= 1
		if s, err := k.open("alice", "APOP", bad); err == nil && !bytes.HasPrefix(bad, []byte(sealed)) {
			continue // a changed prefix is another kind of secret
		} else if err == nil {
			t.Errorf("octet %d changed: opened as %d octets", i, len(s))
		}
	}
}

func TestSeal(t *testing.T) {
	t.Parallel()
	key := keyFile(t)
	path := write(t, "digests", "# kept\r\n\nalice:APOP:a:b\r\nalice:SCRAM-SHA-256:"+scramP+"\nbob:CRAM-MD5:c", 0o600)
	for _, want := range []int{3, 0} {
		if n, err := Seal(path, key); n != want || err != nil {
			t.Fatalf("sealed %d, %v, want %d", n, err, want)
		}
	}
	text := content(t, path)
	if !strings.HasPrefix(text, "# kept\r\n\nalice:APOP:{AES") || strings.Count(text, "\n") != 4 || strings.Count(text, "\r\n") != 2 {
		t.Errorf("the file is\n%q", text)
	}
	if got, err := secretOf(t, path, key, "alice", "APOP"); got != "a:b" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := secretOf(t, path, key, "alice", "SCRAM-SHA-256"); got != scramP || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	broken := write(t, "digests", "alice:APOP:a\nbob\n", 0o600)
	if _, err := Seal(broken, key); err == nil || content(t, broken) != "alice:APOP:a\nbob\n" {
		t.Errorf("a broken file: %v", err)
	}
	if _, err := Seal(filepath.Join(t.TempDir(), "none"), key); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

func TestRotate(t *testing.T) {
	t.Parallel()
	key := keyFile(t)
	first := content(t, key)
	one, two := write(t, "one", "alice:APOP:a\n", 0o600), filepath.Join(t.TempDir(), "two")
	must(t, SetSecret(two, key, "bob", "APOP", authn.Password("b")))
	old := content(t, two)

	must(t, Rotate(key, true, one, two))
	if got := content(t, key); !strings.HasSuffix(got, first) || got == first {
		t.Errorf("keys %q", got)
	}
	backup := write(t, "backup", old, 0o600)
	for path, want := range map[string]string{two: "b", backup: "b"} { // the old key is still there
		if got, err := secretOf(t, path, key, "bob", "APOP"); got != want || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
	}
	must(t, Rotate(key, false, one, two))
	if got := content(t, key); len(got) != len(first) || strings.Contains(got, first) {
		t.Errorf("keys %q", got)
	}
	if got, err := secretOf(t, one, key, "alice", "APOP"); got != "a" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := secretOf(t, backup, key, "bob", "APOP"); err == nil {
		t.Error("the old key is still good")
	}
	// what cannot be sealed keeps the keys that open it
	before := content(t, one)
	broken := write(t, "broken", "bob\n", 0o600)
	if err := Rotate(key, false, broken); err == nil {
		t.Error("rotated with a broken file")
	}
	if got, err := secretOf(t, one, key, "alice", "APOP"); got != "a" || err != nil || content(t, one) != before {
		t.Errorf("after it: %q, %v", got, err)
	}
	if err := Rotate(filepath.Join(t.TempDir(), "none"), false); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no key file: %v", err)
	}
}

// Unknown users are shown what most real ones have.
func TestKeyShape(t *testing.T) {
	t.Parallel()
	line := func(login string, iterations int) string {
		k, err := scram.Make("SCRAM-SHA-1", authn.Password("p"), iterations)
		must(t, err)
		return login + ":SCRAM-SHA-1:" + string(k.Text()) + "\n"
	}
	v := open(t, "a:*\n", line("a", 4096)+line("b", 5000)+line("c", 5000)+line("d", 6000))
	s, ok := v.(scram.Surveyor).KeyShape("SCRAM-SHA-1")
	if !ok || s != (scram.Shape{Iterations: 5000, Salt: 16}) {
		t.Errorf("got %+v, %v", s, ok)
	}
	if s, ok := v.(scram.Surveyor).KeyShape("SCRAM-SHA-256"); ok {
		t.Errorf("nobody has keys, got %+v", s)
	}
	if w := v.Warnings(); len(w) != 1 || !strings.Contains(w[0].Error(), "keys for SCRAM-SHA-1 that have other than 5000 iterations and 16 octets of salt, which unknown users are shown: 2;") {
		t.Errorf("warned of %v", w)
	}
}

// What a login could be let in with twice.
func TestIsSecret(t *testing.T) {
	t.Parallel()
	key := keyFile(t)
	path := write(t, "digests", "alice:CRAM-MD5:b\nalice:SCRAM-SHA-256:"+scramP+"\nbob:APOP:c\n", 0o600)
	must(t, SetSecret(path, key, "alice", "APOP", authn.Password("a")))
	for _, tt := range []struct {
		login, password string
		want            bool
	}{
		{"alice", "a", true},
		{"alice", "b", true},
		{"alice", "pencil", false}, // keys for SCRAM may be of it
		{"alice", scramP, false},
		{"alice", "c", false},
		{"bob", "c", true},
		{"carol", "a", false},
	} {
		if got, err := IsSecret(path, key, tt.login, authn.Password(tt.password)); got != tt.want || err != nil {
			t.Errorf("%+v: %v, %v", tt, got, err)
		}
	}
	if _, err := IsSecret(path, "", "alice", authn.Password("a")); err == nil {
		t.Error("no error without the key")
	}
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	if w := open(t, "a:*\n", "").Warnings(); len(w) != 0 {
		t.Errorf("warned of %v", w)
	}
	if w := open(t, "a:*\n", "a:SCRAM-SHA-256:"+scramP+"\n").Warnings(); len(w) != 0 {
		t.Errorf("warned of %v", w)
	}
	w := open(t, "a:*\n", "a:APOP:s3cret\na:CRAM-MD5:s3cret\n").Warnings()
	if len(w) != 1 || !strings.Contains(w[0].Error(), "secrets that are readable in it: 2; seal them with kpopd passwd seal") {
		t.Errorf("warned of %v", w)
	}
}

func FuzzSealed(f *testing.F) {
	f.Add("alice", "APOP", []byte("s"), uint16(3))
	f.Add("ümit", "SCRAM-SHA-256", []byte(scramP), uint16(40))
	k, err := parseKeys("k", []byte(keyA+"\n"+keyB))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, login, scheme string, secret []byte, at uint16) {
		box := k.seal(login, scheme, secret)
		got, err := k.open(login, scheme, box)
		if err != nil || !bytes.Equal(got, secret) {
			t.Fatalf("opened as %q, %v", []byte(got), err)
		}
		// no other opens it, and none that was changed behind the prefix
		if _, err := k.open(login+"x", scheme, box); err == nil {
			t.Error("another login opens it")
		}
		if _, err := k.open(login, scheme+"x", box); err == nil {
			t.Error("another scheme opens it")
		}
		bad := slices.Clone(box)
		i := len(sealed) + int(at)%(len(bad)-len(sealed))
		bad[i] ^= 1
		if _, err := k.open(login, scheme, bad); err == nil {
			t.Errorf("opens with octet %d changed", i)
		}
	})
}

func FuzzKeys(f *testing.F) {
	f.Add([]byte(keyA + "\n# c\n" + keyB))
	f.Add([]byte("AAAA"))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := parseKeys("k", b)
		if err != nil {
			return
		}
		// a key for each line that is no comment, and none twice
		n, ids := 0, map[string]bool{}
		for range lines(b) {
			n++
		}
		for _, x := range k.all {
			ids[x.id] = true
		}
		if n != len(k.all) || n != len(ids) {
			t.Errorf("%d keys of %d lines of %q", len(ids), n, b)
		}
	})
}
