package remote

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/krb5"
)

// maxText is how many octets of an error's text cross: some hold a stack.
const maxText = 16 << 10

// failure is an error of package authn or krb5. Kinds cross by name, as a later
// release may number them in another way; one that is not known is Internal.
type failure struct {
	Kind    string    `json:"kind"`
	Step    []byte    `json:"step,omitempty"`
	Text    []byte    `json:"text,omitempty"`
	Cause   []byte    `json:"cause,omitempty"`
	Panic   *panicked `json:"panic,omitempty"`
	Refusal *refusal  `json:"refusal,omitempty"`
	Helper  bool      `json:"helper,omitempty"`  // of the helper itself: its chain was not asked
	Foreign bool      `json:"foreign,omitempty"` // neither of the two: Cause is its text
}

type panicked struct {
	Value []byte `json:"value"`
	Stack []byte `json:"stack"`
}

// refusal is what a krb5.Error has besides.
type refusal struct {
	Code        int32    `json:"code"`
	ServiceType int32    `json:"service_type,omitempty"`
	Service     [][]byte `json:"service,omitempty"`
	Realm       []byte   `json:"realm,omitempty"`
}

func failureOf(err error) *failure {
	if err == nil {
		return nil
	}
	f := &failure{Kind: authn.KindOf(err).String()}
	var cause error
	if ke, ok := err.(*krb5.Error); ok {
		f.Text, cause = bounded(ke.Text), ke.Err
		nameType, components, realm := ke.Service()
		f.Refusal = &refusal{ke.Code, nameType, octetsOf(components), []byte(realm)}
	} else if ae, ok := err.(*authn.Error); ok {
		f.Step, f.Text, cause = []byte(ae.Step), bounded(ae.Text), ae.Err
	} else {
		f.Foreign, cause = true, err
		if errors.As(err, &ae) {
			f.Step, f.Text = []byte(ae.Step), bounded(ae.Text)
		}
	}
	switch p, ok := cause.(*authn.PanicError); {
	case ok:
		f.Panic = &panicked{bounded(fmt.Sprint(p.Value)), bounded(string(p.Stack))}
	case cause != nil:
		f.Cause = bounded(cause.Error())
	}
	return f
}

// ownFailure is the helper's own, which is no answer of its chain.
func ownFailure(kind authn.Kind, err error) *failure {
	f := failureOf(&authn.Error{Kind: kind, Step: "helper", Err: err})
	f.Helper = true
	return f
}

func bounded(text string) []byte { return []byte(text[:min(len(text), maxText)]) }

// restore is the error again: of the same kind and with the same texts.
func (f *failure) restore() error {
	if f == nil {
		return nil
	}
	kind := kindNamed(f.Kind)
	var cause error
	switch {
	case f.Panic != nil:
		cause = &authn.PanicError{Value: string(f.Panic.Value), Stack: f.Panic.Stack}
	case f.Cause != nil:
		cause = errors.New(string(f.Cause))
	}
	switch {
	case f.Foreign:
		return &foreign{authn.Error{Kind: kind, Step: string(f.Step), Text: string(f.Text), Err: cause}}
	case f.Refusal != nil:
		e := &krb5.Error{Code: f.Refusal.Code, Text: string(f.Text), Kind: kind, Err: cause}
		e.SetService(f.Refusal.ServiceType, stringsOf(f.Refusal.Service), string(f.Refusal.Realm))
		return e
	default:
		return &authn.Error{Kind: kind, Step: string(f.Step), Text: string(f.Text), Err: cause}
	}
}

func kindNamed(name string) authn.Kind {
	return authn.Kind(max(0, slices.Index(kinds(), name))) // Internal is 0
}

// kinds are the names of all kinds in their order.
func kinds() []string {
	var list []string
	for k := authn.Internal; !strings.HasPrefix(k.String(), "kind-"); k++ {
		list = append(list, k.String())
	}
	return list
}

// foreign is an error of another type: a deadline, what nobody classified, or
// one of ours with words around it, which Err has.
type foreign struct{ ours authn.Error }

func (e *foreign) Error() string {
	if e.ours.Err == nil {
		return e.ours.Kind.String()
	}
	return e.ours.Err.Error()
}

func (e *foreign) Unwrap() error { return e.ours.Err }

// As makes an authn.Error of e, so that [authn.KindOf] knows it.
func (e *foreign) As(target any) bool {
	t, ok := target.(**authn.Error)
	if ok {
		*t = &e.ours
	}
	return ok
}
