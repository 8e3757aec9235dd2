package uidl

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/big"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"github.com/kpopd/kpopd/krb5test"
)

// The servers below run on a maildrop, and what they answer to UIDL is compared
// with what this package makes of the same maildrop afterwards. -update keeps
// both in testdata.
var update = flag.Bool("update", false, "write what the real servers answer to testdata")

// patience is for what takes a moment: starting, answering.
const patience = 2 * time.Minute

// program finds a server's program. Debian's packages of POP3 servers exclude
// one another: those that are not installed lie unpacked in KPOPD_PEER_ROOT.
// What is installed comes first: Courier has a pop3d, and so has mailutils.
func program(t *testing.T, path, debian string) string {
	t.Helper()
	for _, root := range []string{"/", os.Getenv("KPOPD_PEER_ROOT")} {
		if root == "" {
			continue
		}
		if _, err := os.Stat(filepath.Join(root, path)); err == nil {
			return filepath.Join(root, path)
		}
	}
	krb5test.Missing(t, fmt.Sprintf("%s, which is not there (Debian package %s)", path, debian))
	return ""
}

// sharedDir is a temporary directory that other users may enter: servers that
// root starts change to a user of mail.
func sharedDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "uidl-")
	if err != nil {
		t.Fatal(err)
	}
	// not t.Context(), which has ended by then; a server that was killed may
	// still be writing
	t.Cleanup(func() { until(context.Background(), t, func() error { return os.RemoveAll(dir) }) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// owner is who mail belongs to: nobody when root runs the test.
func owner() (uid, gid int) {
	if os.Getuid() == 0 {
		return 65534, 65534
	}
	return os.Getuid(), os.Getgid()
}

// give makes everything in dir the owner's.
func give(t *testing.T, dir string, uid, gid int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, uid, gid))
	})
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var uidlLine = regexp.MustCompile(`(?m)^(\d+) (.*?)\r?$`)

// uidls is the ids in the answer to UIDL that a session holds.
func uidls(t *testing.T, session string) (ids []string) {
	t.Helper()
	for i, m := range uidlLine.FindAllStringSubmatch(session, -1) {
		if m[1] != strconv.Itoa(i+1) {
			t.Fatalf("message %s in place %d:\n%s", m[1], i+1, session)
		}
		ids = append(ids, m[2])
	}
	if len(ids) == 0 {
		t.Fatalf("no ids:\n%s", session)
	}
	return ids
}

// run talks POP3 to a program's standard input and output.
func run(t *testing.T, commands string, env []string, dir string, argv ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = dir, append([]string{"PATH=" + os.Getenv("PATH")}, env...)
	cmd.Stdin = strings.NewReader(commands)
	var said, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s%s", argv[0], err, &said, &stderr)
	}
	if strings.Contains(said.String(), "-ERR") {
		t.Fatalf("%s:\n%s%s", argv[0], &said, &stderr)
	}
	return said.String()
}

// record keeps a fixture for the test that has no servers.
func record(t *testing.T, name, comment, scheme string, ids []string, files ...txtar.File) {
	t.Helper()
	if !*update {
		return
	}
	a := &txtar.Archive{Comment: []byte(comment + "\n"), Files: append([]txtar.File{{Name: "scheme", Data: []byte(scheme + "\n")}}, files...)}
	a.Files = append(a.Files, txtar.File{Name: "uidl", Data: []byte(strings.Join(ids, "\n") + "\n")})
	if err := os.WriteFile(filepath.Join("testdata", name+".txtar"), txtar.Format(a), 0o644); err != nil {
		t.Fatal(err)
	}
}

func compare(t *testing.T, server, here []string) {
	t.Helper()
	if diff := gocmp.Diff(server, here); diff != "" {
		t.Errorf("-server +here\n%s", diff)
	}
}

