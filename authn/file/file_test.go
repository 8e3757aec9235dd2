package file

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/authntest"
)

const (
	hashP    = "$2b$05$abcdefghijklmnopqrstuuqwWMzKt5N8p.u2GX5MuH1t19BMWuLOW"                                                   // p
	hashSHA5 = "$5$rounds=1000$abcdefgh$l34PgPUzd3uV9PX3NO7KejKwL6ggMZl5Q46yWGMDoBD"                                            // p
	hashSHA6 = "$6$rounds=1000$abcdefgh$JDp3E5X2.SHM1z/43TYABRZGdDh6EQgZHB1NFcK84hAL8TApuQN0NFxKAGKO2fSIUfAtq/iEoskWfuRCjnPeu1" // p
	hashYes  = "$y$j75$abcdefgh$O1Pfj/9Vb915eYcMz7wx5XseBVg2uzbh1dyGl2oOm34"                                                    // p
)

func write(t *testing.T, name, content string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t *testing.T, users, secrets string) Verifier {
	t.Helper()
	o := Options{Users: write(t, "users", users, 0o644)}
	if secrets != "" {
		o.Digests = write(t, "digests", secrets, 0o600)
	}
	v, err := Open("file.local", o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func check(t *testing.T, v authn.Verifier, login, password string) (*authn.Identity, error) {
	t.Helper()
	return v.(authn.PasswordVerifier).VerifyPassword(t.Context(), &authn.PasswordRequest{Login: login, Password: authn.Password(password)})
}

func TestConformance(t *testing.T) {
	t.Parallel()
	for name, hash := range map[string]string{"bcrypt": hashP, "sha256": hashSHA5, "sha512": hashSHA6, "yescrypt": hashYes} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := open(t, "bob:*\nalice:"+hash+"::maildrop=a/alice\n", "")
			authntest.RunVerifier(t, v.(authn.PasswordVerifier), authntest.Account{Login: "alice", Password: "p"})
		})
	}
}

func TestVerifierIsWhatItsFilesAre(t *testing.T) {
	t.Parallel()
	u, d := write(t, "u", "alice:"+hashP, 0o600), write(t, "d", "alice:APOP:s", 0o600)
	for _, tt := range []struct {
		o                  Options
		passwords, secrets bool
	}{
		{Options{Users: u}, true, false},
		{Options{Digests: d}, false, true},
		{Options{Users: u, Digests: d}, true, true},
	} {
		v, err := Open("f", tt.o)
		if err != nil {
			t.Fatal(err)
		}
		c := authn.Chain{{Verifier: v}}
		if authn.Can[authn.PasswordVerifier](c) != tt.passwords || authn.Can[authn.SecretSource](c) != tt.secrets {
			t.Errorf("%+v: wrong type %T", tt.o, v)
		}
	}
	if _, err := Open("f", Options{}); err == nil {
		t.Error("opened without a file")
	}
}

func TestUsersFile(t *testing.T) {
	t.Parallel()
	v := open(t, strings.Join([]string{
		"# comment: with a colon",
		"",
		"   ",
		"plain:" + hashP,
		"htpasswd:" + strings.Replace(hashP, "$2b$", "$2y$", 1) + "\r",
		"shadow:" + hashSHA6 + ":19000:0:99999:7:::",
		"expired:" + hashSHA6 + ":19000:0:99999:7::19500:",
		"expires:" + hashSHA6 + ":19000:0:99999:7::2000000000:",
		"chfn:" + hashP + ":1000:1000:maildrop=plain nologin,,,:/home/chfn:/bin/sh",
		"dovecot:{BLF-CRYPT}" + hashP + ":5000:5000::/home/d::userdb_quota=1G maildrop=lists/dovecot",
		"crypt:{CRYPT}" + hashSHA5,
		"delayed:" + hashP + ":login_delay=15m maildrop=d",
		"lower:{sha512-crypt}" + hashSHA6,
		"ticket:*:maildrop=t",
		"debian:!:19000",
		"daemon:!*:19000",
		"locked:!" + hashP,
		"out:" + hashP + ":::nologin",
		"gone:*:::nologin",
		"ümit:" + hashP,
	}, "\n"), "")
	for _, tt := range []struct {
		login, password string
		want            authn.Kind
		in              bool
		attrs           map[string]string
	}{
		{"plain", "p", 0, true, nil},
		{"plain", "P", authn.Rejected, false, nil},
		{"plain", "p\x00", authn.Rejected, false, nil},
		{"Plain", "p", authn.UnknownUser, false, nil},
		{"htpasswd", "p", 0, true, nil},
		{"shadow", "p", 0, true, nil},
		{"expired", "p", authn.Expired, false, nil},
		{"expired", "x", authn.Expired, false, nil},
		{"expires", "p", 0, true, nil},
		{"chfn", "p", 0, true, nil},
		{"dovecot", "p", 0, true, map[string]string{authn.AttrMaildrop: "lists/dovecot"}},
		{"crypt", "p", 0, true, nil},
		{"delayed", "p", 0, true, map[string]string{authn.AttrMaildrop: "d", authn.AttrLoginDelay: "15m"}},
		{"lower", "p", 0, true, nil},
		{"ticket", "p", authn.Rejected, false, nil},
		{"ticket", "*", authn.Rejected, false, nil},
		{"debian", "p", authn.Rejected, false, nil},
		{"daemon", "p", authn.Rejected, false, nil},
		{"locked", "p", authn.Denied, false, nil},
		{"locked", "x", authn.Denied, false, nil}, // or a later step could let him in
		{"out", "p", authn.Denied, false, nil},
		{"out", "x", authn.Denied, false, nil},
		{"gone", "p", authn.Denied, false, nil},
		{"ümit", "p", 0, true, nil},
		{"# comment", "p", authn.UnknownUser, false, nil},
		{"", "p", authn.UnknownUser, false, nil},
	} {
		id, err := check(t, v, tt.login, tt.password)
		if (err == nil) != tt.in || err != nil && authn.KindOf(err) != tt.want {
			t.Errorf("%s with %q: %+v, %v", tt.login, tt.password, id, err)
			continue
		}
		if tt.in && (id.User != tt.login || !cmp.Equal(id.Attrs, tt.attrs)) {
			t.Errorf("%s: identity %+v", tt.login, id)
		}
	}
}

