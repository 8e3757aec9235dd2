package oidc

// closeIdle ends what a verifier's connections wait with.
func closeIdle(v *Verifier) { v.web.CloseIdleConnections() }
