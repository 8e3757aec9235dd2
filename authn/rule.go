package authn

import (
	"net/netip"
	"slices"
	"time"
)

// Action is what a rule does with a login that it matches.
type Action uint8

const (
	Deny  Action = iota // the zero value is the safe one
	Allow               //
	Warn                // allow, and record which rule did
)

var actions = [...]string{"deny", "allow", "warn"}

func (a Action) String() string { return actions[a] }

// Rule is one line of a policy. It matches when all of its conditions hold; one
// that is empty always does, and a list holds when one of its entries does.
type Rule struct {
	Source string // where it stands, "kpopd.yaml:12"
	Action Action
	Text   string // for a client that is denied, one ASCII line; "" means a text that tells nothing

	Listeners   []string       // names of listeners
	Networks    []netip.Prefix // of clients
	TLS         []uint16       // versions of crypto/tls; 0 is no TLS
	Certificate Option         // of the client, that an authority of the listener vouches for
	Mechanisms  []string       //
	Users       []string       // who proved himself
	Groups      []string       // that the verifier has him in
	Realms      []string       // of the principal that a ticket proved
	Enctypes    []string       // of the ticket
	Binding     Option         // channel binding that the proof was made with
	Times       []Window       //
	Sunset      *Sunset        // when the rule comes into force

	As []string // whom the login asks to act for, "*" for anybody; of rules in Policy.Act
}

// Option is a condition on something that is there or not.
type Option uint8

const (
	Either Option = iota
	Present
	Absent
)

// Fact is a set of things that rules look at.
type Fact uint16

const (
	ListenerFact Fact = 1 << iota
	NetworkFact
	TLSFact // version and certificate
	MechanismFact
	TimeFact
	UserFact
	GroupsFact
	RealmFact
	EnctypeFact
	BindingFact

	afterLogin = UserFact | GroupsFact | RealmFact | EnctypeFact | BindingFact
)

// Facts are what is known of a login.
type Facts struct {
	Transport   *Transport
	Mechanism   string
	Time        time.Time // the earliest that it can be, when it is open
	User        string
	Groups      []string
	Principal   *Principal // of the ticket; nil when there is none
	Certificate bool       // an authority vouches for the one that the client showed in TLS
	Bound       bool       // the proof was bound to the TLS connection
	As          string     // whom the client asks to act for
	Open        Fact       // not known yet: a condition on it may hold or not
}

// Before is what is known of a connection on which nobody has logged in.
func Before(t *Transport, now time.Time) Facts {
	f := Facts{Transport: t, Time: now, Certificate: t.Client.trusted(), Open: afterLogin}
	if t.Peer != nil {
		f.Principal = t.Peer
		f.Open &^= RealmFact | EnctypeFact
	}
	return f
}

// with returns f for a login by m: what m never brings is known to be absent,
// what it always does to be there.
func (f Facts) with(m Mechanism) Facts {
	f.Mechanism = m.Name()
	switch tr := m.Traits(); {
	case tr&(Plaintext|NeedsStamp) != 0:
		f.Principal, f.Bound = nil, false
		f.Open &^= RealmFact | EnctypeFact | BindingFact
	case tr&NeedsBinding != 0:
		f.Bound = true
		f.Open &^= BindingFact
	case tr&NeedsPeer != 0 || f.Transport.TLS == nil && f.Open&TLSFact == 0:
		f.Bound = false
		f.Open &^= BindingFact
	}
	return f
}

// truth is the answer to whether something holds, of which not all is known.
// The lesser of two is their conjunction.
type truth uint8

const (
	never truth = iota
	possibly
	certainly
)

