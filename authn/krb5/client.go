package krb5

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jcmturner/gofork/encoding/asn1"
	"github.com/jcmturner/gokrb5/v8/asn1tools"
	"github.com/jcmturner/gokrb5/v8/client"
	"github.com/jcmturner/gokrb5/v8/config"
	"github.com/jcmturner/gokrb5/v8/iana/asnAppTag"
	"github.com/jcmturner/gokrb5/v8/iana/nametype"
	"github.com/jcmturner/gokrb5/v8/keytab"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"

	"github.com/kpopd/kpopd/authn"
)

// Client gets tickets from a KDC, as kinit and kvno do. It is used by one
// goroutine.
type Client struct {
	c   *client.Client
	tgt messages.ASRep
}

// NewClient gets a ticket-granting ticket with a password. conf is the text of
// a krb5.conf; user is a principal name without its realm. gokrb5 knows no
// context: it gives up on a KDC after a few seconds by itself.
func NewClient(conf, user, realm string, password authn.Password) (*Client, error) {
	c, err := config.NewFromString(conf)
	if err != nil {
		return nil, fmt.Errorf("krb5.conf: %w", err)
	}
	return login(client.NewWithPassword(user, realm, string(password), c, client.DisablePAFXFAST(true)), user, realm)
}

// NewClientFromKeytab gets a ticket-granting ticket with a key from the octets
// of a keytab file.
func NewClientFromKeytab(conf, user, realm string, keytabFile []byte) (*Client, error) {
	c, err := config.NewFromString(conf)
	if err != nil {
		return nil, fmt.Errorf("krb5.conf: %w", err)
	}
	kt := keytab.New()
	if read(func() error { return kt.Unmarshal(keytabFile) }) != nil {
		return nil, errors.New("keytab cannot be read") // gokrb5's text quotes the file
	}
	return login(client.NewWithKeytab(user, realm, kt, c, client.DisablePAFXFAST(true)), user, realm)
}

// login does the exchange itself: client.Login starts a goroutine that renews
// the ticket for ever.
func login(c *client.Client, user, realm string) (_ *Client, err error) {
	defer caught(&err)
	req, err := messages.NewASReqForTGT(realm, c.Config, c.Credentials.CName())
	if err != nil {
		return nil, fmt.Errorf("get a ticket for %s@%s: %w", user, realm, err)
	}
	tgt, err := c.ASExchange(realm, req, 0)
	if err != nil {
		return nil, fmt.Errorf("get a ticket for %s@%s: %w", user, realm, err)
	}
	return &Client{c, tgt}, nil
}

// Close forgets the tickets and the password.
func (c *Client) Close() { c.c.Destroy() }

// Initiate gets a ticket for the service and makes an AP-REQ with it; see
// [Client.Ticket].
func (c *Client) Initiate(ctx context.Context, service string, o InitOptions) (*Initiator, error) {
	t, err := c.Ticket(ctx, service)
	if err != nil {
		return nil, err
	}
	return t.Initiate(o)
}

// Ticket gets a ticket for a service, "pop/mail.example" or
// "pop/mail.example@REALM". Without a realm, it is in the one that krb5.conf
// has for its host, else in the client's.
func (c *Client) Ticket(ctx context.Context, service string) (_ *Credential, err error) {
	defer caught(&err)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	n, realm, _ := strings.Cut(service, "@")
	sname := types.NewPrincipalName(nametype.KRB_NT_SRV_INST, n)
	home := c.c.Credentials.Domain()
	if realm == "" && len(sname.NameString) > 1 {
		realm = c.c.Config.ResolveRealm(sname.NameString[1])
	}
	realm = cmp.Or(realm, home)
	tgt, key := c.tgt.Ticket, c.tgt.DecryptedEncPart.Key
	if realm != home {
		granting := types.PrincipalName{NameType: nametype.KRB_NT_SRV_INST, NameString: []string{"krbtgt", realm}}
		_, cross, err := c.c.TGSREQGenerateAndExchange(granting, home, tgt, key, false)
		if err != nil {
			return nil, fmt.Errorf("get a ticket for realm %s: %w", realm, err)
		}
		tgt, key = cross.Ticket, cross.DecryptedEncPart.Key
	}
	_, rep, err := c.c.TGSREQGenerateAndExchange(sname, realm, tgt, key, false)
	if err != nil {
		return nil, fmt.Errorf("get a ticket for %s: %w", service, err)
	}
	session, err := KeyFrom(rep.DecryptedEncPart.Key.KeyType, rep.DecryptedEncPart.Key.KeyValue)
	if err != nil {
		return nil, fmt.Errorf("ticket for %s: %w", service, err)
	}
	return &Credential{ticket: rep.Ticket, session: session, client: nameOf(c.c.Credentials.CName(), home)}, nil
}

