package external

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/authn"
)

// person is what a certificate says.
type person struct {
	cn     string
	dn     pkix.RDNSequence // in place of cn
	emails []string
	upns   []string
	san    []byte // in place of both
}

func certificate(tb testing.TB, p person) *x509.Certificate {
	tb.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: p.cn},
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	if p.dn != nil {
		if c.RawSubject, err = asn1.Marshal(p.dn); err != nil {
			tb.Fatal(err)
		}
	}
	san := p.san
	if san == nil && len(p.emails)+len(p.upns) > 0 {
		san = alternatives(tb, p.emails, p.upns)
	}
	if san != nil {
		c.ExtraExtensions = []pkix.Extension{{Id: oidSAN, Value: san}}
	}
	issuer := *c
	issuer.RawSubject, issuer.Subject = nil, pkix.Name{CommonName: "Campus CA", Organization: []string{"Example"}}
	der, err := x509.CreateCertificate(rand.Reader, c, &issuer, k.Public(), k)
	if err != nil {
		tb.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return parsed
}

// alternatives is a subjectAltName with other sorts of names around ours.
func alternatives(tb testing.TB, emails, upns []string) []byte {
	tb.Helper()
	type other struct {
		Type  asn1.ObjectIdentifier
		Value string `asn1:"explicit,tag:0,utf8"`
	}
	names := []asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 2, Bytes: []byte("host.example")}}
	for _, e := range emails {
		names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 1, Bytes: []byte(e)})
	}
	add := func(o other) {
		der, err := asn1.MarshalWithParams(o, "tag:0")
		if err != nil {
			tb.Fatal(err)
		}
		names = append(names, asn1.RawValue{FullBytes: der})
	}
	add(other{asn1.ObjectIdentifier{1, 3, 6, 1, 5, 2, 2}, "another type"})
	for _, u := range upns {
		add(other{oidUPN, u})
	}
	der, err := asn1.Marshal(names)
	if err != nil {
		tb.Fatal(err)
	}
	return der
}

func rdn(pairs ...any) (r pkix.RelativeDistinguishedNameSET) {
	for i := 0; i < len(pairs); i += 2 {
		r = append(r, pkix.AttributeTypeAndValue{Type: pairs[i].(asn1.ObjectIdentifier), Value: pairs[i+1]})
	}
	return r
}

var (
	oidO   = asn1.ObjectIdentifier{2, 5, 4, 10}
	oidDC  = asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 25}
	oidUID = asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 1}
	oidSN  = asn1.ObjectIdentifier{2, 5, 4, 5}
)

