package plain

import (
	"context"
	"crypto/md5"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-sasl"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/authntest"
)

func secure() authn.Transport { return authn.Transport{TLS: &tls.ConnectionState{}} }

func alice() *authntest.Fake {
	return &authntest.Fake{Passwords: map[string]string{"alice": "pässword", "bob": "b"}}
}

// raw is a client that sends one response after the other.
type raw struct {
	ir   []byte
	rest []string
}

func (r *raw) Start() (string, []byte, error) { return "", r.ir, nil }
func (r *raw) Next([]byte) ([]byte, error) {
	if len(r.rest) == 0 {
		return nil, errors.New("nothing left to say")
	}
	s := r.rest[0]
	r.rest = r.rest[1:]
	return []byte(s), nil
}

func one(s string) sasl.Client { return &raw{ir: []byte(s)} }

// try runs client against m and returns the user who got in.
func try(t *testing.T, m authn.Mechanism, tr authn.Transport, client sasl.Client) (string, error) {
	t.Helper()
	p := &authn.Policy{Offers: []authn.Mechanism{m}}
	l, err := p.Start(t.Context(), &tr, m.Name())
	if err != nil {
		t.Fatal(err)
	}
	if err := authntest.Converse(t.Context(), l, client); err != nil {
		return "", err
	}
	return l.Identity().User, nil
}

func TestConformance(t *testing.T) {
	t.Parallel()
	f := alice()
	f.Secrets = map[string]map[string]string{"APOP": {"carol": "tanstaaf"}}
	stamped := secure()
	stamped.Stamp = "<1896.697170952@dbc.mtview.ca.us>"
	for _, c := range []authntest.Case{
		{
			Mechanism: PLAIN(f.Chain()), Transport: secure(), User: "alice",
			Good: func(*testing.T) sasl.Client { return sasl.NewPlainClient("", "alice", "pässword") },
			Bad:  func(*testing.T) sasl.Client { return sasl.NewPlainClient("", "alice", "x") },
		},
		{
			Mechanism: LOGIN(f.Chain()), Transport: secure(), User: "alice",
			Good: func(*testing.T) sasl.Client { return sasl.NewLoginClient("alice", "pässword") },
			Bad:  func(*testing.T) sasl.Client { return sasl.NewLoginClient("nobody", "x") },
		},
		{
			Mechanism: USER(f.Chain(), true), Transport: secure(), User: "alice",
			Good: func(*testing.T) sasl.Client { return one("\x00alice\x00pässword") },
			Bad:  func(*testing.T) sasl.Client { return one("\x00alice\x00pässwor") },
		},
		{
			Mechanism: APOP(f.Chain()), Transport: stamped, User: "carol",
			Good: func(*testing.T) sasl.Client { return one(apopLine("carol", stamped.Stamp, "tanstaaf")) },
			Bad:  func(*testing.T) sasl.Client { return one(apopLine("carol", stamped.Stamp, "tanstaaF")) },
		},
	} {
		t.Run(c.Mechanism.Name(), func(t *testing.T) { authntest.RunMechanism(t, c) })
	}
}

