package gssapi

import (
	"testing"

	"github.com/kpopd/kpopd/authn/krb5"
	"github.com/kpopd/kpopd/kpop/kpoptest"
	"github.com/kpopd/kpopd/krb5test"
)

// site is a realm with a ticket of alice's for a server at pop/localhost.
type site struct {
	credential *krb5.Credential
	acceptor   *krb5.Acceptor
}

// newSite has a session key of that enctype.
func newSite(t testing.TB, enctype int32) *site {
	t.Helper()
	kdc := krb5test.NewKDC("EXAMPLE.TEST")
	kdc.AddService("pop/localhost")
	c, err := kdc.Mint(krb5test.Spec{SessionEnctype: enctype})
	if err != nil {
		t.Fatal(err)
	}
	return &site{c, acceptorOf(t, kdc)}
}

// acceptorOf takes RC4 too, as a site may that has to.
func acceptorOf(t testing.TB, kdc *krb5test.KDC) *krb5.Acceptor {
	t.Helper()
	k, err := krb5.ParseKeytab(kdc.Keytab("pop/localhost"))
	if err != nil {
		t.Fatal(err)
	}
	return &krb5.Acceptor{Keytab: k, Replay: &krb5.MemoryReplay{}, Enctypes: append(krb5.DefaultEnctypes(), krb5.RC4)}
}

// forgetful is a server with the same keys and an empty replay cache.
func (s *site) forgetful() *Mechanism {
	return &Mechanism{Acceptor: &krb5.Acceptor{Keytab: s.acceptor.Keytab, Replay: &krb5.MemoryReplay{}}, Chain: chain}
}

// realm is one with a KDC that listens, a user alice who has a ticket, and a
// server.
type realm struct {
	env      []string // of alice's programs
	acceptor *krb5.Acceptor
}

// newRealm gives tickets for pop/localhost session keys of that enctype.
func newRealm(t *testing.T, enctype int32) realm {
	t.Helper()
	kdc := krb5test.NewKDC("EXAMPLE.TEST")
	kdc.AddUser("alice", "pw-alice")
	kdc.AddService("pop/localhost")
	kdc.AddService("host/localhost")
	kdc.SessionEnctypes("pop/localhost", enctype)
	if err := kdc.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = kdc.Close() })
	return realm{kpoptest.Kinit(t, kdc.Krb5Conf(), "alice", "pw-alice"), acceptorOf(t, kdc)}
}
