package remote

import (
	"crypto/tls"
	"net/netip"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/scram"
)

type op string

const (
	opHello     op = "hello"
	opPassword  op = "password"
	opSecret    op = "secret"
	opPrincipal op = "principal"
	opFind      op = "find"
	opAccept    op = "accept"
	opCheck     op = "check"
	opVerdict   op = "verdict"
	opAnswer    op = "answer"
	opCancel    op = "cancel"
)

// message is the head of a frame. Which fields there are depends on the op.
type message struct {
	Op      op      `json:"op"`
	ID      uint64  `json:"id,omitempty"`
	Version int     `json:"version,omitempty"` // hello
	Judges  []Proof `json:"judges,omitempty"`  // hello of the helper

	Left      time.Duration `json:"left,omitempty"` // to the deadline; the clock of the other side is none of ours
	Transport *transport    `json:"transport,omitempty"`
	Mechanism string        `json:"mechanism,omitempty"`
	Login     []byte        `json:"login,omitempty"`
	Scheme    string        `json:"scheme,omitempty"`
	Principal *principal    `json:"principal,omitempty"`
	Authzid   []byte        `json:"authzid,omitempty"`
	Remote    netip.Addr    `json:"remote,omitzero"`

	Context  *sessionContext `json:"context,omitempty"`  // check
	Identity *identity       `json:"identity,omitempty"` // answer, as what follows
	Steps    []step          `json:"steps,omitempty"`
	Shape    *shape          `json:"shape,omitempty"`   // of most keys of the scheme; nil when there are none
	Failure  *failure        `json:"failure,omitempty"` // of a verdict too
}

// shape is a scram.Shape.
type shape struct {
	Iterations int `json:"iterations"`
	Salt       int `json:"salt"`
}

func shapeOf(c authn.Chain, scheme string) *shape {
	if s, ok := scram.Survey(c, scheme); ok {
		return &shape{s.Iterations, s.Salt}
	}
	return nil
}

// Proof is a sort of proof that a helper can judge.
type Proof string

const (
	Passwords  Proof = "passwords"  // PLAIN, LOGIN, USER
	Secrets    Proof = "secrets"    // has those of users, for challenges
	Principals Proof = "principals" // says whose mail a ticket opens
	Tickets    Proof = "tickets"    // has a keytab
	Users      Proof = "users"      // no proof: tells of users whom others vouched for, or act for
)

// transport is what verifiers may want to know of a connection.
type transport struct {
	Listener string         `json:"listener,omitempty"`
	Session  string         `json:"session,omitempty"`
	Remote   netip.AddrPort `json:"remote,omitzero"`
	Local    netip.AddrPort `json:"local,omitzero"`
	TLS      *tlsState      `json:"tls,omitempty"`
	EndPoint []byte         `json:"end_point,omitempty"`
}

type tlsState struct {
	Version     uint16 `json:"version"`
	CipherSuite uint16 `json:"cipher_suite"`
	ServerName  []byte `json:"server_name,omitempty"`
}

func transportOf(t *authn.Transport) *transport {
	if t == nil {
		return nil
	}
	x := &transport{Listener: t.Listener, Session: t.Session, Remote: t.Remote, Local: t.Local, EndPoint: t.EndPoint}
	if s := t.TLS; s != nil {
		x.TLS = &tlsState{s.Version, s.CipherSuite, []byte(s.ServerName)}
	}
	return x
}

// restore never returns nil: a verifier may count on a transport.
func (x *transport) restore() *authn.Transport {
	if x == nil {
		return &authn.Transport{}
	}
	t := &authn.Transport{Listener: x.Listener, Session: x.Session, Remote: x.Remote, Local: x.Local, EndPoint: x.EndPoint}
	if s := x.TLS; s != nil {
		t.TLS = &tls.ConnectionState{Version: s.Version, CipherSuite: s.CipherSuite, ServerName: string(s.ServerName), HandshakeComplete: true}
	}
	return t
}

// principal is an authn.Principal.
type principal struct {
	Components [][]byte  `json:"components"`
	Realm      []byte    `json:"realm"`
	Expires    time.Time `json:"expires,omitzero"`
	Ticket     *ticket   `json:"ticket,omitempty"`
}