// headers are what the hashes of headers differ in.
var headers = []string{
	"Return-Path: <b@example.test>\nDelivered-To: a@example.test\nReceived: from a (a [192.0.2.1])\n\tby b with ESMTP id 1;\n\tMon, 4 Mar 2024 10:00:00 +0000\nReceived: from c by a\nDate: Mon, 4 Mar 2024 09:58:00 +0000\nMessage-ID: <1@example.test>\n",
	"Date:\ttab\n", "Date:  two blanks\n", "Date:no blank\n", "Date : blank before\n", "Date: \t mixed\n", "Date: after \t\n",
	"Date:\n folded\n", "dAtE: case\nDate: again\n", "Date: a\n\tb\n  c\n",
	"Received: r1\n cont\nDate: after\nReceived: r2\n more\n",
	"Message-ID: <x>\n y\nX-Delivery-ID: q\nDelivered-To: me\n\tx\n", "X-Other: nothing\n", "Date\n", "Date x\nDate: ok\n",
	"X-UIDL: \nDate: \n", "Received:\n \n\tx\nMessage-Id: m\n", "Date: " + strings.Repeat("long ", 500) + "\n",
}

func mboxOf(headers []string) string {
	var b strings.Builder
	for i, h := range headers {
		fmt.Fprintf(&b, "From b@example.test Mon Mar  4 10:00:%02d 2024\n%sSubject: n%d\n\nbody %d\nDate: no\n\n", i, h, i, i)
	}
	return b.String()
}

// dovecot answers UIDL for a mail_location.
func dovecot(t *testing.T, location, format string, more ...string) []string {
	t.Helper()
	bin := program(t, "/usr/lib/dovecot/pop3", "dovecot-pop3d")
	dir := sharedDir(t)
	uid, gid := owner()
	give(t, dir, uid, gid)
	conf := filepath.Join(dir, "dovecot.conf")
	write(t, conf, fmt.Sprintf(`protocols = pop3
mail_location = %s
base_dir = %s
state_dir = %[2]s
log_path = /dev/stderr
ssl = no
first_valid_uid = 0
first_valid_gid = 0
mail_uid = %d
mail_gid = %d
mbox_write_locks = fcntl
pop3_uidl_format = %s
%s
`, location, dir, uid, gid, format, strings.Join(more, "\n")))
	return uidls(t, run(t, "UIDL\r\nQUIT\r\n", []string{"HOME=" + dir, "USER=alice"}, dir, bin, "-c", conf))
}

func makeMaildir(t *testing.T, dir string, names []string) {
	t.Helper()
	for _, sub := range []string{"tmp", "new", "cur"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for i, name := range names {
		write(t, filepath.Join(dir, "cur", name), fmt.Sprintf("Subject: n%d\n\nbody\n", i))
	}
}

// maildirSource is the source that a Maildir on disk is.
func maildirSource(dir string) Source {
	return Source{Open: func(name string) (io.ReadCloser, error) { return os.Open(filepath.Join(dir, name)) }}
}

var messageNames = []string{
	"1709546400.M1P1.host,S=18:2,", "1709546401.M2P1.host:2,S", "1709546402.M3P1.host,W=21:2,FS", "1709546403.V801I2M3.host:2,RS", "1709546404.a'b c:2,S",
}

func TestRule177RealDovecotMaildir(t *testing.T) {
	t.Parallel()
	for i, format := range []string{DovecotDefault, "%v.%u", "UID%u-%v", "%08Xv%08Xu", "%f", "%g", "%Mf", "%Xu.%Xv", "%05u%%"} {
		t.Run(strings.ReplaceAll(format, "%", ""), func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(sharedDir(t), "Maildir")
			makeMaildir(t, dir, messageNames)
			if i > 0 { // another server wrote a list before, with ids to be kept and an order
				write(t, filepath.Join(dir, UIDListFile), "3 V1709546912 N8 G3abdab3af5de056b7f1c000083ecc375\n"+
					"2 Pold-one W21 :"+baseOf(messageNames[1])+"\n5 G0123456789abcdef O9 :"+baseOf(messageNames[0])+"\n7 Pold.two O4 :"+baseOf(messageNames[2])+"\n")
			}
			uid, gid := owner()
			give(t, dir, uid, gid)
			server := dovecot(t, "maildir:"+dir, format)

			scheme := "dovecot:" + format
			rule := ruleFor(t, scheme, maildirSource(dir))
			list := read(t, filepath.Join(dir, UIDListFile))
			bases := orderOf(t, list)
			var here []string
			for _, base := range bases {
				here = append(here, rule(Message{Base: base}))
			}
			compare(t, server, here)
			if i < 2 {
				record(t, fmt.Sprintf("dovecot-maildir-%d", i), "Dovecot 2.3.19.1 (Debian 12) on a Maildir, pop3_uidl_format="+format, scheme, server,
					txtar.File{Name: UIDListFile, Data: list}, txtar.File{Name: "names", Data: []byte(strings.Join(bases, "\n") + "\n")})
			}
		})
	}
}

