package pop3_test

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/kpopd/kpopd/pop3/client"
)

// Rules of UTF8 and LANG (RFC 6856).

func TestRule149_UTF8AfterLogin(t *testing.T) { play(t, "rule149-*.txt") }
func TestRule150_UTF8Native(t *testing.T)     { play(t, "rule150-*.txt") }

// A header with octets beyond ASCII goes to every client as it is stored, with
// and without UTF8, and LIST agrees (the deviation that the package comment
// explains).
func TestRule151_RawHeaders(t *testing.T) {
	t.Parallel()
	const message = "Subject: äöü \xe4\xf6\xfc\nTo: jörg@exämple\n\nß\n"
	for _, utf8 := range []bool{false, true} {
		w := newWorld()
		w.store.Deliver("alice", message)
		c := w.dial(t)
		if utf8 {
			if _, err := c.Cmd(t.Context(), "UTF8"); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.UserPass(t.Context(), "alice", "open sesame"); err != nil {
			t.Fatal(err)
		}
		want := sentForm(message)
		if size, err := c.Size(t.Context(), 1); err != nil || size != int64(len(want)) {
			t.Errorf("UTF8 %t: LIST says %d, %v, want %d", utf8, size, err, len(want))
		}
		for _, command := range []string{"RETR N", "TOP N 10"} {
			if got := retrAll(t, c, command); got[0] != want {
				t.Errorf("UTF8 %t: %s sends %q, want %q", utf8, command, got[0], want)
			}
		}
	}
}

// UTF8 has no USER argument. A name beyond ASCII still works where a verifier
// knows it, in any of its normal forms, and one that is no UTF-8 is refused.
func TestRule152_NamesBeyondASCII(t *testing.T) {
	t.Parallel()
	before, after := capaBeforeAndAfter(t)
	if len(before["UTF8"]) > 0 || len(after["UTF8"]) > 0 || !before.Has("UTF8") {
		t.Errorf("UTF8 is announced with %q, %q", before["UTF8"], after["UTF8"])
	}
	for _, name := range []string{"zoë", "zoe\u0308"} {
		c := newWorld().dial(t)
		if err := c.UserPass(t.Context(), name, "pässword"); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	w := newWorld()
	c := w.dial(t)
	var se *client.ServerError
	for _, name := range []string{"zo\xeb", "\xff", "zo\xc3"} {
		if err := c.UserPass(t.Context(), name, "pässword"); !errors.As(err, &se) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if len(w.people.logins) > 0 {
		t.Errorf("the chain was asked for %q", w.people.logins)
	}
}

func TestRule153_STLSAfterUTF8(t *testing.T) { play(t, "rule153-*.txt") }
func TestRule154_LANG(t *testing.T)          { play(t, "rule154-*.txt") }

// The texts of the one language are ASCII, before LANG and after it.
func TestRule155_TextsAreASCII(t *testing.T) {
	t.Parallel()
	w := newWorld()
	conn := w.connect(t)
	go io.WriteString(conn, "CAPA\r\nLANG\r\nLANG en\r\nUSER zoë\r\nPASS ü\r\nXYZZY ä\r\nUSER zoë\r\nPASS pässword\r\nRETR ä\r\nDELE 1\r\nQUIT\r\n") // ends when it was read
	all, err := io.ReadAll(conn)
	if err != nil || !strings.HasSuffix(string(all), "+OK Bye\r\n") {
		t.Errorf("got %q, %v", all, err)
	}
	if i := slices.IndexFunc(all, func(b byte) bool { return b > 0x7e }); i >= 0 {
		t.Errorf("octet %d is not ASCII: %q", i, all)
	}
	conn.Close()
	w.wait(t)
}

func TestRule156_CodesInAnyLanguage(t *testing.T) { play(t, "rule156-*.txt") }

// The name in APOP is prepared like any other.
func TestRule157_APOPNameIsPrepared(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"jörg", "jo\u0308rg"} {
		w := newWorld()
		if err := w.dial(t).Apop(t.Context(), name, "geheim"); err != nil {
			t.Errorf("%q: %v", name, err)
		}
		if !slices.Equal(w.people.logins, []string{"jörg"}) {
			t.Errorf("%q: the chain was asked for %q", name, w.people.logins)
		}
	}
}
