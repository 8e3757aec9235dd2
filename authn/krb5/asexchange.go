package krb5

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jcmturner/gofork/encoding/asn1"
	"github.com/jcmturner/gokrb5/v8/iana/nametype"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"

	"github.com/kpopd/kpopd/authn"
)

// Types of pre-authentication data (RFC 4120 section 7.5.2).
const (
	paEncTimestamp = 2
	paEtypeInfo2   = 19
)

// Key usages of the AS exchange (RFC 4120 section 7.5.1).
const (
	usageTimestamp = 1
	usageASRep     = 3
)

// ticketLife is what is asked for; the ticket is used at once and thrown away.
const ticketLife = 30 * time.Minute

// Codes of KRB-ERROR that a KDC sends (RFC 4120 section 7.5.9).
const (
	codeNameExpired     = 1
	codeClientUnknown   = 6
	codeServiceUnknown  = 7
	codePolicy          = 12
	codeRevoked         = 18
	codeKeyExpired      = 23
	codePreauthFailed   = 24
	codePreauthRequired = 25
	codeServiceUnready  = 29
	codeWrongRealm      = 68
)

// answers are the KDC's refusals that say something of the user, and those that
// do not but that have a remedy.
var answers = map[int32]struct {
	kind authn.Kind
	text string
}{
	codeNameExpired:     {denied, "the account has expired"},
	codeClientUnknown:   {authn.UnknownUser, "no such principal"},
	codeWrongRealm:      {authn.UnknownUser, "the principal is of another realm"},
	codePolicy:          {denied, "the KDC's policy does not let the user in"},
	codeRevoked:         {denied, "the account is locked or disabled"},
	codeKeyExpired:      {expired, "the password has expired"},
	codePreauthFailed:   {rejected, "wrong password"},
	CodeBadIntegrity:    {rejected, "wrong password"},
	codeServiceUnknown:  {unavailable, "the KDC does not know our service: make the principal, or set another one"},
	codePreauthRequired: {unavailable, "it wants more than a password"},
	CodeEtypeNoSupp:     {unavailable, "it has no key of an enctype that is taken here, of this user or of our service"},
	codeServiceUnready:  {unavailable, "it cannot answer now"},
	CodeGeneric:         {unavailable, "it has a fault"},
}

// asExchange gets a ticket from one KDC (RFC 4120 section 3.1).
type asExchange struct {
	p        *Passwords
	client   name
	password authn.Password
	send     func(context.Context, []byte) ([]byte, error)

	nonce  int
	key    Key  // made of the password
	how    hint // as it was made
	proved bool // the KDC took what was encrypted with key
}

func (x *asExchange) run(ctx context.Context) (*authn.Principal, *PasswordError) {
	rep, refusal, err := x.round(ctx, nil)
	if err != nil {
		return nil, err
	}
	if refusal != nil {
		if rep, err = x.again(ctx, refusal); err != nil {
			return nil, err
		}
	}
	credential, err := x.open(rep)
	if err != nil {
		return nil, err
	}
	return x.prove(ctx, credential)
}

// again answers a refusal with the time, encrypted with the key of the password.
// Who was refused for good is asked about in the same way, and the answer is
// left unread: how long a refusal takes tells nobody who is a user.
func (x *asExchange) again(ctx context.Context, refusal *messages.KRBError) (*messages.ASRep, *PasswordError) {
	verdict := refused(refusal)
	h := x.usual()
	switch {
	case refusal.ErrorCode == codePreauthRequired:
		var ok bool
		if h, ok = x.choose(refusal.EData); !ok {
			return nil, cannot("it wants more than a password, or a key of an enctype that is not taken (%s)", x.taken())
		}
		verdict = nil
	case verdict.Kind == unavailable:
		return nil, verdict
	}
	if err := x.makeKey(h); err != nil {
		return nil, err
	}
	if verdict == nil {
		x.p.learned.Store(&hint{enctype: h.enctype, params: h.params})
	}
	stamp, err := x.timestamp(time.Now())
	if err != nil {
		return nil, cannot("encrypt the time: %w", err)
	}
	rep, second, failure := x.round(ctx, stamp)
	switch {
	case verdict != nil:
		return nil, verdict
	case failure != nil:
		return nil, failure
	case second != nil:
		return nil, refused(second)
	}
	x.proved = true
	return rep, nil
}

// usual is how keys of this realm's users are made, as far as we have heard.
func (x *asExchange) usual() hint {
	h := hint{enctype: x.p.enctypes[0]}
	if l := x.p.learned.Load(); l != nil {
		h = *l
	}
	h.salt = x.defaultSalt()
	return h
}