// orderOf is the base names in a list in the order of Dovecot's POP3: those with
// an order by that, then the others by uid.
func orderOf(t *testing.T, list []byte) []string {
	t.Helper()
	l, err := ParseUIDList(bytes.NewReader(list))
	if err != nil {
		t.Fatal(err)
	}
	var bases []string
	for base := range l.Entries {
		bases = append(bases, base)
	}
	slices.SortFunc(bases, func(a, b string) int {
		x, y := l.Entries[a], l.Entries[b]
		return cmp.Or(cmp.Compare(x.Order-1, y.Order-1), cmp.Compare(x.UID, y.UID)) // 0-1 is the largest
	})
	return bases
}

func TestRule177RealDovecotMbox(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, format, kept string }{
		{"md5", "%m", "dovecot-mbox-md5"}, {"guid", "%g", ""}, {"default", DovecotDefault, "dovecot-mbox"}, {"UW's", "%08Xv%08Xu", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := sharedDir(t)
			spool := filepath.Join(dir, "mbox")
			write(t, spool, mboxOf(headers))
			uid, gid := owner()
			give(t, dir, uid, gid)
			server := dovecot(t, "mbox:"+filepath.Join(dir, "mail")+":INBOX="+spool+":INDEX=MEMORY", tt.format)
			mbox := read(t, spool) // with what Dovecot wrote into it
			compare(t, server, namesOf(t, "dovecot:"+tt.format, splitMbox(mbox)))
			if tt.format == "%08Xv%08Xu" {
				compare(t, server, namesOf(t, "uw", splitMbox(mbox)))
			}
			if tt.kept != "" {
				record(t, tt.kept, "Dovecot 2.3.19.1 (Debian 12) on an mbox, pop3_uidl_format="+tt.format, "dovecot:"+tt.format, server, txtar.File{Name: "mbox", Data: mbox})
			}
		})
	}
}

func TestRule180RealDovecotRenames(t *testing.T) {
	t.Parallel()
	dir := sharedDir(t)
	spool := filepath.Join(dir, "mbox")
	write(t, spool, mboxOf([]string{"Date: same\n", "Date: other\n", "Date: same\n", "Date: same\n"}))
	uid, gid := owner()
	give(t, dir, uid, gid)
	server := dovecot(t, "mbox:"+filepath.Join(dir, "mail")+":INBOX="+spool+":INDEX=MEMORY", "%m", "pop3_uidl_duplicates = rename")
	a := NewAssigner(Suffix, nil)
	var here []string
	for i, id := range namesOf(t, "dovecot:%m", splitMbox(read(t, spool))) {
		here = append(here, a.Assign(id, fmt.Sprint("own", i)))
	}
	compare(t, server, here)
}

func TestRule177RealCourier(t *testing.T) {
	t.Parallel()
	bin := program(t, "/usr/lib/courier/courier/courierpop3d", "courier-pop")
	dir := t.TempDir()
	maildir := filepath.Join(dir, "Maildir")
	makeMaildir(t, maildir, messageNames)
	// an older list: one message from the time of file names, one of a list
	// without uidvalidity; the others are new to it
	write(t, filepath.Join(maildir, SizeListFile), "/2 9 1709546912\n"+messageNames[1]+" 21 0:0\n"+messageNames[4]+" 21 0:0\n"+messageNames[2]+" 21 8:0\n")
	server := uidls(t, run(t, "UIDL\r\nQUIT\r\n",
		[]string{"HOME=" + dir, "AUTHENTICATED=alice", "TCPREMOTEIP=127.0.0.1"}, dir, bin, maildir))
	list := read(t, filepath.Join(maildir, SizeListFile))
	if !bytes.HasPrefix(list, []byte("/3 ")) {
		t.Errorf("a list of another version: %q", list)
	}
	rule := ruleFor(t, "courier", maildirSource(maildir))
	var here []string
	for _, name := range messageNames { // in order of the time in their names, as Courier has them
		here = append(here, rule(Message{Base: baseOf(name)}))
	}
	compare(t, server, here)
	record(t, "courier", "Courier 1.0.16 (Debian 12) on a Maildir that had a list of version 2", "courier", server,
		txtar.File{Name: SizeListFile, Data: list}, txtar.File{Name: "names", Data: []byte(strings.Join(messageNames, "\n") + "\n")})
}