type ticket struct {
	Service        []byte    `json:"service"`
	Enctype        string    `json:"enctype"`
	SessionEnctype string    `json:"session_enctype"`
	KVNO           int       `json:"kvno"`
	Start          time.Time `json:"start,omitzero"`
	End            time.Time `json:"end,omitzero"`
}

func principalOf(p *authn.Principal) *principal {
	if p == nil {
		return nil
	}
	x := &principal{Realm: []byte(p.Realm), Expires: p.Expires, Components: octetsOf(p.Components)}
	if t := p.Ticket; t != nil {
		x.Ticket = &ticket{[]byte(t.Service), t.Enctype, t.SessionEnctype, t.KVNO, t.Start, t.End}
	}
	return x
}

func (x *principal) restore() *authn.Principal {
	if x == nil {
		return &authn.Principal{}
	}
	p := &authn.Principal{Realm: string(x.Realm), Expires: x.Expires, Components: stringsOf(x.Components)}
	if t := x.Ticket; t != nil {
		p.Ticket = &authn.Ticket{
			Service: string(t.Service), Enctype: t.Enctype, SessionEnctype: t.SessionEnctype, KVNO: t.KVNO, Start: t.Start, End: t.End,
		}
	}
	return p
}

// octetsOf and stringsOf make nil of nil only.
func octetsOf(list []string) [][]byte {
	if list == nil {
		return nil
	}
	out := make([][]byte, len(list))
	for i, s := range list {
		out[i] = []byte(s)
	}
	return out
}

func stringsOf(list [][]byte) []string {
	if list == nil {
		return nil
	}
	out := make([]string, len(list))
	for i, b := range list {
		out[i] = string(b)
	}
	return out
}

// identity is an authn.Identity; a test holds it to all of its fields.
type identity struct {
	User       []byte            `json:"user"`
	Authn      []byte            `json:"authn,omitempty"`
	Mechanism  string            `json:"mechanism,omitempty"`
	Step       []byte            `json:"step,omitempty"`
	Groups     [][]byte          `json:"groups"` // null and [] are not the same
	Mechanisms []string          `json:"mechanisms,omitempty"`
	For        []byte            `json:"for,omitempty"`
	Attrs      map[string][]byte `json:"attrs,omitempty"`
	Expires    time.Time         `json:"expires,omitzero"`
	Note       []byte            `json:"note,omitempty"`
}

func identityOf(id *authn.Identity) *identity {
	if id == nil {
		return nil
	}
	x := &identity{
		User: []byte(id.User), Authn: []byte(id.Authn), Mechanism: id.Mechanism, Step: []byte(id.Step), Groups: octetsOf(id.Groups),
		Mechanisms: id.Mechanisms, For: []byte(id.For), Expires: id.Expires, Note: []byte(id.Note),
	}
	for k, v := range id.Attrs {
		if x.Attrs == nil {
			x.Attrs = make(map[string][]byte, len(id.Attrs))
		}
		x.Attrs[k] = []byte(v)
	}
	return x
}

func (x *identity) restore() *authn.Identity {
	if x == nil {
		return nil
	}
	id := &authn.Identity{
		User: string(x.User), Authn: string(x.Authn), Mechanism: x.Mechanism, Step: string(x.Step), Groups: stringsOf(x.Groups),
		Mechanisms: x.Mechanisms, For: string(x.For), Expires: x.Expires, Note: string(x.Note),
	}
	for k, v := range x.Attrs {
		if id.Attrs == nil {
			id.Attrs = make(map[string]string, len(x.Attrs))
		}
		id.Attrs[k] = string(v)
	}
	return id
}

// step is an authn.StepDone.
type step struct {
	Step     []byte        `json:"step"`
	Duration time.Duration `json:"duration"`
	Failure  *failure      `json:"failure,omitempty"`
}

func stepsOf(list []authn.StepDone) []step {
	var out []step
	for _, s := range list {
		out = append(out, step{[]byte(s.Step), s.Duration, failureOf(s.Err)})
	}
	return out
}

func restoreSteps(list []step) []authn.StepDone {
	var out []authn.StepDone
	for _, s := range list {
		out = append(out, authn.StepDone{Step: string(s.Step), Duration: s.Duration, Err: s.Failure.restore()})
	}
	return out
}
