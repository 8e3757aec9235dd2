package ldap

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/authntest"
	"github.com/kpopd/kpopd/authn/ldap/ldaptest"
)

// byTemplate finds people by a template, without a bind of the verifier's own.
func byTemplate(o Options) Options {
	return Options{URLs: o.URLs, CA: o.CA, Timeout: o.Timeout, DN: "uid=%u," + ldaptest.People}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	d := shared(t)
	s := d.Servers[0]
	for name, o := range map[string]Options{
		"LDAPS":       options(t, d, s.LDAPS),
		"StartTLS":    options(t, d, s.LDAP),
		"unix socket": options(t, d, s.LDAPI),
		"template":    byTemplate(options(t, d)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			authntest.RunVerifier(t, open(t, o), authntest.Account{Login: "alice", Password: "pw-alice"})
		})
	}
}

// What a real directory answers, and what we make of it.
func TestOutcomes(t *testing.T) {
	t.Parallel()
	d := shared(t)
	v := open(t, options(t, d))
	for _, tt := range []struct {
		login, password string
		want            authn.Kind // Internal for a login
		user, text      string     // text in the error, or the note
	}{
		{"alice", "pw-alice", authn.Internal, "alice", ""},
		{"ALICE", "pw-alice", authn.Internal, "alice", ""},
		{"alice@example.test", "pw-alice", authn.Internal, "alice", ""},
		{"dave", "pw-Dave", authn.Internal, "Dave", ""},
		{"plus+sign", "pw-plus+sign", authn.Internal, "plus+sign", ""},
		{"alice", "pw-bob", authn.Rejected, "", "Invalid Credentials"},
		{"alice", "\x00pw-alice", authn.Rejected, "", "NUL"}, // S-27
		{"nobody", "pw-nobody", authn.UnknownUser, "", ""},
		{"alice)(uid=*", "pw-alice", authn.UnknownUser, "", ""},
		{"expired", "pw-expired", authn.Expired, "", "password expired"},
		{"expired", "pw-wrong", authn.Rejected, "", "Invalid Credentials"},
		{"locked", "pw-locked", authn.Denied, "", "locked by the password policy"},
		{"locked", "pw-wrong", authn.Denied, "", "locked by the password policy"},
		{"mustchange", "pw-mustchange", authn.Expired, "", "password must be changed"},
		{"grace", "pw-grace", authn.Internal, "grace", "password expired, 9"},
		{"warned", "pw-warned", authn.Internal, "warned", "password expires in "},
		{"disabled", "pw-disabled", authn.Denied, "", "disabled in the directory"}, // also when the rest of the entry is no good
		{"disabled", "pw-wrong", authn.Denied, "", "disabled in the directory"},
		{"nopass", "pw-nopass", authn.Rejected, "", ""},
		{"twin", "pw-twin", authn.Unavailable, "", "more than one entry"},
		{"referred", "pw-alice", authn.UnknownUser, "", "referrals were not followed"},
		{"astray", "pw-astray", authn.Unavailable, "", "not a path below the root"},
	} {
		t.Run(tt.login+" "+tt.password, func(t *testing.T) {
			t.Parallel()
			id, err := verify(t.Context(), v, tt.login, tt.password)
			if tt.want == authn.Internal {
				if err != nil || id.User != tt.user || !strings.Contains(id.Note, tt.text) || id.Note != "" && tt.text == "" {
					t.Fatalf("got %+v, %v", id, err)
				}
				return
			}
			if id != nil || authn.KindOf(err) != tt.want || !strings.Contains(err.Error(), tt.text) {
				t.Fatalf("got %+v, %v, want %v with %q", id, err, tt.want, tt.text)
			}
			if strings.Contains(err.Error(), "pw-") {
				t.Errorf("a password is in %v", err)
			}
		})
	}
}

