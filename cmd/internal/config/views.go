package config

import (
	"fmt"
	"time"

	"github.com/kpopd/kpopd/authn"
)

// Views says what a login can ask for beside whose mail it wants: a folder, a
// part, the envelope. All of it is off when empty. Rules, users files and maps know
// the user alone; the log says view=.
type Views struct {
	Folders   string        `mapstructure:"folders"`   // character between user and folder, usually "+": "alice+Sent", "alice+Lists/kpopd"; no folders when empty. Users whose names have it cannot log in
	Recent    time.Duration `mapstructure:"recent"`    // "recent:alice" sees what arrived so lately, as often as she asks: 720h for 30 days; no such login when zero
	Envelopes bool          `mapstructure:"envelopes"` // answer *ENV with sender and recipient, as fetchmail's protocol sdps asks
	Hosts     []Host        `mapstructure:"hosts"`     // users whose maildrops hold all mail of a domain
}

// Host is a user whose maildrop holds all mail of a domain. "alice+physics" and
// "alice@physics" log in with his password and see what is for alice, by the
// X-Original-To, Envelope-To or Delivered-To that the deliverer wrote on top.
type Host struct {
	User    string   `mapstructure:"user"`    // login name, in the spelling that names make of it
	Domains []string `mapstructure:"domains"` // whose mail it is; logins may have them too, "alice@physics.example.org"
}

// Addresses are those of a local part at the host of a user.
func (v Views) Addresses(user, local string) []string {
	var all []string
	for _, h := range v.Hosts {
		for _, d := range h.Domains {
			if h.User == user {
				all = append(all, local+"@"+d)
			}
		}
	}
	return all
}

// LoginNames are names and views as a policy takes them, nil when every spelling is
// a user of its own.
func (c *Config) LoginNames() *authn.Names {
	n, v := c.Names, c.Views
	r := &authn.Names{FoldCase: n.FoldCase, DefaultDomain: n.DefaultDomain, StripDomains: n.StripDomains}
	r.Views = authn.Views{Folders: v.Folders, Recent: v.Recent > 0}
	for _, h := range v.Hosts {
		r.Views.Hosts = append(r.Views.Hosts, authn.Host{User: h.User, Domains: h.Domains})
	}
	if !r.FoldCase && r.DefaultDomain == "" && len(r.StripDomains) == 0 && !r.Views.Any() {
		return nil
	}
	return r
}

func (p *problems) views(v Views) {
	if p.c.Maildrops.Type == StoreMbox {
		for key, set := range map[string]bool{"folders": v.Folders != "", "recent": v.Recent > 0} {
			if set {
				p.add("views."+key, "spool files have no folders, and do not say when a message came; remove it, or set maildrops.type: %s", StoreMaildir)
			}
		}
	}
	if v.Recent < 0 || v.Recent > 0 && v.Recent < time.Hour {
		p.add("views.recent", "%v is out of range; 1h at least, 720h is usual, zero for none", v.Recent)
	}
	for i, h := range v.Hosts {
		at := fmt.Sprintf("views.hosts[%d]", i)
		p.need(at+".user", h.User, "the user whose maildrop it is")
		if len(h.Domains) == 0 {
			p.add(at+".domains", "missing; list the domains whose mail it is")
		}
	}
}
