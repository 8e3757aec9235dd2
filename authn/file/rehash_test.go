package file

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kpopd/kpopd/authn"
)

// What is made is what the table says is made; nothing that is made is weaker
// than itself.
func TestMadeClasses(t *testing.T) {
	t.Parallel()
	for _, scheme := range Schemes() {
		hash, err := MakeHash(scheme, authn.Password("p"))
		must(t, err)
		_, class, err := parseHash(hash)
		if err != nil || class != made[scheme] {
			t.Errorf("%s: class %q, the table has %q, %v", scheme, class, made[scheme], err)
		}
		if weaker(class, scheme) {
			t.Errorf("%s is weaker than itself", scheme)
		}
	}
	for _, f := range formats {
		if _, ok := strength[f.prefix]; !ok {
			t.Errorf("nobody knows how strong %s is", f.prefix)
		}
	}
}

func TestWeaker(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		class, scheme string
		want          bool
	}{
		{"$6$", "sha512", true}, // 5,000 rounds
		{"$6$rounds=99999$", "sha512", true},
		{"$6$rounds=100001$", "sha512", false},
		{"$6$rounds=5000000$", "yescrypt", true},
		{"$5$rounds=5000000$", "sha512", true},
		{"SSHA512", "sha512", true},
		{"$2y$09", "bcrypt", true},
		{"$2a$10", "bcrypt", false},
		{"$2b$12", "bcrypt", false},
		{"$2b$12", "sha512", false}, // a better kind
		{"$y$j75", "yescrypt", true},
		{"$y$j9S", "yescrypt", true},
		{"$y$jAT", "yescrypt", false},
		{"$y$jAS", "yescrypt", false}, // one more, one less
		{"$argon2id$m=65536,t=3,p=4", "argon2id", false},
		{"$argon2id$m=19456,t=2,p=4", "argon2id", false}, // lanes are no strength
		{"$argon2id$m=19456,t=1,p=1", "argon2id", true},
		{"$argon2id$m=65536,t=1,p=1", "argon2id", false},
		{"$argon2i$m=65536,t=3,p=4", "argon2id", true},
		{"$argon2id$m=65536,t=3,p=4", "yescrypt", true},
		{"$y$j9T", "argon2id", false},
		{"$scrypt$ln=18,r=8,p=1", "bcrypt", false},
		{"$pbkdf2-sha512$10000000", "bcrypt", true},
	} {
		if got := weaker(tt.class, tt.scheme); got != tt.want {
			t.Errorf("%s than %s: %v", tt.class, tt.scheme, got)
		}
	}
}

// rehasher is a verifier of a users file that makes sha512 hashes, and what it
// told of each.
func rehasher(t *testing.T, users string) (path string, v Verifier, told chan error) {
	t.Helper()
	path, told = write(t, "users", users, 0o644), make(chan error, 10)
	v, err := Open("f", Options{Users: path, Rehash: "sha512", Budget: NewBudget(BudgetOptions{Hashes: 1}), Rehashed: func(login string, err error) {
		if login != "alice" {
			t.Errorf("told of %s", login)
		}
		told <- err
	}})
	must(t, err)
	t.Cleanup(func() { v.Close() })
	return path, v, told
}

func TestRehash(t *testing.T) {
	t.Parallel()
	path, v, told := rehasher(t, "# c\nalice:{CRYPT}"+hashSHA5+":1000::maildrop=a\r\nbob:"+hashSHA5+"\n")
	if _, err := check(t, v, "alice", "wrong"); err == nil {
		t.Fatal("let in")
	}
	if _, err := check(t, v, "bob", "p"+"x"); err == nil {
		t.Fatal("let in")
	}
	id, err := check(t, v, "alice", "p")
	if err != nil || id.Attrs[authn.AttrMaildrop] != "a" {
		t.Fatal(id, err)
	}
	must(t, <-told)
	text := content(t, path)
	if !strings.HasPrefix(text, "# c\nalice:$6$rounds=100000$") || !strings.HasSuffix(text, ":1000::maildrop=a\r\nbob:"+hashSHA5+"\n") {
		t.Errorf("the file is\n%s", text)
	}
	// the new hash is the one in force, here and for who reads the file, and is
	// not made again
	again, err := Open("f", Options{Users: path})
	must(t, err)
	for _, v := range []Verifier{v, again} {
		if id, err := check(t, v, "alice", "p"); err != nil || id.Attrs[authn.AttrMaildrop] != "a" {
			t.Error(id, err)
		}
		if _, err := check(t, v, "alice", "q"); authn.KindOf(err) != authn.Rejected {
			t.Error(err)
		}
	}
	must(t, v.Close())
	must(t, v.Close()) // once more is no harm
	if len(told) != 0 || content(t, path) != text {
		t.Errorf("made again: %v", <-told)
	}
	// nothing is written any more, and the login goes on
	if _, err := check(t, v, "bob", "p"); err != nil || content(t, path) != text {
		t.Errorf("after Close: %v", err)
	}
}

