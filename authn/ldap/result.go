package ldap

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/kpopd/kpopd/authn"
)

// outcome says what the answer to a user's bind means. A code that is not in
// the table is an outage: a directory in trouble must never read as a wrong
// password.
func outcome(result *ldap.SimpleBindResult, err error) (kind authn.Kind, note string, _ error) {
	var policy passwordPolicy
	if result != nil {
		policy = policyOf(result.Controls)
	}
	if kind, why := policy.refusal(); why != nil && (err == nil || refusedByPolicy(err)) {
		return kind, "", errors.Join(why, err)
	}
	if err == nil {
		return 0, policy.note(), nil
	}
	var e *ldap.Error
	if !errors.As(err, &e) {
		return authn.Unavailable, "", err
	}
	switch e.ResultCode {
	case ldap.LDAPResultInvalidCredentials:
		kind, why := activeDirectory(e)
		return kind, "", errors.Join(why, err)
	case ldap.LDAPResultNoSuchObject:
		return authn.UnknownUser, "", err
	case ldap.LDAPResultInappropriateAuthentication:
		return authn.Rejected, "", fmt.Errorf("the entry has no password: %w", err)
	case ldap.LDAPResultInsufficientAccessRights:
		return authn.Denied, "", fmt.Errorf("the directory does not let this user bind: %w", err)
	case ldap.LDAPResultConstraintViolation: // 389 Directory Server: "Exceed password retry limit"
		return authn.Denied, "", fmt.Errorf("locked: %w", err)
	}
	return authn.Unavailable, "", err
}

// refusedByPolicy reports whether an answer is one that a password policy gives
// a reason for, so that a control beside an outage does not hide it.
func refusedByPolicy(err error) bool {
	return ldap.IsErrorAnyOf(err, ldap.LDAPResultInvalidCredentials, ldap.LDAPResultUnwillingToPerform,
		ldap.LDAPResultInsufficientAccessRights, ldap.LDAPResultConstraintViolation)
}

// passwordPolicy is what the controls of draft-behera-ldap-password-policy and
// of the older draft-vchu-ldap-pwd-policy say.
type passwordPolicy struct {
	locked, expired, mustChange bool
	grace                       int64         // logins left with an expired password; -1 when the server does not say
	left                        time.Duration // until the password expires; -1 when the server does not say
}

func policyOf(controls []ldap.Control) passwordPolicy {
	p := passwordPolicy{grace: -1, left: -1}
	for _, c := range controls {
		switch c := c.(type) {
		case *ldap.ControlBeheraPasswordPolicy:
			p.grace = c.Grace
			if c.Expire >= 0 {
				p.left = time.Duration(c.Expire) * time.Second
			}
			p.expired = p.expired || c.Error == ldap.BeheraPasswordExpired
			p.locked = p.locked || c.Error == ldap.BeheraAccountLocked
			p.mustChange = p.mustChange || c.Error == ldap.BeheraChangeAfterReset
		case *ldap.ControlVChuPasswordMustChange:
			p.mustChange = p.mustChange || c.MustChange
		case *ldap.ControlVChuPasswordWarning:
			if c.Expire >= 0 {
				p.left = time.Duration(c.Expire) * time.Second
			}
		}
	}
	return p
}

// refusal is why the policy lets nobody in, whatever the bind said: a password
// that must be changed cannot be changed here.
func (p passwordPolicy) refusal() (authn.Kind, error) {
	switch {
	case p.locked:
		return authn.Denied, errors.New("locked by the password policy")
	case p.expired:
		return authn.Expired, errors.New("password expired")
	case p.mustChange:
		return authn.Expired, errors.New("password must be changed")
	}
	return 0, nil
}

func (p passwordPolicy) note() string {
	switch {
	case p.grace >= 0:
		return fmt.Sprintf("password expired, %d logins left", p.grace)
	case p.left >= 0:
		return fmt.Sprintf("password expires in %v", p.left)
	}
	return ""
}

// subcode is where Active Directory says why it refused, and Samba as it does.
var subcode = regexp.MustCompile(`AcceptSecurityContext error, data ([0-9A-Fa-f]+)\b`)

// activeDirectory reads the reason that Active Directory has for invalid
// credentials. It says anything but 525, 52e and 775 only when the password was
// right.
func activeDirectory(e *ldap.Error) (authn.Kind, error) {
	if e.Err == nil {
		return authn.Rejected, nil
	}
	m := subcode.FindStringSubmatch(e.Err.Error())
	if m == nil {
		return authn.Rejected, nil
	}
	switch strings.ToLower(m[1]) {
	case "525":
		return authn.UnknownUser, nil
	case "52f":
		return authn.Denied, errors.New("account restriction")
	case "530":
		return authn.Denied, errors.New("not at this hour")
	case "531":
		return authn.Denied, errors.New("not from this machine")
	case "532":
		return authn.Expired, errors.New("password expired")
	case "533":
		return authn.Denied, errors.New("account disabled")
	case "701":
		return authn.Expired, errors.New("account expired")
	case "773":
		return authn.Expired, errors.New("password must be changed")
	case "775":
		return authn.Denied, errors.New("account locked")
	}
	return authn.Rejected, nil // 52e among them
}
