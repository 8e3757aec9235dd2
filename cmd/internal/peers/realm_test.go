package peers

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/kpopd/kpopd/authn/krb5"
	"github.com/kpopd/kpopd/krb5test"
)

// realm is a KDC for EXAMPLE.TEST, which trusts OTHER.TEST. In both lives an
// alice whose password is "pw-alice", and in the first an alice/admin too.
type realm struct {
	addr   string // of the KDC
	conf   string // file: krb5.conf
	keytab string // file: keys of pop/localhost, pop3/localhost, host/localhost, and pop/rc4, which has one of RC4 only

	// rotate gives a service (pop/rotated) new keys and writes them to a keytab.
	rotate func(service, keytab string) error
	stop   func() error
}

// kdcs are the two kinds, each started by the first test that wants it and
// shared by all.
var kdcs = []*kdc{mit, inProcess}

var (
	mit       = &kdc{name: "MIT", start: startMIT, needs: []string{"krb5kdc", "kdb5_util", "kadmin.local"}}
	inProcess = &kdc{name: "in-process", start: startInProcess}
)

type kdc struct {
	name  string
	start func(dir string) (*realm, error)
	needs []string

	once sync.Once
	r    *realm
	err  error
}

func (k *kdc) realm(t *testing.T) *realm {
	t.Helper()
	krb5test.Need(t, k.needs...)
	k.once.Do(func() {
		dir := filepath.Join(scratch, k.name)
		if k.err = os.Mkdir(dir, 0o700); k.err == nil {
			k.r, k.err = k.start(dir)
		}
	})
	if k.err != nil {
		t.Fatal(k.err)
	}
	return k.r
}

// stopRealms ends what the tests have started.
func stopRealms() error {
	var errs []error
	for _, k := range kdcs {
		if k.r != nil {
			errs = append(errs, k.r.stop())
		}
	}
	return errors.Join(errs...)
}

func startMIT(dir string) (*realm, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	m, err := krb5test.StartMIT(ctx, dir)
	if err != nil {
		return nil, err
	}
	err = m.Kadmin(ctx, "EXAMPLE.TEST",
		"addprinc -randkey pop3/localhost",
		"addprinc -randkey pop/rotated",
		"addprinc -randkey -e rc4-hmac:normal pop/rc4",
		"ktadd -k "+m.Keytab()+" -norandkey pop3/localhost pop/rc4")
	if err != nil {
		return nil, errors.Join(err, m.Stop())
	}
	return &realm{
		addr: m.Addr(), conf: filepath.Join(m.Dir, "krb5.conf"), keytab: m.Keytab(), stop: m.Stop,
		rotate: func(service, keytab string) error { return m.Rotate(context.Background(), service, keytab) },
	}, nil
}

func startInProcess(dir string) (*realm, error) {
	k := krb5test.NewKDC("EXAMPLE.TEST", "OTHER.TEST")
	k.AddUser("alice", "pw-alice")
	k.AddUser("alice/admin", "pw-alice")
	k.AddUser("alice@OTHER.TEST", "pw-alice")
	k.Trust("OTHER.TEST", "EXAMPLE.TEST")
	for _, service := range []string{"pop/localhost", "pop3/localhost", "host/localhost", "pop/rotated"} {
		k.AddService(service)
	}
	k.AddService("pop/rc4", krb5.RC4)
	k.SessionEnctypes("pop/localhost", append(krb5.DefaultEnctypes(), krb5.RC4)...)
	if err := k.Listen("127.0.0.1:0"); err != nil {
		return nil, err
	}
	r := &realm{
		addr: k.Addr(), conf: filepath.Join(dir, "krb5.conf"), keytab: filepath.Join(dir, "keytab"), stop: k.Close,
		rotate: func(service, keytab string) error {
			k.Rotate(service)
			return k.WriteKeytab(keytab, service)
		},
	}
	err := errors.Join(
		os.WriteFile(r.conf, []byte(k.Krb5Conf()), 0o600),
		k.WriteKeytab(r.keytab, "pop/localhost", "pop3/localhost", "host/localhost", "pop/rc4"))
	if err != nil {
		return nil, errors.Join(err, k.Close())
	}
	return r, nil
}

// ticketPrograms are what [realm.login] and a session with a wrong clock need.
var ticketPrograms = []string{"kinit", "kvno", "faketime"}

// login gives a session a ticket for a principal and one for the service, so
// that the client needs no KDC, and the server is the first to notice a wrong
// clock. options are kvno's.
func (r *realm) login(s *session, principal, password, service string, options ...string) {
	s.t.Helper()
	s.env = append(s.env, "KRB5_CONFIG="+r.conf, "KRB5CCNAME=FILE:"+s.home+"/ccache")
	s.write("password", password+"\n")
	if shown := s.feed("password", "kinit", principal); !s.well {
		s.t.Fatalf("kinit %s: %s", principal, shown)
	}
	argv := slices.Concat([]string{"kvno"}, options, []string{service + "@EXAMPLE.TEST"})
	if shown := s.run(argv...); !s.well {
		s.t.Fatalf("kvno %s: %s", service, shown)
	}
}
