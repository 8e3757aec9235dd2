package remote

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/authntest"
	"github.com/kpopd/kpopd/authn/krb5"
)

// FuzzFront sends a helper what a front that was taken over may send. Whatever
// that is, the helper goes on to serve others, answers are frames, and nobody is
// let in without the password.
func FuzzFront(f *testing.F) {
	hello := must(frame(&message{Op: opHello, Version: version}, nil))
	for _, m := range []struct {
		m       message
		payload string
	}{
		{message{Op: opPassword, ID: 1, Login: []byte("alice"), Transport: &transport{}}, "pw-bob"},
		{message{Op: opPassword, ID: 1, Login: []byte("alice"), Left: 1}, "pw-alice"},
		{message{Op: opSecret, ID: 2, Login: []byte("alice"), Scheme: "CRAM-MD5"}, ""},
		{message{Op: opPrincipal, ID: 3, Principal: &principal{Components: [][]byte{[]byte("\xff")}}, Authzid: []byte("alice")}, ""},
		{message{Op: opPrincipal, ID: 3}, ""},
		{message{Op: opFind, ID: 3, Login: []byte("alice")}, ""},
		{message{Op: opAccept, ID: 4}, "garbage"},
		{message{Op: opCancel, ID: 1}, ""},
		{message{Op: opVerdict, ID: 4, Failure: &failure{Kind: "denied"}}, ""},
		{message{Op: opHello, Version: 9}, ""},
		{message{Op: "other", ID: 1 << 63}, ""},
	} {
		b := must(frame(&m.m, []byte(m.payload)))
		f.Add(append(bytes.Clone(hello), b...))
		f.Add(slices.Concat(hello, b, b[:len(b)-1]))
		f.Add(b)
	}
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, sent []byte) {
		people := &authntest.Fake{
			Passwords: map[string]string{"alice": "pw-alice"},
			Err:       nil,
		}
		s := &Server{Log: slog.New(slog.DiscardHandler)}
		s.SetJudge(&Judge{Chain: people.Chain(), Tickets: new(krb5.Acceptor)})
		front, helper := net.Pipe()
		ended := make(chan struct{})
		go func() { // ended by the end of what is sent
			defer close(ended)
			_ = s.serve(t.Context(), helper)
			helper.Close()
		}()
		go func() { // ended by serve
			_, _ = front.Write(sent)
			front.Close()
		}()
		for {
			m, _, err := readFrame(front)
			if err != nil {
				if err != io.EOF && err != io.ErrClosedPipe && err != io.ErrUnexpectedEOF {
					t.Errorf("the helper sends %v", err)
				}
				break
			}
			if m.Identity != nil && !bytes.Contains(sent, []byte("pw-alice")) {
				t.Errorf("let in as %q", m.Identity.User)
			}
		}
		<-ended
	})
}

// FuzzMessage: what can be read survives being written again, and what is made
// of it is good to use.
func FuzzMessage(f *testing.F) {
	for _, m := range []message{
		{Op: opAnswer, ID: 7, Identity: &identity{User: []byte("alice"), Attrs: map[string][]byte{"k": {0xff}}}},
		{Op: opAnswer, ID: 8, Steps: []step{{Step: []byte("file"), Failure: &failure{Kind: "internal", Panic: &panicked{Value: []byte("v")}}}}},
		{Op: opAnswer, Failure: &failure{Kind: "rejected", Refusal: &refusal{Code: 37, Service: [][]byte{[]byte("pop")}}}},
		{Op: opCheck, Context: &sessionContext{Principal: &principal{}, Session: keyShape{18, 32}, Subkey: keyShape{17, 16}}},
	} {
		f.Add(must(json.Marshal(m)), make([]byte, 48))
	}
	f.Fuzz(func(t *testing.T, head, payload []byte) {
		if len(head) > maxHead || len(payload) > maxPayload {
			return
		}
		m := new(message)
		if json.Unmarshal(head, m) != nil {
			return
		}
		b, err := frame(m, payload)
		if err != nil {
			return // octets that JSON writes in another way may be more
		}
		again, rest, err := readFrame(bytes.NewReader(b))
		if err != nil || !bytes.Equal(rest, payload) {
			t.Fatalf("written and not read: %v", err)
		}
		twice := must(frame(again, rest))
		if diff := cmp.Diff(b, twice); diff != "" {
			t.Error(diff)
		}
		if err := m.Failure.restore(); (err == nil) != (m.Failure == nil) || err != nil && authn.KindOf(err) != kindNamed(m.Failure.Kind) && m.Failure.Cause == nil {
			t.Errorf("%+v is restored as %v", m.Failure, err)
		}
		_ = m.Identity.restore()
		_ = m.Transport.restore()
		_ = m.Principal.restore().String()
		_ = restoreSteps(m.Steps)
		if c, err := m.Context.restore(payload); err == nil && c.Session.IsZero() {
			t.Error("a context without a key")
		}
	})
}

func must[T any](x T, err error) T {
	if err != nil {
		panic(err)
	}
	return x
}
