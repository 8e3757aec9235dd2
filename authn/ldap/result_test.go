package ldap

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/go-ldap/ldap/v3"

	"github.com/kpopd/kpopd/authn"
)

// microsoft is how Active Directory words its refusals.
func microsoft(data string) string {
	return "80090308: LdapErr: DSID-0C0903A9, comment: AcceptSecurityContext error, data " + data + ", v1db1\x00"
}

func behera(expire, grace int64, code int8) ldap.Control {
	return &ldap.ControlBeheraPasswordPolicy{Expire: expire, Grace: grace, Error: code}
}

func TestOutcome(t *testing.T) {
	t.Parallel()
	said := func(code uint16, text string) error { return ldap.NewError(code, errors.New(text)) }
	const accepted = authn.Internal
	for _, tt := range []struct {
		name    string
		err     error
		control ldap.Control
		want    authn.Kind
		text    string // in the error or the note
	}{
		{"success", nil, nil, accepted, ""},
		{"success, nothing from the policy", nil, behera(-1, -1, -1), accepted, ""},
		{"success, about to expire", nil, behera(7200, -1, -1), accepted, "password expires in 2h0m0s"},
		{"success on grace", nil, behera(-1, 2, -1), accepted, "password expired, 2 logins left"},
		{"success on the last grace", nil, behera(-1, 0, -1), accepted, "password expired, 0 logins left"},
		{"success, must change", nil, behera(-1, -1, ldap.BeheraChangeAfterReset), authn.Expired, "must be changed"},
		{"success, old control, must change", nil, &ldap.ControlVChuPasswordMustChange{MustChange: true}, authn.Expired, "must be changed"},
		{"success, old control, about to expire", nil, &ldap.ControlVChuPasswordWarning{Expire: 60}, accepted, "password expires in 1m0s"},
		{"success, but locked", nil, behera(-1, -1, ldap.BeheraAccountLocked), authn.Denied, "locked"},
		{"wrong password", said(49, ""), behera(-1, -1, -1), authn.Rejected, ""},
		{"expired by policy", said(49, ""), behera(-1, -1, ldap.BeheraPasswordExpired), authn.Expired, "password expired"},
		{"locked by policy", said(49, ""), behera(-1, -1, ldap.BeheraAccountLocked), authn.Denied, "locked by the password policy"},
		{"locked by policy, unwilling", said(53, ""), behera(-1, -1, ldap.BeheraAccountLocked), authn.Denied, "locked"},
		{"busy, whatever the policy", said(51, ""), behera(-1, -1, ldap.BeheraAccountLocked), authn.Unavailable, "Busy"},
		{"error of the policy that is about changes", said(49, ""), behera(-1, -1, ldap.BeheraPasswordTooShort), authn.Rejected, ""},

		{"AD: no such user", said(49, microsoft("525")), nil, authn.UnknownUser, "data 525"},
		{"AD: wrong password", said(49, microsoft("52e")), nil, authn.Rejected, "data 52e"},
		{"AD: restriction", said(49, microsoft("52f")), nil, authn.Denied, "account restriction"},
		{"AD: hour", said(49, microsoft("530")), nil, authn.Denied, "not at this hour"},
		{"AD: workstation", said(49, microsoft("531")), nil, authn.Denied, "not from this machine"},
		{"AD: password expired", said(49, microsoft("532")), nil, authn.Expired, "password expired"},
		{"AD: disabled", said(49, microsoft("533")), nil, authn.Denied, "account disabled"},
		{"AD: account expired", said(49, microsoft("701")), nil, authn.Expired, "account expired"},
		{"AD: must change", said(49, microsoft("773")), nil, authn.Expired, "must be changed"},
		{"AD: locked", said(49, microsoft("775")), nil, authn.Denied, "account locked"},
		{"AD: upper case", said(49, microsoft("52E")), nil, authn.Rejected, ""},
		{"AD: a reason nobody knows", said(49, microsoft("999")), nil, authn.Rejected, "data 999"},
		{"no reason of AD's", said(49, "data 533"), nil, authn.Rejected, ""},

		{"no such object", said(32, ""), nil, authn.UnknownUser, ""},
		{"no password", said(48, ""), nil, authn.Rejected, "no password"},
		{"may not bind", said(50, ""), nil, authn.Denied, "does not let"},
		{"retry limit", said(19, "Exceed password retry limit."), nil, authn.Denied, "locked"},

		{"operations error", said(1, ""), nil, authn.Unavailable, ""},
		{"protocol error", said(2, ""), nil, authn.Unavailable, ""},
		{"time limit", said(3, ""), nil, authn.Unavailable, ""},
		{"no simple bind", said(7, ""), nil, authn.Unavailable, ""},
		{"stronger authentication", said(8, ""), nil, authn.Unavailable, ""},
		{"referral", said(10, ""), nil, authn.Unavailable, ""},
		{"administrative limit", said(11, ""), nil, authn.Unavailable, ""},
		{"confidentiality", said(13, ""), nil, authn.Unavailable, ""},
		{"bind in progress", said(14, ""), nil, authn.Unavailable, ""},
		{"invalid DN", said(34, ""), nil, authn.Unavailable, ""},
		{"busy", said(51, ""), nil, authn.Unavailable, ""},
		{"unavailable", said(52, ""), nil, authn.Unavailable, ""},
		{"unwilling", said(53, ""), nil, authn.Unavailable, ""},
		{"other", said(80, ""), nil, authn.Unavailable, ""},
		{"server down", said(81, ""), nil, authn.Unavailable, ""},
		{"network", said(ldap.ErrorNetwork, "reset"), nil, authn.Unavailable, "reset"},
		{"code of nobody's", said(4711, ""), nil, authn.Unavailable, ""},
		{"no answer", errors.New("EOF"), nil, authn.Unavailable, "EOF"},
		{"no server", &downError{err: said(49, "the verifier's own password")}, nil, authn.Unavailable, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			result := &ldap.SimpleBindResult{}
			if tt.control != nil {
				result.Controls = append(result.Controls, tt.control)
			}
			kind, note, err := outcome(result, tt.err)
			text := note
			if err != nil {
				text = err.Error()
			}
			if kind != tt.want || (err == nil) != (tt.want == accepted) || !strings.Contains(text, tt.text) || text != "" && err == nil && tt.text == "" {
				t.Errorf("got %v, %q, %v", kind, note, err)
			}
		})
	}
}