func TestRule158PLAIN(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 255)
	f := &authntest.Fake{Passwords: map[string]string{"alice": "p w", "bob": "b", long: long, "ümit": "ü", "tim": "tanstaaftanstaaf"}}
	const in = authn.Kind(0)
	for _, tt := range []struct {
		name, message, user string
		want                authn.Kind // when user is ""
	}{
		{"RFC 4616 section 4, first example", "\x00tim\x00tanstaaftanstaaf", "tim", in},
		{"authzid that is the authcid", "alice\x00alice\x00p w", "alice", in},
		{"authzid of somebody else", "bob\x00alice\x00p w", "", authn.Denied},
		{"authzid of somebody else after a wrong password", "bob\x00alice\x00x", "", authn.Rejected},
		{"authzid that is no name", "a/b\x00alice\x00p w", "", authn.Denied},
		{"three fields of 255 octets", long + "\x00" + long + "\x00" + long, long, in},
		{"name in another form of Unicode", "\x00u\u0308mit\x00ü", "ümit", in},
		{"password in another form of Unicode", "\x00ümit\x00u\u0308", "ümit", in},
		{"empty authcid", "\x00\x00p w", "", authn.Rejected},
		{"empty password", "\x00alice\x00", "", authn.Rejected},
		{"S-27: NUL before the password", "\x00alice\x00\x00p w", "", authn.Malformed},
		{"no NUL", "alice", "", authn.Malformed},
		{"one NUL", "alice\x00p w", "", authn.Malformed},
		{"three NULs", "\x00alice\x00p w\x00", "", authn.Malformed},
		{"empty message", "", "", authn.Malformed},
		{"authcid is no UTF-8", "\x00alic\xe9\x00p w", "", authn.Malformed},
		{"authzid is no UTF-8", "\xe9\x00alice\x00p w", "", authn.Malformed},
		{"password is no UTF-8", "\x00alice\x00\xe9", "", authn.Malformed},
		{"overlong UTF-8", "\x00alice\x00\xc0\x80", "", authn.Malformed},
		{"password of 1,025 octets", "\x00alice\x00" + strings.Repeat("x", 1025), "", authn.Rejected},
		{"name of 256 octets", "\x00" + long + "x\x00" + long, "", authn.UnknownUser},
		{"case of the name counts", "\x00Alice\x00p w", "", authn.UnknownUser},
		{"unknown user", "\x00carol\x00p w", "", authn.UnknownUser},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			user, err := try(t, PLAIN(f.Chain()), secure(), one(tt.message))
			if user != tt.user || (err == nil) != (tt.user != "") || err != nil && authn.KindOf(err) != tt.want {
				t.Errorf("got %q, %v, want %q, %s", user, err, tt.user, tt.want)
			}
		})
	}
}

func TestRule128NoInitialResponse(t *testing.T) {
	t.Parallel()
	f := alice()
	ex, err := PLAIN(f.Chain()).Start(t.Context(), &authn.Transport{})
	if err != nil {
		t.Fatal(err)
	}
	challenge, done, err := ex.Next(t.Context(), nil)
	if challenge == nil || len(challenge) != 0 || done || err != nil {
		t.Errorf("got %q, %v, %v, want an empty challenge", challenge, done, err)
	}
}

func TestLOGIN(t *testing.T) {
	t.Parallel()
	f := alice()
	for _, tt := range []struct {
		name   string
		client *raw
		user   string
		want   authn.Kind
	}{
		{"name as an initial response", &raw{ir: []byte("alice"), rest: []string{"pässword"}}, "alice", 0},
		{"asked for both", &raw{rest: []string{"alice", "pässword"}}, "alice", 0},
		{"empty initial response is none", &raw{ir: []byte{}, rest: []string{"alice", "pässword"}}, "alice", 0},
		{"wrong password", &raw{rest: []string{"alice", "x"}}, "", authn.Rejected},
		{"empty password", &raw{rest: []string{"alice", ""}}, "", authn.Rejected},
		{"empty name", &raw{rest: []string{"", "x"}}, "", authn.Rejected},
		{"name with a NUL", &raw{rest: []string{"al\x00ice", "x"}}, "", authn.Malformed},
		{"name is no UTF-8", &raw{rest: []string{"al\xff", "x"}}, "", authn.Malformed},
		{"password with a NUL", &raw{rest: []string{"alice", "pässword\x00"}}, "", authn.Malformed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			user, err := try(t, LOGIN(f.Chain()), secure(), tt.client)
			if user != tt.user || err != nil && authn.KindOf(err) != tt.want || (err == nil) != (user != "") {
				t.Errorf("got %q, %v", user, err)
			}
		})
	}
}

func TestLOGINAsksInWords(t *testing.T) {
	t.Parallel()
	ex, err := LOGIN(alice().Chain()).Start(t.Context(), &authn.Transport{})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		response []byte
		want     string
	}{{nil, "Username:"}, {[]byte("alice"), "Password:"}} {
		if got, done, err := ex.Next(t.Context(), tt.response); string(got) != tt.want || done || err != nil {
			t.Errorf("got %q, %v, %v, want %q", got, done, err, tt.want)
		}
	}
}