func TestUsersFileErrors(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, line, want string }{
		{"no colon", "alice", "no colon"},
		{"clear text", "alice:s3cret-pw", "neither {SCHEME} nor $id$"},
		{"clear text of Dovecot", "alice:{PLAIN}s3cret-pw", "scheme {PLAIN} are not taken"},
		{"DES", "alice:abJnggxhB/yWI", "neither"},
		{"MD5", "alice:$1$salt$s3cretpwxxxxxxxxxxxxxx", "kind $1$ are not taken"},
		{"MD5 of Apache", "alice:$apr1$salt$s3cretpwxxxxxxxxxxxxxx", "kind $apr1$ are not taken"},
		{"empty hash", "alice:", "no password hash"},
		{"hash elsewhere", "alice:x:1000:", "shadow file"},
		{"scheme that is not the hash's", "alice:{SHA512-CRYPT}" + hashP, "{SHA512-CRYPT}"},
		{"damaged hash", "alice:" + hashP[:50], "damaged"},
		{"bcrypt of the buggy kind", "alice:" + strings.Replace(hashP, "$2b$", "$2x$", 1), "kind $2x$"},
		{"bcrypt of cost 31", "alice:" + strings.Replace(hashP, "$05$", "$31$", 1), "cost more"},
		{"a thousand million rounds", "alice:" + strings.Replace(hashSHA6, "=1000$", "=999999999$", 1), "cost more"},
		{"argon2 with 8 GiB", "alice:$argon2id$v=19$m=8388608,t=2,p=1$m3hfirMg8eXfua2hMoG30g$z5N3s7BUytO1xK5CNteOj+jACuWO/V2YP4Axqg72YSA", "cost more"},
		{"name that no client can send", "al/ice:" + hashP, `"al/ice" is not a login`},
		{"name of 256 octets", strings.Repeat("a", 256) + ":" + hashP, "256 octets"},
		{"name that is not canonical", "u\u0308mit:" + hashP, "RFC 8265"},
		{"maildrop outside", "alice:" + hashP + ":maildrop=../bob", "relative path"},
		{"login delay without a unit", "alice:" + hashP + ":login_delay=15", "a number with a unit"},
		{"negative login delay", "alice:" + hashP + ":login_delay=-1s", "a number with a unit"},
		{"absolute maildrop", "alice:" + hashP + ":maildrop=/etc", "relative path"},
		{"restriction that is not obeyed", "alice:" + hashP + ":::allow_nets=10.0.0.0/8", "allow_nets"},
		{"long line", "alice:" + hashP + ":" + strings.Repeat("x", maxLine), "longer"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := parseUsers("users", []byte("# first\n"+tt.line+"\n"))
			if err == nil || !strings.HasPrefix(err.Error(), "users:2: ") || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want something of %q", err, tt.want)
			}
			for _, secret := range []string{"s3cret", "WMzKt5N8p", "JnggxhB", "JDp3E5X2", "z5N3s7B"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("%v shows the hash", err)
				}
			}
		})
	}
}

func TestUsersFileDuplicates(t *testing.T) {
	t.Parallel()
	_, err := parseUsers("users", []byte("alice:*\nbob:*\n\nalice:"+hashP+"\n"))
	if want := "users:4: alice is on line 1 already: remove one of them"; err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
}

