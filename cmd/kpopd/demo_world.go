package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/file"
	"github.com/kpopd/kpopd/authn/krb5"
	"github.com/kpopd/kpopd/authn/scram"
	"github.com/kpopd/kpopd/cmd/internal/app"
	"github.com/kpopd/kpopd/cmd/internal/certs"
	"github.com/kpopd/kpopd/krb5test"
	"github.com/kpopd/kpopd/maildrop/maildir"
)

const (
	demoRealm   = "DEMO.TEST"
	demoHost    = "localhost" // in the certificate and in the service principal
	demoService = "pop/" + demoHost
)

// world is all that the demonstration consists of, as the ready file tells it.
type world struct {
	Dir           string    `json:"dir"`
	Configuration string    `json:"configuration"`
	Log           string    `json:"log"`
	Addresses     addresses `json:"addresses"`
	Realm         string    `json:"realm"`
	Service       string    `json:"service"`
	Krb5Conf      string    `json:"krb5_conf"`
	Keytab        string    `json:"keytab"`
	CA            string    `json:"ca"`
	Services      string    `json:"services"` // an /etc/services that knows kpop
	Users         []user    `json:"users"`

	hosts  []string // that clients may call the server by: demoHost first
	kdc    *krb5test.KDC
	ca     *certs.Authority
	stored map[string][]byte // messages by unique-id, the same for every user
}

// addresses are host and port of each door.
type addresses struct {
	POP3  string `json:"pop3"`
	POP3S string `json:"pop3s"`
	KPOP  string `json:"kpop"`
	KDC   string `json:"kdc"`
}

// user has a password, or a secret for APOP and CRAM-MD5: RFC 1939 section 7
// wants one of the two. All have a principal, whose password is Kerberos.
type user struct {
	Name      string `json:"name"`
	Password  string `json:"password,omitempty"` // for PLAIN, LOGIN, USER
	Secret    string `json:"secret,omitempty"`   // for APOP, CRAM-MD5
	Principal string `json:"principal"`
	Kerberos  string `json:"kerberos_password"`
	Maildir   string `json:"maildir"`
}

func demoUsers() []user {
	return []user{
		{Name: "alice", Password: "white-rabbit", Kerberos: "looking-glass"},
		{Name: "bob", Secret: "yellow-brick", Kerberos: "ruby-slippers"},
		{Name: "carol", Kerberos: "silver-bells"},
	}
}

// build makes the world in an empty folder and starts its KDC. Where the server
// listens, and what depends on it, is made by serve.
func build(dir string, a addresses) (*world, error) {
	w := &world{Dir: dir, Addresses: a, Realm: demoRealm, Service: demoService, Users: demoUsers(), stored: map[string][]byte{}}
	w.Configuration, w.Log = w.path("kpopd.yaml"), w.path("kpopd.log")
	var err error
	if w.hosts, err = a.hosts(); err != nil {
		return nil, err
	}
	w.Krb5Conf, w.Keytab, w.CA, w.Services = w.path("krb5.conf"), w.path("keytab"), w.path("ca.pem"), w.path("services")
	for i := range w.Users {
		u := &w.Users[i]
		u.Principal, u.Maildir = u.Name+"@"+demoRealm, w.path("mail", u.Name)
	}
	for _, step := range []func() error{
		w.makeCertificates, w.makeUsers, w.makeMail, w.startKDC,
	} {
		if err := step(); err != nil {
			w.close()
			return nil, err
		}
	}
	return w, nil
}

func (w *world) close() {
	if w.kdc != nil {
		w.kdc.Close()
	}
}

func (w *world) path(elem ...string) string {
	return filepath.Join(append([]string{w.Dir}, elem...)...)
}

func (w *world) write(path string, text []byte) error {
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return fmt.Errorf("write demo file: %w", err)
	}
	return nil
}

// serve starts the server. A port that was found free may be another program's
// a moment later: then others are looked for.
func (w *world) serve(ctx context.Context, log io.Writer) (*app.Server, error) {
	wanted := w.Addresses
	for left := 10; ; left-- {
		w.Addresses = wanted
		if err := w.findPorts(); err != nil {
			return nil, err
		}
		if err := errors.Join(w.makeConfiguration(), w.makeClients()); err != nil {
			return nil, err
		}
		s, err := app.Start(ctx, w.Configuration, log)
		if err == nil || left == 0 || !errors.Is(err, syscall.EADDRINUSE) {
			return s, err
		}
	}
}

