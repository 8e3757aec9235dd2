package oauthbearer

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/emersion/go-sasl"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/authntest"
)

const token = "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==" // of RFC 7628 section 4.1

func fake() *authntest.Fake {
	return &authntest.Fake{Tokens: map[string]string{token: "alice", "short": "bob"}}
}

func secure() *authn.Transport { return &authn.Transport{TLS: &tls.ConnectionState{}} }

var both = []struct {
	name string
	make func(authn.Chain, Hints) authn.Mechanism
	// message of a client
	message func(login, token string) string
	dummy   string // what the client answers to the refusal
}{
	{OAUTHBEARER, Bearer, func(login, token string) string {
		if login != "" {
			login = "a=" + login
		}
		return "n," + login + ",\x01host=mail.example\x01port=995\x01auth=Bearer " + token + "\x01\x01"
	}, "\x01"},
	{XOAUTH2, Legacy, func(login, token string) string {
		return "user=" + login + "\x01auth=Bearer " + token + "\x01\x01"
	}, ""},
}

// client sends one message, at once or after an empty challenge, and answers a
// refusal.
type client struct {
	mech, message, dummy string
	late                 bool
	refusal              []byte // the challenge that came
}

func (c *client) Start() (string, []byte, error) {
	if c.late {
		return c.mech, nil, nil
	}
	return c.mech, []byte(c.message), nil
}

func (c *client) Next(challenge []byte) ([]byte, error) {
	if len(challenge) == 0 {
		return []byte(c.message), nil
	}
	c.refusal = challenge
	return []byte(c.dummy), nil
}

func TestConformance(t *testing.T) {
	t.Parallel()
	for _, m := range both {
		for _, late := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, token on a line of its own: %v", m.name, late), func(t *testing.T) {
				t.Parallel()
				use := func(token string) func(*testing.T) sasl.Client {
					return func(*testing.T) sasl.Client {
						return &client{mech: m.name, message: m.message("alice", token), dummy: m.dummy, late: late}
					}
				}
				authntest.RunMechanism(t, authntest.Case{
					Mechanism: m.make(fake().Chain(), Hints{}), Transport: *secure(), User: "alice",
					Good: use(token), Bad: use("wrong"),
				})
			})
		}
	}
}

// go-sasl's client is somebody else's reading of RFC 7628.
func TestRule164GoSASL(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		login, token string
		in           bool
	}{{"alice", token, true}, {"", token, true}, {"alice", "wrong", false}} {
		l := begin(t, Bearer(fake().Chain(), Hints{}))
		err := authntest.Converse(t.Context(), l, sasl.NewOAuthBearerClient(&sasl.OAuthBearerOptions{
			Username: tt.login, Token: tt.token, Host: "mail.example", Port: 995,
		}))
		var told *sasl.OAuthBearerError
		switch {
		case tt.in && (err != nil || l.Identity().User != "alice"):
			t.Errorf("%+v: %v", tt, err)
		case !tt.in && (!errors.As(err, &told) || told.Status != "invalid_token"):
			t.Errorf("%+v: %v", tt, err)
		}
	}
}