// round sends one AS-REQ and reads the answer, which is one of two.
func (x *asExchange) round(ctx context.Context, padata types.PADataSequence) (rep *messages.ASRep, refusal *messages.KRBError, _ *PasswordError) {
	request, err := x.request(padata)
	if err != nil {
		return nil, nil, cannot("make AS-REQ: %w", err)
	}
	down := func(err error) *PasswordError { return &PasswordError{Kind: unavailable, Err: err, down: true} }
	b, err := x.send(ctx, request)
	if err != nil {
		return nil, nil, down(err)
	}
	refusal = new(messages.KRBError)
	if read(func() error { return refusal.Unmarshal(b) }) == nil {
		return nil, refusal, nil
	}
	rep = new(messages.ASRep)
	if read(func() error { return rep.Unmarshal(b) }) != nil {
		return nil, nil, down(errors.New("the reply is no message of Kerberos"))
	}
	return rep, nil, nil
}

func (x *asExchange) request(padata types.PADataSequence) (_ []byte, err error) {
	defer caught(&err)
	var nonce [4]byte
	rand.Read(nonce[:])                                           // never fails
	x.nonce = int(binary.BigEndian.Uint32(nonce[:]) &^ (1 << 31)) // positive also to who reads it as an Int32
	m := messages.ASReq{KDCReqFields: messages.KDCReqFields{
		PVNO: 5, MsgType: 10, PAData: padata,
		ReqBody: messages.KDCReqBody{
			KDCOptions: types.NewKrbFlags(),
			CName:      types.PrincipalName{NameType: nametype.KRB_NT_PRINCIPAL, NameString: x.client.components},
			Realm:      x.p.realm,
			SName:      types.PrincipalName{NameType: nametype.KRB_NT_SRV_HST, NameString: x.p.service.components},
			Till:       time.Now().UTC().Add(ticketLife),
			Nonce:      x.nonce,
			EType:      x.p.enctypes,
		},
	}}
	return m.Marshal()
}

func (x *asExchange) taken() string {
	var names []string
	for _, e := range x.p.enctypes {
		names = append(names, EnctypeName(e))
	}
	return strings.Join(names, ", ")
}

// defaultSalt is the realm and the components, joined by nothing (RFC 4120
// section 4).
func (x *asExchange) defaultSalt() string {
	return x.client.realm + strings.Join(x.client.components, "")
}

// choose takes the first enctype that the KDC offers and that is taken here: its
// order is one of preference (RFC 4120 section 5.2.7.5).
func (x *asExchange) choose(methods []byte) (hint, bool) {
	var data types.PADataSequence
	if read(func() error { return data.Unmarshal(methods) }) != nil {
		return hint{}, false
	}
	if !slices.ContainsFunc(data, func(d types.PAData) bool { return d.PADataType == paEncTimestamp }) {
		return hint{}, false
	}
	return x.info(data, x.p.enctypes)
}

// info is the first entry of ETYPE-INFO2 with one of the enctypes.
func (x *asExchange) info(data types.PADataSequence, enctypes []int32) (hint, bool) {
	for _, d := range data {
		if d.PADataType != paEtypeInfo2 {
			continue
		}
		var entries types.ETypeInfo2
		if read(func() error { _, err := asn1.Unmarshal(d.PADataValue, &entries); return err }) != nil {
			return hint{}, false
		}
		for _, e := range entries {
			if !slices.Contains(enctypes, e.EType) {
				continue
			}
			h := hint{enctype: e.EType, salt: e.Salt, params: string(e.S2KParams)}
			if h.salt == "" {
				h.salt = x.defaultSalt()
			}
			return h, true
		}
	}
	return hint{}, false
}

func (x *asExchange) makeKey(h hint) *PasswordError {
	if !x.key.IsZero() && h == x.how {
		return nil
	}
	key, err := stringToKey(x.password, h)
	if err != nil {
		return cannot("make a key of the password: %w", err)
	}
	x.key, x.how = key, h
	return nil
}

// timestamp is PA-ENC-TIMESTAMP (RFC 4120 section 5.2.7.2).
func (x *asExchange) timestamp(now time.Time) (_ types.PADataSequence, err error) {
	defer caught(&err)
	now = now.UTC()
	plain, err := asn1.Marshal(types.PAEncTSEnc{PATimestamp: now.Truncate(time.Second), PAUSec: now.Nanosecond() / 1000})
	if err != nil {
		return nil, err
	}
	cipher, err := x.key.Encrypt(usageTimestamp, plain)
	if err != nil {
		return nil, err
	}
	sealed := types.EncryptedData{EType: x.key.Enctype(), Cipher: cipher}
	value, err := sealed.Marshal()
	if err != nil {
		return nil, err
	}
	return types.PADataSequence{{PADataType: paEncTimestamp, PADataValue: value}}, nil
}