// findPorts tries the addresses that were given and chooses the others. The
// sockets are open together, so that no two are the same.
func (w *world) findPorts() error {
	for _, door := range []struct {
		flag    string
		address *string
	}{{"pop3", &w.Addresses.POP3}, {"pop3s", &w.Addresses.POP3S}, {"kpop", &w.Addresses.KPOP}} {
		l, err := net.Listen("tcp", cmp.Or(*door.address, "127.0.0.1:0"))
		if err != nil {
			return fmt.Errorf("--%s: %w", door.flag, err)
		}
		defer l.Close()
		*door.address = l.Addr().String()
	}
	return nil
}

// hosts are what stands in the certificate and in service principals: localhost,
// and the addresses that it is not.
func (a addresses) hosts() ([]string, error) {
	all := []string{demoHost}
	for _, door := range []struct{ flag, address string }{{"pop3", a.POP3}, {"pop3s", a.POP3S}, {"kpop", a.KPOP}} {
		if door.address == "" {
			continue
		}
		at, err := net.ResolveTCPAddr("tcp", door.address)
		if err != nil {
			return nil, fmt.Errorf("--%s: %w", door.flag, err)
		}
		if h := hostOf(at.String()); !slices.Contains(all, h) {
			all = append(all, h)
		}
	}
	return all, nil
}

// hostOf is what a client on this machine calls the host of an address that a
// listener is bound to.
func hostOf(address string) string {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return demoHost // ":110", which is every address there is
	}
	switch ip := at.Addr().Unmap(); {
	case ip.IsUnspecified(), ip == netip.AddrFrom4([4]byte{127, 0, 0, 1}), ip == netip.IPv6Loopback():
		return demoHost
	default:
		return ip.String()
	}
}

// placeOf is hostOf with the port.
func placeOf(address string) string { return net.JoinHostPort(hostOf(address), portOf(address)) }

func portOf(address string) string { return address[strings.LastIndexByte(address, ':')+1:] }

func (w *world) makeCertificates() (err error) {
	if w.ca, err = certs.NewAuthority("kpopd demo CA"); err != nil {
		return err
	}
	cert, key, err := w.ca.Issue(append(slices.Clone(w.hosts), "127.0.0.1", "::1")...)
	if err != nil {
		return err
	}
	return errors.Join(w.write(w.CA, w.ca.PEM()), w.write(w.path("server.crt"), cert), w.write(w.path("server.key"), key))
}

func (w *world) makeUsers() error {
	if err := errors.Join(file.MakeKeyFile(w.path("digests.key")), file.MakeKeyFile(w.path("salt.key"))); err != nil {
		return err
	}
	var lines []byte
	for _, u := range w.Users {
		hash := "*" // no password
		if u.Password != "" {
			var err error
			if hash, err = file.MakeHash(file.Schemes()[0], authn.Password(u.Password)); err != nil {
				return err
			}
			if err := w.makeKeys(u.Name, authn.Password(u.Password)); err != nil {
				return err
			}
		}
		lines = fmt.Appendf(lines, "%s:%s\n", u.Name, hash)
		if u.Secret == "" {
			continue
		}
		for _, scheme := range file.SecretSchemes() {
			if err := file.SetSecret(w.path("digests"), w.path("digests.key"), u.Name, scheme, authn.Password(u.Secret)); err != nil {
				return err
			}
		}
	}
	return w.write(w.path("users"), lines)
}