func TestIdentity(t *testing.T) {
	t.Parallel()
	d := shared(t)
	want := &authn.Identity{
		User: "alice", Groups: []string{"pop-users", "staff"},
		Attrs: map[string]string{authn.AttrMailHost: "mail1.example.test", authn.AttrMaildrop: "a/alice"},
	}
	read := options(t, d)
	searched := read
	searched.GroupFilter, searched.Attributes.Groups = "(member=%D)", ""
	direct := read
	direct.DN, direct.Filter = "uid=%u,"+ldaptest.People, ""
	for name, o := range map[string]Options{"memberOf": read, "groups searched for": searched, "DN by template": direct} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			id, err := verify(t.Context(), open(t, o), "alice", "pw-alice")
			if err != nil {
				t.Fatal(err)
			}
			if len(id.Groups) == 2 && id.Groups[0] > id.Groups[1] { // a set to LDAP
				id.Groups[0], id.Groups[1] = id.Groups[1], id.Groups[0]
			}
			if diff := cmp.Diff(want, id, cmpopts.IgnoreUnexported(authn.Identity{})); diff != "" {
				t.Error("(-want +got):", diff)
			}
		})
	}
	id, err := verify(t.Context(), open(t, read), "bob", "pw-bob")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"GSSAPI", "PLAIN"}, id.Mechanisms, cmp.Transformer("set", sorted)); diff != "" {
		t.Error("mechanisms (-want +got):", diff)
	}
}

func sorted(in []string) map[string]bool {
	m := map[string]bool{}
	for _, s := range in {
		m[s] = true
	}
	return m
}

// Names compare without case in a directory: without an entry to read, a login
// must still be one user.
func TestTemplateFoldsCase(t *testing.T) {
	t.Parallel()
	v := open(t, byTemplate(options(t, shared(t))))
	for login, user := range map[string]string{"Alice": "alice", "DAVE": "dave", "plus+sign": "plus+sign"} {
		password := "pw-" + user
		if user == "dave" {
			password = "pw-Dave"
		}
		id, err := verify(t.Context(), v, login, password)
		if err != nil || id.User != user {
			t.Errorf("%s: got %+v, %v, want user %s", login, id, err, user)
		}
	}
	if _, err := verify(t.Context(), v, "nobody", "pw-nobody"); authn.KindOf(err) != authn.Rejected {
		t.Errorf("a DN that is not there: %v", err)
	}
}

func TestMapPrincipal(t *testing.T) {
	t.Parallel()
	d := shared(t)
	exact := options(t, d)
	fold := exact
	fold.FoldCase = true
	verifiers := map[bool]authn.PrincipalMapper{false: open(t, exact).(authn.PrincipalMapper), true: open(t, fold).(authn.PrincipalMapper)}
	until := time.Now().Add(time.Hour)
	for _, tt := range []struct {
		fold           bool
		name, realm    string
		authzid        string
		want           authn.Kind // Internal for a login
		user           string
		whatItIsToSome string
	}{
		{false, "alice", "EXAMPLE.TEST", "", authn.Internal, "alice", "own login"},
		{false, "alice", "EXAMPLE.TEST", "alice", authn.Internal, "alice", "asked for"},
		{false, "alice", "EXAMPLE.TEST", "a.lidell", authn.Internal, "alice", "alias"},
		{false, "alice", "EXAMPLE.TEST", "bob", authn.Denied, "", "somebody else"},
		{false, "alice", "EXAMPLE.TEST", "Alice", authn.Denied, "", "login in another case"},
		{false, "alice", "EXAMPLE.TEST", "../x", authn.Denied, "", "no login"},
		{false, "Alice", "example.test", "", authn.UnknownUser, "", "the attribute's rule heeds no case, Kerberos does"},
		{true, "Alice", "example.test", "ALICE", authn.Internal, "alice", "Active Directory heeds no case"},
		{false, "alice", "OTHER.TEST", "", authn.UnknownUser, "", "other realm"},
		{false, "*", "EXAMPLE.TEST", "", authn.UnknownUser, "", "all"},
		{false, "alice@EXAMPLE.TEST)(uid=*", "", "", authn.UnknownUser, "", "parenthesis"},
		{false, "disabled", "EXAMPLE.TEST", "", authn.Denied, "", "disabled"},
		{false, "twin", "EXAMPLE.TEST", "", authn.Unavailable, "", "two entries"},
	} {
		t.Run(tt.whatItIsToSome, func(t *testing.T) {
			t.Parallel()
			p := &authn.Principal{Components: []string{tt.name}, Realm: tt.realm, Expires: until}
			id, err := verifiers[tt.fold].MapPrincipal(t.Context(), p, tt.authzid)
			if tt.want == authn.Internal {
				if err != nil || id.User != tt.user || id.Authn != p.String() || !id.Expires.Equal(until) {
					t.Errorf("got %+v, %v", id, err)
				}
				return
			}
			if id != nil || authn.KindOf(err) != tt.want {
				t.Errorf("got %+v, %v, want %v", id, err, tt.want)
			}
		})
	}
}