// match reports whether all conditions of r hold.
func (r *Rule) match(f *Facts) truth {
	c := conjunction{f.Open, certainly}
	t := f.Transport
	c.add(ListenerFact, len(r.Listeners) > 0, slices.Contains(r.Listeners, t.Listener))
	c.add(NetworkFact, len(r.Networks) > 0, inside(r.Networks, t.Remote.Addr()))
	c.add(TLSFact, len(r.TLS) > 0, slices.Contains(r.TLS, version(t)))
	c.add(TLSFact, r.Certificate != Either, r.Certificate.holds(f.Certificate))
	c.add(MechanismFact, len(r.Mechanisms) > 0, slices.Contains(r.Mechanisms, f.Mechanism))
	c.add(UserFact, len(r.Users) > 0, slices.Contains(r.Users, f.User))
	c.add(GroupsFact, len(r.Groups) > 0, overlap(r.Groups, f.Groups))
	c.add(RealmFact, len(r.Realms) > 0, f.Principal != nil && slices.Contains(r.Realms, f.Principal.Realm))
	c.add(EnctypeFact, len(r.Enctypes) > 0, f.Principal != nil && f.Principal.Ticket != nil && slices.Contains(r.Enctypes, f.Principal.Ticket.Enctype))
	c.add(BindingFact, r.Binding != Either, r.Binding.holds(f.Bound))
	c.add(TimeFact, len(r.Times) > 0, within(r.Times, f.Time))
	c.add(0, len(r.As) > 0, slices.Contains(r.As, f.As) || slices.Contains(r.As, "*"))
	if r.Sunset != nil && c.t != never {
		c.t = min(c.t, r.Sunset.due(f))
	}
	return c.t
}

// conjunction gathers conditions, of which some may be about open facts.
type conjunction struct {
	open Fact
	t    truth
}

func (c *conjunction) add(about Fact, asked, holds bool) {
	switch {
	case !asked:
	case c.open&about != 0:
		c.t = min(c.t, possibly)
	case !holds:
		c.t = never
	}
}

func (o Option) holds(there bool) bool { return there == (o == Present) }

func version(t *Transport) uint16 {
	if t.TLS == nil {
		return 0
	}
	return t.TLS.Version
}

func inside(networks []netip.Prefix, a netip.Addr) bool {
	a = a.Unmap()
	for _, n := range networks {
		if n.Contains(a) {
			return true
		}
	}
	return false
}

func overlap(a, b []string) bool {
	for _, x := range a {
		if slices.Contains(b, x) {
			return true
		}
	}
	return false
}

func within(windows []Window, t time.Time) bool {
	for _, w := range windows {
		if w.Contains(t) {
			return true
		}
	}
	return false
}

// ruling is what a list of rules makes of a login.
type ruling struct {
	rule    *Rule // that decides unless one before it does; nil when none is left to
	allowed bool  // a way to be let in is left
	open    bool  // another outcome is left too
}

// judge asks rules in order. The first that matches decides, and who meets none
// is allowed. One that may match neither lets in nor keeps out: it is noted
// that it might, and the next is asked.
func judge(rules []*Rule, f *Facts) ruling {
	var mayAllow, mayDeny bool
	for _, r := range rules {
		switch denies := r.Action == Deny; r.match(f) {
		case certainly:
			return ruling{r, !denies || mayAllow, mayAllow && denies || mayDeny && !denies}
		case possibly:
			mayAllow, mayDeny = mayAllow || !denies, mayDeny || denies
		}
	}
	return ruling{nil, true, mayDeny}
}

// openRules are those that may decide before the one that does.
func openRules(rules []*Rule, f *Facts) []*Rule {
	var open []*Rule
	for _, r := range rules {
		switch r.match(f) {
		case certainly:
			return open
		case possibly:
			open = append(open, r)
		}
	}
	return open
}

// ahead is the first rule that will refuse the login when its sunset has come.
func ahead(rules []*Rule, f *Facts) *Rule {
	for _, r := range rules {
		if r.Sunset == nil {
			if r.match(f) == certainly {
				return nil // decides whatever comes
			}
			continue
		}
		due := *f
		due.Time = r.Sunset.Date
		if len(r.Times) == 0 && r.Action == Deny && r.match(&due) == certainly {
			return r
		}
	}
	return nil
}
