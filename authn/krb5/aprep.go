package krb5

import (
	"errors"
	"fmt"

	"github.com/jcmturner/gofork/encoding/asn1"
	"github.com/jcmturner/gokrb5/v8/asn1tools"
	"github.com/jcmturner/gokrb5/v8/iana/asnAppTag"
	"github.com/jcmturner/gokrb5/v8/iana/msgtype"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"
)

func marshalAPRep(part messages.EncAPRepPart, key Key) ([]byte, error) {
	b, err := asn1.Marshal(part)
	if err != nil {
		return nil, fmt.Errorf("make AP-REP: %w", err)
	}
	cipher, err := key.Encrypt(usageAPRep, asn1tools.AddASNAppTag(b, asnAppTag.EncAPRepPart))
	if err != nil {
		return nil, fmt.Errorf("make AP-REP: %w", err)
	}
	b, err = asn1.Marshal(messages.APRep{
		PVNO: 5, MsgType: msgtype.KRB_AP_REP,
		EncPart: types.EncryptedData{EType: key.Enctype(), Cipher: cipher},
	})
	if err != nil {
		return nil, fmt.Errorf("make AP-REP: %w", err)
	}
	return asn1tools.AddASNAppTag(b, asnAppTag.APREP), nil
}

// APRep is what a server said in its AP-REP.
type APRep struct {
	Subkey Key    // zero when it sent none
	Seq    uint32 // 0 when it sent none
}

var errAPRep = errors.New("the server did not prove itself: its AP-REP is not for this request")

// VerifyAPRep checks that the server could read the ticket.
func (i *Initiator) VerifyAPRep(der []byte) (_ *APRep, err error) {
	defer caught(&err)
	var m messages.APRep
	if _, err := asn1.UnmarshalWithParams(der, &m, fmt.Sprintf("application,explicit,tag:%d", asnAppTag.APREP)); err != nil {
		return nil, fmt.Errorf("read AP-REP: %w", err)
	}
	if m.EncPart.EType != i.Session.Enctype() {
		return nil, errAPRep
	}
	plain, err := i.Session.Decrypt(usageAPRep, m.EncPart.Cipher)
	if err != nil {
		return nil, errAPRep
	}
	var part messages.EncAPRepPart
	if err := part.Unmarshal(plain); err != nil {
		return nil, fmt.Errorf("read AP-REP: %w", err)
	}
	if !part.CTime.Equal(i.ctime) || part.Cusec != i.cusec {
		return nil, errAPRep
	}
	rep := &APRep{Seq: uint32(part.SequenceNumber)}
	if part.Subkey.KeyType != 0 {
		if rep.Subkey, err = KeyFrom(part.Subkey.KeyType, part.Subkey.KeyValue); err != nil {
			return nil, fmt.Errorf("subkey of AP-REP: %w", err)
		}
	}
	return rep, nil
}