// open reads an AS-REP with the key of the password (RFC 4120 section 3.1.5).
func (x *asExchange) open(rep *messages.ASRep) (*Credential, *PasswordError) {
	enctype := rep.EncPart.EType
	if !slices.Contains(x.p.enctypes, enctype) {
		return nil, cannot("its reply is encrypted with %s, which is not taken (%s)", EnctypeName(enctype), x.taken())
	}
	h, ok := x.info(rep.PAData, []int32{enctype})
	if !ok {
		if h = x.how; h.enctype != enctype {
			h = hint{enctype: enctype, salt: x.defaultSalt()}
		}
	}
	if err := x.makeKey(h); err != nil {
		return nil, err
	}
	plain, err := x.key.Decrypt(usageASRep, rep.EncPart.Cipher)
	switch {
	case err != nil && x.proved:
		return nil, cannot("it took the password and encrypts its reply with another key")
	case err != nil: // a user without pre-authentication
		return nil, &PasswordError{Kind: rejected, Err: errors.New("the password does not open the reply")}
	}
	var part messages.EncKDCRepPart
	if err := read(func() error { return part.Unmarshal(plain) }); err != nil {
		return nil, cannot("its reply cannot be read: %w", err)
	}
	switch {
	case part.Nonce != x.nonce:
		return nil, cannot("its reply is to another request")
	case !nameOf(rep.CName, rep.CRealm).equal(x.client):
		return nil, cannot("its reply is for another user")
	case !nameOf(part.SName, part.SRealm).equal(x.p.service), !nameOf(rep.Ticket.SName, rep.Ticket.Realm).equal(x.p.service):
		return nil, cannot("its ticket is for another service than %s", x.p.service)
	}
	session, err := KeyFrom(part.Key.KeyType, part.Key.KeyValue)
	if err != nil {
		return nil, cannot("its session key cannot be used: %w", err)
	}
	return &Credential{ticket: rep.Ticket, session: session, client: x.client}, nil
}

// prove shows the ticket to ourselves. The password was right already: what
// fails here is the KDC, the keytab or a clock.
func (x *asExchange) prove(ctx context.Context, c *Credential) (*authn.Principal, *PasswordError) {
	i, err := c.Initiate(InitOptions{})
	if err != nil {
		return nil, cannot("make AP-REQ: %w", err)
	}
	accepted, err := x.p.accept.Accept(ctx, i.APReq, Options{Check: x.fresh})
	if err != nil {
		return nil, cannot("it says that the password is right, and its ticket does not prove it: %w", err)
	}
	return &accepted.Principal, nil
}

// fresh wants what only this exchange can have brought. A server for which
// nothing but the client's key will do "can insist that this flag be set in any
// tickets they accept": INITIAL (RFC 4120 section 2.1).
func (x *asExchange) fresh(c *Context) error {
	age := time.Since(c.authTime)
	switch {
	case !c.initial:
		return refuse(CodeGeneric, denied, "The ticket was not got with a password")
	case !slices.Equal(c.Principal.Components, x.client.components) || c.Principal.Realm != x.client.realm:
		return refuse(CodeBadMatch, denied, "The ticket is for another user")
	case age > x.p.skew || age < -x.p.skew:
		return refuse(CodeSkew, denied, "The ticket was got at %s: the clocks differ, or it is an old one", c.authTime.UTC().Format(time.RFC3339))
	}
	return nil
}

// refused is what a KRB-ERROR means. What is not known to speak of the user is
// an outage.
func refused(m *messages.KRBError) *PasswordError {
	a, ok := answers[m.ErrorCode]
	if !ok {
		a.kind, a.text = unavailable, "it does not answer the question"
	}
	e := &PasswordError{Kind: a.kind, Code: m.ErrorCode}
	e.down = m.ErrorCode == codeServiceUnready || m.ErrorCode == CodeGeneric
	if m.ErrorCode == CodeSkew {
		a.text = fmt.Sprintf("its clock and ours differ by %s: set them right", time.Since(m.STime).Abs().Round(time.Second))
	}
	text := printable(strings.TrimRight(m.EText, "\x00"))
	e.Err = fmt.Errorf("%s (KRB-ERROR %d %s)", a.text, m.ErrorCode, text)
	return e
}