func TestRule027PasswordOfUSER(t *testing.T) {
	t.Parallel()
	f := &authntest.Fake{Passwords: map[string]string{"spaces": "a b  c ", "latin1": "Gr\xfc\xdfe", "tab": "a\tb\r"}}
	for _, tt := range []struct {
		name, message, user string
		want                authn.Kind
	}{
		{"spaces everywhere", "\x00spaces\x00a b  c ", "spaces", 0},
		{"a space less", "\x00spaces\x00a b  c", "", authn.Rejected},
		{"octets that are no UTF-8", "\x00latin1\x00Gr\xfc\xdfe", "latin1", 0},
		{"control characters", "\x00tab\x00a\tb\r", "tab", 0},
		{"NUL", "\x00tab\x00a\x00", "", authn.Malformed},
		{"rule 152: name is no UTF-8", "\x00\xff\x00x", "", authn.UnknownUser},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			user, err := try(t, USER(f.Chain(), false), secure(), one(tt.message))
			if user != tt.user || err != nil && authn.KindOf(err) != tt.want || (err == nil) != (user != "") {
				t.Errorf("got %q, %v", user, err)
			}
		})
	}
}

func TestRule036OneOfAPOPAndPASS(t *testing.T) {
	t.Parallel()
	down := &authn.Error{Kind: authn.Unavailable, Step: "fake"}
	for _, tt := range []struct {
		name      string
		exclusive bool
		password  string
		secrets   map[string]string
		secretErr error
		want      authn.Kind
		in        bool
	}{
		{"without a secret", true, "b", nil, nil, 0, true},
		{"with a secret", true, "b", map[string]string{"bob": "s"}, nil, authn.Denied, false},
		{"with a secret and the wrong password", true, "x", map[string]string{"bob": "s"}, nil, authn.Rejected, false},
		{"with a secret, relaxed", false, "b", map[string]string{"bob": "s"}, nil, 0, true},
		{"secrets cannot be asked", true, "b", nil, down, authn.Unavailable, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			chain := authn.Chain{
				{Verifier: passwordsOnly{alice()}},
				{Verifier: secretsOnly{&authntest.Fake{Secrets: map[string]map[string]string{"APOP": tt.secrets}, Err: tt.secretErr}}},
			}
			user, err := try(t, USER(chain, tt.exclusive), secure(), one("\x00bob\x00"+tt.password))
			if (user == "bob") != tt.in || (err == nil) != tt.in || err != nil && authn.KindOf(err) != tt.want {
				t.Errorf("got %q, %v", user, err)
			}
			var e *authn.Error
			if errors.As(err, &e) && e.Text != "" {
				t.Errorf("the client is told %q, which says that the password was right", e.Text)
			}
		})
	}
}

type passwordsOnly struct{ authn.PasswordVerifier }

type secretsOnly struct{ authn.SecretSource }

func TestRule035APOP(t *testing.T) {
	t.Parallel()
	// RFC 1939 section 7
	const stamp, secret, digest = "<1896.697170952@dbc.mtview.ca.us>", "tanstaaf", "c4c9334bac560ecc979e58001b3e22fb"
	f := &authntest.Fake{Secrets: map[string]map[string]string{"APOP": {"mrose": secret, "ümit": secret}}}
	tr := authn.Transport{Stamp: stamp}
	for _, tt := range []struct {
		name, message, user string
		want                authn.Kind
	}{
		{"the example of the RFC", "mrose " + digest, "mrose", 0},
		{"upper case digits", "mrose " + strings.ToUpper(digest), "mrose", 0},
		{"wrong digest", "mrose " + strings.Replace(digest, "c", "d", 1), "", authn.Rejected},
		{"unknown user", "nobody " + digest, "", authn.UnknownUser},
		{"name is no UTF-8", "\xff " + digest, "", authn.UnknownUser},
		{"name with a blank", "mr ose " + digest, "", authn.UnknownUser},
		{"no name", " " + digest, "", authn.UnknownUser},
		{"no digest", "mrose", "", authn.Malformed},
		{"empty digest", "mrose ", "", authn.Malformed},
		{"31 digits", "mrose " + digest[1:], "", authn.Malformed},
		{"33 digits", "mrose 0" + digest, "", authn.Malformed},
		{"not hexadecimal", "mrose g" + digest[1:], "", authn.Malformed},
		{"digest of the timestamp without brackets", "mrose " + sumHex("1896.697170952@dbc.mtview.ca.us", secret), "", authn.Rejected},
		{"digest of an empty secret", "nobody " + sumHex(stamp, ""), "", authn.UnknownUser},
		{"digest of NULs", "nobody " + sumHex(stamp, strings.Repeat("\x00", 16)), "", authn.UnknownUser},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			user, err := try(t, APOP(f.Chain()), tr, one(tt.message))
			if user != tt.user || err != nil && authn.KindOf(err) != tt.want || (err == nil) != (user != "") {
				t.Errorf("got %q, %v", user, err)
			}
		})
	}
}