// Whatever a server says: what is not success is an error, and nothing but the
// codes of the table is a refusal.
func FuzzOutcome(f *testing.F) {
	f.Add(uint16(0), "", int64(-1), int64(-1), int8(-1))
	f.Add(uint16(49), microsoft("52e"), int64(-1), int64(-1), int8(-1))
	f.Add(uint16(49), microsoft("773"), int64(-1), int64(-1), int8(-1))
	f.Add(uint16(53), "", int64(-1), int64(3), int8(1))
	f.Add(uint16(52), "data 52e", int64(1<<62), int64(-5), int8(0))
	f.Fuzz(func(t *testing.T, code uint16, text string, expire, grace int64, policy int8) {
		var said error
		if code != 0 {
			said = ldap.NewError(code, errors.New(text))
		}
		kind, note, err := outcome(&ldap.SimpleBindResult{Controls: []ldap.Control{behera(expire, grace, policy)}}, said)
		switch {
		case code != 0 && err == nil:
			t.Fatalf("code %d is success", code)
		case err == nil:
			if policy >= 0 && policy <= 2 {
				t.Fatalf("policy error %d is success", policy)
			}
			if strings.ContainsAny(note, "\r\n") {
				t.Fatalf("note %q", note)
			}
		case kind == authn.Internal || kind == authn.Decline:
			t.Fatalf("code %d is %v", code, kind)
		case kind != authn.Unavailable:
			if !ldap.IsErrorAnyOf(said, 49, 53, 32, 48, 50, 19) && said != nil {
				t.Fatalf("code %d is %v", code, kind)
			}
		}
	})
}

func ExampleOpen() {
	v, err := Open("campus", Options{
		URLs: []string{"ldaps://ldap1.campus.example", "ldaps://ldap2.campus.example"},
		DN:   "uid=%u,ou=people,dc=campus,dc=example",
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer v.Close()
	_, secrets := v.(authn.SecretSource)
	_, tickets := v.(authn.PrincipalMapper)
	fmt.Println(v.Name(), "judges passwords; secrets:", secrets, "tickets:", tickets)
	// Output: campus judges passwords; secrets: false tickets: false
}