// popa3d serves users of the system: it is shown other ones, in a name space of
// its own.
const popa3dWorld = `set -e
mount --make-rprivate /
cat /etc/passwd "$1/passwd" >"$1/all"; mount --bind "$1/all" /etc/passwd
mount --bind "$1/shadow" /etc/shadow
mount --bind "$1/pam" /etc/pam.d/other
test ! -e /etc/pam.d/popa3d || mount --bind "$1/pam" /etc/pam.d/popa3d
mount --bind "$1/mail" /var/mail
mount -t tmpfs none /var/lib; mkdir -m 755 /var/lib/popa3d
exec "$2"`

func TestRule177RealPopa3d(t *testing.T) {
	t.Parallel()
	bin := program(t, "/usr/sbin/popa3d", "popa3d")
	krb5test.Need(t, "unshare", "mount", "openssl")
	if os.Getuid() != 0 {
		krb5test.Missing(t, "root: popa3d changes to the user and to one of its own")
	}
	if out, err := exec.Command("unshare", "-m", "mount", "--bind", "/etc/passwd", "/etc/passwd").CombinedOutput(); err != nil {
		t.Skipf("no mounts of its own for a process here: %v: %s", err, out)
	}
	hash, err := exec.Command("openssl", "passwd", "-5", "pw-popa3d").Output()
	if err != nil {
		t.Fatal(err)
	}
	dir := sharedDir(t)
	write(t, filepath.Join(dir, "passwd"), "popa3d:x:65001:65001::/var/lib/popa3d:/usr/sbin/nologin\nuidl-alice:x:65002:65002::/nonexistent:/usr/sbin/nologin\n")
	write(t, filepath.Join(dir, "all"), "")
	write(t, filepath.Join(dir, "shadow"), "uidl-alice:"+strings.TrimSpace(string(hash))+":19000::::::\n")
	write(t, filepath.Join(dir, "pam"), "auth required pam_unix.so\naccount required pam_unix.so\n")
	if err := os.Chmod(filepath.Join(dir, "all"), 0o644); err != nil {
		t.Fatal(err)
	}
	spool := filepath.Join(dir, "mail", "uidl-alice")
	write(t, spool, mboxOf(headers))
	if err := errors.Join(os.Chmod(filepath.Dir(spool), 0o1777), os.Chown(spool, 65002, 65002)); err != nil {
		t.Fatal(err)
	}
	server := uidls(t, run(t, "USER uidl-alice\r\nPASS pw-popa3d\r\nUIDL\r\nQUIT\r\n", nil, dir,
		"unshare", "-m", "sh", "-c", popa3dWorld, "sh", dir, bin))
	mbox := read(t, spool)
	compare(t, server, namesOf(t, "popa3d", splitMbox(mbox)))
	record(t, "popa3d", "popa3d 1.0.3 (Debian 12) on an mbox", "popa3d", server, txtar.File{Name: "mbox", Data: mbox})
}

