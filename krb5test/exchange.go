package krb5test

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jcmturner/gofork/encoding/asn1"
	"github.com/jcmturner/gokrb5/v8/asn1tools"
	"github.com/jcmturner/gokrb5/v8/crypto"
	"github.com/jcmturner/gokrb5/v8/iana/asnAppTag"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"

	"github.com/kpopd/kpopd/authn/krb5"
)

// Codes of KRB-ERROR (RFC 4120 section 7.5.9) that only a KDC sends.
const (
	errClientUnknown  = 6
	errServiceUnknown = 7
	errBadOption      = 13
	errNoEnctype      = 14
	errRevoked        = 18
	errKeyExpired     = 23
	errPreauthFailed  = 24
	errPreauthNeeded  = 25
	errBadIntegrity   = 31
	errExpired        = 32
	errNotUs          = 35
	errSkew           = 37
	errTooBig         = 52
	errGeneric        = 60
)

// Types of pre-authentication data.
const (
	paTGSReq       = 1
	paEncTimestamp = 2
	paEtypeInfo2   = 19
)

// Key usages (RFC 4120 section 7.5.1).
const (
	usageTimestamp     = 1
	usageTicket        = 2
	usageASRep         = 3
	usageTGSAuth       = 7
	usageTGSRepSession = 8
	usageTGSRepSubkey  = 9
)

// Bits of ticket flags and KDC options (RFC 4120 sections 5.3 and 5.4.1).
const (
	flagForwardable = 1
	flagForwarded   = 2
	flagInvalid     = 7
	flagInitial     = 9
	flagPreauth     = 10
	flagTransitedOK = 12
	optRenew        = 30
	optValidate     = 31
)

const allowedSkew = 5 * time.Minute

type kdcError struct {
	code int32
	text string
	data []byte // method-data of a request for pre-authentication
}

func (e *kdcError) Error() string { return fmt.Sprintf("%s (%d)", e.text, e.code) }

// Answer makes the reply to a request, for those who carry messages by
// themselves.
func (k *KDC) Answer(b []byte) (reply []byte) {
	var body messages.KDCReqBody
	var err error
	defer func() {
		if v := recover(); v != nil { // gokrb5 on a request that it does not expect
			err = fmt.Errorf("panic: %v", v)
		}
		if err == nil {
			return
		}
		e := &kdcError{code: errGeneric, text: err.Error()}
		errors.As(err, &e)
		reply = k.refusal(body.SName, body.Realm, e)
	}()
	var as messages.ASReq
	if as.Unmarshal(b) == nil {
		body = as.ReqBody
		reply, err = k.initial(&as)
		return reply
	}
	var tgs messages.TGSReq
	if err = tgs.Unmarshal(b); err == nil {
		body = tgs.ReqBody
		reply, err = k.further(&tgs)
	}
	return reply
}

func (k *KDC) refusal(service types.PrincipalName, realm string, e *kdcError) []byte {
	if realm == "" {
		realm = k.realms[0]
	}
	if len(service.NameString) == 0 {
		service = types.NewPrincipalName(2, "krbtgt/"+realm)
	}
	m := messages.NewKRBError(service, realm, e.code, e.text)
	m.EData = e.data
	m.STime = m.STime.Add(k.Ahead)
	b, err := m.Marshal()
	if err != nil {
		return nil
	}
	return b
}

// initial is the AS exchange.
func (k *KDC) initial(req *messages.ASReq) ([]byte, error) {
	body := &req.ReqBody
	client, ok := k.find(body.CName, body.Realm)
	if !ok {
		return nil, &kdcError{code: errClientUnknown, text: "CLIENT_NOT_FOUND"}
	}
	service, ok := k.find(body.SName, body.Realm)
	if !ok {
		return nil, &kdcError{code: errServiceUnknown, text: "SERVER_NOT_FOUND"}
	}
	if client.fault.code != 0 && (client.fault.code != errKeyExpired || !isChangePassword(body.SName)) {
		return nil, &kdcError{code: client.fault.code, text: client.fault.text}
	}
	i := slices.IndexFunc(client.keys, func(x key) bool { return slices.Contains(body.EType, x.KeyType) })
	if i < 0 {
		return nil, &kdcError{code: errNoEnctype, text: "ETYPE_NOSUPP"}
	}
	clientKey := client.keys[i]
	for _, want := range body.EType { // the client's preference decides
		if j := slices.IndexFunc(client.keys, func(x key) bool { return x.KeyType == want }); j >= 0 {
			clientKey = client.keys[j]
			break
		}
	}
	if err := k.checkTimestamp(&client, clientKey, req.PAData); err != nil {
		return nil, err
	}
	now := k.now().UTC().Truncate(time.Second)
	t := &messages.EncTicketPart{CName: body.CName, CRealm: body.Realm, AuthTime: now}
	t.Flags = types.NewKrbFlags()
	types.SetFlag(&t.Flags, flagInitial)
	types.SetFlag(&t.Flags, flagPreauth)
	ticket, err := k.issue(t, &service, body, now.Add(k.lifetime()))
	if err != nil {
		return nil, err
	}
	part, err := replyPart(t, &service, body)
	if err != nil {
		return nil, err
	}
	rep := messages.ASRep{KDCRepFields: messages.KDCRepFields{
		PVNO: 5, MsgType: 11, CRealm: body.Realm, CName: body.CName, Ticket: ticket,
		PAData: etypeInfo(&client, clientKey.KeyType),
	}}
	if rep.EncPart, err = encrypt(part, clientKey.EncryptionKey, usageASRep, clientKey.kvno); err != nil {
		return nil, err
	}
	return rep.Marshal()
}

