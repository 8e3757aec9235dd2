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
	format, kind := uidl.Maildir, StoreMaildir
	if m.Type == StoreMbox {
		format, kind = uidl.Mbox, StoreMbox
		if m.UIDLDuplicates == "allow" {
			p.add("maildrops.uidl_duplicates", "messages of an mbox are told apart by their unique-ids; write suffix")
		}
	}
	s, err := uidl.ByName(m.UIDL)
	switch {
	case err != nil:
		p.add("maildrops.uidl", "%v%s", err, suggest(m.UIDL, uidl.Names()))
	case s.Formats&format == 0:
		p.add("maildrops.uidl", "%s does not name messages of maildrops of type %s", m.UIDL, kind)
	}
}