func TestRule177RealMailutils(t *testing.T) {
	t.Parallel()
	bin := program(t, "/usr/sbin/pop3d", "mailutils-pop3d")
	if version, _ := exec.Command(bin, "--version").Output(); !bytes.Contains(version, []byte("GNU")) { // Courier has one too
		krb5test.Missing(t, bin+" of GNU mailutils (Debian package mailutils-pop3d)")
	}
	krb5test.Need(t, "openssl")
	dir := sharedDir(t)
	hash, err := exec.Command("openssl", "passwd", "-1", "pw-mailutils").Output()
	if err != nil {
		t.Fatal(err)
	}
	uid, gid := owner()
	write(t, filepath.Join(dir, "domains", "example.test"), fmt.Sprintf("alice:%s:%d:%d::%s:/bin/sh\n", strings.TrimSpace(string(hash)), uid, gid, dir))
	certify(t, dir)
	write(t, filepath.Join(dir, "conf"), fmt.Sprintf(`logging { syslog no; };
auth { authentication generic:virtdomain; authorization virtdomain; };
virtdomain { passwd-dir %s/domains; };
tls { ssl-certificate-file %[1]s/cert.pem; ssl-key-file %[1]s/key.pem; };
`, dir))
	spool := filepath.Join(dir, "INBOX")
	write(t, spool, mboxOf(headers[:12]))
	give(t, spool, uid, gid)
	if err := os.Chown(dir, uid, gid); err != nil {
		t.Fatal(err)
	}
	server := uidls(t, converse(t, exec.CommandContext(t.Context(), bin, "-i", "--config-file="+filepath.Join(dir, "conf")),
		"USER alice@example.test\r\nPASS pw-mailutils\r\nUIDL\r\nQUIT\r\n"))
	mbox := read(t, spool)
	compare(t, server, namesOf(t, "x-uidl", splitMbox(mbox)))
	record(t, "mailutils", "GNU mailutils 3.15 (Debian 12) on an mbox, after its first session, which writes X-UIDL", "x-uidl", server, txtar.File{Name: "mbox", Data: mbox})
}

