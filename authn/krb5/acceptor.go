package krb5

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/jcmturner/gofork/encoding/asn1"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"

	"github.com/kpopd/kpopd/authn"
)

// Acceptor checks AP-REQ messages against a keytab. It is safe for concurrent
// use; fields are only read.
type Acceptor struct {
	Keytab         *Keytab       // required
	Services       []string      // first components of service principals; "pop" and "pop3" when empty
	Hosts          []string      // second components, in any case; whatever the keytab has keys for when empty
	Enctypes       []int32       // of tickets, session keys and subkeys; the four of AES when empty
	Skew           time.Duration // allowed difference to the client's clock; 5 min when zero, as everywhere
	Replay         ReplayCache   // required
	CheckAddresses bool          // compare the addresses in tickets that have some
}

// Usable lists the principals whose tickets can be taken: the keytab has a key
// for them, and services, hosts and enctypes let it be used. When there are
// none nobody gets in.
func (a *Acceptor) Usable() []string {
	var list []string
	for _, keys := range *a.Keytab.keys.Load() {
		n := keys[0].name.components
		ours := len(n) == 2 && slices.Contains(a.services(), n[0]) && a.isHost(n[1])
		if ours && slices.ContainsFunc(keys, func(k serviceKey) bool { return a.allows(k.key.Enctype()) }) {
			list = append(list, keys[0].name.String())
		}
	}
	slices.Sort(list)
	return list
}

func (a *Acceptor) services() []string {
	if len(a.Services) == 0 {
		return []string{"pop", "pop3"}
	}
	return a.Services
}

func (a *Acceptor) isHost(host string) bool {
	return len(a.Hosts) == 0 || slices.ContainsFunc(a.Hosts, func(h string) bool { return strings.EqualFold(h, host) })
}

func (a *Acceptor) allows(enctype int32) bool {
	if len(a.Enctypes) == 0 {
		return slices.Contains(DefaultEnctypes(), enctype)
	}
	return slices.Contains(a.Enctypes, enctype)
}

// Options are what a protocol adds to the checks.
type Options struct {
	Remote netip.Addr // of the client, for CheckAddresses

	// Check judges a request that has passed everything else. It runs before
	// the replay cache hears of the request.
	Check func(*Context) error
}

// Context is an accepted AP-REQ.
type Context struct {
	Principal authn.Principal // from the ticket
	Mutual    bool            // the client wants an AP-REP
	Checksum  *Checksum       // of the authenticator; nil when it has none
	AuthData  []AuthData      // of the authenticator, AD-IF-RELEVANT opened
	Session   Key             // of the ticket
	Subkey    Key             // of the authenticator; zero when it has none
	Seq       uint32          // initial sequence number of the client; 0 when it sent none

	ctime    time.Time
	cusec    int
	authTime time.Time // of the ticket: when the client proved itself to the KDC
	initial  bool      // the ticket was got with the client's own key, not with a ticket
}

// Checksum is the checksum field of an authenticator, unverified.
type Checksum struct {
	Type int32
	Data []byte
}

// AuthData is an element of authorization data.
type AuthData struct {
	Type int32
	Data []byte
}

// Key usages (RFC 4120 section 7.5.1).
const (
	usageTicket        = 2
	usageAPReqChecksum = 10
	usageAuthenticator = 11
	usageAPRep         = 12
)

// Bits of ap-options and of ticket flags (RFC 4120 sections 5.5.1 and 5.3).
const (
	optUseSessionKey  = 1
	optMutualRequired = 2
	flagPostdated     = 6
	flagInvalid       = 7
	flagInitial       = 9
	flagTransitedOK   = 12
)

const (
	adIfRelevant = 1
	maxAPReq     = 128 << 10 // octets; tickets of Windows stay below 64 KiB
	defaultSkew  = 5 * time.Minute
)

const (
	rejected    = authn.Rejected
	denied      = authn.Denied
	expired     = authn.Expired
	malformed   = authn.Malformed
	unavailable = authn.Unavailable
)

func refuse(code int32, kind authn.Kind, format string, a ...any) *Error {
	// names of foreign making are in it: no CR, no escape sequence gets out
	return &Error{Code: code, Kind: kind, Text: printable(fmt.Sprintf(format, a...))}
}

// request is an AP-REQ on its way through the checks.
type request struct {
	a    *Acceptor
	now  time.Time
	msg  messages.APReq
	tkt  messages.EncTicketPart
	kvno int // of the key that decrypted the ticket
	auth types.Authenticator
	ctx  *Context
}