func TestRule035UpperCaseIsNoted(t *testing.T) {
	t.Parallel()
	f := &authntest.Fake{Secrets: map[string]map[string]string{"APOP": {"a": "s"}}}
	tr := authn.Transport{Stamp: "<1.2@h>"}
	digest := sumHex(tr.Stamp, "s")
	for line, noted := range map[string]bool{"a " + digest: false, "a " + strings.ToUpper(digest): true} {
		var r authntest.Recorder
		p := &authn.Policy{Offers: []authn.Mechanism{APOP(f.Chain())}, Trace: r.Trace()}
		l, err := p.Start(t.Context(), &tr, "APOP")
		if err != nil {
			t.Fatal(err)
		}
		if err := authntest.Converse(t.Context(), l, one(line)); err != nil {
			t.Fatal(err)
		}
		if got := r.Attempts[0].Note != ""; got != noted {
			t.Errorf("%s: note %q", line, r.Attempts[0].Note)
		}
	}
}

func TestRule037NoTimestampNoAPOP(t *testing.T) {
	t.Parallel()
	f := &authntest.Fake{Secrets: map[string]map[string]string{"APOP": {"a": "s"}}}
	m := APOP(f.Chain())
	if _, err := m.Start(t.Context(), &authn.Transport{}); authn.KindOf(err) != authn.Denied {
		t.Errorf("the mechanism starts: %v", err)
	}
	p := &authn.Policy{Offers: []authn.Mechanism{m}}
	if _, err := p.Start(t.Context(), &authn.Transport{}, "APOP"); authn.KindOf(err) != authn.Denied {
		t.Errorf("the policy starts it: %v", err)
	}
}

// The text that a client gets is made from kind and Error.Text alone, so it is
// the same when both kinds read as [AUTH] and neither brings a text.
func TestRule141OneTextForEveryRefusal(t *testing.T) {
	t.Parallel()
	f := alice()
	f.Secrets = map[string]map[string]string{"APOP": {"bob": "s"}}
	tr := secure()
	tr.Stamp = "<1.2@h>"
	digest := strings.Repeat("0", 32)
	for _, tt := range []struct {
		m    authn.Mechanism
		line string
	}{
		{PLAIN(f.Chain()), "\x00alice\x00x"},
		{PLAIN(f.Chain()), "\x00nobody\x00x"},
		{PLAIN(f.Chain()), "\x00a/b\x00x"},
		{PLAIN(f.Chain()), "bob\x00alice\x00pässword"},
		{USER(f.Chain(), true), "\x00alice\x00x"},
		{USER(f.Chain(), true), "\x00nobody\x00x"},
		{USER(f.Chain(), true), "\x00bob\x00b"},
		{USER(f.Chain(), true), "\x00\xff\x00b"},
		{APOP(f.Chain()), "bob " + digest},
		{APOP(f.Chain()), "nobody " + digest},
	} {
		_, err := try(t, tt.m, tr, one(tt.line))
		var e *authn.Error
		if !errors.As(err, &e) || e.Text != "" || !credentials(e.Kind) {
			t.Errorf("%s %q: %v", tt.m.Name(), tt.line, err)
		}
	}
}

// credentials says whether a kind reads as [AUTH].
func credentials(k authn.Kind) bool {
	return k == authn.UnknownUser || k == authn.Rejected || k == authn.Denied || k == authn.Expired
}

func TestRule145EveryCredentialFailureIsAUTH(t *testing.T) {
	t.Parallel()
	for _, kind := range []authn.Kind{authn.UnknownUser, authn.Rejected, authn.Denied, authn.Expired, authn.Decline} {
		f := &authntest.Fake{Err: &authn.Error{Kind: kind, Step: "fake"}}
		tr := secure()
		tr.Stamp = "<1.2@h>"
		for m, client := range map[authn.Mechanism]sasl.Client{
			PLAIN(f.Chain()):      one("\x00alice\x00x"),
			LOGIN(f.Chain()):      &raw{rest: []string{"alice", "x"}},
			USER(f.Chain(), true): one("\x00alice\x00x"),
			APOP(f.Chain()):       one("alice " + strings.Repeat("0", 32)),
		} {
			if _, err := try(t, m, tr, client); !credentials(authn.KindOf(err)) {
				t.Errorf("%s after %s: %v", m.Name(), kind, err)
			}
		}
	}
}