// isChangePassword reports whether n is the service that an expired password
// still gets a ticket for.
func isChangePassword(n types.PrincipalName) bool {
	return slices.Equal(n.NameString, []string{"kadmin", "changepw"})
}

func etypeInfo(client *principal, enctype int32) types.PADataSequence {
	b, err := asn1.Marshal(types.ETypeInfo2{{EType: enctype, Salt: client.salt}})
	if err != nil {
		panic("krb5test: " + err.Error())
	}
	return types.PADataSequence{{PADataType: paEtypeInfo2, PADataValue: b}}
}

func (k *KDC) now() time.Time { return time.Now().Add(k.Ahead) }

// checkTimestamp wants PA-ENC-TIMESTAMP of every client, but for those of
// NoPreauth.
func (k *KDC) checkTimestamp(client *principal, clientKey key, data types.PADataSequence) error {
	hint := append(etypeInfo(client, clientKey.KeyType), types.PAData{PADataType: paEncTimestamp})
	methods, err := asn1.Marshal(hint)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(data, func(p types.PAData) bool { return p.PADataType == paEncTimestamp })
	switch {
	case i < 0 && client.bare:
		return nil
	case i < 0:
		return &kdcError{code: errPreauthNeeded, text: "NEEDED_PREAUTH", data: methods}
	}
	failed := &kdcError{code: errPreauthFailed, text: "PREAUTH_FAILED", data: methods}
	var sealed types.EncryptedData
	if _, err := asn1.Unmarshal(data[i].PADataValue, &sealed); err != nil || sealed.EType != clientKey.KeyType {
		return failed
	}
	plain, err := decrypt(sealed, clientKey.EncryptionKey, usageTimestamp)
	if err != nil {
		return failed
	}
	var stamp types.PAEncTSEnc
	if err := stamp.Unmarshal(plain); err != nil {
		return failed
	}
	if d := k.now().Sub(stamp.PATimestamp); d > allowedSkew || d < -allowedSkew {
		return &kdcError{code: errSkew, text: "CLOCK_SKEW"}
	}
	return nil
}

// further is the TGS exchange. The checksum over the request's body is not
// verified.
func (k *KDC) further(req *messages.TGSReq) ([]byte, error) {
	body := &req.ReqBody
	if body.KDCOptions.At(optRenew) != 0 || body.KDCOptions.At(optValidate) != 0 {
		return nil, &kdcError{code: errBadOption, text: "BADOPTION"}
	}
	tgt, auth, granted, err := k.readTGT(req.PAData)
	if err != nil {
		return nil, err
	}
	service, ok := k.find(body.SName, body.Realm)
	if !ok {
		return nil, &kdcError{code: errServiceUnknown, text: "SERVER_NOT_FOUND"}
	}
	if granted != body.Realm { // or trust would not be one way
		return nil, &kdcError{code: errNotUs, text: "NOT_US"}
	}
	t := &messages.EncTicketPart{CName: tgt.CName, CRealm: tgt.CRealm, AuthTime: tgt.AuthTime, Transited: tgt.Transited}
	t.Flags = types.NewKrbFlags()
	types.SetFlag(&t.Flags, flagPreauth)
	types.SetFlag(&t.Flags, flagTransitedOK)
	if body.KDCOptions.At(flagForwarded) != 0 {
		types.SetFlag(&t.Flags, flagForwarded)
	}
	ticket, err := k.issue(t, &service, body, tgt.EndTime)
	if err != nil {
		return nil, err
	}
	part, err := replyPart(t, &service, body)
	if err != nil {
		return nil, err
	}
	rep := messages.TGSRep{KDCRepFields: messages.KDCRepFields{
		PVNO: 5, MsgType: 13, CRealm: tgt.CRealm, CName: tgt.CName, Ticket: ticket,
	}}
	replyKey, usage := tgt.Key, uint32(usageTGSRepSession)
	if len(auth.SubKey.KeyValue) > 0 {
		replyKey, usage = auth.SubKey, usageTGSRepSubkey
	}
	if rep.EncPart, err = encrypt(part, replyKey, usage, 0); err != nil {
		return nil, err
	}
	return rep.Marshal()
}

