package peers

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kpopd/kpopd/krb5test"
	pop3client "github.com/kpopd/kpopd/pop3/client"
)

// guide is the sections of configs/MIGRATION.md by their titles: commands and the
// configuration of maildrops.
func guide(t *testing.T) map[string][2]string {
	t.Helper()
	text, err := os.ReadFile("../../../configs/MIGRATION.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string][2]string{}
	for _, section := range strings.Split(string(text), "\n## ")[1:] {
		title, body, _ := strings.Cut(section, "\n")
		sh, yaml := fenced.FindAllStringSubmatch(body, -1), [][]string(nil)
		if len(sh) == 2 && sh[0][1] == "sh" && sh[1][1] == "yaml" {
			sh, yaml = sh[:1], sh[1:]
		} else {
			t.Fatalf("%s: want commands and then a configuration", title)
		}
		sections[title] = [2]string{sh[0][2], yaml[0][2]}
	}
	return sections
}

var fenced = regexp.MustCompile("(?ms)^```([a-z]+)\n(.*?)^```")

// TestMigrationGuide follows each section of the guide to a server whose clients
// see the old ids: at first, after renames, when what the old server left is
// gone and kpopd's index too, and after a restart; and new mail beside them.
func TestMigrationGuide(t *testing.T) {
	t.Parallel()
	krb5test.Need(t, "sh", "cp")
	sections := guide(t)
	for title, m := range map[string]struct {
		files map[string]string // in /srv/old
		want  []string
	}{
		"From Dovecot": {map[string]string{
			"vmail/alice/Maildir/cur/1709546400.M1P1.host,S=18:2,S": "",
			"vmail/alice/Maildir/cur/1709546401.M2P1.host:2,":       "",
			"vmail/alice/Maildir/new/1709546402.M3P1.host":          "",
			"vmail/alice/Maildir/dovecot-uidlist":                   "3 V1709546912 N9 G3abdab3af5de056b7f1c000083ecc375\n3 W21 :1709546400.M1P1.host,S=18\n7 Psaved.id W21 :1709546401.M2P1.host\n",
		}, []string{"0000000365e59da0", "saved.id", "1709546402.M3P1.host"}},
		"From Courier": {map[string]string{
			"home/alice/Maildir/cur/1709546400.M1P1.host:2,S": "",
			"home/alice/Maildir/cur/1709546401.M'P1.host:2,":  "",
			"home/alice/Maildir/cur/1709546402.M3P1.host:2,":  "",
			"home/alice/Maildir/courierpop3dsizelist":         "/3 9 1709546912\n1709546400.M1P1.host:2,S 21 4:1709546912:0\n1709546401.M'P1.host:2, 21 0:0:0\n1709546402.M3P1.host:2, 21 7:0:0\n",
		}, []string{"UID4-1709546912", "1709546401.M+27P1.host", "UID7"}},
		"From Cyrus": {map[string]string{
			"spool/user/alice/2.": "", "spool/user/alice/10.": "", "spool/user/alice/1.": "",
			"spool/user/alice/cyrus.index": "",
		}, []string{"1709546912.1", "1709546912.2", "1709546912.10"}},
		"From qmail, notqmail and tpop3d": {map[string]string{
			"home/alice/Maildir/cur/1709546400.1.host:2,S": "",
			"home/alice/Maildir/new/1709546401.2.host":     "",
		}, []string{"1709546400.1.host", "1709546401.2.host"}},
	} {
		section, ok := sections[title]
		delete(sections, title)
		old, _, _ := strings.Cut(strings.TrimPrefix(title, "From "), ",") // a path must do without commas
		t.Run(old, func(t *testing.T) {
			if !ok {
				t.Fatal("no such section")
			}
			t.Parallel()
			migrate(t, section[0], section[1], m.files, m.want)
		})
	}
	for title, section := range sections {
		if strings.HasPrefix(title, "From popa3d") {
			t.Run("spool", func(t *testing.T) { t.Parallel(); migrateSpool(t, section[0], section[1]) })
			continue
		}
		t.Errorf("nothing tests the section %q", title)
	}
}

func migrate(t *testing.T, commands, maildrops string, files map[string]string, want []string) {
	s := newServer(t.TempDir())
	here := strings.NewReplacer("/srv/old/home", s.dir+"/old/home", "/srv/old", s.dir+"/old", "/var/vmail", s.dir+"/mail", "/home", s.dir+"/mail")
	for name, text := range files {
		leave(t, filepath.Join(s.dir, "old", name), text)
	}
	if err := os.Mkdir(filepath.Join(s.dir, "mail"), 0o700); err != nil {
		t.Fatal(err)
	}
	sh := exec.CommandContext(t.Context(), "sh", "-e", "-c", here.Replace(commands))
	if out, err := sh.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s.serveMigrated(t, here.Replace(maildrops))
	wantIDs(t, s, "at first", want)

	maildir := filepath.Join(s.dir, "mail", "alice", "Maildir")
	for _, path := range glob(t, maildir, "cur", "*") {
		base, _, _ := strings.Cut(path, ":")
		if err := os.Rename(path, base+":2,FS"); err != nil {
			t.Fatal(err)
		}
	}
	wantIDs(t, s, "with other flags", want)
	for _, name := range []string{"dovecot-uidlist", "courierpop3dsizelist", "kpopd-uidl"} {
		if err := os.RemoveAll(filepath.Join(maildir, name)); err != nil {
			t.Fatal(err)
		}
	}
	s.write(t, "mail/alice/Maildir/new/2709546400.M9P1.host", "Subject: new\n\nbody\n")
	want = append(slices.Clone(want), "2709546400.M9P1.host")
	wantIDs(t, s, "with new mail, and without the old server's files", want)

	s.stop(t)
	s.killed = true // its end has been seen
	for _, path := range glob(t, maildir, ".kpopd.index*") {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	s = newServer(s.dir)
	s.serveMigrated(t, here.Replace(maildrops))
	wantIDs(t, s, "after a restart, without the index", want)
}

// migrateSpool follows the section on mbox, with the first messages of popa3d's
// fixture in maildrop/uidl.
func migrateSpool(t *testing.T, commands, maildrops string) {
	s := newServer(t.TempDir())
	here := strings.NewReplacer("/srv/old", s.dir+"/old", "/var/mail", s.dir+"/mail", "/var/lib/kpopd", s.dir+"/state")
	const from = "From b@example.test Mon Mar  4 10:00:01 2024\n"
	leave(t, filepath.Join(s.dir, "old/mail/alice"), from+"Date:\ttab\nSubject: n1\n\nbody 1\n\n"+from+"Date:  two blanks\nSubject: n2\n\nbody 2\n\n")
	if err := os.Mkdir(filepath.Join(s.dir, "mail"), 0o700); err != nil {
		t.Fatal(err)
	}
	sh := exec.CommandContext(t.Context(), "sh", "-e", "-c", here.Replace(commands))
	if out, err := sh.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s.serveMigrated(t, here.Replace(maildrops))
	want := []string{"66ac8f5765a17d53", "3dd6ab2ab7356ee9"}
	wantIDs(t, s, "at first", want)
	spool := filepath.Join(s.dir, "mail/alice")
	mail, err := os.ReadFile(spool)
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, "mail/alice", string(mail)+from+"Date:\ttab\nSubject: n3\n\nbody 3\n\n")
	want = append(want, want[0]+"-2") // the hash of the same Date
	wantIDs(t, s, "with a message of the same hash", want)
	s.stop(t)
	s.killed = true // its end has been seen
	s = newServer(s.dir)
	s.serveMigrated(t, strings.Replace(here.Replace(maildrops), ", uidl: popa3d", "", 1))
	wantIDs(t, s, "after a restart, without the scheme", want)
}

// serveMigrated runs kpopd with a configuration of maildrops.
func (s *server) serveMigrated(t *testing.T, maildrops string) {
	t.Helper()
	s.write(t, "users", users)
	s.write(t, "kpopd.yaml", `
listeners: [{name: pop3, address: "127.0.0.1:0", policy: trusted}]
policies: [{name: trusted, offers: [USER], plain: trusted, trusted: [127.0.0.0/8], chain: all}]
chains: [{name: all, steps: [{use: local}]}]
verifiers: [{name: local, type: file, users: users}]
pop3: {hostname: localhost}
`+maildrops)
	bin, err := command()
	if err != nil {
		t.Fatal(err)
	}
	s.launch(t, bin, "serve", nil)
}

// glob is the files that fit a pattern, of which there must be some.
func glob(t *testing.T, parts ...string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(parts...))
	if err != nil || len(found) == 0 {
		t.Fatalf("no %s: %v", filepath.Join(parts...), err)
	}
	return found
}

