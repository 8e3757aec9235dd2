package krb5

import (
	"context"
	"errors"
	"fmt"
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

// Client gets tickets from a KDC, as kinit and kvno do.
type Client struct {
	c *client.Client
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
	if err := kt.Unmarshal(keytabFile); err != nil {
		return nil, errors.New("keytab cannot be read")
	}
	return login(client.NewWithKeytab(user, realm, kt, c, client.DisablePAFXFAST(true)), user, realm)
}

func login(c *client.Client, user, realm string) (_ *Client, err error) {
	defer caught(&err)
	if err := c.Login(); err != nil {
		c.Destroy()
		return nil, fmt.Errorf("get a ticket for %s@%s: %w", user, realm, err)
	}
	return &Client{c}, nil
}

// Close ends what renews the ticket.
func (c *Client) Close() { c.c.Destroy() }

// Initiate gets a ticket for the service ("pop/mail.example") and makes an
// AP-REQ with it.
func (c *Client) Initiate(ctx context.Context, service string, o InitOptions) (_ *Initiator, err error) {
	defer caught(&err)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t, k, err := c.c.GetServiceTicket(service)
	if err != nil {
		return nil, fmt.Errorf("get a ticket for %s: %w", service, err)
	}
	key, err := KeyFrom(k.KeyType, k.KeyValue)
	if err != nil {
		return nil, fmt.Errorf("ticket for %s: %w", service, err)
	}
	id := c.c.Credentials
	return (&Credential{ticket: t, session: key, client: nameOf(id.CName(), id.Realm())}).Initiate(o)
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
