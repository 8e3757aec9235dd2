package cram

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/emersion/go-sasl"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/authntest"
)

func digest(challenge, secret string) string {
	mac := hmac.New(md5.New, []byte(secret))
	mac.Write([]byte(challenge))
	return hex.EncodeToString(mac.Sum(nil))
}

// client answers a challenge with a line made of it.
type client func(challenge string) string

func (c client) Start() (string, []byte, error)        { return name, nil, nil }
func (c client) Next(challenge []byte) ([]byte, error) { return []byte(c(string(challenge))), nil }

func secrets() *authntest.Fake {
	return &authntest.Fake{Secrets: map[string]map[string]string{
		"CRAM-MD5": {"tim": "tanstaaftanstaaf", "ümit": "s", "long": strings.Repeat("k", 100)},
		"APOP":     {"apop-only": "s"},
	}}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	authntest.RunMechanism(t, authntest.Case{
		Mechanism: New(secrets().Chain(), "mail.example"), User: "tim",
		Good: func(*testing.T) sasl.Client {
			return client(func(c string) string { return "tim " + digest(c, "tanstaaftanstaaf") })
		},
		Bad: func(*testing.T) sasl.Client {
			return client(func(c string) string { return "tim " + digest(c, "tanstaaf") })
		},
	})
}

// The exchange of RFC 2195 section 2, from the challenge on.
func TestRule159ExampleOfTheRFC(t *testing.T) {
	t.Parallel()
	m := &mechanism{chain: secrets().Chain(), hostname: "postoffice.reston.mci.net"}
	e := &exchange{m: m, challenge: []byte("<1896.697170952@postoffice.reston.mci.net>")}
	_, done, err := e.Next(t.Context(), []byte("tim b913a602c7eda7a495b4e6e7334d3890"))
	if !done || err != nil || e.Identity().User != "tim" {
		t.Errorf("got %v, %v", done, err)
	}
}

func TestRule159CRAM(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		answer client
		user   string
		want   authn.Kind
	}{
		{"right digest", func(c string) string { return "tim " + digest(c, "tanstaaftanstaaf") }, "tim", 0},
		{"secret longer than a block of MD5", func(c string) string { return "long " + digest(c, strings.Repeat("k", 100)) }, "long", 0},
		{"name in another form of Unicode", func(c string) string { return "u\u0308mit " + digest(c, "s") }, "ümit", 0},
		{"split at the last space", func(c string) string { return "tim x " + digest(c, "tanstaaftanstaaf") }, "", authn.UnknownUser},
		{"wrong secret", func(c string) string { return "tim " + digest(c, "x") }, "", authn.Rejected},
		{"digest of another challenge", func(string) string { return "tim " + digest("<1.2@h>", "tanstaaftanstaaf") }, "", authn.Rejected},
		{"unknown user", func(c string) string { return "nobody " + digest(c, "s") }, "", authn.UnknownUser},
		{"unknown user with an empty key", func(c string) string { return "nobody " + digest(c, "") }, "", authn.UnknownUser},
		{"secret of another mechanism", func(c string) string { return "apop-only " + digest(c, "s") }, "", authn.UnknownUser},
		{"upper case digits", func(c string) string { return "tim " + strings.ToUpper(digest(c, "tanstaaftanstaaf")) }, "", authn.Malformed},
		{"no space", func(c string) string { return digest(c, "x") }, "", authn.Malformed},
		{"no name", func(c string) string { return " " + digest(c, "x") }, "", authn.UnknownUser},
		{"31 digits", func(c string) string { return "tim " + digest(c, "x")[1:] }, "", authn.Malformed},
		{"not hexadecimal", func(c string) string { return "tim g" + digest(c, "x")[1:] }, "", authn.Malformed},
		{"space at the end", func(c string) string { return "tim " + digest(c, "x") + " " }, "", authn.Malformed},
		{"nothing", func(string) string { return "" }, "", authn.Malformed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := &authn.Policy{Offers: []authn.Mechanism{New(secrets().Chain(), "")}}
			l, err := p.Start(t.Context(), &authn.Transport{}, name)
			if err != nil {
				t.Fatal(err)
			}
			err = authntest.Converse(t.Context(), l, tt.answer)
			if (err == nil) != (tt.user != "") || err != nil && authn.KindOf(err) != tt.want {
				t.Fatalf("got %v", err)
			}
			if err == nil && l.Identity().User != tt.user {
				t.Errorf("got %s", l.Identity().User)
			}
			var e *authn.Error
			if errors.As(err, &e) && e.Text != "" { // rule 141
				t.Errorf("the client is told %q", e.Text)
			}
		})
	}
}

