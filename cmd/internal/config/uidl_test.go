package config

import (
	"strings"
	"testing"
)

func TestUniqueIDProblems(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ keys, want string }{
		{"uidl: auto", ""},
		{`uidl: "dovecot:%{uidvalidity}.%{uid}", uidl_duplicates: allow`, ""},
		{"uidl: dovcot", `k.yaml:18: maildrops.uidl: no scheme of unique-ids "dovcot": there are auto, list, dovecot, courier, filename, courier-0, tpop3d, popa3d, uw, qpopper, qpopper-old, x-uidl, message-id; did you mean "dovecot"?`},
		{`uidl: "dovecot:%v"`, `k.yaml:18: maildrops.uidl: pop3_uidl_format "%v" has none of %u, %m, %f and %g: ids would be the same`},
		{"uidl: popa3d", `k.yaml:18: maildrops.uidl: popa3d does not name messages of maildrops of type maildir`},
		{"type: mbox, state: s, uidl: popa3d", ""},
		{"type: mbox, state: s, uidl: courier", `k.yaml:18: maildrops.uidl: courier does not name messages of maildrops of type mbox`},
		{"type: mbox, state: s, uidl: uw, uidl_duplicates: allow", `k.yaml:18: maildrops.uidl_duplicates: messages of an mbox are told apart by their unique-ids; write suffix`},
		{"uidl_duplicates: allow", `k.yaml:18: maildrops.uidl_duplicates: has no effect without uidl: our own unique-ids have no duplicates`},
		{"uidl: auto, uidl_duplicates: number", `k.yaml:18: maildrops.uidl_duplicates: "number" is not known; write suffix, allow`},
	} {
		_, err := Parse("k.yaml", []byte(strings.Replace(good, "root: mail", "root: mail, "+tt.keys, 1)))
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s: %v", tt.keys, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: got\n%v\nwant\n%s", tt.keys, err, tt.want)
		}
	}
}
