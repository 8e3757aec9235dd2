package peers

import (
	"strings"
	"sync"
	"testing"

	"github.com/kpopd/kpopd/authn/oidc/oidctest"
)

// signingKey and curveKey are the issuer's, shared by all tests.
var (
	signingKey = sync.OnceValue(func() *oidctest.Key { return oidctest.NewKey("peers", "RS256") })
	curveKey   = sync.OnceValue(func() *oidctest.Key { return oidctest.NewKey("peers-curve", "ES256") })
)

// tokenClients log in with bearer tokens.
var tokenClients = []client{
	curl("OAUTHBEARER after STLS", "sso", "pop3", "--ssl-reqd", "--login-options", "AUTH=OAUTHBEARER", "-u", "USER", "--oauth2-bearer", "PASSWORD"),
	curl("XOAUTH2 after STLS", "sso", "pop3", "--ssl-reqd", "--login-options", "AUTH=XOAUTH2", "-u", "USER", "--oauth2-bearer", "PASSWORD"),
	curl("OAUTHBEARER with initial response", "ssos", "pop3s", "--sasl-ir", "--login-options", "AUTH=OAUTHBEARER", "-u", "USER", "--oauth2-bearer", "PASSWORD"),
	curl("XOAUTH2 with initial response", "ssos", "pop3s", "--sasl-ir", "--login-options", "AUTH=XOAUTH2", "-u", "USER", "--oauth2-bearer", "PASSWORD"),
	mpop("OAUTHBEARER", "sso", "auth oauthbearer", "tls on", "tls_starttls on"),
	mpop("XOAUTH2", "ssos", "auth xoauth2", "tls on", "tls_starttls off"),
	python("OAUTHBEARER", "sso"),
	python("XOAUTH2", "sso"),
}

func TestTokenClients(t *testing.T) {
	t.Parallel()
	for _, c := range tokenClients {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.need(t)
			srv := start(t, inProcess.realm(t).keytab, "")
			mail := carried(c.maxLine, c.rare...)
			srv.deliver(t, "alice", mail)

			begin := func(key *oidctest.Key, changes map[string]any) *session {
				s := srv.session(t, c.door, nil)
				s.user, s.password = "alice", key.Sign(oidctest.Claims("https://sso.test", changes))
				return s
			}
			wantMail(begin(signingKey(), nil), c, mail)
			wantMail(begin(curveKey(), nil), c, mail)
			// for somebody else: curl and mpop show words of their own
			s := begin(curveKey(), map[string]any{"preferred_username": "bob"})
			if _, got := c.fetch(s); s.well || len(got) > 0 {
				t.Errorf("with the token of another user it ends well (%v) and has %d octets", s.well, len(got))
			}
			srv.line(t, " msg=login kind=denied ")
			if strings.Contains(srv.said(), s.password[:60]) {
				t.Error("a token is in the log")
			}
		})
	}
}