// What cannot be read lets nobody in with other ids; when it is mended, or the
// scheme is another after SIGHUP, the next login goes on.
func TestMigrationFromABrokenList(t *testing.T) {
	t.Parallel()
	s := newServer(t.TempDir())
	maildir := filepath.Join(s.dir, "mail/alice/Maildir")
	leave(t, filepath.Join(maildir, "cur/1709546400.M1P1.host:2,S"), "")
	leave(t, filepath.Join(maildir, "dovecot-uidlist"), "3 V1709546912 N9\nbroken\n")
	const maildrops = `maildrops: {root: mail, layout: "{user}/Maildir", uidl: dovecot}`
	s.serveMigrated(t, maildrops)
	var refused *pop3client.ServerError
	if _, err := uidl(t, s); !errors.As(err, &refused) || refused.Code != "SYS/PERM" {
		t.Errorf("a broken list: %v", err)
	}
	s.line(t, "dovecot-uidlist line 2: does not begin with a uid and a blank")
	leave(t, filepath.Join(maildir, "dovecot-uidlist"), "3 V1709546912 N9\n3 :1709546400.M1P1.host\n")
	wantIDs(t, s, "mended", []string{"0000000365e59da0"})

	s.write(t, "mail/alice/Maildir/new/2709546400.M9P1.host", "Subject: new\n\nbody\n")
	s.write(t, "mail/alice/Maildir/kpopd-uidl", "2709546400.M9P1.host ours\n1709546400.M1P1.host late\n")
	config, err := os.ReadFile(filepath.Join(s.dir, "kpopd.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, "kpopd.yaml", strings.Replace(string(config), "uidl: dovecot", "uidl: list", 1))
	s.reload(t)
	wantIDs(t, s, "with another scheme", []string{"0000000365e59da0", "ours"})
}

// leave makes a file as the old server left it; a message when it has no text.
func leave(t *testing.T, path, text string) {
	t.Helper()
	if text == "" {
		text = "Subject: " + filepath.Base(path) + "\n\nbody\n"
	}
	dirs := []string{filepath.Dir(path)}
	if maildir, sub := filepath.Split(dirs[0]); sub == "new" || sub == "cur" {
		dirs = []string{maildir + "tmp", maildir + "new", maildir + "cur"}
	}
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	when := time.Unix(1709546400, 0) // one second: only names tell the order
	if err := os.Chtimes(path, when, when); err != nil {
		t.Fatal(err)
	}
}

func wantIDs(t *testing.T, s *server, when string, want []string) {
	t.Helper()
	if got, err := uidl(t, s); err != nil || !slices.Equal(got, want) {
		t.Errorf("%s: %q, %v, want %q", when, got, err, want)
	}
}

// uidl is what alice's messages are named, in their order.
func uidl(t *testing.T, s *server) (ids []string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := net.Dial("tcp", s.door("pop3"))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	c, err := pop3client.New(ctx, conn, nil)
	if err != nil {
		return nil, err
	}
	if err = c.UserPass(ctx, "alice", "pw-alice"); err != nil {
		return nil, err
	}
	listed, err := c.UIDL(ctx)
	for _, id := range listed {
		ids = append(ids, id.UID)
	}
	return ids, errors.Join(err, c.Quit(ctx))
}