func TestSecret(t *testing.T) {
	t.Parallel()
	v := open(t, options(t, shared(t))).(authn.SecretSource)
	s, id, err := v.Secret(t.Context(), "alice@example.test", "CRAM-MD5")
	if err != nil || string(s) != "digest-alice" || id.User != "alice" || len(id.Groups) != 2 {
		t.Errorf("got %d octets, %+v, %v", len(s), id, err)
	}
	for _, tt := range []struct {
		login, scheme string
		want          authn.Kind
	}{
		{"alice", "APOP", authn.Decline},
		{"bob", "CRAM-MD5", authn.UnknownUser},
		{"nobody", "CRAM-MD5", authn.UnknownUser},
		{"disabled", "CRAM-MD5", authn.Denied},
		{"twin", "CRAM-MD5", authn.Unavailable},
	} {
		if s, id, err := v.Secret(t.Context(), tt.login, tt.scheme); s != nil || id != nil || authn.KindOf(err) != tt.want {
			t.Errorf("%s, %s: got %+v, %v, want %v", tt.login, tt.scheme, id, err, tt.want)
		}
	}
}

// How the verifier itself binds, and that its own trouble is never the user's.
func TestOwnBind(t *testing.T) {
	t.Parallel()
	d := shared(t)
	s := d.Servers[0]
	wrong := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(wrong, []byte("pw-wrong"), 0o600); err != nil {
		t.Fatal(err)
	}
	external := func(o *Options) { o.Bind, o.BindDN, o.BindPassword = BindExternal, "", "" }
	for _, tt := range []struct {
		name   string
		change func(*Options)
		text   string // in the outage; a login when empty
	}{
		{"password", func(*Options) {}, ""},
		{"wrong password", func(o *Options) { o.BindPassword = wrong }, "bind as the verifier: LDAP Result Code 49"},
		{"unknown DN", func(o *Options) { o.BindDN = "cn=nobody," + ldaptest.Base }, "bind as the verifier: LDAP Result Code 49"},
		{"client certificate", func(o *Options) { external(o); o.Cert, o.Key = d.Cert, d.Key }, ""},
		{"client certificate after StartTLS", func(o *Options) { external(o); o.Cert, o.Key, o.URLs = d.Cert, d.Key, []string{s.LDAP} }, ""},
		{"process at a unix socket", func(o *Options) { external(o); o.URLs = []string{s.LDAPI} }, ""},
		{"anonymous, and nothing to be seen", func(o *Options) { o.Bind, o.BindDN, o.BindPassword = BindNone, "", "" }, "search below"},
		{"base that is not there", func(o *Options) { o.Base = "ou=nowhere," + ldaptest.Base }, "No Such Object"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o := options(t, d)
			tt.change(&o)
			v := open(t, o)
			id, err := verify(t.Context(), v, "alice", "pw-alice")
			switch {
			case tt.text == "":
				if err != nil || id.User != "alice" {
					t.Errorf("got %+v, %v", id, err)
				}
			case id != nil || authn.KindOf(err) != authn.Unavailable || !strings.Contains(err.Error(), tt.text):
				t.Errorf("got %+v, %v, want an outage with %q", id, err, tt.text)
			}
		})
	}
}

