package peers

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/kpopd/kpopd/authn/krb5"
	"github.com/kpopd/kpopd/krb5test"
)

var inProcessOnce = sync.OnceValues(func() (*realm, error) { return startInProcess(filepath.Join(scratch, "in-process")) })

// inProcess is our own KDC, one for all tests.
func inProcess(t *testing.T) *realm {
	t.Helper()
	r, err := inProcessOnce()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func startInProcess(dir string) (*realm, error) {
	k := krb5test.NewKDC("EXAMPLE.TEST", "OTHER.TEST")
	k.AddUser("alice", "pw-alice")
	k.AddUser("alice@OTHER.TEST", "pw-alice")
	k.Trust("OTHER.TEST", "EXAMPLE.TEST")
	for _, service := range []string{"pop/localhost", "pop3/localhost", "host/localhost", "pop/rotated"} {
		k.AddService(service)
	}
	k.AddService("pop/rc4", krb5.RC4)
	if err := k.Listen("127.0.0.1:0"); err != nil {
		return nil, err
	}
	atEnd(func() { k.Close() })
	r := &realm{
		conf: filepath.Join(dir, "krb5.conf"), keytab: filepath.Join(dir, "keytab"),
		rotate: func(service, keytab string) error {
			k.Rotate(service)
			return k.WriteKeytab(keytab, service)
		},
	}
	return r, errors.Join(
		os.MkdirAll(dir, 0o700),
		os.WriteFile(r.conf, []byte(k.Krb5Conf()), 0o600),
		k.WriteKeytab(r.keytab, "pop/localhost", "pop3/localhost", "host/localhost", "pop/rc4"))
}