func (w *world) makeKeys(login string, password authn.Password) error {
	for _, scheme := range scram.Schemes() {
		keys, err := scram.Make(scheme, password, scram.DefaultIterations)
		if err != nil {
			return err
		}
		if err := file.SetSecret(w.path("digests"), w.path("digests.key"), login, scheme, keys.Text()); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) makeMail() error {
	if err := os.Mkdir(w.path("mail"), 0o700); err != nil {
		return fmt.Errorf("make mail root: %w", err)
	}
	for _, u := range w.Users {
		if err := maildir.Make(u.Maildir); err != nil {
			return err
		}
		for _, text := range demoMail() {
			uid, err := maildir.Deliver(u.Maildir, bytes.NewReader(text))
			if err != nil {
				return err
			}
			w.stored[uid] = text
		}
	}
	return nil
}

func (w *world) startKDC() error {
	w.kdc = krb5test.NewKDC(demoRealm)
	for _, u := range w.Users {
		w.kdc.AddUser(u.Name, u.Kerberos)
	}
	var services []string
	for _, h := range w.hosts {
		services = append(services, "pop/"+h)
		w.kdc.AddService("pop/" + h)
	}
	if err := w.kdc.Listen(cmp.Or(w.Addresses.KDC, "127.0.0.1:0")); err != nil {
		return fmt.Errorf("--kdc: %w", err)
	}
	w.Addresses.KDC = w.kdc.Addr()
	return w.kdc.WriteKeytab(w.Keytab, services...)
}

// kerberos is a client that has logged in at the KDC, as after kinit.
func (w *world) kerberos(name string) (*krb5.Client, error) {
	return krb5.NewClient(w.kdc.Krb5Conf(), name, demoRealm, authn.Password(w.user(name).Kerberos))
}

func (w *world) makeConfiguration() error {
	text := fmt.Sprintf(`# What kpopd demo runs on. It works as it is with: kpopd serve -c %s
listeners:
  - {name: pop3, address: %q, tls: starttls, policy: internet}
  - {name: pop3s, address: %q, tls: implicit, policy: internet}
  - {name: kpop, address: %q, protocol: kpop, tls: starttls, policy: campus}
certificates:
  - {name: localhost, cert: server.crt, key: server.key}
policies:
  - {name: internet, offers: [GSSAPI, SCRAM-SHA-256-PLUS, SCRAM-SHA-256, SCRAM-SHA-1-PLUS, SCRAM-SHA-1, CRAM-MD5, APOP, PLAIN, LOGIN, USER], plain: tls, chain: all}
  - {name: campus, offers: [KPOP], chain: all}
chains:
  - name: all
    steps:
      - {use: local}
      - {use: tickets}
verifiers:
  - {name: local, type: file, users: users, digests: digests, digests_key: digests.key}
  - {name: tickets, type: principal, local_realms: [%s]}
kerberos: {keytab: keytab, replay_cache: replay}
scram: {salt_key: salt.key}
pop3: {hostname: localhost}
maildrops: {root: mail}
`, quoted(w.Configuration), w.Addresses.POP3, w.Addresses.POP3S, w.Addresses.KPOP, demoRealm)
	return w.write(w.Configuration, []byte(text))
}

// makeClients writes what clients need: krb5.conf, names of ports, fetchmail's
// settings.
func (w *world) makeClients() error {
	known, err := os.ReadFile("/etc/services")
	if err != nil {
		known = nil // a system that has none
	}
	rc := fmt.Sprintf(`# KPOP: the port is that of the service name kpop, the ticket is the login.
poll %s protocol kpop auth kerberos_v5 no dns user "alice" sslproto "TLS1.2+" sslcertck sslcertfile %q sslcommonname %q keep fetchall mda %q
`, hostOf(w.Addresses.KPOP), w.CA, demoHost, "cat >>"+quoted(w.path("fetched")))
	return errors.Join(
		w.write(w.Krb5Conf, []byte(w.kdc.Krb5Conf())),
		w.write(w.Services, fmt.Appendf(known, "\nkpop\t%s/tcp\n", portOf(w.Addresses.KPOP))),
		w.write(w.path("fetchmailrc"), []byte(rc)),
	)
}

// writeReady tells a program that waits for the file where everything is. It
// appears whole.
func (w *world) writeReady(path string) error {
	text, err := json.MarshalIndent(w, "", "  ")
	if err != nil {
		return fmt.Errorf("ready file: %w", err)
	}
	part := path + ".part"
	err = os.WriteFile(part, append(text, '\n'), 0o600)
	if err == nil {
		err = os.Rename(part, path)
	}
	if err != nil {
		return fmt.Errorf("ready file: %w", err)
	}
	return nil
}