func TestErrorsAreBounded(t *testing.T) {
	t.Parallel()
	_, err := parseUsers("users", []byte(strings.Repeat("bad\n", 1000)))
	if n := strings.Count(err.Error(), "\n"); n != maxErrors || !strings.Contains(err.Error(), "980 more") {
		t.Errorf("%d lines: %v", n, err)
	}
}

func TestDigestsFile(t *testing.T) {
	t.Parallel()
	v := open(t, "alice:*:maildrop=a\nbob:!"+hashP+"\ncarol:*:19000:0:99999:7::19500:\n", "# c\r\nalice:APOP: a:b \r\nalice:CRAM-MD5:c\r\nbob:APOP:x\ncarol:APOP:x\ngone:APOP:y\n").(authn.SecretSource)
	for _, tt := range []struct {
		login, scheme, secret string
		want                  authn.Kind
	}{
		{"alice", "APOP", " a:b ", 0},
		{"alice", "CRAM-MD5", "c", 0},
		{"bob", "CRAM-MD5", "", authn.UnknownUser},
		{"bob", "APOP", "", authn.Denied},
		{"carol", "APOP", "", authn.Expired},
		{"gone", "APOP", "", authn.UnknownUser},
		{"nobody", "APOP", "", authn.UnknownUser},
		{"alice", "SCRAM", "", authn.UnknownUser},
	} {
		s, id, err := v.Secret(t.Context(), tt.login, tt.scheme)
		if string(s) != tt.secret || (err == nil) != (tt.secret != "") || err != nil && authn.KindOf(err) != tt.want {
			t.Errorf("%s %s: %d octets, %v", tt.login, tt.scheme, len(s), err)
		}
		if err == nil && (id.User != tt.login || id.Attrs[authn.AttrMaildrop] != "a") {
			t.Errorf("%s: %+v", tt.login, id)
		}
		s.Wipe() // must not reach the table
	}
	if s, _, _ := v.Secret(t.Context(), "alice", "CRAM-MD5"); string(s) != "c" {
		t.Error("wiping a secret wiped the table's")
	}
}

func TestHas(t *testing.T) {
	t.Parallel()
	if open(t, "alice:*\n", "").Has("APOP") {
		t.Error("nobody has a secret")
	}
	v := open(t, "alice:*\n", "alice:APOP:s\n")
	if !v.Has("APOP") || v.Has("CRAM-MD5") {
		t.Error("alice has a secret for APOP and nothing else")
	}
}