// S-16: a certificate without a name that leads to one user is no one's.
func TestRule166_Mapping(t *testing.T) {
	t.Parallel()
	carol := certificate(t, person{cn: "Carol Jones", emails: []string{"carol@example.org"}})
	sum := sha256.Sum256(carol.Raw)
	mapFile := `# grants
upn:ALICE@corp.example   alice
email:bob@EXAMPLE.org	bob
"dn:CN=Carol Jones"      wrong
sha256:` + strings.ToUpper(hex.EncodeToString(sum[:])) + ` carol
dn:CN=Eve -
email:role1@example.org  role1
email:role2@example.org  role2
`
	rules := []Rule{
		{From: FromUPN, Match: `(?i)([a-z]+)@corp\.example`, Login: "$1"},
		{From: FromEmail, Match: `([a-z.]+)@example\.org`, Login: "${1}"},
		{From: FromDN, Match: `CN=([a-z]+),O=Foreign`, Login: "x.$1", Issuer: "CN=Somebody else"},
		{From: FromDN, Match: `CN=([a-z]+),O=Staff`, Login: "s.$1", Issuer: "CN=Campus CA,O=Example"},
		{From: FromCN, Match: `[a-z]{2,8}`},
	}
	for _, tt := range []struct {
		name string
		p    person
		cert *x509.Certificate
		want string // "" is a refusal
		kind authn.Kind
	}{
		{name: "UPN in the map, whatever its case", p: person{upns: []string{"Alice@CORP.example"}}, want: "alice"},
		{name: "e-mail in the map", p: person{emails: []string{"bob@example.ORG"}}, want: "bob"},
		{name: "the local part has case", p: person{emails: []string{"Bob@example.org"}}, kind: authn.UnknownUser},
		{name: "fingerprint before name", cert: carol, want: "carol"},
		{name: "no one by the map, though a rule would take him", p: person{cn: "Eve", emails: []string{"eve@example.org"}}, kind: authn.Denied},
		{name: "UPN by a rule", p: person{upns: []string{"zoe@corp.example"}}, want: "zoe"},
		{name: "e-mail by a rule", p: person{emails: []string{"z.oe@example.org"}}, want: "z.oe"},
		{name: "UPN before e-mail", p: person{upns: []string{"one@corp.example"}, emails: []string{"two@example.org"}}, want: "one"},
		{name: "a rule matches all of a name", p: person{emails: []string{"zoe@example.org.evil.example"}}, kind: authn.UnknownUser},
		{name: "dots are dots", p: person{emails: []string{"zoe@exampleXorg"}}, kind: authn.UnknownUser},
		{name: "one login under two names", p: person{emails: []string{"zoe@example.org", "zoe@example.org"}}, want: "zoe"},
		{name: "two logins", p: person{emails: []string{"zoe@example.org", "yan@example.org"}}, kind: authn.Denied},
		{name: "two logins in the map", p: person{emails: []string{"role1@example.org", "role2@example.org"}}, kind: authn.Denied},
		{name: "one of two names is known", p: person{emails: []string{"zoe@elsewhere.example", "yan@example.org"}}, want: "yan"},
		{name: "the whole subject, of the right issuer", p: person{dn: pkix.RDNSequence{rdn(oidO, "Staff"), rdn(oidCN, "zoe")}}, want: "s.zoe"},
		{name: "common name as it is", p: person{cn: "zoe"}, want: "zoe"},
		{name: "two common names", p: person{dn: pkix.RDNSequence{rdn(oidCN, "zoe"), rdn(oidCN, "yan")}}, kind: authn.Denied},
		{name: "a common name with a line end", p: person{cn: "zoe\n"}, kind: authn.UnknownUser},
		{name: "a common name that holds another", p: person{cn: "zoe,CN=yan"}, kind: authn.UnknownUser},
		{name: "nothing known", p: person{cn: "Nobody At All"}, kind: authn.UnknownUser},
		{name: "no names", p: person{}, kind: authn.UnknownUser},
		{name: "a UPN that is no text", p: person{cn: "zoe", san: sanOf(t, []byte{4, 1, 'x'})}, kind: authn.Denied},
		{name: "a UPN that is no UTF-8", p: person{cn: "zoe", san: sanOf(t, []byte{12, 1, 0xff})}, kind: authn.Denied},
		{name: "octets behind a UPN", p: person{cn: "zoe", san: sanOf(t, []byte{12, 1, 'x', 5, 0})}, kind: authn.Denied},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "map")
			if err := os.WriteFile(path, []byte(mapFile), 0o600); err != nil {
				t.Fatal(err)
			}
			m, err := NewMapper("cards", Options{Map: path, Rules: rules})
			if err != nil {
				t.Fatal(err)
			}
			c := tt.cert
			if c == nil {
				c = certificate(t, tt.p)
			}
			id, err := m.MapCertificate(t.Context(), []*x509.Certificate{c})
			if tt.want == "" {
				var e *authn.Error
				if id != nil || !errors.As(err, &e) || e.Kind != tt.kind || e.Step != "cards" {
					t.Errorf("got %+v, %v, want %s", id, err, tt.kind)
				}
				return
			}
			if err != nil || id.User != tt.want || !id.Expires.Equal(c.NotAfter) || id.Authn != DN(c.RawSubject) {
				t.Errorf("got %+v, %v, want %s", id, err, tt.want)
			}
		})
	}
}

// sanOf is a subjectAltName with a UPN whose value is der.
func sanOf(tb testing.TB, der []byte) []byte {
	tb.Helper()
	oid, err := asn1.Marshal(oidUPN)
	if err != nil {
		tb.Fatal(err)
	}
	wrap := append([]byte{0xa0, byte(len(der))}, der...)
	other := append(oid, wrap...)
	name := append([]byte{0xa0, byte(len(other))}, other...)
	return append([]byte{0x30, byte(len(name))}, name...)
}

func TestNoChainIsABug(t *testing.T) {
	t.Parallel()
	m, err := NewMapper("cards", Options{Rules: []Rule{{From: FromCN, Match: ".*"}}})
	if err != nil {
		t.Fatal(err)
	}
	if id, err := m.MapCertificate(t.Context(), nil); id != nil || authn.KindOf(err) != authn.Internal {
		t.Errorf("got %+v, %v", id, err)
	}
}

