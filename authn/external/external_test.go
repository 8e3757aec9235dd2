package external

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"testing"

	"github.com/emersion/go-sasl"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/authntest"
)

// connection is one inside TLS on which a certificate was shown.
func connection(c *authn.Certificate) authn.Transport {
	return authn.Transport{TLS: &tls.ConnectionState{}, Client: c}
}

// vouched is a certificate of alice that an authority vouches for.
func vouched(t testing.TB) *authn.Certificate {
	t.Helper()
	leaf := certificate(t, person{cn: "Alice"})
	return &authn.Certificate{Leaf: leaf, Chain: []*x509.Certificate{leaf, leaf}}
}

func chainOf(f *authntest.Fake) authn.Chain {
	f.Certificates = map[string]string{"Alice": "alice"}
	return f.Chain()
}

func TestRule166_Conformance(t *testing.T) {
	t.Parallel()
	for _, wish := range []string{"", "alice"} {
		t.Run("authzid "+wish, func(t *testing.T) {
			t.Parallel()
			authntest.RunMechanism(t, authntest.Case{
				Mechanism: New(chainOf(&authntest.Fake{})), Transport: connection(vouched(t)), User: "alice",
				Good: func(*testing.T) sasl.Client { return sasl.NewExternalClient(wish) },
				Bad:  func(*testing.T) sasl.Client { return sasl.NewExternalClient("bob") },
			})
		})
	}
}

// S-16: a certificate logs nobody in but the user it belongs to, without a rule
// that says so; see TestRule166_Mapping for those that belong to nobody.
func TestRule166_Authzid(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name      string
		responses [][]byte
		want      authn.Kind
		ok        bool
		whom      string // whom the policy is asked about
	}{
		{name: "none", responses: [][]byte{{}}, ok: true},
		{name: "her own", responses: [][]byte{[]byte("alice")}, ok: true},
		{name: "her own in full width letters", responses: [][]byte{[]byte("ａlice")}, ok: true},
		{name: "asked for", responses: [][]byte{nil, []byte("alice")}, ok: true},
		{name: "asked for, none", responses: [][]byte{nil, {}}, ok: true},
		{name: "another's", responses: [][]byte{[]byte("bob")}, ok: true, whom: "bob"},
		{name: "her own in capitals", responses: [][]byte{[]byte("ALICE")}, ok: true, whom: "ALICE"},
		{name: "no login", responses: [][]byte{[]byte("../alice")}, want: authn.Denied},
		{name: "a NUL", responses: [][]byte{[]byte("alice\x00")}, want: authn.Malformed},
		{name: "no UTF-8", responses: [][]byte{{0xff}}, want: authn.Malformed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tr := connection(vouched(t))
			ex, err := New(chainOf(&authntest.Fake{})).Start(t.Context(), &tr)
			if err != nil {
				t.Fatal(err)
			}
			done := false
			for _, r := range tt.responses {
				_, done, err = ex.Next(t.Context(), r)
			}
			if done != tt.ok || err == nil != tt.ok || err != nil && authn.KindOf(err) != tt.want {
				t.Errorf("done %v, %v, want %s", done, err, tt.want)
			}
			if (ex.Identity() != nil) != tt.ok {
				t.Errorf("identity %+v", ex.Identity())
			}
			if id := ex.Identity(); id != nil && (id.User != "alice" || id.For != tt.whom) {
				t.Errorf("user %s for %q, want alice for %q", id.User, id.For, tt.whom)
			}
		})
	}
}

// Whom the owner of a certificate may act for is a rule's to say.
func TestActing(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		authzid, user string
		act           []*authn.Rule
	}{
		{"bob", "", nil},
		{"BOB", "bob", []*authn.Rule{{Action: authn.Allow, Users: []string{"alice"}, As: []string{"bob"}}}},
		{"bob", "", []*authn.Rule{{Action: authn.Allow, As: []string{"carol"}}}},
		{"ALICE", "alice", nil},
	} {
		p := &authn.Policy{Offers: []authn.Mechanism{New(chainOf(&authntest.Fake{}))}, Names: &authn.Names{FoldCase: true}, Act: tt.act}
		tr := connection(vouched(t))
		l, err := p.Start(t.Context(), &tr, Name)
		if err != nil {
			t.Fatal(err)
		}
		_, done, err := l.Next(t.Context(), []byte(tt.authzid))
		if done != (tt.user != "") || !done && authn.KindOf(err) != authn.Denied {
			t.Errorf("%s: done %v, %v", tt.authzid, done, err)
		}
		if done && l.Identity().User != tt.user {
			t.Errorf("%s: user %s", tt.authzid, l.Identity().User)
		}
	}
}