func TestDigestsFileErrors(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, content, want string }{
		{"two fields", "alice:s3cret", "d:1: a line is"},
		{"unknown scheme", "alice:SCRAM:s3cret", "d:1: the scheme"},
		{"mechanism for a scheme", "alice:SCRAM-SHA-256-PLUS:" + scramP, "d:1: the scheme"},
		{"password for keys", "alice:SCRAM-SHA-256:s3cret", "d:1: SCRAM-SHA-256: keys are written"},
		{"keys of another scheme", "alice:SCRAM-SHA-1:" + scramP, "d:1: keys for SCRAM-SHA-256 in a line of SCRAM-SHA-1"},
		{"sealed without a key", "alice:APOP:{AES-256-GCM}00000000$AAAA", "d:1: APOP for alice: the secret is sealed: name the key file"},
		{"sealed and cut", "alice:APOP:{AES-256-GCM}s3cret", "d:1: APOP for alice: the secret does not open"},
		{"lower case scheme", "alice:apop:s3cret", "d:1: the scheme"},
		{"empty secret", "\nalice:APOP:", "d:2: the secret"},
		{"NUL", "alice:APOP:s3cret\x00", "d:1: the secret"},
		{"long secret", "alice:APOP:" + strings.Repeat("s3cret", 200), "d:1: the secret"},
		{"bad login", "a b:APOP:s3cret", "d:1: \"a b\" is not a login"},
		{"twice", "alice:APOP:s3cret\nalice:APOP:s3cret", "d:2: alice has a secret for APOP on line 1"},
	} {
		_, err := parseDigests("d", []byte(tt.content), nil)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestModes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		users, digests os.FileMode
		want           string
	}{
		{0o644, 0o600, ""},
		{0o600, 0o400, ""},
		{0o664, 0o600, "users: mode 0664 lets others write it: chmod 0644 it"},
		{0o646, 0o600, "chmod 0644"},
		{0o644, 0o640, "digests: mode 0640 lets others use it: chmod 0600 it"},
		{0o644, 0o604, "chmod 0600"},
	} {
		_, err := Open("f", Options{Users: write(t, "users", "a:*", tt.users), Digests: write(t, "digests", "a:APOP:s", tt.digests)})
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%o %o: %v", tt.users, tt.digests, err)
		}
	}
	if _, err := Open("f", Options{Users: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a directory: %v", err)
	}
	if _, err := Open("f", Options{Users: filepath.Join(t.TempDir(), "none")}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

// counted is a hash that counts how often it is computed.
type counted struct {
	matcher
	n *atomic.Int64
}

func (c counted) MatchBytesAdvanced(p []byte) (bool, error) {
	c.n.Add(1)
	return c.matcher.MatchBytesAdvanced(p)
}

// Refusals must take equal time. What the time is made of can be counted
// exactly: the hashes computed.
func TestRule025UnknownUserCostsAHash(t *testing.T) {
	t.Parallel()
	us, err := parseUsers("u", []byte("a:"+hashSHA5+"\nb:"+hashP+"\nc:"+hashP+"\nticket:*\nlocked:!"+hashP+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	var n atomic.Int64
	for i, k := range us.kinds {
		us.kinds[i].hash = counted{k.hash, &n}
	}
	for login, u := range us.byLogin {
		if u.hash != nil {
			u.hash = counted{u.hash, &n}
			us.byLogin[login] = u
		}
	}
	f := &files{name: "f", budget: NewBudget(BudgetOptions{Hashes: 1}), users: us}
	for _, tt := range []struct {
		login, password string
		want            int64
	}{
		{"b", "p", 1},
		{"b", "x", 1},
		{"nobody", "x", 1},
		{"nobody", "p", 1}, // also when the dummy matches
		{"ticket", "x", 1},
		{"ticket", "p", 1},
		{"locked", "p", 1},
		{"b", "", 0}, // S-27: refused before anything is computed, whoever it is
		{"nobody", "", 0},
		{"b", strings.Repeat("p", authn.MaxPassword+1), 0},
		{"nobody", strings.Repeat("p", authn.MaxPassword+1), 0},
	} {
		n.Store(0)
		id, err := check(t, passwords{f}, tt.login, tt.password)
		if n.Load() != tt.want {
			t.Errorf("%s with %.3q: %d hashes, want %d", tt.login, tt.password, n.Load(), tt.want)
		}
		if (err == nil) != (tt.login == "b" && tt.password == "p") {
			t.Errorf("%s with %.3q: %+v, %v", tt.login, tt.password, id, err)
		}
	}
}

func FuzzUsers(f *testing.F) {
	for _, s := range []string{
		"alice:" + hashP, "alice:" + hashSHA5 + ":x:maildrop=a\r\nbob:*", "# c\n\nalice:!" + hashYes, "alice:{PLAIN}x", "alice:*\nalice:*",
		"a:$scrypt$ln=1,r=1,p=1$YWJj$YWJjZGVmZ2hpamtsbW5vcA", "a:$argon2id$v=19$m=8,t=1,p=1$YWJjZGVmZ2g$YWJjZGVmZ2hpamtsbW5vcA", "a:$pbkdf2-sha256$1$YWJj$YWJjZGVmZ2hpamtsbW5vcA",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		us, err := parseUsers("users", b)
		if err != nil {
			for l := range strings.Lines(err.Error()) {
				if !strings.HasPrefix(l, "users:") {
					t.Errorf("error without its place: %q", l)
				}
			}
			return
		}
		for login, u := range us.byLogin {
			// whoever is in the table stands in the file, and can be asked for
			if l, err := authn.PrepareLogin(login); err != nil || l != login || !strings.Contains(string(b), login+":") {
				t.Errorf("%q is in the table", login)
			}
			if u.hash != nil && us.dummy(NewBudget(BudgetOptions{}).seed, "x") == nil {
				t.Error("a hash and no dummy")
			}
			if p, ok := u.attrs[authn.AttrMaildrop]; ok && !filepath.IsLocal(p) {
				t.Errorf("maildrop %q", p)
			}
		}
	})
}

func FuzzDigests(f *testing.F) {
	for _, s := range []string{"alice:APOP:s", "alice:CRAM-MD5:a:b\r\n#\nbob:APOP: ", "alice:APOP:", "alice:X:s", "alice:SCRAM-SHA-256:" + scramP, "alice:APOP:{AES-256-GCM}00000000$AAAA"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		all, err := parseDigests("d", b, nil)
		if err != nil {
			return
		}
		for k, s := range all.byKey {
			if len(s) == 0 || !strings.Contains(string(b), fmt.Sprintf("%s:%s:%s", k.login, k.scheme, string(s))) {
				t.Errorf("%s %s: secret of %d octets that is not in the file", k.login, k.scheme, len(s))
			}
		}
	})
}

func BenchmarkLoad(b *testing.B) {
	var s strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&s, "user%d:%s:5000:5000::/home::maildrop=u/%d\n", i, hashSHA6, i)
	}
	text := []byte(s.String())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := parseUsers("users", text); err != nil {
			b.Fatal(err)
		}
	}
}