// A certificate that does not lead to the CA, or is another server's, means that
// no octet of a password is sent.
func TestCertificate(t *testing.T) {
	t.Parallel()
	d := start(t, ldaptest.Options{})
	s := d.Servers[0]
	for _, tt := range []struct {
		name, url, ca, text string
	}{
		{"LDAPS, wrong CA", s.LDAPS, d.OtherCA, "certificate signed by unknown authority"},
		{"StartTLS, wrong CA", s.LDAP, d.OtherCA, "certificate signed by unknown authority"},
		{"LDAPS, wrong name", strings.Replace(s.LDAPS, "127.0.0.1", "localhost", 1), d.CA, "wanted to match localhost"},
		{"StartTLS, wrong name", strings.Replace(s.LDAP, "127.0.0.1", "localhost", 1), d.CA, "wanted to match localhost"},
		{"LDAPS, the system's CAs", s.LDAPS, "", "certificate signed by unknown authority"},
	} {
		o := options(t, d, tt.url)
		o.CA = tt.ca
		for name, o := range map[string]Options{"search": o, "template": byTemplate(o)} {
			id, err := verify(t.Context(), open(t, o), "alice", "pw-alice")
			if id != nil || authn.KindOf(err) != authn.Unavailable || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("%s, %s: got %+v, %v", tt.name, name, id, err)
			}
		}
	}
	if log := s.Log(); strings.Contains(log, "BIND") {
		t.Error("a server that could not be verified saw a bind:", log)
	}
}