func TestRules(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		rule Rule
		want string // in the error; "" when there is none
	}{
		{Rule{From: FromCN, Match: "(a)(?P<b>c)", Login: "$1${b}${2}"}, ""},
		{Rule{From: "sha256", Match: "a"}, `from "sha256" is not known`},
		{Rule{Match: "a"}, `from "" is not known`},
		{Rule{From: FromCN}, "match is missing"},
		{Rule{From: FromCN, Match: "a)(b"}, "unexpected )"},
		{Rule{From: FromCN, Match: "("}, "missing closing )"},
		{Rule{From: FromCN, Match: "(a)", Login: "$2"}, "no group for $2"},
		{Rule{From: FromCN, Match: "(a)", Login: "$1x"}, "no group for $1x"},
		{Rule{From: FromCN, Match: "(a)", Login: "$01"}, "no group for $01"},
		{Rule{From: FromCN, Match: "(a)", Login: "$1\u00e9"}, "no group for $1\u00e9"},
		{Rule{From: FromCN, Match: "(a)", Login: "${1"}, "a $ names no group"},
		{Rule{From: FromCN, Match: "(a)", Login: "$$1"}, "a $ names no group"},
	} {
		_, err := NewMapper("m", Options{Rules: []Rule{tt.rule}})
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %q", tt.rule, err, tt.want)
		}
	}
}

func TestDN(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		in   pkix.RDNSequence
		want string
	}{
		{pkix.RDNSequence{rdn(oidDC, "org"), rdn(oidDC, "example"), rdn(oidUID, "alice")}, "UID=alice,DC=example,DC=org"},
		{pkix.RDNSequence{rdn(oidO, "Example"), rdn(oidCN, "Alice", oidUID, "alice")}, "CN=Alice+UID=alice,O=Example"},
		{pkix.RDNSequence{rdn(oidCN, `a,b+c"d\e<f>g;h`)}, `CN=a\,b\+c\"d\\e\<f\>g\;h`},
		{pkix.RDNSequence{rdn(oidCN, "#x ")}, `CN=\#x\ `},
		{pkix.RDNSequence{rdn(oidCN, " ")}, `CN=\ `},
		{pkix.RDNSequence{rdn(oidCN, "a\x00\n\u2028é")}, `CN=a\00\0a\e2\80\a8é`},
		{pkix.RDNSequence{rdn(oidSN, "5")}, "2.5.4.5=#130135"},
		{pkix.RDNSequence{rdn(oidCN, 5)}, "CN=#020105"},
		{pkix.RDNSequence{}, ""},
	} {
		raw, err := asn1.Marshal(tt.in)
		if err != nil {
			t.Fatal(err)
		}
		if got := DN(raw); got != tt.want {
			t.Errorf("got %s, want %s", got, tt.want)
		}
	}
	if got := DN([]byte{0x30, 0, 0}); got != "" {
		t.Errorf("octets behind the name: %q", got)
	}
}

func TestMapFile(t *testing.T) {
	t.Parallel()
	sum := strings.Repeat("5f:", 31) + "5F"
	for _, tt := range []struct{ name, text, want string }{ // want in the error
		{"good", "# c\n\nupn:a@b alice\nsha256:" + sum + " -\n\"dn:CN=\\\"A\\\" B,O=C\"\tbob\nemail:x@y\\ z carol", ""},
		{"the same twice", "upn:a@b alice\nupn:A@B alice\n", ""},
		{"two logins for one", "upn:a@b alice\nupn:A@B bob\n", "map:2: upn:a@b is alice in a line above"},
		{"no login", "upn:a@b\n", `map:1: "" is no login`},
		{"a path", "upn:a@b ../x\n", `map:1: "../x" is no login`},
		{"two logins in a line", "upn:a@b alice, bob\n", "is no login"},
		{"no sort", "\nalice@x alice\n", "map:2: \"alice@x\" is no name of a certificate"},
		{"another sort", "cn:alice alice\n", `map:1: "cn" is not known`},
		{"nothing behind the sort", "upn: alice\n", "is no name of a certificate"},
		{"a short fingerprint", "sha256:5f3a alice\n", "is no fingerprint"},
		{"no quote at the end", "\"dn:CN=a alice\n", "no quote at the end"},
		{"no UTF-8", "upn:\xff alice\n", "no UTF-8"},
		{"all at once", "x\nx\n", "map:2: "},
	} {
		got, err := parseMap("map", []byte(tt.text))
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
		if tt.name == "good" && (len(got) != 4 || got[`dn:CN=\"A\" B,O=C`] != "bob" || got["sha256:"+strings.Repeat("5f", 32)] != "-") {
			t.Errorf("read as %v", got)
		}
	}
}

func TestMapFileOnDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, prepare := range map[string]func(string) error{
		"missing":               func(string) error { return nil },
		"not a regular file":    func(p string) error { return unix.Mkfifo(p, 0o600) },
		"lets others write it":  func(p string) error { return errors.Join(os.WriteFile(p, nil, 0o600), os.Chmod(p, 0o622)) },
		"larger than 16777216 ": func(p string) error { return os.WriteFile(p, bytes.Repeat([]byte("#"), maxMap+1), 0o600) },
	} {
		path := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
		if err := prepare(path); err != nil {
			t.Fatal(err)
		}
		want := name
		if name == "missing" {
			want = "no such file"
		}
		if _, err := NewMapper("m", Options{Map: path}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzAlternativeNames: what comes out of a subjectAltName stands in it, word for
// word, behind the type of a user principal name.
func FuzzAlternativeNames(f *testing.F) {
	f.Add(alternatives(f, []string{"a@b"}, []string{"alice@corp.example", "ümit@corp.example"}))
	f.Add(sanOf(f, []byte{12, 1, 'x'}))
	f.Add(sanOf(f, []byte{12, 0}))
	f.Add(sanOf(f, []byte{30, 2, 0, 'x'}))
	f.Add([]byte{0x30, 0x80, 0, 0})
	oid, err := asn1.Marshal(oidUPN)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, san []byte) {
		upns, err := parseUPNs(san)
		if err != nil && upns != nil {
			t.Error("names beside an error")
		}
		for _, u := range upns {
			if u == "" || !utf8.ValidString(u) || !bytes.Contains(san, []byte(u)) || !bytes.Contains(san, oid) {
				t.Errorf("%q comes from nowhere", u)
			}
		}
	})
}

// FuzzDN: a name is one line of text, has as many parts as it is written with,
// and another name is written otherwise.
func FuzzDN(f *testing.F) {
	f.Add("Alice", "Example", "Alice,O=Example", "")
	f.Add("#", " ", `\`, "\x00")
	f.Add("a\nb", "é\u202e", "a\\", "b")
	f.Fuzz(func(t *testing.T, cn1, o1, cn2, o2 string) {
		var written []string
		for _, p := range [][2]string{{cn1, o1}, {cn2, o2}} {
			if !utf8.ValidString(p[0] + p[1]) {
				return
			}
			raw, err := asn1.Marshal(pkix.RDNSequence{rdn(oidO, p[1]), rdn(oidCN, p[0])})
			if err != nil {
				return
			}
			s := DN(raw)
			if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("%q does not print", s)
			}
			if n := len(split(s)); n != 2 {
				t.Errorf("%q has %d parts", s, n)
			}
			written = append(written, s)
		}
		if same := cn1 == cn2 && o1 == o2; same != (written[0] == written[1]) {
			t.Errorf("%q and %q", written[0], written[1])
		}
	})
}

// split takes a name apart at the commas that no backslash stands before.
func split(s string) []string {
	var parts []string
	from := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case ',':
			parts, from = append(parts, s[from:i]), i+1
		}
	}
	return append(parts, s[from:])
}

// FuzzMapFile: whatever is read has logins in canonical form, and is read the
// same from what it was written as.
func FuzzMapFile(f *testing.F) {
	f.Add("upn:a@b alice\n\"dn:CN=A B\" bob\nsha256:" + strings.Repeat("00", 32) + " -\n")
	f.Add("email:\\  x\n")
	f.Add("\"\" x")
	f.Fuzz(func(t *testing.T, text string) {
		byKey, err := parseMap("map", []byte(text))
		if err != nil {
			return
		}
		var again []string
		for key, login := range byKey {
			if p, err := authn.PrepareLogin(login); login != nobody && (err != nil || p != login) {
				t.Errorf("%q is no login", login)
			}
			again = append(again, `"`+key+`" `+login)
		}
		slices.Sort(again)
		second, err := parseMap("map", []byte(strings.Join(again, "\n")))
		for key, login := range byKey {
			// a key that was not quoted may hold a quote
			if !strings.Contains(key, `"`) && (err != nil || second[key] != login) {
				t.Errorf("%q becomes %q: %v", key, second[key], err)
			}
		}
	})
}