// names that mean ümit, and others.
var spellings = map[string]string{
	"ümit": "ümit", "u\u0308mit": "ümit", "ｕ\u0308mit": "ümit",
	"Ümit": "", "umit": "", " ümit": "", "ümit/": "", "ümit\x7f": "", "\xfcmit": "",
}

func TestRule039APOPNamesAreUSERNames(t *testing.T) {
	t.Parallel()
	tr := secure()
	tr.Stamp = "<1.2@h>"
	f := &authntest.Fake{
		Passwords: map[string]string{"ümit": "s"},
		Secrets:   map[string]map[string]string{"APOP": {"ümit": "s"}},
	}
	for name, want := range spellings {
		byUSER, _ := try(t, USER(f.Chain(), false), tr, one("\x00"+name+"\x00s"))
		byAPOP, _ := try(t, APOP(f.Chain()), tr, one(apopLine(name, tr.Stamp, "s")))
		if byUSER != want || byAPOP != want {
			t.Errorf("%q: USER says %q, APOP says %q, want %q", name, byUSER, byAPOP, want)
		}
	}
}

func TestRule157APOPNameInUTF8(t *testing.T) {
	t.Parallel()
	f := &authntest.Fake{Secrets: map[string]map[string]string{"APOP": {"ümit": "s"}}}
	tr := authn.Transport{Stamp: "<1.2@h>"}
	for name, want := range spellings {
		if user, _ := try(t, APOP(f.Chain()), tr, one(apopLine(name, tr.Stamp, "s"))); user != want {
			t.Errorf("%q: got %q, want %q", name, user, want)
		}
	}
}

func TestRule134AuthzidIsPrepared(t *testing.T) {
	t.Parallel()
	f := &authntest.Fake{Passwords: map[string]string{"ümit": "s"}}
	for authzid, want := range spellings {
		if user, err := try(t, PLAIN(f.Chain()), secure(), one(authzid+"\x00ümit\x00s")); user != want {
			t.Errorf("%q: got %q, %v, want %q", authzid, user, err, want)
		}
	}
}

func TestRule147OutageIsNoRefusal(t *testing.T) {
	t.Parallel()
	f := &authntest.Fake{Err: &authn.Error{Kind: authn.Unavailable, Step: "fake", Err: errors.New("connection refused")}}
	tr := secure()
	tr.Stamp = "<1.2@h>"
	for m, line := range map[authn.Mechanism]string{
		PLAIN(f.Chain()):      "\x00alice\x00x",
		USER(f.Chain(), true): "\x00alice\x00x",
		APOP(f.Chain()):       "alice " + strings.Repeat("0", 32),
	} {
		if _, err := try(t, m, tr, one(line)); authn.KindOf(err) != authn.Unavailable {
			t.Errorf("%s: %v", m.Name(), err)
		}
	}
}

// S-27: to a directory an empty password is an anonymous bind, which succeeds.
func TestEmptyAndHugePasswordsMeetNoVerifier(t *testing.T) {
	t.Parallel()
	huge := strings.Repeat("x", authn.MaxPassword+1)
	for _, password := range []string{"", huge} {
		f := &authntest.Fake{Passwords: map[string]string{"alice": password}}
		for m, client := range map[authn.Mechanism]sasl.Client{
			PLAIN(f.Chain()):       one("\x00alice\x00" + password),
			LOGIN(f.Chain()):       &raw{rest: []string{"alice", password}},
			USER(f.Chain(), false): one("\x00alice\x00" + password),
		} {
			if user, err := try(t, m, secure(), client); user != "" || authn.KindOf(err) != authn.Rejected || f.Asked.Load() != 0 {
				t.Errorf("%s with %d octets: %q, %v, verifier asked %d times", m.Name(), len(password), user, err, f.Asked.Load())
			}
		}
	}
}

