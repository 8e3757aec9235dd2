package krb5test

import (
	"bytes"
	"cmp"
	"time"

	"github.com/jcmturner/gofork/encoding/asn1"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"

	"github.com/kpopd/kpopd/authn/krb5"
)

// Spec says what is in a ticket. The zero value of each field is what an
// honest KDC would put there.
type Spec struct {
	Client  []string // components; {"alice"} when nil
	Realm   string   // of the client; the KDC's first
	Service string   // principal whose newest key seals the ticket; "pop/localhost"

	NamedService []string // components that the ticket says it is for; those of Service
	NamedRealm   string   // realm that it says it is for; that of Service
	Enctype      int32    // of the ticket; the best that the service has
	NamedEnctype int32    // that the ticket says it has; Enctype
	KVNO         int      // that the ticket says; the one of the key
	WrongKey     bool     // seal it with a key that nobody has

	SessionEnctype int32  // AES256SHA1
	SessionKey     []byte // octets in the ticket in place of a fresh key

	AuthTime, StartTime, EndTime time.Time // now, none, and in an hour
	Invalid                      bool      // postdated and not validated
	Flags                        []byte    // octets of the flags, in place of four; Invalid is set on top
	Transited                    []byte
	AuthData                     []krb5.AuthData // of the ticket, raw
	Addresses                    [][]byte        // 4 or 16 octets each
	Cut                          *int            // octets of ciphertext to leave
}

// Mint makes a ticket that an honest KDC might not issue.
func (k *KDC) Mint(s Spec) (*krb5.Credential, error) {
	if s.Client == nil {
		s.Client = []string{"alice"}
	}
	realm := cmp.Or(s.Realm, k.realms[0])
	t := s.part(realm)
	ticket, err := k.sealAs(s, t)
	if err != nil {
		return nil, err
	}
	if s.Cut != nil {
		ticket.EncPart.Cipher = ticket.EncPart.Cipher[:min(*s.Cut, len(ticket.EncPart.Cipher))]
	}
	b, err := ticket.Marshal()
	if err != nil {
		return nil, err
	}
	session, err := krb5.KeyFrom(t.Key.KeyType, t.Key.KeyValue)
	if err != nil { // a session key that cannot be used is the fault that was asked for
		if session, err = krb5.NewKey(krb5.AES256SHA1); err != nil {
			return nil, err
		}
	}
	return krb5.NewCredential(b, session, s.Client, realm)
}

func (s *Spec) part(realm string) *messages.EncTicketPart {
	now := time.Now().UTC().Truncate(time.Second)
	enctype := cmp.Or(s.SessionEnctype, krb5.AES256SHA1)
	t := &messages.EncTicketPart{
		Flags: types.NewKrbFlags(), CRealm: realm, CName: types.PrincipalName{NameType: 1, NameString: s.Client},
		Key:       types.EncryptionKey{KeyType: enctype, KeyValue: s.SessionKey},
		Transited: messages.TransitedEncoding{TRType: 1, Contents: s.Transited},
		AuthTime:  now, StartTime: s.StartTime, EndTime: now.Add(time.Hour),
	}
	if s.SessionKey == nil {
		t.Key.KeyValue = randomKey(enctype)
	}
	if !s.AuthTime.IsZero() {
		t.AuthTime = s.AuthTime.UTC()
	}
	if !s.EndTime.IsZero() {
		t.EndTime = s.EndTime.UTC()
	}
	if s.Flags != nil {
		t.Flags = asn1.BitString{Bytes: bytes.Clone(s.Flags), BitLength: 8 * len(s.Flags)}
	}
	if s.Invalid {
		types.SetFlag(&t.Flags, flagInvalid)
	}
	for _, a := range s.AuthData {
		t.AuthorizationData = append(t.AuthorizationData, types.AuthorizationDataEntry{ADType: a.Type, ADData: a.Data})
	}
	for _, a := range s.Addresses {
		kind := int32(2)
		if len(a) == 16 {
			kind = 24
		}
		t.CAddr = append(t.CAddr, types.HostAddress{AddrType: kind, Address: a})
	}
	return t
}

// sealAs seals t as s says.
func (k *KDC) sealAs(s Spec, t *messages.EncTicketPart) (messages.Ticket, error) {
	n, realm := k.split(cmp.Or(s.Service, "pop/localhost"))
	service, ok := k.find(n, realm)
	if !ok {
		return messages.Ticket{}, &kdcError{code: errServiceUnknown, text: "no service " + s.Service}
	}
	with := service.keys[0]
	for _, x := range service.keys {
		if x.kvno == with.kvno && x.KeyType == s.Enctype {
			with = x
		}
	}
	if s.Enctype != 0 && with.KeyType != s.Enctype || s.WrongKey {
		e := cmp.Or(s.Enctype, with.KeyType)
		with.EncryptionKey = types.EncryptionKey{KeyType: e, KeyValue: randomKey(e)}
	}
	if s.NamedService != nil {
		n.NameString = s.NamedService
	}
	ticket, err := seal(t, n, cmp.Or(s.NamedRealm, realm), with.EncryptionKey, cmp.Or(s.KVNO, with.kvno))
	ticket.EncPart.EType = cmp.Or(s.NamedEnctype, with.KeyType)
	return ticket, err
}

// IfRelevant wraps elements in AD-IF-RELEVANT; none makes an empty one.
func IfRelevant(elements ...krb5.AuthData) krb5.AuthData {
	list := types.AuthorizationData{}
	for _, e := range elements {
		list = append(list, types.AuthorizationDataEntry{ADType: e.Type, ADData: e.Data})
	}
	b, err := asn1.Marshal(list)
	if err != nil {
		panic("krb5test: " + err.Error())
	}
	return krb5.AuthData{Type: 1, Data: b}
}
