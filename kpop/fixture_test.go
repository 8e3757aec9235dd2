package kpop

import (
	"testing"
	"time"

	"github.com/jcmturner/gofork/encoding/asn1"
	"github.com/jcmturner/gokrb5/v8/asn1tools"
	"github.com/jcmturner/gokrb5/v8/keytab"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"

	"github.com/kpopd/kpopd/authn/krb5"
)

// site is a realm with a user alice and a server for pop/localhost.
type site struct {
	credential *krb5.Credential
	acceptor   *krb5.Acceptor
}

func newSite(t testing.TB, enctype int32) *site {
	t.Helper()
	return newSiteOf(t, enctype, "pop/localhost")
}

// newSiteOf is a site whose server has a key, and alice a ticket, for service.
func newSiteOf(t testing.TB, enctype int32, service string) *site {
	t.Helper()
	kt := keytab.New()
	if err := kt.AddEntry(service, "EXAMPLE.TEST", "secret", time.Now(), 1, 18); err != nil {
		t.Fatal(err)
	}
	b, _ := kt.Marshal()
	k, err := krb5.ParseKeytab(b)
	if err != nil {
		t.Fatal(err)
	}
	sname := types.NewPrincipalName(2, service)
	sk, _, err := kt.GetEncryptionKey(sname, "EXAMPLE.TEST", 1, 18)
	if err != nil {
		t.Fatal(err)
	}
	serviceKey, err := krb5.KeyFrom(18, sk.KeyValue)
	if err != nil {
		t.Fatal(err)
	}
	val := make([]byte, map[int32]int{17: 16, 18: 32, 19: 16, 20: 32, 23: 16}[enctype])
	session, err := krb5.KeyFrom(enctype, val)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC().Truncate(time.Second)
	part, err := asn1.Marshal(messages.EncTicketPart{
		Flags: types.NewKrbFlags(), Key: types.EncryptionKey{KeyType: enctype, KeyValue: val}, CRealm: "EXAMPLE.TEST",
		CName: types.NewPrincipalName(1, "alice"), AuthTime: now, StartTime: now, EndTime: now.Add(time.Hour), RenewTill: now.Add(time.Hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	cipher, err := serviceKey.Encrypt(2, asn1tools.AddASNAppTag(part, 3))
	if err != nil {
		t.Fatal(err)
	}
	tk := messages.Ticket{TktVNO: 5, Realm: "EXAMPLE.TEST", SName: sname, EncPart: types.EncryptedData{EType: 18, KVNO: 1, Cipher: cipher}}
	der, err := tk.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	cred, err := krb5.NewCredential(der, session, []string{"alice"}, "EXAMPLE.TEST")
	if err != nil {
		t.Fatal(err)
	}
	return &site{cred, &krb5.Acceptor{Keytab: k, Replay: &krb5.MemoryReplay{}, Enctypes: []int32{17, 18, 19, 20, 23}}}
}