// A connection that was bound as a user never serves a search, and binds share
// connections. The server's own log is the witness.
func TestPoolsApart(t *testing.T) {
	t.Parallel()
	d := start(t, ldaptest.Options{})
	o := options(t, d)
	o.Connections = 2
	v := open(t, o)
	const logins = 40
	errs := make(chan error)
	for i := range logins {
		go func() { // ended by its one login
			password := "pw-alice"
			if i%4 == 0 {
				password = "pw-wrong"
			}
			_, err := verify(t.Context(), v, "alice", password)
			if password == "pw-wrong" && authn.KindOf(err) == authn.Rejected {
				err = nil
			}
			errs <- err
		}()
	}
	for range logins {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	v.Close()
	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	searches, binds := map[string]int{}, map[string]int{}
	for _, m := range operation.FindAllStringSubmatch(d.Servers[0].Log(), -1) {
		switch {
		case m[2] == "SRCH":
			searches[m[1]]++
		case strings.HasPrefix(m[3], "uid="):
			binds[m[1]]++
		}
	}
	total := 0
	for conn, n := range binds {
		total += n
		if searches[conn] > 0 {
			t.Errorf("connection %s bound %d times as a user and searched %d times", conn, n, searches[conn])
		}
	}
	if total != logins || len(binds) > 2 || len(searches) > 2 {
		t.Errorf("%d binds on %d connections, searches on %d; want %d on at most 2 and 2", total, len(binds), len(searches), logins)
	}
}

var operation = regexp.MustCompile(`conn=(\d+) op=\d+ (?:(SRCH) base|BIND dn="([^"]*)" method)`)

// The worst hour of a directory: every login is an outage within its time, and
// the first after the hour is a login.
func TestHangAndDeath(t *testing.T) {
	t.Parallel()
	d := start(t, ldaptest.Options{})
	s := d.Servers[0]
	o := options(t, d)
	o.Timeout, o.Retry = 300*time.Millisecond, time.Millisecond
	v := open(t, o)
	good := func() {
		t.Helper()
		// a machine with too much to do may need more than the timeout
		for end := time.Now().Add(patience); ; {
			id, err := verify(t.Context(), v, "alice", "pw-alice")
			if err == nil && id.User == "alice" {
				return
			}
			if authn.KindOf(err) != authn.Unavailable || time.Now().After(end) {
				t.Fatalf("got %+v, %v", id, err)
			}
		}
	}
	bad := func(what string) {
		t.Helper()
		for _, password := range []string{"pw-alice", "pw-wrong"} {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			id, err := verify(ctx, v, "alice", password)
			if id != nil || authn.KindOf(err) != authn.Unavailable {
				t.Errorf("%s: got %+v, %v", what, id, err)
			}
			if ctx.Err() != nil {
				t.Errorf("%s: answered after %v", what, patience)
			}
		}
	}
	good()
	if err := s.Hang(); err != nil {
		t.Fatal(err)
	}
	bad("hung, on connections from before")
	bad("hung, on new connections")
	if err := s.Resume(); err != nil {
		t.Fatal(err)
	}
	good()
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	bad("dead")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.Start(ctx); err != nil {
		t.Fatal(err)
	}
	good()
}

// A server dies or hangs while a login waits for it.
func TestMidLogin(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*ldaptest.Server) error{
		"killed":                        (*ldaptest.Server).Kill,
		"given up by the client's side": func(*ldaptest.Server) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := start(t, ldaptest.Options{})
			v := open(t, options(t, d))
			if _, err := verify(t.Context(), v, "alice", "pw-alice"); err != nil {
				t.Fatal(err)
			}
			if err := d.Servers[0].Hang(); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { // ended by the end of the server or of ctx
				_, err := verify(ctx, v, "alice", "pw-alice")
				done <- err
			}()
			asked(t, v.(everything).users)
			if err := end(d.Servers[0]); err != nil {
				t.Fatal(err)
			}
			if name != "killed" {
				cancel()
			}
			select {
			case err := <-done:
				if authn.KindOf(err) != authn.Unavailable {
					t.Errorf("got %v", err)
				}
			case <-time.After(patience):
				t.Error("still waits")
			}
			cancel()
		})
	}
}

// asked waits until a question is under way.
func asked(t *testing.T, u *users) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); len(u.dir.servers[0].searches.slots)+len(u.dir.servers[0].binds.slots) == 0; <-tick.C {
		if time.Now().After(end) {
			t.Fatal("nothing is asked")
		}
	}
}

// With a second server, a user hears nothing of the trouble of the first.
func TestFailover(t *testing.T) {
	t.Parallel()
	d := start(t, ldaptest.Options{Servers: 2})
	o := options(t, d, d.Servers[0].LDAPS, d.Servers[1].LDAP)
	o.Timeout, o.Retry = 5*time.Second, time.Hour
	login := func(v Verifier, password string) error {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		_, err := verify(ctx, v, "alice", password)
		return err
	}
	v := open(t, o)
	if err := login(v, "pw-alice"); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(d.Servers[1].Log(), "SRCH") {
		t.Error("the second server was asked though the first is well")
	}
	if err := d.Servers[0].Hang(); err != nil {
		t.Fatal(err)
	}
	for _, v := range []Verifier{v, open(t, o)} {
		if err := login(v, "pw-alice"); err != nil {
			t.Error("the first hangs:", err)
		}
		if err := login(v, "pw-wrong"); authn.KindOf(err) != authn.Rejected {
			t.Error("the first hangs:", err)
		}
	}
	if err := d.Servers[0].Kill(); err != nil {
		t.Fatal(err)
	}
	if err := login(open(t, o), "pw-alice"); err != nil {
		t.Error("the first is dead:", err)
	}
	if err := d.Servers[1].Kill(); err != nil {
		t.Fatal(err)
	}
	if err := login(v, "pw-alice"); authn.KindOf(err) != authn.Unavailable {
		t.Error("both are dead:", err)
	}
}
