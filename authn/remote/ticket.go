package remote

import (
	"errors"
	"time"

	"github.com/kpopd/kpopd/authn/krb5"
)

// sessionContext is a krb5.Context but for its keys, which are the payload, one
// behind the other.
type sessionContext struct {
	Principal *principal `json:"principal"`
	Mutual    bool       `json:"mutual,omitempty"`
	Checksum  *typed     `json:"checksum,omitempty"`
	AuthData  []typed    `json:"auth_data,omitempty"`
	Seq       uint32     `json:"seq,omitempty"`
	CTime     time.Time  `json:"ctime,omitzero"`
	CUsec     int        `json:"cusec,omitempty"`
	Session   keyShape   `json:"session"`
	Subkey    keyShape   `json:"subkey,omitzero"`
}

type typed struct {
	Type int32  `json:"type"`
	Data []byte `json:"data"`
}

// keyShape is what may be told of a key; zero for none.
type keyShape struct {
	Enctype int32 `json:"enctype,omitempty"`
	Octets  int   `json:"octets,omitempty"`
}

// contextOf takes a context apart. The caller wipes keys.
func contextOf(c *krb5.Context) (x *sessionContext, keys []byte) {
	session, subkey := c.Session.Octets(), c.Subkey.Octets()
	defer clear(session)
	defer clear(subkey)
	x = &sessionContext{
		Principal: principalOf(&c.Principal), Mutual: c.Mutual, Seq: c.Seq,
		Session: keyShape{c.Session.Enctype(), len(session)}, Subkey: keyShape{c.Subkey.Enctype(), len(subkey)},
	}
	x.CTime, x.CUsec = c.Time()
	if s := c.Checksum; s != nil {
		x.Checksum = &typed{s.Type, s.Data}
	}
	for _, d := range c.AuthData {
		x.AuthData = append(x.AuthData, typed{d.Type, d.Data})
	}
	keys = make([]byte, 0, len(session)+len(subkey)) // of that size: no copy is left behind
	return x, append(append(keys, session...), subkey...)
}

var errContext = errors.New("the helper sent no context that can be used")

// restore copies the keys.
func (x *sessionContext) restore(keys []byte) (*krb5.Context, error) {
	if x == nil || x.Principal == nil {
		return nil, errContext
	}
	c := &krb5.Context{Principal: *x.Principal.restore(), Mutual: x.Mutual, Seq: x.Seq}
	c.SetTime(x.CTime, x.CUsec)
	if x.Checksum != nil {
		c.Checksum = &krb5.Checksum{Type: x.Checksum.Type, Data: x.Checksum.Data}
	}
	for _, d := range x.AuthData {
		c.AuthData = append(c.AuthData, krb5.AuthData{Type: d.Type, Data: d.Data})
	}
	n := x.Session.Octets
	if n <= 0 || n > len(keys) || x.Subkey.Octets != len(keys)-n {
		return nil, errContext
	}
	var err error
	if c.Session, err = krb5.KeyFrom(x.Session.Enctype, keys[:n]); err != nil {
		return nil, err
	}
	if x.Subkey == (keyShape{}) {
		return c, nil
	}
	c.Subkey, err = krb5.KeyFrom(x.Subkey.Enctype, keys[n:])
	return c, err
}