// readTGT opens the ticket-granting ticket of a request and its authenticator.
// realm is the one that the ticket grants tickets of.
func (k *KDC) readTGT(data types.PADataSequence) (t messages.EncTicketPart, auth types.Authenticator, realm string, err error) {
	i := slices.IndexFunc(data, func(p types.PAData) bool { return p.PADataType == paTGSReq })
	if i < 0 {
		return t, auth, "", &kdcError{code: errPreauthNeeded, text: "no PA-TGS-REQ"}
	}
	var ap messages.APReq
	if err := ap.Unmarshal(data[i].PADataValue); err != nil {
		return t, auth, "", err
	}
	granting, ok := k.find(ap.Ticket.SName, ap.Ticket.Realm)
	if !ok || len(ap.Ticket.SName.NameString) != 2 || ap.Ticket.SName.NameString[0] != "krbtgt" {
		return t, auth, "", &kdcError{code: errServiceUnknown, text: "not a ticket-granting ticket"}
	}
	plain, err := decrypt(ap.Ticket.EncPart, granting.keys[0].EncryptionKey, usageTicket)
	if err == nil {
		err = t.Unmarshal(plain)
	}
	if err != nil {
		return t, auth, "", &kdcError{code: errBadIntegrity, text: "BAD_INTEGRITY"}
	}
	plain, err = decrypt(ap.EncryptedAuthenticator, t.Key, usageTGSAuth)
	if err == nil {
		err = auth.Unmarshal(plain)
	}
	if err != nil || auth.CRealm != t.CRealm || !slices.Equal(auth.CName.NameString, t.CName.NameString) {
		return t, auth, "", &kdcError{code: errBadIntegrity, text: "BAD_INTEGRITY"}
	}
	d := k.now().Sub(auth.CTime)
	switch {
	case d > allowedSkew || d < -allowedSkew:
		return t, auth, "", &kdcError{code: errSkew, text: "CLOCK_SKEW"}
	case k.now().After(t.EndTime):
		return t, auth, "", &kdcError{code: errExpired, text: "TKT_EXPIRED"}
	}
	return t, auth, ap.Ticket.SName.NameString[1], nil
}

func (k *KDC) lifetime() time.Duration {
	if k.Lifetime == 0 {
		return 10 * time.Hour
	}
	return k.Lifetime
}

// issue completes t and seals it for the service.
func (k *KDC) issue(t *messages.EncTicketPart, service *principal, body *messages.KDCReqBody, latest time.Time) (messages.Ticket, error) {
	t.StartTime = k.now().UTC().Truncate(time.Second)
	t.EndTime = latest
	if till := body.Till; till.After(t.StartTime) && till.Before(latest) { // 1970 asks for as long as may be
		t.EndTime = till
	}
	if body.KDCOptions.At(flagForwardable) != 0 {
		types.SetFlag(&t.Flags, flagForwardable)
	}
	allowed := service.sessions
	if len(allowed) == 0 {
		allowed = krb5.DefaultEnctypes()
	}
	i := slices.IndexFunc(allowed, func(e int32) bool { return slices.Contains(body.EType, e) })
	if i < 0 {
		return messages.Ticket{}, &kdcError{code: errNoEnctype, text: "ETYPE_NOSUPP"}
	}
	t.Key = types.EncryptionKey{KeyType: allowed[i], KeyValue: randomKey(allowed[i])}
	return seal(t, service.name, service.realm, service.keys[0].EncryptionKey, service.keys[0].kvno)
}

func seal(t *messages.EncTicketPart, service types.PrincipalName, realm string, k types.EncryptionKey, kvno int) (messages.Ticket, error) {
	b, err := asn1.Marshal(*t)
	if err != nil {
		return messages.Ticket{}, err
	}
	part, err := encrypt(asn1tools.AddASNAppTag(b, asnAppTag.EncTicketPart), k, usageTicket, kvno)
	return messages.Ticket{TktVNO: 5, Realm: realm, SName: service, EncPart: part}, err
}

// replyPart is what the client learns of its ticket.
func replyPart(t *messages.EncTicketPart, service *principal, body *messages.KDCReqBody) ([]byte, error) {
	part := messages.EncKDCRepPart{
		Key: t.Key, LastReqs: []messages.LastReq{{LRValue: t.AuthTime}}, Nonce: body.Nonce, Flags: t.Flags,
		AuthTime: t.AuthTime, StartTime: t.StartTime, EndTime: t.EndTime, SRealm: service.realm, SName: service.name,
	}
	return part.Marshal()
}

func encrypt(plain []byte, k types.EncryptionKey, usage uint32, kvno int) (types.EncryptedData, error) {
	return crypto.GetEncryptedData(plain, k, usage, kvno)
}

func decrypt(sealed types.EncryptedData, k types.EncryptionKey, usage uint32) ([]byte, error) {
	key, err := krb5.KeyFrom(k.KeyType, k.KeyValue)
	if err != nil || sealed.EType != k.KeyType {
		return nil, errors.Join(err, errors.New("other enctype"))
	}
	return key.Decrypt(usage, sealed.Cipher)
}