func TestPasswordIsWiped(t *testing.T) {
	t.Parallel()
	var kept authn.Password
	f := alice()
	f.Hook = func(_ context.Context, r *authn.PasswordRequest) { kept = r.Password }
	for _, m := range []authn.Mechanism{PLAIN(f.Chain()), USER(f.Chain(), false)} {
		for _, password := range []string{"pässword", "wrong"} {
			_, _ = try(t, m, secure(), one("\x00alice\x00"+password))
			if len(kept) != len(password) || strings.Trim(string(kept), "\x00") != "" {
				t.Errorf("%s: the password is still there", m.Name())
			}
		}
	}
}

// source hands out one secret, and is a verifier that calls everybody by
// another name.
type source struct{ secret authn.Password }

func (source) Name() string { return "source" }

func (s source) Secret(context.Context, string, string) (authn.Password, *authn.Identity, error) {
	return s.secret, &authn.Identity{User: "a"}, nil
}

func (source) VerifyPassword(context.Context, *authn.PasswordRequest) (*authn.Identity, error) {
	return &authn.Identity{User: "alice"}, nil
}

func TestAPOPSecretIsWiped(t *testing.T) {
	t.Parallel()
	for _, secret := range []string{"right", "wrong"} {
		s := source{authn.Password("right")}
		_, _ = try(t, APOP(authn.Chain{{Verifier: s}}), authn.Transport{Stamp: "<1.2@h>"}, one(apopLine("a", "<1.2@h>", secret)))
		if strings.Trim(string(s.secret), "\x00") != "" {
			t.Errorf("%s: the secret is still there", secret)
		}
	}
}

func TestAuthzidMayBeTheCanonicalName(t *testing.T) {
	t.Parallel()
	for authzid, want := range map[string]string{"": "alice", "alice": "alice", "a.smith": "alice", "bob": ""} {
		if user, err := try(t, PLAIN(authn.Chain{{Verifier: source{}}}), secure(), one(authzid+"\x00a.smith\x00x")); user != want {
			t.Errorf("%q: got %q, %v, want %q", authzid, user, err, want)
		}
	}
}

func TestStepTimeoutEndsAnAttempt(t *testing.T) {
	t.Parallel()
	f := alice()
	f.Hook = func(ctx context.Context, _ *authn.PasswordRequest) { <-ctx.Done(); f.Err = ctx.Err() }
	c := authn.Chain{{Verifier: f, Timeout: time.Millisecond}}
	if _, err := try(t, PLAIN(c), secure(), one("\x00alice\x00pässword")); authn.KindOf(err) != authn.Unavailable {
		t.Errorf("got %v", err)
	}
}

func sumHex(stamp, secret string) string {
	s := md5.Sum([]byte(stamp + secret))
	return hex.EncodeToString(s[:])
}

func apopLine(login, stamp, secret string) string {
	return fmt.Sprintf("%s %s", login, sumHex(stamp, secret))
}

func FuzzPLAIN(f *testing.F) {
	for _, s := range []string{"\x00a\x00p", "z\x00a\x00p", "\x00\x00", "\x00a\x00", "\x00a\x00p\x00", "", "\xff\x00a\x00p", "\x00u\u0308\x00u\u0308"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		before := string(message)
		var asked *authn.PasswordRequest
		fake := &authntest.Fake{Hook: func(_ context.Context, r *authn.PasswordRequest) {
			asked = &authn.PasswordRequest{Login: r.Login, Password: append(authn.Password{}, r.Password...)}
		}}
		ex, err := PLAIN(fake.Chain()).Start(t.Context(), &authn.Transport{})
		if err != nil {
			t.Fatal(err)
		}
		_, done, err := ex.Next(t.Context(), message)
		if done || err == nil || string(message) != before {
			t.Fatalf("%q: %v, %v", before, done, err)
		}
		parts := strings.Split(before, "\x00")
		if asked == nil {
			return
		}
		// what reaches a verifier is what the grammar says, and usable
		if len(parts) != 3 || parts[1] == "" || len(asked.Password) == 0 {
			t.Fatalf("%q reached the verifier as %q", before, asked.Login)
		}
		if login, err := authn.PrepareLogin(parts[1]); err != nil || login != asked.Login {
			t.Errorf("%q: verifier was asked about %q", before, asked.Login)
		}
	})
}
