package peers

import (
	"sync"
	"testing"
)

// realm is a KDC for EXAMPLE.TEST, which trusts OTHER.TEST. In both lives an
// alice whose password is "pw-alice".
type realm struct {
	conf   string // file: krb5.conf
	keytab string // file: keys of pop/localhost, pop3/localhost, host/localhost, and pop/rc4, which has one of rc4-hmac only

	// rotate gives a service (pop/rotated) a new key and writes it to a new keytab.
	rotate func(service, keytab string) error
}

// kdcs are the two kinds.
var kdcs = []struct {
	name  string
	realm func(*testing.T) *realm
}{
	{"MIT", mit},
	{"in-process", inProcess},
}

// ends are what ends the realms that the tests have started.
var ends struct {
	sync.Mutex
	stops []func()
}

func atEnd(stop func()) {
	ends.Lock()
	defer ends.Unlock()
	ends.stops = append(ends.stops, stop)
}

func stopRealms() {
	ends.Lock()
	defer ends.Unlock()
	for _, stop := range ends.stops {
		stop()
	}
}

// ticketPrograms are what [realm.login] and a session with a wrong clock need.
var ticketPrograms = []string{"kinit", "kvno", "faketime"}

// login gives a session a ticket for a principal and one for the service, so
// that the client needs no KDC, and the server is the first to notice a wrong
// clock.
func (r *realm) login(s *session, principal, password, service string) {
	s.t.Helper()
	s.env = append(s.env, "KRB5_CONFIG="+r.conf, "KRB5CCNAME=FILE:"+s.home+"/ccache")
	s.write("password", password+"\n")
	if shown := s.feed("password", "kinit", principal); !s.well {
		s.t.Fatalf("kinit %s: %s", principal, shown)
	}
	if shown := s.run("kvno", service+"@EXAMPLE.TEST"); !s.well {
		s.t.Fatalf("kvno %s: %s", service, shown)
	}
}
