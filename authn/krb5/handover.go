package krb5

import (
	"bytes"
	"time"

	"github.com/jcmturner/gokrb5/v8/types"
)

// What one process needs to hand a [Context] or an [Error] to another, and
// nobody else does.

// Octets is a copy of the key, which the caller wipes; nil for no key.
func (k Key) Octets() []byte {
	if k.IsZero() {
		return nil
	}
	return bytes.Clone(k.secret())
}

// Time is the client's time, which an AP-REP repeats.
func (c *Context) Time() (ctime time.Time, cusec int) { return c.ctime, c.cusec }

// SetTime gives a context that was handed over its Time.
func (c *Context) SetTime(ctime time.Time, cusec int) { c.ctime, c.cusec = ctime, cusec }

// Service is the principal that the refused ticket was for, as far as it was
// read.
func (e *Error) Service() (nameType int32, components []string, realm string) {
	return e.service.NameType, e.service.NameString, e.realm
}

// SetService gives an error that was handed over its Service.
func (e *Error) SetService(nameType int32, components []string, realm string) {
	e.service, e.realm = types.PrincipalName{NameType: nameType, NameString: components}, realm
}
