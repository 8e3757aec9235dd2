package krb5

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jcmturner/gofork/encoding/asn1"
	"github.com/jcmturner/gokrb5/v8/iana/asnAppTag"
	"github.com/jcmturner/gokrb5/v8/iana/nametype"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"

	"github.com/kpopd/kpopd/authn"
)

// Codes of KRB-ERROR (RFC 4120 section 7.5.9).
const (
	CodeEtypeNoSupp  int32 = 14
	CodeBadIntegrity int32 = 31
	CodeExpired      int32 = 32
	CodeNotYetValid  int32 = 33
	CodeRepeat       int32 = 34
	CodeNotUs        int32 = 35
	CodeBadMatch     int32 = 36
	CodeSkew         int32 = 37
	CodeBadAddr      int32 = 38
	CodeBadVersion   int32 = 39
	CodeMsgType      int32 = 40
	CodeBadKeyVer    int32 = 44
	CodeNoKey        int32 = 45
	CodeInappCksum   int32 = 50
	CodePath         int32 = 51
	CodeGeneric      int32 = 60
)

// Error is why an AP-REQ was refused.
type Error struct {
	Code int32      // of KRB-ERROR
	Text string     // e-text: what the user's client shows; one ASCII line without secrets
	Kind authn.Kind // what it means to the session
	Err  error      // for the log; may be nil

	service types.PrincipalName // that the ticket was for, as far as it was read
	realm   string
}

func (e *Error) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("%s (KRB-ERROR %d)", e.Text, e.Code)
	}
	return fmt.Sprintf("%s (KRB-ERROR %d): %v", e.Text, e.Code, e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// As makes an [authn.Error] of e, so that [authn.KindOf] knows it.
func (e *Error) As(target any) bool {
	t, ok := target.(**authn.Error)
	if ok {
		*t = &authn.Error{Kind: e.Kind, Step: "krb5", Err: errors.New(e.Error()), Text: e.Text}
	}
	return ok
}

// ErrorReply is the KRB-ERROR for an error of Accept, in DER. Of an error that
// is none of ours it tells nothing.
func ErrorReply(err error) []byte {
	e := &Error{Code: CodeGeneric, Text: "Authentication failed"}
	var ae *authn.Error
	if !errors.As(err, &e) && errors.As(err, &ae) && ae.Text != "" {
		e.Text = ae.Text
	}
	service, realm := e.service, e.realm
	if n := len(nameOf(service, realm).key()); len(service.NameString) == 0 || n > 512 { // no echo for a flood
		realm = ""
		service = types.PrincipalName{NameType: nametype.KRB_NT_UNKNOWN, NameString: []string{"pop"}}
	}
	m := messages.NewKRBError(service, realm, e.Code, printable(e.Text))
	b, err := m.Marshal()
	if err != nil { // a name that cannot be encoded: say it without the name
		m = messages.NewKRBError(types.PrincipalName{NameString: []string{"pop"}}, "", e.Code, "Authentication failed")
		b, _ = m.Marshal()
	}
	return b
}

// printable bounds text and leaves only ASCII in it: KRB-ERROR's e-text is a
// GeneralString that clients print as it is.
func printable(text string) string {
	text = text[:min(len(text), 200)]
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r > 0x7e {
			return '?'
		}
		return r
	}, text)
}

// ParseError reads a KRB-ERROR.
func ParseError(der []byte) (code int32, text string, err error) {
	defer caught(&err)
	var m messages.KRBError
	if _, err := asn1.UnmarshalWithParams(der, &m, fmt.Sprintf("application,explicit,tag:%d", asnAppTag.KRBError)); err != nil {
		return 0, "", fmt.Errorf("read KRB-ERROR: %w", err)
	}
	return m.ErrorCode, strings.TrimRight(m.EText, "\x00"), nil
}