// EXTERNAL is there only for a certificate that belongs to somebody; what nobody
// can judge now is no reason to hide it.
func TestRule103_OfferedToMappedCertificates(t *testing.T) {
	t.Parallel()
	good := vouched(t)
	other := certificate(t, person{cn: "Mallory"})
	for _, tt := range []struct {
		name    string
		shown   *authn.Certificate
		fault   error // of the verifier
		refused string
		start   authn.Kind // of an attempt all the same
		starts  bool
	}{
		{name: "good", shown: good, starts: true},
		{name: "none", refused: "no client certificate came with TLS", start: authn.Denied},
		{name: "nobody's", shown: &authn.Certificate{Leaf: other, Chain: []*x509.Certificate{other}}, refused: "the client certificate belongs to nobody here", start: authn.Denied},
		{name: "nobody vouches", shown: &authn.Certificate{Leaf: good.Leaf}, refused: "the client certificate is not accepted", start: authn.Denied},
		{
			name:    "revoked",
			shown:   &authn.Certificate{Leaf: good.Leaf, Err: &authn.Error{Kind: authn.Denied, Text: "it has been revoked"}},
			refused: "it has been revoked", start: authn.Denied,
		},
		{
			name:    "a fault beside a chain",
			shown:   &authn.Certificate{Leaf: good.Leaf, Chain: good.Chain, Err: &authn.Error{Kind: authn.Expired}},
			refused: "the client certificate is not accepted", start: authn.Denied,
		},
		{
			name:  "the revocation list is out of date",
			shown: &authn.Certificate{Leaf: good.Leaf, Err: &authn.Error{Kind: authn.Unavailable}}, start: authn.Unavailable,
		},
		{name: "the map is out of reach", shown: good, fault: &authn.Error{Kind: authn.Unavailable}, starts: true},
		{name: "the mapper is broken", shown: good, fault: errors.New("bug"), starts: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var r authntest.Recorder
			p := &authn.Policy{Name: "p", Offers: []authn.Mechanism{New(chainOf(&authntest.Fake{Err: tt.fault}))}, Trace: r.Trace()}
			tr := connection(tt.shown)
			why := p.Explain(&tr)[0].Reason
			if (why == nil) != (tt.refused == "") || why != nil && why.Error() != tt.refused {
				t.Errorf("offered: %v, want %q", why, tt.refused)
			}
			if got := len(p.Mechanisms(&tr)); (got == 1) != (tt.refused == "") {
				t.Errorf("%d mechanisms", got)
			}
			l, err := p.Start(t.Context(), &tr, Name)
			if (l != nil) != tt.starts || !tt.starts && authn.KindOf(err) != tt.start {
				t.Errorf("started %v, %v", l, err)
			}
			if tt.fault == nil || l == nil {
				return
			}
			_, done, err := l.Next(t.Context(), []byte{})
			if done || authn.KindOf(err) != authn.KindOf(tt.fault) || l.Identity() != nil {
				t.Errorf("an outage ends in %v, %v", done, err)
			}
		})
	}
}

// guard refuses a connection that it is told of, and one that it is not.
type guard struct{}

func (guard) Name() string { return "list" }
func (guard) Admit(ctx context.Context, _ *authn.Identity) error {
	if authn.TransportOf(ctx) == nil {
		return &authn.Error{Kind: authn.Internal, Step: "list"}
	}
	return &authn.Error{Kind: authn.Denied, Step: "list"}
}

// A list that keeps the connection out hides EXTERNAL too.
func TestListsHide(t *testing.T) {
	t.Parallel()
	chain := append(chainOf(&authntest.Fake{}), authn.Step{Verifier: guard{}})
	p := &authn.Policy{Offers: []authn.Mechanism{New(chain)}}
	tr := connection(vouched(t))
	if len(p.Mechanisms(&tr)) > 0 {
		t.Error("EXTERNAL is offered")
	}
}

// A look at CAPA is no attempt: nothing is traced.
func TestCapaTracesNothing(t *testing.T) {
	t.Parallel()
	var r authntest.Recorder
	p := &authn.Policy{Offers: []authn.Mechanism{New(chainOf(&authntest.Fake{}))}, Trace: r.Trace()}
	tr := connection(vouched(t))
	p.Mechanisms(&tr)
	if len(r.Attempts)+len(r.Steps) > 0 {
		t.Errorf("traced %v %v", r.Attempts, r.Steps)
	}
}

func TestClaimed(t *testing.T) {
	t.Parallel()
	tr := connection(vouched(t))
	ex, err := New(chainOf(&authntest.Fake{})).Start(context.Background(), &tr)
	if err != nil {
		t.Fatal(err)
	}
	_, _, _ = ex.Next(t.Context(), []byte("bob"))
	if login, _ := ex.(authn.Claimer).Claimed(); login != "bob" {
		t.Errorf("claimed %q", login)
	}
}
