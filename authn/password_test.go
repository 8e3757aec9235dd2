package authn

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

func TestRule186PasswordNeverPrints(t *testing.T) {
	t.Parallel()
	const secret = "s3cr3t-wörd"
	p := Password(secret)
	r := &PasswordRequest{Login: "alice", Password: p}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%o", "%b", "%c", "%U", "%t", "%08.3f"} {
		for _, v := range []any{p, &p, r, *r, []Password{p}, map[string]Password{"k": p}, struct{ P any }{p}, fmt.Errorf("%w: %v", fmt.Errorf("x"), p)} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
	}
	fmt.Fprintln(&out, p, r, []any{p})
	for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(h).Info("x", "p", p, "r", r, "g", slog.GroupValue(slog.Any("p", p)), "s", []Password{p})
	}
	for _, v := range []any{p, r, map[string]Password{"k": p}, []Password{p}} {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(b)
	}
	for _, v := range []any{p, struct{ P Password }{p}, []Password{p}} {
		b, err := yaml.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(b)
	}
	for _, form := range []string{"%s", "%x", "%X", "% x", "%d", "%q", "%o", "%b", "%U", "%v"} {
		for _, v := range []any{secret, []byte(secret), []byte(secret)[:6]} {
			leak := strings.Trim(fmt.Sprintf(form, v), `[]"`)
			if strings.Contains(out.String(), leak) {
				t.Errorf("shows itself as %s", leak)
			}
		}
	}
	if !strings.Contains(out.String(), "***") {
		t.Error("nothing was printed")
	}
}

func TestPasswordWipe(t *testing.T) {
	t.Parallel()
	p := Password("secret")
	p.Wipe()
	if !bytes.Equal(p, make([]byte, 6)) {
		t.Error("octets are left")
	}
}
