package peers

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kpopd/kpopd/krb5test"
)

var mitOnce = sync.OnceValues(func() (*realm, error) { return startMIT(filepath.Join(scratch, "mit")) })

// mit is MIT's KDC, one for all tests.
func mit(t *testing.T) *realm {
	t.Helper()
	krb5test.Need(t, "krb5kdc", "kdb5_util", "kadmin.local")
	r, err := mitOnce()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

const mitConf = `[libdefaults]
	default_realm = EXAMPLE.TEST
	dns_lookup_kdc = false
	dns_lookup_realm = false
	dns_canonicalize_hostname = false
	rdns = false
	qualify_shortname = ""
	udp_preference_limit = 1
	allow_rc4 = true
	permitted_enctypes = aes256-sha2 aes128-sha2 aes256-sha1 aes128-sha1 rc4
[realms]
	EXAMPLE.TEST = {
		kdc = ADDR
	}
	OTHER.TEST = {
		kdc = ADDR
	}
[domain_realm]
	localhost = EXAMPLE.TEST
`

const mitKDCConf = `[kdcdefaults]
	kdc_listen = ADDR
	kdc_tcp_listen = ADDR
[realms]
	EXAMPLE.TEST = {
		database_name = DIR/EXAMPLE.TEST
		key_stash_file = DIR/EXAMPLE.TEST.stash
		supported_enctypes = aes256-sha1:normal aes128-sha1:normal
		default_principal_flags = +preauth
	}
	OTHER.TEST = {
		database_name = DIR/OTHER.TEST
		key_stash_file = DIR/OTHER.TEST.stash
		supported_enctypes = aes256-sha1:normal
		default_principal_flags = +preauth
	}
[logging]
	kdc = STDERR
	admin_server = STDERR
	default = STDERR
`

// startMIT makes the databases of both realms and starts a KDC that serves
// both, as whatever user we are.
func startMIT(dir string) (*realm, error) {
	r := &realm{conf: filepath.Join(dir, "krb5.conf"), keytab: filepath.Join(dir, "keytab")}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	addr, err := freeAddress()
	if err != nil {
		return nil, err
	}
	fill := strings.NewReplacer("ADDR", addr, "DIR", dir)
	err = errors.Join(
		os.WriteFile(r.conf, []byte(fill.Replace(mitConf)), 0o600),
		os.WriteFile(filepath.Join(dir, "kdc.conf"), []byte(fill.Replace(mitKDCConf)), 0o600))
	if err != nil {
		return nil, err
	}
	env := []string{"KRB5_CONFIG=" + r.conf, "KRB5_KDC_PROFILE=" + filepath.Join(dir, "kdc.conf"), "KRB5RCACHEDIR=" + dir, "PATH=" + os.Getenv("PATH"), "HOME=" + dir}
	admin := func(realm string, commands ...string) error {
		return tool(env, strings.Join(commands, "\n")+"\n", "kadmin.local", "-r", realm)
	}
	r.rotate = func(service, keytab string) error {
		return admin("EXAMPLE.TEST", "ktadd -k "+keytab+" "+service) // without the old keys
	}
	const trust = "addprinc -pw trust krbtgt/EXAMPLE.TEST@OTHER.TEST" // OTHER.TEST's users may come to EXAMPLE.TEST
	err = errors.Join(
		tool(env, "", "kdb5_util", "-r", "EXAMPLE.TEST", "create", "-s", "-P", "master"),
		tool(env, "", "kdb5_util", "-r", "OTHER.TEST", "create", "-s", "-P", "master"))
	if err != nil {
		return nil, err
	}
	err = errors.Join(
		admin("EXAMPLE.TEST",
			"addprinc -pw pw-alice alice",
			"addprinc -randkey -e aes256-sha1:normal,aes128-sha1:normal,aes256-sha2:normal,aes128-sha2:normal pop/localhost",
			`setstr pop/localhost session_enctypes "aes256-sha2 aes128-sha2 aes256-sha1 aes128-sha1"`,
			"addprinc -randkey pop3/localhost",
			"addprinc -randkey host/localhost",
			"addprinc -randkey pop/rotated",
			"addprinc -randkey -e rc4-hmac:normal pop/rc4",
			"ktadd -k "+r.keytab+" -norandkey pop/localhost pop3/localhost host/localhost pop/rc4",
			trust),
		admin("OTHER.TEST", "addprinc -pw pw-alice alice", trust))
	if err != nil {
		return nil, err
	}
	stop, err := startKDC(env)
	if err != nil {
		return nil, err
	}
	atEnd(stop)
	return r, nil
}

// startKDC returns when the KDC answers.
func startKDC(env []string) (stop func(), err error) {
	cmd := group(context.Background(), "krb5kdc", "-n", "-r", "EXAMPLE.TEST", "-r", "OTHER.TEST")
	cmd.Env = env
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop = func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // it may have ended by itself
		_ = cmd.Wait()
	}
	ready := make(chan bool, 1)
	go func() { // ended by the KDC's end
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			if strings.Contains(lines.Text(), "commencing operation") {
				ready <- true
			}
		}
		ready <- false
	}()
	select {
	case ok := <-ready:
		if ok {
			return stop, nil
		}
	case <-time.After(patience):
	}
	stop()
	return nil, errors.New("MIT's KDC does not start")
}

// tool runs a program of the KDC that must work.
func tool(env []string, stdin string, argv ...string) error {
	cmd := group(context.Background(), argv...)
	cmd.Env, cmd.Stdin = env, strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err == nil && bytes.Contains(out, []byte(" while ")) {
		err = errors.New("refused") // kadmin.local ends with 0 all the same
	}
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", argv[0], err, out)
	}
	return nil
}

// freeAddress is an address of the loopback that is free for TCP and UDP. The
// KDC cannot be told to choose.
func freeAddress() (string, error) {
	for range 100 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", err
		}
		addr := l.Addr().String()
		u, err := net.ListenPacket("udp", addr)
		l.Close()
		if err == nil {
			u.Close()
			return addr, nil
		}
	}
	return "", errors.New("no port is free")
}