// Credential is a service ticket with its session key.
type Credential struct {
	ticket  messages.Ticket
	session Key
	client  name
}

// NewCredential takes a service ticket in DER. Components and realm are those
// of the client.
func NewCredential(ticket []byte, session Key, components []string, realm string) (_ *Credential, err error) {
	defer caught(&err)
	c := &Credential{session: session, client: name{components, realm}}
	if err := c.ticket.Unmarshal(ticket); err != nil {
		return nil, fmt.Errorf("read ticket: %w", err)
	}
	return c, nil
}

// InitOptions say what goes into an AP-REQ.
type InitOptions struct {
	Mutual   bool       // ask for an AP-REP
	Subkey   bool       // propose a subkey of the session key's enctype
	Seq      uint32     // initial sequence number; none when 0
	Checksum *Checksum  // none when nil
	AuthData []AuthData // each is put into AD-IF-RELEVANT

	// The rest makes requests that must be refused.
	Time       time.Time // now when zero
	Components []string  // client as the authenticator has it; that of the ticket when nil
	Realm      string    // the same
}

// Initiator is an AP-REQ and what is needed for what follows it.
type Initiator struct {
	APReq   []byte // DER
	Session Key
	Subkey  Key // zero when none was proposed
	Seq     uint32
	Mutual  bool

	ctime time.Time
	cusec int
}

// Initiate makes an AP-REQ (RFC 4120 section 3.2.2).
func (c *Credential) Initiate(o InitOptions) (_ *Initiator, err error) {
	defer caught(&err)
	now := o.Time.UTC()
	if o.Time.IsZero() {
		now = time.Now().UTC()
	}
	i := &Initiator{
		Session: c.session, Seq: o.Seq, Mutual: o.Mutual,
		ctime: now.Truncate(time.Second), cusec: now.Nanosecond() / 1000,
	}
	if o.Subkey {
		if i.Subkey, err = NewKey(c.session.Enctype()); err != nil {
			return nil, err
		}
	}
	auth := types.Authenticator{
		AVNO: 5, CRealm: c.client.realm, CName: types.PrincipalName{NameType: nametype.KRB_NT_PRINCIPAL, NameString: c.client.components},
		CTime: i.ctime, Cusec: i.cusec, SeqNumber: int64(o.Seq), SubKey: i.Subkey.wire(),
	}
	if o.Components != nil {
		auth.CName.NameString = o.Components
	}
	if o.Realm != "" {
		auth.CRealm = o.Realm
	}
	if o.Checksum != nil {
		auth.Cksum = types.Checksum{CksumType: o.Checksum.Type, Checksum: o.Checksum.Data}
	}
	if auth.AuthorizationData, err = ifRelevant(o.AuthData); err != nil {
		return nil, err
	}
	i.APReq, err = c.request(auth, o.Mutual)
	return i, err
}

func ifRelevant(elements []AuthData) (types.AuthorizationData, error) {
	var out types.AuthorizationData
	for _, e := range elements {
		b, err := asn1.Marshal(types.AuthorizationData{{ADType: e.Type, ADData: e.Data}})
		if err != nil {
			return nil, fmt.Errorf("make authorization data: %w", err)
		}
		out = append(out, types.AuthorizationDataEntry{ADType: adIfRelevant, ADData: b})
	}
	return out, nil
}

func (c *Credential) request(auth types.Authenticator, mutual bool) ([]byte, error) {
	b, err := asn1.Marshal(auth)
	if err != nil {
		return nil, fmt.Errorf("make authenticator: %w", err)
	}
	cipher, err := c.session.Encrypt(usageAuthenticator, asn1tools.AddASNAppTag(b, asnAppTag.Authenticator))
	if err != nil {
		return nil, fmt.Errorf("make authenticator: %w", err)
	}
	options := types.NewKrbFlags()
	if mutual {
		types.SetFlag(&options, optMutualRequired)
	}
	m := messages.APReq{
		PVNO: 5, MsgType: 14, APOptions: options, Ticket: c.ticket,
		EncryptedAuthenticator: types.EncryptedData{EType: c.session.Enctype(), Cipher: cipher},
	}
	b, err = m.Marshal()
	if err != nil {
		return nil, fmt.Errorf("make AP-REQ: %w", err)
	}
	return b, nil
}
