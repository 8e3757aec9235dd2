package config

import "github.com/kpopd/kpopd/maildrop/uidl"

func (p *problems) uniqueIDs(m Maildrops) {
	p.oneOf("maildrops.uidl_duplicates", m.UIDLDuplicates, "suffix", "allow")
	if m.UIDL == "" {
		if m.UIDLDuplicates != "" {
			p.add("maildrops.uidl_duplicates", "has no effect without uidl: our own unique-ids have no duplicates")
		}
		return
	}
	s, err := uidl.ByName(m.UIDL)
	switch {
	case err != nil:
		p.add("maildrops.uidl", "%v%s", err, suggest(m.UIDL, uidl.Names()))
	case s.Formats&uidl.Maildir == 0:
		p.add("maildrops.uidl", "%s names messages of an mbox, and the maildrops are of type %s", m.UIDL, StoreMaildir)
	}
}