// certify makes a key and a certificate, without which mailutils' server does
// not start.
func certify(t *testing.T, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "cert.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})))
	write(t, filepath.Join(dir, "key.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
}

// converse is run for a server that wants a socket as its standard input.
func converse(t *testing.T, cmd *exec.Cmd, commands string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	socket, err := accepted.(*net.TCPConn).File()
	if err = errors.Join(err, accepted.Close()); err != nil {
		t.Fatal(err)
	}
	cmd.Stdin, cmd.Stdout = socket, socket
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err = cmd.Start()
	if err = errors.Join(err, socket.Close()); err != nil {
		t.Fatal(err)
	}
	client.SetDeadline(time.Now().Add(patience))
	_, err = io.WriteString(client, commands)
	said, readErr := io.ReadAll(client)
	if err = errors.Join(err, readErr, cmd.Wait()); err != nil {
		t.Fatalf("%v\n%s%s", err, said, &stderr)
	}
	return string(said)
}

var cyrusRuns atomic.Int64

// cyrusSpool runs Cyrus with a maildrop of n messages. It returns the directory
// of their files and a function that asks for their ids under a uidl_format.
func cyrusSpool(t *testing.T, n int) (files string, ask func(format string) []string) {
	t.Helper()
	pop3d := program(t, "/usr/lib/cyrus/bin/pop3d", "cyrus-pop3d")
	master := program(t, "/usr/lib/cyrus/bin/master", "cyrus-common")
	deliver := program(t, "/usr/lib/cyrus/bin/deliver", "cyrus-common")
	if os.Getuid() != 0 {
		krb5test.Missing(t, "root: Cyrus changes to a user of its own")
	}
	who, err := user.Lookup("cyrus")
	if err != nil {
		krb5test.Missing(t, "the user cyrus (Debian package cyrus-common)")
	}
	uid, _ := strconv.Atoi(who.Uid)
	gid, _ := strconv.Atoi(who.Gid)
	dir := sharedDir(t)
	for _, sub := range []string{"conf", "spool", "run"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	const common = `configdirectory: DIR/conf
partition-default: DIR/spool
defaultpartition: default
sasl_pwcheck_method: alwaystrue
sasl_mech_list: PLAIN
allowplaintext: yes
proc_path: DIR/run/proc
mboxname_lockpath: DIR/run/lock
lmtpsocket: DIR/run/lmtp
idlesocket: DIR/run/idle
notifysocket: DIR/run/notify
autocreate_quota: 0
autocreate_post: yes
`
	// Its pop3d serves TCP alone, at an address that it is told: one of loopback
	// that no other process has, at ports that are not given out, and others each
	// time, as those of a server that was killed may be taken for a moment.
	port := 11000 + 4*int(cyrusRuns.Add(1)%1000)
	host := fmt.Sprintf("127.%d.%d.%d", 1+os.Getpid()>>16&63, os.Getpid()>>8&255, os.Getpid()&255)
	ports := map[string]int{"cyrus": port, "dovecot": port + 1, "courier": port + 2, "uidonly": port + 3}
	services := ""
	for f, port := range ports {
		write(t, filepath.Join(dir, "uidl-"+f+".conf"), strings.ReplaceAll(common, "DIR", dir)+"uidl_format: "+f+"\n")
		services += fmt.Sprintf(" pop3%s cmd=\"%s -C %s/uidl-%[1]s.conf\" listen=\"%[4]s:%[5]d\" prefork=0\n", f, pop3d, dir, host, port)
	}
	conf := filepath.Join(dir, "master.conf")
	write(t, conf, "START {\n}\nSERVICES {\n"+services+" lmtpunix cmd=\"lmtpd -C "+dir+"/imapd.conf -a\" listen=\""+dir+"/run/lmtp\" prefork=0\n}\nEVENTS {\n}\n")
	write(t, filepath.Join(dir, "imapd.conf"), strings.ReplaceAll(common, "DIR", dir))
	give(t, dir, uid, gid)

	cmd := exec.Command(master, "-C", filepath.Join(dir, "imapd.conf"), "-M", conf, "-p", filepath.Join(dir, "pid"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // its children go with it
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	err = cmd.Start()
	if err = errors.Join(err, log.Close()); err != nil {
		t.Fatal(err)
	}
	said := func() []byte { return read(t, filepath.Join(dir, "log")) }
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // its own group
		_ = cmd.Wait()                                      // it was killed
	})
	dial := func(network, address string) net.Conn {
		var c net.Conn
		until(t.Context(), t, func() (err error) { c, err = net.Dial(network, address); return err })
		return c
	}
	dial("unix", filepath.Join(dir, "run/lmtp")).Close()
	for i := range n {
		d := exec.CommandContext(t.Context(), deliver, "-C", filepath.Join(dir, "imapd.conf"), "alice")
		d.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
		d.Stdin = strings.NewReader(fmt.Sprintf("Subject: n%d\r\nMessage-ID: <%[1]d@example.test>\r\n\r\nbody\r\n", i))
		if out, err := d.CombinedOutput(); err != nil {
			t.Fatalf("deliver: %v %s%s", err, out, said())
		}
	}
	indexes, err := filepath.Glob(filepath.Join(dir, "spool/uuid/*/*/*/1."))
	if err != nil || len(indexes) != 1 {
		t.Fatal("no message of Cyrus:", indexes, err)
	}
	return filepath.Dir(indexes[0]), func(format string) []string {
		t.Helper()
		c := dial("tcp", net.JoinHostPort(host, strconv.Itoa(ports[format])))
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		_, err := io.WriteString(c, "USER alice\r\nPASS pw-cyrus\r\nUIDL\r\nQUIT\r\n")
		answer, readErr := io.ReadAll(c)
		if err = errors.Join(err, readErr); err != nil {
			t.Fatalf("%v: %s%s", err, answer, said())
		}
		return uidls(t, string(answer))
	}
}

// until does what may have to wait for a program that starts.
func until(ctx context.Context, t *testing.T, do func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := do()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal(err)
		}
	}
}

// The ways of Cyrus are templates. Its uids are the names of its files, its
// uidvalidity is in each id that it gives.
func TestRule177RealCyrus(t *testing.T) {
	t.Parallel()
	dir, ask := cyrusSpool(t, 3)
	first, _, _ := strings.Cut(ask("cyrus")[0], ".")
	validity, err := strconv.ParseUint(first, 10, 32)
	if err != nil || validity == 0 || validity > math.MaxUint32 {
		t.Fatalf("uidvalidity %q", first)
	}
	for format, template := range map[string]string{"cyrus": "%v.%u", "dovecot": "%08Xu%08Xv", "courier": "%v-%u", "uidonly": "%u"} {
		tmpl, err := ParseTemplate(template)
		if err != nil {
			t.Fatal(err)
		}
		var here []string
		for _, uid := range filesOfCyrus(t, dir) {
			here = append(here, tmpl.ID(Values{UID: uid, UIDValidity: uint32(validity)}))
		}
		compare(t, ask(format), here)
	}
}

// filesOfCyrus is the uids that the messages in a directory have for names.
func filesOfCyrus(t *testing.T, dir string) (uids []uint32) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if name, found := strings.CutSuffix(e.Name(), "."); found {
			uid, err := number(name)
			if err != nil {
				t.Fatal(err)
			}
			uids = append(uids, uid)
		}
	}
	slices.Sort(uids)
	return uids
}
