package config

import (
	"strings"
	"testing"
)

func TestMboxProblems(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, maildrops, want string }{
		{"no state", "{type: mbox, root: mail}", `k.yaml:18: maildrops.state: missing; name a directory of the server's own, for indexes, journals and session locks`},
		{"key of Maildirs", "{type: mbox, root: mail, state: s, create: true}", `k.yaml:18: maildrops.create: has no effect without type: maildir`},
		{"cache of Maildirs", "{type: mbox, root: mail, state: s, cache_memory: 7}", `k.yaml:18: maildrops.cache_memory: has no effect without type: maildir`},
		{"key of spool files", "{root: mail, lock_wait: 3s}", `k.yaml:18: maildrops.lock_wait: has no effect without type: mbox`},
		{"state of Maildirs", "{type: maildir, root: mail, state: s}", `k.yaml:18: maildrops.state: has no effect without type: mbox`},
		{"unknown type", "{type: mboxes, root: mail}", `k.yaml:18: maildrops.type: "mboxes" is not known; write maildir, mbox; did you mean "mbox"?`},
		{"unknown lock", "{type: mbox, root: mail, state: s, locks: [flock]}", `k.yaml:18: maildrops.locks[0]: "flock" is not known; write fcntl, dotlock`},
		{"lock without a name", `{type: mbox, root: mail, state: s, locks: [""]}`, `k.yaml:18: maildrops.locks[0]: "\"\"" is not known; write fcntl, dotlock`},
		{"lock taken twice", "{type: mbox, root: mail, state: s, locks: [fcntl, fcntl]}", `k.yaml:18: maildrops.locks[1]: fcntl is taken twice`},
		{"wait that no client waits", "{type: mbox, root: mail, state: s, lock_wait: 5m}", `k.yaml:18: maildrops.lock_wait: 5m0s is out of range; up to 1m, as clients do not wait for longer`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			text := strings.Replace(good, "maildrops: {root: mail}", "maildrops: "+c.maildrops, 1)
			if _, err := Parse("k.yaml", []byte(text)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v\nwant %s", err, c.want)
			}
		})
	}
	c, err := Parse("/etc/kpopd/k.yaml", []byte(strings.Replace(good, "{root: mail}", "{type: mbox, root: /var/mail, state: state, locks: [dotlock, fcntl], lock_wait: 5s}", 1)))
	if err != nil || c.Maildrops.State != "/etc/kpopd/state" {
		t.Errorf("got %v, %+v", err, c)
	}
}
