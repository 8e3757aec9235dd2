package pop3_test

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/emersion/go-sasl"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/maildrop"
	"github.com/kpopd/kpopd/pop3/client"
)

// Rules of the AUTHORIZATION state.

func TestRule023_QuitBeforeLogin(t *testing.T) {
	play(t, "rule023-*.txt")
	w := newWorld()
	w.store.Deliver("alice", "Subject: one\n\n")
	w.play(t, "S~ .*\nC+ USER alice | DELE 1 | QUIT\nS~ \\+OK .*\nS~ -ERR .*\nS~ \\+OK .*\nE:")
	if n, free := w.free(t, "alice"); n != 1 || !free || w.opened.Load() != 0 || w.committed.Load() != 0 {
		t.Errorf("%d messages, free %t, %d opened, %d committed", n, free, w.opened.Load(), w.committed.Load())
	}
}

// A name alone opens nothing.
func TestRule024_UserOpensNothing(t *testing.T) {
	t.Parallel()
	w := newWorld()
	c := w.dial(t)
	if _, err := c.Cmd(t.Context(), "USER alice"); err != nil {
		t.Fatal(err)
	}
	if _, free := w.free(t, "alice"); !free || w.opened.Load() != 0 {
		t.Errorf("free %t, %d opened", free, w.opened.Load())
	}
}

func TestRule025_NoEnumeration(t *testing.T) { play(t, "rule025-*.txt") }
func TestRule026_PassNeedsUser(t *testing.T) { play(t, "rule026-*.txt") }

func TestRule027_SpacesInPasswords(t *testing.T) { play(t, "rule027-*.txt") }

// The 40 octets that RFC 1939 allows an argument are history (RFC 2449 section
// 4): a line of 255 is taken with a name as with a password.
func TestRule028_LongNames(t *testing.T) {
	t.Parallel()
	w := newWorld()
	c := w.dial(t)
	name := strings.Repeat("n", 255-len("USER \r\n"))
	var se *client.ServerError
	if err := c.UserPass(t.Context(), name, strings.Repeat("p", 255-len("PASS \r\n"))); !errors.As(err, &se) || se.Code != "AUTH" {
		t.Errorf("got %v, want a refusal of the login", err)
	}
	if !slices.Equal(w.people.logins, []string{name}) {
		t.Errorf("the chain was asked for %q", w.people.logins)
	}
}

func TestRule029_LoginAgain(t *testing.T) { play(t, "rule029-*.txt") }

// The lock is had before +OK, whatever the client logged in with.
func TestRule030_LockBeforeOK(t *testing.T) {
	t.Parallel()
	for name, login := range map[string]func(context.Context, *client.Client) (user string, err error){
		"PASS": func(ctx context.Context, c *client.Client) (string, error) {
			return "alice", c.UserPass(ctx, "alice", "open sesame")
		},
		"APOP": func(ctx context.Context, c *client.Client) (string, error) {
			return "mrose", c.Apop(ctx, "mrose", "tanstaaf")
		},
		"AUTH": func(ctx context.Context, c *client.Client) (string, error) {
			return "bob", c.Auth(ctx, sasl.NewPlainClient("", "bob", "b"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			user, err := login(t.Context(), w.dial(t))
			if err != nil {
				t.Fatal(err)
			}
			if _, free := w.free(t, user); free {
				t.Error("the maildrop is not locked")
			}
		})
	}
}

// Who finds the maildrop in use may come again on the same connection, and is
// let in when the other session is over. The refused attempt holds no lock.
func TestRule031_InUseThenFree(t *testing.T) {
	t.Parallel()
	w := newWorld()
	first, second := w.login(t), w.dial(t)
	var se *client.ServerError
	for range 2 {
		if err := second.UserPass(t.Context(), "alice", "open sesame"); !errors.As(err, &se) || se.Code != "IN-USE" {
			t.Fatalf("got %v, want [IN-USE]", err)
		}
	}
	if err := first.Quit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := second.UserPass(t.Context(), "alice", "open sesame"); err != nil {
		t.Error(err)
	}
}

func TestRule032_MaildropCannotBeHad(t *testing.T) { play(t, "rule032-*.txt") }

// Failures end a session, and one that waits for its verifier holds up nobody.
func TestRule033_Failures(t *testing.T) {
	play(t, "rule033-*.txt")
	w := newWorld()
	entered, release := make(chan bool), make(chan bool)
	w.open = func(ctx context.Context, id *authn.Identity) (maildrop.Drop, error) {
		if id.User == "bob" {
			entered <- true
			<-release
		}
		return w.store.Open(ctx, maildrop.Ref{User: id.User})
	}
	slow := w.dial(t)
	if err := slow.Send(t.Context(), "USER bob", "PASS b"); err != nil {
		t.Fatal(err)
	}
	<-entered
	if err := w.login(t).Quit(t.Context()); err != nil {
		t.Error(err)
	}
	close(release)
}

// The timestamp is a msg-id of digits, with the host, and never the same.
func TestRule034_Timestamp(t *testing.T) {
	t.Parallel()
	w := newWorld()
	seen := map[string]bool{}
	for range 100 {
		stamp := w.dial(t).Stamp()
		if !regexp.MustCompile(`^<[0-9]+\.[0-9]+@pop\.example>$`).MatchString(stamp) || seen[stamp] {
			t.Fatalf("timestamp %q, seen before: %t", stamp, seen[stamp])
		}
		seen[stamp] = true
	}
}

// The digest is MD5 of timestamp and secret in lower case; upper case is taken
// too, and noted.
func TestRule035_APOPDigest(t *testing.T) {
	play(t, "rule035-*.txt")
	c := newWorld().dial(t)
	if _, err := c.Cmd(t.Context(), "APOP mrose "+strings.ToUpper(apopDigest(c.Greeting(), "tanstaaf"))); err != nil {
		t.Error(err)
	}
}

func TestRule036_PassOrAPOP(t *testing.T)         { play(t, "rule036-*.txt") }
func TestRule037_APOPWithoutStamp(t *testing.T)   { play(t, "rule037-*.txt") }
func TestRule038_NoStampWithoutAPOP(t *testing.T) { play(t, "rule038-*.txt") }

// A name means the same after APOP as after USER and in PLAIN.
func TestRule039_OneNormalisation(t *testing.T) {
	t.Parallel()
	const name = "ｍｒｏｓｅ" // wide letters
	w := newWorld()
	c := w.dial(t)
	c.UserPass(t.Context(), name, "x")
	c.Auth(t.Context(), sasl.NewPlainClient("", name, "x"))
	if err := c.Apop(t.Context(), name, "tanstaaf"); err != nil {
		t.Error(err)
	}
	for _, l := range w.people.logins {
		if l != "mrose" {
			t.Errorf("the chain was asked for %q", w.people.logins)
		}
	}
}