// A password that was changed in the file and not yet loaded is not undone.
func TestRehashUndoesNothing(t *testing.T) {
	t.Parallel()
	for name, line := range map[string]string{
		"another password": "alice:" + hashSHA6 + "\n",
		"locked":           "alice:!" + hashSHA5 + "\n",
		"no password":      "alice:*\n",
		"gone":             "bob:*\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path, v, told := rehasher(t, "alice:"+hashSHA5+"\n")
			if name == "another password" {
				hash, err := MakeHash("sha512", authn.Password("q"))
				must(t, err)
				line = "alice:" + hash + "\n"
			}
			must(t, os.WriteFile(path, []byte(line), 0o644))
			if _, err := check(t, v, "alice", "p"); err != nil {
				t.Fatal(err)
			}
			if err := <-told; err == nil || content(t, path) != line {
				t.Errorf("%v, the file is\n%s", err, content(t, path))
			}
		})
	}
}

// Nor is one that was changed at the last moment.
func TestSwapHash(t *testing.T) {
	t.Parallel()
	path := write(t, "users", "alice:"+hashSHA6+":x\nbob:"+hashSHA5+"\n", 0o644)
	before := content(t, path)
	for _, login := range []string{"alice", "carol"} {
		if err := swapHash(path, login, hashSHA5, hashP); !errors.Is(err, errChanged) || content(t, path) != before {
			t.Errorf("%s: %v", login, err)
		}
	}
	if err := swapHash(path, "alice", hashSHA6, hashP); err != nil || content(t, path) != "alice:"+hashP+":x\nbob:"+hashSHA5+"\n" {
		t.Errorf("%v, the file is\n%s", err, content(t, path))
	}
}

// Another server with the same file was here first: its hash is taken over.
func TestRehashByAnother(t *testing.T) {
	t.Parallel()
	path, v, told := rehasher(t, "alice:"+hashSHA5+"\n")
	hash, err := MakeHash("sha512", authn.Password("p"))
	must(t, err)
	must(t, SetHash(path, "alice", hash))
	for range 2 {
		if _, err := check(t, v, "alice", "p"); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-told; err != nil || content(t, path) != "alice:"+hash+"\n" {
		t.Errorf("%v, the file is\n%s", err, content(t, path))
	}
}

// The login is right whether or not the file can be written.
func TestRehashFails(t *testing.T) {
	t.Parallel()
	path, v, told := rehasher(t, "alice:"+hashSHA5+"\n")
	must(t, os.Remove(path))
	if _, err := check(t, v, "alice", "p"); err != nil {
		t.Fatal(err)
	}
	if err := <-told; err == nil {
		t.Error("told of a success")
	}
}

// Nothing that goes wrong in the background ends the server.
func TestRehashPanics(t *testing.T) {
	t.Parallel()
	var f *files
	if _, err := f.rehash("alice", authn.Password("s3cret")); err == nil || !strings.Contains(err.Error(), "panic: ") || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("got %v", err)
	}
}

// Where the file cannot be replaced, a check says so. root may write everywhere
// but where there is nothing.
func TestRehashWarns(t *testing.T) {
	t.Parallel()
	path := write(t, "users", "alice:"+hashSHA5+"\n", 0o644)
	v, err := Open("f", Options{Users: path, Rehash: "sha512"})
	if err != nil || len(v.Warnings()) != 0 {
		t.Errorf("warned of %v, %v", v.Warnings(), err)
	}
	f := &files{o: Options{Users: filepath.Join(t.TempDir(), "none", "users"), Rehash: "sha512"}}
	if w := f.Warnings(); len(w) != 1 || !strings.Contains(w[0].Error(), "this user may not write to ") {
		t.Errorf("warned of %v", w)
	}
}

// Without the option, and with every slot or all memory taken, nothing is made.
func TestRehashIsOff(t *testing.T) {
	t.Parallel()
	path := write(t, "users", "alice:"+hashSHA5+"\n", 0o644)
	v, err := Open("f", Options{Users: path})
	must(t, err)
	if _, err := check(t, v, "alice", "p"); err != nil {
		t.Fatal(err)
	}
	must(t, v.Close())
	if got := content(t, path); got != "alice:"+hashSHA5+"\n" {
		t.Errorf("the file is %s", got)
	}
	path, v, told := rehasher(t, "alice:"+hashSHA5+"\n")
	f := v.(passwords).files
	u, _ := f.users.user("alice", true)
	leave, err := f.budget.enter(t.Context(), 1)
	must(t, err)
	f.renew(f.users, "alice", u, authn.Password("p"))
	leave()
	must(t, f.budget.memory.Acquire(t.Context(), f.budget.o.Memory))
	f.renew(f.users, "alice", u, authn.Password("p")) // a slot, and no memory
	f.budget.memory.Release(f.budget.o.Memory)
	must(t, v.Close())
	if got := content(t, path); got != "alice:"+hashSHA5+"\n" || len(told) != 0 {
		t.Errorf("the file is %s", got)
	}
	if _, err := Open("f", Options{Users: path, Rehash: "rot13"}); err == nil {
		t.Error("took a scheme that there is not")
	}
}

func TestFits(t *testing.T) {
	t.Parallel()
	path := write(t, "users", "alice:"+hashSHA5+"\nbob:*\ncarol:!"+hashSHA5+"\n", 0o644)
	for _, tt := range []struct {
		login, password string
		want            bool
	}{
		{"alice", "p", true},
		{"alice", "q", false},
		{"bob", "p", false},
		{"carol", "p", true},
		{"dave", "p", false},
	} {
		if got, err := Fits(path, tt.login, authn.Password(tt.password)); got != tt.want || err != nil {
			t.Errorf("%+v: %v, %v", tt, got, err)
		}
	}
	if _, err := Fits(path+"x", "alice", authn.Password("p")); err == nil {
		t.Error("no error without a file")
	}
}