func begin(t *testing.T, m authn.Mechanism) *authn.Login {
	t.Helper()
	p := &authn.Policy{Name: "test", Offers: []authn.Mechanism{m}}
	l, err := p.Start(t.Context(), secure(), m.Name())
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestRule164Messages(t *testing.T) {
	t.Parallel()
	auth := "auth=Bearer " + token + "\x01"
	for _, tt := range []struct {
		name, mech, message string
		user                string
		want                authn.Kind
	}{
		{"RFC 7628 section 4.1", OAUTHBEARER, "n,a=alice,\x01host=server.example.com\x01port=143\x01" + auth + "\x01", "alice", 0},
		{"no authzid", OAUTHBEARER, "n,,\x01" + auth + "\x01", "alice", 0},
		{"the client could bind", OAUTHBEARER, "y,a=alice,\x01" + auth + "\x01", "alice", 0},
		{"scheme in lower case", OAUTHBEARER, "n,,\x01auth=bearer " + token + "\x01\x01", "alice", 0},
		{"more spaces", OAUTHBEARER, "n,,\x01auth=Bearer   " + token + "\x01\x01", "alice", 0},
		{"unknown pair", OAUTHBEARER, "n,,\x01mthd=POST\x01path=/\x01" + auth + "qs=a=b\x01\x01", "alice", 0},
		{"escapes in the name", OAUTHBEARER, "n,a=al=2Cice,\x01" + auth + "\x01", "", authn.UnknownUser},
		{"another user", OAUTHBEARER, "n,a=bob,\x01" + auth + "\x01", "", authn.Denied},
		{"no token", OAUTHBEARER, "n,a=alice,\x01host=h\x01auth=\x01\x01", "", authn.Rejected}, // RFC 7628 section 4.3
		{"empty token", OAUTHBEARER, "n,a=alice,\x01auth=Bearer \x01\x01", "", authn.Rejected},
		{"another scheme", OAUTHBEARER, "n,a=alice,\x01auth=MAC " + token + "\x01\x01", "", authn.Rejected},
		{"scheme alone", OAUTHBEARER, "n,a=alice,\x01auth=Bearer\x01\x01", "", authn.Rejected},
		{"token too long", OAUTHBEARER, "n,a=alice,\x01auth=Bearer " + strings.Repeat("x", MaxToken+1) + "\x01\x01", "", authn.Rejected},
		{"channel binding", OAUTHBEARER, "p=tls-exporter,,\x01" + auth + "\x01", "", authn.Malformed},
		{"no header", OAUTHBEARER, auth + "\x01", "", authn.Malformed},
		{"header with one comma", OAUTHBEARER, "n,\x01" + auth + "\x01", "", authn.Malformed},
		{"header with three commas", OAUTHBEARER, "n,a=b,c,\x01" + auth + "\x01", "", authn.Malformed},
		{"name without a=", OAUTHBEARER, "n,alice,\x01" + auth + "\x01", "", authn.Malformed},
		{"empty name", OAUTHBEARER, "n,a=,\x01" + auth + "\x01", "", authn.Malformed},
		{"name with a bare equals sign", OAUTHBEARER, "n,a=al=ice,\x01" + auth + "\x01", "", authn.Malformed},
		{"name with another escape", OAUTHBEARER, "n,a=al=2cice,\x01" + auth + "\x01", "", authn.Malformed},
		{"name with a NUL", OAUTHBEARER, "n,a=alice\x00,\x01" + auth + "\x01", "", authn.Malformed},
		{"name that is no UTF-8", OAUTHBEARER, "n,a=\xff,\x01" + auth + "\x01", "", authn.Malformed},
		{"two tokens", OAUTHBEARER, "n,,\x01" + auth + auth + "\x01", "", authn.Malformed},
		{"no auth", OAUTHBEARER, "n,,\x01host=h\x01\x01", "", authn.Malformed},
		{"no pairs", OAUTHBEARER, "n,,\x01\x01", "", authn.Malformed},
		{"the dummy first", OAUTHBEARER, "\x01", "", authn.Malformed},
		{"nothing", OAUTHBEARER, "", "", authn.Malformed},
		{"no end", OAUTHBEARER, "n,,\x01" + auth, "", authn.Malformed},
		{"pair without an end", OAUTHBEARER, "n,,\x01" + strings.TrimSuffix(auth, "\x01"), "", authn.Malformed},
		{"data after the end", OAUTHBEARER, "n,,\x01" + auth + "\x01x", "", authn.Malformed},
		{"key with a digit", OAUTHBEARER, "n,,\x01a1=x\x01" + auth + "\x01", "", authn.Malformed},
		{"pair without a key", OAUTHBEARER, "n,,\x01=x\x01" + auth + "\x01", "", authn.Malformed},
		{"token with a space", OAUTHBEARER, "n,,\x01auth=Bearer a b\x01\x01", "", authn.Malformed},
		{"token with a line end", OAUTHBEARER, "n,,\x01auth=Bearer a\r\nb\x01\x01", "", authn.Malformed},
		{"message of XOAUTH2", OAUTHBEARER, "user=alice\x01" + auth + "\x01", "", authn.Malformed},

		{"as Google and Microsoft write it", XOAUTH2, "user=alice\x01" + auth + "\x01", "alice", 0},
		{"another user", XOAUTH2, "user=bob\x01" + auth + "\x01", "", authn.Denied},
		{"no login", XOAUTH2, "user=a b\x01" + auth + "\x01", "", authn.UnknownUser},
		{"empty token", XOAUTH2, "user=alice\x01auth=Bearer \x01\x01", "", authn.Rejected},
		{"no user", XOAUTH2, auth + "\x01", "", authn.Malformed},
		{"empty user", XOAUTH2, "user=\x01" + auth + "\x01", "", authn.Malformed},
		{"user with a NUL", XOAUTH2, "user=a\x00\x01" + auth + "\x01", "", authn.Malformed},
		{"two users", XOAUTH2, "user=alice\x01user=bob\x01" + auth + "\x01", "", authn.Malformed},
		{"one ^A at the end", XOAUTH2, "user=alice\x01" + auth, "", authn.Malformed},
		{"message of OAUTHBEARER", XOAUTH2, "n,a=alice,\x01" + auth + "\x01", "", authn.Malformed},
	} {
		t.Run(tt.mech+": "+tt.name, func(t *testing.T) {
			t.Parallel()
			m, dummy := Bearer, "\x01"
			if tt.mech == XOAUTH2 {
				m, dummy = Legacy, ""
			}
			l := begin(t, m(fake().Chain(), Hints{}))
			c := &client{mech: tt.mech, message: tt.message, dummy: dummy}
			err := authntest.Converse(t.Context(), l, c)
			if (err == nil) != (tt.user != "") || err != nil && authn.KindOf(err) != tt.want {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			if err == nil && l.Identity().User != tt.user {
				t.Errorf("got in as %s", l.Identity().User)
			}
			if asked := c.refusal != nil; asked != (err != nil && tt.want != authn.Malformed) {
				t.Errorf("challenged with %q", c.refusal)
			}
		})
	}
}

// What a refused client is told, and that whatever it answers ends the exchange
// with the refusal: go-sasl's server panics at an empty answer.
func TestRule164Refusal(t *testing.T) {
	t.Parallel()
	hints := Hints{Scope: "mail.read", Config: "https://sso.example/.well-known/openid-configuration"}
	told := map[string]string{
		OAUTHBEARER: `{"status":"invalid_token","scope":"mail.read","openid-configuration":"https://sso.example/.well-known/openid-configuration"}`,
		XOAUTH2:     `{"status":"401","schemes":"bearer","scope":"mail.read"}`,
	}
	for _, m := range both {
		for _, answer := range [][]byte{nil, {}, {1}, {0}, []byte(m.message("alice", token)), bytes.Repeat([]byte{1}, 1<<16)} {
			mech := m.make(fake().Chain(), hints)
			var r authntest.Recorder
			p := &authn.Policy{Name: "test", Offers: []authn.Mechanism{mech}, Trace: r.Trace()}
			l, err := p.Start(t.Context(), secure(), m.name)
			if err != nil {
				t.Fatal(err)
			}
			challenge, done, err := l.Next(t.Context(), []byte(m.message("alice", "wrong")))
			if done || err != nil || string(challenge) != told[m.name] || !json.Valid(challenge) {
				t.Fatalf("%s: %s, %v, %v", m.name, challenge, done, err)
			}
			_, done, err = l.Next(t.Context(), answer)
			if done || authn.KindOf(err) != authn.Rejected || len(r.Attempts) != 1 || authn.KindOf(r.Attempts[0].Err) != authn.Rejected {
				t.Errorf("%s: after %.20q: %v, %v, %d attempts", m.name, answer, done, err, len(r.Attempts))
			}
		}
	}
	for _, m := range both {
		challenge, _, _ := begin(t, m.make(fake().Chain(), Hints{})).Next(t.Context(), []byte(m.message("alice", "wrong")))
		if strings.Contains(string(challenge), "scope") || strings.Contains(string(challenge), "openid") {
			t.Errorf("%s without hints: %s", m.name, challenge)
		}
	}
}

// A refusal stays one when the client cancels, so that nobody guesses uncounted.
func TestRule164CancelledRefusal(t *testing.T) {
	t.Parallel()
	for _, m := range both {
		var r authntest.Recorder
		p := &authn.Policy{Name: "test", Offers: []authn.Mechanism{m.make(fake().Chain(), Hints{})}, Trace: r.Trace()}
		l, err := p.Start(t.Context(), secure(), m.name)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := l.Next(t.Context(), []byte(m.message("alice", "wrong"))); err != nil {
			t.Fatal(err)
		}
		refused := l.Abort(t.Context(), &authn.Error{Kind: authn.Cancelled, Step: m.name})
		if authn.KindOf(refused) != authn.Rejected || len(r.Attempts) != 1 || authn.KindOf(r.Attempts[0].Err) != authn.Rejected {
			t.Errorf("%s: %v, traced %+v", m.name, refused, r.Attempts)
		}
	}
}

// A client that hears "invalid_token" throws its token away: an outage never
// says so.
func TestRule147OutageIsNoRefusal(t *testing.T) {
	t.Parallel()
	for _, kind := range []authn.Kind{authn.Unavailable, authn.Internal, authn.Throttled} {
		for _, m := range both {
			f := &authntest.Fake{Err: &authn.Error{Kind: kind, Step: "fake", Err: errors.New("connection refused")}}
			challenge, done, err := begin(t, m.make(f.Chain(), Hints{})).Next(t.Context(), []byte(m.message("alice", token)))
			if challenge != nil || done || err == nil || authn.KindOf(err) != kind {
				t.Errorf("%s, %v: %q, %v, %v", m.name, kind, challenge, done, err)
			}
		}
	}
}

func TestRule164NeedsTLS(t *testing.T) {
	t.Parallel()
	for _, m := range both {
		p := &authn.Policy{
			Offers: []authn.Mechanism{m.make(fake().Chain(), Hints{})}, BeforeTLS: []string{m.name},
			Plain: authn.PlainTrusted, Trusted: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")},
		}
		clear := &authn.Transport{Remote: netip.MustParseAddrPort("127.0.0.1:1")}
		if ms := p.Mechanisms(clear); len(ms) > 0 {
			t.Errorf("%s is offered in the clear", m.name)
		}
		if _, err := p.Start(t.Context(), clear, m.name); authn.KindOf(err) != authn.Denied {
			t.Errorf("%s: %v", m.name, err)
		}
	}
}

func TestTooLongIsNotAsked(t *testing.T) {
	t.Parallel()
	f := fake()
	_, _, _ = begin(t, Bearer(f.Chain(), Hints{})).Next(t.Context(), []byte(both[0].message("alice", strings.Repeat("x", MaxToken+1))))
	if n := f.Asked.Load(); n != 0 {
		t.Errorf("asked %d times", n)
	}
}

// keeper keeps the token that it was shown.
type keeper struct{ token authn.Password }

func (*keeper) Name() string { return "keeper" }

func (k *keeper) VerifyToken(_ context.Context, r *authn.TokenRequest) (*authn.Identity, error) {
	k.token = r.Token
	return &authn.Identity{User: "alice"}, nil
}

func TestTokenIsWiped(t *testing.T) {
	t.Parallel()
	for _, m := range both {
		k := &keeper{}
		response := []byte(m.message("alice", token))
		_, done, err := begin(t, m.make(authn.Chain{{Verifier: k}}, Hints{})).Next(t.Context(), response)
		if !done || err != nil || len(k.token) != len(token) || strings.Trim(string(k.token), "\x00") != "" {
			t.Errorf("%s: %v, %v", m.name, done, err)
		}
		if string(response) != m.message("alice", token) {
			t.Errorf("%s changed the response", m.name)
		}
	}
}

// What is read out of a message makes, put together, a message that reads the
// same, and no token has what a header or a form could take for its own.
func FuzzMessage(f *testing.F) {
	for _, m := range both {
		f.Add([]byte(m.message("alice", token)))
		f.Add([]byte(m.message("", "")))
	}
	f.Add([]byte("n,a=al=2Cice=3D,\x01auth=bearer  x\x01\x01"))
	f.Add([]byte("\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, m := range both {
			parse := m.make(nil, Hints{}).(*mechanism).parse
			got, err := parse(b)
			if err != nil {
				continue
			}
			if bytes.ContainsAny(got.token, " \r\n\x00\x01&:,") || bytes.IndexByte([]byte(got.login), 0) >= 0 {
				t.Fatalf("%q has login %q and token %q", b, got.login, got.token)
			}
			login := got.login
			if m.name == OAUTHBEARER {
				login = strings.NewReplacer(",", "=2C", "=", "=3D").Replace(login)
			}
			again, err := parse([]byte(m.message(login, string(got.token))))
			if err != nil || again.login != got.login || !bytes.Equal(again.token, got.token) {
				t.Errorf("%q was read as %q and %q, that as %q and %q, %v", b, got.login, got.token, again.login, again.token, err)
			}
		}
	})
}

func BenchmarkLogin(b *testing.B) {
	for _, m := range both {
		b.Run(m.name, func(b *testing.B) {
			p := &authn.Policy{Offers: []authn.Mechanism{m.make(fake().Chain(), Hints{})}}
			message := []byte(m.message("alice", token))
			b.ReportAllocs()
			for b.Loop() {
				l, err := p.Start(b.Context(), secure(), m.name)
				if err != nil {
					b.Fatal(err)
				}
				if _, done, err := l.Next(b.Context(), message); !done {
					b.Fatal(err)
				}
			}
		})
	}
}
