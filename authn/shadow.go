package authn

// Difference is where a shadow policy would have done something else.
type Difference struct {
	Policy string // the shadow's name
	Action Action // what the shadow would have done
	Rule   *Rule  // of the shadow, that decided; nil when none did
	Reason error  // why the shadow would have refused; nil when it would not
}

// difference judges the login by the shadow, on the facts that are known at its
// end. It is nil when the shadow would have done the same, when there is none,
// or when what is not known makes the difference.
func (l *Login) difference() *Difference {
	s := l.policy.Shadow
	if s == nil {
		return nil
	}
	rule, action, reason := s.would(l.facts)
	if action == actionOf(l.reason, l.ruling) {
		return nil
	}
	return &Difference{Policy: s.Name, Action: action, Rule: rule, Reason: reason}
}

// would is what p would do with a login of which f is known.
func (p *Policy) would(f Facts) (rule *Rule, action Action, reason error) {
	m := p.mechanism(f.Mechanism)
	if m == nil {
		return nil, Deny, errNotInPolicy
	}
	f = f.with(m)
	r, reason := p.permits(m, &f)
	if reason == nil && f.As != "" {
		if g := grant(p.Act, &f); g == nil || g.Action == Deny {
			return g, Deny, errNobodyElse
		}
	}
	return r.rule, actionOf(reason, r), reason
}

// actionOf is what a policy does with a login. What it would merely record is
// told apart only where nothing is open.
func actionOf(reason error, r ruling) Action {
	switch {
	case reason != nil:
		return Deny
	case r.rule != nil && r.rule.Action == Warn && !r.open:
		return Warn
	}
	return Allow
}