// Accept verifies an AP-REQ (RFC 4120 section 3.2.3) and returns who sent it.
// Every error has a [*Error] or an [*authn.Error] in it.
func (a *Acceptor) Accept(ctx context.Context, apReq []byte, o Options) (_ *Context, err error) {
	if a.Keytab == nil || a.Replay == nil {
		return nil, refuse(CodeGeneric, authn.Internal, "This server is not set up for Kerberos")
	}
	r := &request{a: a, now: time.Now()}
	defer func() {
		if e, ok := err.(*Error); ok { // a copy, as Check may return the same one to everybody
			named := *e
			named.service, named.realm = r.msg.Ticket.SName, r.msg.Ticket.Realm
			err = &named
		}
	}()
	for _, step := range []func() error{
		func() error { return r.decode(apReq) },
		r.checkService,
		r.decryptTicket,
		r.decryptAuthenticator,
		r.checkNames,
		r.checkTimes,
		func() error { return r.checkAddress(o.Remote) },
		r.makeContext,
		func() error {
			if o.Check == nil {
				return nil
			}
			return o.Check(r.ctx)
		},
		func() error { return r.checkReplay(ctx) },
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return r.ctx, nil
}

func (r *request) decode(b []byte) error {
	unreadable := refuse(CodeMsgType, malformed, "The Kerberos message cannot be read")
	if len(b) > maxAPReq {
		unreadable.Text = "The Kerberos message is too long"
		return unreadable
	}
	err := read(func() error {
		var outer asn1.RawValue
		if rest, err := asn1.Unmarshal(b, &outer); err != nil || len(rest) != 0 {
			return errors.Join(err, fmt.Errorf("%d octets follow", len(rest)))
		}
		return r.msg.Unmarshal(b)
	})
	if err != nil {
		unreadable.Err = err
		return unreadable
	}
	switch {
	case r.msg.PVNO != 5 || r.msg.Ticket.TktVNO != 5:
		return refuse(CodeBadVersion, malformed, "This is not Kerberos version 5")
	case r.msg.APOptions.At(optUseSessionKey) != 0:
		return refuse(CodeNoKey, denied, "User-to-user tickets are not taken here")
	}
	return nil
}

func (r *request) checkService() error {
	services := r.a.services()
	t := &r.msg.Ticket
	sname := t.SName.NameString
	n := nameOf(t.SName, t.Realm)
	switch {
	case len(sname) != 2 || sname[0] == "" || sname[1] == "" || !slices.Contains(services, sname[0]):
		return refuse(CodeNotUs, rejected, "This ticket is for %s, and a ticket for %s/HOST is needed", n, services[0])
	case !r.a.isHost(sname[1]):
		return refuse(CodeNotUs, rejected, "This ticket is for %s, which is not this server", n)
	}
	return r.checkEnctype(t.EncPart.EType, "ticket")
}

func (r *request) checkEnctype(enctype int32, of string) error {
	if !r.a.allows(enctype) {
		return refuse(CodeEtypeNoSupp, denied, "The %s is encrypted with %s, which is not taken here", of, EnctypeName(enctype))
	}
	return nil
}

func (r *request) decryptTicket() error {
	t := &r.msg.Ticket
	keys, err := r.a.Keytab.lookup(nameOf(t.SName, t.Realm), t.EncPart.EType, t.EncPart.KVNO, r.now)
	if err != nil {
		return err
	}
	for _, k := range keys {
		var plain []byte
		if plain, err = k.key.Decrypt(usageTicket, t.EncPart.Cipher); err != nil {
			continue
		}
		if err := read(func() error { return r.tkt.Unmarshal(plain) }); err != nil {
			return &Error{Code: CodeGeneric, Kind: rejected, Text: "The ticket cannot be read", Err: err}
		}
		r.kvno = k.kvno
		return nil
	}
	return &Error{Code: CodeBadIntegrity, Kind: rejected, Text: "The ticket was not made with this server's key: get a new one (kdestroy, kinit), or tell the postmaster that the keytab is out of date", Err: err}
}

func (r *request) decryptAuthenticator() error {
	if err := r.checkEnctype(r.tkt.Key.KeyType, "session"); err != nil {
		return err
	}
	key, err := KeyFrom(r.tkt.Key.KeyType, r.tkt.Key.KeyValue)
	if err != nil {
		return &Error{Code: CodeGeneric, Kind: rejected, Text: "The ticket has a session key that cannot be used", Err: err}
	}
	bad := refuse(CodeBadIntegrity, rejected, "The authenticator was not made with the ticket's key")
	if r.msg.EncryptedAuthenticator.EType != key.Enctype() {
		return bad
	}
	plain, err := key.Decrypt(usageAuthenticator, r.msg.EncryptedAuthenticator.Cipher)
	if err == nil {
		err = read(func() error { return r.auth.Unmarshal(plain) })
	}
	if err != nil {
		bad.Err = err
		return bad
	}
	switch {
	case r.auth.AVNO != 5:
		return refuse(CodeBadVersion, malformed, "This is not Kerberos version 5")
	case r.auth.Cusec < 0 || r.auth.Cusec > 999_999: // it would shift the time that is checked
		return refuse(CodeGeneric, malformed, "The authenticator has %d microseconds in a second", r.auth.Cusec)
	}
	r.ctx = &Context{Session: key}
	return nil
}

// checkNames: what the client says of itself must be what the KDC said,
// realm and all.
func (r *request) checkNames() error {
	client := nameOf(r.tkt.CName, r.tkt.CRealm)
	switch {
	case len(client.components) == 0 || client.realm == "":
		return refuse(CodeBadMatch, rejected, "The ticket names no client")
	case !client.equal(nameOf(r.auth.CName, r.auth.CRealm)):
		return refuse(CodeBadMatch, rejected, "The ticket is for another client than the authenticator says")
	}
	return nil
}

func (r *request) skew() time.Duration {
	if r.a.Skew == 0 {
		return defaultSkew
	}
	return r.a.Skew
}

func (r *request) checkTimes() error {
	skew := r.skew()
	start := r.tkt.StartTime
	if start.IsZero() {
		start = r.tkt.AuthTime
	}
	ctime := r.ctime()
	switch {
	case r.tkt.Flags.At(flagInvalid) != 0:
		return refuse(CodeNotYetValid, denied, "The ticket is marked invalid: get a new one with kinit")
	case r.tkt.Flags.At(flagPostdated) != 0: // "Some services MAY choose to reject postdated tickets" (RFC 4120 section 2.4)
		return refuse(CodeNotYetValid, denied, "The ticket is postdated: get a new one with kinit")
	case !start.Before(r.tkt.EndTime):
		return refuse(CodeNotYetValid, denied, "The ticket ends before it starts")
	case start.After(r.now.Add(skew)):
		return refuse(CodeNotYetValid, expired, "The ticket is not valid before %s", start.UTC().Format(time.RFC3339))
	case r.tkt.EndTime.Before(r.now.Add(-skew)):
		return refuse(CodeExpired, expired, "The ticket expired at %s: get a new one with kinit", r.tkt.EndTime.UTC().Format(time.RFC3339))
	case ctime.After(r.now.Add(skew)):
		return refuse(CodeSkew, rejected, "Clock skew too great: the client's clock is %s ahead of this server's", ctime.Sub(r.now).Round(time.Second))
	case ctime.Before(r.now.Add(-skew)):
		return refuse(CodeSkew, rejected, "Clock skew too great: the client's clock is %s behind this server's", r.now.Sub(ctime).Round(time.Second))
	case len(r.tkt.Transited.Contents) > 0 && r.tkt.Flags.At(flagTransitedOK) == 0:
		return refuse(CodePath, denied, "The KDC did not check the realms that the ticket came through")
	}
	return nil
}

func (r *request) ctime() time.Time {
	return r.auth.CTime.Add(time.Duration(r.auth.Cusec) * time.Microsecond)
}

// Address types (RFC 4120 section 7.5.3).
const (
	addrIPv4 = 2
	addrIPv6 = 24
)

func (r *request) checkAddress(remote netip.Addr) error {
	if !r.a.CheckAddresses || len(r.tkt.CAddr) == 0 {
		return nil
	}
	for _, h := range r.tkt.CAddr {
		if h.AddrType != addrIPv4 && h.AddrType != addrIPv6 {
			continue
		}
		if a, ok := netip.AddrFromSlice(h.Address); ok && a.Unmap() == remote.Unmap() {
			return nil
		}
	}
	return refuse(CodeBadAddr, rejected, "The ticket is for another address than the one it came from")
}

func (r *request) makeContext() error {
	c, t := r.ctx, &r.msg.Ticket
	start := r.tkt.StartTime
	if start.IsZero() {
		start = r.tkt.AuthTime
	}
	c.Principal = authn.Principal{
		Components: r.tkt.CName.NameString,
		Realm:      r.tkt.CRealm,
		Expires:    r.tkt.EndTime,
		Ticket: &authn.Ticket{
			Service:        nameOf(t.SName, t.Realm).String(),
			Enctype:        EnctypeName(t.EncPart.EType),
			SessionEnctype: EnctypeName(c.Session.Enctype()),
			KVNO:           r.kvno,
			Start:          start,
			End:            r.tkt.EndTime,
		},
	}
	c.Mutual = r.msg.APOptions.At(optMutualRequired) != 0
	c.Seq = uint32(r.auth.SeqNumber)
	c.ctime, c.cusec = r.auth.CTime, r.auth.Cusec
	c.authTime, c.initial = r.tkt.AuthTime, r.tkt.Flags.At(flagInitial) != 0
	if s := r.auth.Cksum; s.CksumType != 0 || len(s.Checksum) > 0 {
		c.Checksum = &Checksum{s.CksumType, s.Checksum}
	}
	c.AuthData = flatten(r.auth.AuthorizationData)
	if r.auth.SubKey.KeyType == 0 && len(r.auth.SubKey.KeyValue) == 0 {
		return nil
	}
	if err := r.checkEnctype(r.auth.SubKey.KeyType, "subkey"); err != nil {
		return err
	}
	var err error
	if c.Subkey, err = KeyFrom(r.auth.SubKey.KeyType, r.auth.SubKey.KeyValue); err != nil {
		return &Error{Code: CodeGeneric, Kind: malformed, Text: "The authenticator has a subkey that cannot be used", Err: err}
	}
	return nil
}

// flatten opens AD-IF-RELEVANT, once: what cannot be decoded is not relevant.
func flatten(elements types.AuthorizationData) []AuthData {
	var out []AuthData
	for _, e := range elements {
		if e.ADType != adIfRelevant {
			out = append(out, AuthData{e.ADType, e.ADData})
			continue
		}
		var inner types.AuthorizationData
		if read(func() error { _, err := asn1.Unmarshal(e.ADData, &inner); return err }) != nil {
			continue
		}
		for _, e := range inner {
			out = append(out, AuthData{e.ADType, e.ADData})
		}
	}
	return out
}

// checkReplay is the one step that remembers the request.
func (r *request) checkReplay(ctx context.Context) error {
	tag := replayTag(nameOf(r.tkt.CName, r.tkt.CRealm), r.auth.CTime, r.auth.Cusec, r.msg.EncryptedAuthenticator.Cipher)
	// The authenticator passes checkTimes until ctime+skew, which is 2*skew from
	// now when the client's clock runs ahead. The rest is for a skew that is
	// configured larger meanwhile, and for a clock of ours that is set back.
	until := r.now
	if ctime := r.ctime(); ctime.After(until) {
		until = ctime
	}
	seen, err := r.a.Replay.Seen(ctx, tag, until.Add(2*r.skew()))
	switch {
	case err != nil:
		return &Error{Code: CodeGeneric, Kind: unavailable, Text: "This server cannot check for replays now, try later", Err: err}
	case seen:
		return refuse(CodeRepeat, rejected, "This request was used before: it is a replay")
	}
	return nil
}

// APRep is the answer for mutual authentication, in DER (RFC 4120 section
// 5.5.2). It is encrypted under the session key, whatever subkeys there are.
// subkey and seq are left out when nil; a seq of 0 is left out too.
func (c *Context) APRep(subkey *Key, seq *uint32) (_ []byte, err error) {
	defer caught(&err)
	part := messages.EncAPRepPart{CTime: c.ctime, Cusec: c.cusec}
	if subkey != nil {
		part.Subkey = subkey.wire()
	}
	if seq != nil {
		part.SequenceNumber = int64(*seq)
	}
	return marshalAPRep(part, c.Session)
}

// VerifyChecksum checks the authenticator's checksum over data, as sendauth's
// in_data has it (key usage 10).
func (c *Context) VerifyChecksum(data []byte) bool {
	return c.Checksum != nil && c.Checksum.Type == c.Session.profile.checksumType &&
		c.Session.VerifyChecksum(usageAPReqChecksum, data, c.Checksum.Data)
}
