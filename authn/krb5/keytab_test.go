package krb5_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jcmturner/gokrb5/v8/messages"
	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/krb5"
	"github.com/kpopd/kpopd/krb5test"
)

// keytabFile writes the keys of services and loads them from the file.
func keytabFile(t *testing.T, k *krb5test.KDC, services ...string) (string, *krb5.Keytab) {
	t.Helper()
	path := t.TempDir() + "/keytab"
	if err := k.WriteKeytab(path, services...); err != nil {
		t.Fatal(err)
	}
	kt, err := krb5.OpenKeytab(path)
	if err != nil {
		t.Fatal(err)
	}
	return path, kt
}

// onlyNewest leaves out what the first n octets of a keytab hold.
func onlyNewest(t *testing.T, path string, k *krb5test.KDC, old []byte, service string) {
	t.Helper()
	b := bytes.TrimSuffix(k.Keytab(service), old[2:])
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A file that holds new keys only does not lock out those who have a ticket:
// the old ones stay for a day, and no longer.
func TestKeytabKeepsReplacedKeysForADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := realm()
		old := k.Keytab("pop/localhost")
		path, kt := keytabFile(t, k, "pop/localhost")
		a := &krb5.Acceptor{Keytab: kt, Replay: new(krb5.MemoryReplay)}
		c, err := k.Mint(krb5test.Spec{EndTime: time.Now().Add(48 * time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		again := func() []byte {
			i, err := c.Initiate(krb5.InitOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return i.APReq
		}
		k.Rotate("pop/localhost")
		fresh := mint(t, k, krb5test.Spec{}, krb5.InitOptions{})
		refused(t, a, fresh.APReq, krb5.CodeBadKeyVer, authn.Rejected)
		onlyNewest(t, path, k, old, "pop/localhost")
		for hour := range 26 {
			if err := kt.Reload(); err != nil {
				t.Fatal(err)
			}
			switch b := again(); {
			case hour < 24:
				if got := accepted(t, a, b).Principal.Ticket.KVNO; got != 1 {
					t.Errorf("key version %d", got)
				}
			case hour > 24:
				text := refused(t, a, b, krb5.CodeBadKeyVer, authn.Rejected)
				if !strings.Contains(text, "Version 1") || !strings.Contains(text, "2 is in use") {
					t.Errorf("text %q", text)
				}
			}
			time.Sleep(time.Hour)
		}
	})
}

func TestKeytabForgetsReplacedKeysWithoutReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := realm()
		old := k.Keytab("pop/localhost")
		path, kt := keytabFile(t, k, "pop/localhost")
		a := &krb5.Acceptor{Keytab: kt, Replay: new(krb5.MemoryReplay)}
		c, err := k.Mint(krb5test.Spec{EndTime: time.Now().Add(48 * time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		k.Rotate("pop/localhost")
		onlyNewest(t, path, k, old, "pop/localhost")
		if err := kt.Reload(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(25 * time.Hour)
		i, err := c.Initiate(krb5.InitOptions{})
		if err != nil {
			t.Fatal(err)
		}
		refused(t, a, i.APReq, krb5.CodeBadKeyVer, authn.Rejected)
	})
}

// A principal that is gone from the file was withdrawn.
func TestKeytabWithdrawnPrincipalGoesAtOnce(t *testing.T) {
	t.Parallel()
	k := realm("pop/second")
	path, kt := keytabFile(t, k, "pop/localhost", "pop/second")
	a := &krb5.Acceptor{Keytab: kt, Replay: new(krb5.MemoryReplay)}
	i := mint(t, k, krb5test.Spec{Service: "pop/second"}, krb5.InitOptions{})
	if err := k.WriteKeytab(path, "pop/localhost"); err != nil {
		t.Fatal(err)
	}
	if err := kt.Reload(); err != nil {
		t.Fatal(err)
	}
	refused(t, a, i.APReq, krb5.CodeNoKey, authn.Rejected)
}

// A reload that fails changes nothing, and the file is looked at again.
func TestKeytabBadReloadKeepsTheKeys(t *testing.T) {
	t.Parallel()
	k := realm()
	good := k.Keytab("pop/localhost")
	path, kt := keytabFile(t, k, "pop/localhost")
	a := &krb5.Acceptor{Keytab: kt, Replay: new(krb5.MemoryReplay)}
	for name, b := range map[string][]byte{
		"empty": nil, "header only": good[:2], "cut": good[:len(good)-5], "cut in a name": good[:12],
		"not a keytab": []byte("[libdefaults]\n"), "version 3": append([]byte{5, 3}, good[2:]...),
		"huge hole": {5, 2, 0x80, 0, 0, 0}, "huge entry": {5, 2, 0x7f, 0xff, 0xff, 0xff},
	} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		err := kt.Reload()
		if err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
		for _, n := range []int{8, 16} { // gokrb5's errors quote the file
			if err != nil && strings.Contains(err.Error(), string(good[len(good)-n-4:len(good)-4])) {
				t.Errorf("%s: octets of a key in %q", name, err)
			}
		}
		if !kt.Changed() {
			t.Errorf("%s: the file is not looked at again", name)
		}
		accepted(t, a, mint(t, k, krb5test.Spec{}, krb5.InitOptions{}).APReq)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if kt.Reload() == nil || kt.Changed() {
		t.Error("a file that is not there")
	}
	accepted(t, a, mint(t, k, krb5test.Spec{}, krb5.InitOptions{}).APReq)
}

func TestKeytabMustBePrivate(t *testing.T) {
	t.Parallel()
	path, kt := keytabFile(t, realm(), "pop/localhost")
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := kt.Reload(); err == nil || !strings.Contains(err.Error(), "chmod") {
		t.Errorf("a keytab for everybody: %v", err)
	}
	fifo := t.TempDir() + "/fifo"
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]string{"fifo": fifo, "folder": t.TempDir(), "device": "/dev/null", "nothing": "/nonexistent/keytab"} {
		if _, err := krb5.OpenKeytab(p); err == nil {
			t.Errorf("%s was opened", name)
		}
	}
}

// The key version of a ticket against what a keytab has.
func TestKeytabKeyVersions(t *testing.T) {
	t.Parallel()
	k := realm()
	for k.Rotate("pop/localhost") < 3 {
	}
	a := acceptorFor(t, k)
	for _, tt := range []struct {
		name string
		kvno int // that the ticket says; -1 takes it away
		code int32
	}{
		{"the one", 3, 0},
		{"older, with another key", 2, krb5.CodeBadIntegrity},
		{"newer", 4, krb5.CodeBadKeyVer},
		{"long gone from an old keytab's eight bits", 256 + 3, 0},
		{"256 is not 0", 256, krb5.CodeBadKeyVer},
		{"of a read-only domain controller", 7<<16 | 3, 0},
		{"negative", -5, krb5.CodeBadKeyVer},
		{"none", 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			i := mint(t, k, krb5test.Spec{}, krb5.InitOptions{})
			b := remake(t, i, nil, func(m *messages.APReq) { m.Ticket.EncPart.KVNO = tt.kvno })
			switch tt.code {
			case 0:
				if got := accepted(t, a, b).Principal.Ticket.KVNO; got != 3 {
					t.Errorf("key version %d", got)
				}
			default:
				refused(t, a, b, tt.code, authn.Rejected)
			}
		})
	}
	i := mint(t, k, krb5test.Spec{}, krb5.InitOptions{})
	b := remake(t, i, nil, func(m *messages.APReq) { m.Ticket.Realm = "ELSE.TEST" })
	refused(t, a, b, krb5.CodeNoKey, authn.Rejected)
}

// Versions are 32 bits without a sign; on the wire some have one.
func TestKeytabLargeKeyVersion(t *testing.T) {
	t.Parallel()
	k := krb5test.NewKDC("EXAMPLE.TEST")
	k.AddService("pop/localhost", krb5.AES256SHA2)
	file := k.Keytab("pop/localhost")
	binary.BigEndian.PutUint32(file[len(file)-4:], 0x80000005) // the version stands last in an entry
	kt, err := krb5.ParseKeytab(file)
	if err != nil {
		t.Fatal(err)
	}
	a := &krb5.Acceptor{Keytab: kt, Replay: new(krb5.MemoryReplay)}
	for _, kvno := range []int{0x80000005, 0x80000005 - 1<<32} {
		i := mint(t, k, krb5test.Spec{}, krb5.InitOptions{})
		b := remake(t, i, nil, func(m *messages.APReq) { m.Ticket.EncPart.KVNO = kvno })
		if got := accepted(t, a, b).Principal.Ticket.KVNO; got != 0x80000005 {
			t.Errorf("key version %x", got)
		}
	}
}

// Two components are not one with a slash in it.
func TestKeytabComparesComponents(t *testing.T) {
	t.Parallel()
	k := krb5test.NewKDC("EXAMPLE.TEST")
	k.AddService("pop/a/b")
	k.AddService("pop/localhost")
	a := acceptorFor(t, k, "pop/a/b", "pop/localhost")
	i := mint(t, k, krb5test.Spec{Service: "pop/a/b", NamedService: []string{"pop", "a/b"}}, krb5.InitOptions{})
	refused(t, a, i.APReq, krb5.CodeNoKey, authn.Rejected)
}

// Logins go on while keys are replaced and the file is written and read.
func TestKeytabRotationUnderLoad(t *testing.T) {
	t.Parallel()
	k := realm()
	path, kt := keytabFile(t, k, "pop/localhost")
	a := &krb5.Acceptor{Keytab: kt, Replay: new(krb5.MemoryReplay)}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for n := range 4 {
		c, err := k.Mint(krb5test.Spec{Client: []string{fmt.Sprint("user", n)}})
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			for {
				i, err := c.Initiate(krb5.InitOptions{})
				if err == nil {
					_, err = a.Accept(t.Context(), i.APReq, krb5.Options{})
				}
				if err != nil {
					t.Error(err)
					return
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for range 50 {
		k.Rotate("pop/localhost")
		if err := k.WriteKeytab(path, "pop/localhost"); err != nil {
			t.Fatal(err)
		}
		if err := kt.Reload(); err != nil {
			t.Fatal(err)
		}
		accepted(t, a, mint(t, k, krb5test.Spec{}, krb5.InitOptions{}).APReq)
	}
	close(stop)
	wg.Wait()
}

// FuzzKeytab: a file that is not a keytab is an error without its octets.
func FuzzKeytab(f *testing.F) {
	k := realm()
	good := k.Keytab("pop/localhost")
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte{5, 1, 0, 0, 0, 0})
	f.Add([]byte{5, 2, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{5, 2, 0, 0, 0, 8, 0xff, 0xff, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		kt, err := krb5.ParseKeytab(b)
		if err == nil {
			if len(kt.Services()) == 0 {
				t.Error("a keytab without keys")
			}
			return
		}
		if len(err.Error()) > 100 {
			t.Errorf("%q", err)
		}
	})
}