func TestRule159Challenge(t *testing.T) {
	t.Parallel()
	// mpop refuses '=', ':' and '!' in it, Perl's Mail::Box wants digits
	// and the clock, which stands still in the bubble, does not make it new
	synctest.Test(t, testChallenges)
}

func testChallenges(t *testing.T) {
	form := regexp.MustCompile(`^<[0-9]+\.[0-9]+@mail\.example>$`)
	seen := make(map[string]bool)
	for range 1000 {
		ex, err := New(nil, "mail.example").Start(t.Context(), &authn.Transport{})
		if err != nil {
			t.Fatal(err)
		}
		c, done, err := ex.Next(t.Context(), nil)
		if done || err != nil || !form.Match(c) || seen[string(c)] {
			t.Fatalf("got %q, %v, %v (seen before: %v)", c, done, err, seen[string(c)])
		}
		seen[string(c)] = true
	}
}

func TestRule127NoInitialResponse(t *testing.T) {
	t.Parallel()
	for _, ir := range [][]byte{{}, []byte("tim x")} {
		ex, err := New(secrets().Chain(), "h").Start(t.Context(), &authn.Transport{})
		if err != nil {
			t.Fatal(err)
		}
		if _, done, err := ex.Next(t.Context(), ir); done || authn.KindOf(err) != authn.Malformed {
			t.Errorf("%q: %v, %v", ir, done, err)
		}
	}
}

func TestRule147OutageIsNoRefusal(t *testing.T) {
	t.Parallel()
	f := &authntest.Fake{Err: &authn.Error{Kind: authn.Unavailable, Step: "fake", Err: errors.New("connection refused")}}
	p := &authn.Policy{Offers: []authn.Mechanism{New(f.Chain(), "h")}}
	l, err := p.Start(t.Context(), &authn.Transport{}, name)
	if err != nil {
		t.Fatal(err)
	}
	err = authntest.Converse(t.Context(), l, client(func(c string) string { return "tim " + digest(c, "x") }))
	if authn.KindOf(err) != authn.Unavailable {
		t.Errorf("got %v", err)
	}
}

type source struct{ secret authn.Password }

func (source) Name() string { return "source" }

func (s source) Secret(context.Context, string, string) (authn.Password, *authn.Identity, error) {
	return s.secret, &authn.Identity{User: "a"}, nil
}

func TestSecretIsWiped(t *testing.T) {
	t.Parallel()
	for _, secret := range []string{"right", "wrong"} {
		s := source{authn.Password("right")}
		p := &authn.Policy{Offers: []authn.Mechanism{New(authn.Chain{{Verifier: s}}, "h")}}
		l, err := p.Start(t.Context(), &authn.Transport{}, name)
		if err != nil {
			t.Fatal(err)
		}
		err = authntest.Converse(t.Context(), l, client(func(c string) string { return "a " + digest(c, secret) }))
		if (err == nil) != (secret == "right") || strings.Trim(string(s.secret), "\x00") != "" {
			t.Errorf("%s: %v, %d octets of the secret", secret, err, len(s.secret))
		}
	}
}

func FuzzResponse(f *testing.F) {
	for _, s := range []string{"tim b913a602c7eda7a495b4e6e7334d3890", "a b b913a602c7eda7a495b4e6e7334d3890", " ", "tim ", "tim B913A602C7EDA7A495B4E6E7334D3890"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		login, sum, err := split(b)
		if err != nil {
			return
		}
		// what was taken apart is what was there
		if again := login + " " + hex.EncodeToString(sum); !bytes.Equal([]byte(again), b) {
			t.Errorf("%q was read as %q", b, again)
		}
	})
}

func BenchmarkLogin(b *testing.B) {
	p := &authn.Policy{Offers: []authn.Mechanism{New(secrets().Chain(), "mail.example")}}
	answer := client(func(c string) string { return "tim " + digest(c, "tanstaaftanstaaf") })
	b.ReportAllocs()
	for b.Loop() {
		l, err := p.Start(b.Context(), &authn.Transport{}, name)
		if err != nil {
			b.Fatal(err)
		}
		if err := authntest.Converse(b.Context(), l, answer); err != nil {
			b.Fatal(err)
		}
	}
}
